"""A SentencePiece BPE model as `tokenizer.json`, for transformers and tokenizers.

Load the folder with `AutoTokenizer.from_pretrained`, which makes a `PreTrainedTokenizerFast`: its ids are
SentencePiece's (with BOS before them, as LLaMA's; `add_special_tokens=False` for the ids alone), and strings such as
`<s>` in a text stay text, since `split_special_tokens` is set.

The trap: the class `LlamaTokenizer` (and `LlamaTokenizerFast`) of transformers 5 does not use the file as it is. It
builds a pipeline of its own that treats leading spaces in another way: texts that begin with a space get other ids
(205 of the 206 that differed among 1,015; the other one began with U+2581). Of a model trained without the dummy prefix
(`curate tokenizer train --no-dummy-prefix`) this class, too, gives SentencePiece's ids; such a model departs from
LLaMA's in that a text's first word has no space before it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.errors import RecipeError, StageError
from tokenizer.encode import CONTROL, MARK, NORMAL, UNKNOWN, Encoder, read_model, unsupported

MAX_LENGTH = 2048  # LLaMA's context
README = """# Tokenizer

SentencePiece BPE with LLaMA's flags: `tokenizer.model`. `tokenizer.json` is the same model for transformers:

    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("{folder}")
    tokenizer("text", add_special_tokens=False).input_ids

{trap}
Strings such as `<s>` in a text are text (`split_special_tokens` is set). transformers' `save_pretrained` leaves
`tokenizer.model` out: copy it along, llama.cpp's converter reads it.
"""
TRAP = """**Do not load it with `LlamaTokenizer` or `LlamaTokenizerFast`.** In transformers 5 these classes build a
pipeline of their own: texts that begin with a space, as indented code does, get other ids than SentencePiece's.
`curate tokenizer train --no-dummy-prefix` makes a model that these classes, too, encode as SentencePiece does.
"""
NO_TRAP = """It was trained without the dummy prefix: `LlamaTokenizer`, too, encodes it as SentencePiece does.
"""


def write_export(model: Path, out: Path) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json and README.md of a model file into a folder; their names.

    RecipeError: the model has what tokenizer.json is not written for here.
    """
    _, proto = read_model(model)
    reason = unsupported(proto)
    if reason:
        raise RecipeError(f"{model}: no tokenizer.json can be written: {reason}")
    dummy = bool(proto.normalizer_spec.add_dummy_prefix)
    readme = README.format(folder="FOLDER", trap=TRAP if dummy else NO_TRAP)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_json(proto), ensure_ascii=False, indent=1) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(_config(proto), ensure_ascii=False, indent=1) + "\n")
    (out / "README.md").write_text(readme)
    return ["tokenizer.json", "tokenizer_config.json", "README.md"]


def tokenizer_json(proto: Any) -> dict[str, Any]:
    """The model as the tokenizers library reads it."""
    dummy, pieces = proto.normalizer_spec.add_dummy_prefix, proto.pieces
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    spaces = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if dummy else []
    model = {
        "type": "BPE", "dropout": None, "unk_token": _name(proto, UNKNOWN), "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": proto.trainer_spec.byte_fallback,
        "ignore_merges": False, "vocab": {p.piece: i for i, p in enumerate(pieces)}, "merges": merges(proto),
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": p.piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, p in enumerate(pieces) if p.type in (UNKNOWN, CONTROL)
        ],
        "normalizer": {
            "type": "Sequence", "normalizers": [*([{"type": "Prepend", "prepend": MARK}] if dummy else []), marks],
        },
        "pre_tokenizer": None,
        "post_processor": _processor(proto),
        "decoder": {
            "type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": model,
    }  # fmt: skip


def merges(proto: Any) -> list[list[str]]:
    """Pairs of pieces that make a piece, in the order in which they are merged: the piece's score, the longer left."""
    normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
    found = [
        (-score, -k, [piece[:k], piece[k:]])
        for piece, score in normal.items()
        for k in range(1, len(piece))
        if piece[:k] in normal and piece[k:] in normal
    ]
    return [pair for _, _, pair in sorted(found)]


def verify(folder: Path, texts: Sequence[str]) -> int:
    """Compare the ids that `tokenizers` gives for tokenizer.json with SentencePiece's; how many texts were compared.

    RecipeError: `tokenizers` is not installed. StageError: they differ.
    """
    if importlib.util.find_spec("tokenizers") is None:
        raise RecipeError("comparing tokenizer.json needs the package tokenizers: pip install tokenizers")
    import tokenizers

    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    ours = Encoder(folder / "tokenizer.model").processor
    for number, text in enumerate(texts):
        if theirs.encode(text, add_special_tokens=False).ids != ours.encode(text):
            raise StageError(f"{folder}/tokenizer.json: encodes text {number} otherwise than tokenizer.model")
    return len(texts)


def _name(proto: Any, kind: int, id: int | None = None) -> str | None:
    """Text of the piece of a kind with an id, or of the first one."""
    names = (p.piece for i, p in enumerate(proto.pieces) if p.type == kind and id in (None, i))
    return next(names, None)


def _processor(proto: Any) -> dict[str, Any] | None:
    """BOS before every text, where the model has one."""
    bos_id = proto.trainer_spec.bos_id
    bos = _name(proto, CONTROL, bos_id)
    if bos is None:
        return None
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    second = {"SpecialToken": {"id": bos, "type_id": 1}}
    a, b = ({"Sequence": {"id": x, "type_id": i}} for i, x in enumerate("AB"))
    return {
        "type": "TemplateProcessing", "single": [first, a], "pair": [first, a, second, b],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }  # fmt: skip


def _config(proto: Any) -> dict[str, Any]:
    """What `AutoTokenizer` reads first."""
    trainer = proto.trainer_spec
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _name(proto, CONTROL, trainer.bos_id),
        "eos_token": _name(proto, CONTROL, trainer.eos_id),
        "unk_token": _name(proto, UNKNOWN),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": bool(proto.normalizer_spec.add_dummy_prefix),
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
    }
