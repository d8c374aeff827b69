"""7z archives: what is read is what was packed, damage is always noticed, and nothing can be made to swell."""

from __future__ import annotations

import bz2
import io
import lzma
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources import sevenzip
from sources.samples.build_stackexchange import archive, number, sealed
from sources.sevenzip import BadArchive

DRAW = random.Random(11)
TEXT = b"".join(b"line %d of the text %d\n" % (i, DRAW.randrange(10**9)) for i in range(30_000))
FILES = {"Badges.xml": b"<badges/>" * 1000, "Posts.xml": TEXT, "Users.xml": b"<users/>"}


def contents(data: bytes) -> dict[str, bytes]:
    file = io.BytesIO(data)
    return {m.name: b"".join(sevenzip.read(file, m)) for m in sevenzip.members(file, len(data))}


def reason(data: bytes) -> str:
    with pytest.raises(BadArchive) as caught:
        contents(data)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def raw(data: bytes, filters: list[dict[str, Any]]) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def coder(method: bytes, properties: bytes = b"") -> bytes:
    tail = bytes([len(properties)]) + properties if properties else b""
    return bytes([len(method) | (0x20 if properties else 0)]) + method + tail


LZMA2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
LZMA1 = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 3, "lp": 0, "pb": 2}]
ALL = b"".join(FILES.values())


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def cut_lzma1(data: bytes) -> bytes:
    """LZMA without the mark at its end, as 7-Zip writes it: the decoder stops where the text has its length."""
    return raw(data, LZMA1)


CODED = {
    "copy": (ALL, coder(b"\0")),
    "bzip2": (bz2.compress(ALL), coder(b"\4\2\2")),
    "bzip2_parts": (bz2.compress(ALL[:9999]) + bz2.compress(ALL[9999:]), coder(b"\4\2\2")),
    "deflate": (deflated(ALL), coder(b"\4\1\x08")),
    "lzma": (cut_lzma1(ALL), coder(b"\3\1\1", struct.pack("<BI", 0x5D, 1 << 20))),
    "lzma2": (raw(ALL, LZMA2), coder(b"\x21", bytes([18]))),
    "lzma2_4_gib": (raw(ALL, LZMA2), coder(b"\x21", bytes([40]))),  # asked for, but there is not that much to look at
}


@pytest.mark.parametrize("name", CODED)
def test_every_codec_gives_every_member_back(name: str) -> None:
    packed, how = CODED[name]
    assert contents(archive(FILES, packed, how)) == FILES


def test_a_member_comes_in_small_pieces_without_reading_on() -> None:
    data = archive(FILES)
    file = io.BytesIO(data)
    posts = sevenzip.members(file, len(data))[1]
    pieces = list(sevenzip.read(file, posts))
    assert b"".join(pieces) == TEXT and max(map(len, pieces)) <= sevenzip.CHUNK and len(pieces) > 3


def test_empty_members_and_empty_archives() -> None:
    assert contents(archive({"a": b"", "b": b"xyz"})) == {"a": b"", "b": b"xyz"}
    assert contents(sealed(b"", b"")) == {}
    assert contents(sealed(b"", b"\x01\x00")) == {}
    names = "dir\0file\0".encode("utf-16-le")
    files = b"\x05\x02\x0e\x01\xc0\x11" + number(len(names) + 1) + b"\0" + names + b"\x00\x00"
    assert contents(sealed(b"", b"\x01" + files)) == {"dir": b"", "file": b""}


def test_a_packed_header_is_unpacked_and_a_bomb_of_headers_is_not() -> None:
    plain = archive(FILES)
    offset, length = struct.unpack("<QQ", plain[12:28])
    header = plain[32 + offset : 32 + offset + length]
    packs = bz2.compress(ALL)

    def wrapped(header: bytes, packed: bytes) -> bytes:
        small = bz2.compress(header)
        streams = b"\x06" + number(len(packed)) + b"\x01\x09" + number(len(small)) + b"\0"
        unpack = b"\x07\x0b\x01\0\x01" + coder(b"\4\2\2") + b"\x0c" + number(len(header)) + b"\0"
        return sealed(packed + small, b"\x17" + streams + unpack + b"\0")

    assert contents(wrapped(header, packs)) == FILES
    assert reason(wrapped(b"\0" * (17 << 20), packs)) == "corrupt_archive"
    itself = b"\x17\x06\0\x01\x09\x00\0"
    assert reason(sealed(b"", itself)) == "corrupt_archive"


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_numbers(value: int) -> None:
    assert sevenzip._Fields(number(value)).number() == value


def test_every_truncation_is_noticed() -> None:
    data = archive({"Posts.xml": TEXT[:3000]})
    for stop in range(len(data)):
        assert reason(data[:stop]) in ("truncated_input", "not_7z"), stop
        assert stop < 32 or reason(data[:stop]) == "truncated_input"


def test_every_flipped_bit_is_noticed_or_harmless() -> None:
    for name in ("copy", "bzip2", "lzma", "lzma2", "deflate"):
        small = {"Posts.xml": TEXT[:2000]}
        makers = {"copy": bytes, "bzip2": bz2.compress, "lzma": cut_lzma1, "deflate": deflated}
        packed = makers.get(name, lambda x: raw(x, LZMA2))(TEXT[:2000])
        data = archive(small, packed, CODED[name][1])
        for place in range(0, len(data), 7):
            bad = bytearray(data)
            bad[place] ^= 1 << place % 8
            try:
                assert contents(bytes(bad)) == small, (name, place)
            except BadArchive:
                continue


def test_headers_that_lie_are_refused() -> None:
    """The start header's digest is right, what it holds is not: nothing but BadArchive, and no large memory."""
    data = archive({"Posts.xml": TEXT[:2000]})
    offset, length = struct.unpack("<QQ", data[12:28])
    header, packed = data[32 + offset : 32 + offset + length], data[32 : 32 + offset]
    draw = random.Random(2)
    for _ in range(4000):
        bad = bytearray(header)
        for _ in range(draw.randrange(1, 4)):
            bad[draw.randrange(len(bad))] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
        try:
            found = contents(sealed(packed, bytes(bad[: draw.choice((None, len(bad) - 1))])))
        except BadArchive:
            continue
        assert all(TEXT[:2000].startswith(x) or x in TEXT[:2000] for x in found.values())


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (coder(b"\x06\xf1\x07\x01", b"xx"), "encrypted"),
        (coder(b"\3\4\1", b"\6\0\0\0\1"), "unknown_codec"),
        (coder(b"\x04\xf7\x11\x01"), "unknown_codec"),
        (coder(b"\3\3\1\3"), "unknown_codec"),
        (coder(b"\x21", bytes([41])), "unknown_codec"),
        (coder(b"\3\1\1", b"\xff\0\0\0\1"), "unknown_codec"),
        (coder(b"\3\1\1", b"\x5d"), "unknown_codec"),
    ],
)
def test_codecs_that_are_refused(how: bytes, why: str) -> None:
    assert reason(archive(FILES, b"x" * 100, how)) == why


def test_wrong_content_is_noticed_by_its_digest() -> None:
    swapped = {"Posts.xml": b"b" * 5000}
    assert reason(archive(swapped, bz2.compress(b"a" * 5000))) == "bad_crc"
    assert reason(archive(swapped, bz2.compress(b"b" * 4999))) == "corrupt_archive"


def test_bombs_are_stopped() -> None:
    for packed, how in (
        (bz2.compress(bytes(1 << 25)), coder(b"\4\2\2")),
        (raw(bytes(1 << 25), LZMA2), CODED["lzma2"][1]),
    ):
        data = archive({"Posts.xml": bytes(1 << 25)}, packed, how)
        file = io.BytesIO(data)
        seen = 0
        with pytest.raises(BadArchive, match="decompression_limit"):
            for chunk in sevenzip.read(file, sevenzip.members(file, len(data))[0]):
                seen += len(chunk)
        assert seen < 16 << 20
    huge = archive({"Posts.xml": TEXT}, b"", coder(b"\x21", bytes([40]))).replace(
        b"\x0c" + number(len(TEXT)), b"\x0c" + number(1 << 40)
    )
    (offset,) = struct.unpack("<Q", huge[12:20])
    assert reason(sealed(huge[32 : 32 + offset], huge[32 + offset :])) in ("decompression_limit", "corrupt_archive")
    many = b"\x01\x04\x06\0" + number(10**6) + b"\0\0"
    assert reason(sealed(b"", many)) == "decompression_limit"


def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"../evil": b"1", "/etc/evil": b"2", "C:\\evil": b"3", "a\nb": b"4", "x" * 3000: b"5"}
    assert contents(archive(files)) == files
    assert not list(tmp_path.rglob("*")) and not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("filters", ["default", "lzma2", "lzma", "bzip2", "deflate", "copy", "ppmd", "password"])
def test_archives_that_py7zr_writes(filters: str, tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    chosen = {
        "lzma2": [{"id": py7zr.FILTER_LZMA2, "preset": 6}],
        "lzma": [{"id": py7zr.FILTER_LZMA, "preset": 6}],
        "bzip2": [{"id": py7zr.FILTER_BZIP2}],
        "deflate": [{"id": py7zr.FILTER_DEFLATE}],
        "copy": [{"id": py7zr.FILTER_COPY}],
        "ppmd": [{"id": py7zr.FILTER_PPMD, "order": 6, "mem": 24}],
    }.get(filters)
    path = tmp_path / "a.7z"
    password = "secret" if filters == "password" else None
    with py7zr.SevenZipFile(path, "w", filters=chosen, password=password) as made:
        for name, data in FILES.items():
            made.writestr(data, name)
    data = path.read_bytes()
    if filters in ("ppmd", "password"):
        assert reason(data) == ("unknown_codec" if filters == "ppmd" else "encrypted")
    else:
        assert contents(data) == FILES
