"""Books from files of every form: what becomes of each record."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import download
from curate.errors import RecipeError, SourceError
from curate.exchange import Settings
from curate.schema import DOCUMENT
from curate.stage import Split, Tally
from sources.books import REASONS, Books
from sources.encodings import BadBook, decoded
from sources.samples import build_books
from tests.hostile_server import Request, Server, Wire

TEXT = "The heron stood in the shallows.\n\nNobody minded, and nobody had to.\n" * 30
BYTES = TEXT.encode()
SOURCE = Books()


def read(path: Path, source: Books = SOURCE, name: str | None = None) -> tuple[list[dict[str, object]], Tally]:
    """Documents of a file, and the account, which balances."""
    tally = Tally()
    tables = list(source.read(Split(name or path.name, str(path), path.stat().st_size), tally))
    rows = [row for table in tables for row in table.to_pylist()]
    assert all(table.schema == DOCUMENT for table in tables)
    assert len({row["doc_id"] for row in rows} | {f[0] for f in tally.failed}) == len(rows) + len(tally.failed)
    assert {reason for _, _, reason, _ in tally.failed} <= {*REASONS}
    return rows, tally


def one(tmp_path: Path, name: str, data: bytes, source: Books = SOURCE) -> tuple[str, Tally]:
    """Text of the only book of a file, or the reason that it failed for."""
    path = tmp_path / name
    path.write_bytes(data)
    rows, tally = read(path, source)
    assert len(rows) + len(tally.failed) == 1
    return (str(rows[0]["text"]) if rows else tally.failed[0][2]), tally


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1990, 1, 1, 0, 0, 0)), data, method)
    return out.getvalue()


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


CONTAINER = (
    b'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    b'<rootfile full-path="O/c.opf"/></rootfiles></container>'
)
OPF = (
    b'<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    b"<metadata><dc:title>The Heron</dc:title><dc:creator>A</dc:creator><dc:creator>B</dc:creator><dc:language>en-GB"
    b"</dc:language><dc:date>1897-05</dc:date><dc:identifier>https://example.org/7</dc:identifier></metadata><manifest>"
    b'<item id="n" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
    b'<item id="b" href="two%20b.xhtml" media-type="application/xhtml+xml"/>'
    b'<item id="a" href="./x/../one.xhtml#top" media-type="application/xhtml+xml"/>'
    b'<item id="i" href="i.svg" media-type="image/svg+xml"/></manifest>'
    b'<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="i"/><itemref idref="b"/>'
    b'<itemref idref="gone"/></spine></package>'
)
PAGES = {
    "O/two b.xhtml": b'<html><head><title/></head><body><a id="x"/><p>Second chapter.</p></body></html>',
    "O/one.xhtml": b"<html><head><title>T</title></head><body><p>First chapter.</p><p/></body></html>",
    "O/nav.xhtml": b"<html><body>Contents</body></html>",
    "O/i.svg": b"<svg/>",
}
EPUB = {"mimetype": b"application/epub+zip", "META-INF/container.xml": CONTAINER, "O/c.opf": OPF, **PAGES}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", BYTES),
        ("a.txt.gz", gz(BYTES)),
        ("a.txt.gz", gz(BYTES[:100]) + gz(BYTES[100:]) + b"\0" * 700),
        ("a.txt.zst", zstd(BYTES)),
        ("a.txt.zst", zstd(BYTES[:100]) + zstd(BYTES[100:])),
        ("a.zip", zipped({"a.txt": BYTES})),
        ("a.zip", zipped({"a.txt": BYTES}, zipfile.ZIP_STORED)),
        ("a.tar", tarred({"d/a.txt": BYTES})),
        ("a.tar", tarred({"d" * 300 + "/a.txt": BYTES})),
        ("a.tar", tarred({"d" * 300 + "/a.txt": BYTES}, tarfile.GNU_FORMAT)),
        ("a.tar.gz", gz(tarred({"a.txt": BYTES}, tarfile.USTAR_FORMAT))),
        ("a.tgz", gz(tarred({"a.txt": BYTES}))),
        ("a.jsonl", json.dumps({"text": TEXT}).encode()),
        ("a.jsonl.gz", gz(json.dumps({"text": TEXT}).encode() + b"\r\n\n")),
        ("a.jsonl.zst", zstd(b"\xef\xbb\xbf" + json.dumps({"text": TEXT}).encode())),
        ("a.txt", TEXT.encode("utf-8-sig")),
        ("a.txt", TEXT.encode("utf-16")),
        ("a.txt", TEXT.encode("utf-16-le")),
        ("a.txt", TEXT.encode("utf-32")),
        ("a.txt", TEXT.replace("\n", "\r\n").encode() + b"\x1a"),
        ("a.txt", TEXT.replace("\n", "\r").encode() + b"\0\0"),
        ("a.txt", TEXT.replace("\n\n", "\f\n").encode()),
        ("a.txt", (TEXT[:50] + "\ufeff" + TEXT[50:200] + "\xad\x07" + TEXT[200:]).encode()),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_text_is_the_same_however_it_is_kept(tmp_path: Path, name: str, data: bytes) -> None:
    text, tally = one(tmp_path, name, data)
    assert text.strip() == TEXT.strip()
    assert not tally.damage
    assert tally.input_digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_cut_file_gives_no_partial_book(tmp_path: Path, cut: int) -> None:
    rows = b"".join(json.dumps({"text": TEXT + str(i)}).encode() + b"\n" for i in range(5))
    files = {"a.txt.gz": gz(BYTES), "a.txt.zst": zstd(BYTES), "a.zip": zipped({"a.txt": BYTES}), "a.jsonl.gz": gz(rows),
             "a.tar": tarred({f"{i}.txt": BYTES for i in range(5)}), "a.epub": zipped(EPUB)}  # fmt: skip
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data[: len(data) * cut // 12])
        documents, tally = read(path)
        whole = {TEXT, *(TEXT + str(i) for i in range(5))}
        assert all(str(d["text"]) in whole for d in documents), name
        assert tally.damage or tally.failed or (name == "a.tar" and len(documents) == 5), name  # cut in its padding


def test_what_an_epub_says_and_holds(tmp_path: Path) -> None:
    path = tmp_path / "h.epub"
    path.write_bytes(zipped(EPUB))
    (book,), tally = read(path)
    assert (book["title"], book["lang"], book["url"]) == ("The Heron", "en", "https://example.org/7")
    assert str(book["date"]).startswith("1897-05-01")
    assert json.loads(str(book["meta"])) == {
        "format": "epub",
        "type": "text/html",
        "author": "A; B",
        "language": "en-GB",
    }
    text = str(book["text"])
    assert text.index("First") < text.index("\f") < text.index("Second")
    assert "Contents" not in text
    assert "<title></title>" in text and '<a id="x"></a>' in text
    assert tally.flags["missing_spine_item"] == 1
    inside, _ = one(tmp_path, "b.tar", tarred({"x.epub": zipped(EPUB)}))
    assert inside == text


LOCK = (
    b'<encryption xmlns="urn:x" xmlns:enc="urn:y"><enc:EncryptedData><enc:EncryptionMethod Algorithm="%b"/>'
    b'<enc:CipherData><enc:CipherReference URI="O/one.xhtml"/></enc:CipherData></enc:EncryptedData></encryption>'
)
BOMB = b'<!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><package>&b;</package>'
OUTSIDE = b'<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]><package>&x;</package>'


def flagged(data: bytes) -> bytes:
    """A zip whose members are marked as encrypted."""
    for magic, skip in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(magic) + skip
        data = data[:at] + b"\x01" + data[at + 1 :]
    return data


def broken(data: bytes) -> bytes:
    at = data.index(b"a.txt") + 20
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("reason", "name", "data"),
    [
        ("empty", "a.txt", b""),
        ("empty", "b.txt", b" \r\n\x1a"),
        ("empty", "a.zip", zipped({})),
        ("encoding", "a.txt", b"\xff\xfe" + b"\x00\xd8" * 50 + "xyz".encode("utf-16-le")),
        ("binary", "a.txt", bytes(range(256)) * 90),
        ("not_text", "a.txt", b"<!DOCTYPE html>\n<html><body>Are you a robot?</body></html>"),
        ("not_text", "a.txt", b"%PDF-1.4 ..."),
        ("not_text", "b.txt", b"x" * 60 + b"BOOKMOBI" + bytes(90)),
        ("record_too_large", "a.txt", b"x" * 70_000),
        ("record_too_large", "a.zip", zipped({"a.txt": b"x" * 70_000})),
        ("record_too_large", "a.tar", tarred({"a.txt": b"x" * 70_000})),
        ("record_too_large", "a.jsonl", b'{"text": "' + b"x" * 70_000 + b'"}\n'),
        ("corrupt_member", "a.zip", broken(zipped({"a.txt": BYTES}))),
        ("corrupt_member", "a.txt.gz", gz(BYTES)[:60] + b"!!!!" + gz(BYTES)[64:]),
        ("corrupt_member", "b.txt.gz", gz(BYTES) + b"garbage"),
        (
            "corrupt_archive",
            "a.tar",
            b"x" + tarred({"a.txt": BYTES})[1:],
        ),
        ("nested_archive", "a.zip", zipped({"b.zip": zipped({"a.txt": BYTES})})),
        ("nested_archive", "a.txt.gz", gz(gz(BYTES))),
        ("nested_archive", "a.tar", tarred({"a.txt": zipped({"a.txt": BYTES})})),
        ("unsupported_compression", "a.zip", zipped({"a.txt": BYTES}, zipfile.ZIP_BZIP2)),
        ("unsupported_compression", "a.txt", b"BZh91AY"),
        ("encrypted", "a.zip", flagged(zipped({"a.txt": BYTES}))),
        (
            "encrypted",
            "a.epub",
            zipped({**EPUB, "META-INF/encryption.xml": LOCK % b"http://www.w3.org/2001/04/xmlenc#aes128-cbc"}),
        ),
        ("bad_epub", "a.epub", zipped({**EPUB, "O/c.opf": BOMB})),
        ("bad_epub", "b.epub", zipped({**EPUB, "O/c.opf": OUTSIDE})),
        ("bad_epub", "c.epub", zipped({**EPUB, "O/c.opf": b"<package><spine>"})),
        ("bad_epub", "d.epub", zipped({k: v for k, v in EPUB.items() if k != "O/c.opf"})),
        ("bad_epub", "e.epub", zipped({"mimetype": b"application/epub+zip"})),
        ("bad_epub", "f.epub", BYTES),
        ("bad_epub", "g.epub", zipped({k: v for k, v in EPUB.items() if "xhtml" not in k})),
        ("bad_json", "a.jsonl", b'{"text": "x"'),
        ("bad_json", "b.jsonl", b'{"text": "x", "text": "y"}'),
        ("bad_json", "c.jsonl", b'{"text": "x", "n": NaN}'),
        ("bad_json", "d.jsonl", b'{"text": "x", "n": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
        ("bad_json", "e.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}"),
        ("bad_json", "f.jsonl", b'{"text": "\xff"}'),
        ("schema", "a.jsonl", b'{"text": null}'),
        ("schema", "b.jsonl", b'["text"]'),
        ("lfs_pointer", "a.txt", b"version https://git-lfs.github.com/spec/v1\n"),
        ("lfs_pointer", "a.jsonl", b"version https://git-lfs.github.com/spec/v1\n"),
        ("truncated_input", "a.zip", zipped({"a.txt": BYTES})[:-30]),
        ("truncated_input", "a.tar", tarred({"a.txt": BYTES})[:900]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_each_reason(tmp_path: Path, reason: str, name: str, data: bytes) -> None:
    assert one(tmp_path, name, data, Books(max_book_bytes=65_536))[0] == reason


def test_every_reason_has_a_case() -> None:
    marks = test_each_reason.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} | {"decompression_limit"} == {*REASONS}


def test_bombs_stop_at_a_limit(tmp_path: Path) -> None:
    zeros = b"x" * (1 << 20)
    packed = gz(zeros * 80)
    assert one(tmp_path, "a.txt.gz", packed)[0] in ("decompression_limit", "record_too_large")
    line = gz(b"\n" * (1 << 20))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(line * 20)
    _, tally = read(path)
    assert tally.failed[0][2] == "decompression_limit"
    many = zipped({f"{i}.txt": b"x" * 60_000 for i in range(60)})
    path = tmp_path / "m.zip"
    path.write_bytes(many)
    tally = Tally()
    list(Books(max_book_bytes=65_536, batch_bytes=1).read(Split("m", str(path)), tally))
    assert tally.bytes_in <= 65_536 + 250 * len(many)


def test_members_that_are_no_books_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"d/": b"", "a.txt": BYTES, "i.jpg": b"\xff\xd8", "b.txt": BYTES + b"b"}))
    rows, tally = read(path)
    assert len(rows) == 2 and dict(tally.skipped) == {"other_file": 1}
    assert [json.loads(str(r["meta"]))["file"] for r in rows] == ["a.txt", "b.txt"]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "l.txt"),
            (tarfile.LNKTYPE, "h.txt"),
            (tarfile.FIFOTYPE, "f"),
            (tarfile.DIRTYPE, "d"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../a.txt")
        info.size = len(BYTES)
        archive.addfile(info, io.BytesIO(BYTES))
    path = tmp_path / "a.tar"
    path.write_bytes(tar.getvalue())
    rows, tally = read(path)
    assert len(rows) == 1 and dict(tally.skipped) == {"not_a_file": 3}
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "a.tar"}


def test_odd_directories_of_a_zip(tmp_path: Path) -> None:
    """A name that is empty, and a member that is listed twice."""
    data = zipped({"a.txt": BYTES, "b.txt": BYTES})
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"": BYTES, "c.txt": BYTES}))
    rows, tally = read(path)
    assert len(rows) == 1 and tally.skipped["other_file"] == 1
    at = data.rindex(b"PK\x01\x02") + 42
    path.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    rows, tally = read(path)
    assert [len(rows), [f[2] for f in tally.failed]] in ([1, ["corrupt_member"]], [0, ["corrupt_member"] * 2])


def test_a_gutenberg_zip_of_html_is_one_book(tmp_path: Path) -> None:
    pages = {f"9-h/p{i}.htm": f"<html><body><p>Page {i}.</p></body></html>".encode() for i in (10, 9, 2)}
    path = tmp_path / "9-h.zip"
    path.write_bytes(zipped({**pages, "9-h/9-h.htm": b"<html><body><p>Page 1.</p></body></html>", "9-h/i.png": b"x"}))
    (book,), tally = read(path)
    assert re.findall(r"Page (\d+)", str(book["text"])) == ["1", "2", "9", "10"]
    assert (tally.merged, dict(tally.skipped)) == (3, {"other_file": 1})
    other = tmp_path / "x.zip"
    other.write_bytes(path.read_bytes())
    assert len(read(other)[0]) == 4


def test_the_layouts_of_books3_and_others(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(tarred({"the-eye.eu/B/W/Why Herons_ A Life - A. B. Wick.epub.txt": BYTES}))
    (book,), _ = read(path)
    assert book["title"] == "Why Herons: A Life"
    assert json.loads(str(book["meta"]))["author"] == "A. B. Wick"
    rows = [
        {"text": "one", "meta": {"pile_set_name": "Books3"}},
        {"text": "two", "meta": {"pile_set_name": "Pile-CC"}},
        {"text": "three", "meta": {"pile_set_name": "\x1b[2J" * 50}},
        {"text": "four", "short_book_title": "F", "publication_date": 1897, "url": "http://x.example/"},
        {
            "text": "five",
            "meta": {"title": "V", "publication_date": "n.d.", "authors": ["A", 2, None]},
            "language": "eng",
        },
        {"text": "si\ud800x", "title": 7, "date": "2001-02-03T04:05:06+02:00"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    found, tally = read(path)
    assert [r["text"] for r in found] == ["one", "four", "five", "si\ufffdx"]
    assert [r["title"] for r in found] == [None, "F", "V", "7"]
    assert [str(r["date"])[:13] for r in found] == ["None", "1897-01-01 00", "None", "2001-02-03 02"]
    assert [r["lang"] for r in found] == [None, None, "en", None]
    assert json.loads(str(found[2]["meta"]))["author"] == "A; 2"
    assert dict(tally.skipped) == {"set_Pile-CC": 1, "set_unknown": 1}
    assert dict(tally.flags) == {"lone_surrogates": 1}
    assert tally.bytes_in == path.stat().st_size


def test_tables_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 999}) + "\n" for i in range(100)))
    tables = list(Books(batch_bytes=5000).read(Split("a.jsonl", str(path)), Tally()))
    assert [t.num_rows for t in tables[:-1]] == [t.num_rows for t in tables[:1]] * (len(tables) - 1)
    assert sum(t.num_rows for t in tables) == 100 and len(tables) > 15


SPANISH = "El señor Álvarez comió piña y bebió café; ¿quién lo negaría? —Nadie, dijo él, «nunca».\n" * 20
FRENCH = "L’été dernier, à l’hôtel, où l’on mangeait des œufs brouillés, il déçut le garçon.\n" * 20
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива.\n" * 20


@pytest.mark.parametrize(
    ("text", "encoding", "header"),
    [
        (SPANISH.replace("—", "-"), "latin-1", ""),
        (SPANISH, "cp1252", "Character set encoding: ISO-8859-1\n"),
        (SPANISH, "mac_roman", "Character set encoding: ASCII\n"),
        (SPANISH.replace("—", "-"), "cp850", ""),
        (SPANISH, "cp1252", "Character set encoding: UTF-8\n"),
        (FRENCH, "cp1252", ""),
        (FRENCH, "mac_roman", ""),
        (RUSSIAN, "koi8-r", ""),
        (RUSSIAN, "cp1251", ""),
        (RUSSIAN, "iso8859-5", "Character set encoding: ISO-8859-5\n"),
        (RUSSIAN, "utf-16-be", ""),
        (SPANISH, "utf-8", "Character set encoding: ISO-8859-1\n"),
        (
            "Zażółć gęślą jaźń, ponieważ wszyscy byli już na miejscu.\n" * 20,
            "iso8859-2",
            "Character set encoding: ISO Latin-2 (iso-8859-2)\n",
        ),
    ],
    ids=lambda x: x if len(x) < 60 else "",
)
def test_encodings(text: str, encoding: str, header: str) -> None:
    found, _, flags = decoded((header + text).encode(encoding), 0.001)
    assert found == header + text
    assert "replaced_characters" not in flags


def test_a_few_damaged_bytes_are_replaced_and_many_are_not() -> None:
    data = bytearray((SPANISH * 20).encode())
    data[data.index(b"\xc3")] = 0xFF
    text, name, flags = decoded(bytes(data), 0.001)
    assert (name, flags) == ("utf-8", ["replaced_characters"])
    assert text.count("\ufffd") == 2
    with pytest.raises(BadBook, match="encoding"):
        decoded(b"\xff\xfe" + b"\x00\xd8" * 10 + "x".encode("utf-16-le") * 90, 0.001)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_clean_text_or_a_counted_failure(data: bytes) -> None:
    try:
        text, _, _ = decoded(data, 0.1)
    except BadBook as bad:
        assert bad.reason in REASONS
        return
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\xad\ud800-\udfff]", text)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_counted_and_never_raised(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flipped bytes cost at most the records of one file; whatever comes out is whole."""
    files = {
        "a.zip": zipped({"a.txt": BYTES, "b.txt": BYTES}), "a.epub": zipped(EPUB), "a.txt.gz": gz(BYTES),
        "a.tar": tarred({"a.txt": BYTES, "b.epub": zipped(EPUB)}), "a.jsonl.zst": zstd(b'{"text": "x"}\n' * 50),
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(files)))
    raw = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / name
    path.write_bytes(bytes(raw))
    tally = Tally()
    list(SOURCE.read(Split(name, str(path)), tally))


def test_plan_names_files_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a.txt", "d/b.epub", "d/c.jsonl.zst", "d/cover.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [s.name for s in SOURCE.plan([str(tmp_path)])] == ["a.txt", "d/b.epub", "d/c.jsonl.zst"]
    numbers = tmp_path / "list"
    numbers.write_text("# mine\n84, 11\n\n1342-1343  # two\n11\n")
    plan = SOURCE.plan([f"gutenberg:{numbers}", "gutenberg:2701"])
    assert [s.name for s in plan] == [f"cache/epub/{n}/pg{n}.txt" for n in (11, 1342, 1343, 2701, 84)]
    assert plan[0].path == f"{SOURCE.mirror}/cache/epub/11/pg11.txt"
    for wrong in ("gutenberg:", "gutenberg:alice", "gutenberg:5-3", "gutenberg:0", "gutenberg:1-999999"):
        with pytest.raises(RecipeError, match="gutenberg:"):
            SOURCE.plan([wrong])
    with pytest.raises(RecipeError, match="no file or folder"):
        SOURCE.plan([str(tmp_path / "nothing.txt")])
    for setting in ({"batch_bytes": 0}, {"max_book_bytes": 0}, {"max_replaced": 2.0}):
        with pytest.raises(RecipeError, match=r"source\."):
            Books(**setting)  # type: ignore[arg-type]


def test_books_by_number_come_from_the_mirror() -> None:
    def serve(request: Request, wire: Wire) -> None:
        found = {"cache/epub/11/pg11.txt": BYTES, "cache/epub/12/pg12.txt": b"<html>Are you a robot?</html>",
                 "cache/epub/13/pg13.zip": zipped({"13.txt": BYTES})}.get(request.path.strip("/"))  # fmt: skip
        if found is None:
            wire.reply(404, b"nothing here")
        else:
            wire.reply(200, found, ETag='"1"')

    download.configure(Settings(allow_private=True))
    try:
        with Server(extra={"cache": serve}) as server:
            source = Books(mirror=server.url(""))
            found = []
            for split in source.plan(["gutenberg:11-12"]):
                tally = Tally()
                found.append(([t["text"].to_pylist() for t in source.read(split, tally)], [f[2] for f in tally.failed]))
            assert found == [([[TEXT]], []), ([], ["not_text"])]
            with pytest.raises(SourceError, match="404"):
                list(source.read(source.plan(["gutenberg:99"])[0], Tally()))
            (table,) = source.read(source.plan([server.url("cache/epub/13/pg13.zip")])[0], Tally())
            assert table["text"].to_pylist() == [TEXT]
    finally:
        download.configure(None)


def test_the_sample_is_as_its_builder_makes_it() -> None:
    made = build_books.build()
    there = {
        p.relative_to(build_books.OUT).as_posix(): p.read_bytes() for p in build_books.OUT.rglob("*") if p.is_file()
    }
    assert there.keys() == made.keys()
    assert all(build_books.contents(n, there[n]) == build_books.contents(n, made[n]) for n in made)
    assert sum(map(len, there.values())) < 300_000


def test_every_record_of_the_sample_is_accounted_for() -> None:
    books, skipped, merged = 0, 0, 0
    for split in SOURCE.plan([]):
        rows, tally = read(Path(split.path), name=split.name)
        assert not tally.failed and not tally.damage
        books, skipped, merged = books + len(rows), skipped + tally.skipped.total(), merged + tally.merged
    assert (books, skipped, merged) == (13, 3, 1)


def test_real_books_are_read(shared_data: Path) -> None:
    plan = SOURCE.plan([str(shared_data / "books")])
    assert len(plan) == 46
    for split in plan:
        rows, tally = read(Path(split.path), name=split.name)
        assert len(rows) == 1 and not tally.damage
        text = str(rows[0]["text"])
        assert "\r" not in text and "\ufffd" not in text and not text.startswith("\ufeff")
    spanish = next(s for s in plan if s.name.endswith("pg2000.txt"))
    assert "escribano de Cámara del Rey nuestro señor" in str(read(Path(spanish.path))[0][0]["text"])
