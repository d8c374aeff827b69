"""The ids are SentencePiece's, whatever the text and the model."""

from __future__ import annotations

import functools
import gzip
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from curate.errors import RecipeError, SourceError, StageError
from curate.kernels import bpe
from tests.tokenizer import LANGUAGES, changed, checkout, foreign, trained
from tokenizer import encode
from tokenizer.encode import Encoder, check

SPECIALS = ["<s>", "</s>", "<unk>", "<0x41>", "<0x0A>", "<pad>", "<sep>", "[CLS]", "<|im_start|>", "＜s＞", "</ s>"]
PARTS = [
    *SPECIALS, " ", "  ", " " * 15, " " * 31, " " * 64, "\t", "\n", "\n\n", "\r\n", "\0", "\u2581", "\u2581\u2581",
    "the", "The", "return", "    return self", "def ", "x", "'s", "don’t", "…", "“", "0", "2019", "3.14", "１２", "٣",
    "e\u0301", "\u0300" * 20, "é", "ß", "Съешь", "булок", "東京", "首都です。", "北京", "국민은", "القديم", "լեզվով",
    "😀", "👍🏽", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u200b", "\u2585", "\ufeff", "\ufffd", "\u0378",
    "\ue000", "\U000e0041", "\U0010ffff", "ﷺ", "a" * 40, "=" * 33, "-" * 16, "https://a.b/c?d=e&f",
    "aGVsbG8gd29ybGQ", "%%%", "://", "_", "__init__", "np.int64", "\x1b[2J", "\u202e", "\xa0", "\u3000", "\u2003",
]  # fmt: skip
HOSTILE = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6)), max_size=24).map("".join)
CONTROL = 3


@functools.cache
def encoder(name: str) -> Encoder:
    if name == "llama":
        return Encoder(trained() / "tokenizer.model")
    if name == "wide":
        return Encoder(trained() / "tokenizer.model", pa.uint32())
    if name == "no-prefix":
        return Encoder(trained(dummy_prefix=False) / "tokenizer.model")
    return Encoder(foreign(name))


def ids(made: Encoder, texts: list[str], **options: bool) -> list[list[int]]:
    found: list[list[int]] = made.encode(pa.array(texts, pa.large_string()), **options).to_pylist()
    return found


KERNEL = ("llama", "wide", "no-prefix", "no-bytes", "across-words", "no-specials", "more-specials")
LIBRARY = ("user-defined", "normalising", "trimming", "suffix", "unigram")


@pytest.mark.parametrize("name", KERNEL)
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=6))
def test_hostile_unicode(name: str, texts: list[str]) -> None:
    made = encoder(name)
    assert made.reason == ""
    expected = made.processor.encode(texts)
    assert ids(made, texts) == expected
    assert ids(made, texts) == expected, "the second time units come from the tables"
    assert check(made, pa.array(texts, pa.large_string())) == len(texts)


@pytest.mark.parametrize("name", LIBRARY)
def test_what_the_kernel_cannot_run_the_library_runs(name: str) -> None:
    made = encoder(name)
    texts = ["", *PARTS, " ".join(PARTS), LANGUAGES[:500]]
    assert made.reason
    assert ids(made, texts) == made.processor.encode(texts)


@pytest.mark.parametrize("name", KERNEL)
def test_code_and_languages(name: str) -> None:
    made, texts = encoder(name), [*checkout()[:40], LANGUAGES]
    assert ids(made, texts) == made.processor.encode(texts)


@pytest.mark.parametrize("name", ["llama", "no-prefix"])
def test_real_text(name: str, shared_data: Path) -> None:
    made = encoder(name)
    files = sorted((shared_data / "lm_text").glob("*.txt.gz")) + sorted((shared_data / "c4").rglob("*.json.gz"))
    texts = [gzip.open(f).read(60_000).decode("utf-8", "ignore") for f in files]
    texts += [
        f.read_bytes()[:60_000].decode("utf-8", "replace") for f in sorted((shared_data / "books").rglob("*.txt"))
    ]
    texts += [line for text in texts for line in text.split("\n")[:50]]
    assert len(files) > 13
    assert ids(made, texts) == made.processor.encode(texts)


def test_every_length_of_a_run() -> None:
    for name in ("llama", "no-prefix", "across-words"):
        texts = [c * n + tail for c in " a=\n0é東😀" for n in range(70) for tail in ("", "x", " ")]
        assert ids(encoder(name), texts) == encoder(name).processor.encode(texts)


def test_units_at_the_end_of_a_buffer() -> None:
    made = encoder("llama")
    for n in range(1, 40):
        text = "x" * 40 + "return the value of it"[:n]
        assert ids(made, [text[-n:]]) == made.processor.encode([text[-n:]])
        assert ids(made, [text]) == made.processor.encode([text])


@pytest.mark.parametrize("alphabet", ["a", "ab", "=-", "abcdefghijklmnopqrstuvwxyz", " ", "東京都", "0", "\u0300"])
def test_a_word_of_a_megabyte(alphabet: str) -> None:
    made, rng = encoder("across-words"), random.Random(1)
    text = "".join(rng.choices(alphabet, k=(1 << 20) // len(alphabet[0].encode())))
    assert ids(made, ["before", text, "after"]) == made.processor.encode(["before", text, "after"])
    assert len(made._prefixed) == encode.ROOM + 64, "room for a long word is given back"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_heap_merges_as_the_scan(data: st.DataObject) -> None:
    pairs = encoder("across-words")._model[3]
    some = st.integers(-3, 400)
    symbols = np.array(data.draw(st.lists(some, min_size=1, max_size=60)), np.int32)
    n, room = len(symbols), len(symbols)
    one, other = symbols.copy(), symbols.copy()
    ranks, after, before, heap = (*(np.empty(room, np.int32) for _ in range(3)), np.empty(2 * room, np.uint64))
    left = bpe._scan(n, pairs, one, ranks)
    assert left == bpe._heaped(n, pairs, other, ranks, after, before, heap)
    assert one[:left].tolist() == other[:left].tolist()


def test_full_tables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "SHORT_BYTES", 256)
    monkeypatch.setattr(encode, "LONG_BYTES", 128)
    made = Encoder(trained() / "tokenizer.model")
    texts = [*checkout()[:10], LANGUAGES] * 2
    assert ids(made, texts) == made.processor.encode(texts)


@pytest.mark.parametrize("name", ["llama", "no-prefix", "no-bytes", "user-defined"])
def test_strings_of_special_tokens_are_text(name: str) -> None:
    made = encoder(name)
    never = {made.bos, made.eos} | {i for i in range(made.size) if made.processor.is_control(i)}
    for text in [*SPECIALS, " ".join(SPECIALS), "".join(SPECIALS)]:
        found = ids(made, [text])[0]
        assert never.isdisjoint(found), text
        assert found == made.processor.encode(text)
    raw = {made.processor.piece_to_id(f"<0x{b:02X}>") for b in b"A\n"} if name == "llama" else set()
    assert raw.isdisjoint(ids(made, ["<0x41><0x0A>"])[0])


def test_bos_and_eos() -> None:
    made = encoder("llama")
    plain = made.processor.encode("a b")
    assert ids(made, ["a b", ""], bos=True, eos=True) == [[1, *plain, 2], [1, 2]]
    assert ids(made, ["a b", ""], bos=True) == [[1, *plain], [1]]
    assert ids(made, ["a b"], eos=True) == [[*plain, 2]]
    library = encoder("unigram")
    assert ids(library, ["a b"], bos=True, eos=True) == [[1, *library.processor.encode("a b"), 2]]
    for option in ({"bos": True}, {"eos": True}):
        with pytest.raises(RecipeError, match="has no (BOS|EOS) piece"):
            ids(encoder("no-specials"), ["a"], **option)


def test_columns_of_any_shape() -> None:
    made = encoder("llama")
    texts = [*checkout()[:3], "", LANGUAGES, "▁ here and  there", "x"]
    expected = made.processor.encode(texts)
    whole = pa.array(texts, pa.large_string())
    assert made.encode(whole[2:]).to_pylist() == expected[2:], "a slice"
    assert made.encode(pa.chunked_array([whole[:3], whole[3:]])).to_pylist() == expected
    assert made.encode(pa.array(texts, pa.string())).to_pylist() == expected
    assert made.encode(pa.array([None, "x"], pa.large_string())).to_pylist() == [[], expected[-1]]
    assert made.encode(pa.array([], pa.large_string())).to_pylist() == []
    assert encoder("unigram").encode(pa.array([], pa.large_string())).to_pylist() == []


def test_ids_have_the_type_of_the_vocabulary() -> None:
    assert made_type("llama") == pa.large_list(pa.uint16())
    assert made_type("wide") == pa.large_list(pa.uint32())
    with pytest.raises(RecipeError, match="there is uint16 and uint32"):
        Encoder(trained() / "tokenizer.model", pa.int32())


def made_type(name: str) -> pa.DataType:
    return encoder(name).encode(pa.array(["a"], pa.large_string())).type


def test_a_vocabulary_beyond_uint16() -> None:
    def enlarge(proto: Any) -> None:
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        known = {p.piece for p in proto.pieces}
        more = (a + b + c for a in letters for b in letters for c in letters)
        lowest = min(p.score for p in proto.pieces)
        for n, piece in enumerate(x for x in more if x not in known):
            proto.pieces.add(piece=piece, score=lowest - 1 - n, type=1)

    path = changed(trained() / "tokenizer.model", "large", enlarge)
    made = Encoder(path)
    assert made.size > 1 << 17 and made.type == pa.uint32() and made.reason == ""
    texts = [*checkout()[:10], LANGUAGES, "qzX Qxj ZZZ"]
    found = ids(made, texts)
    assert found == made.processor.encode(texts) and max(map(max, found)) > 65535
    with pytest.raises(RecipeError, match="do not fit uint16"):
        Encoder(path, pa.uint16())


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("tie", lambda p: setattr(p.pieces[300], "score", p.pieces[301].score), "two pieces have one score"),
        ("unused", lambda p: setattr(p.pieces[300], "type", 5), "user-defined or unused"),
        ("orphan", lambda p: p.pieces.add(piece="ᚠᚢ", score=-9999, type=1), "a character that is no piece"),
        ("spaced", lambda p: p.pieces.add(piece="a b", score=-9999, type=1), "a plain space"),
        ("plain", lambda p: setattr(p.normalizer_spec, "escape_whitespaces", False), "does not escape"),
    ],
)
def test_odd_models_are_left_to_the_library(name: str, change: Any, reason: str) -> None:
    made = Encoder(changed(trained() / "tokenizer.model", name, change))
    assert reason in made.reason
    texts = [*checkout()[:2], LANGUAGES, "ᚠᚢ a b"]
    assert ids(made, texts) == made.processor.encode(texts)


def test_a_control_piece_of_one_character_is_refused() -> None:
    def inject(proto: Any) -> None:
        piece = next(p for p in proto.pieces if p.piece == "x")
        piece.type = CONTROL

    path = changed(trained() / "tokenizer.model", "injected", inject)
    with pytest.raises(SourceError, match="control piece 'x' is a character that texts may have"):
        Encoder(path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"hello world, this is no model", "proto": b"\x0a\x02\x08\x01"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match="not a SentencePiece model"):
            Encoder(tmp_path / name)
    with pytest.raises(SourceError, match="No such file"):
        Encoder(tmp_path / "missing")


def test_pickled_as_its_path(tmp_path: Path) -> None:
    path = tmp_path / "copy.model"
    path.write_bytes((trained() / "tokenizer.model").read_bytes())
    made = Encoder(path)
    data = pickle.dumps(made)
    assert len(data) < 1000
    assert ids(pickle.loads(data), ["a b c"]) == ids(made, ["a b c"])
    path.write_bytes((trained(dummy_prefix=False) / "tokenizer.model").read_bytes())
    with pytest.raises(SourceError, match="the model has changed"):
        pickle.loads(data)


def test_check_finds_a_wrong_id() -> None:
    made = Encoder(trained() / "tokenizer.model")
    column = pa.array(checkout()[:5], pa.large_string())
    assert check(made, column, sample=3) == 3
    assert check(made, column[:0]) == 0
    made._model[4][:50] += 1
    made._kept[0][:] = 0
    made._kept[1][:] = 0
    with pytest.raises(StageError, match="are not SentencePiece's"):
        check(made, column)


@pytest.mark.parametrize("name", ["llama", "no-prefix", "wide"])
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=5))
def test_texts_come_back(name: str, texts: list[str]) -> None:
    made = encoder(name)
    found = made.encode(pa.array(texts, pa.large_string()), bos=True, eos=True)
    assert made.decode(found).to_pylist() == [text.replace("\u2581", " ") for text in texts]
    assert made.decode(found[1:]).to_pylist() == [text.replace("\u2581", " ") for text in texts[1:]]
    if name != "wide":
        assert made.decode(found).to_pylist() == [made.processor.decode(x) for x in found.to_pylist()]


def test_ids_that_are_no_text() -> None:
    made = encoder("llama")
    half = made.processor.piece_to_id("<0xC3>")
    with pytest.raises(SourceError, match="no UTF-8"):
        made.decode(pa.array([[half]], pa.large_list(pa.uint16())))
    with pytest.raises(SourceError, match="has 2500 pieces"):
        made.decode(pa.array([[2500]], pa.large_list(pa.uint16())))
    assert made.decode(pa.array([], pa.large_list(pa.uint16()))).to_pylist() == []
    assert made.decode(pa.array([[0, 1, 2]], pa.large_list(pa.uint16()))).to_pylist() == ["⁇ "]


def test_messages_of_models_are_made_at_run_time() -> None:
    assert {"NORMAL": 1, "CONTROL": 3, "BYTE": 6}.items() <= dict(
        sentencepiece_model_pb2.ModelProto.SentencePiece.Type.items()
    ).items()
