"""Books: Project Gutenberg's texts and books of one's own as documents, one a book.

What is read: text (`.txt`, in any encoding), HTML, EPUB, JSON lines, each as a file, compressed (`.gz`, `.zst`), or in
a zip or tar (which is how Project Gutenberg and the Pile's Books3 are kept: `.zip` a book; a tar of `.epub.txt`, or
JSON lines with `text` and `meta`). What a file is, its bytes say first, then its name. `gutenberg:11,1342-1345` reads
books by their numbers, `gutenberg:FILE` those that a file lists, from `mirror`.

The text of an HTML book or an EPUB is its HTML (the files of one book divided by a form feed), which the stage
`book_text` turns into text; what Project Gutenberg puts around a book, the stage `gutenberg` removes.

A record is a book file: a file, a member of an archive, a line of JSON. It ends as exactly one of: a document, skipped
(not a book: an image, a row of another set), merged (a part of an HTML book in several files), failed with one of
REASONS. Nothing is written to disk from an archive, no entity of an XML file is resolved, and no member may be larger
than `max_book_bytes` (robustness.md 2 and 3.6).
"""

from __future__ import annotations

import hashlib
import io as memory
import json
import posixpath
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa
from isal import isal_zlib
from isal.igzip_lib import IsalError

from curate import io
from curate.errors import RecipeError
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from sources.encodings import BadBook, cleaned, decoded
from sources.epub import RATIO, Found, Members, epub_book, html_book, open_zip

SAMPLE = Path(__file__).parent / "samples" / "books"
PLAIN, HTML, EPUB = (".txt", ".text"), (".htm", ".html", ".xhtml"), (".epub",)
ROWS, ARCHIVES = (".jsonl", ".ndjson"), (".zip", ".tar", ".tgz")
PACKED = (".gz", ".zst")
KINDS = (*PLAIN, *HTML, *EPUB, *ROWS, *ARCHIVES)
SUFFIXES = (*KINDS, *(kind + packed for kind in (*PLAIN, *HTML, *ROWS, ".tar") for packed in PACKED))
REASONS = (
    "empty", "encoding", "binary", "not_text", "record_too_large", "decompression_limit", "truncated_input",
    "corrupt_member", "corrupt_archive", "nested_archive", "unsupported_compression", "encrypted", "bad_epub",
    "bad_json", "schema", "lfs_pointer",
)  # fmt: skip
FORMATS = (
    (b"version https://git-lfs", "lfs_pointer"),
    (b"%PDF-", "not_text"), (b"Rar!", "not_text"), (b"7z\xbc\xaf", "not_text"), (b"\x89PNG", "not_text"),
    (b"\xff\xd8\xff", "not_text"),
    (b"{\\rtf", "not_text"), (b"\xd0\xcf\x11\xe0", "not_text"), (b"AT&TFORM", "not_text"),
    (b"BZh", "unsupported_compression"), (b"\xfd7zXZ", "unsupported_compression"),
)  # fmt: skip
BOOK_SETS = ("Books3", "Gutenberg (PG-19)", "BookCorpus", "BookCorpus2")  # of the Pile
PILE_SET = re.compile(r"[\w ()-]{1,40}")
NUMBERS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
MAX_NUMBERS = 200_000
PG_HTML_ZIP = re.compile(r"(?:^|/)\d+-h\.zip$", re.I)
NAMED = re.compile(r"(?:^|/)([^/]+) - ([^/]+?)\.epub\.txt$")  # Books3: "Title - Author.epub.txt"

FREE = 16 << 20  # bytes that a compressed file may hold in any case; beyond them RATIO counts
MAX_BAD_ROWS = 100_000  # of one file; from here on it is no file of rows
MAX_ROWS = 8192  # of a table
BLANK = re.compile(rb"[\r\n]+")
INPUT = 16 << 10  # bytes given to the inflater at once
PIECE = 1 << 20  # bytes decompressed at once
MAX_NAME = 1 << 20  # bytes of a long name in a tar
SPOOLED = 64 << 20  # bytes of a zip from the web that are held in memory; a larger one goes to a temporary file
SHOWN = 200


class _Skip(ValueError):
    """What is not a book, by its kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Books:
    """Books from anywhere, in any of the forms above."""

    name: ClassVar[str] = "books"
    batch_bytes: int = 32 << 20  # text of a table; it ends with the book that reaches it
    max_book_bytes: int = 64 << 20  # of a book, uncompressed
    max_replaced: float = 0.001  # share of the characters of a book that its encoding may fail for
    mirror: str = "https://gutenberg.pglaf.org"  # asked for books by number; www.gutenberg.org wants no programs

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "max_book_bytes"):
            if getattr(self, name) < 1:
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.max_replaced <= 1:
            raise RecipeError(f"source.max_replaced is {self.max_replaced}, must be between 0 and 1")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split a file, named relative to what was given; books by number are named as on the mirror.

        RecipeError: nothing found, two files of one name, a number that is none.
        """
        if not inputs and not SAMPLE.is_dir():
            raise RecipeError(f"the embedded sample is missing: no {SAMPLE}")
        numbers = [n for x in inputs if x.startswith("gutenberg:") for n in _numbers(x.removeprefix("gutenberg:"))]
        files = [x for x in inputs if not x.startswith("gutenberg:")] if inputs else [str(SAMPLE)]
        found = io.expand(files, SUFFIXES) if files else []
        names = [f"cache/epub/{n}/pg{n}.txt" for n in sorted(set(numbers))]
        web = [io.Input(name, f"{self.mirror.rstrip('/')}/{name}", None) for name in names]
        return [Split(item.name, item.path, item.bytes) for item in io.unique([*found, *web])]

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """The books of one file in its order, in tables of about `batch_bytes`.

        SourceError: the file cannot be read. Everything else that is wrong with it is in `tally`.
        """
        stored = _Stored(io.stream(split.path, split.bytes))
        rows: list[dict[str, Any]] = []
        size = 0
        for entry in _entries(self, split, stored, tally):
            try:
                row = _row(self, split, entry, tally)
            except _Skip as other:
                tally.skip(other.kind)
                continue
            except BadBook as bad:
                tally.fail(doc_id(self.name, split.name, entry.key), None, bad.reason, _shown(bad.value))
                continue
            rows.append(row)
            size += len(row["text"])
            if size >= self.batch_bytes or len(rows) == MAX_ROWS:
                yield pa.Table.from_pylist(rows, DOCUMENT)
                rows, size = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, DOCUMENT)
        stored.drain()
        tally.input_digest = stored.sha256.hexdigest()


def _numbers(given: str) -> list[int]:
    """Numbers of books: "11,1342-1345", or a file that lists them, one or more a line."""
    text, what = given, f"gutenberg:{given}"
    if Path(given).is_file():
        text = Path(given).read_text("utf-8", "replace")
    lines = [line.partition("#")[0] for line in text.replace(",", "\n").splitlines()]
    found: list[int] = []
    for word in " ".join(lines).split():
        m = NUMBERS.fullmatch(word)
        if m is None:
            raise RecipeError(f"{what}: {word[:40]!r} is neither a number, a range of them, nor a file that lists them")
        first, last = int(m[1]), int(m[2] or m[1])
        if not 0 < first <= last or len(found) + last - first >= MAX_NUMBERS:
            raise RecipeError(f"{what}: {word!r} is no range of numbers, or there are more than {MAX_NUMBERS}")
        found += range(first, last + 1)
    if not found:
        raise RecipeError(f"{what} names no book")
    return found


class _Stored:
    """The bytes of a file, or of what it holds decompressed, read from front to end."""

    def __init__(self, chunks: Iterator[bytes], is_digested: bool = True) -> None:
        self.chunks, self.is_digested = chunks, is_digested
        self.sha256 = hashlib.sha256()
        self.data = b""
        self.at = 0  # in data
        self.place = 0  # in the file

    def more(self) -> bool:
        """Take the next chunk; False at the end."""
        chunk = next(self.chunks, b"")
        if chunk:
            if self.is_digested:
                self.sha256.update(chunk)
            self.data = self.data[self.at :] + chunk if self.at < len(self.data) else chunk
            self.at = 0
        return bool(chunk)

    def peek(self, n: int) -> bytes:
        """The next `n` bytes, fewer at the end; they stay."""
        while len(self.data) - self.at < n and self.more():
            pass
        return self.data[self.at : self.at + n]

    def some(self, n: int) -> bytes:
        """Up to `n` bytes, none at the end only; `back` can return a part of them."""
        if self.at >= len(self.data) and not self.more():
            return b""
        piece = self.data[self.at : self.at + n]
        self.at += len(piece)
        self.place += len(piece)
        return piece

    def back(self, n: int) -> None:
        """Return the last `n` bytes that `some` gave."""
        self.at -= n
        self.place -= n

    def read(self, n: int) -> bytes:
        """The next `n` bytes, fewer at the end."""
        pieces: list[bytes] = []
        left = n
        while left:
            if self.at >= len(self.data) and not self.more():
                break
            piece = self.data[self.at : self.at + left]
            pieces.append(piece)
            self.at += len(piece)
            left -= len(piece)
        self.place += n - left
        return b"".join(pieces)

    def line(self, limit: int) -> tuple[bytes, int]:
        """(the next line with its end, its size); of one over `limit` bytes the beginning alone."""
        pieces: list[bytes] = []
        size = 0
        while self.at < len(self.data) or self.more():
            end = self.data.find(b"\n", self.at) + 1
            piece = self.data[self.at : end or len(self.data)]
            self.at += len(piece)
            if size <= limit:
                pieces.append(piece)
            size += len(piece)
            if end:
                break
        self.place += size
        return b"".join(pieces), size

    def skip_blank(self) -> int:
        """Pass over line ends; how many bytes they were."""
        size = 0
        while (self.at < len(self.data) or self.more()) and (found := BLANK.match(self.data, self.at)):
            size += found.end() - self.at
            self.at = found.end()
        self.place += size
        return size

    def skip(self, n: int) -> int:
        """Pass over `n` bytes; how many there were."""
        left = n
        while left and (self.at < len(self.data) or self.more()):
            step = min(left, len(self.data) - self.at)
            self.at += step
            left -= step
        self.place += n - left
        return n - left

    def drain(self) -> None:
        """Read to the end, for the digest."""
        self.data, self.at = b"", 0
        while self.more():
            self.data = b""


@dataclass(frozen=True)
class _Entry:
    """One book file as it was found: its bytes or its row, or why there are none."""

    key: str  # of the record in its split
    name: str  # of the file, for its suffix and what it says
    data: bytes = b""
    row: dict[str, Any] | None = None  # of JSON
    parts: tuple[tuple[str, bytes], ...] = ()  # of an HTML book in several files
    found: Found | None = None  # of an EPUB
    error: BadBook | _Skip | None = None


def _entries(source: Books, split: Split, stored: _Stored, tally: Tally) -> Iterator[_Entry]:
    """The book files of one file."""
    head = stored.peek(4)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with _seekable(split, stored) as file:
            yield from _zipped(source, split.name, file, tally)
        return
    opened, name = stored, split.name
    packed = _packing(head)
    if packed:
        name = re.sub(r"\.(?:gz|zst|tgz)$", lambda m: ".tar" if m[0] == ".tgz" else "", name)
        opened = _Stored(_unpacked(stored, packed), is_digested=False)
    try:
        yield from _unpacked_entries(source, name, opened, tally)
    except BadBook as bad:  # what is compressed is damaged, or too much
        tally.damage.append(f"{bad.reason}: {_shown(bad.value)}")
        yield _Entry(f"@{opened.place}", name, error=bad)


def _unpacked_entries(source: Books, name: str, opened: _Stored, tally: Tally) -> Iterator[_Entry]:
    """The book files of a file that is not compressed (any more)."""
    head = opened.peek(512)
    if head.startswith(b"PK\x03\x04") or _packing(head):
        raise BadBook("nested_archive", "compressed more than once")
    if head[257:262] == b"ustar":
        yield from _tarred(source, opened, tally)
    elif name.lower().endswith(ROWS):
        yield from _lines(source, opened, tally)
    else:
        data = opened.read(source.max_book_bytes + 1)
        rest = sum(iter(lambda: opened.skip(PIECE), 0))
        tally.bytes_in += len(data) + rest
        bad = BadBook("record_too_large", f"{len(data) + rest} bytes") if len(data) > source.max_book_bytes else None
        yield _Entry("0", name, b"" if bad else data, error=bad)


def _packing(head: bytes) -> str:
    return "gzip" if head.startswith(b"\x1f\x8b") else "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else ""


def _unpacked(stored: _Stored, packed: str) -> Iterator[bytes]:
    """A file decompressed, piece by piece. BadBook: damaged, cut, or more than RATIO allows."""
    size = 0
    pieces = _inflated(stored) if packed == "gzip" else _decompressed(stored)
    for piece in pieces:
        size += len(piece)
        if size > FREE + RATIO * stored.place:
            raise BadBook("decompression_limit", f"over {RATIO} bytes a stored byte")
        yield piece


def _inflated(stored: _Stored) -> Iterator[bytes]:
    """All members of a gzip file."""
    damaged: type[Exception] = IsalError  # type: ignore[assignment]  # its stub calls the class an instance
    while stored.peek(2):
        if not stored.peek(2).startswith(b"\x1f\x8b"):
            if stored.read(PIECE).strip(b"\0"):
                raise BadBook("corrupt_member", "garbage after the last gzip member")
            continue
        member = isal_zlib.decompressobj(31)
        while not member.eof:
            given = member.unconsumed_tail or stored.some(INPUT)
            if not given:
                raise BadBook("truncated_input", "the file ends in a gzip member")
            try:
                piece = member.decompress(given, PIECE)
            except damaged:
                raise BadBook("corrupt_member", "damaged gzip data") from None
            yield piece
        stored.back(len(member.unused_data))


class _File(memory.RawIOBase):
    """Stored bytes as a file to read."""

    def __init__(self, stored: _Stored) -> None:
        self.stored = stored

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase has it."""
        data = self.stored.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _decompressed(stored: _Stored) -> Iterator[bytes]:
    """All frames of a zstd file."""
    try:
        with pa.CompressedInputStream(pa.PythonFile(_File(stored), "r"), "zstd") as stream:
            while piece := stream.read(PIECE):
                yield piece
    except OSError as error:
        text = str(error)
        raise BadBook("truncated_input" if "runcated" in text else "corrupt_member", f"zstd: {text}") from None


def _lines(source: Books, opened: _Stored, tally: Tally) -> Iterator[_Entry]:
    """Rows of JSON lines; `key` is where a line begins."""
    bad_rows = 0
    while bad_rows < MAX_BAD_ROWS:
        tally.bytes_in += opened.skip_blank()
        key = str(opened.place)
        line, size = opened.line(source.max_book_bytes)
        if not size:
            return
        tally.bytes_in += size
        if not line.strip(b"\xef\xbb\xbf \t\r\n"):
            continue
        try:
            if size > source.max_book_bytes:
                raise BadBook("record_too_large", f"{size} bytes")
            yield _Entry(key, "", row=_json(line))
        except (BadBook, _Skip) as bad:
            bad_rows += isinstance(bad, BadBook)
            yield _Entry(key, "", error=bad)
    raise BadBook("corrupt_archive", f"{MAX_BAD_ROWS} rows that are none")


def _json(line: bytes) -> dict[str, Any]:
    """One row. BadBook: no JSON object, a key twice, no finite number, nested too deeply, no text."""
    if line.startswith(b"version https://git-lfs"):
        raise BadBook("lfs_pointer")
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadBook("bad_json", f"{type(error).__name__}: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise BadBook("schema", "no text" if isinstance(row, dict) else f"a {type(row).__name__}, not an object")
    more = row.get("meta")
    found = {**(more if isinstance(more, dict) else {}), **row}
    pile = found.get("pile_set_name")
    if isinstance(pile, str) and pile not in BOOK_SETS:
        raise _Skip(f"set_{pile}" if PILE_SET.fullmatch(pile) else "set_unknown")
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_book(name: str) -> bool:
    return name.lower().endswith((*PLAIN, *HTML, *EPUB))


def _tarred(source: Books, opened: _Stored, tally: Tally) -> Iterator[_Entry]:
    """Members of a tar (ustar, pax and GNU long names), read from front to end; nothing is written anywhere."""
    long_name = ""
    while True:
        place = opened.place
        block = opened.read(512)
        if len(block) < 512 or not block.strip(b"\0"):
            if len(block) < 512:
                tally.damage.append("truncated_input: a tar without its end mark")
            return
        size = _tar_size(block)
        if size < 0:
            raise BadBook("corrupt_archive", f"no tar header at byte {place}")
        kind = block[156:157]
        if kind in b"LKxg":
            if size > MAX_NAME:
                raise BadBook("corrupt_archive", f"a name of {size} bytes")
            extra = opened.read(size)
            opened.skip(-size % 512)
            long_name = _long_name(kind, extra) or long_name
            continue
        name, long_name = long_name or _tar_name(block), ""
        if kind == b"S":  # a sparse file of GNU tar: a map may follow its header
            more = block[482]
            while more:
                more = (opened.read(512) + bytes(512))[504]
        size = 0 if kind in b"123456" and kind else size
        yield from _tar_member(source, opened, tally, (f"{place}", name, kind, size))
        opened.skip(-size % 512)


def _tar_member(source: Books, opened: _Stored, tally: Tally, head: tuple[str, str, bytes, int]) -> Iterator[_Entry]:
    key, name, kind, size = head
    if kind == b"5" or (kind in (b"0", b"\0") and name.endswith("/")):
        opened.skip(size)
        return
    if kind not in (b"0", b"\0", b"7") or not _is_book(name):
        error: BadBook | _Skip = _Skip("other_file" if kind in (b"0", b"\0", b"7") else "not_a_file")
        tally.bytes_in += opened.skip(size)
        yield _Entry(key, name, error=error)
        return
    is_large = size > source.max_book_bytes
    data = b"" if is_large else opened.read(size)
    there = opened.skip(size) if is_large else len(data)
    tally.bytes_in += there
    if there < size:
        raise BadBook("truncated_input", f"the tar ends in {name}")
    yield _Entry(key, name, data, error=BadBook("record_too_large", f"{size} bytes") if is_large else None)


def _tar_size(block: bytes) -> int:
    """Size of a member's data; -1 where the block is no header."""
    total = sum(block) - sum(block[148:156]) + 8 * 32
    told = _octal(block[148:156])
    return _octal(block[124:136]) if total == told else -1


def _octal(field_: bytes) -> int:
    """A number of a tar header: octal digits, or base 256 where its first bit is set; -1 for neither."""
    if field_[:1] == b"\x80":
        return int.from_bytes(field_[1:], "big")
    digits = field_.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]*", digits) and digits else 0 if not digits else -1


def _tar_name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "backslashreplace")


def _long_name(kind: bytes, extra: bytes) -> str:
    """The name that a GNU or pax header gives; empty for none."""
    if kind == b"L":
        return extra.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    found = re.search(rb"(?:^|\n)\d{1,9} path=([^\n]*)\n", extra) if kind == b"x" else None
    return found[1].decode("utf-8", "backslashreplace") if found else ""


def _seekable(split: Split, stored: _Stored) -> IO[bytes]:
    """A zip as a file; from the web, spooled."""
    if not io.is_remote(split.path):
        stored.drain()
        return open(split.path, "rb")
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOLED)
    while piece := stored.read(PIECE):
        spool.write(piece)
    spool.seek(0)
    return spool


def _zipped(source: Books, name: str, file: IO[bytes], tally: Tally) -> Iterator[_Entry]:
    """The book files of a zip; an EPUB is one."""
    stored = file.seek(0, 2)
    try:
        archive = open_zip(file)
    except BadBook as bad:
        tally.bytes_in += stored
        tally.damage.append(f"{bad.reason}: {_shown(bad.value)}")
        yield _Entry("0", name, error=bad)
        return
    infos = {str(i): info for i, info in enumerate(archive.infolist()) if not info.filename.endswith("/")}
    members = Members(archive, source.max_book_bytes, stored, tally)
    if "META-INF/container.xml" in archive.NameToInfo or name.lower().endswith(EPUB):
        yield _epub_entry("0", name, members)
        return
    if not infos:
        yield _Entry("0", name, error=BadBook("empty", "a zip without a file"))
    pages = [i for i in infos.values() if i.filename.lower().endswith(HTML)] if PG_HTML_ZIP.search(name) else []
    if len(pages) > 1:
        yield _html_entry(name, pages, members, tally)
    done = {id(info) for info in pages} if len(pages) > 1 else set()
    for key, info in infos.items():
        if id(info) not in done:
            yield _member_entry(key, info, members)


def _member_entry(key: str, info: zipfile.ZipInfo, members: Members) -> _Entry:
    lower = info.filename.lower()
    try:
        if lower.endswith(ARCHIVES):
            raise BadBook("nested_archive", info.filename)
        if not _is_book(lower):
            raise _Skip("other_file")
        return _Entry(key, info.filename, members.read(info))
    except (BadBook, _Skip) as error:
        return _Entry(key, info.filename, error=error)


def _html_entry(name: str, pages: list[zipfile.ZipInfo], members: Members, tally: Tally) -> _Entry:
    """One book of several HTML files: the one named after the zip first, the others by name with numbers as numbers."""
    main = posixpath.basename(name)[: -len(".zip")].lower()
    pages = sorted(
        pages, key=lambda i: (not posixpath.basename(i.filename).lower().startswith(main), _natural(i.filename))
    )
    tally.merged += len(pages) - 1
    try:
        parts: list[tuple[str, bytes]] = []
        left = members.limit
        for info in pages:
            parts.append((info.filename, members.read(info, left)))
            left -= len(parts[-1][1])
        return _Entry("html", pages[0].filename, parts=tuple(parts))
    except BadBook as error:
        return _Entry("html", pages[0].filename, error=error)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(x), "") if x.isdigit() else (-1, x) for x in re.findall(r"\d{1,12}|\D+", name.lower()) if x]


def _epub_entry(key: str, name: str, members: Members) -> _Entry:
    try:
        return _Entry(key, name, found=epub_book(members))
    except BadBook as error:
        return _Entry(key, name, error=error)


def _row(source: Books, split: Split, entry: _Entry, tally: Tally) -> dict[str, Any]:
    """The document of one book file. BadBook, _Skip: why there is none."""
    if entry.error is not None:
        raise entry.error
    found = entry.found or _found(source, entry)
    known = found.known
    if not found.text or found.text.isspace():
        raise BadBook("empty", f"{len(found.text)} characters")
    tally.flags.update(found.flags)
    named = NAMED.search(entry.name)
    if named and not known.get("title"):
        known |= {"title": named[1].replace("_ ", ": "), "author": named[2]}
    inner = {"file": entry.name} if entry.name and entry.name != split.name else {}
    told = {k: known[k] for k in ("author", "language") if known.get(k)}
    return {
        "doc_id": doc_id(source.name, split.name, entry.key),
        "source": source.name,
        "url": known.get("url"),
        "title": known.get("title"),
        "text": found.text,
        "date": _date(known.get("date")),
        "lang": _lang(known.get("language")),
        "license": known.get("license"),
        "meta": json.dumps({**inner, **found.meta, **told}, ensure_ascii=False),
    }


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    """What a row of JSON says of its book, under the names that the Pile, PG-19 and RedPajama have for it."""
    names = {
        "title": ("title", "short_book_title"),
        "author": ("author", "authors", "creator"),
        "url": ("url",),
        "date": ("publication_date", "date"),
        "language": ("language", "lang"),
        "license": ("license", "licence"),
    }
    return {
        key: value for key, told in names.items() if (value := next(filter(None, map(_plain, map(row.get, told))), ""))
    }


def _plain(value: Any) -> str:
    """A value of JSON as a line; of a list its parts."""
    values = value if isinstance(value, list) else [value]
    parts = [str(x) for x in values[:20] if isinstance(x, (str, int)) and not isinstance(x, bool)]
    return " ".join("; ".join(parts).encode("utf-8", "replace").decode()[:1000].split())


def _found(source: Books, entry: _Entry) -> Found:
    """What one book file holds."""
    if entry.row is not None:
        flags: list[str] = []
        text = cleaned(entry.row["text"], flags)
        return Found(text, {"format": "jsonl"}, flags, _from_row(entry.row))
    if entry.parts:
        return html_book(entry.parts)
    data, name = entry.data, entry.name.lower()
    if data.startswith(b"PK\x03\x04") and name.endswith(EPUB):  # in a tar or a zip
        with open_zip(memory.BytesIO(data)) as archive:
            return epub_book(Members(archive, source.max_book_bytes, len(data), Tally()))
    _refuse_others(data, name)
    if name.endswith(HTML):
        return html_book(((entry.name, data),))
    if BEGINS_HTML.match(data):
        raise BadBook("not_text", "HTML under the name of a text")
    text, charset, flags = decoded(data, source.max_replaced)
    return Found(text, {"format": "txt", "charset": charset}, flags)


def _refuse_others(data: bytes, name: str) -> None:
    """BadBook for what is neither text nor HTML."""
    if not data:
        raise BadBook("empty", "0 bytes")
    reason = next((why for magic, why in FORMATS if data.startswith(magic)), "")
    if reason or data[60:68] == b"BOOKMOBI":
        raise BadBook(reason or "not_text", data[:8].decode("latin-1"))
    if data.startswith(b"PK\x03\x04") or _packing(data):
        raise BadBook("nested_archive", name)
    if BEGINS_JSON.match(data):  # rows of another source, or a catalogue
        raise BadBook("not_text", "JSON under the name of a text")
    if name.endswith(EPUB):
        raise BadBook("bad_epub", "not a zip")


BEGINS_JSON = re.compile(rb"[\s\xef\xbb\xbf\[]{0,64}\{\s{0,64}\"[^\"\n]{1,80}\"\s{0,64}:")
BEGINS_HTML = re.compile(rb"[\s\xef\xbb\xbf]{0,64}<(?:!doctype\s+html|html|head|body)\b", re.I)


def _date(value: Any) -> datetime | None:
    """Of "1897", "1897-05", an ISO 8601 date with or without a time; None for anything else."""
    text = str(value or "").strip()
    if re.fullmatch(r"\d{4}(?:-\d\d)?", text):
        text = f"{text}-01-01"[:10]
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)


LONG_CODES = {
    "eng": "en", "fre": "fr", "fra": "fr", "ger": "de", "deu": "de", "spa": "es", "ita": "it", "por": "pt", "dut": "nl",
    "nld": "nl", "rus": "ru", "fin": "fi", "swe": "sv", "dan": "da", "nor": "no", "pol": "pl", "lat": "la", "chi": "zh",
    "zho": "zh", "jpn": "ja", "gre": "el", "ell": "el", "hun": "hu", "cze": "cs", "ces": "cs",
}  # fmt: skip


def _lang(value: Any) -> str | None:
    """The language of a tag like "en-GB" or "eng"; None where there is none."""
    found = re.match(r"([a-zA-Z]{2,3})(?![a-zA-Z])", str(value or "").strip())
    code = found[1].lower() if found else ""
    return None if code in ("", "und", "mul", "zxx") else LONG_CODES.get(code, code)


def _shown(value: str) -> str:
    """The beginning of a value as text that is safe to print."""
    text = value[:SHOWN]
    return text if text.isprintable() else text.encode("unicode_escape").decode()
