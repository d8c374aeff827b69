"""The command line: help, exit codes, one-line errors, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli import main, parser
from sources.samples import commoncrawl_files
from tests.conftest import ROOT

CURATE = [sys.executable, "-m", "curate.cli"]


def curate(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CURATE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def commands() -> list[str]:
    return list(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]


def test_every_command_has_help_with_an_example_and_stands_in_the_readme(capsys) -> None:
    readme = (ROOT / "README.md").read_text()
    for name in commands():
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"curate {name}" in capsys.readouterr().out.partition("example:")[2]
        assert f"curate {name}" in readme


def test_help_loads_nothing_heavy() -> None:
    heavy = ("ray", "torch", "numba", "pyarrow", "numpy")
    code = f"import sys, curate.cli; curate.cli.parser().format_help(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "corpus"
    assert main(["run", "commoncrawl", "--out", str(out), "--engine", "inline", "--quiet"]) == 0
    return out


MISTAKES = [
    (["run", "comoncrawl"], "did you mean 'commoncrawl'"),
    (["run", "commoncrawl", "no/such/folder"], "no/such/folder"),
    (["run", "commoncrawl", "no-such-*.wet.gz"], "no-such-*.wet.gz"),
    (["run", "commoncrawl", "--set", "language.min_scor=1"], "did you mean 'min_score'"),
    (["run", "commoncrawl", "--set", "language.min_score=high"], "language.min_score is 'high', must be float"),
    (["run", "commoncrawl", "--set", "langage.min_score=1"], "did you mean 'language'"),
    (["run", "commoncrawl", "--set", "language"], "STAGE.SETTING=VALUE"),
    (["run", "commoncrawl", "--set", "paragraphs.policy=keep_last"], "must be one of keep_first, drop_all"),
    (["run", "commoncrawl", "--set", "language.model=no-such.ftz"], "no-such.ftz"),
    (["run", "commoncrawl", "--languages", "english"], "english"),
    (["run", "commoncrawl", "--set", "url_blocklist.domains=no-such-list"], "no-such-list"),
    (["run", "commoncrawl", "--limit", "0"], "--limit is 0, must be at least 1"),
    (["run", "commoncrawl", "--pipelines", "no_such_module"], "no_such_module"),
    (["run", "commoncrawl", "--engine", "spark"], "invalid choice"),
    (["run"], "RECIPE"),
    (["run", "commoncrawl", "--ot", "x"], "unrecognized arguments: --ot x"),
    (["report", "no-such-corpus"], "not a corpus"),
    (["verify", "no-such-corpus"], "not a corpus"),
    (["why", "no-such-corpus", "x"], "not a corpus"),
    (["gc", "no-such-corpus"], "not a corpus"),
    (["models", "get", "gpt"], "gpt"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = curate(*arguments, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and message in last, done.stderr
    assert "Traceback" not in done.stderr and "Error" not in last.split(":")[0]


def test_report_as_json_keeps_the_contract(corpus: Path, capsys) -> None:
    assert main(["report", str(corpus), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    source = report["sources"]["commoncrawl"]
    assert report["balances"] is True
    wanted = "records_in kept failed merged skipped dropped bytes_in text_bytes_kept core_seconds mb_per_core_second"
    assert set(wanted.split()) <= set(source)
    parts = source["kept"] + source["failed"] + source["merged"]
    assert source["records_in"] == parts + sum(source["skipped"].values()) + sum(source["dropped"].values())


def test_the_page_is_self_contained_and_escapes(corpus: Path) -> None:
    page = (corpus / "report.html").read_text()
    assert "kept" in page and "<script" not in page and "http-equiv" not in page
    assert not any(x in page for x in ("src=", "@import", "url(", "<link"))


def test_why_finds_a_page_and_says_when_there_is_none(corpus: Path, capsys) -> None:
    truth = [line.split("\t") for line in (commoncrawl_files()[0].parent / "truth.tsv").read_text().splitlines()]
    head = truth[0]
    exact = next(dict(zip(head, r, strict=True)) for r in truth[1:] if r[head.index("kind")] == "exact")
    assert main(["why", str(corpus), exact["url"]]) == 0
    assert "dropped by paragraphs, reason all_repeated" in capsys.readouterr().out
    assert main(["why", str(corpus), "https://nowhere.example/"]) == 2
    assert "no record of that URL" in capsys.readouterr().out


def test_verify_answers_3_where_something_is_damaged(tmp_path: Path, corpus: Path, capsys) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    assert main(["verify", str(copy)]) == 0
    victim = sorted((copy / "commoncrawl/documents").iterdir())[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(bytes(data))
    assert main(["verify", str(copy)]) == 3
    assert victim.name in capsys.readouterr().out


def test_a_run_with_too_much_damage_answers_3(tmp_path: Path) -> None:
    data = commoncrawl_files()[0].read_bytes()
    spoiled = bytearray(data)
    for at in range(len(data) // 3, len(data), 1500):  # a flipped byte in many members
        spoiled[at] ^= 0xFF
    (tmp_path / "bad.warc.wet.gz").write_bytes(bytes(spoiled))
    done = curate("run", "commoncrawl", "bad.warc.wet.gz", "--engine", "inline", cwd=tmp_path)
    assert done.returncode == 3 and "lost to damage" in done.stderr
    (tmp_path / "page.warc.wet.gz").write_text("<html><body>AccessDenied</body></html>")
    done = curate("run", "commoncrawl", "page.warc.wet.gz", "--engine", "inline", "--out", "page", cwd=tmp_path)
    assert done.returncode == 3 and "not_a_warc" in done.stderr


def test_inputs_may_stand_behind_options() -> None:
    from curate.cli import parse

    for line in ("run commoncrawl a b --out x", "run commoncrawl --out x a b", "run commoncrawl a --out x b"):
        args = parse(line.split())
        assert (args.inputs, args.out) == (["a", "b"], "x")


def test_nothing_kept_is_an_error(tmp_path: Path) -> None:
    done = curate("run", "commoncrawl", "--engine", "inline", "--languages", "sw", cwd=tmp_path)
    assert done.returncode == 2 and "nothing was kept (language:other_language" in done.stderr


def test_plain_lines_when_not_a_terminal(tmp_path: Path) -> None:
    done = curate("run", "commoncrawl", "--engine", "inline", cwd=tmp_path)
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    assert "documents/s" in done.stderr and "MB/s" in done.stderr and "kept: length" in done.stderr


def test_a_folder_without_hard_links_or_rights_is_refused(tmp_path: Path) -> None:
    if os.getuid() == 0:
        done = curate("run", "commoncrawl", "--engine", "inline", "--out", "/proc/corpus", cwd=tmp_path)
    else:
        done = curate("run", "commoncrawl", "--engine", "inline", "--out", "/corpus", cwd=tmp_path)
    assert done.returncode == 2 and "corpus" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="a small file system can be mounted by root alone")
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        done = curate("run", "commoncrawl", "--engine", "inline", "--out", str(small / "corpus"), cwd=tmp_path)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2 and "No space left" in last and "MB free" in last, done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        done = curate("run", "commoncrawl", "--engine", "inline", "--out", str(small / "corpus"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert curate("verify", str(small / "corpus")).returncode == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_relative_paths_mean_the_users_directory_in_workers_too(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    for file in commoncrawl_files()[:2]:
        (tmp_path / "crawl" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "list.txt").write_text("lendloop.example\n")
    done = curate(
        "run", "commoncrawl", "crawl", "--out", "out", "--set", "url_blocklist.domains=list.txt", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "dropped by url_blocklist:blocked_domain" in done.stdout
    (tmp_path / "list.txt").write_text("lendloop.example\nspokeandchain.example\n")
    again = curate(
        "run", "commoncrawl", "crawl", "--out", "out", "--set", "url_blocklist.domains=list.txt", cwd=tmp_path
    )
    assert "changed: url_blocklist.domains" in again.stderr, "the content of a list counts, not its name"
