"""Documents and tokens in other tools: `datasets`, Polars and DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate.export import export
from curate.store import Corpus
from curate.token_shards import tokenize
from tests.model import MODEL, commit_documents
from tests.tokenizer import trained
from tokenizer.encode import Encoder

TEXTS = ["A short one.", "", "Words and words, " * 60, "1234 東京 \n\n\t end"]
SHARDS: dict[str, str] = {"documents": "*/documents/*.arrow", "tokens": "tokens/*/*.arrow"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    made = Corpus(tmp_path_factory.mktemp("corpus"))
    for source in ("books", "c4"):
        commit_documents(made, source, "one", TEXTS, rows=3)
    tokenize(made.root, trained() / MODEL, engine="inline")
    return made


def shards(corpus: Corpus, kind: str) -> list[str]:
    return sorted(map(str, corpus.root.glob(SHARDS[kind])))


def ids() -> list[list[int]]:
    processor = Encoder(trained() / MODEL).processor
    return [processor.encode(t) for t in TEXTS]


@pytest.mark.parametrize("kind", ["documents", "tokens"])
def test_datasets(corpus: Corpus, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets: Any = pytest.importorskip("datasets")
    found = datasets.load_dataset("arrow", data_files=shards(corpus, kind), split="train", cache_dir=str(tmp_path))
    if kind == "documents":
        assert list(found["text"]) == TEXTS * 2 and found[5]["source"] == "c4"
    else:
        assert list(found["tokens"]) == ids() * 2
        streamed = datasets.load_dataset("arrow", data_files=shards(corpus, kind), split="train", streaming=True)
        assert [row["tokens"] for row in streamed] == ids() * 2


@pytest.mark.parametrize("kind", ["documents", "tokens"])
def test_polars(corpus: Corpus, kind: str) -> None:
    polars: Any = pytest.importorskip("polars")
    for read in (polars.read_ipc, lambda file: polars.scan_ipc(file).collect()):
        found = polars.concat([read(file) for file in shards(corpus, kind)])
        if kind == "documents":
            assert found["text"].to_list() == TEXTS * 2
            assert found.filter(polars.col("source") == "c4")["lang_score"].to_list() == [i / 8 for i in range(4)]
        else:
            assert found["tokens"].to_list() == ids() * 2
            assert found["tokens"].dtype == polars.List(polars.UInt16)


def test_duckdb(corpus: Corpus, tmp_path: Path) -> None:
    """DuckDB reads Arrow tables that pyarrow maps (its own reader of files is an extension), and the export."""
    duckdb: Any = pytest.importorskip("duckdb")
    import pyarrow.dataset as ds

    documents, tokens = (ds.dataset(shards(corpus, kind), format="ipc") for kind in SHARDS)
    database = duckdb.connect()
    database.register("documents", documents)
    database.register("tokens", tokens)
    found = database.execute(
        "select d.source, sum(len(t.tokens)), max(d.license) from documents d join tokens t using (doc_id) "
        "group by d.source order by d.source"
    ).fetchall()
    assert found == [(s, sum(map(len, ids())), "CC-3") for s in ("books", "c4")]
    for kind in ("jsonl", "parquet"):
        export(corpus, tmp_path, kind)
        reader = "read_json_auto" if kind == "jsonl" else "read_parquet"
        got = database.execute(f"select text from {reader}('{tmp_path}/*/*.{kind}') order by source, url").fetchall()
        assert [t for (t,) in got] == TEXTS * 2


def test_documents_and_tokens_join(corpus: Corpus) -> None:
    """Rows of the two files of a unit are the same documents in the same order."""
    for documents, tokens in zip(shards(corpus, "documents"), shards(corpus, "tokens"), strict=True):
        one, two = (pa.ipc.open_file(path).read_all() for path in (documents, tokens))
        assert one["doc_id"].to_pylist() == two["doc_id"].to_pylist()
