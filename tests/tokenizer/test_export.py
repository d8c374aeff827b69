"""tokenizer.json gives SentencePiece's ids in other tools; what does not is documented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from curate.errors import RecipeError, StageError
from tests.tokenizer import LANGUAGES, checkout, foreign, trained
from tests.tokenizer.test_encode import PARTS, SPECIALS
from tokenizer import export
from tokenizer.export import verify, write_export

RUNS = [c * n + tail for c in " a=\n0東" for n in range(40) for tail in ("", "x")]
TEXTS = [*PARTS, " ".join(PARTS), "".join(PARTS), *SPECIALS, *RUNS, *checkout()[:3], *LANGUAGES.split("\n")[:9], ""]


def processor(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("dummy", [True, False])
def test_tokenizers(dummy: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = trained(dummy_prefix=dummy)
    theirs, ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), processor(folder)
    theirs.encode_special_tokens = True
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert theirs.encode(text).ids == [1, *ids]
        assert theirs.decode(ids) == ours.decode(ids)
    assert verify(folder, TEXTS) == len(TEXTS)


@pytest.mark.parametrize("dummy", [True, False])
def test_auto_tokenizer(dummy: bool) -> None:
    transformers = pytest.importorskip("transformers")
    folder = trained(dummy_prefix=dummy)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), processor(folder)
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids, repr(text)
        assert theirs(text).input_ids == [1, *ids]
        assert theirs.decode(ids) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)


def test_the_class_that_rebuilds_the_pipeline() -> None:
    transformers = pytest.importorskip("transformers", minversion="5")

    def differing(folder: Path) -> int:
        theirs, ours = transformers.LlamaTokenizer.from_pretrained(folder), processor(folder)
        return sum(theirs(text, add_special_tokens=False).input_ids != ours.encode(text) for text in TEXTS)

    assert differing(trained(dummy_prefix=False)) == 0
    assert differing(trained()) > 10, "the trap is gone: README.md of the export and DECISIONS.md say it is there"
    assert "Do not load it with `LlamaTokenizer`" in (trained() / "README.md").read_text()
    assert "Do not" not in (trained(dummy_prefix=False) / "README.md").read_text()


def test_the_file_says_what_the_model_says() -> None:
    found, ours = json.loads((trained() / "tokenizer.json").read_text()), processor(trained())
    assert {piece: ours.piece_to_id(piece) for piece in found["model"]["vocab"]} == found["model"]["vocab"]
    assert len(found["model"]["vocab"]) == ours.get_piece_size()
    made = [ours.piece_to_id(a + b) for a, b in found["model"]["merges"]]
    assert made == sorted(made) and set(made) <= set(range(259, 2500))
    assert [x["content"] for x in found["added_tokens"]] == ["<unk>", "<s>", "</s>"]
    assert found["decoder"]["decoders"][-1] == {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    plain = json.loads((trained(dummy_prefix=False) / "tokenizer.json").read_text())
    assert [x["type"] for x in plain["decoder"]["decoders"]] == ["Replace", "ByteFallback", "Fuse"]
    assert [x["type"] for x in plain["normalizer"]["normalizers"]] == ["Replace"]


def test_verify_finds_another_model(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    shutil.copytree(trained(), tmp_path / "copy")
    shutil.copy(trained(dummy_prefix=False) / "tokenizer.json", tmp_path / "copy")
    with pytest.raises(StageError, match="encodes text 1 otherwise"):
        verify(tmp_path / "copy", ["", "text"])


def test_verify_needs_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match="needs the package tokenizers"):
        verify(trained(), ["text"])


@pytest.mark.parametrize("name", ["normalising", "user-defined", "unigram"])
def test_models_that_it_is_not_written_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no tokenizer.json can be written: "):
        write_export(foreign(name), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no-specials", "more-specials", "across-words", "no-bytes"])
def test_foreign_models(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    names = write_export(foreign(name), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    shutil.copy(foreign(name), tmp_path / "tokenizer.model")
    assert verify(tmp_path, TEXTS) == len(TEXTS)
