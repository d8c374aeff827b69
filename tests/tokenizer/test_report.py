"""The report of a tokenizer, its figures counted again by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sentencepiece

from curate.errors import RecipeError
from tests.tokenizer import LANGUAGES, changed, checkout, foreign, trained
from tokenizer.report import PUBLISHED, report, text

TEXTS = [*checkout()[:12], LANGUAGES]
MODEL = "tokenizer.model"


def facts(sources: Any, model: Path, **options: Any) -> dict[str, Any]:
    return report(sources, model, **options)


def test_figures() -> None:
    found = facts({"github": TEXTS}, trained() / MODEL)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained() / MODEL))
    tokens, size = sum(map(len, processor.encode(TEXTS))), sum(len(t.encode()) for t in TEXTS)
    github = found["sources"]["github"]
    assert (github["documents"], github["bytes"], github["tokens"]) == (len(TEXTS), size, tokens)
    assert github["bytes_per_token"] == round(size / tokens, 4)
    assert github["of_published"] == round(size / tokens / 3.33, 4)
    assert github["round_trip"] == {"exact": len(TEXTS), "marks": 0, "wrong": 0} and found["exact"]
    assert github["compared"] == 2
    assert found["digits"] == {"pieces": 10, "merged": 0}
    assert PUBLISHED["books"] == 3.01 and found["pieces"] == 2500


def test_common_words() -> None:
    for folder in (trained(), trained(dummy_prefix=False)):
        words = facts({"github": TEXTS}, folder / MODEL, words=40)["sources"]["github"]["words"]
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL))
        assert words["words"] == 40 and words["share"] == words["single"] / 40 > 0.5
        assert all(pieces.piece_to_id(f"▁{word}") == pieces.unk_id() for word in words["several"])


def test_languages() -> None:
    table = pa.table({
        "doc_id": ["a", "b", "c"], "lang": ["en", None, "en"],
        "text": pa.array(["one text", "zwei", "another one"], pa.large_string()),
    })  # fmt: skip
    found = facts({"c4": lambda: [table]}, trained() / MODEL)["sources"]["c4"]
    assert {lang: (x["documents"], x["bytes"]) for lang, x in found["languages"].items()} == {
        "en": (2, 19), "unknown": (1, 4),
    }  # fmt: skip
    assert sum(x["tokens"] for x in found["languages"].values()) == found["tokens"]


def test_what_does_not_come_back_is_told_apart() -> None:
    texts = ["plain", "a ▁ in the text"]
    found = facts({"c4": texts}, trained() / MODEL)
    assert found["sources"]["c4"]["round_trip"] == {"exact": 1, "marks": 1, "wrong": 0} and found["exact"]
    found = facts({"c4": [*texts, "Ｆｕｌｌ ｗｉｄｔｈ"]}, foreign("normalising"))
    assert found["sources"]["c4"]["round_trip"]["wrong"] >= 1 and not found["exact"]
    assert "WRONG" in text(found)


def test_merged_digits_are_found() -> None:
    def merge(proto: Any) -> None:
        proto.pieces.add(piece="42", score=-99999, type=1)

    assert facts({"c4": ["42"]}, changed(trained() / MODEL, "merged", merge))["digits"]["merged"] == 1


def test_a_sample_of_many_documents() -> None:
    many = [f"document number {i} with some words in it" for i in range(3000)]
    found = facts({"c4": many}, trained() / MODEL, sample_bytes=30_000)["sources"]["c4"]
    assert 30_000 <= found["bytes"] < 31_000
    assert found == facts({"c4": many[::-1]}, trained() / MODEL, sample_bytes=30_000)["sources"]["c4"]


def test_the_table() -> None:
    table = pa.table({"doc_id": ["a"], "lang": ["en"], "text": pa.array(["one text"], pa.large_string())})
    shown = text(facts({"c4": lambda: [table], "mine": ["another"]}, trained() / MODEL)).splitlines()
    assert shown[0] == "2,500 pieces; 0 of 10 with a digit hold more than it"
    assert [line.split()[0] for line in shown[1:]] == ["source", "c4", "en", "mine"]
    assert "3.95" in shown[2] and "1 exact" in shown[2]


def test_no_documents() -> None:
    with pytest.raises(RecipeError, match="no documents to report on in c4"):
        facts({"c4": []}, trained() / MODEL)
