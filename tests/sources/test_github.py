"""Archives, folders and tables of files against Python's own readers, and what hostile archives hold."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.engine import run
from curate.errors import RecipeError
from curate.report import why
from curate.schema import DOCUMENT, doc_id
from curate.spdx import CONFLICT, NONE, UNKNOWN
from curate.stage import Split, Tally
from curate.store import Corpus
from pipelines.llama import GITHUB
from sources import archives
from sources.archives import escaped, inflated, tar_entries
from sources.github import SAMPLE, GitHub
from sources.samples import build_github
from tests.sources.test_licences import GPL_HEAD, MIT

CODE = "def answer():\n    return 42\n"
FILES = {"LICENSE": MIT, "a.py": CODE, "src/b.c": "int main(void) { return 0; }\n", "README.md": "# x\n"}


def tar(files: dict[str, str | bytes], form: int = tarfile.PAX_FORMAT, top: str = "x-1/", **headers: str) -> bytes:
    """An archive of files, all in one folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=headers or None) as archive:
        for name, data in files.items():
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(top + name)
            info.size, info.mtime = len(raw), 1_600_000_000
            archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def special(*infos: tuple[str, bytes, str], files: dict[str, str] | None = None) -> bytes:
    """An archive with members of other kinds: (name, type, link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, link in infos:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            archive.addfile(info)
        for name, text in (files or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def zipped(files: dict[str, str | bytes], top: str = "x-main/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(top + name, (2021, 2, 3, 4, 5, 6)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def read(path: Path | str, name: str = "x.tar.gz", **changes: Any) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally()
    tables = list(GitHub(**changes).read(Split(name, str(path)), tally))
    for table in tables:
        assert table.schema == DOCUMENT and table.num_rows
        table.validate(full=True)
    documents = [row for table in tables for row in table.to_pylist()]
    ids = [d["doc_id"] for d in documents] + [f[0] for f in tally.failed]
    assert len(set(ids)) == len(ids)
    return documents, tally


def read_bytes(folder: Path, data: bytes, name: str = "x.tar.gz", **changes: Any) -> tuple[list[dict[str, Any]], Tally]:
    (folder / "stored").write_bytes(data)
    documents, tally = read(folder / "stored", name, **changes)
    assert tally.input_digest == hashlib.sha256(data).hexdigest()
    return documents, tally


def reasons(tally: Tally) -> list[str]:
    return [reason for _, _, reason, _ in tally.failed]


def licences(documents: list[dict[str, Any]]) -> dict[str, str]:
    return {d["title"]: d["license"] for d in documents}


# --- sound inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tar", "gz", "bz2", "xz", "zip", "two members"])
def test_every_form_gives_the_same_documents(tmp_path: Path, form: str) -> None:
    plain = tar(FILES, comment="c" * 40)
    stored = {
        "tar": plain,
        "gz": gzip.compress(plain, mtime=0),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zip": zipped(FILES, "x-1/"),
        "two members": gzip.compress(plain[:3000], mtime=0) + gzip.compress(plain[3000:], mtime=0) + b"\0" * 700,
    }[form]
    documents, tally = read_bytes(tmp_path, stored)
    assert {d["title"]: d["text"] for d in documents} == FILES
    assert set(licences(documents).values()) == {"MIT"}
    assert {d["doc_id"] for d in documents} == {doc_id("github", "x.tar.gz", f"x-1/{name}") for name in FILES}
    assert (tally.skipped, tally.failed, tally.damage) == ({}, [], [])
    assert tally.bytes_in == (len(plain) if form != "zip" else sum(map(len, FILES.values())))
    meta = json.loads(documents[0]["meta"])
    assert (meta["repository"], meta.get("commit")) == ("x", None if form == "zip" else "c" * 40)
    assert documents[0]["date"].year == (2021 if form == "zip" else 2020)
    assert documents[1]["url"] == "x/a.py"


PATHS = st.text(st.sampled_from("abcé日 ._-"), min_size=1, max_size=150).filter(lambda x: x.strip(". ") and x[0] != " ")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(PATHS, st.text(max_size=700), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 3000),
)
def test_tar_agrees_with_the_standard_library(files: dict[str, str], form: int, chunk: int) -> None:
    data = tar({k: v for k, v in files.items()}, form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "CHUNK", chunk)
        found = [(e.path, e.data) for e in tar_entries(io.BytesIO(gzip.compress(data)), "gz", lambda _: 1 << 20, {})]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]  # type: ignore[union-attr]
    assert found == [(escaped(name.encode()), raw) for name, raw in wanted]


def test_ustar_prefixes_old_tars_and_folders(tmp_path: Path) -> None:
    deep = "/".join(["folder"] * 20) + "/file.py"
    data = tar({deep: CODE, "x/": "", "LICENSE": MIT}, tarfile.USTAR_FORMAT)
    assert [d["title"] for d in read_bytes(tmp_path, data)[0]] == [deep, "LICENSE"]
    old = bytearray(tar({"a.py": CODE}, tarfile.USTAR_FORMAT))
    old[257:265] = b"\0" * 8
    old[148:156] = b"        "
    old[148:156] = b"%06o\0 " % sum(old[:512])
    assert [d["text"] for d in read_bytes(tmp_path, bytes(old))[0]] == [CODE]


def test_batches_of_any_size_hold_the_same_documents(tmp_path: Path) -> None:
    files = {f"f{i}.py": f"x = {i}\n" * i for i in range(40)}
    data = gzip.compress(tar(files))  # once: gzip writes the time into its head, and the tally has the input's digest
    wanted, tally = read_bytes(tmp_path, data)
    for size in (1, 700, 5000):
        assert read_bytes(tmp_path, data, batch_bytes=size) == (wanted, tally)


def test_vendored_folders_and_files_beside_each_other(tmp_path: Path) -> None:
    files = {**FILES, "vendor/z/LICENSE": GPL_HEAD, "vendor/z/z.c": "int z;\n", "vendor/y/y.c": "int y;\n"}
    documents, _ = read_bytes(tmp_path, tar(files))
    found = licences(documents)
    assert (found["a.py"], found["vendor/z/z.c"], found["vendor/y/y.c"]) == ("MIT", "GPL-3.0", NONE)
    assert [d["title"] for d in documents if "vendored" in json.loads(d["meta"])] == [n for n in files if "vendor" in n]


def test_the_licence_may_come_last_and_two_folders_at_the_top_are_kept(tmp_path: Path) -> None:
    documents, _ = read_bytes(tmp_path, tar(dict(reversed(FILES.items()))))
    assert set(licences(documents).values()) == {"MIT"}
    both = tar({"one/LICENSE": MIT, "one/a.py": CODE, "two/a.py": CODE}, top="")
    assert licences(read_bytes(tmp_path, both)[0]) == {"one/LICENSE": "MIT", "one/a.py": "MIT", "two/a.py": NONE}


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text", "flag"),
    [
        (b"a\r\nb\rc\n\td\x0c\n", "a\r\nb\rc\n\td\x0c\n", None),
        (b"\xef\xbb\xbfprint()\n", "print()\n", None),
        ("größe = 1\n".encode(), "größe = 1\n", None),
        (b"# caf\xe9 au lait\nprint(1)\n", "# café au lait\nprint(1)\n", "windows_1252"),
        ("x = 'ü'\n".encode("utf-16"), "x = 'ü'\n", "utf_16"),
        ("x = 1\nprint(x)\n".encode("utf-16-le"), "x = 1\nprint(x)\n", "utf_16"),
        ("x = 1\nprint(x)\n".encode("utf-16-be"), "x = 1\nprint(x)\n", "utf_16"),
        (b"print(1)\n\0\0\0", "print(1)\n", None),
        (b"print(1)\x01\x7f\n", "print(1)\n", "control_characters"),
        ("x = '\u202e' # \u2066\n".encode(), "x = '\u202e' # \u2066\n", "bidi_controls"),
        (b"", "", None),
    ],
    ids=range(11),
)
def test_text_is_decoded(tmp_path: Path, raw: bytes, text: str, flag: str | None) -> None:
    documents, tally = read_bytes(tmp_path, tar({"x.py": raw}))
    assert [d["text"] for d in documents] == [text]
    assert dict(tally.flags) == ({flag: 1} if flag else {})


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff", "binary"),
        (random.Random(1).randbytes(4000), "binary"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "lfs_pointer"),
        (b"x" * ((1 << 20) + 1), "too_large"),
    ],
    ids=range(5),
)
def test_what_is_no_text_is_skipped(tmp_path: Path, raw: bytes, kind: str) -> None:
    for stored in (tar({"x.py": raw}), zipped({"x.py": raw})):
        documents, tally = read_bytes(tmp_path, stored)
        assert (documents, dict(tally.skipped), tally.failed) == ([], {kind: 1}, [])


def test_other_encodings_fail(tmp_path: Path) -> None:
    raw = ("# " + "комментарий " * 3 + "\nprint('answer of everything', 42, 43)\n").encode("cp1251")
    assert reasons(read_bytes(tmp_path, tar({"x.py": raw}))[1]) == ["encoding"]


def test_large_notebooks_are_read(tmp_path: Path) -> None:
    documents, _ = read_bytes(tmp_path, tar({"x.ipynb": b" " * (2 << 20), "y.py": b" " * (2 << 20)}))
    assert [d["title"] for d in documents] == ["x.ipynb"]


# --- hostile archives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.py", "a/../../x.py", "C:\\x.py", "\\\\host\\x.py", "a/" * 300 + "x.py", "n" * 5000],
    ids=range(7),
)
def test_unsafe_paths_fail(tmp_path: Path, name: str) -> None:
    documents, tally = read_bytes(tmp_path, special(files={name: CODE, "good.py": CODE}))
    assert ([d["title"] for d in documents], reasons(tally)) == (["good.py"], ["unsafe_path"])


def test_links_and_devices_are_never_followed(tmp_path: Path) -> None:
    infos = [
        ("d/inside", tarfile.SYMTYPE, "../a.py"),
        ("loop", tarfile.SYMTYPE, "loop"),
        ("hard", tarfile.LNKTYPE, "a.py"),
        ("out", tarfile.SYMTYPE, "../../etc/passwd"),
        ("absolute", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard out", tarfile.LNKTYPE, "../a.py"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ]
    documents, tally = read_bytes(tmp_path, special(*infos, files={"a.py": CODE}))
    assert [d["title"] for d in documents] == ["a.py"]
    assert (dict(tally.skipped), reasons(tally)) == ({"link": 3}, ["unsafe_path"] * 5)


def test_names_are_escaped_so_that_they_can_be_turned_back(tmp_path: Path) -> None:
    names = [b"new\nline.py", b"bad\xff.py", b"escape\x1b[2J.py", b"back\\slash.py", "größe.py".encode()]
    shown = [escaped(name) for name in names]
    assert shown == ["new\\nline.py", "bad\\xff.py", "escape\\x1b[2J.py", "back\\slash.py", "größe.py"]
    assert all(name.isprintable() for name in shown)
    assert escaped(b"a\\b\xff") != escaped(b"a\\\\b\xff") and len({*shown}) == 5
    documents, _ = read_bytes(tmp_path, tar({os.fsdecode(names[0]): CODE, os.fsdecode(names[4]): CODE}, top=""))
    assert [d["title"] for d in documents] == [shown[0], shown[4]]


def test_a_second_file_of_one_name_fails(tmp_path: Path) -> None:
    data = (
        special(files={"a.py": "1\n"})[:1024] + special(files={"a.py": "2\n"})[:1024] + special(files={"a.py": "3\n"})
    )
    documents, tally = read_bytes(tmp_path, data)
    assert ([d["text"] for d in documents], reasons(tally)) == (["1\n"], ["duplicate_path"] * 2)


def test_git_internals_are_skipped_and_say_nothing(tmp_path: Path) -> None:
    documents, tally = read_bytes(
        tmp_path, tar({".git/hooks/post-checkout": "rm -rf /\n", ".git/LICENSE": MIT, "a.py": CODE})
    )
    assert (licences(documents), dict(tally.skipped)) == ({"a.py": NONE}, {"git_internal": 2})


@pytest.mark.parametrize("form", ["tar", "gz", "bz2", "xz"])
def test_truncation_is_always_reported(tmp_path: Path, form: str) -> None:
    plain = tar(FILES)
    stored = {"tar": bytes, "gz": lambda d: gzip.compress(d, mtime=0), "bz2": bz2.compress, "xz": lzma.compress}[form](
        plain
    )
    whole, _ = read_bytes(tmp_path, stored)
    known = {d["doc_id"]: d["text"] for d in whole}
    end = plain.rstrip(b"\0")
    places = range(512, len(end), 512) if form == "tar" else range(40, len(stored) - 1, max(1, len(stored) // 60))
    for place in places:
        documents, tally = read_bytes(tmp_path, stored[:place])
        assert len(tally.damage) == 1 and tally.damage[0].startswith("truncated_input"), (place, tally.damage)
        for d in documents:
            assert known[d["doc_id"]] == d["text"]
            assert d["license"] == UNKNOWN


def test_a_flipped_bit_proves_nothing(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(tar(FILES), mtime=0))
    chance = random.Random(3)
    for _ in range(60):
        flipped = bytearray(stored)
        flipped[chance.randrange(10, len(stored))] ^= 1 << chance.randrange(8)
        documents, tally = read_bytes(tmp_path, bytes(flipped))
        assert tally.damage and all(d["license"] == UNKNOWN for d in documents)


def test_bombs_are_stopped(tmp_path: Path) -> None:
    zeros = tar({"LICENSE": MIT, "x.py": b"\0" * (64 << 20)})
    for name, stored in (("gz", gzip.compress(zeros)), ("bz2", bz2.compress(zeros)), ("xz", lzma.compress(zeros))):
        tracemalloc.start()
        documents, tally = read_bytes(tmp_path, stored)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "decompression_limit" in tally.damage[0], name
        assert all(d["license"] == UNKNOWN for d in documents)
        assert peak < 40 << 20
    documents, tally = read_bytes(tmp_path, zipped({"LICENSE": MIT, "x.ipynb": b" " * (12 << 20)}))
    assert (licences(documents), reasons(tally)) == ({"LICENSE": "MIT"}, ["decompression_limit"])


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\0" * 3 + b"\xff" * 8, b"\xff" * 12, b"zzzzzzzzzzz\0"], ids=range(4)
)
def test_sizes_that_lie_cost_no_memory(tmp_path: Path, size: bytes) -> None:
    data = bytearray(tar({"LICENSE": MIT, "a.py": CODE}, top=""))
    at = data.index(b"a.py\0")
    data[at + 124 : at + 136] = size
    data[at + 148 : at + 156] = b"        "
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    documents, tally = read_bytes(tmp_path, bytes(data))
    assert [d["title"] for d in documents] == ["LICENSE"] and len(tally.damage) == 1
    assert documents[0]["license"] == UNKNOWN


def test_extended_headers_that_lie_are_damage(tmp_path: Path) -> None:
    for records in (
        b"99999999999 path=x\n",
        b"-1 path=x\n",
        b"garbage",
        b"5 path\n",
        b"12 size=-44\n",
        b"14 size=99zz9\n",
    ):
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(records)
        data = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + tar({"a.py": CODE})
        documents, tally = read_bytes(tmp_path, data)
        assert len(documents) <= 1 and (tally.damage or documents), records


def test_zips_that_lie(tmp_path: Path) -> None:
    good = zipped({"LICENSE": MIT, "a.py": CODE})
    at = good.rindex(b"PK\1\2")
    encrypted = bytearray(good)
    encrypted[at + 8] |= 1
    documents, tally = read_bytes(tmp_path, bytes(encrypted))
    assert (licences(documents), reasons(tally)) == ({"LICENSE": "MIT"}, ["encrypted"])
    short = bytearray(good)
    short[at + 24 : at + 28] = struct.pack("<L", 3)
    assert set(reasons(read_bytes(tmp_path, bytes(short))[1])) <= {"decompression_limit", "corrupt_member"}
    for cut in (10, 100, len(good) - 30, len(good) - 5):
        documents, tally = read_bytes(tmp_path, good[:cut])
        assert documents == [] and tally.damage
    chance = random.Random(4)
    for _ in range(150):
        flipped = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        read_bytes(tmp_path, bytes(flipped))


def test_a_licence_that_cannot_be_read_keeps_nothing(tmp_path: Path) -> None:
    data = bytearray(zipped({"LICENSE": MIT, "a.py": CODE}))
    data[70] ^= 0xFF
    documents, tally = read_bytes(tmp_path, bytes(data))
    assert reasons(tally) == ["corrupt_member"] and licences(documents) == {"a.py": UNKNOWN}


def test_many_members_are_bounded(tmp_path: Path) -> None:
    data = tar({f"{i}.py": "" for i in range(60)})
    documents, tally = read_bytes(tmp_path, data, max_members=50)
    assert len(documents) == 50 and tally.damage == ["too_many_members: more than 50"]


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=1500),
    st.sampled_from(["x.tar.gz", "x.zip", "x.jsonl", "x.parquet"]),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"PK\3\4", b"BZh9", b"\xfd7zXZ\0", b"PAR1"]),
)
def test_any_bytes_end(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, magic: bytes) -> None:
    read_bytes(tmp_path_factory.getbasetemp(), magic + data, name)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_239), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_changed_bytes_end(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]) -> None:
    data = bytearray(tar(FILES))
    for at, value in changes:
        data[at % len(data)] = value
    read_bytes(tmp_path_factory.getbasetemp(), bytes(data))


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    for data in (b"", b"<html>AccessDenied</html>", b"\0" * 2000):
        documents, tally = read_bytes(tmp_path, data)
        assert documents == [] and len(tally.damage) == 1


def test_nothing_is_written_and_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    files = {
        "setup.py": f"open({str(marker)!r}, 'w')\nsetup(license='MIT')\n",
        "conftest.py": f"open({str(marker)!r}, 'w')\n",
    }
    (tmp_path / "in").mkdir()
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "in" / "x.tar.gz").write_bytes(gzip.compress(tar(files)))
    documents, _ = read(tmp_path / "in" / "x.tar.gz")
    assert set(licences(documents).values()) == {"MIT"}
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "in" / "x.tar.gz"])


def test_large_archives_need_little_memory(tmp_path: Path) -> None:
    chance = random.Random(5)
    body = "\n".join(chance.randbytes(30).hex() for _ in range(8000))
    data = tar({f"f{i}.py": body for i in range(60)})
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    tracemalloc.start()
    rows = sum(t.num_rows for t in GitHub(batch_bytes=1 << 20).read(Split("x.tar", str(path)), Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 60 and peak < 12 << 20 < len(data)


def test_inflated_gives_what_was_deflated() -> None:
    data = random.Random(6).randbytes(300_000) + b"a" * 300_000
    for kind, stored in (
        ("gz", gzip.compress(data)),
        ("bz2", bz2.compress(data)),
        ("xz", lzma.compress(data)),
        ("", data),
    ):
        assert b"".join(inflated(io.BytesIO(stored), kind)) == data


# --- folders -----------------------------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_folder_is_a_repository(tmp_path: Path) -> None:
    root = write(tmp_path / "repo", {**FILES, ".git/config": "[core]\n"})
    (root / "link.py").symlink_to("/etc/passwd")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe")
    split = GitHub().plan([str(root)])[0]
    assert split.name == "repo"
    documents, tally = read(split.path, split.name)
    assert {d["title"]: d["text"] for d in documents} == FILES
    assert (dict(tally.skipped), reasons(tally)) == ({"git_internal": 1, "link": 2}, ["unsafe_path"])
    assert len(tally.input_digest) == 64


def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    root = write(tmp_path / "repo", FILES)
    out = tmp_path / "corpus"

    def redone() -> int:
        run(GITHUB, [str(root)], out=out, engine="inline")
        return len(list((out / "runs").glob("*/metrics.json")))

    redone()
    first = {c.record["input"] for c in Corpus(out).commits("github")}
    redone()
    assert {c.record["input"] for c in Corpus(out).commits("github")} == first
    (root / "src" / "b.c").write_text("int main(void) { return 1; }\n")  # same size
    redone()
    assert {c.record["input"] for c in Corpus(out).commits("github")} != first


def test_folders_of_archives_and_of_repositories(tmp_path: Path) -> None:
    write(tmp_path / "one", FILES)
    write(tmp_path / "deep" / "owner" / "two", FILES)
    (tmp_path / "three.tar.gz").write_bytes(gzip.compress(tar(FILES)))
    (tmp_path / "notes.tsv").write_text("x\n")
    assert [s.name for s in GitHub().plan([str(tmp_path)])] == ["deep/owner/two", "one", "three.tar.gz"]
    write(tmp_path / "loose", {"a.py": CODE, "lib/b.py": CODE})
    assert [s.name for s in GitHub().plan([str(tmp_path / "loose")])] == ["loose"]
    given = [str(tmp_path / "one"), str(tmp_path / "one") + "/", str(tmp_path / "three.tar.gz")]
    assert [s.name for s in GitHub().plan(given)] == ["one", "three.tar.gz"]


def test_wrong_inputs_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    for wrong in (str(tmp_path / "x.pdf"), str(tmp_path / "none.tar.gz")):
        with pytest.raises(RecipeError) as caught:
            GitHub().plan([wrong])
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="max_members"):
        GitHub(max_members=0)


def test_addresses_at_github() -> None:
    splits = GitHub().plan(["https://github.com/pallets/click", "https://github.com/o/r/archive/refs/tags/v1.tar.gz"])
    assert [(s.name, s.path.rpartition("github.com")[2]) for s in splits] == [
        ("o/r/refs/tags/v1.tar.gz", "/o/r/archive/refs/tags/v1.tar.gz"),
        ("pallets/click", "/pallets/click/tar.gz/HEAD"),
    ]


# --- tables ------------------------------------------------------------------------------------------------------

ROWS = [
    {"path": "a.py", "content": CODE, "repository": "o/r", "license": "mit"},
    {"path": "b.py", "content": CODE, "repository": "o/r", "license": "GPL-3.0"},
    {"path": "c.py", "content": "# SPDX-License-Identifier: GPL-2.0\n", "repository": "o/r", "license": "MIT"},
    {"path": "d.py", "content": CODE, "repository": "o/r", "license": None},
    {"path": None, "content": CODE, "repository": "o/r", "license": "MIT"},
    {"path": "e.py", "content": random.Random(2).randbytes(1 << 20).hex(), "repository": "o/r", "license": "MIT"},
]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz"])
def test_tables(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(data) if form.endswith("gz") else data)
    documents, tally = read(path, path.name)
    assert licences(documents) == {"a.py": "MIT", "b.py": "GPL-3.0", "c.py": "GPL-2.0 AND MIT", "d.py": NONE}
    assert (dict(tally.skipped), reasons(tally)) == ({"too_large": 1}, ["bad_row"])
    assert documents[0]["url"] == "https://github.com/o/r/blob/HEAD/a.py"
    assert tally.bytes_in > 2 << 20


def test_tables_of_other_makers(tmp_path: Path) -> None:
    stack = {
        "max_stars_repo_path": "a.py",
        "content": CODE,
        "max_stars_repo_name": "o/r",
        "max_stars_repo_licenses": ["MIT", "BSD-3-Clause"],
    }
    mixed = {**stack, "max_stars_repo_path": "b.py", "max_stars_repo_licenses": ["MIT", "GPL-3.0"]}
    pq.write_table(pa.Table.from_pylist([stack, mixed]), tmp_path / "t.parquet")
    assert licences(read(tmp_path / "t.parquet", "t.parquet")[0]) == {
        "a.py": "BSD-3-Clause AND MIT",
        "b.py": "GPL-3.0 AND MIT",
    }


def test_damaged_tables(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]).encode(), b"{bad", b"[" * 100_000, b'"text"', b"", json.dumps(ROWS[1]).encode()]
    documents, tally = read_bytes(tmp_path, b"\n".join(lines), "x.jsonl")
    assert (len(documents), reasons(tally)) == (2, ["bad_row"] * 3)
    lines[2] = random.Random(7).randbytes(3000).hex().encode()
    stored = gzip.compress(b"\n".join(lines) * 20, mtime=0)
    documents, tally = read_bytes(tmp_path, stored[:-12], "x.jsonl.gz")
    assert tally.damage[0].startswith("truncated_input") and documents
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    documents, tally = read_bytes(tmp_path, (tmp_path / "t.parquet").read_bytes()[:-9], "x.parquet")
    assert documents == [] and tally.damage


# --- the sample and real archives ----------------------------------------------------------------------------------


def test_the_sample_is_what_its_texts_make(tmp_path: Path) -> None:
    assert build_github.differences() == []
    shutil.copytree(SAMPLE, tmp_path / "github")
    (tmp_path / "github" / "quarrel.tar.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / "github" / "tidewatch.zip").unlink()
    assert build_github.differences(tmp_path / "github") == [
        "quarrel.tar.gz: content differs",
        "tidewatch.zip: missing",
    ]
    assert sum(p.stat().st_size for p in SAMPLE.iterdir()) < 300_000


def test_the_sample_shows_every_licence_reason_and_why_answers(tmp_path: Path) -> None:
    run(GITHUB, [], out=tmp_path, engine="inline")
    corpus = Corpus(tmp_path)
    counts = [c.record["counts"] for c in corpus.commits("github")]
    dropped = {key for c in counts for key in c["dropped"]}
    assert {f"licence:{r}" for r in ("no_licence", "other_licence", "licence_conflict", "licence_unknown")} <= dropped
    assert {"code_path:lock_file", "code_path:minified", "generated:generated", "code_quality:few_letters"} <= dropped
    assert [d for c in counts for d in c["damage"]] == ["truncated_input: the archive ends inside a member"]
    answer = why(corpus, "quarrel/quarrel.py")
    assert [(a["stage"], a["reason"]) for a in answer] == [("licence", "licence_conflict")]
    assert "setup.py: GPL-3.0-or-later" in answer[0]["value"] and CONFLICT not in answer[0]["value"]
    kept = {d["title"]: d for c in corpus.commits("github") for d in _rows(c)}
    assert "ghp_" not in kept["tidewatch/secret.py"]["text"] and kept["src/cone.c"]["text"].startswith("#include")
    assert kept["notes/berries.ipynb"]["text"].startswith("# # Berries by week")


def _rows(commit: Any) -> list[dict[str, Any]]:
    reader = commit.open("documents")
    return [row for i in range(reader.num_record_batches) for row in reader.get_batch(i).to_pylist()]


def test_real_archives_agree_with_the_standard_library(shared_data: Path) -> None:
    folder = Path(os.environ.get("CURATE_SDISTS", shared_data / "github" / "sdists"))
    paths = sorted(folder.glob("*.tar.gz")) if folder.is_dir() else []
    if not paths:
        pytest.skip(f"no source archives at {folder} (set CURATE_SDISTS)")
    for path in paths[:6]:
        documents, tally = read(path, path.name)
        with tarfile.open(path) as archive:
            names = [m.name.partition("/")[2] for m in archive if m.isfile()]
        skipped = sum(n for kind, n in tally.skipped.items() if kind != "link")
        assert len(documents) + skipped + len(tally.failed) == len(names)
        assert {d["title"] for d in documents} <= set(names)
        assert tally.damage == []
