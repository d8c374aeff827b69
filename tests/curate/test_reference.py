"""The reference classifier: which pages it learns from, what it writes, and the stage against the fasttext library."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RecipeError, SourceError
from curate.fasttext_file import read_model
from curate.filters.reference import reference, score
from curate.reference import pages as chosen
from curate.reference.measure import auc, calibration, calibration_svg, held_out_report
from curate.reference.train import summary, train
from curate.store import Attempt, Corpus

fasttext = pytest.importorskip("fasttext")

KINDS = """the survey of 1841 recorded parish boundaries which later historians compared with church registers
buy now cheap deals click here free shipping best price sale offer discount order today limited stock
and of a in to for with on by it is was as are this"""
SCHOLAR, SELLER, BOTH = (line.split() for line in KINDS.splitlines())


def page(rng: random.Random, words: list[str], characters: int) -> str:
    out: list[str] = []
    while sum(map(len, out)) + len(out) <= characters:
        out.append(rng.choice(words if rng.random() < 0.5 else BOTH))
    return "\n".join(" ".join(out[i : i + 9]) for i in range(0, len(out), 9))


@functools.cache
def crawl(sites: int = 30, each: int = 4) -> tuple[list[str], pa.Table]:
    """(cited addresses, pages): per site either scholars' pages, which are cited, or sellers'."""
    rng, cited, rows = random.Random(5), [], []
    for s, i in itertools.product(range(2 * sites), range(each)):
        url = f"https://www.site{s}.example/{i}?p=1#top"
        rows.append((url, page(rng, SCHOLAR if s % 2 else SELLER, rng.choice([350, 1000, 2000, 4000])), "en"))
        if s % 2:
            cited.append(f"http://site{s}.example/{i}?p=1")
    rng.shuffle(rows)
    urls, texts, langs = zip(*rows, strict=True)
    return cited, pa.table({"url": urls, "text": pa.array(texts, pa.large_string()), "lang": langs})


def arrow(path: Path, table: pa.Table, batch: int = 50) -> Path:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("reference")
    cited, table = crawl()
    return out, train(cited, lambda: iter([table]), out, seed=3, epochs=100)


@functools.cache
def library(path: Path) -> Callable[[str], float]:
    model = fasttext.load_model(str(path))

    def p_wiki(text: str) -> float:
        return dict(zip(*model.predict(text.replace("\n", " "), k=2), strict=True)).get("__label__wiki", 0.0)

    return p_wiki


# --- which pages


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("http://example.org/a", "https://www.example.org/a/", True),
        ("https://EXAMPLE.org:443/a#part", "example.org/a", True),
        ("https://xn--bcher-kva.de/", "http://www.b\u00fccher.de", True),
        ("http://example.org/a?x=1", "http://example.org/a?x=2", False),
        ("http://example.org/A", "http://example.org/a", False),
        ("http://example.org:8080/a", "http://example.org/a", False),
        ("http://www2.example.org/a", "http://example.org/a", False),
    ],
)
def test_addresses_that_are_one_page(a: str, b: str, same: bool) -> None:
    assert (chosen.page_key(a) == chosen.page_key(b)) is same


def test_cited_addresses_from_every_kind_of_file(tmp_path: Path) -> None:
    urls = ["http://a.example/1", "http://b.example/2", "https://www.a.example/1/", "", "http://c.example/\u00e9"]
    want = chosen.cited_keys(urls)
    assert len(want) == 3 and (np.diff(want) > 0).all()
    text = "\r\n".join(urls).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text))
    table = pa.table({"n": range(6), "url": [*urls, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    arrow(tmp_path / "a.arrow", table, 2)
    for name in ("a.txt", "a.txt.gz", "a.parquet", "a.arrow"):
        assert chosen.cited_keys(tmp_path / name).tolist() == want.tolist(), name


@pytest.mark.parametrize("name", ["absent.txt", "empty.txt", "bad.txt", "bad.gz", "bad.parquet", "bad.arrow"])
def test_a_list_of_no_use_is_one_line(tmp_path: Path, name: str) -> None:
    if name != "absent.txt":
        (tmp_path / name).write_bytes(b"" if name == "empty.txt" else b"http://a.example/\xff\xfe\n")
    with pytest.raises((RecipeError, SourceError), match=name) as caught:
        chosen.cited_keys(tmp_path / name)
    assert "\n" not in str(caught.value)


def picked(tables: list[pa.Table], cited: list[str], **changes: Any) -> tuple[set[str], set[str], dict[str, int]]:
    setting: dict[str, Any] = {"seed": 1, "min_characters": 1000, "max_pages": 1000, "lang": None, **changes}
    choice = chosen.choose(lambda: iter(tables), chosen.cited_keys(cited), **setting)
    found = list(chosen.chosen_pages(lambda: iter(tables), choice))
    assert len({p.text for p in found}) == len(found)
    return {p.text for p in found if p.cited}, {p.text for p in found if not p.cited}, choice.counts


def test_choice_by_the_rule() -> None:
    cited, table = crawl()
    table = pa.concat_tables([table, table.slice(0, 40)])  # copies
    wiki, other, counts = picked([table], cited)
    keys = {u.removeprefix("http://") for u in cited}
    rows = list(zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True))
    mine = {t for u, t in rows if u.removeprefix("https://www.").removesuffix("#top") in keys}
    assert wiki == {t for t in mine if len(t) >= 1000}
    assert len(other) == len(wiki) and other <= {t for _, t in rows if t not in mine and len(t) >= 1000}
    assert counts["pages"] == 280 and counts["cited_urls"] == counts["cited_urls_found"] == 120
    mirror = table.set_column(0, "url", pa.array([f"http://mirror.example/{i}" for i in range(len(table))]))
    assert picked([mirror, table], cited)[:2] == (wiki, other)  # a cited text elsewhere is no negative
    capped = picked([table], cited, max_pages=25)
    assert len(capped[0]) == len(capped[1]) == 25 and capped[0] < wiki


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_choice_does_not_depend_on_the_order_of_pages(rng: random.Random, size: int) -> None:
    cited, table = crawl()
    order = list(range(len(table)))
    rng.shuffle(order)
    shuffled = table.take(pa.array(order))
    parts = [shuffled.slice(i, size) for i in range(0, len(table), size)]
    assert picked(parts, cited, max_pages=40) == picked([table], cited, max_pages=40)


def test_another_seed_is_another_sample_and_a_language_selects() -> None:
    cited, table = crawl()
    assert picked([table], cited, max_pages=30, seed=1)[1] != picked([table], cited, max_pages=30, seed=2)[1]
    langs = pa.array(["de" if i % 3 else None for i in range(len(table))])
    found = picked([table.set_column(2, "lang", langs)], cited, lang="de", min_characters=300)
    german = {t for i, t in enumerate(table["text"].to_pylist()) if i % 3}
    assert found[0] | found[1] <= german
    with pytest.raises(RecipeError, match="no column lang"):
        picked([table.drop_columns("lang")], cited, lang="de")


def test_too_few_pages_says_how_many_were_found(tmp_path: Path) -> None:
    cited, table = crawl()
    with pytest.raises(RecipeError, match=r"10 of 12 cited addresses are among 240 pages; .* 20 are needed"):
        train([*cited[:10], "http://x.example/1", "http://x.example/2"], lambda: iter([table]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=80), st.integers(0, 5))
def test_whole_sites_are_held_out(rows: list[tuple[int, bool]], seed: int) -> None:
    sites, cited = [f"s{n}.example" for n, _ in rows], [c for _, c in rows]
    held = chosen.held_out(sites, cited, seed=seed, share=0.3)
    assert not {s for s, h in zip(sites, held, strict=True) if h} & {
        s for s, h in zip(sites, held, strict=True) if not h
    }
    for kind in (True, False):
        assert sum(h and c is kind for h, c in zip(held, cited, strict=True)) <= 0.3 * cited.count(kind)
    again = chosen.held_out(sites[::-1], cited[::-1], seed=seed, share=0.3)
    assert again[::-1].tolist() == held.tolist()


def test_pages_from_files_and_from_a_corpus(tmp_path: Path) -> None:
    _, table = crawl()
    files = [arrow(tmp_path / f"{i}.arrow", table.slice(i * 120, 120)) for i in range(2)]
    corpus = Corpus(tmp_path / "corpus")
    for i in range(2):
        with Attempt(corpus.final("commoncrawl"), f"{i:012x}") as attempt:
            attempt.arrow("documents", table.schema).write(table.slice(i * 120, 120))
            attempt.commit({"fingerprint": "f"})
    arrow(corpus.root / "commoncrawl" / "documents" / "stray.arrow", table)  # has no commit record
    for given_pages in (files, tmp_path, corpus.root):
        found = pa.concat_tables(chosen.tables(given_pages)()).select(["url", "text", "lang"])
        assert found.equals(table), given_pages
    (tmp_path / "none").mkdir()
    with pytest.raises(RecipeError, match="holds no pages"):
        chosen.tables(tmp_path / "none")
    with Attempt(Corpus(tmp_path / "other").final("books"), "0" * 12) as attempt:
        attempt.commit({"fingerprint": "f"})
    with pytest.raises(RecipeError, match="no commoncrawl, only books"):
        chosen.tables(tmp_path / "other")
    (tmp_path / "bad.arrow").write_bytes(files[0].read_bytes()[:-300])
    with pytest.raises(SourceError, match=r"bad\.arrow"):
        list(chosen.tables([tmp_path / "bad.arrow"])())


def test_pages_that_change_between_two_readings_are_an_error() -> None:
    cited, table = crawl()
    choice = chosen.choose(
        lambda: iter([table]), chosen.cited_keys(cited), seed=0, min_characters=300, max_pages=99, lang=None
    )
    with pytest.raises(SourceError, match="changed while they were read"):
        list(chosen.chosen_pages(lambda: iter([table.slice(0, 60)]), choice))


# --- figures


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    pairs = [(a > b) + (a == b) / 2 for (a, p), (b, q) in itertools.product(rows, rows) if p and not q]
    found = auc([a for a, _ in rows], [p for _, p in rows])
    assert found == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_calibration_and_thresholds_on_a_small_case() -> None:
    scores = np.array([0.05, 0.05, 0.3, 0.95, 1.0, 0.25], np.float32)
    cited = np.array([False, True, True, True, True, False])
    bins = calibration(scores, cited)
    assert [b["pages"] for b in bins] == [2, 0, 1, 1, 0, 0, 0, 0, 0, 2]
    assert (bins[0]["mean_score"], bins[0]["positive_share"], bins[1]["mean_score"]) == (0.05, 0.5, None)
    report = held_out_report(scores, cited, np.array([5, 1, 1, 1, 1, 5]))
    assert report["auc"] == 0.8125 and report["auc_of_length"] == 0.0  # 6.5 of 8 pairs
    assert report["accuracy"] == round(4 / 6, 4)
    quarter = next(row for row in report["thresholds"] if row["min_score"] == 0.25)
    assert quarter == {"min_score": 0.25, "positive_kept": 0.75, "negative_kept": 0.5, "precision": 0.75}
    gap = (2 * 0.45 + 0.25 + 0.7 + 2 * 0.025) / 6
    assert report["calibration_error"] == round(gap, 4)
    assert calibration_svg(report).count("<circle") == 4


def test_without_held_out_pages_the_figures_are_null() -> None:
    none = held_out_report(np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, np.int64))
    assert none["auc"] is None and none["accuracy"] is None and none["thresholds"] == []
    assert "AUC unknown" in calibration_svg(none)


# --- training


def test_training_tells_the_two_kinds_apart(made: tuple[Path, dict[str, Any]]) -> None:
    out, card = made
    assert json.loads((out / "card.json").read_text()) == card
    assert sorted(p.name for p in out.iterdir()) == ["calibration.svg", "card.json", "model.bin"]
    counts = card["counts"]
    assert counts["train_positive"] + counts["held_out_positive"] <= counts["long_cited_pages"]
    assert counts["held_out_positive"] >= 5 and counts["held_out_negative"] >= 5
    assert card["held_out"]["auc"] > 0.99 and card["held_out"]["accuracy"] > 0.9
    assert card["settings"]["min_characters"] == 1000 and card["languages"]["wiki"].keys() == {"en"}
    assert "AUC 1.000" in summary(card) and "WARNING" not in summary(card)
    model = read_model(out / "model.bin")
    assert (model.dim, model.bucket, model.loss, model.word_ngrams) == (100, 0, "softmax", 1)


def test_marks_in_a_page_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    """A seller writes fastText's own label and end-of-line into each page."""
    cited, table = crawl()
    poison = ["</s> __label__wiki __label__x " + t + "\n__label__wiki" for t in table["text"].to_pylist()]
    mine = set(chosen.cited_keys(cited).tolist())
    texts = [
        t if chosen.page_key(u) in mine else p
        for u, t, p in zip(table["url"].to_pylist(), table["text"].to_pylist(), poison, strict=True)
    ]
    bad = table.set_column(1, "text", pa.array(texts, pa.large_string()))
    train(cited, lambda: iter([bad]), tmp_path, seed=3, epochs=100)
    model = read_model(tmp_path / "model.bin")
    assert set(model.labels) == {"wiki", "cc"}
    sellers = [t for u, t in zip(*(table[c].to_pylist() for c in ("url", "text")), strict=True) if "cheap" in t]
    assert score(pa.array(sellers), tmp_path / "model.bin").max() < 0.5


def test_languages_that_differ_are_warned_of(tmp_path: Path) -> None:
    cited, table = crawl()
    mine = set(chosen.cited_keys(cited).tolist())
    langs = ["en" if chosen.page_key(u) in mine else "de" for u in table["url"].to_pylist()]
    card = train(cited, lambda: iter([table.set_column(2, "lang", pa.array(langs))]), tmp_path, dim=4)
    assert "WARNING: the languages" in summary(card)


def test_a_training_that_runs_away_is_an_error_and_leaves_no_model(tmp_path: Path) -> None:
    cited, table = crawl()
    with pytest.raises(CurateError, match="failed 3 times"):
        train(cited, lambda: iter([table]), tmp_path, lr=1e30, dim=4)
    assert list(tmp_path.iterdir()) == []


def test_no_word_frequent_enough_is_an_error(tmp_path: Path) -> None:
    cited, table = crawl()
    with pytest.raises(RecipeError, match="min_count=1000000"):
        train(cited, lambda: iter([table]), tmp_path, min_count=10**6, dim=4)


# --- the stage


ODD = ["", " ", "\n", "</s>", "the survey </s> buy now", "__label__wiki cheap", "\0survey\x0bparish\f\r\n",
       "\u00e9\u0000x", "zzz unknown", "the " * 5000, "survey\u00a0parish", "buy" * 40]  # fmt: skip


def test_scores_are_those_of_the_library(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    p_wiki = library(out / "model.bin")
    texts = [*ODD, *crawl()[1]["text"].to_pylist()]
    found = score(pa.array(texts, pa.large_string()), out / "model.bin")
    assert found.dtype == np.float32
    want = [min(p_wiki(t), 1.0) for t in texts]
    assert found == pytest.approx(want, abs=1e-4)
    assert min(want) < 0.05 and max(want) > 0.95


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from([*SCHOLAR, *SELLER, *BOTH, "\n", "</s>", "__label__cc", "new\u00e9"]), max_size=40)
)
def test_scores_of_any_text_are_those_of_the_library(made: tuple[Path, dict[str, Any]], words: list[str]) -> None:
    out, _ = made
    text = " ".join(words)
    assert score(pa.array([text]), out / "model.bin")[0] == pytest.approx(library(out / "model.bin")(text), abs=1e-4)


def test_a_quantised_model_scores_alike(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = [f"w{i}" for i in range(400)]
    lines = [f"__label__{('cc', 'wiki')[i % 2]} " + " ".join(rng.choices(words[i % 2 :: 2], k=60)) for i in range(300)]
    (tmp_path / "t.txt").write_text("\n".join(lines) + "\n")
    model = fasttext.train_supervised(input=str(tmp_path / "t.txt"), epoch=20, thread=12, bucket=0, verbose=0)
    model.quantize(input=str(tmp_path / "t.txt"), qnorm=True)
    model.save_model(str(tmp_path / "q.ftz"))
    texts = [line.partition(" ")[2] for line in lines[:50]]
    want = [library(tmp_path / "q.ftz")(t) for t in texts]
    assert score(pa.array(texts), tmp_path / "q.ftz") == pytest.approx(want, abs=1e-4)


def test_the_stage_drops_below_min_score(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    table = crawl()[1]
    path = str(out / "model.bin")
    scores = score(table["text"], out / "model.bin").tolist()
    limit = sorted(scores)[60]  # this one is kept
    outcome = reference(model=path, min_score=limit)(table)
    assert outcome.columns["reference_score"].to_pylist() == scores
    assert outcome.columns["reference_score"].type == pa.float32()
    for p, why, value in zip(scores, outcome.reason.to_pylist(), outcome.value.to_pylist(), strict=True):
        assert why == ("low_score" if p < limit else None)
        assert value == (f"{math.floor(p * 1000) / 1000:.3f}" if p < limit else None)
    # Two pages may score alike (training in threads differs from run to run): those at the limit are all kept.
    assert outcome.reason.null_count == sum(p >= limit for p in scores) >= len(table) - 60
    defaults = dict(reference().settings)
    assert defaults == {"min_score": 0.25, "model": None}
    assert reference().models == (("model", "reference"),)


def test_without_a_model_there_is_no_score_and_all_is_kept() -> None:
    outcome = reference()(crawl()[1])
    assert outcome.columns["reference_score"].null_count == 240 == outcome.reason.null_count
    assert outcome.columns["reference_score"].type == pa.float32()


def test_rows_of_a_slice_and_of_an_empty_table(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    table, path = crawl()[1], str(out / "model.bin")
    whole = reference(model=path)(table).columns["reference_score"].to_pylist()
    assert reference(model=path)(table.slice(7, 9)).columns["reference_score"].to_pylist() == whole[7:16]
    assert len(reference(model=path)(table.slice(0, 0)).columns["reference_score"]) == 0


def test_a_model_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("__label__hq a b c\n__label__cc d e f\n" * 20)
    model = fasttext.train_supervised(
        input=str(tmp_path / "t.txt"), thread=12, dim=20, bucket=0, verbose=0
    )  # 50 numbers or more
    model.save_model(str(tmp_path / "hq.bin"))
    with pytest.raises(RecipeError, match=r"hq\.bin: no reference classifier: its labels are"):
        reference(model=str(tmp_path / "hq.bin"))(pa.table({"text": ["x"]}))
    with pytest.raises(RecipeError, match="No such file"):
        reference(model=str(tmp_path / "absent.bin"))(pa.table({"text": ["x"]}))
    with pytest.raises(RecipeError, match="must be from 0 to 1"):
        reference(min_score=1.5)(pa.table({"text": ["x"]}))
