r"""The rules of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2) as its published code has them (recipes.md 2.1).

In the order of that code: `c4_page`, `c4_url`, `c4_lines`, the barrier `lines` (curate.dedup.lines), `c4_sentences`,
`language`, `c4_bad_words`, `c4_split`. `mc4_long_lines` is of the multilingual C4 alone.

**Sentences.** The published code counts what NLTK's punkt, trained on English, makes of a line; its model is data that
this project does not carry. Here: a run of ".", "?" and "!" ends a sentence where closing quotes or brackets and then
white space and a further word follow it. A run with a "?" or "!" always does. One full stop does not behind an
abbreviation (a list of common ones; a single letter; single letters with stops between), nor behind a number where a
small letter follows; two and more do not. Behind an abbreviation or an ellipsis a sentence ends all the same where the
next word has a capital that it usually has not ("The", "However"). This is punkt's procedure with two lists in place
of what it learns. The figures of how often the two agree are in DECISIONS.md.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import RecipeError
from curate.kernels import c4
from curate.kernels.arrow import buffers, from_buffers
from curate.stage import Outcome, stage

NONE = pa.scalar(None, pa.string())
SHOWN = 120  # bytes of a line that the ledger shows
MAX_TERMS = 20_000
LINE_VERDICTS = {c4.FEW_SENTENCES: "few_sentences", c4.LOREM_IPSUM: "lorem_ipsum", c4.CURLY_BRACKET: "curly_bracket"}


@stage(reasons=("empty", "too_long"))
def c4_page(table: pa.Table, *, max_characters: int = 190_000) -> Outcome:
    r"""The lines of a page as C4 takes them from WET; drops pages of more than `max_characters` as `too_long`.

    Every line ("\n") is stripped; blank ones and those that begin with "WARC", "CONTENT-" or "Content-" go, wherever
    they stand: the code takes them for lines of a record's header. Characters are code points, line feeds included.
    A page without a line is `empty` (the code does not emit it).
    """
    data, rows = buffers(table["text"])
    out, offsets, characters = c4.page_lines(data, rows)
    size = pa.array(characters)
    empty, long = pc.equal(size, 0), pc.greater(size, max_characters)
    reason = pc.if_else(empty, "empty", pc.if_else(long, "too_long", NONE))
    return Outcome({"text": from_buffers(out, offsets)}, reason, _counted(reason, size, "character"))


def _counted(reason: pa.Array, figures: pa.Array, unit: str) -> pa.Array:
    """Values like "2 sentences", where there is a reason."""
    units = pc.if_else(pc.equal(figures, 1), f" {unit}", f" {unit}s")
    shown = pc.binary_join_element_wise(pc.cast(figures, pa.string()), units, "")
    return pc.if_else(pc.is_valid(reason), shown, NONE)


@stage(reads=("url",), writes=(pa.field("normalised_url", pa.string()),), reasons=("no_url",))
def c4_url(table: pa.Table) -> Outcome:
    """The address by which C4 knows a page, as the column `normalised_url`; a page without an address goes.

    Without "http://" or "https://" and a "www." behind it, wherever they stand (the code does not ask for the
    beginning); cut at "?utm_", "?ref" or "?feed"; without slashes at its end.
    """
    url = pc.replace_substring_regex(table["url"], r"https?://(www\.)?", "")
    url = pc.utf8_rtrim(pc.replace_substring_regex(url, r"\?(utm_|ref|feed).*", ""), "/")
    missing = pc.fill_null(pc.equal(table["url"], ""), True)
    return Outcome({"normalised_url": url}, pc.if_else(missing, "no_url", NONE))


LINE_FIGURES = (
    pa.field("c4_lines_kept_ratio", pa.float32()),  # lines kept / lines
    pa.field("c4_lines_n_sentences", pa.int32()),
)


@stage(writes=LINE_FIGURES, reasons=("lorem_ipsum", "curly_bracket", "few_sentences"))
def c4_lines(table: pa.Table, *, max_word_length: int = 1000, min_words: int = 5, min_sentences: int = 3) -> Outcome:
    """The line rules, in their order; a line is what `str.splitlines` gives, stripped.

    1. A line with a word (`str.split`) of more than `max_word_length` characters goes.
    2. "[12]" (any digits, or none), "[edit]" and "[citation needed]" are taken out; the line is not stripped again.
    3. A line that does not end in one of `.?!"`, or ends in "...", goes.
    4. A line of fewer than `min_words` words goes.
    5. "lorem ipsum" in any case: the **page** goes, as `lorem_ipsum`.
    6. "javascript" in any case: the line goes.
    7. "{": the **page** goes, as `curly_bracket`. (5 and 7 are not asked of a line that went before.)
    8. A line with "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies" or "use cookies",
       in any case, goes.

    A page with fewer than `min_sentences` sentences, counted line by line, goes as `few_sentences`; the others have the
    lines that stay, stripped at both ends. The value is the number of sentences, or the beginning of the line.
    """
    for name, value in (("max_word_length", max_word_length), ("min_words", min_words)):
        if value < 1:
            raise RecipeError(f"c4_lines.{name} is {value}, must be at least 1")
    data, rows = buffers(table["text"])
    out, offsets, counts = c4.clean_lines(data, rows, max_word_length, min_words, min_sentences)
    n = dict(zip(c4.COUNTS, counts.T, strict=False))
    reasons: list[str | None] = [None] * len(counts)
    values: list[str | None] = [None] * len(counts)
    for row in np.flatnonzero(counts[:, c4.VERDICT]).tolist():
        verdict = int(counts[row, c4.VERDICT])
        reasons[row] = LINE_VERDICTS[verdict]
        values[row] = _seen(data, counts[row]) if verdict != c4.FEW_SENTENCES else _sentences(int(n["sentences"][row]))
    columns = {
        "text": from_buffers(out, offsets),
        "c4_lines_kept_ratio": pa.array((n["kept"] / np.maximum(n["lines"], 1)).astype(np.float32)),
        "c4_lines_n_sentences": pa.array(n["sentences"].astype(np.int32)),
    }
    return Outcome(columns, pa.array(reasons, pa.string()), pa.array(values, pa.string()))


def _seen(data: npt.NDArray[np.uint8], counts: npt.NDArray[np.int64]) -> str:
    start, end = int(counts[c4.FROM]), int(counts[c4.TO])
    return data[start : min(end, start + SHOWN)].tobytes().decode("utf-8", "ignore")


def _sentences(count: int) -> str:
    return f"{count} sentence{'s' * (count != 1)}"


@stage(reasons=("few_sentences",))
def c4_sentences(table: pa.Table, *, min_sentences: int = 3) -> Outcome:
    """Drop pages of fewer than `min_sentences` sentences: asked again once repeated lines are gone.

    The text is counted as a whole here, as in the published code: a line that ends in an abbreviation does not end a
    sentence.
    """
    count = pa.array(c4.sentence_counts(table["text"]))
    reason = pc.if_else(pc.less(count, min_sentences), "few_sentences", NONE)
    return Outcome(reason=reason, value=_counted(reason, count, "sentence"))


@stage(reasons=("few_long_lines",))
def mc4_long_lines(table: pa.Table, *, min_lines: int = 3, min_characters: int = 200) -> Outcome:
    """The rule of the multilingual C4 (Xue et al. 2021, arXiv 2010.11934): `min_lines` lines of `min_characters`.

    mC4 has it in place of C4's line rules, and keeps the languages that CLD3 gives at least 0.95.
    """
    count = pa.array(c4.long_lines(table["text"], min_characters))
    reason = pc.if_else(pc.less(count, min_lines), "few_long_lines", NONE)
    return Outcome(reason=reason, value=_counted(reason, count, "long line"))


@stage(reasons=("listed_word",), models={"words": "badwords"})
def c4_bad_words(table: pa.Table, *, words: str | None = None) -> Outcome:
    r"""Drop pages that hold a term of a list: in lower case, with no `\w` at either side of it.

    `words`: a UTF-8 file, one term a line, as LDNOOBW publishes its lists; C4 has the English one. Terms of several
    words and signs are terms like any other. The value is the term. None: there is no list, and every page is kept; a
    run says so, and `--strict` refuses. RecipeError: the file cannot be read, or holds no term.
    """
    if words is None:
        none = pa.nulls(len(table), pa.string())
        return Outcome(reason=none, value=none)
    terms, trie = _terms(words)
    found = c4.listed_terms(table["text"], trie).tolist()
    reasons = ["listed_word" if k >= 0 else None for k in found]
    values = [terms[k] if k >= 0 else None for k in found]
    return Outcome(reason=pa.array(reasons, pa.string()), value=pa.array(values, pa.string()))


def read_terms(path: str | Path) -> tuple[str, ...]:
    """The terms of a list file, in lower case, each once; RecipeError where it is of no use."""
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise RecipeError(f"c4_bad_words.words is {str(path)!r}: {why}") from None
    terms = tuple(dict.fromkeys(x.strip().lower() for x in lines if x.strip()))
    if not terms or len(terms) > MAX_TERMS:
        raise RecipeError(f"c4_bad_words.words is {str(path)!r}: {len(terms)} terms (1 to {MAX_TERMS} can be used)")
    return terms


def _terms(path: str) -> Any:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise RecipeError(f"c4_bad_words.words is {path!r}: {error.strerror}") from None
    return _loaded(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=2)
def _loaded(path: str, _changed: int, _bytes: int) -> Any:
    terms = read_terms(path)
    return terms, c4.term_table(terms)


@stage(reads=("normalised_url",), writes=(pa.field("split", pa.string()),))
def c4_split(table: pa.Table, *, validation_of: int = 1000) -> Outcome:
    """The column `split`: "validation" for one page of `validation_of`, "train" for the others.

    As in the published code, by the MD5 of the normalised address as a number, modulo 1000, so that an address is of
    one split for good.
    """
    if validation_of < 1:
        raise RecipeError(f"c4_split.validation_of is {validation_of}, must be at least 1")
    urls = table["normalised_url"].to_pylist()
    names = ["validation" if in_validation(url or "", validation_of) else "train" for url in urls]
    return Outcome({"split": pa.array(names, pa.string())})


def in_validation(url: str, modulus: int) -> bool:
    """Whether the MD5 of an address, as a number, is a multiple of `modulus`."""
    digest = hashlib.md5(url.encode("utf-8", "replace"), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % modulus == 0
