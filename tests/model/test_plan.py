"""The order of training: claims of model.plan, each counted from the definition."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError, StoreError
from model import plan as module
from model.plan import (
    PAPER,
    Order,
    audit,
    audit_text,
    check,
    deal,
    load_plan,
    make_plan,
    pattern,
    permute,
    problems,
    resume_step,
    state_of,
    table,
)
from tests.model import MODEL, bare_plan, commit_documents, commit_tokens, make_corpus
from tests.tokenizer import trained

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=8)
LETTERS = "abcdefgh"


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Plans of few tokens: sources below a window, laps that windows divide and do not, many epochs and none."""
    weights = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    sources = {LETTERS[i]: (w, draw(st.integers(1, 90))) for i, w in enumerate(weights)}
    length, batch, steps = draw(st.integers(1, 17)), draw(st.sampled_from([1, 2, 4, 8, 24])), draw(st.integers(1, 9))
    return bare_plan(sources, length, batch, steps, draw(st.integers(0, 5)))


def replay(plan: dict[str, Any]) -> list[tuple[str, int]]:
    """(source, window) of every row."""
    order = Order(plan)
    places = order.places(np.arange(order.steps * order.batch))
    return [(order.sources[s], w) for s, w in zip(places.source.tolist(), places.window.tolist(), strict=True)]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_the_permutation_is_a_bijection(size: int, key: int) -> None:
    places = np.arange(size, dtype=np.int64)
    gone = permute(places, np.full(size, size), np.full(size, key, np.uint64))
    assert sorted(gone.tolist()) == list(range(size))
    one = permute(places[:1], np.array([size]), np.array([key], np.uint64))
    assert one[0] == gone[0]  # alone as among others


def test_the_permutation_looks_like_chance() -> None:
    size, keys = 40, 4000
    seen = np.zeros((size, size))
    follows = 0
    for key in range(keys):
        gone = permute(np.arange(size), np.full(size, size), module._mix(np.full(size, key, np.uint64)))
        seen[np.arange(size), gone] += 1
        follows += int(np.count_nonzero(np.diff(gone) == 1))
    expected = keys / size
    assert ((seen - expected) ** 2 / expected).sum() < 1.1 * (size - 1) ** 2  # chi-square, mean (size - 1)**2
    assert abs(follows / keys - (size - 1) / size) < 0.1  # neighbours stay neighbours as often as by chance
    large = permute(np.arange(10_000), np.full(10_000, 10_000), np.full(10_000, 7, np.uint64))
    assert abs(np.corrcoef(np.arange(10_000), large)[0, 1]) < 0.04


@given(WEIGHTS)
@settings(max_examples=150, deadline=None)
def test_every_share_is_within_one_row(weights: list[int]) -> None:
    dealt, whole = deal(weights).tolist(), sum(weights)
    given_rows = [0] * len(weights)
    for t, source in enumerate(dealt, 1):
        given_rows[source] += 1
        assert all(abs(g * whole - t * w) < whole for g, w in zip(given_rows, weights, strict=True))
    assert given_rows == weights


def test_the_papers_pattern() -> None:
    parts = pattern(None)
    assert sum(parts.values()) == 200 and parts["commoncrawl"] == 134 and parts["stackexchange"] == 4
    tokenizer = pytest.importorskip("tokenizer.train")
    assert {name: row[0] for name, row in PAPER.items()} == dict(tokenizer.WEIGHTS)


@given(plans())
@settings(max_examples=150, deadline=None)
def test_tokens_are_used_floor_or_ceil_times_after_every_row(plan: dict[str, Any]) -> None:
    length = plan["length"]
    inputs = {s: np.zeros(e["tokens"], int) for s, e in plan["sources"].items()}
    targets = {s: np.zeros(e["tokens"], int) for s, e in plan["sources"].items()}
    drawn: Counter[str] = Counter()
    for source, window in replay(plan):
        lap = plan["sources"][source]["tokens"]
        np.add.at(inputs[source], np.arange(window * length, (window + 1) * length) % lap, 1)
        np.add.at(targets[source], np.arange(window * length + 1, (window + 1) * length + 1) % lap, 1)
        drawn[source] += length
        for uses in (inputs[source], targets[source]):
            assert uses.min() == drawn[source] // lap and uses.max() == -(-drawn[source] // lap)
    assert all(drawn[s] == e["drawn"] for s, e in plan["sources"].items())


@given(plans())
@settings(max_examples=100, deadline=None)
def test_audit(plan: dict[str, Any]) -> None:
    found = audit(plan, block=7)
    assert found.ok and audit_text(found).endswith("the plan holds"), found.problems
    length = plan["length"]
    for source, entry in plan["sources"].items():
        uses = np.zeros(entry["tokens"], int)
        for name, window in replay(plan):
            if name == source:
                np.add.at(uses, np.arange(window * length, (window + 1) * length) % entry["tokens"], 1)
        assert found.uses[source][:2] == (uses.min(), uses.max())


@given(st.integers(1, 12), st.integers(1, 60), st.sets(st.integers(0, 40), min_size=1))
@settings(max_examples=200, deadline=None)
def test_uses_of_any_set_of_windows(length: int, lap: int, windows: set[int]) -> None:
    uses, seen = np.zeros(lap, int), np.zeros(max(windows) + 3, np.uint8)
    for window in windows:
        seen[window] = 1
        np.add.at(uses, np.arange(window * length, (window + 1) * length) % lap, 1)
    found = module._uses(seen, Order(bare_plan({"a": (1, lap)}, length, 1, 1)), 0)
    drawn = len(windows) * length
    assert found == (uses.min(), uses.max(), drawn // lap, -(-drawn // lap))


@pytest.mark.parametrize("wrong", ["window twice", "other counts", "share", "world", "window left out"])
def test_audit_sees_what_is_wrong(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bare_plan({"a": (6, 400), "b": (2, 90)}, 8, 8, 9)
    true_windows, true_rows = Order.windows, Order.rows

    def windows(self: Order, source: Any, nth: Any) -> Any:
        places = true_windows(self, source, nth)
        if wrong == "window twice":
            places.window[places.nth == 3] = places.window.min()
        elif wrong == "window left out":
            places.window[(places.nth == 2) & (source == 0)] += 503
        return places

    if wrong == "other counts":
        plan["sources"]["a"]["windows"] += 1
    elif wrong == "share":
        monkeypatch.setattr(module, "deal", lambda weights: np.repeat([1, 0], [2, 6]))
    elif wrong == "world":
        monkeypatch.setattr(Order, "rows", lambda self, s, r=0, w=1: true_rows(self, s, r if w < 4 else 0, w))
    else:
        monkeypatch.setattr(Order, "windows", windows)
    found = audit(plan)
    assert not found.ok and audit_text(found).endswith("does NOT hold")


@given(plans(), st.data())
@settings(max_examples=100, deadline=None)
def test_ranks_share_the_batch_of_one(plan: dict[str, Any], data: st.DataObject) -> None:
    order, everything = Order(plan), replay(plan)
    step = data.draw(st.integers(0, order.steps - 1))
    for world in (w for w in (1, 2, 3, 4, 8) if order.batch % w == 0):
        parts = [order.batch_places(step, rank, world) for rank in range(world)]
        rows = [(order.sources[s], w) for p in parts for s, w in zip(p.source.tolist(), p.window.tolist(), strict=True)]
        assert rows == everything[step * order.batch : (step + 1) * order.batch]


def test_another_seed_is_another_order_and_more_tokens_go_on() -> None:
    one, two = (bare_plan({"a": (1, 9000)}, 8, 8, 20, seed) for seed in (0, 1))
    longer = bare_plan({"a": (1, 9000)}, 8, 8, 200)
    assert replay(one) != replay(two) and one["hash"] != two["hash"]
    assert replay(longer)[:160] == replay(one)
    assert len({w for _, w in replay(longer)[:1125]}) == 1125 and replay(one) != sorted(replay(one))


def test_each_lap_has_an_order_of_its_own() -> None:
    windows = [w for _, w in replay(bare_plan({"a": (1, 800)}, 8, 8, 25))]
    first, second = windows[:100], [w - 100 for w in windows[100:]]
    assert sorted(first) == sorted(second) == list(range(100)) and first != second


def test_any_place_of_the_papers_run_at_once() -> None:
    tokens = {name: int(1.4e12 * row[0] / 100 / row[1]) for name, row in PAPER.items()}
    plan = bare_plan({s: (w, tokens[s]) for s, w in pattern(None).items()}, 2048, 2048, 333_787)
    places = Order(plan).batch_places(333_786)
    assert len(places.window) == 2048 and places.epoch.max() == 2
    epochs = {s: round(e["drawn"] / e["tokens"], 2) for s, e in plan["sources"].items()}
    assert all(abs(epochs[s] - row[1]) < 0.01 for s, row in PAPER.items())
    assert "2.45" in table(plan) and "LLaMA" in table(plan)


@pytest.mark.parametrize(
    ("weights", "says"),
    [({"a": "x"}, "numbers"), ({}, "above zero"), ({"a": 0}, "above zero"), ({"a": -1, "b": 2}, "above zero"),
     ({"a": "0.123457", "b": "0.876544"}, "fewer digits"), ({"a": float("nan")}, "numbers")],
)  # fmt: skip
def test_wrong_weights(weights: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        pattern(weights)


UNITS = {"two": [[10, 11], [12], [], [13, 14, 15]], "one": [[20] * 9, [21]]}


def small(root: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    corpus = make_corpus(root, {"books": UNITS, "c4": {"x": [[30, 31, 32]]}})
    settings_ = {"weights": {"books": 3, "c4": 1}, "length": 4, "batch": 2, "tokenizer": trained() / MODEL, **more}
    return corpus, make_plan(corpus, 60, **settings_)


def test_a_plan_of_a_corpus(tmp_path: Path) -> None:
    corpus, plan = small(tmp_path)
    assert plan == load_plan(tmp_path) == load_plan(tmp_path / "mixture.json")
    before = (tmp_path / "mixture.json").read_bytes()
    assert small(tmp_path)[1] == plan and (tmp_path / "mixture.json").read_bytes() == before
    books = plan["sources"]["books"]
    assert books["tokens"] == 16 + 6 * 2 and [u["name"] for u in books["units"]] == ["one", "two"]
    assert (plan["bos"], plan["eos"], plan["steps"]) == (1, 2, 8)
    assert books["drawn"] + plan["sources"]["c4"]["drawn"] == 64 and books["drawn"] == 48
    bare = small(tmp_path, bos=False, eos=False)[1]
    assert bare["sources"]["books"]["tokens"] == 16 and bare["bos"] is None and bare["hash"] != plan["hash"]
    check(corpus, plan, deep=True)
    assert json.loads(before)["hash"] == plan["hash"]


def test_missing_sources(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, {"books": UNITS, "c4": {"x": [[]]}})
    with pytest.raises(RecipeError, match=r"no tokens of commoncrawl, c4, .*--weights books=4.5,c4=15"):
        make_plan(corpus)
    with pytest.raises(RecipeError, match=r"no tokens of bookz; did you mean 'books'"):
        make_plan(corpus, weights={"bookz": 1})
    with pytest.raises(RecipeError, match="no tokens of c4"):
        make_plan(corpus, weights={"books": 1, "c4": 1})
    with pytest.raises(RecipeError, match=r"tokenizer is not there"):
        make_plan(corpus, weights={"books": 1})
    with pytest.raises(RecipeError, match="length must be"):
        make_plan(corpus, weights={"books": 1}, length=0)


def test_stale_tokens_and_changed_data(tmp_path: Path) -> None:
    corpus, plan = small(tmp_path)
    resume = state_of(plan, 5)
    assert resume_step(plan, resume) == 5
    with pytest.raises(RecipeError, match="keep its mixture.json"):
        resume_step(small(tmp_path, seed=1)[1], resume)
    commit_documents(corpus, "c4", "y", ["new"])
    assert problems(corpus, plan, deep=True) == []  # a file more changes nothing of what is planned
    with pytest.raises(RecipeError, match="c4: unit .* has no tokens; run curate tokenize"):
        make_plan(corpus, weights={"c4": 1})
    commit_documents(corpus, "books", "one", ["other"])
    with pytest.raises(RecipeError, match="books: tokens of unit .* are of other documents"):
        make_plan(corpus, weights={"books": 1})
    commit_tokens(corpus, "books", "one", [[22]])
    with pytest.raises(StoreError, match=r"tokens of one are not those that the plan was made of"):
        check(corpus, plan)


def test_tokens_made_anew_under_the_same_name(tmp_path: Path) -> None:
    corpus, plan = small(tmp_path)
    shutil.rmtree(tmp_path / "tokens" / "c4")
    with pytest.raises(StoreError, match="c4: tokens of unit .* are gone"):
        check(corpus, plan)
    commit_tokens(corpus, "c4", "x", [[30, 31, 33]])
    with pytest.raises(StoreError, match="tokens of x are not those that the plan was made of"):
        check(corpus, plan)


def test_damage_is_found(tmp_path: Path) -> None:
    corpus, plan = small(tmp_path)
    path = tmp_path / "tokens" / "c4" / plan["sources"]["c4"]["units"][0]["file"]
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    check(corpus, plan)
    with pytest.raises(StoreError, match=f"{path.name}: its digest"):
        check(corpus, plan, deep=True)
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match=f"{path.name}: .* bytes"):
        check(corpus, plan)
    mixture = tmp_path / "mixture.json"
    mixture.write_bytes(mixture.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(StoreError, match="damaged or edited"):
        load_plan(corpus)
    mixture.unlink()
    with pytest.raises(RecipeError, match="there is no plan"):
        load_plan(corpus)


def test_documents_that_changed_after_they_were_tokenized_are_refused(tmp_path: Path) -> None:
    """The shards are still there, but they are no longer of the documents that the corpus has."""
    corpus = make_corpus(tmp_path, {"one": {"a": [[5, 6, 7], [8, 9]]}})
    plan = make_plan(corpus, length=2, weights={"one": 1}, bos=False, eos=False, tokenizer=trained() / MODEL)
    assert problems(corpus, plan) == []
    commit_documents(corpus, "one", "a", ["other words"])
    assert any("run curate tokenize" in line for line in problems(corpus, plan))
