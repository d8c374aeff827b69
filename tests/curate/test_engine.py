"""The machine: segments, barriers, accounts, resume, groups; on a toy source, inline and on Ray."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate.engine import Outcome, run
from curate.errors import RecipeError, StageError, StoreError
from curate.recipe import Recipe
from curate.report import alarms, verify, why
from curate.stage import rule
from curate.store import FINAL, Corpus, gc
from tests import toy
from tests.conftest import ROOT


def tree(out: Path) -> dict[str, str]:
    """Digest of every file that is compared byte for byte."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for kind in (*FINAL, "commits")
        for p in sorted(out.glob(f"*/{kind}/*"))
    }


def go(recipe: Recipe, inputs: Path, out: Path, **options: Any) -> Outcome:
    return run(recipe, [str(inputs)], out=out, engine=options.pop("engine", "inline"), **options)


@pytest.fixture()
def inputs(tmp_path: Path) -> Path:
    return toy.write_files(tmp_path / "in")


def oracle(inputs: Path, scope: int) -> tuple[Counter[str], list[str]]:
    """The grouped recipe in plain Python: counts by what happened, and the texts kept, in order."""
    counts: Counter[str] = Counter()
    kept: list[str] = []
    for number, file in enumerate(sorted(inputs.glob("*.txt"))):
        if number % scope == 0:
            seen: set[str] = set()
        for line in file.read_text().splitlines():
            counts["in"] += 1
            if line[0] in "#!":
                counts[line[0]] += 1
            elif len(line.split()) < 2:
                counts["few_words"] += 1
            elif line in seen:
                counts["seen"] += 1
            else:
                seen.add(line)
                if sum(c.isascii() and c.isupper() for c in line) > 0.5 * len(line):
                    counts["shouting"] += 1
                else:
                    kept.append(line)
    return counts, kept


def texts(out: Path) -> list[str]:
    commits = sorted(Corpus(out).commits("lines"), key=lambda c: c.record["name"])
    return [t for c in commits for t in c.open("documents").read_all()["text"].to_pylist()]


def test_a_run_equals_its_plain_form(inputs: Path, tmp_path: Path) -> None:
    counts, kept = oracle(inputs, 3)
    outcome = go(toy.GROUPED, inputs, tmp_path / "out")
    lines = outcome.report["sources"]["lines"]
    assert texts(tmp_path / "out") == kept
    assert lines["records_in"] == counts["in"] and lines["kept"] == len(kept)
    assert lines["failed"] == counts["!"] and lines["skipped"] == {"comment": counts["#"]}
    assert lines["dropped"] == {
        "same:seen": counts["seen"],
        "enough_words:few_words": counts["few_words"],
        "shout:shouting": counts["shouting"],
    }
    assert outcome.report["balances"] and verify(Corpus(tmp_path / "out")) == []


def test_layout_does_not_depend_on_partitions_engine_or_batches(inputs: Path, tmp_path: Path, monkeypatch) -> None:
    go(toy.GROUPED, inputs, tmp_path / "a")
    monkeypatch.setattr("curate.schedule.partitions_for", lambda *_: 64)
    go(toy.GROUPED, inputs, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    monkeypatch.undo()
    go(toy.GROUPED, inputs, tmp_path / "c", engine="ray", workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "c")
    go(toy.GROUPED, inputs, tmp_path / "d", settings={"source.rows": "3"})
    assert texts(tmp_path / "d") == texts(tmp_path / "a")


def test_a_rerun_without_a_change_does_nothing(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    before = tree(tmp_path / "out")
    again = go(toy.GROUPED, inputs, tmp_path / "out")
    assert (again.units_done, again.units_reused, again.stale) == (0, 7, ())
    assert tree(tmp_path / "out") == before


def test_a_changed_setting_is_named_and_redone(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    again = go(toy.GROUPED, inputs, tmp_path / "out", settings={"shout.max_share": "0.9"})
    assert again.units_done == 7 and again.stale == ("shout.max_share: 0.5 -> 0.9",)
    clean = go(toy.GROUPED, inputs, tmp_path / "clean", settings={"shout.max_share": "0.9"})
    assert again.report["sources"]["lines"]["kept"] == clean.report["sources"]["lines"]["kept"]
    assert texts(tmp_path / "out") == texts(tmp_path / "clean") and verify(Corpus(tmp_path / "out")) == []


def test_a_changed_byte_makes_its_group_stale_and_no_other(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    before = tree(tmp_path / "out")
    changed = inputs / "part-04.txt"
    times = changed.stat()
    changed.write_bytes(changed.read_bytes().replace(b"own text", b"OWN text"))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # same name, size and time
    again = go(toy.GROUPED, inputs, tmp_path / "out")
    assert (again.units_done, again.units_reused) == (3, 4)
    assert any("part-0" in line for line in again.stale)
    group_of_three = {p for p in tree(tmp_path / "out") if ".g2." in p}
    assert len(group_of_three) == 9 and set(before) - set(tree(tmp_path / "out"))


def test_added_files_form_new_groups_and_nothing_is_stale(inputs: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    late.mkdir()
    for name in ("part-01.txt", "part-05.txt"):
        shutil.move(inputs / name, late / name)
    go(toy.GROUPED, inputs, tmp_path / "out")
    before = tree(tmp_path / "out")
    for name in ("part-01.txt", "part-05.txt"):
        shutil.move(late / name, inputs / name)
    again = go(toy.GROUPED, inputs, tmp_path / "out")
    assert (again.units_done, again.units_reused, again.stale) == (2, 5, ())
    assert before.items() <= tree(tmp_path / "out").items()


def test_a_limit_takes_the_first_files(inputs: Path, tmp_path: Path) -> None:
    assert go(toy.GROUPED, inputs, tmp_path / "out", limit=2).units_done == 2
    again = go(toy.GROUPED, inputs, tmp_path / "out")
    assert (again.units_done, again.units_reused) == (5, 2)


def test_two_barriers_at_once(inputs: Path, tmp_path: Path) -> None:
    recipe = Recipe("two", toy.Lines(), (toy.Same(scope=2), toy.enough_words(), SameAgain(), toy.shout()))
    outcome = go(recipe, inputs, tmp_path / "out")
    assert outcome.report["balances"] and verify(Corpus(tmp_path / "out")) == []
    kept = texts(tmp_path / "out")
    assert len(kept) == len(set(kept)) == len(set(oracle(inputs, 3)[1]))
    assert go(recipe, inputs, tmp_path / "out").units_done == 0


class SameAgain(toy.Same):
    """The toy barrier under another name, over all files."""

    name = "same_again"

    @property
    def group_size(self) -> int | None:
        return None


def test_the_spool_of_a_group_goes_when_the_group_is_done(inputs: Path, tmp_path: Path, monkeypatch) -> None:
    from curate import engine

    waiting: list[int] = []
    real = engine._drop_retired

    def watched(schedule, corpus, recipe) -> None:
        real(schedule, corpus, recipe)
        waiting.append(len(list(corpus.spool("lines").glob("segment-*/documents/*"))))

    monkeypatch.setattr(engine, "_drop_retired", watched)
    go(toy.GROUPED, inputs, tmp_path / "out")  # groups of three files
    assert max(waiting) == 3 and waiting[-1] == 0


def test_a_lost_file_is_made_again(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    kept = texts(tmp_path / "out")
    sorted((tmp_path / "out/lines/documents").iterdir())[0].unlink()
    assert any("missing" in p for p in verify(Corpus(tmp_path / "out")))
    assert go(toy.GROUPED, inputs, tmp_path / "out").units_done >= 1
    assert texts(tmp_path / "out") == kept and verify(Corpus(tmp_path / "out")) == []


def test_mistakes_of_the_user(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="no stage 'shuot'.*did you mean 'shout'"):
        go(toy.GROUPED, inputs, out, settings={"shuot.max_share": "1"})
    with pytest.raises(RecipeError, match="no setting 'max_shar'.*did you mean 'max_share'"):
        go(toy.GROUPED, inputs, out, settings={"shout.max_shar": "1"})
    with pytest.raises(RecipeError, match=r"shout.max_share is 'much', must be float"):
        go(toy.GROUPED, inputs, out, settings={"shout.max_share": "much"})
    with pytest.raises(RecipeError, match="nothing to read"):
        go(toy.GROUPED, tmp_path, out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("mine")
    with pytest.raises(StoreError, match="holds 'thesis.doc' and no corpus.json"):
        go(toy.GROUPED, inputs, foreign)
    assert not out.exists()


def test_a_frozen_group_needs_its_files(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    (inputs / "part-01.txt").unlink()
    with pytest.raises(RecipeError, match=r"1 files of a frozen group are not among the inputs, part-01.txt"):
        go(toy.GROUPED, inputs, tmp_path / "out", settings={"shout.max_share": "0.9"})


@rule(reasons=("bad",))
def broken(text: str) -> str | None:
    """A user's rule with a mistake in it."""
    return "bad" if text[10_000] else None


@rule(reasons=("bad",))
def undeclared(text: str) -> str | None:
    """A rule that gives a reason which it does not declare."""
    return "other"


@pytest.mark.parametrize(("step", "message"), [(broken(), "broken .*IndexError"), (undeclared(), "does not declare")])
def test_a_broken_stage_is_named(inputs: Path, tmp_path: Path, step: Any, message: str) -> None:
    with pytest.raises(StageError, match=message):
        go(Recipe("bad", toy.Lines(), (step,)), inputs, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_recipes_are_checked_when_built() -> None:
    with pytest.raises(RecipeError, match="reads 'no_such'"):
        Recipe("bad", toy.Lines(), (needs_column(),))
    with pytest.raises(RecipeError, match="occurs twice"):
        Recipe("bad", toy.Lines(), (toy.shout(), toy.shout()))
    with pytest.raises(RecipeError, match="call it with its settings"):
        Recipe("bad", toy.Lines(), (toy.shout,))  # type: ignore[arg-type]


@rule(reasons=("x",))
def needs_column(no_such: str) -> str | None:
    """Reads a column that is not there."""
    return None


def test_why_answers_for_each_record(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    corpus, found = Corpus(tmp_path / "out"), Counter[str]()
    for commit in corpus.commits("lines"):
        for kind in FINAL:
            for row in commit.open(kind).read_all().select(["doc_id", "url"]).to_pylist():
                by_url, by_id = why(corpus, row["url"]), why(corpus, row["doc_id"])
                assert by_url == by_id and len(by_url) == 1
                found[by_url[0]["verdict"]] += 1
    report = json.loads(json.dumps(go(toy.GROUPED, inputs, tmp_path / "out").report))["sources"]["lines"]
    assert found["kept"] == report["kept"]
    assert found["dropped"] == sum(report["dropped"].values()) + report["failed"]


def test_verify_finds_every_flip_cut_and_swap(inputs: Path, tmp_path: Path) -> None:
    import random

    go(toy.GROUPED, inputs, tmp_path / "out")
    rng, out = random.Random(1), tmp_path / "out"
    files = [out / name for name in tree(out)]
    assert verify(Corpus(out)) == []
    for number in range(150):
        file = rng.choice(files)
        data = file.read_bytes()
        if number % 3 == 0:
            bad = data[: rng.randrange(len(data))]
        else:
            at = rng.randrange(len(data))
            bad = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        file.unlink()
        if number % 10:
            file.write_bytes(bad)
        assert verify(Corpus(out)), f"{file} damaged at will and not found"
        file.unlink(missing_ok=True)
        file.write_bytes(data)
    assert verify(Corpus(out)) == []
    a, b = files[0], next(f for f in files if f.parent == files[0].parent and f != files[0])
    kept = a.read_bytes(), b.read_bytes()
    a.write_bytes(kept[1]), b.write_bytes(kept[0])
    assert verify(Corpus(out))
    a.write_bytes(kept[0]), b.write_bytes(kept[1])
    (a.parent / "0123456789ab.arrow").write_bytes(kept[0])
    assert any("does not belong" in p for p in verify(Corpus(out)))


def test_gc_removes_what_no_commit_names(inputs: Path, tmp_path: Path) -> None:
    go(toy.GROUPED, inputs, tmp_path / "out")
    corpus, before = Corpus(tmp_path / "out"), tree(tmp_path / "out")
    documents = tmp_path / "out/lines/documents"
    left = documents / sorted(documents.iterdir())[0].name.replace(".arrow", ".g9.arrow")
    left.write_bytes(b"left by a dead attempt")
    assert verify(corpus) and gc(corpus, "lines")[0] == 1
    assert tree(tmp_path / "out") == before and verify(corpus) == []


def test_alarms_are_about_damage() -> None:
    base = {"records_in": 1000, "failed": 50, "files": 200, "damaged_files": [{}, {}], "kept": 1}
    report = {"sources": {"x": base}}
    assert alarms(report) == []
    assert "51 of 1,000 records" in alarms({"sources": {"x": base | {"failed": 51}}})[0]
    assert "3 of 200 files" in alarms({"sources": {"x": base | {"damaged_files": [{}] * 3}}})[0]


def test_readable_without_us(inputs: Path, tmp_path: Path) -> None:
    import datasets

    go(toy.GROUPED, inputs, tmp_path / "out")
    files = [str(p) for p in (tmp_path / "out/lines/documents").glob("*.arrow")]
    loaded = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["text"]) == sorted(texts(tmp_path / "out"))
    assert pa.ipc.open_file(files[0]).schema.names[:5] == ["doc_id", "source", "url", "title", "text"]


RUNNER = """
import sys
from pathlib import Path
from curate.engine import run
from curate.errors import CurateError
from tests import toy
try:
    run(toy.RECIPES[sys.argv[1]], [sys.argv[2]], out=sys.argv[3], engine=sys.argv[4], workers=2)
except CurateError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def spawn(inputs: Path, out: Path, engine: str = "inline", recipe: str = "grouped") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, recipe, str(inputs), str(out), engine],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    inputs = toy.write_files(tmp_path / "many", 60, 200)
    first = spawn(inputs, tmp_path / "out")
    while not (tmp_path / "out/.lock").exists() or not (tmp_path / "out/.lock").stat().st_size:
        time.sleep(0.01)
    second = spawn(inputs, tmp_path / "out")
    _, message = second.communicate(timeout=60)
    assert second.returncode == 2 and f"process {first.pid}" in message
    assert first.wait(timeout=120) == 0
    assert spawn(inputs, tmp_path / "out").wait(timeout=60) == 0  # the lock of a process that ended is free


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path: Path, engine: str) -> None:
    import random

    inputs = toy.write_files(tmp_path / "many", 40, 300)
    go(toy.GROUPED, inputs, tmp_path / "clean")
    wanted, rng = tree(tmp_path / "clean"), random.Random(engine)
    kills = 6 if engine == "inline" else 2  # test_crash has every moment; here are real signals and all processes
    for number in range(kills):
        out = tmp_path / f"out-{number}"
        process = spawn(inputs, out, engine)
        while not out.joinpath("lines").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.0))
        with suppress(ProcessLookupError):  # it was done before
            os.killpg(process.pid, signal.SIGKILL if number % 3 else signal.SIGTERM)
        process.wait()
        go(toy.GROUPED, inputs, out)
        assert tree(out) == wanted and verify(Corpus(out)) == []
        shutil.rmtree(out)


def test_a_signal_stops_a_run_that_can_go_on(tmp_path: Path) -> None:
    inputs = toy.write_files(tmp_path / "many", 60, 300)
    process = spawn(inputs, tmp_path / "out")
    while not list(tmp_path.glob("out/lines/spool/segment-0/commits/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=10)
    assert process.returncode == 4 and "run the same command again" in message
    assert go(toy.GROUPED, inputs, tmp_path / "out").report["balances"]
