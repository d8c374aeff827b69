"""Stack Exchange: the dumps of its sites as documents, a question with its answers each.

A dump is a site's `Posts.xml`, alone in a folder named after the site or in the archive `<site>.7z` (of the largest
one `stackoverflow.com-Posts.7z`). LLaMA takes the 28 largest sites, removes the tags of HTML and sorts answers by
score, highest first (arXiv 2302.13971, 2.1); it gives neither a template nor the sites. The template is RedPajama's,
without its fault of sorting scores as words; the sites are counted (recipes.md 7). Bad input: robustness.md 3.8.

The join. Posts are turned to text as they are read. What does not fit in memory is sorted by question and written to
one temporary file, run after run; then the blocks of all runs are read back in the order of their first question, a
few MiB at a time, and every question that no later block can add to is given out. The order of documents is that of
the ids of questions, whatever the order of the file and the size of a run. The temporary file has no name: it is gone
with the process, however that ends.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, ClassVar, Literal, NoReturn
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import io
from curate.errors import RecipeError, SourceError
from curate.kernels import posts
from curate.kernels.arrow import buffers, from_buffers
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from sources import sevenzip
from sources.sevenzip import BadArchive

SAMPLE = Path(__file__).parent / "samples" / "stackexchange"
ARCHIVE = "https://archive.org/download/stackexchange"
SUFFIXES = ("Posts.xml", ".7z")
FILE = re.compile(r"(?P<site>.*?)(?:-(?P<table>[A-Za-z]+))?\.(?:7z|xml)", re.IGNORECASE)
SITE = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,10}")
TABLES = ("badges", "comments", "posthistory", "postlinks", "tags", "users", "votes")
SHA1 = re.compile(r"#sha1=([0-9a-f]{40})$")

WINDOW = 4 << 20  # bytes of XML that are scanned at once
ROWS = 1 << 14  # elements that are scanned at once
BLOCK = 128 << 10  # bytes of a block of a run: every run has one in memory
STEP = 32 << 20  # bytes of blocks that are read back at once
OVERHEAD = 100  # bytes of a post beside its text
MAX_FAILED = 100_000  # rows after which a file is not worth reading: each of them is held in memory
MAX_LISTING = 32 << 20
SMALLEST_ROW = 120  # bytes: what every row of a dump has, with nothing in it
PROBE = 8 << 20  # bytes of each site that are read first when posts are counted

REASONS = ("", "bad_xml", "bad_character", "bad_entity", "encoding", "bad_id", "duplicate_id", "truncated")
KINDS = {  # PostTypeId
    3: "wiki",
    4: "tag_excerpt",
    5: "tag_wiki",
    6: "moderator_nomination",
    7: "wiki_placeholder",
    8: "privilege_wiki",
}
QUESTION, ANSWER = 1, 2
# Contributions are licensed by their day: https://stackoverflow.com/help/licensing
FROM_30, FROM_40 = (int(np.datetime64(day, "us").astype(np.int64)) for day in ("2011-04-08", "2018-05-02"))
LICENSES = ("CC-BY-SA-2.5", "CC-BY-SA-3.0", "CC-BY-SA-4.0")  # bit 0, 1, 2
TEMPLATES = {  # before a question, between its title and body, before an answer
    "redpajama": ("Q: ", " ", "\nA: "),
    "blocks": ("Q: ", "\n\n", "\n\nA: "),
}

NUMBERS = ("question", "kind", "score", "id", "date", "accepted", "declared", "owner", "license")
POST = pa.schema([*((n, pa.int64()) for n in NUMBERS), *((n, pa.large_string()) for n in ("title", "tags", "text"))])

Ints = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StackExchange:
    """Dumps of Stack Exchange, a site a split. A record is a post; the answers are `merged` into their question.

    Kept is what has PostTypeId 1 or 2; the rest is skipped by its kind, as are answers whose question is not there
    (`orphan_answer`, ordinary: questions are deleted) and those that a document has no room for
    (`answer_over_limit`). A row fails with one of `REASONS`, `too_large`, `no_type`, `no_parent`. A post from
    `posts.CANARY_ID` on is never joined: it is a document of its own, for the stage `provider_canary` to drop.

    `meta`: site, id, score, tags, accepted (id of the accepted answer, null where it is not in the document), answers
    (in the document), answer_count (as the dump says), answer_ids and answer_scores in the order of the text, owner
    (user id). `license`: SPDX, of all posts in the document.
    """

    name: ClassVar[str] = "stackexchange"
    largest: int = 28  # sites that are taken where more are given, by number of posts; 0: all
    meta_sites: bool = False  # take sites about sites, too
    base: str = ARCHIVE  # where sites given by name alone are fetched from
    template: Literal["redpajama", "blocks"] = "redpajama"
    batch_bytes: int = 32 << 20  # text of a table; it ends with the document that reaches it
    run_bytes: int = 64 << 20  # posts that are sorted in memory
    max_row_bytes: int = 32 << 20
    max_document_bytes: int = 32 << 20  # answers that go beyond are left out, the lowest scores first

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "run_bytes", "max_row_bytes", "max_document_bytes"):
            if getattr(self, name) < 1:
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be at least 1")
        if self.largest < 0:
            raise RecipeError(f"source.largest is {self.largest}, must be 0 (all) or more")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split a site, named after it ("coffee.stackexchange.com"), however the dump is packed.

        An input is a folder, an archive, a `Posts.xml`, an address, or the name of a site, which is fetched from
        `base` and checked against its list of SHA-1. RecipeError: no posts in it, two dumps of one site.
        """
        inputs = inputs or [str(SAMPLE)]
        named = [x for x in inputs if SITE.fullmatch(x) and not Path(x).exists()]
        others = [x for x in inputs if x not in named]
        items = [*(io.expand(others, SUFFIXES) if others else []), *_published(named, self.base)]
        found = [replace(item, name=site) for item in items if (site := _site(item))]
        kept = [item for item in found if self.meta_sites or not _is_meta(item.name)]
        if not kept:
            raise RecipeError(f"no posts in {', '.join(inputs)[:200]}" + _why_none(found))
        splits = [Split(item.name, item.path, item.bytes) for item in io.unique(kept)]
        return _largest(splits, self.largest) if 0 < self.largest < len(splits) else splits

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Documents of one site in the order of their questions' ids, in tables of about `batch_bytes`.

        SourceError: the file cannot be read, or holds no posts. Everything else that is wrong is in `tally`.
        """
        with _Runs(tally.scratch, self.run_bytes, self.max_document_bytes, tally) as runs:
            try:
                for window in _windows(_xml(split, tally), self.max_row_bytes, split, tally):
                    runs.add(_table(window, self.template, split, tally))
            except _TooMuchDamage:
                tally.damage.append(f"corrupt: over {MAX_FAILED} bad rows, the rest was not read")
            for table in runs.tables():
                table = _within(table, self.max_document_bytes, tally)
                yield from _documents(table, split, self.batch_bytes, tally)


# -- what there is to read -------------------------------------------------------------------------------------------


def _site(item: io.Input) -> str:
    """Name of the site that a file is of; empty for a file of another table. RecipeError: it cannot be told."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(item.path).path) if io.is_remote(item.path) else item.path
    base = Path(path).name
    found = FILE.fullmatch(base)
    if base.lower().endswith(".7z.001"):
        raise RecipeError(f"{io.named(item.path)} is a part of an archive: join the parts (cat NAME.7z.* > NAME.7z)")
    if not found:
        raise RecipeError(f"{io.named(item.path)} is no dump of a site (wanted: SITE.7z, SITE/Posts.xml)")
    table = (found["table"] or "").lower()
    if base.lower() == "posts.xml":
        site = (Path(path).parent if io.is_remote(item.path) else Path(path).resolve().parent).name
    elif base.lower().endswith(".xml") and table != "posts":
        raise RecipeError(f"{io.named(item.path)} holds no posts (wanted: Posts.xml)")
    else:
        site = found["site"] if table in ("posts", *TABLES) else base[: -len(".7z")]
    if not SITE.fullmatch(site.lower()):
        raise RecipeError(
            f"cannot tell which site {io.named(item.path)} is of: name the file or its folder after it, "
            "such as coffee.stackexchange.com/Posts.xml"
        )
    return "" if table in TABLES else site.lower()


def _is_meta(site: str) -> bool:
    return "meta" in site.split(".")


def _why_none(found: list[io.Input]) -> str:
    return ": only meta sites, which --set source.meta_sites=yes takes" if found else ": only other tables than Posts"


def _published(sites: list[str], base: str) -> list[io.Input]:
    """Archives of sites on archive.org, with the SHA-1 that is published there behind the address."""
    if not sites:
        return []
    base = base.rstrip("/")
    listed = _listing(f"{base}/{base.rpartition('/')[2]}_files.xml")
    found = []
    for site in sites:
        name = next((n for n in (f"{site}.7z", f"{site}-Posts.7z") if n in listed), "")
        if not name:
            close = difflib.get_close_matches(site, [n.removesuffix(".7z") for n in listed if n.endswith(".7z")], n=5)
            raise RecipeError(f"no dump of {site} at {io.named(base)} (near by: {', '.join(close) or 'nothing'})")
        size, sha1 = listed[name]
        found.append(io.Input(site, f"{base}/{name}#sha1={sha1}", size))
    return found


def _listing(address: str) -> dict[str, tuple[int, str]]:
    """Size and SHA-1 of each file of an item of archive.org. SourceError: there is no such list."""
    data = b""
    for chunk in io.stream(address):
        data += chunk
        if len(data) > MAX_LISTING:
            raise SourceError(f"{io.named(address)}: more than {MAX_LISTING} bytes, which is no list of files")
    facts: dict[str, dict[str, str]] = {}
    inside: list[str] = ["", ""]  # file, element
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        inside[:] = [attributes.get("name", ""), ""] if tag == "file" else [inside[0], tag]

    def text(value: str) -> None:
        if inside[1] in ("size", "sha1"):
            known = facts.setdefault(inside[0], {})
            known[inside[1]] = known.get(inside[1], "") + value

    def end(tag: str) -> None:
        inside[1] = ""

    def refuse(*_: object) -> NoReturn:
        raise SourceError(f"{io.named(address)}: not a list of files")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        refuse()
    is_whole = {n: f for n, f in facts.items() if f.get("size", "").isdigit() and SHA1.search(f"#sha1={f.get('sha1')}")}
    return {name: (int(f["size"]), f["sha1"]) for name, f in is_whole.items()}


# -- which sites are the largest -------------------------------------------------------------------------------------


@dataclass
class _Count:
    """What is known about the number of posts of one site: at least `least`, at most `most`."""

    split: Split
    size: int  # bytes of Posts.xml
    least: int = 0
    most: int = 0


def _largest(splits: list[Split], wanted: int) -> list[Split]:
    """The `wanted` sites with most posts, by name where they have equally many; in the order given.

    No more is read than it takes to know: a large site until it has passed the others, a small one where its bytes
    alone do not settle it. RecipeError: more than `wanted` sites on the web.
    """
    if any(io.is_remote(split.path) for split in splits):
        raise RecipeError(f"{len(splits)} sites, some of them on the web: name at most {wanted}, or fetch them first")
    counts = [_Count(split, _size(split)) for split in splits]
    for count in counts:
        count.most = count.size // SMALLEST_ROW + 1
    while True:
        bar = sorted((c.least for c in counts), reverse=True)[wanted - 1]
        open_ones = [c for c in counts if c.least < c.most and c.least <= bar <= c.most]
        if not open_ones:
            break
        largest = max(open_ones, key=lambda c: (c.most, c.split.name))
        _count(largest, max(2 * largest.least, bar + 1))
    ranked = sorted(counts, key=lambda c: (-c.least, c.split.name))[:wanted]
    chosen = {c.split.name for c in ranked}
    return [split for split in splits if split.name in chosen]


def _size(split: Split) -> int:
    """Bytes of a site's Posts.xml."""
    if not split.path.lower().endswith(".7z"):
        return split.bytes or 0
    try:
        with open(split.path, "rb") as file:
            return _member(sevenzip.members(file, Path(split.path).stat().st_size), split).size
    except BadArchive:
        return 0  # nothing can be read of it; `read` says why


def _count(count: _Count, enough: int) -> None:
    """Count the rows of a site until there are `enough`, and PROBE bytes are read."""
    seen = rows = 0
    tail = b""
    for chunk in _local(count.split):
        rows += (tail + chunk).count(b"<row ")
        tail = chunk[-4:]
        seen += len(chunk)
        if rows >= enough and seen >= PROBE:
            count.least, count.most = rows, max(rows, rows + (count.size - seen) // SMALLEST_ROW + 1)
            return
    count.least = count.most = rows


def _local(split: Split) -> Iterator[bytes]:
    """The bytes of Posts.xml of a local dump; no digest is taken."""
    if not split.path.lower().endswith(".7z"):
        yield from io.stream(split.path)
        return
    with open(split.path, "rb") as file:
        yield from _unpacked(file, Path(split.path).stat().st_size, split, Tally())


# -- bytes of XML ----------------------------------------------------------------------------------------------------


def _xml(split: Split, tally: Tally) -> Iterator[bytes]:
    """The bytes of a site's Posts.xml; counted, and the digest of the input taken."""
    path = SHA1.sub("", split.path)
    wanted = SHA1.search(split.path)
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    if not urllib.parse.urlsplit(path).path.lower().endswith(".7z"):
        for chunk in io.stream(path, split.bytes):
            sha256.update(chunk)
            tally.bytes_in += len(chunk)
            yield chunk
        tally.input_digest = sha256.hexdigest()
        return
    with _spool(path, tally.scratch) as file:
        size = 0
        for chunk in io.stream(path, split.bytes):
            sha256.update(chunk)
            if wanted:
                sha1.update(chunk)
            if io.is_remote(path):
                file.write(chunk)
            size += len(chunk)
        tally.input_digest = sha256.hexdigest()
        if wanted and sha1.hexdigest() != wanted[1]:
            raise SourceError(f"{io.named(path)}: checksum_mismatch: SHA-1 {sha1.hexdigest()}, published {wanted[1]}")
        yield from _unpacked(file, size, split, tally)


def _spool(path: str, scratch: str | None) -> IO[bytes]:
    """The file itself, or an empty one without a name for what is on the web: a 7z archive is read from its end."""
    return tempfile.TemporaryFile(dir=scratch) if io.is_remote(path) else open(path, "rb")


def _unpacked(file: IO[bytes], size: int, split: Split, tally: Tally) -> Iterator[bytes]:
    """Posts.xml out of an archive. SourceError: it needs what there is not; other damage is counted."""
    try:
        for chunk in sevenzip.read(file, _member(sevenzip.members(file, size), split)):
            tally.bytes_in += len(chunk)
            yield chunk
    except BadArchive as bad:
        if bad.reason in ("encrypted", "unknown_codec"):
            raise SourceError(f"{io.named(split.path)}: {bad.reason}: {bad.value}") from None
        tally.damage.append(f"{bad.reason}: {bad.value}")


def _member(members: list[sevenzip.Member], split: Split) -> sevenzip.Member:
    """The table of posts of an archive."""
    found = [m for m in members if m.name.replace("\\", "/").rpartition("/")[2].lower() == "posts.xml"]
    if len(found) != 1:
        there = ", ".join(ascii(m.name)[:40] for m in members[:10]) or "nothing"
        raise SourceError(f"{io.named(split.path)}: {len(found)} members called Posts.xml (there is: {there})")
    return found[0]


# -- rows of XML -----------------------------------------------------------------------------------------------------


class _TooMuchDamage(Exception):
    """A file of which so much is bad that it is given up."""


@dataclass(frozen=True)
class _Window:
    """Bytes with whole rows in them, and the rows that are posts to keep."""

    data: Octets
    rows: Ints
    chosen: Ints


def _windows(chunks: Iterator[bytes], max_row_bytes: int, split: Split, tally: Tally) -> Iterator[_Window]:
    """Scan the chunks; what is no question or answer is counted. The window is valid until the next one is asked for.

    SourceError: no posts at all, or a document type declaration (no dump has one).
    """
    scan = _Scan(split, tally, max_row_bytes)
    for chunk in chunks:
        scan.add(chunk)
        if scan.used >= scan.enough:
            yield from scan.windows(final=False)
    yield from scan.windows(final=True)
    scan.close()


@dataclass
class _Scan:
    """The bytes that are waiting, and what was seen so far."""

    split: Split
    tally: Tally
    max_row_bytes: int
    used: int = 0
    enough: int = field(default_factory=lambda: WINDOW)  # bytes from which on scanning is worth while
    place: int = 0  # of the first waiting byte in the file
    is_skipping: bool = False  # what is left of a row that is too large
    data: Octets = field(default_factory=lambda: np.empty(2 * WINDOW, np.uint8))
    rows: Ints = field(default_factory=lambda: np.empty((ROWS, posts.WIDTH), np.int64))
    seen: Octets = field(default_factory=lambda: np.zeros(posts.MAX_ID // 8, np.uint8))  # pages unused take no memory
    out: Ints = field(default_factory=lambda: np.zeros(2, np.int64))
    head: bytes = b""
    n_rows: int = 0

    def add(self, chunk: bytes) -> None:
        """Take bytes in."""
        if len(self.head) < 64:
            self.head = (self.head + chunk)[:64]
        if self.place == self.used == 0 and chunk.startswith(b"\xef\xbb\xbf"):
            chunk, self.place = chunk[3:], 3
        if self.is_skipping:
            begins = chunk.find(b"<")
            self.is_skipping = begins < 0
            self.place += begins if begins >= 0 else len(chunk)
            chunk = chunk[begins:] if begins >= 0 else b""
        if self.used + len(chunk) > len(self.data):
            larger = np.empty(2 * (self.used + len(chunk)), np.uint8)
            larger[: self.used] = self.data[: self.used]
            self.data = larger
        self.data[self.used : self.used + len(chunk)] = np.frombuffer(chunk, np.uint8)
        self.used += len(chunk)

    def windows(self, final: bool) -> Iterator[_Window]:
        """The whole rows that are waiting."""
        at = 0
        while True:
            n = posts.scan(
                self.data, at, self.used, final, posts.BLANK, posts.WORDS, *posts.ATTRIBUTES, self.seen, self.rows,
                self.out,
            )  # fmt: skip
            at = int(self.out[posts.PLACE])
            if self.out[posts.SEEN] & posts.DTD:
                raise SourceError(f"{io.named(self.split.path)}: a document type declaration, which no dump has")
            self.n_rows += n
            rows = self.rows[:n]
            chosen = self._chosen(rows)
            if len(chosen):
                yield _Window(self.data, rows, chosen)
            if n < ROWS:
                break
        self._keep(at)

    def _keep(self, at: int) -> None:
        """Go on with the bytes from `at` on."""
        left = self.used - at
        self.data[:left] = self.data[at : self.used].copy()
        self.place += at
        self.used = left
        self.enough = max(WINDOW, min(2 * left, self.max_row_bytes))
        if left >= self.max_row_bytes:
            if self.data[:4].tobytes() == b"<row":
                self.n_rows += 1
                native = re.search(rb' Id="(\d{1,12})"', self.data[:200].tobytes())
                self._fail("too_large", int(native[1]) if native else 0, self.place, f"over {self.max_row_bytes} bytes")
            self.place, self.used, self.is_skipping = self.place + left, 0, True
            self.enough = WINDOW

    def _chosen(self, rows: Ints) -> Ints:
        """Rows that are questions or answers; the others are counted."""
        status, kinds, parents = rows[:, posts.STATUS], rows[:, posts.TYPE], rows[:, posts.PARENT]
        whole = status == posts.WHOLE
        is_large = rows[:, posts.END] - rows[:, posts.START] > self.max_row_bytes
        is_kept = whole & ~is_large & ((kinds == QUESTION) | ((kinds == ANSWER) & (parents > 0)))
        for row in np.flatnonzero(~is_kept).tolist():
            kind, code, native = int(kinds[row]), int(status[row]), int(rows[row, posts.ID])
            if code == posts.WHOLE and kind > ANSWER and not is_large[row]:
                self.tally.skip(KINDS.get(kind, "unknown_type"))
                continue
            reason = REASONS[code] or ("no_parent" if kind == ANSWER else "no_type")
            reason = "too_large" if is_large[row] else reason
            place = self.place + int(rows[row, posts.START])
            self._fail(reason, native, place, f"post {native}" if native > 0 else f"at byte {place}")
        return np.flatnonzero(is_kept)

    def _fail(self, reason: str, native: int, place: int, value: str) -> None:
        if len(self.tally.failed) >= MAX_FAILED:
            raise _TooMuchDamage
        url = f"https://{self.split.name}/q/{native}" if native > 0 else None
        key = f"byte {place}"  # not its id, which a sound row may have, too
        self.tally.fail(doc_id(StackExchange.name, self.split.name, key), url, reason, value)

    def close(self) -> None:
        """Say what is wrong with the file as a whole."""
        seen, tally = int(self.out[posts.SEEN]), self.tally
        if not seen & posts.OPENED and not self.n_rows and not tally.damage and self.head:
            raise SourceError(f"{io.named(self.split.path)}: not a table of posts: begins with {self.head[:40]!a}")
        if not seen & posts.CLOSED and not tally.damage:
            tally.damage.append("truncated_input: no </posts> at the end")
        for bit, kind in ((posts.ALIEN, "foreign_element"), (posts.STRAY, "stray_text")):
            if seen & bit:
                tally.flags[kind] += 1


# -- posts -----------------------------------------------------------------------------------------------------------


def _table(window: _Window, template: str, split: Split, tally: Tally) -> pa.Table:
    """The posts of a window in POST, their bodies as text."""
    rows = window.rows[window.chosen]
    is_canary = rows[:, posts.ID] >= posts.CANARY_ID
    is_answer = (rows[:, posts.TYPE] == ANSWER) & ~is_canary
    dates, scores = rows[:, posts.DATE], rows[:, posts.SCORE]
    flags = {
        "no_score": int(np.count_nonzero(scores == posts.NONE)),
        "bad_date": int(np.count_nonzero(dates == posts.ODD_DATE)),
    }
    tally.flags.update({kind: n for kind, n in flags.items() if n})
    columns: dict[str, Ints] = {
        "question": np.where(is_answer, rows[:, posts.PARENT], rows[:, posts.ID]),
        "kind": is_answer.astype(np.int64),
        "score": np.where(scores == posts.NONE, 0, scores),
        "id": rows[:, posts.ID],
        "date": dates,
        "accepted": rows[:, posts.ACCEPTED],
        "declared": rows[:, posts.ANSWERS],
        "owner": rows[:, posts.OWNER],
        "license": _license_bits(rows[:, posts.LICENSE], dates),
    }
    numbers = [pa.array(np.ascontiguousarray(columns[name])) for name in NUMBERS]
    return pa.Table.from_arrays([*numbers, *_texts(window, template)], schema=POST)


def _license_bits(stated: Ints, dates: Ints) -> Ints:
    """Bits of LICENSES: what the row says, else what its day says; 0 where neither does."""
    by_day = np.where(dates < FROM_30, 1, np.where(dates < FROM_40, 2, 4))
    by_day = np.where(dates == posts.ODD_DATE, 0, by_day)
    return np.select([stated == 25, stated == 30, stated == 40], [1, 2, 4], by_day).astype(np.int64)


def _texts(window: _Window, template: str) -> list[pa.LargeStringArray]:
    """Titles, tags (as JSON) and texts of the chosen rows."""
    rows, n = window.rows[window.chosen], len(window.chosen)
    pieces = [np.frombuffer(piece.encode(), np.uint8) for piece in TEMPLATES[template]]
    sizes = [rows[:, stop] - rows[:, start] for start, stop in
             ((posts.TITLE, posts.TITLE_END), (posts.TAGS, posts.TAGS_END), (posts.BODY, posts.BODY_END))]  # fmt: skip
    title, tags, body = (np.empty(4 * int(size.sum()) + 80 * n + 64, np.uint8) for size in sizes)
    text = np.empty(len(title) + len(body), np.uint8)
    scratch = np.empty(max(int(size.max()) for size in sizes) + 64, np.uint8)
    ends = [np.zeros(n + 1, np.int64) for _ in range(3)]
    posts.write(
        window.data, window.rows, window.chosen, *pieces, *posts.ELEMENTS, *posts.entities(), posts.low_points(),
        scratch, text, ends[2], title, ends[0], tags, ends[1], *posts.scratch(),
    )  # fmt: skip
    found = zip((title, tags, text), ends, strict=True)
    return [from_buffers(data[: end[n]].copy(), end) for data, end in found]


# -- the join --------------------------------------------------------------------------------------------------------


@dataclass
class _Runs:
    """Posts on their way to their questions: in memory, and in sorted runs on disk once there are too many."""

    scratch: str | None
    run_bytes: int
    max_document_bytes: int
    tally: Tally
    waiting: list[pa.Table] = field(default_factory=list)
    size: int = 0
    file: IO[bytes] | None = None
    writer: pa.ipc.RecordBatchFileWriter | None = None
    firsts: list[int] = field(default_factory=list)  # first question of each block
    sizes: list[int] = field(default_factory=list)  # bytes of each block

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, table: pa.Table) -> None:
        """Take posts in."""
        self.waiting.append(table)
        self.size += table.nbytes
        if self.size >= self.run_bytes:
            self._spill()

    def _sorted(self) -> pa.Table:
        table = _sorted(pa.concat_tables(self.waiting) if self.waiting else POST.empty_table())
        self.waiting, self.size = [], 0
        return table

    def _spill(self) -> None:
        """Write what is waiting as a run, block by block."""
        if self.writer is None:
            self.file = tempfile.TemporaryFile(dir=self.scratch)
            self.writer = pa.ipc.new_file(self.file, POST, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        table = self._sorted()
        if not table.num_rows:
            return
        questions = table["question"].chunk(0).to_numpy()
        ends = np.cumsum(_sizes(table))
        for start, stop in _blocks(ends):
            self.writer.write_table(table.slice(start, stop - start), max_chunksize=stop - start)
            self.firsts.append(int(questions[start]))
            self.sizes.append(int(ends[stop - 1] - (ends[start - 1] if start else 0)))

    def tables(self) -> Iterator[pa.Table]:
        """All posts in order; those of one question are in one table."""
        if self.writer is None:
            yield self._sorted()
            return
        self._spill()
        self.writer.close()
        reader = pa.ipc.open_file(self.file)
        order = np.argsort(np.array(self.firsts), kind="stable").tolist()
        carry, at = POST.empty_table(), 0
        while at < len(order):
            blocks, size = [], 0
            while at < len(order) and size < STEP:
                blocks.append(reader.get_batch(order[at]))
                size += self.sizes[order[at]]
                at += 1
            table = _sorted(pa.concat_tables([carry, pa.Table.from_batches(blocks)]))
            if at == len(order):
                yield table
                return
            done = int(np.searchsorted(table["question"].chunk(0).to_numpy(), self.firsts[order[at]]))
            yield table.slice(0, done)
            carry = _within(table.slice(done), self.max_document_bytes, self.tally)


def _sorted(table: pa.Table) -> pa.Table:
    """By question; the question first, then answers by score, descending, and by id."""
    table = table.combine_chunks()
    if not table.num_rows:
        return table
    question, kind, score, one = (table[n].chunk(0).to_numpy() for n in ("question", "kind", "score", "id"))
    order = np.lexsort((one, -score, kind, question))
    if (order[1:] > order[:-1]).all():
        return table
    return table.take(pa.array(order)).combine_chunks()


def _sizes(table: pa.Table) -> Ints:
    """Bytes of each post."""
    _, text = buffers(table["text"])
    _, title = buffers(table["title"])
    return np.diff(text) + np.diff(title) + OVERHEAD


def _blocks(ends: Ints) -> Iterable[tuple[int, int]]:
    """(first, behind the last) row of blocks of about BLOCK bytes; a post that is larger has one of its own."""
    starts = np.concatenate([[0], ends[:-1]])
    is_cut = np.diff(starts // BLOCK) + np.diff(ends // BLOCK) > 0
    cuts = [0, *(np.flatnonzero(is_cut) + 1).tolist(), len(ends)]
    return itertools.pairwise(cuts)


def _within(table: pa.Table, most: int, tally: Tally) -> pa.Table:
    """The posts without the answers that make a document larger than `most` bytes, which are counted."""
    if table.num_rows < 2:
        return table
    questions = table["question"].chunk(0).to_numpy()
    ends = np.cumsum(_sizes(table))
    if ends[-1] <= most:
        return table
    first = np.concatenate([[True], questions[1:] != questions[:-1]])
    before = np.where(first, np.concatenate([[0], ends[:-1]]), 0)
    keep = (ends - np.maximum.accumulate(before) <= most) | (table["kind"].chunk(0).to_numpy() == 0)
    lost = int(np.count_nonzero(~keep))
    if lost:
        tally.skip("answer_over_limit", lost)
        table = table.filter(pa.array(keep)).combine_chunks()
    return table


# -- documents -------------------------------------------------------------------------------------------------------


def _documents(table: pa.Table, split: Split, batch_bytes: int, tally: Tally) -> Iterator[pa.Table]:
    """The questions of a sorted table with their answers, in tables of about `batch_bytes`."""
    table = _with_question(table, tally)
    if not table.num_rows:
        return
    heads = np.flatnonzero(table["kind"].chunk(0).to_numpy() == 0)
    tally.merged += table.num_rows - len(heads)
    edges = np.append(heads, table.num_rows)
    data, offsets = buffers(table["text"])
    ends = offsets[edges]
    at = 0
    while at < len(heads):
        stop = int(np.searchsorted(ends, ends[at] + batch_bytes))
        stop = min(max(stop, at + 1), len(heads))
        part = table.slice(int(edges[at]), int(edges[stop] - edges[at]))
        texts = from_buffers(data[ends[at] : ends[stop]], ends[at : stop + 1] - ends[at])
        yield _batch(part, edges[at : stop + 1] - edges[at], texts, split)
        at = stop


def _with_question(table: pa.Table, tally: Tally) -> pa.Table:
    """The posts whose question is there; the others are counted."""
    if not table.num_rows:
        return table
    questions, kinds = table["question"].chunk(0).to_numpy(), table["kind"].chunk(0).to_numpy()
    first = np.concatenate([[True], questions[1:] != questions[:-1]])
    has_question = (kinds[first] == 0)[np.cumsum(first) - 1]
    lost = int(np.count_nonzero(~has_question))
    if lost:
        tally.skip("orphan_answer", lost)
        table = table.filter(pa.array(has_question)).combine_chunks()
    return table


def _batch(table: pa.Table, edges: Ints, texts: pa.LargeStringArray, split: Split) -> pa.Table:
    """Documents: rows `edges[i]` to `edges[i + 1]` of the table each."""
    heads = edges[:-1]
    numbers = {name: table[name].chunk(0).to_numpy() for name in NUMBERS}
    bits = np.bitwise_or.reduceat(numbers["license"], heads)
    ids = numbers["id"][heads].tolist()
    titles = table["title"].chunk(0).take(pa.array(heads)).cast(pa.string())
    prefix = f"{StackExchange.name}\0{split.name}\0".encode()
    columns = [
        pa.array([hashlib.blake2b(prefix + b"%d" % x, digest_size=16).hexdigest() for x in ids], pa.string()),
        pa.repeat(pa.scalar(StackExchange.name), len(heads)),
        pa.array([f"https://{split.name}/questions/{x}" for x in ids], pa.string()),
        titles,
        texts,
        pa.array(numbers["date"][heads].view("datetime64[us]"), DOCUMENT.field("date").type),
        pa.nulls(len(heads), pa.string()),
        pa.array(_LICENSE_NAMES).take(pa.array(bits)),
        pa.array(_metas(table, numbers, edges, split), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=DOCUMENT)


_LICENSE_NAMES = [
    " AND ".join(name for i, name in enumerate(LICENSES) if bits >> i & 1) or None for bits in range(1 << len(LICENSES))
]


def _metas(table: pa.Table, numbers: dict[str, Ints], edges: Ints, split: Split) -> list[str]:
    """`meta` of each document."""
    ids, scores = numbers["id"].tolist(), numbers["score"].tolist()
    heads = edges[:-1]
    accepted, declared, owners = (numbers[n][heads].tolist() for n in ("accepted", "declared", "owner"))
    tags = table["tags"].chunk(0).take(pa.array(heads)).to_pylist()
    site = json.dumps(split.name)
    places = edges.tolist()
    metas = []
    for i, tag in enumerate(tags):
        head, stop = places[i], places[i + 1]
        answers = ids[head + 1 : stop]
        taken = accepted[i] if accepted[i] in answers else "null"
        said = declared[i] if declared[i] != posts.NONE else "null"
        owner = owners[i] if owners[i] != posts.NONE else "null"
        metas.append(
            f'{{"site": {site}, "id": {ids[head]}, "score": {scores[head]}, "tags": {tag}, "accepted": {taken}, '
            f'"answers": {len(answers)}, "answer_count": {said}, "answer_ids": {answers}, '
            f'"answer_scores": {scores[head + 1 : stop]}, "owner": {owner}}}'
        )
    return metas
