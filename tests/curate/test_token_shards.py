"""Token shards: ids that are SentencePiece's, counts that reconcile, and only what has changed done again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import sentencepiece
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from curate import token_shards
from curate.dedup.exact import exact
from curate.deduplicate import dedup
from curate.engine import run
from curate.errors import RecipeError, SourceError, StageError
from curate.store import SHARD, Corpus, tables
from curate.token_shards import encode_unit, text_hashes, tokenize, verify_tokens
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
    folder, documents, tokens = Corpus(corpus).tokens("lines"), 0, 0
    for commit in Corpus(corpus).commits("lines"):
        shard = folder.latest(commit.unit)
        assert shard is not None
        rows = pa.concat_tables(tables(shard, SHARD))
        texts = pa.concat_tables(tables(commit, "documents"))
        assert rows["doc_id"].to_pylist() == texts["doc_id"].to_pylist()
        assert rows["tokens"].to_pylist() == [library.encode(t) for t in texts["text"].to_pylist()]
        assert rows.schema.field("tokens").type == pa.list_(pa.uint16())
        assert rows.schema.names[2] == "text_hash" and rows.schema.types[2] == pa.uint64()
        utf8 = [t.encode() for t in texts["text"].to_pylist()]
        assert rows["text_hash"].to_pylist() == [xxhash.xxh3_64_intdigest(t) for t in utf8]
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


@given(st.lists(st.one_of(st.none(), st.text())), st.integers(0, 3), st.booleans())
def test_hashes_of_texts(texts: list[str | None], first: int, large: bool) -> None:
    column = pa.array(texts, pa.large_string() if large else pa.string())[first:]
    wanted = [xxhash.xxh3_64_intdigest((t or "").encode()) for t in texts[first:]]
    assert text_hashes(column).to_pylist() == wanted and text_hashes(column).type == pa.uint64()
    assert text_hashes(pa.chunked_array([column, column], column.type)).to_pylist() == wanted * 2


def test_hashes_of_other_texts_are_found(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(token_shards, "text_hashes", lambda column: pa.array(range(len(column)), pa.uint64()))
        tokenize(corpus, engine="inline")
    found = list(verify_tokens(Corpus(corpus), "lines"))
    assert len(found) == 3 and all("its hashes are not those of the texts" in line for line in found)


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
        encode_unit(Corpus(corpus).tokens("lines"), commit, encoder, "f")
    assert shards(corpus) == {}
