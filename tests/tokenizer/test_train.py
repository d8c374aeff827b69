"""Training: LLaMA's flags, a sample that follows weights and seed alone, the same file every time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from curate.errors import RecipeError
from curate.schema import DOCUMENT, doc_id
from curate.store import Attempt, Corpus
from tests.tokenizer import LANGUAGES, ROOT, checkout, trained
from tokenizer.train import BLOCK, WEIGHTS, Tables, plan_sample, sample_lines, tables_of, train

# design/recipes.md 9, as SentencePiece shows it.
LLAMA = {
    "model_type": 2, "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
    "split_by_unicode_script": True, "split_by_whitespace": True, "split_by_number": True,
    "treat_whitespace_as_suffix": False, "hard_vocab_limit": True, "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True, "max_sentence_length": 4192, "max_sentencepiece_length": 16,
    "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "unk_surface": " \u2047 ",
}  # fmt: skip
RULES = {"name": "identity", "precompiled_charsmap": b"", "add_dummy_prefix": True, "remove_extra_whitespaces": False}


def proto_of(folder: Path) -> Any:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    return proto


def words(n: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=rng.randint(1, 8))) for _ in range(n))


def documents(texts: list[str], size: int = 3) -> Tables:
    """Texts as tables of a few rows, with ids that depend on the text alone."""

    def tables() -> Iterator[pa.Table]:
        for i in range(0, len(texts), size):
            part = texts[i : i + size]
            ids = [doc_id("commoncrawl", "file", t[:50]) for t in part]
            yield pa.table({"doc_id": ids, "text": pa.array(part, pa.large_string())})

    return tables


def sample(sources: dict[str, Tables], sample_bytes: int, seed: int = 0, dummy: bool = True, **more: Any) -> list[str]:
    shares = plan_sample(sources, more.get("weights"), sample_bytes, seed)
    return list(sample_lines(sources, shares, seed, dummy))


def test_the_flags_are_llamas() -> None:
    proto = proto_of(trained())
    assert {name: getattr(proto.trainer_spec, name) for name in LLAMA} == LLAMA
    assert {name: getattr(proto.normalizer_spec, name) for name in RULES} == RULES
    assert proto.trainer_spec.character_coverage == pytest.approx(0.99995)
    assert proto.trainer_spec.vocab_size == len(proto.pieces) == 2500


def test_pieces_are_as_llamas() -> None:
    pieces = [p.piece for p in proto_of(trained()).pieces]
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    assert pieces[3:259] == [f"<0x{b:02X}>" for b in range(256)]
    first_character = next(i for i in range(259, len(pieces)) if len(pieces[i]) == 1)
    assert all(len(p) == 1 for p in pieces[first_character:]), "merges first, then characters"
    assert pieces[first_character] == "▁"
    assert any(set(p) == {"▁"} and len(p) > 1 for p in pieces), "pieces of white space alone"
    assert not any(c.isdigit() and len(p) > 1 for p in pieces[259:] for c in p)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained() / "tokenizer.model"))
    assert processor.encode("\n")[-1] == 13, "a line feed is a byte"


def test_the_same_file_whatever_process_files_and_order(tmp_path: Path) -> None:
    texts = [*checkout(), LANGUAGES]
    first = train({"commoncrawl": documents(texts)}, tmp_path / "a", vocab_size=1500, sample_bytes=300_000)
    again = train(
        {"commoncrawl": documents(texts[::-1], size=7)}, tmp_path / "b", vocab_size=1500, sample_bytes=300_000
    )
    assert first == again
    other = train({"commoncrawl": documents(texts)}, tmp_path / "c", vocab_size=1500, sample_bytes=300_000, seed=1)
    assert other["sha256"]["tokenizer.model"] != first["sha256"]["tokenizer.model"]
    code = "import json, sys; from pathlib import Path; from tests.tokenizer.test_train import *; "
    code += "print(json.dumps(train({'c4': [words(9000, 1), LANGUAGES]}, Path(sys.argv[1]), vocab_size=900)))"
    shown = [
        subprocess.run([sys.executable, "-c", code, str(tmp_path / s)], cwd=ROOT, check=True, capture_output=True,
                       env={**os.environ, "PYTHONHASHSEED": s}).stdout
        for s in ("1", "2")
    ]  # fmt: skip
    assert shown[0] == shown[1]
    here = train({"c4": [words(9000, 1), LANGUAGES]}, tmp_path / "here", vocab_size=900)
    assert json.loads(shown[0])["sha256"] == here["sha256"]


def test_the_sample_follows_the_weights() -> None:
    sources = {name: documents([words(20_000, seed) for seed in range(i, i + 5)]) for i, name in enumerate(WEIGHTS)}
    shares = plan_sample(sources, None, 400_000, 0)
    for name, share in shares.items():
        assert share.sampled == pytest.approx(400_000 * WEIGHTS[name] / 100, abs=2 * BLOCK)
        size = sum(len(line) + 1 for line in sample({name: sources[name]}, share.wanted, weights={name: 1}))
        assert size == pytest.approx(share.sampled, rel=0.1, abs=4 * BLOCK)


def test_small_sources_are_read_again_and_not_forever() -> None:
    sources = {"books": documents(["a b c d"]), "c4": documents([words(3000, 1)])}
    shares = plan_sample(sources, {"books": 1, "c4": 1}, 20_000, 0)
    assert (shares["books"].sampled, shares["books"].whole) == (28, 4)
    assert shares["c4"].whole == 0
    lines = sample({"books": sources["books"]}, 14, weights={"books": 2})
    assert lines == ["a b c d"] * 2


def test_seeds_take_other_parts() -> None:
    sources = {"c4": documents([words(5000, seed) for seed in range(20)])}
    a, b = (set(sample(sources, 50_000, seed=seed)) for seed in (0, 1))
    assert a == set(sample(sources, 50_000, seed=0))
    assert len(a & b) < len(a) / 2


PIECES = ["word ", "\n", "é" * 700, "東" * 1500, "x" * 3000, " ", "a\nc ", "some words " * 200, "a line\n" * 300]


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=12))
def test_long_lines_are_split_and_nothing_is_lost(parts: list[str]) -> None:
    text = "begin" + "".join(parts) + "end"
    for dummy in (True, False):
        lines = sample({"c4": documents([text])}, len(text.encode()), dummy=dummy)
        assert all(len(line.encode()) <= 4192 - 3 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
        cuts = sum(1 for line in text.split("\n") if line)
        if not dummy:
            assert "".join(lines) == text.replace("\n", ""), "a space at a cut stays with its word"
        assert len(lines) <= cuts + len(text.encode()) // BLOCK + 1


def test_the_space_at_a_cut_is_there_once() -> None:
    text = words(3000, 1)
    lines = sample({"c4": documents([text])}, len(text))
    assert len(lines) > 3 and " ".join(lines) == text, "the trainer sets a space before each line"
    lines = sample({"c4": documents([text])}, len(text), dummy=False)
    assert "".join(lines) == text and all(line.startswith(" ") for line in lines[1:])


def test_a_line_that_sentencepiece_would_pass_over(tmp_path: Path) -> None:
    text = "\n".join(f"quixotic \u2585 {i}" for i in range(20))
    train({"c4": [text]}, tmp_path, vocab_size=400)
    assert "▁quixotic" in [p.piece for p in proto_of(tmp_path).pieces]


def test_too_small_a_sample_gives_fewer_pieces(tmp_path: Path) -> None:
    card = train({"c4": ["a tiny text, and no more of it"] * 3}, tmp_path)
    assert card["pieces"] < 400 and card["vocab_size"] == 32000
    assert card["note"] == f"{card['pieces']} pieces, not 32000: the sample gives no more"
    assert json.loads((tmp_path / "card.json").read_text()) == card
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*card["sha256"], "card.json"])


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({"c4": [""]}, {}, "no text to learn from in c4"),
        ({"c4": ["\n\n\n"]}, {}, "the sample holds no line"),
        ({}, {}, "weights must be numbers"),
        ({"mine": ["a b"]}, {}, "source 'mine' has no weight; give weights for what is there"),
        ({"c4": ["a b"]}, {"weights": {"c4": 1, "c5": 1}}, "weight of 'c5': no such source (there is: c4)"),
        ({"c4": ["a b"]}, {"weights": {"c4": 0}}, "weights must be numbers"),
        ({"c4": ["a b"]}, {"weights": {"c4": float("nan")}}, "weights must be numbers"),
        ({"c4": ["a b"]}, {"vocab_size": 100}, "vocab_size is 100, the characters and bytes alone"),
        ({"c4": ["a b"]}, {"vocab_size": 0}, "vocab_size is 0, must be at least 1"),
        ({"c4": ["a b"]}, {"sample_bytes": 0}, "sample_bytes is 0, must be at least 1"),
    ],
)
def test_mistakes(sources: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        train(sources, tmp_path, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def corpus_of(root: Path, sources: dict[str, list[str]]) -> Corpus:
    corpus = Corpus(root)
    for source, texts in sources.items():
        for i, text in enumerate(texts):
            row = {"doc_id": doc_id(source, "file", i), "source": source, "text": text, "lang": "en"}
            with Attempt(corpus.final(source), f"{i:012x}") as attempt:
                attempt.arrow("documents", DOCUMENT).write(pa.Table.from_pylist([row], DOCUMENT))
                attempt.commit({"fingerprint": "f"})
    corpus.save_manifest({"format": 1, "sources": {source: {} for source in sources}})
    return corpus


def test_a_corpus_on_disk(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    corpus = corpus_of(root, {"github": checkout()[:8], "wikipedia": [LANGUAGES]})
    card = train(corpus, tmp_path / "out", vocab_size=1000)
    assert sorted(card["sources"]) == ["github", "wikipedia"]
    assert card["weights"] == {"github": 0.5, "wikipedia": 0.5}
    assert train(root, tmp_path / "again", vocab_size=1000) == card


def wrong_folder(tmp_path: Path) -> Path:
    return tmp_path / "missing"


def empty_corpus(tmp_path: Path) -> Path:
    Corpus(tmp_path).save_manifest({"format": 1, "sources": {}})
    return tmp_path


@pytest.mark.parametrize(("make", "message"), [(wrong_folder, "is no corpus"), (empty_corpus, "no documents")])
def test_no_corpus(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        tables_of(make(tmp_path))
