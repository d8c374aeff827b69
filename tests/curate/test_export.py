"""What is exported is what is kept, and a file with its name is whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import export as module
from curate.errors import RecipeError, StoreError
from curate.export import export
from curate.store import Attempt, Corpus, tables
from tests.model import COLUMNS, commit_documents, document

TEXTS = ['quotes " and \\ and\nlines \u2028 \x00 東京 😀', "", "plain", "four", "five"]


def corpus_of(root: Path) -> Corpus:
    corpus = Corpus(root)
    commit_documents(corpus, "books", "one", TEXTS, rows=2)
    commit_documents(corpus, "books", "two", ["second"])
    commit_documents(corpus, "c4", "none", [])
    return corpus


def kept(corpus: Corpus, source: str) -> pa.Table:
    return pa.concat_tables(
        [COLUMNS.empty_table(), *(t for c in corpus.commits(source) for t in tables(c, "documents"))]
    )


def test_jsonl(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus")
    counts = export(corpus, tmp_path / "out")
    assert counts["books"]["documents"] == 6 and counts["books"]["files"] == 2 and counts["c4"]["documents"] == 0
    files = sorted((tmp_path / "out" / "books").iterdir())
    assert counts["books"]["bytes"] == sum(f.stat().st_size for f in files)
    rows = [json.loads(line) for f in files for line in f.read_bytes().split(b"\n")[:-1]]
    assert rows == kept(corpus, "books").to_pylist()  # no row has a date
    assert list(rows[0]) == COLUMNS.names


def test_parquet(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus")
    export(corpus, tmp_path / "out", "parquet")
    read = [pq.read_table(f) for f in sorted((tmp_path / "out" / "books").iterdir())]
    assert pa.concat_tables(read).cast(COLUMNS) == kept(corpus, "books")
    (empty,) = (tmp_path / "out" / "c4").iterdir()
    assert pq.read_table(empty).num_rows == 0


def test_dates_and_numbers_that_json_has_not(tmp_path: Path) -> None:
    import datetime

    corpus = corpus_of(tmp_path / "corpus")
    row = document("books", "three", 0, "dated")
    row |= {
        "date": datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.UTC),
        "perplexity": math.inf,
        "lang_score": math.nan,
    }
    with Attempt(corpus.final("books"), "0" * 12) as attempt:
        attempt.arrow("documents", COLUMNS).write(pa.Table.from_pylist([row], schema=COLUMNS))
        attempt.commit({"name": "three", "fingerprint": "x", "counts": {"kept": 1}})
    export(corpus, tmp_path / "out", sources=["books"])
    assert not (tmp_path / "out" / "c4").exists()
    found = json.loads((tmp_path / "out" / "books" / f"{'0' * 12}.jsonl").read_text(), parse_constant=pytest.fail)
    assert found["date"] == "2020-01-02T03:04:05.000006+00:00"
    assert found["perplexity"] is None and found["lang_score"] is None


def test_the_same_twice_and_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, out = corpus_of(tmp_path / "corpus"), tmp_path / "out"
    export(corpus, out)
    before = {p: p.read_bytes() for p in out.rglob("*.jsonl")}
    next(iter(before)).write_bytes(b"of an earlier export")
    export(corpus, out)
    assert {p: p.read_bytes() for p in out.rglob("*.jsonl")} == before

    def fails(commit: object, file: object) -> int:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_jsonl", fails)
    with pytest.raises(StoreError, match="No space left"):
        export(corpus, out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_refused(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus")
    with pytest.raises(RecipeError, match="has no source 'bocks'; did you mean 'books'"):
        export(corpus, tmp_path / "out", sources=["bocks"])
    with pytest.raises(RecipeError, match="no kind 'json'; did you mean|no kind 'json' of export; did you mean"):
        export(corpus, tmp_path / "out", "json")
    with pytest.raises(RecipeError, match="inside the corpus"):
        export(corpus, corpus.root / "books")
    with pytest.raises(RecipeError, match="not a corpus"):
        export(tmp_path / "nothing", tmp_path / "out")
    commit = next(corpus.commits("books"))
    commit.record["counts"]["kept"] = 99
    with pytest.raises(StoreError, match="its commit says otherwise"):
        module._write(commit, tmp_path / "x.jsonl", "jsonl")
    assert not (tmp_path / "x.jsonl").exists()
