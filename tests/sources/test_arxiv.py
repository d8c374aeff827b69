"""Submissions of arXiv: archives and what is in them, main files, inputs, encodings, damage."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.engine import run
from curate.errors import RecipeError
from curate.filters.latex import LATEST, latex
from curate.report import verify
from curate.schema import DOCUMENT
from curate.stage import Split, Tally
from curate.store import Corpus, tables
from sources import arxiv
from sources.arxiv import Arxiv, identify
from sources.samples import build_arxiv
from sources.samples.build_arxiv import gzipped, packed

HEAD = "\\documentclass{article}\n\\begin{document}\n"
TAIL = "\n\\end{document}\n"


def read(folder: Path, name: str, data: bytes, **options: int) -> tuple[list[dict[str, object]], Tally]:
    path = folder / name
    path.write_bytes(data)
    tally = Tally()
    tables = list(Arxiv(**options).read(Split(name, str(path), len(data)), tally))
    assert all(t.schema == DOCUMENT for t in tables)
    return [row for t in tables for row in t.to_pylist()], tally


def paper(folder: Path, files: dict[str, str | bytes], **options: int) -> tuple[list[dict[str, object]], Tally]:
    data = {n: t.encode() if isinstance(t, str) else t for n, t in files.items()}
    return read(folder, "2001.00001.gz", gzipped(packed(data)), **options)


def text(folder: Path, files: dict[str, str | bytes]) -> str:
    rows, tally = paper(folder, files)
    assert len(rows) == 1, tally.failed
    return str(rows[0]["text"])


def failed(tally: Tally) -> Counter[str]:
    return Counter(reason for _, _, reason, _ in tally.failed)


def test_the_sample_is_built_as_committed_and_read_as_it_was_meant() -> None:
    assert build_arxiv.content(build_arxiv.TARGET.read_bytes()) == build_arxiv.content(packed(build_arxiv.members()))
    (split,) = Arxiv().plan([])
    tally = Tally()
    (table,) = Arxiv().read(split, tally)
    assert split.name == "arXiv_src_2402_001.tar" and tally.skipped == {"pdf_only": 1, "withdrawn": 1}
    assert not tally.failed and not tally.damage and tally.flags == {"other_encoding": 1}
    assert tally.input_digest == hashlib.sha256(build_arxiv.TARGET.read_bytes()).hexdigest()
    first = table.to_pylist()[0]
    assert first["url"] == "https://arxiv.org/abs/2402.00001" and first["date"] == datetime(2024, 2, 1, tzinfo=UTC)
    assert json.loads(first["meta"]) == {"id": "2402.00001", "main": "tides.tex", "files": 4}
    outcome = latex()(table)
    assert outcome.reason is not None and outcome.reason.to_pylist() == [None, None, None, "no_section", None]
    assert outcome.columns["latex_limit"].to_pylist() == [False, False, False, False, True]
    tides = outcome.columns["text"][0].as_py()
    assert "$17\\,\\mathrm{min}$" in tides and "about~$4\\,\\mathrm{min}$; Lantern explains" in tides
    assert "% this sign is no comment" in tides and "8\\%" in tides
    for gone in ("pirates", "hurry", "Referee", "Check the axis", "Walls and Water", "junk", "withdrawn", "wall slows"):
        assert gone not in tides
    assert outcome.columns["text"][2].as_py().startswith("\\section{Einführung}\nDie Größe einer Schneeflocke")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("0704/0704.0001.gz", ("0704.0001", "2007", "04", None)),
        ("2401.12345v3.tar.gz", ("2401.12345", "2024", "01", "v3")),
        ("0001/hep-th0001001.gz", ("hep-th/0001001", "2000", "01", None)),
        ("9202/math.GT9202001v2.gz", ("math/9202001", "1992", "02", "v2")),
        ("2413.12345.gz", None),
        ("0703.0001.gz", None),
        ("paper.tar.gz", None),
    ],
)
def test_identifiers_of_all_ages(name: str, wanted: tuple[str, str, str, str | None] | None) -> None:
    found = identify(name)
    assert (found and (found["id"], found["year"], found["month"], found.get("version"))) == (wanted or {})


def test_an_unknown_name_has_no_address_and_is_flagged(tmp_path: Path) -> None:
    rows, tally = read(tmp_path, "mine.tex", (HEAD + "\\section{a}" + TAIL).encode())
    assert rows[0]["url"] is None and rows[0]["date"] is None and tally.flags == {"unknown_id": 1}


@pytest.mark.parametrize(
    ("files", "main"),
    [
        ({"a.tex": HEAD, "b.tex": "no class"}, "a.tex"),
        ({"a.tex": HEAD * 9, "b.tex": HEAD, "00README.XXX": "b.tex toplevelfile\n"}, "b.tex"),
        ({"a.tex": HEAD * 9, "b.tex": HEAD, "00README.XXX": "a.tex ignore\n"}, "b.tex"),
        (
            {
                "a.tex": HEAD * 9,
                "b.tex": HEAD,
                "00README.json": '{"sources":[{"filename":"b.tex","usage":"toplevel"}]}',
            },
            "b.tex",
        ),
        ({"a.tex": HEAD, "b.tex": HEAD + "longer"}, "b.tex"),
        ({"a.tex": HEAD * 9, "b.tex": HEAD, "b.bbl": "x"}, "b.tex"),
        ({"response.tex": HEAD * 9, "b.tex": HEAD}, "b.tex"),
        ({"figs/z.tex": HEAD + "longer", "b.tex": HEAD}, "b.tex"),
        ({"a.tex": HEAD * 9, "main.tex": HEAD}, "main.tex"),
        ({"a.tex": "% \\documentclass{x}\n" + HEAD[HEAD.index("\n") :], "b.tex": HEAD}, "b.tex"),
        ({"s.tex": HEAD.replace("article", "subfiles") * 9, "b.tex": HEAD}, "b.tex"),
        ({"flat": HEAD, "x.sty": "\\documentclass{x}"}, "flat"),
        ({"a.tex": "\\input amstex\n\\bye", "b.tex": "part"}, "a.tex"),
        ({"only.tex": "no class at all"}, "only.tex"),
        ({"old.tex": HEAD.replace("class", "style")}, "old.tex"),
        ({"._a.tex": HEAD * 9, "b.tex": HEAD}, "b.tex"),
    ],
)
def test_the_main_file_is_found(tmp_path: Path, files: dict[str, str | bytes], main: str) -> None:
    rows, tally = paper(tmp_path, files)
    assert [json.loads(str(r["meta"]))["main"] for r in rows] == [main], tally.failed


@pytest.mark.parametrize(
    ("command", "files", "wanted"),
    [
        ("\\input{b}", {"b.tex": "B"}, "<B>"),
        ("\\input b\n", {"b.tex": "B"}, "<B\n>"),
        ("\\include{d/b}", {"d/b.tex": "B"}, "<B>"),
        ("\\input{b.dat2}", {"b.dat2": "B"}, "<B>"),
        ("\\input{B.TEX}", {"b.tex": "B"}, "<B>"),
        ("\\import{d/}{b}", {"d/b.tex": "(\\input{c})", "d/c.tex": "C"}, "<(C)>"),
        ("\\subimport{d/}{b}", {"d/b.tex": "(\\subimport{e/}{c})", "d/e/c.tex": "C"}, "<(C)>"),
        ("\\subfile{b}", {"b.tex": HEAD.replace("article", "subfiles") + "B" + TAIL}, "<\nB\n>"),
        ("\\input{b}", {"b.tex": "1\\input{c}2", "c.tex": "C % gone"}, "<1C2>"),
        ("\\input{b}", {"b.tex": "B\n\\endinput\nno"}, "<B\n>"),
        ("% \\input{b}\n", {"b.tex": "B"}, "<"),
        ("\\verb|\\input{b}|", {"b.tex": "B"}, "<\\verb|\\input{b}|>"),
        ("\\input{gone}", {}, "<\\input{gone}>"),
        ("\\input{../../etc/passwd}", {}, "<\\input{../../etc/passwd}>"),
        ("\\input{/etc/passwd}", {}, "<\\input{/etc/passwd}>"),
        ('\\input{|"ls"}', {}, '<\\input{|"ls"}>'),
        ("\\input{b}", {"b.tex": "1\\input{c}", "c.tex": "2\\input{b}3"}, "<123>"),
        ("\\input{a}", {}, "<>"),
    ],
)
def test_inputs_come_from_the_archive_and_from_nowhere_else(
    tmp_path: Path, command: str, files: dict[str, str | bytes], wanted: str
) -> None:
    found = text(tmp_path, {"a.tex": f"{HEAD}<{command}>{TAIL}", **files})
    assert found[len(HEAD) :].startswith(wanted)


def test_what_inputs_lack_is_counted(tmp_path: Path) -> None:
    _, tally = paper(tmp_path, {"a.tex": HEAD + "\\input{no}\\input{a}\\input{b}" + TAIL, "b.tex": b"\0\0\0"})
    assert tally.flags == {"missing_input": 1, "input_cycle": 1, "binary_input": 1}


def test_definitions_of_an_own_package_are_put_in_once(tmp_path: Path) -> None:
    found = text(
        tmp_path,
        {"a.tex": "\\documentclass{a}\n\\usepackage{own,other}\n\\usepackage{own}\n" + HEAD, "own.sty": "\\def\\x{y}"},
    )
    assert found.count("\\def\\x{y}") == 1 and found.index("\\def") > found.index("{own,other}")


def test_a_deep_tree_and_a_wide_tree_of_inputs_are_bounded(tmp_path: Path) -> None:
    deep: dict[str, str | bytes] = {f"f{i}.tex": f"{i}\\input{{f{i + 1}}}" for i in range(60)}
    _, tally = paper(tmp_path, {"a.tex": HEAD + "\\input{f0}", **deep})
    assert tally.flags["input_limit"] == 1
    wide: dict[str, str | bytes] = {f"w{i}.tex": f"\\input{{w{i + 1}}}" * 10 for i in range(9)}
    rows, tally = paper(tmp_path, {"a.tex": HEAD + "\\input{w0}", **wide, "w9.tex": "x" * 1000}, max_file_bytes=100_000)
    assert not rows and failed(tally) == {"record_too_large": 1}


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        ("", "cp1252"),
        ("[latin1]{inputenc}", "cp1252"),
        ("[latin2]{inputenc}", "iso8859-2"),
        ("[koi8-r]{inputenc}", "koi8-r"),
    ],
)
def test_each_file_is_decoded_by_itself(tmp_path: Path, head: str, codec: str) -> None:
    word = {"iso8859-2": "Čeština", "koi8-r": "Привет"}.get(codec, "Größe")
    declared = f"\\usepackage{head}\n" if head else ""
    files = {"a.tex": f"\\documentclass{{x}}\n{declared}{HEAD}ß\\input{{b}}".encode(), "b.tex": word.encode(codec)}
    rows, tally = paper(tmp_path, files)
    assert f"ß{word}" in str(rows[0]["text"]) and tally.flags["other_encoding"] == 1
    assert json.loads(str(rows[0]["meta"]))["encodings"] == [codec]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.5\n", "pdf_only"),
        (b"%!PS-Adobe\n", "postscript"),
        (b"<!DOCTYPE html><p>", "html"),
        (b"PK\x03\x04", "docx"),
        (b"%auto-ignore\nWithdrawn.", "withdrawn"),
        (packed({"a.pdf": b"%PDF-1.5"}), "pdf_only"),
        (packed({"a.ps": b"%!PS"}), "postscript"),
    ],
)
def test_what_is_no_latex_is_skipped_by_its_bytes(tmp_path: Path, data: bytes, kind: str) -> None:
    for stored in (data, gzipped(data)):
        rows, tally = read(tmp_path, "2001.00001.gz", stored)
        assert not rows and tally.skipped == {kind: 1} and not tally.failed


WHOLE = gzipped(packed({"a.tex": (HEAD + "\\section{a} text" + TAIL).encode()}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (WHOLE[:-20], "truncated_input"),
        (WHOLE[:-6] + b"\0\0" + WHOLE[-4:], "bad_gzip"),
        (gzipped(b"\0" * (8 << 20)), "decompression_limit"),
        (gzipped(gzipped(gzipped(b"a"))), "unknown_format"),
        (b"\x1f\x9d\x90abc", "unknown_format"),
        (b"begin 644 a.tex\n", "unknown_format"),
        (b"", "unknown_format"),
        (gzipped(b"text\0\0\0"), "binary"),
        (gzipped(packed({"a.tex": HEAD.encode() + b"\0", "b.tex": b"x", "c.tex": b"y"})), "no_main"),
        (gzipped(packed({"a.txt": b"notes"})), "no_main"),
        (gzipped(packed({"a.tex": b"x", "b.tex": b"y"})), "no_main"),
        (gzipped(packed({f"{i}": b"" for i in range(10_001)})), "too_many_members"),
        (gzipped(packed({"a.tex": HEAD.encode()})[:530]), "truncated_input"),
        (gzipped(packed({"a.pdf": b"x", "b.tex": b"y"})[:1024] + b"z" * 1024), "bad_tar"),
    ],
)
def test_a_damaged_submission_is_one_failure_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    rows, tally = read(tmp_path, "2001.00001.gz", data)
    assert not rows and failed(tally) == {reason: 1} and not tally.skipped
    assert tally.failed[0][1] == "https://arxiv.org/abs/2001.00001"


def test_a_bomb_in_a_large_tar_member_is_stopped(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("a.tex")
    huge.size = 1 << 40
    head = huge.tobuf(tarfile.GNU_FORMAT)
    rows, tally = read(tmp_path, "2001.00001.gz", gzipped(head + b"x" * 2000))
    assert not rows and failed(tally) == {"truncated_input": 1}


def test_odd_members_are_passed_over_and_nothing_is_unpacked(tmp_path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        kinds = {
            "../evil.tex": b"0",
            "/abs.tex": b"0",
            "l.tex": b"2",
            "h.tex": b"1",
            "dev.tex": b"3",
            "n" * 300 + ".tex": b"0",
        }
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        data = (HEAD + "\\input{l}\\input{" + "n" * 300 + "}").encode()
        info = tarfile.TarInfo("a.tex")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    rows, tally = read(tmp_path, "2001.00001.gz", gzipped(target.getvalue()))
    assert len(rows) == 1 and tally.flags == {"odd_member": 5, "missing_input": 1}
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "2001.00001.gz"]


def month(count: int) -> dict[str, bytes]:
    return {f"2001/2001.{i:05d}.gz": gzipped(f"{HEAD}\\section{{s}} marker{i}{TAIL}".encode()) for i in range(count)}


def test_a_month_gives_each_submission_once_with_its_own_identity(tmp_path: Path) -> None:
    rows, tally = read(tmp_path, "arXiv_src_2001_001.tar", packed(month(30)), batch_bytes=200)
    assert [r["url"] for r in rows] == [f"https://arxiv.org/abs/2001.{i:05d}" for i in range(30)]
    assert all(f"marker{i}\n" in str(r["text"]) for i, r in enumerate(rows))
    assert len({r["doc_id"] for r in rows}) == 30 and not tally.failed and not tally.damage


def test_one_bad_submission_costs_itself_alone(tmp_path: Path) -> None:
    members = month(5)
    members["2001/2001.00002.gz"] = members["2001/2001.00002.gz"][:-9]
    rows, tally = read(tmp_path, "arXiv_src_2001_001.tar", packed(members))
    assert len(rows) == 4 and failed(tally) == {"truncated_input": 1} and not tally.damage


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_cut_month_is_always_reported(tmp_path_factory: pytest.TempPathFactory, where: int) -> None:
    whole = packed(month(6))
    data = whole[: where % (7 * 1024)]
    rows, tally = read(tmp_path_factory.mktemp("cut"), "arXiv_src_2001_001.tar", data)
    assert tally.damage or tally.failed
    assert len(rows) + len(tally.failed) <= 6
    assert all(str(r["text"]).endswith("\\end{document}") for r in rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 7))
def test_a_flipped_bit_breaks_at_most_one_submission_or_is_reported(
    tmp_path_factory: pytest.TempPathFactory, where: int, bit: int
) -> None:
    data = bytearray(packed(month(6)))
    data[where % len(data)] ^= 1 << bit
    rows, tally = read(tmp_path_factory.mktemp("bit"), "arXiv_src_2001_001.tar", bytes(data))
    assert len(rows) >= 5 or tally.damage


def test_the_licence_is_the_one_the_paper_declares(tmp_path: Path) -> None:
    for line, wanted in [
        ("\\usepackage[type={CC},modifier={by-sa},version={3.0}]{doclicense}", "CC-BY-SA-3.0"),
        ("pdflicenseurl={http://creativecommons.org/licenses/by/4.0/}", "CC-BY-4.0"),
        ("The data are at https://creativecommons.org/licenses/by/4.0/.", None),
    ]:
        rows, _ = paper(tmp_path, {"a.tex": f"\\documentclass{{x}}\n{line}\n{HEAD}"})
        assert rows[0]["license"] == wanted


def test_users_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(RecipeError, match="no .*tar.*notes.doc"):
        Arxiv().plan([str(tmp_path)])
    with pytest.raises(RecipeError, match="max_file_bytes is 0"):
        Arxiv(max_file_bytes=0)


def test_all_reasons_have_a_test() -> None:
    assert set(arxiv.REASONS) == {
        "truncated_input", "bad_gzip", "bad_tar", "decompression_limit", "too_many_members", "record_too_large",
        "no_main", "binary", "unknown_format",
    }  # fmt: skip


def test_real_submissions_keep_their_prose_and_lose_their_comments(shared_data: Path) -> None:
    facts = (shared_data / "arxiv" / "PAPERS.dev.tsv").read_text().splitlines()[1:]
    body, seen = latex(), 0
    for split in Arxiv().plan([str(shared_data / "arxiv")]):
        tally = Tally()
        (table,) = Arxiv().read(split, tally)
        outcome = body(table)
        assert table.num_rows == 1 and not tally.failed and not tally.damage, split.name
        assert outcome.reason is not None and outcome.reason[0].as_py() is None, split.name
        assert outcome.columns["latex_limit"][0].as_py() is False, split.name
        assert "\\newcommand" not in outcome.columns["text"][0].as_py(), split.name
        seen += 1
    assert seen == len(facts) == 17


@pytest.mark.parametrize(
    ("given", "stays", "number"), [(("v9", "v10", "v2"), "v10", 10), (("v1", "", "v2"), "", LATEST)]
)
def test_of_the_versions_of_a_paper_the_latest_stays(
    tmp_path: Path, given: tuple[str, ...], stays: str, number: int
) -> None:
    """v10 is later than v9, a name without a version is the latest; the others are counted."""
    folder = tmp_path / "in"
    folder.mkdir()
    for version in given:
        text = f"\\documentclass{{article}}\\begin{{document}}\\section{{A}} This is {version}.\\end{{document}}"
        (folder / f"2402.00001{version}.tex").write_text(text)
    done = run("arxiv", [str(folder)], out=tmp_path / "out", engine="inline")
    counts = done.report["sources"]["arxiv"]
    assert counts["balances"] and counts["kept"] == 1 and counts["dropped"] == {"url:duplicate_url": 2}
    kept = [
        row for c in Corpus(tmp_path / "out").commits("arxiv") for t in tables(c, "documents") for row in t.to_pylist()
    ]
    assert f"This is {stays}." in kept[0]["text"] and kept[0]["latex_version"] == number
    assert not verify(Corpus(tmp_path / "out"))


def test_an_unpacked_submission_is_one_paper(tmp_path: Path) -> None:
    """A folder with a main file and parts; beside it papers of one file each. Nothing is read through a link."""
    paper = tmp_path / "in" / "2402.00007" / "parts"
    paper.mkdir(parents=True)
    (tmp_path / "secret.tex").write_text("secret words")
    body = "\\section{A} Begins. \\input{parts/one} \\input{parts/link}"
    main = f"\\documentclass{{article}}\n\\begin{{document}}{body}\n\\end{{document}}"
    (paper.parent / "paper.tex").write_text(main)
    (paper / "one.tex").write_text("The part that is put in.")
    (paper / "link.tex").symlink_to(tmp_path / "secret.tex")
    for name in ("2402.00008.tex", "2402.00009.tex"):
        (tmp_path / "in" / name).write_text("\\documentclass{a}\\begin{document}\\section{B} Alone.\\end{document}")
    splits = Arxiv().plan([str(tmp_path / "in")])
    assert [s.name for s in splits] == ["2402.00007", "2402.00008.tex", "2402.00009.tex"]
    done = run("arxiv", [str(tmp_path / "in")], out=tmp_path / "out", engine="inline")
    assert done.report["sources"]["arxiv"]["records_in"] == 3 and done.report["sources"]["arxiv"]["kept"] == 3
    commits = Corpus(tmp_path / "out").commits("arxiv")
    texts = {r["url"]: r["text"] for c in commits for t in tables(c, "documents") for r in t.to_pylist()}
    text = texts["https://arxiv.org/abs/2402.00007"]
    assert "The part that is put in." in text and "secret" not in text
    again = run("arxiv", [str(tmp_path / "in")], out=tmp_path / "out", engine="inline")
    assert again.units_reused == 3
