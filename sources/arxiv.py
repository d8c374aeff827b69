"""arXiv: the LaTeX of submissions as documents, one each, joined from their files.

Inputs are arXiv's monthly archives (`src/arXiv_src_YYMM_NNN.tar`, from the requester-pays bucket `arxiv`: a tar of one
`.gz` a submission, of `.pdf` where there is no source), single submissions (`.gz` as arXiv serves them: a tar or one
file; `.tar.gz`; `.tex`) and folders of any of them. What a file is, its bytes say, not its name.

A submission becomes one text: the main file, with `\\input` and its like put in from the same archive and from nowhere
else, without comments, in UTF-8. Nothing is unpacked to disk, no TeX is run. Definitions of the paper's own packages
(`\\usepackage` of a `.sty` in the archive) stand behind the command that loads them. The stage `latex` expands the
macros and takes the body. Limits: robustness.md sections 2 and 3.7.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from isal import isal_zlib

from curate import io
from curate.errors import RecipeError
from curate.kernels import latex
from curate.schema import DOCUMENT, doc_id
from curate.stage import Split, Tally
from curate.store import file_digest

SAMPLE = Path(__file__).parent / "samples" / "arxiv"
SUFFIXES = (".tar", ".gz", ".tgz", ".tex")
BUNDLED = (".gz", ".tgz", ".pdf", ".ps", ".html", ".docx")  # what the members of a monthly archive end in
NEW_ID = re.compile(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})(v\d{1,3})?")
OLD_ID = re.compile(r"([a-z][a-z-]{1,15})(?:\.[A-Z]{2})?[/_]?(\d\d)(0[1-9]|1[0-2])(\d{3})(v\d{1,3})?")
BLOCK = 512
PIECE = 1 << 20  # bytes inflated at a time
RATIO, FREE = 200, 1 << 20  # a gzip may make RATIO bytes of one, beyond the first FREE
MAX_MEMBERS, MAX_NAME, MAX_PAX = 10_000, 4096, 1 << 20
MAX_DEPTH, MAX_INPUTS = 32, 10_000
MAX_PACKAGE = 128 << 10  # bytes of a .sty that is read for definitions: larger ones are published packages
# Members that hold no text of a paper. Everything else is held until the main file has said what it wants.
OTHER = frozenset(
    re.findall(
        r"\S+",
        "pdf html ps eps epsi png jpg jpeg gif svg tif tiff bmp bib bst bbx cbx lbx ist zip gz tgz bz2 xz 7z rar mov "
        "htm mp4 avi mp3 wav csv tsv dat xls xlsx doc docx ppt pptx npy npz mat h5 pkl ttf otf pfb tfm vf fd map aux "
        "log toc out synctex blg fls fdb_latexmk py ipynb c cpp h java js css ds_store cls clo dtx ins m nb r json xml",
    )
)
MAIN = ("tex", "ltx", "latex", "")  # endings of a main file
CLASS = re.compile(rb"^[^%\n\\]*\\document(?:class|style)\b\s*(?:\[[^\]]{0,4000}\]\s*)?\{([^}\n]{0,200})\}", re.M)
BODY = re.compile(rb"^[^%\n]*\\begin\s*\{document\}", re.M)
PLAIN = re.compile(
    rb"^[^%\n]*\\(?:bye\b|magnification\b|input\s+(?:amstex|amsppt|harvmac|phyzzx|eplain|lanlmac)\b)", re.M
)
ASIDE = re.compile(
    r"response|reply|referee|rebuttal|cover|letter|supp|template|sample|diff|old|backup|standalone", re.I
)
USUAL = re.compile(r"(?:main|ms|paper|article|manuscript|arxiv)", re.I)
GROUP = re.compile(rb"\s*(?:\[[^\]]{0,65536}\]\s*)?\{([^{}]{0,8192})\}")
BARE = re.compile(rb"[ \t]+([^\s\\{}%]{1,400})")
INPUTENC = re.compile(
    rb"\\usepackage\s*\[([^\]]{1,80})\]\s*\{(?:inputenc|inputenx)\}|\\inputencoding\s*\{([^}]{1,40})\}"
)
CJK = re.compile(rb"\\begin\s*\{CJK\*?\}\s*(?:\[[^\]]{0,20}\])?\s*\{([A-Za-z0-9-]{2,10})\}")
LICENSE = re.compile(
    rb"\\usepackage\s*\[([^\]]{1,300})\]\s*\{doclicense\}|pdflicenseurl\s*=\s*\{?\s*https?://creativecommons\.org/"
    rb"(licenses|publicdomain)/([a-z-]{2,12})/(\d\.\d)"
)
NEW_VERBATIM = re.compile(
    rb"\\(?:lstnewenvironment|newminted|DefineVerbatimEnvironment|newtcblisting)\s*(?:\[[^\]]{0,200}\])?\{([A-Za-z*@]{1,60})\}"
)
CODECS = {
    "latin1": "cp1252", "latin9": "iso8859-15", "latin2": "iso8859-2", "latin3": "iso8859-3", "latin4": "iso8859-4",
    "latin5": "iso8859-9", "latin10": "iso8859-16", "ansinew": "cp1252", "cp1252": "cp1252", "cp1250": "cp1250",
    "cp1251": "cp1251", "cp1257": "cp1257", "cp437": "cp437", "cp850": "cp850", "cp852": "cp852", "cp866": "cp866",
    "koi8-r": "koi8-r", "koi8-u": "koi8-u", "applemac": "mac-roman", "maccyr": "mac-cyrillic", "iso88595": "iso8859-5",
    "gbk": "gbk", "gb": "gb2312",
    "bg5": "big5", "sjis": "shift-jis", "jis": "euc-jp", "euc-jp": "euc-jp", "ks": "euc-kr",
}  # fmt: skip
REASONS = (
    "truncated_input", "bad_gzip", "bad_tar", "decompression_limit", "too_many_members", "record_too_large", "no_main",
    "binary", "unknown_format",
)  # fmt: skip


@dataclass(frozen=True)
class Arxiv:
    """Submissions of arXiv, or of anybody who packs them alike.

    A submission fails with one of REASONS, or is skipped as `pdf_only`, `postscript`, `html`, `docx`, `withdrawn`.
    `meta`: id, version, main (the main file), files (that went into the text), encodings (other than UTF-8).
    `url`, `date` (the month of the id) and `license` (declared with doclicense or pdflicenseurl) where they are known.
    """

    name: ClassVar[str] = "arxiv"
    batch_bytes: int = 32 << 20  # text of a table
    max_inflated_bytes: int = 512 << 20  # of a submission, figures included
    max_file_bytes: int = 20 << 20  # of one file of LaTeX, and of all that are joined
    max_held_bytes: int = 64 << 20  # of all files of a submission that may be LaTeX

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "max_inflated_bytes", "max_file_bytes", "max_held_bytes"):
            if getattr(self, name) < 1:
                raise RecipeError(f"source.{name} is {getattr(self, name)}, must be at least 1")

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """One split a file, and one for each folder that is an unpacked submission (one main file, others beside it).

        RecipeError: nothing found, or two files of one name.
        """
        if not inputs and not any(SAMPLE.glob("*.tar")):
            raise RecipeError(f"the embedded sample is missing: no *.tar in {SAMPLE}")
        found = io.expand(inputs or [str(SAMPLE)], SUFFIXES)
        folders = [f for given in inputs for f in _unpacked(Path(given).expanduser())]
        inside = tuple(f"{f.resolve()}{os.sep}" for _, f in folders)
        loose = [x for x in found if io.is_remote(x.path) or not _place(x.path).startswith(inside)]
        whole = [io.Input(name, str(folder), None) for name, folder in folders]
        return [Split(item.name, item.path, item.bytes) for item in io.unique([*loose, *whole])]

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """The submissions of one file, in file order, in tables of about `batch_bytes`.

        SourceError: the file cannot be read. Everything else that is wrong with it is in `tally`.
        """
        stored, is_folder = hashlib.sha256(), not io.is_remote(split.path) and Path(split.path).is_dir()
        content = _packed(Path(split.path)) if is_folder else io.stream(split.path, split.bytes)
        chunks = _hashed(content, stored)
        rows: list[dict[str, Any]] = []
        size = 0
        for name, outcome in _submissions(self, split.name, _Reader(chunks), tally):
            row = _document(self, split, name, outcome, tally)
            if row is not None:
                rows.append(row)
                size += len(row["text"])
            if size >= self.batch_bytes:
                yield _table(rows)
                rows, size = [], 0
        for _ in chunks:
            pass
        tally.input_digest = file_digest(Path(split.path))[1] if is_folder else stored.hexdigest()
        if rows:
            yield _table(rows)


def _place(path: str) -> str:
    """Where a file, or a link, itself lies."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _unpacked(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the unpacked submissions in a folder: one file of a document class, other LaTeX beside it.

    Many such files in one folder are papers of one file each. Links are not followed.
    """
    for place, below, names in os.walk(folder):
        below.sort()
        here = Path(place)
        sources = [here / n for n in names if n.lower().endswith(".tex")]
        others = [p for p in here.rglob("*.tex") if p.is_file() and not p.is_symlink()]
        if sources and len(others) > 1 and sum(map(_has_class, sources)) == 1:
            below.clear()
            yield (here.relative_to(folder).as_posix() if here != folder else here.resolve().name), here


def _has_class(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return CLASS.search(file.read(PIECE)) is not None


def _packed(folder: Path) -> Iterator[bytes]:
    """The regular files of a folder as a tar, so that what is read of a submission does not depend on its packing."""
    for place, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.is_symlink() or not path.is_file():
                continue
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = left = path.stat().st_size
            yield entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            with open(path, "rb") as file:
                while left and (piece := file.read(min(left, PIECE))):
                    left -= len(piece)
                    yield piece
            yield bytes(left + -entry.size % BLOCK)  # zeros for what a file has lost while it was read
    yield bytes(2 * BLOCK)


class _Bad(Exception):
    """A submission that is lost: reason, value."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason, value)
        self.reason, self.value = reason, value


class _Skip(Exception):
    """A submission that is not of the wanted kind."""


@dataclass
class _Paper:
    """The files of a submission that may be LaTeX, and what they became."""

    files: dict[str, bytes]
    kinds: Counter[str] = field(default_factory=Counter)  # endings of the members that are not held
    flags: Counter[str] = field(default_factory=Counter)


def _hashed(chunks: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


class _Reader:
    """Bytes of an iterator of chunks, by number."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.head, self.at, self.place = chunks, b"", 0, 0

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay; fewer at the end."""
        while len(self.head) - self.at < size:
            chunk = next(self.chunks, b"")
            if not chunk:
                break
            self.head, self.at = self.head[self.at :] + chunk, 0
        return self.head[self.at : self.at + size]

    def some(self, size: int) -> bytes:
        """At least one and at most `size` bytes; none at the end."""
        found = self.head[self.at : self.at + size] or self.peek(1)[:0] or self.head[self.at : self.at + size]
        self.at += len(found)
        self.place += len(found)
        return found

    def take(self, size: int) -> bytes:
        """That many bytes, or `_Bad` where the input ends."""
        parts: list[bytes] = []
        while size > 0:
            part = self.some(size)
            if not part:
                raise _Bad("truncated_input", f"{size} bytes are missing")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over that many bytes, or `_Bad` where the input ends."""
        while size > 0:
            passed = len(self.some(size))
            if not passed:
                raise _Bad("truncated_input", f"{size} bytes are missing")
            size -= passed

    def rest(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes in pieces; `_Bad` where the input ends."""
        while size > 0:
            part = self.some(size)
            if not part:
                raise _Bad("truncated_input", f"{size} bytes are missing")
            size -= len(part)
            yield part


def _inflated(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The content of gzip members in pieces of about PIECE bytes; `_Bad` where it is damaged or too much."""
    inflater, stored, made, is_open = isal_zlib.decompressobj(wbits=31), 0, 0, False
    for chunk in chunks:
        stored += len(chunk)
        while chunk:
            try:
                piece = inflater.decompress(chunk, PIECE)
            except isal_zlib.error as error:  # type: ignore[misc]
                raise _Bad("bad_gzip", str(error)[:200]) from None
            made, is_open = made + len(piece), not inflater.eof
            if made > limit or made > FREE + RATIO * stored:
                raise _Bad("decompression_limit", f"over {made} bytes from {stored}")
            if piece:
                yield piece
            chunk = inflater.unconsumed_tail
            if inflater.eof:
                chunk = inflater.unused_data
                if not chunk.startswith(b"\x1f\x8b"):  # padding, or nothing
                    break
                inflater = isal_zlib.decompressobj(wbits=31)
    while is_open:  # what the inflater has not given out yet
        piece = inflater.decompress(b"", PIECE)
        made, is_open = made + len(piece), not inflater.eof
        if made > limit or made > FREE + RATIO * stored:
            raise _Bad("decompression_limit", f"over {made} bytes from {stored}")
        if not piece:
            raise _Bad("truncated_input", f"after {made} bytes")
        yield piece


def _number(text: bytes) -> int:
    """A number of a tar header: octal, or base 256; -1 for neither."""
    if text[:1] == b"\x80":
        return int.from_bytes(text[1:], "big")
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _is_tar(head: bytes) -> bool:
    """Whether 512 bytes are the header of a tar member, by their own check sum."""
    if len(head) < BLOCK or not head[0]:
        return False
    wanted = _number(head[148:156])
    return wanted == sum(head[:148]) + 8 * 32 + sum(head[156:BLOCK])


def _members(reader: _Reader) -> Iterator[tuple[str, int, bytes]]:
    """(name, size, type) of the members of a tar; what the caller does not read is passed over.

    `_Bad`: `bad_tar`, `truncated_input` (also where the two empty blocks at the end are missing).
    """
    name = ""
    for _ in range(1 << 62):
        head = reader.peek(BLOCK)
        is_end = len(head) == BLOCK and not head.strip(b"\0")
        if is_end and len(reader.peek(2 * BLOCK)) == 2 * BLOCK:
            return
        if is_end or len(head) < BLOCK:
            raise _Bad("truncated_input", "no end of archive")
        size = _number(head[124:136])
        if not _is_tar(head) or size < 0:
            raise _Bad("bad_tar", f"at byte {reader.place}")
        reader.skip(BLOCK)
        end, kind = reader.place + size, head[156:157]
        if kind in (b"L", b"x"):
            found = reader.take(min(size, MAX_PAX))
            name = _long_name(found, kind) or name
        elif kind not in (b"K", b"g"):
            prefix = head[345:500].split(b"\0")[0] if head[257:262] == b"ustar" and head[262:263] == b"\0" else b""
            short = b"/".join(x for x in (prefix, head[:100].split(b"\0")[0]) if x)
            yield name or short.decode("utf-8", "replace"), size, b"0" if kind in (b"\0", b"0", b"7") else kind
            name = ""
        reader.skip(end - reader.place)
        reader.skip(min(-size % BLOCK, len(reader.peek(BLOCK))))


def _long_name(data: bytes, kind: bytes) -> str:
    """The name that a GNU or pax header gives to the next member."""
    if kind == b"x":
        found = re.search(rb"(?:^|\n)\d{1,7} path=([^\n]*)\n", data)
        data = found[1] if found else b""
    return data[:MAX_NAME].split(b"\0")[0].decode("utf-8", "replace")


Opened = Callable[[], _Paper]


def _submissions(source: Arxiv, name: str, reader: _Reader, tally: Tally) -> Iterator[tuple[str, Opened]]:
    """(name, how to open it) of each submission of one file; each has to be opened before the next is asked for."""
    if not _is_tar(reader.peek(BLOCK)):
        if name.endswith(".tar"):
            tally.damage.append("bad_tar: does not begin as one")
            return
        yield name, functools.partial(_open, source, reader, None, tally)
        return
    first = reader.peek(BLOCK)[:100].split(b"\0")[0].lower()
    if not first.endswith((b"/", *(x.encode() for x in BUNDLED))) and not name.startswith("arXiv_src_"):
        yield name, functools.partial(_open, source, reader, None, tally)
        return
    try:
        for member, size, kind in _members(reader):
            if kind == b"0" and not posixpath.basename(member).startswith("._"):
                yield member, functools.partial(_open, source, reader, size, tally)
    except _Bad as bad:
        tally.damage.append(f"{bad.reason}: {bad.value}")


def _open(source: Arxiv, outer: _Reader, size: int | None, tally: Tally) -> _Paper:
    """The files of one submission, which is the next `size` bytes of a reader, or all that is left of it."""
    before = outer.place
    chunks = outer.rest(size) if size is not None else iter(lambda: outer.some(1 << 18), b"")
    reader = _Reader(chunks)
    layers = 0
    try:
        while reader.peek(2) == b"\x1f\x8b" and layers < 2:
            reader = _Reader(_inflated(_all(reader), source.max_inflated_bytes))
            layers += 1
        return _files(source, reader)
    finally:
        tally.bytes_in += reader.place if layers else outer.place - before


def _all(reader: _Reader) -> Iterator[bytes]:
    return iter(lambda: reader.some(1 << 18), b"")


def _files(source: Arxiv, reader: _Reader) -> _Paper:
    """What a submission holds that may be LaTeX. `_Skip`, `_Bad`: it is nothing of that kind."""
    head = reader.peek(BLOCK)
    if not _is_tar(head):
        _refuse(head)
        data = b"".join(_all_up_to(reader, source.max_file_bytes))
        return _Paper({"": data})
    paper = _Paper({})
    held = 0
    try:
        for count, (name, size, kind) in enumerate(_members(reader)):
            if count >= MAX_MEMBERS:
                raise _Bad("too_many_members", f"over {MAX_MEMBERS}")
            path = _path(name)
            if kind != b"0" or not path:
                paper.flags["odd_member"] += kind != b"5" and bool(path.strip("/.") or kind == b"0")
                continue
            ending = _ending(path)
            if (
                (ending in OTHER and not path.startswith("00README"))
                or posixpath.basename(path).startswith("._")
                or path.startswith("__MACOSX/")
            ):
                paper.kinds[ending] += 1
            elif size > source.max_file_bytes:
                paper.kinds["large"] += 1
            else:
                held += size
                if held > source.max_held_bytes:
                    raise _Bad("record_too_large", f"over {source.max_held_bytes} bytes of text")
                paper.files[path] = reader.take(size)
    except _Bad as bad:
        if bad.value != "no end of archive":
            raise
        paper.flags["no_tar_end"] += 1
    for _ in _all(reader):  # the check sum of the gzip stands at its end
        pass
    return paper


def _all_up_to(reader: _Reader, limit: int) -> Iterator[bytes]:
    for piece in _all(reader):
        limit -= len(piece)
        if limit < 0:
            raise _Bad("record_too_large", "one file")
        yield piece


def _refuse(head: bytes) -> None:
    """Raise for what is not text by its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%PDF-"):
        raise _Skip("pdf_only")
    if start.startswith((b"%!PS", b"\x04%!PS", b"\xc5\xd0\xd3\xc6")):
        raise _Skip("postscript")
    if start[:14].lower().startswith((b"<html", b"<!doctype html")):
        raise _Skip("html")
    if start.startswith(b"PK\x03\x04"):
        raise _Skip("docx")
    if start.startswith((b"\x1f\x9d", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"begin 6")) or not start:
        raise _Bad("unknown_format", repr(head[:8]))


def _path(name: str) -> str:
    """A member's name as it is asked for; empty for one that points out of the archive."""
    parts = [x for x in name.split("/") if x not in ("", ".")]
    return "" if ".." in parts or name.startswith("/") or "\0" in name else "/".join(parts)


def _ending(path: str) -> str:
    base = posixpath.basename(path).lower()
    return base.rpartition(".")[2] if "." in base[1:] else ""


def _document(source: Arxiv, split: Split, name: str, opened: Opened, tally: Tally) -> dict[str, Any] | None:
    """The row of one submission; None where it is counted otherwise."""
    known = identify(name)
    key = doc_id(source.name, split.name, known["id"] + known.get("version", "") if known else name)
    url = f"https://arxiv.org/abs/{known['id']}" if known else None
    try:
        paper = opened()
        main = find_main(paper)
        text, used, encodings = join(paper, main, source.max_file_bytes)
        if _is_withdrawn(paper, main):
            raise _Skip("withdrawn")
    except _Skip as other:
        tally.skip(str(other))
        return None
    except _Bad as bad:
        tally.fail(key, url, bad.reason, bad.value)
        if bad.reason == "truncated_input" and name == split.name:
            tally.damage.append(f"truncated_input: {bad.value}")
        return None
    tally.flags.update(paper.flags + Counter(unknown_id=0 if known else 1))
    meta = {**known, "main": main or name, "files": used, **({"encodings": encodings} if encodings else {})}
    date = datetime(int(known["year"]), int(known["month"]), 1, tzinfo=UTC) if known else None
    meta = {k: v for k, v in meta.items() if k not in ("year", "month")}
    shown = json.dumps(meta, ensure_ascii=False)
    row = {"doc_id": key, "source": source.name, "url": url, "text": text, "date": date, "meta": shown}
    return {**row, "license": _license(paper.files[main])}


def identify(name: str) -> dict[str, str]:
    """id, year and month (and version) of an arXiv identifier in a file name; empty where it has none.

    "0704/0704.0001.gz" is 0704.0001, "0001/hep-th0001001.gz" hep-th/0001001.
    """
    stem = re.sub(r"(?:\.tar)?\.(?:gz|tgz|tar|tex|pdf|ps|html|docx)$", "", posixpath.basename(name))
    new, old = NEW_ID.fullmatch(stem), OLD_ID.fullmatch(stem)
    if new and (int(new[1]), int(new[2])) >= (7, 4) and int(new[1]) < 91:
        found = {"id": f"{new[1]}{new[2]}.{new[3]}", "year": f"20{new[1]}", "month": new[2]}
    elif old and (int(old[2]) >= 91 or int(old[2]) <= 7):
        century = "19" if int(old[2]) >= 91 else "20"
        found = {"id": f"{old[1]}/{old[2]}{old[3]}{old[4]}", "year": century + old[2], "month": old[3]}
    else:
        return {}
    version = new[4] if new else old[5] if old else None
    return {**found, **({"version": version} if version else {})}


def find_main(paper: _Paper) -> str:
    """Name of the main file. `_Skip`: there is no LaTeX. `_Bad` `no_main`: none of several is one.

    A file with a class, named by 00README before all others; else one with a body, not a part or a letter, beside
    which a `.bbl` of its name lies, that has a usual name, that lies high, the largest.
    """
    if not paper.files or (list(paper.files) == [""] and not _is_text(paper.files[""])):
        _nothing(paper)
    if list(paper.files) == [""]:
        return ""
    papers = [n for n, data in paper.files.items() if _ending(n) in MAIN or b"\\document" in data[:65536]]
    papers = [n for n in papers if _ending(n) not in ("sty", "bbl", "txt", "md") and _is_text(paper.files[n])]
    told, ignored = _readme(paper.files)
    for name in told:
        if name in paper.files:
            return name
    candidates = [n for n in papers if n not in ignored and CLASS.search(paper.files[n])]
    if not candidates:
        candidates = [n for n in papers if n not in ignored and PLAIN.search(paper.files[n])] or papers[
            : len(papers) == 1
        ]
    if not candidates:
        _nothing(paper)
    return max(candidates, key=lambda n: _rank(paper.files, n))


def _nothing(paper: _Paper) -> None:
    if paper.kinds["pdf"] and not any(_ending(n) == "tex" for n in paper.files):
        raise _Skip("pdf_only")
    if (paper.kinds["ps"] or paper.kinds["eps"]) and not any(_ending(n) == "tex" for n in paper.files):
        raise _Skip("postscript")
    if "" in paper.files:
        raise _Bad("binary", f"{len(paper.files[''])} bytes")
    raise _Bad("no_main", ", ".join(sorted(paper.files))[:200])


def _rank(files: dict[str, bytes], name: str) -> tuple[bool, bool, bool, bool, int, int, str]:
    data, stem = files[name], name.rpartition(".")[0] or name
    of = CLASS.search(data)
    is_part = of is not None and of[1].strip() in (b"subfiles", b"standalone")
    base = posixpath.basename(stem)
    has_list = f"{stem}.bbl" in files
    usual = bool(USUAL.match(base)) and not ASIDE.search(base)
    has_body = BODY.search(data) is not None and not is_part
    return has_body, not ASIDE.search(base), has_list, usual, -name.count("/"), len(data), name


def _readme(files: dict[str, bytes]) -> tuple[list[str], set[str]]:
    """(main files, files to leave out) as 00README.XXX, .json or .yaml says."""
    top: list[str] = []
    out: set[str] = set()
    for name, data in files.items():
        if not posixpath.basename(name).upper().startswith("00README"):
            continue
        text = data[:65536].decode("utf-8", "replace")
        for line in text.splitlines()[:2000]:
            words = line.split()
            if len(words) == 2 and words[1] in ("toplevelfile", "ignore"):
                (top.append if words[1] == "toplevelfile" else out.add)(_path(words[0]))
        pairs = re.findall(r"[\"']?(filename|usage)[\"']?\s*:\s*[\"']?([^\s\"',}]{1,300})", text)
        for (first, one), (second, other) in itertools.pairwise(pairs):
            if {first, second} == {"filename", "usage"} and "toplevel" in (one, other):
                top.append(_path(one if first == "filename" else other))
    return top, out


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:8192] or data[:2] in (b"\xff\xfe", b"\xfe\xff")


def _is_withdrawn(paper: _Paper, main: str) -> bool:
    head = paper.files[main][:4096].lstrip()
    return head.startswith(b"%auto-ignore") and not CLASS.search(paper.files[main])


def _license(data: bytes) -> str | None:
    """SPDX identifier of the licence that a paper declares for itself."""
    found = LICENSE.search(data)
    if not found:
        return None
    if found[1] is None:
        kind, version = found[3].decode(), found[4].decode()
        return f"CC0-{version}" if found[2] == b"publicdomain" else f"CC-{kind.upper()}-{version}"
    options = dict(x.split("=", 1) for x in found[1].decode("ascii", "replace").replace(" ", "").split(",") if "=" in x)
    kind, modifier = options.get("type", "CC").strip("{}"), options.get("modifier", "by").strip("{}")
    if kind == "CC" and "zero" in modifier:
        return "CC0-1.0"
    return f"CC-{modifier.upper()}-{options.get('version', '4.0').strip('{}')}" if kind == "CC" else None


@dataclass
class _Frame:
    """One file that is being put in."""

    name: str
    text: bytes
    events: Any
    folder: str  # what \import has set
    next: int = 0
    place: int = 0


def join(paper: _Paper, main: str, limit: int) -> tuple[bytes, int, list[str]]:
    """(text, files used, encodings other than UTF-8) of a paper from its main file on.

    `_Bad`: `binary`, `record_too_large`. Counted in the flags: what is not there, cycles, encodings, controls.
    """
    reader = _Inputs(paper, main)
    stack = [reader.frame(main, posixpath.dirname(main))]
    pieces: list[bytes] = []
    total = len(stack[0].text)
    while stack:
        frame = stack[-1]
        if frame.next == len(frame.events):
            pieces.append(frame.text[frame.place :])
            stack.pop()
            continue
        kind, begin, end = frame.events[frame.next]
        frame.next += 1
        wanted = reader.wanted(frame, kind, begin, end) if begin >= frame.place else None
        if wanted is None:
            continue
        targets, folder, behind = wanted
        if any(t == f.name for t in targets for f in stack):
            paper.flags["input_cycle"] += 1
            targets = []
        if len(stack) >= MAX_DEPTH or reader.used >= MAX_INPUTS:
            paper.flags["input_limit"] += 1
            continue
        pieces.append(frame.text[frame.place : behind if kind == latex.PACKAGE else begin])
        frame.place = behind
        for target in reversed(targets):
            stack.append(reader.frame(target, folder, only_body=kind == latex.SUBFILE))
            total += len(stack[-1].text)
        if total > limit:
            raise _Bad("record_too_large", f"over {limit} bytes with all its inputs")
    return b"".join(pieces), reader.used, sorted(reader.encodings)


class _Inputs:
    """Finds the files of a paper by the names that LaTeX gives them, and cleans each of them once."""

    def __init__(self, paper: _Paper, main: str) -> None:
        self.paper, self.root = paper, posixpath.dirname(main)
        self.lower = {name.lower(): name for name in sorted(paper.files, reverse=True)}
        self.cleaned: dict[tuple[str, bool], tuple[bytes, Any]] = {}
        self.loaded: set[str] = set()
        self.encodings: set[str] = set()
        self.used = 0
        found = INPUTENC.search(paper.files[main]) or CJK.search(paper.files[main])
        options = next((x for x in found.groups() if x), b"") if found else b""
        self.declared = options.decode("ascii", "replace").lower().strip()
        self.verbatim = verbatim_names(b"\n".join(d for n, d in paper.files.items() if n == main or n.endswith(".sty")))

    def frame(self, name: str, folder: str, only_body: bool = False) -> _Frame:
        """A file, clean, ready to be put in."""
        self.used += 1
        known = self.cleaned.get((name, only_body))
        if known is None:
            known = self.cleaned[name, only_body] = self._clean(name, only_body)
        return _Frame(name, known[0], known[1], folder)

    def _clean(self, name: str, only_body: bool) -> tuple[bytes, Any]:
        data = self.paper.files[name]
        if not _is_text(data):
            if self.used == 1:
                raise _Bad("binary", f"{len(data)} bytes")
            self.paper.flags["binary_input"] += 1
            data = b""
        text, encoding = decode(data, self.declared)
        if encoding:
            self.encodings.add(encoding)
            self.paper.flags["other_encoding"] += 1
        if only_body:
            begin = BODY.search(text)
            text = text[begin.end() :] if begin else text
        found, events, counts = latex.clean(text, self.verbatim)
        self.paper.flags["control_characters"] += bool(counts[latex.CONTROLS])
        self.paper.flags["unclosed"] += int(counts[latex.UNCLOSED])
        if only_body or self.used > 1:
            found = found.removesuffix(b"\\end{document}") if counts[latex.ENDED] else found
        return found, events.tolist()

    def wanted(self, frame: _Frame, kind: int, begin: int, end: int) -> tuple[list[str], str, int] | None:
        """(files, folder for their own imports, place behind the command); None where it stays as it is."""
        group = GROUP.match(frame.text, end)
        if kind == latex.PACKAGE:
            return self._packages(group) if group else None
        if kind in (latex.IMPORT, latex.SUBIMPORT):
            second = GROUP.match(frame.text, group.end()) if group else None
            if not group or not second:
                return None
            base = posixpath.join(frame.folder if kind == latex.SUBIMPORT else self.root, _word(group[1]))
            return self._found(_word(second[1]), [base], base, second.end())
        match = group or (BARE.match(frame.text, end) if kind == latex.INPUT else None)
        if not match:
            return None
        places = [frame.folder, self.root, "", posixpath.dirname(frame.name)]
        return self._found(_word(match[1]), places, frame.folder, match.end())

    def _found(self, name: str, places: list[str], folder: str, behind: int) -> tuple[list[str], str, int] | None:
        target = self.lookup(name, places)
        if target is None:
            self.paper.flags["missing_input"] += 1
            return None
        return [target], folder, behind

    def lookup(self, name: str, places: Sequence[str], endings: Sequence[str] = (".tex", "", ".ltx")) -> str | None:
        """The member that a name means, as it is written or else in any case; None: not in this archive."""
        if not name or name.startswith(("/", "|", "~")) or "\0" in name:
            return None
        for place in dict.fromkeys(places):
            path = posixpath.normpath(posixpath.join(place, name))
            for ending in endings:
                if path + ending in self.paper.files:
                    return path + ending
                if (path + ending).lower() in self.lower:
                    return self.lower[(path + ending).lower()]
        return None

    def _packages(self, group: re.Match[bytes]) -> tuple[list[str], str, int] | None:
        targets: list[str] = []
        for name in group[1].split(b",")[:200]:
            target = self.lookup(_word(name), [self.root, ""], (".sty",))
            if target and target not in self.loaded and len(self.paper.files[target]) <= MAX_PACKAGE:
                self.loaded.add(target)
                targets.append(target)
        return (targets, self.root, group.end()) if targets else None


def _word(name: bytes) -> str:
    return name.decode("utf-8", "replace").strip().strip('"').strip()


def verbatim_names(text: bytes) -> list[bytes]:
    """Environments that a paper declares to be verbatim."""
    return [m for m in dict.fromkeys(NEW_VERBATIM.findall(text)) if m]


def decode(data: bytes, declared: str) -> tuple[bytes, str]:
    """(UTF-8, the encoding it was in if another) of one file. What says to be UTF-8 and is not, is what is declared."""
    if data.isascii():
        return data, ""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").encode("utf-8", "replace"), "utf-16"
    try:
        data.decode()
    except UnicodeDecodeError:
        codec = CODECS.get(declared, "cp1252")
        try:
            return data.decode(codec).encode(), codec
        except UnicodeDecodeError:
            return data.decode("latin-1" if codec == "cp1252" else codec, "replace").encode(), codec
    return data.removeprefix(b"\xef\xbb\xbf"), ""


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in DOCUMENT]
    return pa.Table.from_arrays(columns, schema=DOCUMENT)
