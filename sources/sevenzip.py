"""Files in a 7z archive as streams of bytes. Nothing is written to disk, and no member is held whole.

Only what the dumps of Stack Exchange need: one packed stream a folder, coded by Copy, Deflate, BZip2, LZMA or LZMA2
(also behind the x86 filter, which py7zr puts there by default). Everything else is named and refused. The container
ends with its header, so that a file is needed that can be positioned. Layout: 7zFormat.txt of the LZMA SDK.

py7zr reads more (encryption, PPMd, zstd), but pushes a member into a writer of the caller's, so that a stream to read
from would need a thread; it brings nine packages, seven of them compiled, takes three times the memory, and has had
names that leave the folder (CVE-2022-44900, again in 2026). Figures: BENCHMARKS.md.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

MAGIC = b"7z\xbc\xaf\x27\x1c"
MAX_HEADER = 16 << 20  # bytes; that of a dump has about 500
MAX_FILES = 100_000
MAX_FOLDERS = 100_000
MAX_DICTIONARY = 256 << 20  # bytes that LZMA may look back: what 7-Zip's strongest level takes
MAX_RATIO, FREE = 200, 1 << 20  # bytes out a byte in, beyond the first FREE ones; text reaches about 12
CHUNK = 256 << 10

# Ids of properties.
(
    END, HEADER, _ARCHIVE, _ADDITIONAL, STREAMS, FILES, PACK_INFO, UNPACK_INFO, SUBSTREAMS, SIZE, CRC, FOLDER,
    UNPACK_SIZE, N_UNPACK, EMPTY_STREAM, _EMPTY_FILE, _ANTI, NAMES,
) = range(18)  # fmt: skip
ENCODED = 0x17

COPY, LZMA1, LZMA2, DEFLATE, BZIP2 = b"\x00", b"\x03\x01\x01", b"\x21", b"\x04\x01\x08", b"\x04\x02\x02"
FILTERS = {b"\x03\x03\x01\x03": lzma.FILTER_X86, b"\x04": lzma.FILTER_X86}
NAMES_OF = {b"\x03\x04\x01": "PPMd", b"\x04\xf7\x11\x01": "zstd", b"\x04\x01\x09": "Deflate64"}
AES = b"\x06\xf1\x07\x01"


class BadArchive(Exception):
    """An archive that cannot be read, or not further: `reason` is a word, `value` says more."""

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(reason, value)
        self.reason, self.value = reason, value


@dataclass(frozen=True)
class Coder:
    """One step of the way from packed to plain bytes."""

    method: bytes
    properties: bytes
    is_simple: bool  # one stream in, one out


@dataclass(frozen=True)
class Folder:
    """One packed stream and how it is decoded."""

    coders: tuple[Coder, ...]
    is_chain: bool  # coder i takes what coder i + 1 gives, the last one the packed stream
    sizes: tuple[int, ...]  # of what each coder gives; the first one's is that of the plain bytes
    crc: int | None
    start: int = 0  # of the packed stream in the file
    packed: int = 0  # its bytes


@dataclass(frozen=True)
class Member:
    """One file in the archive."""

    name: str
    size: int
    crc: int | None
    folder: Folder | None  # None: an empty file, or a directory
    before: int = 0  # bytes of other members before it in the folder


class _Fields:
    """The bytes of a header, read from front to end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        """The next `n` bytes."""
        if n < 0 or n > len(self.data) - self.at:
            raise BadArchive("corrupt_archive", "the header ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """A number of one to nine bytes; the ones at the front of the first byte say how many follow."""
        first = self.byte()
        value, mask = 0, 0x80
        for i in range(8):
            if not first & mask:
                return value + ((first & (mask - 1)) << 8 * i)
            value |= self.byte() << 8 * i
            mask >>= 1
        return value

    def count(self, limit: int) -> int:
        """A number of things that is at most `limit`."""
        n = self.number()
        if n > limit:
            raise BadArchive("decompression_limit", f"the header names {n} parts")
        return n

    def bits(self, n: int) -> list[bool]:
        """`n` bits, the highest of a byte first."""
        data = self.take((n + 7) // 8)
        return [bool(data[i >> 3] & 0x80 >> (i & 7)) for i in range(n)]

    def digests(self, n: int) -> list[int | None]:
        """CRC-32 of `n` things, None where it is not given."""
        is_given = [True] * n if self.byte() else self.bits(n)
        return [int.from_bytes(self.take(4), "little") if given else None for given in is_given]

    def expect(self, wanted: int) -> None:
        """The next byte, which must be `wanted`."""
        found = self.byte()
        if found != wanted:
            raise BadArchive("corrupt_archive", f"property {found} in the header where {wanted} must be")


def members(file: IO[bytes], size: int) -> list[Member]:
    """All files of an archive of `size` bytes. BadArchive: `not_7z`, `truncated_input`, `corrupt_archive`, `encrypted`,
    `unknown_codec`, `decompression_limit`."""
    header = _start(file, size)
    for _ in range(4):  # a header may be packed, and that one's again
        if not header:
            return []
        fields = _Fields(header)
        kind = fields.byte()
        if kind == HEADER:
            return _files(fields, size)
        if kind != ENCODED:
            raise BadArchive("corrupt_archive", f"the header begins with {kind}")
        folders, _, _ = _streams(fields, size)
        if len(folders) != 1 or folders[0].sizes[0] > MAX_HEADER:
            raise BadArchive("corrupt_archive", "the packed header is not one stream of a bearable size")
        whole = Member("", folders[0].sizes[0], folders[0].crc, folders[0])
        header = b"".join(read(file, whole, ratio=1 << 20))
    raise BadArchive("corrupt_archive", "the header is packed again and again")


def _start(file: IO[bytes], size: int) -> bytes:
    """The header at the end of the file, checked."""
    file.seek(0)
    head = file.read(32)
    if not head.startswith(MAGIC[: len(head)]) or not head:
        raise BadArchive("not_7z", "empty" if not head else f"begins with {head[:8]!a}")
    if len(head) < 32:
        raise BadArchive("truncated_input", f"{size} bytes")
    crc, offset, length, header_crc = struct.unpack("<IQQI", head[8:])
    if zlib.crc32(head[12:]) != crc:
        raise BadArchive("corrupt_archive", "CRC of the start header")
    if head[6] != 0:
        raise BadArchive("corrupt_archive", f"version {head[6]}.{head[7]} of the format")
    if offset + length > size - 32:
        raise BadArchive("truncated_input", f"{size} bytes of {32 + offset + length}")
    if length > MAX_HEADER:
        raise BadArchive("decompression_limit", f"a header of {length} bytes")
    file.seek(32 + offset)
    header = file.read(length)
    if zlib.crc32(header) != header_crc:
        raise BadArchive("corrupt_archive", "CRC of the header")
    return header


def _files(fields: _Fields, size: int) -> list[Member]:
    """The members that a header lists."""
    kind = fields.byte()
    folders: list[Folder] = []
    counts: list[int] = []
    parts: list[tuple[int, int | None]] = []
    if kind == STREAMS:
        folders, counts, parts = _streams(fields, size)
        kind = fields.byte()
    if kind == END:
        return []
    if kind != FILES:
        raise BadArchive("corrupt_archive", f"property {kind} in the header")
    n = fields.count(MAX_FILES)
    names, is_empty = [""] * n, [False] * n
    while (kind := fields.number()) != END:
        inner = _Fields(fields.take(fields.number()))
        if kind == EMPTY_STREAM:
            is_empty = inner.bits(n)
        elif kind == NAMES:
            names = _names(inner, n)
    places = _places(folders, counts, parts)
    if is_empty.count(False) != len(places):
        raise BadArchive("corrupt_archive", f"{len(places)} streams for {is_empty.count(False)} files")
    streams = iter(places)
    return [Member(m, 0, None, None) if e else Member(m, *next(streams)) for m, e in zip(names, is_empty, strict=True)]


def _names(fields: _Fields, n: int) -> list[str]:
    fields.expect(0)  # they stand here, not in a stream
    data = fields.take(len(fields.data) - 1)
    names = data.decode("utf-16-le", "replace").split("\0")
    if len(names) != n + 1 or names[-1]:
        raise BadArchive("corrupt_archive", f"{len(names) - 1} names for {n} files")
    return names[:-1]


def _places(
    folders: list[Folder], counts: list[int], parts: list[tuple[int, int | None]]
) -> list[tuple[int, int | None, Folder, int]]:
    """(size, CRC, folder, bytes before it in the folder) of each stream."""
    found = []
    at = 0
    for folder, n in zip(folders, counts, strict=True):
        before = 0
        for size, crc in parts[at : at + n]:
            found.append((size, crc, folder, before))
            before += size
        at += n
    return found


def _streams(fields: _Fields, size: int) -> tuple[list[Folder], list[int], list[tuple[int, int | None]]]:
    """(folders, members in each, size and CRC of each member)."""
    packs: list[tuple[int, int]] = []
    folders: list[Folder] = []
    counts: list[int] = []
    parts: list[tuple[int, int | None]] | None = None
    while (kind := fields.byte()) != END:
        if kind == PACK_INFO:
            packs = _packs(fields, size)
        elif kind == UNPACK_INFO:
            folders = _folders(fields)
        elif kind == SUBSTREAMS:
            counts, parts = _substreams(fields, folders)
        else:
            raise BadArchive("corrupt_archive", f"property {kind} in the header")
    if len(packs) < len(folders):
        raise BadArchive("corrupt_archive", f"{len(packs)} packed streams for {len(folders)} folders")
    if parts is None:
        counts, parts = [1] * len(folders), [(f.sizes[0], f.crc) for f in folders]
    is_plain = all(c.is_simple for f in folders for c in f.coders)  # else the streams cannot be told apart
    placed = [Folder(f.coders, f.is_chain and is_plain, f.sizes, f.crc, *packs[i]) for i, f in enumerate(folders)]
    return placed, counts, parts


def _packs(fields: _Fields, size: int) -> list[tuple[int, int]]:
    """(place, bytes) of the packed streams."""
    at = 32 + fields.number()
    n = fields.count(MAX_FOLDERS)
    sizes = [0] * n
    while (kind := fields.byte()) != END:
        if kind == SIZE:
            sizes = [fields.number() for _ in range(n)]
        elif kind == CRC:
            fields.digests(n)
        else:
            raise BadArchive("corrupt_archive", f"property {kind} in the header")
    found = []
    for packed in sizes:
        if at + packed > size:
            raise BadArchive("truncated_input", f"{size} bytes of at least {at + packed}")
        found.append((at, packed))
        at += packed
    return found


def _folders(fields: _Fields) -> list[Folder]:
    fields.expect(FOLDER)
    n = fields.count(MAX_FOLDERS)
    fields.expect(0)  # they stand here, not in a stream
    bare = [_folder(fields) for _ in range(n)]
    fields.expect(UNPACK_SIZE)
    sizes = [[fields.number() for _ in coders] for coders, _ in bare]
    crcs: list[int | None] = [None] * n
    while (kind := fields.byte()) != END:
        if kind != CRC:
            raise BadArchive("corrupt_archive", f"property {kind} in the header")
        crcs = fields.digests(n)
    found = []
    for (coders, order), given, crc in zip(bare, sizes, crcs, strict=True):
        chain = order or range(len(coders))
        found.append(Folder(tuple(coders[i] for i in chain), bool(order), tuple(given[i] for i in chain), crc))
    return found


def _folder(fields: _Fields) -> tuple[list[Coder], list[int]]:
    """(coders, their order from the plain bytes inwards; empty where they are no chain)."""
    coders = []
    streams = 0
    for _ in range(fields.count(32)):
        flags = fields.byte()
        method = fields.take(flags & 15)
        ins, outs = (fields.count(32), fields.count(32)) if flags & 0x10 else (1, 1)
        properties = fields.take(fields.number()) if flags & 0x20 else b""
        if outs != 1:
            raise BadArchive("unknown_codec", f"method {method.hex()} with {outs} outputs")
        streams += ins
        coders.append(Coder(method, properties, ins == 1))
    if not coders:
        raise BadArchive("corrupt_archive", "a folder without a method")
    pairs = [(fields.number(), fields.number()) for _ in range(len(coders) - 1)]
    n_packed = streams - len(pairs)
    if n_packed > 1:
        [fields.number() for _ in range(n_packed)]
    return coders, _order(dict(pairs), len(coders)) if all(c.is_simple for c in coders) else []


def _order(pairs: dict[int, int], n: int) -> list[int]:
    """The chain that starts where nothing takes the output; `pairs`: coder -> the one that it takes its input from."""
    starts = set(range(n)) - set(pairs.values())
    at = starts.pop() if len(starts) == 1 else None
    order: list[int] = []
    while at is not None and at not in order:
        order.append(at)
        at = pairs.get(at)
    return order if sorted(order) == list(range(n)) else []


def _substreams(fields: _Fields, folders: list[Folder]) -> tuple[list[int], list[tuple[int, int | None]]]:
    """(members of each folder, size and CRC of each member)."""
    counts = [1] * len(folders)
    kind = fields.byte()
    if kind == N_UNPACK:
        counts = [fields.count(MAX_FILES) for _ in folders]
        kind = fields.byte()
    if sum(counts) > MAX_FILES:
        raise BadArchive("decompression_limit", f"the header names {sum(counts)} parts")
    sizes: list[int] = []
    for folder, n in zip(folders, counts, strict=True):
        given = [fields.number() for _ in range(n - 1)] if kind == SIZE else []
        if n:
            rest = folder.sizes[0] - sum(given)
            if rest < 0 or len(given) != n - 1:
                raise BadArchive("corrupt_archive", "members are larger than their folder")
            sizes += [*given, rest]
    if kind == SIZE:
        kind = fields.byte()
    known = [f.crc if n == 1 else None for f, n in zip(folders, counts, strict=True) for _ in range(n)]
    while kind != END:
        if kind != CRC:
            raise BadArchive("corrupt_archive", f"property {kind} in the header")
        asked = [i for i, crc in enumerate(known) if crc is None]
        for i, crc in zip(asked, fields.digests(len(asked)), strict=True):
            known[i] = crc
        kind = fields.byte()
    return counts, list(zip(sizes, known, strict=True))


def read(file: IO[bytes], member: Member, ratio: int = MAX_RATIO) -> Iterator[bytes]:
    """The bytes of one member in chunks of about CHUNK bytes; what comes before it in its folder is decoded, too.

    BadArchive: `corrupt_archive`, `bad_crc` (both after what could be read), `encrypted`, `unknown_codec`,
    `decompression_limit`.
    """
    if member.folder is None:
        return
    crc, at, end = 0, 0, member.before + member.size
    for chunk in _plain(file, member.folder, end, ratio):
        wanted = chunk[max(member.before - at, 0) : end - at]
        at += len(chunk)
        if wanted:
            crc = zlib.crc32(wanted, crc)
            yield wanted
    if member.crc is not None and crc != member.crc:
        raise BadArchive("bad_crc", f"of {member.name!a}")


def _plain(file: IO[bytes], folder: Folder, end: int, ratio: int) -> Iterator[bytes]:
    """The first `end` bytes of a folder."""
    decoder = _decoder(folder)
    file.seek(folder.start)
    left, given, taken = folder.packed, 0, 0
    while given < end:
        data = file.read(min(CHUNK // 4, left)) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise BadArchive("corrupt_archive", f"{given} bytes of text where {end} are named")
        left, taken = left - len(data), taken + len(data)
        try:
            chunk = decoder.decompress(data, min(CHUNK, end - given))
        except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError) as error:
            raise BadArchive("corrupt_archive", f"{type(error).__name__} at byte {given} of the text") from None
        given += len(chunk)
        if given > FREE + ratio * taken:
            raise BadArchive("decompression_limit", f"over {ratio} bytes of text a byte of the archive")
        if chunk:
            yield chunk


class Decoder(Protocol):
    """What `lzma.LZMADecompressor` is as well."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing to give out before more comes in."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take bytes in and give at most so many out."""
        ...


def _decoder(folder: Folder) -> Decoder:
    """What decodes a folder. BadArchive: nothing here does."""
    methods = [c.method for c in folder.coders]
    if AES in methods:
        raise BadArchive("encrypted", "the archive wants a password")
    if folder.is_chain and methods[0] in PLAIN and len(methods) == 1:
        return PLAIN[methods[0]]()
    known = [_filter(c, folder.sizes[i]) for i, c in enumerate(folder.coders)]
    *before, last = known
    is_lzma = last is not None and last["id"] in (lzma.FILTER_LZMA1, lzma.FILTER_LZMA2)
    is_ending = not before or (last is not None and last["id"] == lzma.FILTER_LZMA2)  # else the filter keeps the end
    if not folder.is_chain or not is_lzma or not is_ending or any(f is None or "dict_size" in f for f in before):
        raise BadArchive("unknown_codec", f"method {', '.join(NAMES_OF.get(m, m.hex()) for m in methods)}")
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[f for f in known if f is not None])
    except (lzma.LZMAError, ValueError, MemoryError):
        raise BadArchive("unknown_codec", f"LZMA with the properties {folder.coders[-1].properties.hex()}") from None


def _filter(coder: Coder, size: int) -> dict[str, Any] | None:
    """A coder as liblzma wants it; None where it has none."""
    if coder.method in FILTERS and not coder.properties:
        return {"id": FILTERS[coder.method]}
    if coder.method == LZMA1 and len(coder.properties) == 5:
        code, dictionary = struct.unpack("<BI", coder.properties)
        rest, lc = divmod(code, 9)
        pb, lp = divmod(rest, 5)
        return {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": _dictionary(dictionary, size)}
    if coder.method == LZMA2 and len(coder.properties) == 1 and coder.properties[0] <= 40:
        bits = coder.properties[0]
        dictionary = 0xFFFFFFFF if bits == 40 else (2 | bits & 1) << (bits // 2 + 11)
        return {"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(dictionary, size)}
    return None


def _dictionary(asked: int, size: int) -> int:
    """Bytes to look back: no more than there are."""
    needed = max(min(asked, size), 4096)
    if needed > MAX_DICTIONARY:
        raise BadArchive("decompression_limit", f"LZMA with a dictionary of {asked} bytes")
    return needed


class _Copy:
    """Bytes as they are."""

    def __init__(self) -> None:
        self.rest = b""

    @property
    def needs_input(self) -> bool:
        return not self.rest

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data = self.rest + data
        self.rest = data[max_length:]
        return data[:max_length]


class _Inflate:
    """Raw deflate."""

    def __init__(self) -> None:
        self.made = zlib.decompressobj(-15)
        self.is_full = False  # the last call gave all it might

    @property
    def needs_input(self) -> bool:
        return not self.made.unconsumed_tail and not self.is_full

    def decompress(self, data: bytes, max_length: int) -> bytes:
        made = self.made.decompress(self.made.unconsumed_tail + data, max_length)
        self.is_full = len(made) == max_length
        return made


class _Bunzip2:
    """Streams of BZip2 one after the other, as an encoder with several threads may write them."""

    def __init__(self) -> None:
        self.made = bz2.BZ2Decompressor()

    @property
    def needs_input(self) -> bool:
        return not self.made.unused_data if self.made.eof else self.made.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self.made.eof:
            data = self.made.unused_data + data
            self.made = bz2.BZ2Decompressor()
        return self.made.decompress(data, max_length)


PLAIN: dict[bytes, Callable[[], Decoder]] = {COPY: _Copy, DEFLATE: _Inflate, BZIP2: _Bunzip2}
