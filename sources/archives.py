"""Files of an archive or a folder, one after the other, with nothing extracted and nothing trusted.

Tar (plain, gzip, bzip2, xz) is read as a stream by a reader of our own: Python's `tarfile` takes an archive that is cut
between two members for whole (robustness.md 3.4). Zip goes by its central directory. No path is ever opened outside of
the archive, links are not followed, and memory is bounded by one file and one buffer whatever headers say.
"""

from __future__ import annotations

import bz2
import calendar
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from isal import isal_zlib
from isal.igzip_lib import IsalError

CHUNK = 1 << 18
RATIO = 200  # uncompressed bytes a stored byte, beyond the first MiB
FREE = 1 << 20
BLOCK = 512
DOS_EPOCH = 315_532_800  # 1980-01-01, what a zip says where it does not know
MAX_PATH = 4096  # bytes
MAX_DEPTH = 256  # folders
MAX_HEADER = 1 << 20  # bytes of an extended tar header
MAX_DIRECTORY = 64 << 20  # bytes of a zip's central directory
DAMAGED: tuple[type[Exception], ...] = (IsalError, zlib.error, OSError, EOFError, lzma.LZMAError)  # type: ignore[assignment]
BAD_ZIP: tuple[type[Exception], ...] = (
    *DAMAGED,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    OverflowError,
)

FILE, SKIPPED, FAILED = range(3)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. `kind` is FILE (with its data), SKIPPED or FAILED (with the reason)."""

    path: str  # as it stands in the archive, with what is not printable escaped
    kind: int
    data: bytes = b""
    reason: str = ""
    size: int = 0
    modified: int = 0  # seconds since 1970; 0: not known


class BrokenArchive(Exception):
    """The archive as a whole is damaged from here on: `reason` and `value`."""

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(f"{reason}: {value}")
        self.reason, self.value = reason, value


def kind_of(head: bytes) -> str:
    """What a file is by its first 512 bytes: gz, bz2, xz, zip, tar, parquet, or nothing."""
    for magic, kind in (
        (b"\x1f\x8b", "gz"),
        (b"BZh", "bz2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK", "zip"),
        (b"PAR1", "parquet"),
    ):
        if head.startswith(magic):
            return kind
    return "tar" if len(head) >= BLOCK and (head[257:262] == b"ustar" or _checksum_fits(head)) else ""


def escaped(raw: bytes) -> str:
    """A path as text that can be shown and turned back: backslashes are doubled where anything had to be escaped."""
    try:
        text = raw.decode()
        if text.isprintable():
            return text
    except UnicodeDecodeError:
        pass
    parts = raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in parts)


def is_safe(raw: bytes) -> bool:
    """Whether a path stays below the folder that it is relative to, and is of bounded length."""
    parts = raw.replace(b"\\", b"/").split(b"/")
    absolute = raw.startswith((b"/", b"\\")) or raw[1:2] == b":"
    return not absolute and b".." not in parts and b"\0" not in raw and len(raw) <= MAX_PATH and len(parts) <= MAX_DEPTH


# --- compressed streams ------------------------------------------------------------------------------------------


def inflated(file: IO[bytes], kind: str) -> Iterator[bytes]:
    """The bytes of a compressed (or plain) file. BrokenArchive: it is cut, corrupt, or swells beyond RATIO."""
    if kind not in ("gz", "bz2", "xz"):
        while chunk := file.read(CHUNK):
            yield chunk
        return
    make: Callable[[], Any] = {"gz": _gzip, "bz2": bz2.BZ2Decompressor, "xz": _xz}[kind]
    out, data, inflater, members = 0, file.read(CHUNK), make(), 0
    while True:
        try:
            piece = inflater.decompress(data, CHUNK)
        except DAMAGED as error:
            if members and not data.strip(b"\0"):
                return
            raise BrokenArchive("corrupt_member", _line(error)) from None
        data = inflater.unconsumed_tail if kind == "gz" else b""
        out += len(piece)
        if out > FREE + RATIO * file.tell():
            raise BrokenArchive("decompression_limit", f"{out} bytes from {file.tell()}")
        if piece:
            yield piece
        if inflater.eof:
            members += 1
            data = inflater.unused_data or file.read(CHUNK)
            if not data.strip(b"\0") and not (data := _after_zeros(file)):
                return
            inflater = make()
        elif not data and (kind == "gz" or inflater.needs_input):
            data = file.read(CHUNK)
            if not data and not piece:
                raise BrokenArchive("truncated_input", f"a {kind} stream ends at byte {file.tell()}")


def _gzip() -> Any:
    return isal_zlib.decompressobj(31)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=256 << 20)


def _after_zeros(file: IO[bytes]) -> bytes:
    """The next chunk that is not padding; empty at the end."""
    while chunk := file.read(CHUNK):
        if chunk.strip(b"\0"):
            return chunk
    return b""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Reader:
    """Exact numbers of bytes from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.data, self.at, self.total = b"", 0, 0

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end of the stream."""
        if self.at + size <= len(self.data):
            piece = self.data[self.at : self.at + size]
            self.at += size
            self.total += size
            return piece
        pieces, missing = [self.data[self.at :]], size - (len(self.data) - self.at)
        self.data, self.at = b"", 0
        for chunk in self.chunks:
            if len(chunk) >= missing:
                pieces.append(chunk[:missing])
                self.data, self.at = chunk, missing
                break
            pieces.append(chunk)
            missing -= len(chunk)
        made = b"".join(pieces)
        self.total += len(made)
        return made

    def skip(self, size: int) -> bool:
        """Pass over bytes without holding them; False if the stream ends before."""
        while size:
            piece = self.read(min(size, CHUNK))
            if not piece:
                return False
            size -= len(piece)
        return True


# --- tar ---------------------------------------------------------------------------------------------------------


def _checksum_fits(header: bytes) -> bool:
    try:
        given = _number(header[148:156])
    except ValueError:
        return False
    total = sum(header) - sum(header[148:156]) + 256
    high = sum(x > 127 for x in header) - sum(x > 127 for x in header[148:156])
    return given in (total, total - 256 * high)  # some old writers summed signed bytes


def _number(field: bytes) -> int:
    """An octal number of a tar header, or one in base 256. ValueError: neither."""
    if field[:1] in (b"\x80", b"\xff"):
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise ValueError("not octal")
    return int(digits or b"0", 8)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records of an extended header. ValueError: it is malformed."""
    found, at = {}, 0
    while at < len(data) and data[at] != 0:
        size, space, _ = data[at : at + 20].partition(b" ")
        if not space or not size.isdigit() or int(size) <= len(size) + 1:
            raise ValueError("not a pax header")
        key, _, value = data[at + len(size) + 1 : at + int(size)].rstrip(b"\n").partition(b"=")
        found[key] = value
        at += int(size)
    return found


def tar_entries(file: IO[bytes], kind: str, limit: Callable[[str], int], note: dict[str, str]) -> Iterator[Entry]:
    """Members of a tar stream that are not folders, in their order.

    `limit(path)`: bytes up to which a file is read. `note["commit"]`: what git left in the global header, and
    `note["bytes"]` the uncompressed size. BrokenArchive: the archive is no further readable.
    """
    reader = _Reader(inflated(file, kind))
    extended: dict[bytes, bytes] = {}
    try:
        while True:
            header = reader.read(BLOCK)
            if len(header) == BLOCK and not header.strip(b"\0"):
                while reader.skip(CHUNK):  # what follows does not count, but its checksum does
                    pass
                return
            if len(header) < BLOCK:
                raise BrokenArchive("truncated_input", "the archive has no end")
            if not _checksum_fits(header):
                raise BrokenArchive("corrupt_member", f"no tar header at byte {reader.total - BLOCK}")
            entry = _member(header, extended, reader, limit, note)
            if entry is not None:
                extended = {}
                yield entry
    finally:
        note["bytes"] = str(reader.total)


def _member(
    header: bytes, extended: dict[bytes, bytes], reader: _Reader, limit: Callable[[str], int], note: dict[str, str]
) -> Entry | None:
    """One member; None for a header that belongs to the next one, and for a folder."""
    try:
        size, modified = _number(header[124:136]), _number(header[136:148])
        if b"size" in extended:
            size = int(extended[b"size"])
        if not 0 <= size < 1 << 50:
            raise ValueError("size")
    except ValueError:
        raise BrokenArchive("corrupt_member", f"bad number in the header at byte {reader.total - BLOCK}") from None
    what = header[156:157]
    if what in (b"x", b"g", b"L", b"K"):
        _extend(what, _body(reader, size, MAX_HEADER), extended, note)
        return None
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    name = extended.get(b"path", name)
    link = extended.get(b"linkpath", header[157:257].split(b"\0")[0])
    path = escaped(name[: 2 * MAX_PATH])
    is_file = what in (b"0", b"\0", b"7") and not name.endswith(b"/")
    data = _body(reader, size, limit(path) if is_file else 0) if what not in (b"1", b"2") else b""
    if what == b"5" or (what in (b"0", b"\0") and name.endswith(b"/")):
        extended.clear()
        return None
    modified = modified if 0 < modified < 1 << 33 else 0
    if b"GNU.sparse.major" in extended or b"GNU.sparse.map" in extended or what == b"S":
        return Entry(path, FAILED, reason="sparse_file", size=size)
    if not is_safe(name) or not (is_file or what in (b"1", b"2")):
        return Entry(path, FAILED, reason="unsafe_path", size=size)
    if what in (b"1", b"2"):
        folder = name.rpartition(b"/")[0] + b"/" if what == b"2" else b""
        is_inside = _stays(folder + link, link)
        return Entry(path, SKIPPED if is_inside else FAILED, reason="link" if is_inside else "unsafe_path")
    if data is None:
        return Entry(path, SKIPPED, reason="too_large", size=size)
    return Entry(path, FILE, data, size=size, modified=modified)


def _extend(what: bytes, data: bytes | None, extended: dict[bytes, bytes], note: dict[str, str]) -> None:
    """Take up an extended header. BrokenArchive: it is too long or malformed."""
    try:
        if data is None:
            raise ValueError("too long")
        if what in (b"L", b"K"):
            extended[b"path" if what == b"L" else b"linkpath"] = data.split(b"\0")[0]
        elif what == b"x":
            extended.update(_pax(data))
        elif b"comment" in (found := _pax(data)):
            note["commit"] = found[b"comment"][:64].decode("ascii", "replace")
    except ValueError as error:
        raise BrokenArchive("corrupt_member", f"extended header: {error}") from None


def _body(reader: _Reader, size: int, limit: int) -> bytes | None:
    """The bytes of a member; None, and passed over, if they are more than `limit`."""
    padded = -(-size // BLOCK) * BLOCK
    data = reader.read(padded)[:size] if size <= limit else None
    if (data is None and not reader.skip(padded)) or (data is not None and len(data) < size):
        raise BrokenArchive("truncated_input", "the archive ends inside a member")
    return data


def _stays(target: bytes, link: bytes) -> bool:
    """Whether a link leads to a place inside the archive."""
    if link.startswith((b"/", b"\\")) or b"\0" in link or len(target) > 2 * MAX_PATH:
        return False
    depth = 0
    for part in target.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        if depth < 0:
            return False
    return True


# --- zip ---------------------------------------------------------------------------------------------------------


def zip_entries(file: IO[bytes], limit: Callable[[str], int], note: dict[str, str]) -> Iterator[Entry]:
    """Members of a zip that are not folders, in the order of its directory. BrokenArchive: that is not sound."""
    _check_directory(file)
    total = 0
    try:
        with zipfile.ZipFile(file) as archive:
            note["commit"] = archive.comment[:64].decode("ascii", "replace") if len(archive.comment) == 40 else ""
            for info in archive.infolist():
                raw = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "surrogateescape")
                if not info.filename.endswith("/"):
                    entry = _zipped(archive, info, raw, limit)
                    total += len(entry.data)
                    yield entry
    except BAD_ZIP as error:
        raise BrokenArchive("corrupt_member", _line(error)) from None
    finally:
        note["bytes"] = str(total)


def _check_directory(file: IO[bytes]) -> None:
    """BrokenArchive unless the directory at the end is of bounded size; `zipfile` reads it whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise BrokenArchive("truncated_input", "a zip without its directory")
    stated = int(struct.unpack_from("<L", tail, at + 12)[0])
    if (stated != 0xFFFFFFFF and stated > MAX_DIRECTORY) or (stated == 0xFFFFFFFF and size > MAX_DIRECTORY):
        raise BrokenArchive("too_many_members", f"a directory of {stated} bytes")


def _zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: bytes, limit: Callable[[str], int]) -> Entry:
    path, mode = escaped(raw[: 2 * MAX_PATH]), info.external_attr >> 16
    if not is_safe(raw) or (stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK)):
        return Entry(path, FAILED, reason="unsafe_path")
    if stat.S_ISLNK(mode):
        return Entry(path, SKIPPED, reason="link")
    if info.flag_bits & 0x1:
        return Entry(path, FAILED, reason="encrypted")
    most = limit(path)
    if info.file_size > most:
        return Entry(path, SKIPPED, reason="too_large", size=info.file_size)
    if info.file_size > FREE + RATIO * info.compress_size:
        return Entry(path, FAILED, reason="decompression_limit", size=info.file_size)
    try:
        with archive.open(info) as member:
            data = member.read(most + 1)
    except BAD_ZIP:
        return Entry(path, FAILED, reason="corrupt_member")
    if len(data) != info.file_size:
        return Entry(path, FAILED, reason="decompression_limit" if len(data) > info.file_size else "corrupt_member")
    try:
        modified = calendar.timegm((*info.date_time, 0, 0, 0))
    except (ValueError, OverflowError):
        modified = 0
    return Entry(path, FILE, data, size=len(data), modified=modified if modified > DOS_EPOCH else 0)


# --- folders -----------------------------------------------------------------------------------------------------


def folder_entries(root: str, limit: Callable[[str], int]) -> Iterator[Entry]:
    """Files below a folder, sorted by path. Links are not followed, devices not opened, deep trees cut at MAX_DEPTH."""
    waiting = [(os.fsencode(root), b"", 0)]
    while waiting:
        place, prefix, depth = waiting.pop()
        try:
            found = sorted(os.scandir(place), key=lambda e: e.name)
        except OSError:
            yield Entry(escaped(prefix), FAILED, reason="unreadable")
            continue
        folders = []
        for item in found:
            name = prefix + item.name
            if item.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    folders.append((item.path, name + b"/", depth + 1))
                else:
                    yield Entry(escaped(name), FAILED, reason="unsafe_path")
            else:
                yield _on_disk(item, name, limit)
        waiting.extend(reversed(folders))


def _on_disk(item: os.DirEntry[bytes], name: bytes, limit: Callable[[str], int]) -> Entry:
    path = escaped(name)
    if item.is_symlink():
        return Entry(path, SKIPPED, reason="link")
    try:
        about = item.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode):
            return Entry(path, FAILED, reason="unsafe_path")
        if about.st_size > limit(path):
            return Entry(path, SKIPPED, reason="too_large", size=about.st_size)
        handle = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb", closefd=True) as file:
            data = file.read(limit(path) + 1)
    except OSError:
        return Entry(path, FAILED, reason="unreadable")
    return Entry(path, FILE, data, size=len(data), modified=int(about.st_mtime))
