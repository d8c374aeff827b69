"""Every token of a small plan leads back to the document whose text has it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from curate.errors import RecipeError, StoreError
from curate.store import Corpus
from curate.token_shards import tokenize
from curate.trace import text, trace
from model.data import open_data
from model.plan import make_plan
from tests.model import MODEL, commit_documents, commit_tokens, document, make_corpus
from tests.tokenizer import trained
from tokenizer.encode import Encoder

TEXTS = ["A short one.", "", "Words and more words, 12 of them. " * 5, "東京\n\n\t end", "x", "The last."]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, dict[str, Any]]:
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    for source in ("books", "c4"):
        for name in ("one", "two"):
            commit_documents(corpus, source, name, [f"{source} {name} {t}" for t in TEXTS], rows=4)
    tokenize(corpus.root, trained() / MODEL, engine="inline")
    plan = make_plan(corpus, weights={"books": 2, "c4": 1}, length=12, batch=4, tokenizer=trained() / MODEL)
    return corpus, plan


def test_every_position(made: tuple[Corpus, dict[str, Any]]) -> None:
    corpus, plan = made
    processor, data = Encoder(trained() / MODEL).processor, open_data(corpus, plan)
    known = {}
    for source in ("books", "c4"):
        for name in ("one", "two"):
            for i, t in enumerate(TEXTS):
                record = document(source, name, i, f"{source} {name} {t}")
                known[record["doc_id"]] = (name, record, [1, *processor.encode(record["text"]), 2])
    seen = set()
    for step in range(0, data.order.steps, 5):
        batch = data.batch(step)
        for row in range(4):
            for pos in range(13):
                found = trace(corpus, plan, step, row, pos)
                (at,) = found["documents"]
                name, record, ids = known[at["doc_id"]]
                assert at["token"] == batch.tokens[row, pos] == ids[at["at"]] and at["tokens"] == len(ids)
                assert at["special"] == {1: "bos", 2: "eos"}.get(at["token"])
                for column in ("url", "title", "license", "lang", "lang_score", "perplexity", "bucket"):
                    assert at[column] == record[column]
                assert at["begins"] == record["text"] and at["name"] == name and found["source"] == record["source"]
                seen.add(at["doc_id"])
    assert len(seen) > 6


def test_a_row_is_its_documents(made: tuple[Corpus, dict[str, Any]]) -> None:
    corpus, plan = made
    for row in range(4):
        found = trace(corpus, plan, 1, row)
        edges = [(d["from"], d["to"]) for d in found["documents"]]
        assert edges[0][0] == 0 and edges[-1][1] == 12 and all(a[1] == b[0] for a, b in pairwise(edges))
        for d in found["documents"]:
            one = trace(corpus, plan, 1, row, d["from"])["documents"][0]
            assert (one["doc_id"], one["at"]) == (d["doc_id"], d["at"])
            assert d["doc_id"] in text(found) and d["license"] in text(found)
    assert "(BOS)" in "".join(text(trace(corpus, plan, s, r, p)) for s in (0, 1) for r in range(4) for p in range(12))


def test_no_such_place(made: tuple[Corpus, dict[str, Any]]) -> None:
    corpus, plan = made
    cases = [(10**6, 0, 0, "the plan has steps"), (-1, 0, 0, "the plan has steps"), (0, 4, 0, "rows 0 to 3"),
             (0, 0, 13, "positions 0 to 12"), (0, -1, None, "rows 0 to 3")]  # fmt: skip
    for step, row, pos, says in cases:
        with pytest.raises(RecipeError, match=says):
            trace(corpus, plan, step, row, pos)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, {"books": {"one": [[5, 6, 7]]}})
    plan = make_plan(corpus, 40, weights={"books": 1}, length=4, batch=2, tokenizer=trained() / MODEL)
    assert trace(corpus, plan, 0, 0, 1)["documents"][0]["license"] == "CC-0"
    commit_documents(corpus, "books", "one", ["another"])
    commit_tokens(corpus, "books", "one", [[5, 6, 7, 8]])
    with pytest.raises(StoreError, match="not those that the plan was made of"):
        trace(corpus, plan, 0, 0, 1)


def test_documents_that_are_not_those_of_the_tokens(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, {"books": {"one": [[5], [6]]}})
    plan = make_plan(corpus, 40, weights={"books": 1}, length=4, batch=2, tokenizer=trained() / MODEL)
    path = corpus.final("books").latest(plan["sources"]["books"]["units"][0]["unit"])
    assert path is not None
    other = make_corpus(tmp_path / "other", {"books": {"two": [[5], [6]]}}).final("books")
    (source,) = (other.root / "documents").iterdir()
    path.path("documents").write_bytes(source.read_bytes())
    with pytest.raises(StoreError, match="run curate tokenize again"):
        trace(corpus, plan, 0, 0, 1)
