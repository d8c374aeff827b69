"""Books: HTML to text, what Project Gutenberg puts around its texts, and what is no prose.

Project Gutenberg writes a header and a licence around every book, and between 1991 and today in many forms. The rules
here know no line numbers (the counters of older cleaners cut into short books and miss long headers): they look at the
lines that name Project Gutenberg or its "small print", tell by the form of the line what begins or ends there, and
walk over those marks in order. The steps for one text:

1. **Marks.** `*** START OF ...`, the end of the small print: a body begins. `*** END OF ...` and its older, unstarred
   forms in several languages, the start of the small print: a body ends, if a licence, another book or the end of the
   file is near; a sentence in the middle of a book that looks alike takes its own line only.
2. **No mark at the front**: leading paragraphs of the licence and the catalogue are cut, where the text begins as
   Project Gutenberg's texts do.
3. **Credits** ("Produced by ...") in the first paragraphs, and **transcribers' notes**: in brackets anywhere, headed
   ones near the front or the back.

Everything else stays as it is: line breaks, hyphens at their ends, `[Illustration]`, footnotes. LLaMA's paper says
nothing of them (arXiv 2302.13971, section 2.1). All steps are linear in the text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from curate.filters.extract import too_much
from curate.kernels.arrow import buffers
from curate.stage import Outcome, stage

DIVIDER = "\f"  # between the files of one HTML book
HTML_TYPE = '"type": "text/html"'  # in the `meta` of a book whose text is HTML
# Not part of a book's text: numbers of printed pages, what transcribers add. Class names of Gutenberg's own pages.
SKIPPED = (
    ".pagenum", ".pageno", ".pagenumber", ".page-number", ".pagebreak", ".pgnum",
    ".transnote", ".transnotes", ".tnote", ".tnotes", ".tn", ".TN", ".trans-note", ".covernote", "#transnote", "#tnote",
)  # fmt: skip

INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\ufeff]")  # what entities like &shy; and &#12; become

NEEDLES = ("utenberg", "UTENBERG", "SMALL PRINT")
MAX_MARKS = 300  # that are looked at from either end of a text
MAX_OPEN = 100  # brackets that do not close, in a text
LINE = 400  # characters of a line that are looked at
HEADER = 60_000  # characters that a header, with small print and lists of donors, may have
FOOTER = 60_000  # ... and all that follows the last mark
LICENCE = 40_000  # characters in which a licence ends that begins
TINY = 600  # characters that are no book: what is between two marks that follow each other
FRONT, BACK = 32_000, 40_000  # characters at both ends in which headed notes are looked for
CREDITS = 4_000  # characters at the front in which credits are looked for
NOTE = 4_000  # characters of a note at the front, or of one in brackets
BACK_NOTE = 16_000  # ... and at the back, where lists of corrections are long
GAP = 3_000  # characters of other text between two paragraphs of a header without marks

E_TEXT = r"(?:e-?books?|e-?texts?)"
_STARS = r"[\s*_#<>|=~-]{0,40}"
STARTS = re.compile(rf"{_STARS}\*{_STARS}(?:start|begin(?:ning)?)\s+of\s+(?:the\s+|this\s+)?project\s+gutenberg", re.I)
ENDS = re.compile(
    rf"{_STARS}(?:this\s+is\s+)?(?:the\s+)?(?:end|ende|fin|fine|fim|final|einde|slut|koniec|loppu)\b[^\n]{{0,40}}?"
    r"\bpro[jy]e[ckg]?t\w{0,3}\s+gutenberg",
    re.I,
)
SMALL_STARTS = re.compile(rf"{_STARS}(?:start)?[\s*:]{{0,8}}(?:of\s+)?(?:the\s+)?small\s+print", re.I)
SMALL_ENDS = re.compile(rf"{_STARS}end[\s*:]{{0,8}}(?:of\s+)?(?:the\s+)?small\s+print", re.I)
LICENCES = re.compile(rf"{_STARS}(?:start:\s+)?(?:the\s+)?full\s+(?:project\s+gutenberg\s+)?licen[sc]e", re.I)
LICENCE_ABOVE = re.compile(r"^\**[ \t]*START: FULL LICENSE[ \t]*\**\s*\Z", re.M)
TOPS = re.compile(rf"{_STARS}(?:the\s+|this\s+)?(?:world\s+wide\s+)?project\s+gutenberg(?:['’]s|\s+{E_TEXT})", re.I)
TOP_OF_LINE = re.compile(rf"^{TOPS.pattern}", re.I | re.M)
LICENCE_ENDS = "hear about new eBooks."
COPYRIGHTED = re.compile(r"this\s+is\s+a\s+copyrighted\s+project\s+gutenberg", re.I)

BOILER = re.compile(
    rf"project\s+gutenberg|gutenberg\.(?:org|net)|\b{E_TEXT}\s+is\s+for\s+the\s+use\s+of\s+anyone|copyright\s+laws\s+are\s"
    rf"|plain\s+vanilla|{E_TEXT}s?\s+(?:are\s+)?(?:readable|prepared)\s+by|please\s+(?:take\s+a\s+look|do\s+not\s+remove)"
    rf"|this\s+header\s+should|(?:release|posting)\s+date:|last\s+updated:|\[{E_TEXT}\s*#\s*\d|character\s+set\s+encoding"
    rf"|file\s+should\s+be\s+named|corrected\s+editions|versions?\s+based\s+on\s+separate|public\s+domain\s+{E_TEXT}"
    r"|small\s+print|carnegie|michael\s+(?:s\.\s+)?hart|benedictine|^\s*(?:title|author|language|editor|translator):\s",
    re.I,
)  # fmt: skip
CREDIT = re.compile(
    rf"[\s\[(_*]{{0,40}}(?:this\s+)?(?:project\s+gutenberg\s+)?(?:{E_TEXT}\s+)?(?:edition\s+|file\s+|html\s+version\s+)?"
    r"(?:was\s+|has\s+been\s+)?(?:first\s+|originally\s+)?(?:produced|prepared|transcribed|scanned|digiti[sz]ed|typed|"
    r"proofed|proofread|created|donated|html\s+version|text\s+file\s+produced|updated\s+editions?)\s+(?:and\s+\w+\s+)?"
    r"(?:by|from|for|at|with)\b",
    re.I,
)
CREDIT_WORDS = re.compile(
    r"proofread|pgdp|distributed\s+proof|project\s+gutenberg|internet\s+archive|archive\.org|e-?text|e-?book|html|"
    r"images?\s+generously|volunteer|e-?mail|\w@\w|gallica|google\s+(?:books|print)|edition\s+by\b",
    re.I,
)
CREDIT_LENGTH = 800  # characters of thanks, whatever they begin with
FIRST_WORDS = re.compile(
    rf"\b(?:this|the|original)\s+(?:{E_TEXT}|electronic\s+(?:{E_TEXT}|book|text|edition|version))|project\s+gutenberg|pgdp|"
    r"distributed\s+proof|proofreading\s+(?:team|and)|html\s+(?:file|version|markup)",
    re.I,
)
PG_NOTE = re.compile(r"\s{0,40}note:\s+project\s+gutenberg\s|\s{0,40}images\s+of\s+the\s+original\s+pages\s+are", re.I)
NOTE_HEAD = re.compile(
    r"[\s+|*_=({<-]{0,60}(?:the\s+)?(?:original\s+|etext\s+|electronic\s+)?(?:"
    r"transcriber['’`]?s?['’`]?(?:\s+and\s+editor['’]s)?\s+(?:end)?notes?\b|transcription\s+notes?\b|notes?\s+(?:by|of|from)\s+"
    r"(?:the\s+)?transcriber|typographical\s+errors\s+(?:have\s+been\s+)?corrected\s+by\s+the|"
    r"(?:anmerkungen|hinweise)\s+(?:zur|der|des|für\s+die)\s+(?:transkription|transkriptor|bearbeit\w*)|"
    r"notes?\s+(?:de|sur|du|au)\s+(?:la\s+)?(?:transcript\w+|lecteur\s+de\s+ce\s+fichier)|"
    r"notas?\s+d(?:el?|a|o)\s+(?:la\s+)?trans?cri\w+|note?\s+del\s+trascri\w+|"
    r"opmerkingen\s+van\s+de\s+bewerker|uwagi\s+(?:do\s+wersji|transkryb\w+)|huomautu\w+\s+sähkö\w+)",
    re.I,
)
NOTE_WORDS = re.compile(
    r"typograph|spelling|hyphen|footnote|italic|correct|underscore|transcri|printer|original|punctuation|errors?\b|"
    r"illustration|bold|superscript|errata|=>|\bpage\s+\d|\bp\.\s*\d|changed\s+to|replaced|public\s+domain|unicode|"
    r"druckfehler|sperr|kursiv|fraktur|orthograph|ortogra|corrig",
    re.I,
)
BRACKETS = re.compile(
    r"\[(?:transcriber|transcription\s+note|tr\.?\s+note|tn:|note\s+d[ue]\s+transcript|nota\s+del?\s+transcript|"
    r"anm(?:erkung|\.)\s+(?:zur|der|des|d\.)\s+transkri)",
    re.I,
)
HEADING = re.compile(
    r"\s{0,60}(?:chapter|book|part|preface|contents|introduction|act|canto)\b|\s{0,60}[IVXLC]{1,7}\.?\s*$", re.I
)
RULE = re.compile(r"[\s*_=.·•~+|-]+")
PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")

FIELDS = {
    name: re.compile(rf"^[ \t]*{label}:[ \t]*([^\n]*(?:\n[ \t]+[^\s:][^\n:]*)*)", re.I | re.M)
    for name, label in {
        "title": "title",
        "author": "author",
        "translator": "translator",
        "language": "language",
        "release": "release date",
        "charset": "character set encoding",
    }.items()
}
NUMBER = re.compile(rf"\[\s*{E_TEXT}\s*#\s*(\d{{1,6}})\s*\]", re.I)
MONTH = re.compile(rf"^[ \t]*(\w{{3,9}},? +\d{{4}})\s+\[\s*{E_TEXT}\s*#", re.I | re.M)  # "April, 1993  [Etext #64]"
TOP_LINE = re.compile(
    rf"{_STARS}(?:the\s+)?project\s+gutenberg(?:['’]s\s+(?:{E_TEXT}\s+(?:of|,)\s+)?|\s+{E_TEXT}(?:\s+of|,)\s+)"
    r"([^\n]{1,200}?)(?:,?\s+by\s+([^\n]{1,120}?))?[\s*]*$",
    re.I | re.M,
)
LANGUAGES = {
    "afrikaans": "af", "arabic": "ar", "bulgarian": "bg", "catalan": "ca", "cebuano": "ceb", "chinese": "zh",
    "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "esperanto": "eo",
    "estonian": "et", "farsi": "fa", "finnish": "fi", "french": "fr", "frisian": "fy", "friulian": "fur",
    "galician": "gl", "german": "de", "greek": "el", "ancient greek": "grc", "hebrew": "he", "hungarian": "hu",
    "icelandic": "is", "interlingua": "ia", "irish": "ga", "gaelic": "gd", "italian": "it", "japanese": "ja",
    "korean": "ko", "latin": "la", "lithuanian": "lt", "maori": "mi", "norwegian": "no", "occitan": "oc",
    "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru", "sanskrit": "sa", "serbian": "sr",
    "slovak": "sk", "slovenian": "sl", "spanish": "es", "swedish": "sv", "tagalog": "tl", "telugu": "te",
    "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi", "welsh": "cy", "yiddish": "yi",
}  # fmt: skip
PUBLIC_DOMAIN = "public domain in the USA"

Span = tuple[int, int]


@stage(reads=("text", "title", "meta"), reasons=("dom_limit", "no_text"))
def book_text(table: pa.Table) -> Outcome:
    """Put plain text in the place of HTML in `text`, of documents whose `meta` says text/html; the others stay.

    All text of the page is kept, in its order: an extractor of articles, made for the web, drops chapters. Numbers of
    printed pages and transcribers' notes are left out where their elements say what they are (SKIPPED). Files of one
    book are divided by DIVIDER. Reasons: `dom_limit` (see `curate.filters.extract`), `no_text`.
    """
    rows = [i for i, meta in enumerate(table["meta"].to_pylist()) if HTML_TYPE in (meta or "")]
    if not rows:
        return Outcome()
    texts, titles = table["text"].to_pylist(), table["title"].to_pylist()
    reasons: list[str | None] = [None] * len(texts)
    values: list[str | None] = [None] * len(texts)
    for row in rows:
        values[row] = _too_much(texts[row]) or None
        texts[row], title = ("", "") if values[row] else _from_html(texts[row])
        titles[row] = titles[row] or title or None
        reasons[row] = "dom_limit" if values[row] else None if texts[row] else "no_text"
    columns = {"text": pa.array(texts, pa.large_string()), "title": pa.array(titles, pa.string())}
    return Outcome(columns, pa.array(reasons, pa.string()), pa.array(values, pa.string()))


def _too_much(page: str) -> str:
    """What there is too much of in one of the files of a book to parse it; empty where all is well."""
    parts = (np.frombuffer(part.encode(), np.uint8) for part in page.split(DIVIDER))
    return next(filter(None, map(too_much, parts)), "")


def _from_html(page: str) -> tuple[str, str]:
    """(text, title of the first file) of the files of one HTML book."""
    texts, title = [], ""
    for part in page.split(DIVIDER):
        tree = HTMLTree.parse(part)
        title = title or " ".join((tree.title or "").split())
        texts.append(
            extract_plain_text(
                tree, preserve_formatting=True, list_bullets=False, alt_texts=False, skip_elements=list(SKIPPED)
            )
        )
    texts = [INVISIBLE.sub("", text).strip() for text in texts]
    return "\n\n".join(t for t in texts if t), title


@dataclass
class Stripped:
    """A text without what is around it."""

    text: str
    header: str = ""  # what stood before the first mark
    is_gutenberg: bool = False
    is_copyrighted: bool = False
    mentions: int = 0  # lines of what is left that name Project Gutenberg


@stage(
    reads=("text", "title", "url", "lang", "date", "license", "meta"),
    writes=[pa.field("gutenberg_removed_ratio", pa.float32()), pa.field("gutenberg_mentions", pa.int32())],
    reasons=("copyright", "boilerplate", "no_text"),
)
def gutenberg(table: pa.Table, *, min_characters: int = 200, max_mentions: int = 20) -> Outcome:
    """Remove Project Gutenberg's header, licence, credits and transcribers' notes; take what the header says.

    Title, language, date of release, address and licence are filled in where they are null, author, translator and
    number go into `meta`. Works on every book: one that never was Project Gutenberg's loses nothing but headed
    transcribers' notes. `gutenberg_removed_ratio`: characters removed / characters; no threshold, since the licence is
    most of a short poem. `gutenberg_mentions`: lines left that name Project Gutenberg.

    Reasons: `copyright` (the header says that the author keeps it), `boilerplate` (more than `max_mentions` such lines
    are left: marks in a form that nobody knows), `no_text` (fewer than `min_characters` are left: audio books, lists).
    """
    rows = table.select(["title", "url", "lang", "date", "license", "meta"]).to_pylist()
    texts: list[str] = []
    ratios: list[float] = []
    mentions: list[int] = []
    reasons: list[str | None] = []
    values: list[str | None] = []
    for row, text in zip(rows, table["text"].to_pylist(), strict=True):
        found = strip(text)
        if found.is_gutenberg:
            _describe(row, found.header)
        texts.append(found.text)
        ratios.append((len(text) - len(found.text)) / max(1, len(text)))
        mentions.append(found.mentions)
        reason, value = _verdict(found, min_characters, max_mentions)
        reasons.append(reason)
        values.append(value)
    columns = (
        {name: pa.array([r[name] for r in rows], table.schema.field(name).type) for name in rows[0]} if rows else {}
    )
    columns["text"] = pa.array(texts, pa.large_string())
    columns["gutenberg_removed_ratio"] = pa.array(ratios, pa.float32())
    columns["gutenberg_mentions"] = pa.array(mentions, pa.int32())
    return Outcome(columns, pa.array(reasons, pa.string()), pa.array(values, pa.string()))


def _verdict(found: Stripped, min_characters: int, max_mentions: int) -> tuple[str | None, str | None]:
    if found.is_copyrighted:
        return "copyright", "its header says so"
    if found.mentions > max_mentions:
        return "boilerplate", f"{found.mentions} lines name Project Gutenberg"
    if len(found.text) < min_characters:
        return "no_text", f"{len(found.text)} characters"
    return None, None


def strip(text: str) -> Stripped:
    """The book in a text, and the header that stood before it."""
    marks, lines = _marks(text)
    ranges, header = _bodies(text, marks)
    is_gutenberg = bool(marks) or bool(TOPS.match(text[:LINE]))
    pieces = [piece for a, b, is_marked in ranges for piece in _body(text, a, b, is_marked, is_gutenberg)]
    kept = "".join(text[a:b] for a, b in pieces)
    at = [i for i in lines if any(a <= i < b for a, b in pieces)] if len(lines) * len(pieces) < 10_000_000 else lines
    return Stripped(
        _without_ends(kept),
        text[:header],
        is_gutenberg,
        is_gutenberg and bool(COPYRIGHTED.search(text[: min(header, HEADER) or TINY])),
        len(at),
    )


START, END, SMALL_START, SMALL_END, LICENCE_START = range(5)


@dataclass(frozen=True)
class _Mark:
    """A line, or a few, that Project Gutenberg put there."""

    kind: int
    start: int
    end: int


def _marks(text: str) -> tuple[list[_Mark], list[int]]:
    """(marks in order, places of all lines that name Project Gutenberg)."""
    places: set[int] = set()
    for needle in NEEDLES:
        at = text.find(needle)
        while at >= 0:
            near = text.rfind("\n", max(0, at - LINE), at)
            places.add(near + 1 if near >= 0 or at <= LINE else at)
            stop = text.find("\n", at)
            at = text.find(needle, stop) if stop >= 0 else -1
    lines = sorted(places)
    marks = [mark for at in lines if (mark := _mark(text, at))]
    if len(marks) > 2 * MAX_MARKS:
        marks = [*marks[:MAX_MARKS], *marks[-MAX_MARKS:]]
    return marks, lines


def _mark(text: str, at: int) -> _Mark | None:
    """What the line at `at` says; None for a line of the book."""
    if at and text[at - 1] != "\n":
        return None
    stop = text.find("\n", at, at + LINE)
    stop = stop if stop >= 0 else min(len(text), at + LINE)
    line = text[at:stop]
    kinds = (
        (STARTS, START),
        (SMALL_ENDS, SMALL_END),
        (ENDS, END),
        (LICENCES, LICENCE_START),
        (SMALL_STARTS, SMALL_START),
    )
    kind = next((kind for pattern, kind in kinds if pattern.match(line)), None)
    if kind is None:
        return None
    if kind == START and not line.rstrip().endswith("*"):  # a long title goes on to the next line
        more = PARAGRAPH.search(text, stop, stop + LINE)
        stars = text.find("***", stop, more.start() if more else stop + LINE)
        stop = stars + 3 if stars >= 0 else stop
    above = LICENCE_ABOVE.search(text, max(0, at - 80), at) if kind == LICENCE_START else None
    return _Mark(kind, above.start() if above else at, stop)


def _bodies(text: str, marks: list[_Mark]) -> tuple[list[tuple[int, int, bool]], int]:
    """([start, end, whether a mark opened it] of each book in a text, length of the header)."""
    openers = [m for m in marks if m.kind in (START, SMALL_END)]
    header = _header_end(text, marks, openers)
    ranges: list[tuple[int, int, bool]] = []
    opened: int | None = None if header else 0
    is_marked = False
    for i, mark in enumerate(marks):
        if mark.kind in (START, SMALL_END):
            if mark.end < header or (opened == 0 and not is_marked and mark.kind == SMALL_END):
                continue
            if opened is not None and mark.start - opened > TINY:  # another book begins, without an end of the first
                ranges.append((opened, _header_start(text, opened, mark.start), is_marked))
            opened, is_marked = mark.end, True
        elif opened is not None and mark.start >= opened:
            if _is_real_end(text, mark, marks[i + 1 :]):
                ranges.append((opened, mark.start, is_marked))
                opened = None
            else:
                ranges.append((opened, mark.start, is_marked))
                opened, is_marked = mark.end, False
    if opened is not None:
        ranges.append((opened, len(text), is_marked))
    return ranges, header or _unmarked_header(text, ranges[0][1] if ranges else len(text))


def _header_end(text: str, marks: list[_Mark], openers: list[_Mark]) -> int:
    """End of the mark that ends the header; 0 where there is none: the text begins with the book, or nobody knows."""
    end = 0
    for mark in openers:
        if mark.start > HEADER or (end and mark.start - end > TINY and not _has_small_print(marks, end, mark.start)):
            break
        stop = next((m.start for m in marks if m.start > mark.end and m.kind in (END, START, LICENCE_START)), len(text))
        if mark.kind == SMALL_END and stop - mark.end < min(TINY, mark.start):  # the small print stands at the end
            break
        end = mark.end
    return end


def _has_small_print(marks: list[_Mark], start: int, stop: int) -> bool:
    return any(m.kind == SMALL_START and start <= m.start < stop for m in marks)


def _header_start(text: str, opened: int, start: int) -> int:
    """Where the header begins that ends at `start`, no further back than 6,000 characters; `start` for none."""
    first = max(opened, start - 6000)
    found = TOP_OF_LINE.search(text[first:start])
    return first + found.start() if found else start


def _is_real_end(text: str, mark: _Mark, later: list[_Mark]) -> bool:
    """Whether a book ends at a mark: the end of the file, a licence or another book follows."""
    if mark.kind == LICENCE_START or len(text) - mark.end <= FOOTER:
        return True
    if any(m.kind in (START, LICENCE_START, SMALL_START) and m.start - mark.end < FOOTER for m in later):
        return True
    return text.find(LICENCE_ENDS, mark.end, mark.end + LICENCE) >= 0


def _unmarked_header(text: str, stop: int) -> int:
    """Where the book that ends at `stop` begins, without a mark: after the last paragraph of the header."""
    if not TOPS.match(text[:LINE].lstrip("\ufeff \n*")) and not re.match(
        r"\s*this\s+e-?(?:book|text)\s+is\s+for\s", text[:LINE], re.I
    ):
        return 0
    last = 0
    for a, b in _paragraphs(text, 0, min(stop, HEADER)):
        if a - last > GAP:
            break
        if BOILER.search(text[a : min(b, a + 4 * LINE)]):
            last = b
    return last


def _paragraphs(text: str, start: int, stop: int) -> Iterator[Span]:
    """Spans of text between blank lines."""
    at = start
    for gap in PARAGRAPH.finditer(text, start, stop):
        if gap.start() > at:
            yield at, gap.start()
        at = gap.end()
    if at < stop:
        yield at, stop


def _body(text: str, start: int, stop: int, is_marked: bool, is_gutenberg: bool) -> list[Span]:
    """What is left of one book, as spans: without credits and notes."""
    if not is_marked and start == 0:
        start = _unmarked_header(text, stop)
    stop = min(stop, _back_note(text, start, stop))
    cut = [*_front_cuts(text, start, stop, is_marked, is_gutenberg), *_bracketed(text, start, stop)]
    pieces: list[Span] = []
    for a, b in sorted(cut):
        if a > start:
            pieces.append((start, a))
        start = max(start, b)
    return [*pieces, (start, stop)] if start < stop else pieces


def _front_cuts(text: str, start: int, stop: int, is_marked: bool, is_gutenberg: bool) -> Iterator[Span]:
    """Credits and notes at the front."""
    spans = list(_paragraphs(text, start, min(stop, start + FRONT)))
    number, skip = 0, 0
    for i, (a, b) in enumerate(spans):
        if a < skip:
            continue
        part = text[a : min(b, a + NOTE)]
        if NOTE_HEAD.match(part):
            skip = _note_end(text, spans[i:])
            yield a, skip
        elif is_gutenberg and a - start < CREDITS and PG_NOTE.match(part):
            skip = next(
                (y for (_, y), (x, _) in zip(spans[i:], spans[i + 1 :], strict=False) if text.count("\n", y, x) > 2), b
            )
            yield a, skip
        elif is_gutenberg and b - a < NOTE and a - start < CREDITS and _is_credit(part, is_marked and number < 3):
            yield a, b
        else:
            number += 1


def _is_credit(part: str, is_first: bool) -> bool:
    if is_first and len(part) < CREDIT_LENGTH and FIRST_WORDS.search(part):
        return True
    return bool(CREDIT.match(part)) and (is_first or bool(CREDIT_WORDS.search(part)))


def _note_end(text: str, spans: list[Span]) -> int:
    """End of the note whose heading is the first paragraph: what follows closely and speaks of the like."""
    start, end = spans[0]
    head = NOTE_HEAD.match(text, start, end)
    is_alone = head is None or len(text[head.end() : end].split()) <= 2  # the heading is a paragraph of its own
    for (_, before), (a, b) in itertools.pairwise(spans):
        part = text[a:b]
        if b - start > NOTE or HEADING.match(part):
            break
        is_near = text.count("\n", before, a) <= 2
        indent = len(text[text.rfind("\n", 0, a) + 1 : a])
        if not (is_alone or (is_near and (indent >= 2 or NOTE_WORDS.search(part)))):
            break
        is_alone = False
        end = b
    return end


def _back_note(text: str, start: int, stop: int) -> int:
    """Where notes at the back begin; `stop` for none."""
    spans = list(_paragraphs(text, max(start, stop - BACK), stop))
    for i, (a, _) in enumerate(spans):
        if stop - a > BACK_NOTE or a - start < FRONT // 8 or not NOTE_HEAD.match(text[a : a + LINE]):
            continue
        rest = [text[x:y] for x, y in spans[i + 1 :]]
        long = [p for p in rest if len(p) > LINE and not NOTE_WORDS.search(p)]
        if len(long) <= 1 and not any(HEADING.match(p) for p in rest):
            return a
    return stop


def _bracketed(text: str, start: int, stop: int) -> Iterator[Span]:
    """Notes in brackets."""
    at, unclosed = text.find("[", start, stop), 0
    while at >= 0 and unclosed < MAX_OPEN:
        if BRACKETS.match(text, at):
            end = _closing(text, at, min(stop, at + NOTE))
            unclosed += 0 if end else 1
            if end:
                yield at, end
                at = end - 1
        at = text.find("[", at + 1, stop)


def _closing(text: str, at: int, stop: int) -> int:
    """End of the bracket that opens at `at`; 0 where it has none near."""
    depth = 0
    for found in re.finditer(r"[\[\]]", text[at:stop]):
        depth += 1 if found[0] == "[" else -1
        if depth == 0:
            return at + found.end()
    return 0


def _without_ends(text: str) -> str:
    """Without blank lines, and lines that are only ornament, at both ends."""
    lead = RULE.match(text)
    start = text.rfind("\n", 0, lead.end()) + 1 if lead else 0
    text = text[start:].rstrip()
    while True:
        line = text.rfind("\n") + 1
        if not line or not RULE.fullmatch(text, line):
            return text
        text = text[:line].rstrip()


def _describe(row: dict[str, Any], header: str) -> None:
    """Fill in what the header of one book says."""
    says = {
        name: " ".join(m[1].split()) for name, p in FIELDS.items() if (m := p.search(header[:HEADER])) and m[1].strip()
    }
    top = TOP_LINE.search(header[: 4 * LINE])
    meta = json.loads(row["meta"] or "{}")
    title = says.get("title") or (top[1].strip() if top else "")
    row["title"] = title or row["title"]
    author = says.get("author") or (top[2].strip(" .*") if top and top[2] else "")
    number = NUMBER.search(header[:HEADER])
    for key, value in (("author", author), ("translator", says.get("translator")), ("language", says.get("language"))):
        if value and key not in meta:
            meta[key] = value
    if number:
        meta["ebook"] = int(number[1])
        row["url"] = row["url"] or f"https://www.gutenberg.org/ebooks/{number[1]}"
    row["lang"] = row["lang"] or LANGUAGES.get(re.split(r"[,;(]| and ", says.get("language", "").lower())[0].strip())
    told = MONTH.search(header[:HEADER])
    row["date"] = row["date"] or _date(says.get("release", "")) or (_date(told[1]) if told else None)
    row["license"] = row["license"] or PUBLIC_DOMAIN
    row["meta"] = json.dumps(meta, ensure_ascii=False)


def _date(text: str) -> datetime | None:
    """Of "August 16, 2013 [EBook #345]", "July, 1991", "2004-02"; None for anything else."""
    text = text.partition("[")[0].strip(" .")
    for form in ("%B %d, %Y", "%B %d %Y", "%d %B %Y", "%B, %Y", "%B %Y", "%b %d, %Y", "%b, %Y", "%Y-%m-%d", "%Y-%m"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


PIECES, PIECE = 8, 8 << 10  # pieces of a text that are looked at, and bytes of each
LATIN = 26


@stage(
    writes=[
        pa.field("prose_letter_ratio", pa.float32()),
        pa.field("prose_letters", pa.int32()),
        pa.field("prose_words_per_line", pa.float32()),
    ],
    reasons=("few_letters", "one_alphabet_part", "word_list"),
)
def prose(
    table: pa.Table,
    *,
    min_letter_ratio: float = 0.6,
    min_letters: int = 12,
    min_words_per_line: float = 1.6,
    min_bytes: int = 20_000,
) -> Outcome:
    """Drop what is no prose: digits of pi and tables, the human genome, lists of words (robustness.md 3.6, row 6).

    Measured on PIECES pieces of PIECE bytes at equal distances (all of a shorter text), and only for texts of
    `min_bytes` or more. A byte beyond ASCII counts as a letter. Reasons:

    * `few_letters`: letters / bytes that are not white space, below `min_letter_ratio`. English novels have 0.96.
    * `one_alphabet_part`: ASCII letters, case folded, that are 0.4 % or more of all, fewer than `min_letters` of them
      (English prose has 22, a genome 4); not for texts mostly beyond ASCII.
    * `word_list`: words / lines that are not blank, below `min_words_per_line`; not for texts mostly beyond ASCII,
      which may be written without spaces.
    """
    data, offsets = buffers(table["text"])
    ratios, letters, words = (np.full(len(offsets) - 1, np.nan) for _ in range(3))
    beyond = np.zeros(len(offsets) - 1)
    for row in range(len(ratios)):
        ratios[row], letters[row], words[row], beyond[row] = _figures(data[offsets[row] : offsets[row + 1]])
    is_long = np.diff(offsets) >= min_bytes
    is_latin = beyond < 0.5
    rules = (
        ("few_letters", ratios, is_long & (ratios < min_letter_ratio)),
        ("one_alphabet_part", letters, is_long & is_latin & (letters < min_letters)),
        ("word_list", words, is_long & is_latin & (words < min_words_per_line)),
    )
    reasons: list[str | None] = [None] * len(ratios)
    values: list[str | None] = [None] * len(ratios)
    for name, figures, broken in reversed(rules):
        for row in np.flatnonzero(broken).tolist():
            reasons[row], values[row] = name, f"{figures[row]:.3g}"
    columns = {
        "prose_letter_ratio": pa.array(ratios, pa.float32()),
        "prose_letters": pa.array(letters.astype(np.int32)),
        "prose_words_per_line": pa.array(words, pa.float32()),
    }
    return Outcome(columns, pa.array(reasons, pa.string()), pa.array(values, pa.string()))


def _figures(text: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[float, float, float, float]:
    """(letters / not white space, different letters, words / lines, share beyond ASCII) of one text."""
    if len(text) > PIECES * PIECE:
        starts = [i * (len(text) - PIECE) // (PIECES - 1) for i in range(PIECES)]
        text = np.concatenate([text[s : s + PIECE] for s in starts])
    counts = np.bincount(text, minlength=256)
    small = counts[97 : 97 + LATIN] + counts[65 : 65 + LATIN]
    high = int(counts[128:].sum())
    dark = int(counts[33:].sum())
    different = int((small >= max(1, 0.004 * small.sum())).sum())
    is_dark = text > 32
    words = int((is_dark[1:] & ~is_dark[:-1]).sum()) + int(is_dark[:1].sum())
    breaks = np.flatnonzero(text == 10)
    lines = int((np.diff(np.concatenate([[-1], breaks, [len(text)]])) > 1).sum())
    return (int(small.sum()) + high) / max(1, dark), different, words / max(1, lines), high / max(1, dark)
