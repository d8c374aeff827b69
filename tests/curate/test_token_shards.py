"""Token shards: ids that are SentencePiece's, counts that reconcile, and only what has changed done again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import sentencepiece

from curate.dedup.exact import exact
from curate.deduplicate import dedup
from curate.engine import run
from curate.errors import RecipeError, SourceError, StageError
from curate.store import Corpus, tables
from curate.token_shards import SHARD, encode_unit, token_folder, tokenize, verify_tokens
from tests.copies import PLAIN, write_copies
from tests.curate.test_engine import tree
from tokenizer.encode import Encoder
from tokenizer.train import train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a small tokenizer of its own."""
    folder = tmp_path_factory.mktemp("tokens")
    run(PLAIN, [str(write_copies(folder / "in"))], out=folder / "corpus", engine="inline")
    train(Corpus(folder / "corpus"), folder / "corpus" / "models" / "tokenizer", vocab_size=400, weights={"lines": 1.0})
    return folder / "corpus"


@pytest.fixture()
def corpus(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "corpus"))


def shards(corpus: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((corpus / "tokens" / "lines").glob("*.arrow"))}


def test_every_id_is_sentencepieces(corpus: Path) -> None:
    done = tokenize(corpus, engine="inline")
    library = sentencepiece.SentencePieceProcessor(model_file=str(corpus / "models" / "tokenizer" / "tokenizer.model"))
    folder, documents, tokens = token_folder(Corpus(corpus), "lines"), 0, 0
    for commit in Corpus(corpus).commits("lines"):
        shard = folder.latest(commit.unit)
        assert shard is not None
        rows = pa.concat_tables(tables(shard, SHARD))
        texts = pa.concat_tables(tables(commit, "documents"))
        assert rows["doc_id"].to_pylist() == texts["doc_id"].to_pylist()
        assert rows["tokens"].to_pylist() == [library.encode(t) for t in texts["text"].to_pylist()]
        assert rows.schema.field("tokens").type == pa.list_(pa.uint16())
        documents, tokens = documents + len(rows), tokens + sum(map(len, rows["tokens"].to_pylist()))
    assert (
        done.sources["lines"]["documents"]
        == documents
        == sum(c.record["counts"]["kept"] for c in Corpus(corpus).commits("lines"))
    )
    assert done.sources["lines"]["tokens"] == tokens
    assert list(verify_tokens(Corpus(corpus), "lines")) == []


def test_only_what_has_changed_is_done_again(corpus: Path) -> None:
    assert tokenize(corpus, engine="inline").done == 3
    before = shards(corpus)
    again = tokenize(corpus, engine="inline")
    assert (again.done, again.reused) == (0, 3) and shards(corpus) == before
    units = dedup(corpus, [exact()], engine="inline").units
    assert any("made of other documents" in line for line in verify_tokens(Corpus(corpus), "lines"))
    third = tokenize(corpus, engine="inline")
    assert third.done == units > 0 and len(shards(corpus)) == 3
    assert list(verify_tokens(Corpus(corpus), "lines")) == []
    train(Corpus(corpus), corpus / "models" / "tokenizer", vocab_size=350, weights={"lines": 1.0})
    assert tokenize(corpus, engine="inline").done == 3


def test_ray_and_inline_make_the_same(corpus: Path, tmp_path: Path) -> None:
    other = shutil.copytree(corpus, tmp_path / "other")
    tokenize(corpus, engine="inline")
    tokenize(other, engine="ray", workers=2)
    assert shards(corpus) == shards(other) and tree(corpus) == tree(other)


def test_damage_is_found_and_mended(corpus: Path) -> None:
    tokenize(corpus, engine="inline")
    name, data = next(iter(shards(corpus).items()))
    (corpus / "tokens" / "lines" / name).write_bytes(data[:-8])
    assert any(name in line for line in verify_tokens(Corpus(corpus), "lines"))
    assert tokenize(corpus, engine="inline").done == 1
    assert list(verify_tokens(Corpus(corpus), "lines")) == []


def test_what_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="curate tokenizer train"):
        tokenize(corpus, tmp_path / "none.model")
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(SourceError, match="not a SentencePiece model"):
        tokenize(corpus, tmp_path / "junk.model")
    with pytest.raises(RecipeError, match="has no source 'linse'; did you mean 'lines'"):
        tokenize(corpus, sources=["linse"])
    with pytest.raises(RecipeError, match="not a corpus"):
        tokenize(tmp_path)


def test_wrong_ids_are_never_committed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(corpus / "models" / "tokenizer" / "tokenizer.model")
    commit = next(Corpus(corpus).commits("lines"))
    right = Encoder.encode

    def wrong(self: Encoder, column: pa.Array, bos: bool = False, eos: bool = False) -> pa.LargeListArray:
        ids = right(self, column)
        return pa.LargeListArray.from_arrays(ids.offsets, pa.array(ids.values.to_numpy() + 1, pa.uint16()))

    monkeypatch.setattr(Encoder, "encode", wrong)
    with pytest.raises(StageError, match="not SentencePiece's"):
        encode_unit(token_folder(Corpus(corpus), "lines"), commit, encoder, "f")
    assert shards(corpus) == {}
