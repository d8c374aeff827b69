"""Duplicate barriers under clumsy and hostile use: nothing is lost by a slip, and what cannot be done is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import clustering
from curate.clustering import _gathered, _pieces
from curate.dedup.exact import exact
from curate.dedup.matching import candidates
from curate.dedup.near import Near, containment, near
from curate.dedup.paragraphs import paragraphs
from curate.dedup.rehearsal import rehearse
from curate.deduplicate import dedup
from curate.engine import run
from curate.errors import DONE, USER, CurateError, RecipeError, RefusalError, StoreError
from curate.recipe import Recipe
from curate.store import Corpus
from tests.copies import PLAIN, lines, table, write_copies
from tests.curate.test_duplicates import corpus as corpus
from tests.curate.test_duplicates import documents
from tests.curate.test_duplicates import tmp_path as tmp_path
from tests.curate.test_engine import tree
from tests.toy import Lines


class Scored(Lines):
    """A source with a column of its own."""

    name = "scored"

    def read(self, split: Any, tally: Any) -> Any:
        for t in super().read(split, tally):
            yield t.set_column(t.schema.get_field_index("source"), "source", pa.array(["scored"] * t.num_rows))


Scored.__module__ = "tests.toy"


def test_a_source_named_twice_is_one(corpus: Path) -> None:
    """Its documents are no copies of themselves: all of them went."""
    dedup(corpus, [exact()], engine="inline")
    wanted = documents(corpus)
    assert dedup(corpus, [exact()], engine="inline", sources=["lines", "lines"]).units == 0
    assert documents(corpus) == wanted


@pytest.mark.parametrize(
    ("barriers", "given", "said"),
    [
        ([], {}, "one barrier or more"),
        ([exact(), exact(score="x")], {}, "each once"),
        ([exact(scope=3)], {}, "a finished corpus is seen as one"),
        ([paragraphs(scope=2)], {}, "a finished corpus is seen as one"),
        ([exact()], {"workers": 0}, "at least 1"),
        ([exact()], {"engine": "spark"}, "ray or inline"),
    ],
)
def test_what_a_pass_cannot_do_is_said(corpus: Path, barriers: Any, given: dict[str, Any], said: str) -> None:
    before = tree(corpus)
    with pytest.raises(RecipeError, match=said):
        dedup(corpus, barriers, **{"engine": "inline", **given})
    assert tree(corpus) == before


def test_a_setting_out_of_range() -> None:
    with pytest.raises(RecipeError, match="sampling is 100000000000000000000, must be at most"):
        containment(sampling=10**20)


def test_sources_that_name_nothing_are_not_all(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from curate.cli import main

    command = ["dedup", str(corpus), "--by", "exact", "--engine", "inline", "--quiet", "--dry-run", "--sources"]
    for given in ("", ",", " "):
        assert main([*command, given]) == USER
    assert "names nothing" in capsys.readouterr().err
    assert main([*command, " lines ,"]) == DONE


# -- scores of one source among several --------------------------------------------------------------------------------


def test_a_score_that_one_source_has(tmp_path: Path) -> None:
    """The document with a score stays, though its source comes last; the others have none, which is no error."""
    from tests.toy import shout

    out, inputs = tmp_path / "out", write_copies(tmp_path / "in", files=1)
    run(PLAIN, [str(inputs)], out=out, engine="inline")
    run(Recipe("scored", Scored(), (shout(max_share=1.0),)), [str(inputs)], out=out, engine="inline")
    before = documents(out)
    dedup(out, [exact(score="shout_share")], engine="inline", accept=True)
    assert documents(out) == [] and set(documents(out, "scored")) == set(before)
    with pytest.raises(RecipeError, match=r"no column 'shout_shar'; did you mean 'shout_share'\?") as caught:
        dedup(out, [exact(score="shout_shar")], engine="inline", sources=["scored"])
    assert caught.value.exit_code == USER
    with pytest.raises(RecipeError, match="no column 'shout_share'"):
        dedup(out, [exact(score="shout_share")], engine="inline", sources=["lines"])


def test_columns_of_one_name_and_two_types_are_tried_or_refused() -> None:
    numbers = [table(["a b"], mark=pa.array([1], pa.int32())), table(["a b"], mark=pa.array([0.5], pa.float64()))]
    assert rehearse(exact(score="mark"), numbers, 2)[0].removed == 1
    with pytest.raises(RecipeError, match="of one type here"):
        rehearse(exact(score="mark"), [numbers[0], table(["a"], mark=pa.array(["x"]))], 2)


# -- the trial and what it leaves --------------------------------------------------------------------------------------


def test_a_sample_of_nothing_but_very_long_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.dedup.rehearsal.MAX_BYTES", 3)
    trial, left = rehearse(near(), [table(["longer than that"] * 3)], 3)
    assert trial.sampled == 0 and trial.surprise(2, 3) is None and left[0].num_rows == 0


def test_near_copies_of_short_documents_are_no_measure() -> None:
    """One word of 40 takes a text below 0.8: a corpus of short documents was refused at the default settings."""
    trial, _ = rehearse(near(), [table(lines(300, 4, words=40))], 300)
    assert trial.objection() is None and trial.recall_near is None and trial.recall_copies == 1.0
    assert trial.unique_planted == 200 and trial.unique_removed == 0
    trial, _ = rehearse(near(), [table(lines(300, 4, words=100))], 300)
    assert trial.objection() is None and trial.recall_near is not None and trial.recall_near > 0.95


def test_a_refusal_is_not_our_bug(corpus: Path) -> None:
    with pytest.raises(RefusalError) as caught:
        dedup(corpus, [near(threshold=0.99)], engine="inline")
    assert caught.value.exit_code == USER


def test_a_dry_run_keeps_what_a_stopped_pass_has_made(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.dedup.rehearsal._expected", lambda *_: (0.0, 0.0))
    with pytest.raises(RefusalError):
        dedup(corpus, [exact()], engine="inline")
    spool = corpus / "runs" / "pass"
    made = sorted(spool.rglob("*"))
    plan = (corpus / "runs" / "pass.json").read_text()
    assert len(made) > 3
    dedup(corpus, [near()], engine="inline", dry_run=True)
    assert sorted(spool.rglob("*")) == made and (corpus / "runs" / "pass.json").read_text() == plan


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [True, False])
def test_damage_is_not_committed_as_sound(corpus: Path, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same length, whose text another has changed: a pass would have given it a new, matching digest."""
    commit = next(Corpus(corpus).commits("lines"))
    path = commit.path("documents")
    with pa.ipc.open_file(str(path)) as reader:
        whole = reader.read_all()
    changed = whole.set_column(whole.schema.get_field_index("title"), "title", pa.array(["x"] * whole.num_rows))
    with pa.ipc.new_file(str(path), whole.schema) as writer:
        writer.write_table(changed.cast(whole.schema))
    record = json.loads(commit.folder.commit_path(commit.unit, 1).read_text())
    assert record["files"]["documents"]["sha256"] != ""
    if not sampled:
        monkeypatch.setattr("curate.deduplicate.sample", lambda job: [])
        monkeypatch.setattr("curate.deduplicate._trials", lambda *_: iter(()))
    with pytest.raises(StoreError, match=path.name):
        dedup(corpus, [exact()], engine="inline", dry_run=sampled)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_keys_in_parts_give_the_same_pairs() -> None:
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 1 << 60, 4000, dtype=np.uint64).repeat(
        10
    )  # one range: the top bits are those of a partition
    owners = rng.integers(0, 5000, len(keys))
    barrier = replace(near(), memory=1)
    parts = list(_pieces(barrier, keys, owners))
    assert len(parts) == -(-len(keys) * clustering.FULL_KEY // 1_000_000) > 10
    assert max(len(k) for k, _ in parts) < 2 * len(keys) / len(parts)
    whole = {tuple(p) for p in candidates(barrier, keys, owners).tolist()}
    assert {tuple(p) for k, d in parts for p in candidates(barrier, k, d).tolist()} == whole
    assert len(list(_pieces(near(), keys, owners))) == 1 and len(list(_pieces(exact(memory=1), keys, owners))) == 1


def test_pairs_are_compared_a_few_at_a_time() -> None:
    parts = [np.arange(2 * n, dtype=np.int64).reshape(-1, 2) for n in (0, 5, 1, 1, 12)]
    taken = list(_gathered(parts, 4))
    assert np.array_equal(np.concatenate(taken), np.concatenate(parts))
    assert max(map(len, taken)) < 8
    assert list(_gathered([], 4)) == []


def test_little_memory_and_many_copies_leave_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 near copies of each text, all of whose pairs are compared, in parts of a few keys and pairs."""
    folder = tmp_path / "in"
    folder.mkdir()
    text = "common words of the copies number {0} {1} and {2} more of them stand here in a row as they do"
    rows = [text.format(i // 16, i // 16 * 7, i // 16 * 3) + f" {i % 16}" for i in range(320)]
    (folder / "a.txt").write_text("\n".join(rows) + "\n")
    left = []
    for name, bytes_of_key in (("a", clustering.FULL_KEY), ("b", 50_000)):
        run(PLAIN, [str(folder)], out=tmp_path / name, engine="inline")
        monkeypatch.setattr(clustering, "FULL_KEY", bytes_of_key)
        monkeypatch.setattr(clustering, "PAIR", 32 if name == "a" else 50_000)
        dedup(tmp_path / name, [near(memory=1)], engine="inline", accept=True)
        left.append(documents(tmp_path / name))
    assert left[0] == left[1] and 1 <= len(left[0]) <= 40
    assert isinstance(near(), Near) and issubclass(RefusalError, CurateError)
