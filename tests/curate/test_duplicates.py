"""Duplicate barriers: what they find, in a recipe and over a finished corpus, whatever the order and the partitions."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import passes
from curate.dedup.exact import Exact, exact, url
from curate.dedup.matching import find
from curate.dedup.named import barriers
from curate.dedup.near import containment, near
from curate.dedup.rehearsal import rehearse
from curate.deduplicate import dedup
from curate.engine import run
from curate.errors import RecipeError, StageError, StoreError
from curate.kernels.minhash import pair_similarity
from curate.recipe import Recipe
from curate.report import account, verify, why
from curate.store import Corpus, tables
from tests.copies import CLEANED, PLAIN, lines, table, write_copies
from tests.curate.test_crash import Operations, watched
from tests.curate.test_engine import tree


def kept(found: Any, rows: int) -> list[int]:
    return sorted(set(range(rows)) - set(found.decisions.removed.tolist()))


def documents(out: Path, source: str = "lines") -> list[str]:
    """All texts kept, in the order of files."""
    commits = sorted(Corpus(out).commits(source), key=lambda c: str(c.record["name"]))
    return [text for c in commits for t in tables(c, "documents") for text in t["text"].to_pylist()]


# -- what is found -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "a b", "ü", "\0", "a\n"]), max_size=30))
def test_exact_keeps_the_first_of_each_text_and_every_empty_one(texts: list[str]) -> None:
    found = find(exact(), [table(texts)]) if texts else None
    wanted = [i for i, t in enumerate(texts) if t == "" or t not in texts[:i]]
    assert found is None or kept(found, len(texts)) == wanted


def test_the_survivor_is_the_best_then_the_longest_then_the_first() -> None:
    same = "one two three four five six seven eight nine ten"
    scored = table([same] * 4, lang_score=pa.array([None, 0.5, 0.9, 0.9], pa.float32()))
    assert kept(find(exact(), [scored]), 4) == [0]
    assert kept(find(exact(score="lang_score"), [scored]), 4) == [2]
    assert kept(find(exact(score="-lang_score"), [scored]), 4) == [1]
    longer = table([same, same + " eleven", same])
    assert kept(find(near(threshold=0.5), [longer]), 3) == [1]


def test_url_compares_addresses_and_keeps_the_newest() -> None:
    urls = ["https://www.a.example/x/", "http://www.a.example/x#top", "http://a.example/x?utm_source=b", None, None]
    dates = pa.array([1, 3, 2, 4, 5], pa.timestamp("us", tz="UTC"))
    pages = table(["t"] * 5, url=urls, date=dates)
    assert kept(find(url(), [pages]), 5) == [0, 2, 3, 4]
    assert kept(find(url(score="date"), [pages]), 5) == [1, 2, 3, 4]
    assert kept(find(url(form="c4", score="date"), [pages]), 5) == [1, 2, 3, 4]  # "#top" stays


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.7, 0.8]))
def test_near_removes_what_is_similar_and_nothing_else(seed: int, threshold: float) -> None:
    """Of every cluster of pairs at or above the threshold one document stays; pairs are missed only by chance."""
    texts = lines(40, seed)
    found = find(near(threshold=threshold), [table(texts)])
    sets = [{tuple(t.split()[i : i + 5]) for i in range(len(t.split()) - 4)} for t in texts]
    truth = {
        (a, b)
        for b in range(len(texts))
        for a in range(b)
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold
    }
    pairs = {(int(a), int(b)) for a, b in found.pairs}
    assert pairs <= truth
    stands_for = np.arange(len(texts))
    stands_for[found.decisions.removed] = found.decisions.survivor
    assert all(stands_for[a] == stands_for[b] for a, b in pairs)
    missed = [(a, b) for a, b in truth if stands_for[a] != stands_for[b]]
    assert len(missed) <= 0.2 * len(truth) + 2
    joined = {int(x) for pair in pairs for x in pair}
    assert set(found.decisions.removed.tolist()) < joined or not joined


def test_containment_removes_the_part_and_keeps_the_whole() -> None:
    rng = random.Random(3)
    book = lines(1, 5, words=4000)[0].split()
    part = book[500:1500]
    for place in rng.sample(range(1000), 5):  # five shingles each: 2.5 % are others
        part[place] = "other"
    half = [*book[:500], *lines(1, 6, words=700)[0].split()]
    texts = [" ".join(part), " ".join(book), " ".join(half)]
    assert kept(find(containment(), [table(texts)]), 3) == [1, 2]
    assert kept(find(containment(threshold=0.3), [table(texts)]), 3) == [1]
    assert kept(find(near(), [table(texts)]), 3) == [0, 1, 2]  # not what Jaccard sees


@pytest.mark.parametrize(
    "barrier", [exact(), near(), near(verify=False), containment(sampling=1)], ids=lambda b: b.name
)
def test_odd_documents(barrier: Any) -> None:
    """Empty and one-word texts, and texts of signs alone; documents without words have nothing in common."""
    texts = ["", "", "word", "word", "...", "...", " ", "Word", "a b"]
    left = kept(find(barrier, [table(texts)]), len(texts))
    assert {0, 1, 2, 6, 8} <= set(left)
    assert 3 not in left
    assert (5 not in left) == (barrier.name == "exact")
    assert find(barrier, [table([])]).decisions.removed.tolist() == []


def test_a_long_document_and_many_copies() -> None:
    """A 20 MB document, and 100,000 identical ones: linear, and one stays."""
    long = " ".join(lines(1, 9, words=30_000)) * 100
    assert kept(find(near(), [table([long, long, "x y z"])]), 3) == [0, 2]
    same = table(["the same text in all of these many documents"] * 100_000)
    for barrier in (exact(), near(), containment(sampling=1)):
        assert kept(find(barrier, [same]), 100_000) == [0], barrier.name


def test_colliding_keys_do_not_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that share every key, by an adversary's doing, are compared before they count."""
    texts = lines(300, 1)
    found = find(near(), [table(texts)])
    monkeypatch.setattr("curate.dedup.near.band_keys", lambda s, bands, rows: np.ones((len(s), bands), np.uint64))
    collided = find(near(), [table(texts)])
    assert set(collided.decisions.removed.tolist()) <= set(found.decisions.removed.tolist()) | {-1}
    monkeypatch.setattr(
        "curate.dedup.exact._digests",
        lambda v: np.array([[1, i + 1] for i, _ in enumerate(v)], np.uint64).reshape(-1, 2),
    )
    assert find(exact(), [table(texts)]).decisions.removed.tolist() == []


def test_exact_jaccard_is_that_of_the_sets() -> None:
    texts = lines(30, 2)
    barrier = near()
    hashes, offsets = barrier.shingles(table(texts))
    pairs = [(a, b) for b in range(30) for a in range(b)]
    left, right = (np.array([p[k] for p in pairs], np.int64) for k in (0, 1))
    jaccard, contained = pair_similarity(hashes, offsets, left, right)
    sets = [{tuple(t.split()[i : i + 5]) for i in range(56)} for t in texts]
    assert jaccard.tolist() == pytest.approx([len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs])
    assert contained.tolist() == pytest.approx(
        [len(sets[a] & sets[b]) / min(len(sets[a]), len(sets[b])) for a, b in pairs]
    )


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "given", "said"),
    [
        ("exact,nears", {}, "near"),
        ("exact,exact", {}, "once"),
        ("near", {"near.threshold": "1.5"}, "must be above 0 and at most 1"),
        ("near", {"near.threshold": "much"}, "must be float"),
        ("near", {"near.treshold": "0.8"}, "did you mean 'threshold'"),
        ("near", {"exact.score": "x"}, "must begin with one of --by"),
        ("near", {"near.scope": "all"}, "must be a number of files or 'run'"),
        ("near", {"near.unit": "line"}, "must be one of word, character"),
        ("near", {"near.memory": "0"}, "must be at least 1"),
        ("near", {"near.permutations": "1"}, "permutations"),
    ],
)
def test_settings_are_checked(by: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        barriers(by, given)


# -- in a recipe -------------------------------------------------------------------------------------------------------


def alone(texts: list[str]) -> list[str]:
    """What the barriers of CLEANED leave, one after the other, all in memory."""
    for barrier in (exact(), near(threshold=0.6), containment(sampling=4)):
        left = kept(find(barrier, [table(texts)]), len(texts))
        texts = [texts[i] for i in left]
    return texts


def test_a_recipe_finds_what_is_found_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = write_copies(tmp_path / "in")
    texts = [t for p in sorted(inputs.glob("*.txt")) for t in p.read_text().splitlines()]
    done = run(CLEANED, [str(inputs)], out=tmp_path / "a", engine="inline")
    assert documents(tmp_path / "a") == alone(texts)
    dropped = done.report["sources"]["lines"]["dropped"]
    assert dropped["exact:duplicate"] > 3 and dropped["near:near_duplicate"] > 3
    assert done.report["balances"] and not verify(Corpus(tmp_path / "a"))
    monkeypatch.setattr("curate.schedule.partitions_for", lambda *_: 32)
    run(CLEANED, [str(inputs)], out=tmp_path / "b", engine="ray", workers=2)
    assert documents(tmp_path / "a") == documents(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_runaway_stops(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("the same line again and again\n" * 2000)
    recipe = Recipe("runaway", CLEANED.source, (exact(max_removed=0.9),))
    with pytest.raises(StageError, match=r"would remove 1,999 of 2,000 documents .* exact.max_removed=0.9 allows"):
        run(recipe, [str(folder)], out=tmp_path / "out", engine="inline")
    done = run(recipe, [str(folder)], out=tmp_path / "out", engine="inline", settings={"exact.max_removed": "1"})
    assert done.report["sources"]["lines"]["kept"] == 1


# -- over a finished corpus --------------------------------------------------------------------------------------------


@pytest.fixture()
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: hundreds of real fsyncs would take minutes."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="curate-duplicates-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    run(PLAIN, [str(write_copies(tmp_path / "in"))], out=tmp_path / "corpus", engine="inline")
    return tmp_path / "corpus"


BARRIERS = (exact(), near(threshold=0.6), containment(sampling=4))


def test_a_pass_leaves_what_is_found_in_memory(corpus: Path, tmp_path: Path) -> None:
    wanted, before = alone(documents(corpus)), account(Corpus(corpus))["sources"]["lines"]
    done = dedup(corpus, BARRIERS, engine="inline")
    assert documents(corpus) == wanted and not verify(Corpus(corpus))
    after = account(Corpus(corpus))["sources"]["lines"]
    assert after["balances"] and after["records_in"] == before["records_in"]
    assert before["kept"] - after["kept"] == sum(one["removed"] for one in done.found)
    assert [stage for stage, _, _ in after["flow"]] == ["read", "enough_words", "exact", "near", "containment"]
    files = [p.name for p in (corpus / "lines" / "documents").iterdir()]
    assert len(files) == 3 and any(".g2." in name for name in files)  # what was superseded is gone
    again = dedup(corpus, BARRIERS, engine="inline")
    assert again.units == 0 and documents(corpus) == wanted
    resumed = run(PLAIN, [str(tmp_path / "in")], out=corpus, engine="inline")
    assert resumed.units_reused == 3 and documents(corpus) == wanted  # a run does not bring copies back


def test_a_pass_on_ray_and_inline_leave_the_same(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(corpus, tmp_path / "other")
    dedup(corpus, BARRIERS, engine="inline")
    monkeypatch.setattr(passes, "_partitions", lambda *_: 8)
    dedup(tmp_path / "other", BARRIERS, engine="ray", workers=2)
    assert tree(corpus) == tree(tmp_path / "other")


def test_across_sources_the_first_source_stays(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    inputs = write_copies(tmp_path / "in", files=1)
    run(PLAIN, [str(inputs)], out=out, engine="inline")
    other = type("Other", (type(PLAIN.source),), {"name": "other", "__module__": "tests.toy"})()
    run(Recipe("other", other, PLAIN.steps), [str(inputs)], out=out, engine="inline")
    wanted = documents(out)
    dedup(out, [exact()], engine="inline", sources=["other"])
    assert documents(out, "lines") == wanted and set(documents(out, "other")) == set(wanted)
    done = dedup(out, [exact()], engine="inline", accept=True)
    assert documents(out, "other") == [] and set(documents(out)) == set(wanted)
    assert done.report is not None and done.report["balances"] and not verify(Corpus(out))
    with pytest.raises(RecipeError, match="has no source 'othr'"):
        dedup(out, [exact()], sources=["othr"])


def test_line_removal_over_a_finished_corpus(tmp_path: Path) -> None:
    from tests.toy import Lines

    class Pages(Lines):
        """A document of three lines for each line."""

        def read(self, split: Any, tally: Any) -> Any:
            for t in super().read(split, tally):
                texts = [f"menu of the site\n{x}\nfooter" for x in t["text"].to_pylist()]
                yield t.set_column(t.schema.get_field_index("text"), "text", pa.array(texts, pa.large_string()))

    Pages.__module__ = "tests.toy"
    inputs = write_copies(tmp_path / "in", files=2)
    run(Recipe("pages", Pages(), ()), [str(inputs)], out=tmp_path / "out", engine="inline")
    dedup(tmp_path / "out", barriers("line", {}), engine="inline")
    left = documents(tmp_path / "out")
    assert sum("menu of the site" in t for t in left) == 1
    assert len(set(left)) == len(left) and not verify(Corpus(tmp_path / "out"))


def test_why_names_the_survivor(corpus: Path) -> None:
    dedup(corpus, [exact()], engine="inline")
    dropped = [row for c in Corpus(corpus).commits("lines") for t in tables(c, "dropped") for row in t.to_pylist()]
    first = next(row for row in dropped if row["stage"] == "exact")
    entry = why(Corpus(corpus), first["doc_id"])[0]
    assert entry["survivor"]["doc_id"] == first["value"][:32] and entry["survivor"]["url"].startswith("http://toy")


def test_a_stopped_run_is_finished_first(corpus: Path) -> None:
    (corpus / "lines" / "spool").mkdir()
    with pytest.raises(StoreError, match="a run of lines is not finished"):
        dedup(corpus, [exact()], engine="inline")
    with pytest.raises(StoreError, match="not a corpus"):
        dedup(corpus / "lines", [exact()], engine="inline")


# -- the trial ---------------------------------------------------------------------------------------------------------


def test_a_trial_tells_good_settings_from_bad_ones() -> None:
    base = [table(lines(300, 4, words=120))]
    good, left = rehearse(near(threshold=0.7), base, 300)
    assert good.recall_copies == 1.0 and good.recall_near is not None and good.recall_near >= 0.95
    assert good.unique_removed == 0 and good.objection() is None and left[0].num_rows == 300 - good.removed
    assert good.surprise(good.removed, 300) is None and "would remove 300" in (good.surprise(300, 300) or "")
    deaf, _ = rehearse(near(threshold=0.99), base, 300)
    assert "near copies planted in a sample were found" in (deaf.objection() or "")
    rash, _ = rehearse(near(threshold=0.05, n=1, permutations=16, verify=False), base, 300)
    assert "unique documents planted" in (rash.objection() or "")


def test_what_the_trial_did_not_let_expect_stops(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(corpus)
    with pytest.raises(StageError, match=r"nothing was changed \(--accept goes on\)"):
        dedup(corpus, [near(threshold=0.99)], engine="inline")
    monkeypatch.setattr(passes, "SAMPLE_BYTES", 1)  # the first tables of three units hold few of the copies
    monkeypatch.setattr("curate.dedup.rehearsal.SIGMAS", 0.0)
    monkeypatch.setattr("curate.dedup.rehearsal._expected", lambda *_: (0.0, 0.01))
    with pytest.raises(StageError, match=r"would remove .* 0.00 to 1.00 % were expected; nothing was changed"):
        dedup(corpus, [exact()], engine="inline")
    assert tree(corpus) == before
    assert dedup(corpus, [exact()], engine="inline", accept=True).units > 0


def test_a_pass_that_would_leave_next_to_nothing_stops(tmp_path: Path) -> None:
    """Also where a trial let expect it: a corpus of one text."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("the same line again and again\n" * 2000)
    run(PLAIN, [str(folder)], out=tmp_path / "out", engine="inline")
    with pytest.raises(StageError, match=r"1,999 of 2,000 documents, more than exact.max_removed=0.95 allows"):
        dedup(tmp_path / "out", [exact()], engine="inline")
    assert len(documents(tmp_path / "out")) == 2000
    dedup(tmp_path / "out", [exact(max_removed=1.0)], engine="inline")
    assert len(documents(tmp_path / "out")) == 1


@pytest.mark.parametrize(("score", "said"), [("langscore", "no column 'langscore'; did you mean 'lang_score'"),
                                             ("url", "url is of type string, must be a number or a date")])  # fmt: skip
def test_a_score_is_a_column_of_numbers(corpus: Path, score: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        dedup(corpus, [exact(score=score)], engine="inline")


def test_tiny_memory_and_many_partitions_find_the_same(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "other")
    dedup(corpus, [near(threshold=0.6)], engine="inline")
    dedup(tmp_path / "other", [near(threshold=0.6, memory=1)], engine="inline")
    assert documents(corpus) == documents(tmp_path / "other")


def test_a_damaged_unit_is_named(corpus: Path) -> None:
    path = sorted((corpus / "lines" / "documents").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=path.name):
        dedup(corpus, [exact()], engine="inline")


def test_a_corpus_without_documents(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    run(PLAIN, [str(folder)], out=tmp_path / "out", engine="inline")  # too few words: nothing is kept
    done = dedup(tmp_path / "out", BARRIERS, engine="inline")
    assert done.units == 0 and done.trials == () and not verify(Corpus(tmp_path / "out"))


def test_a_dry_run_changes_nothing(corpus: Path) -> None:
    before = tree(corpus)
    done = dedup(corpus, BARRIERS, engine="inline", dry_run=True)
    assert len(done.trials) == 3 and done.report is None
    assert tree(corpus) == before


# -- crashes -----------------------------------------------------------------------------------------------------------


def _crashed(work: Any, stop: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            with watched(Operations(stop, lambda: os._exit(137))):
                work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["recipe", "pass"])
def test_a_crash_anywhere_leaves_the_same_after_a_rerun(corpus: Path, tmp_path: Path, where: str) -> None:
    start = tmp_path / "start"
    if where == "pass":
        shutil.copytree(corpus, start)

    def work(out: Path) -> None:
        if where == "pass":
            dedup(out, BARRIERS[:2], engine="inline")
        else:
            run(CLEANED, [str(tmp_path / "in")], out=out, engine="inline")

    def begin(name: str) -> Path:
        if where == "pass":
            shutil.copytree(start, tmp_path / name)
        return tmp_path / name

    clean, ops = begin("clean"), Operations()
    with watched(ops):
        work(clean)
    wanted = tree(clean)
    assert ops.count > 100
    for stop in range(3, ops.count, ops.count // 15):
        out = begin(f"out-{stop}")
        assert _crashed(lambda out=out: work(out), stop) == 137, f"operation {stop} was not reached"
        work(out)
        assert tree(out) == wanted, f"after a crash at operation {stop}: {ops.log[stop]}"
        assert not verify(Corpus(out))
        shutil.rmtree(out)


def test_the_record_of_a_pass(corpus: Path) -> None:
    dedup(corpus, [exact()], engine="inline")
    manifest = json.loads((corpus / "corpus.json").read_text())
    assert manifest["passes"][0]["found"][0]["barrier"] == "exact"
    assert isinstance(exact(), Exact)
    assert not (corpus / "runs" / "pass").exists() and not (corpus / "runs" / "pass.json").exists()
