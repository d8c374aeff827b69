"""A checkpoint as a folder for transformers (`curate export hf`), refused unless it reads back as the same model.

    OUT/config.json, generation_config.json, model*.safetensors (+ index), tokenizer.json, tokenizer_config.json,
    tokenizer.model, README.md

transformers rotates the halves of a head where Meta's layout rotates adjacent pairs: rows of wq and wk are permuted.
Before OUT gets its name, transformers loads it: its tokenizer must give SentencePiece's ids for every sampled text, and
its model the same logits as ours.
"""

from __future__ import annotations

import fcntl
import glob
import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from curate.errors import RecipeError, StageError, StoreError
from curate.store import disk_errors, sync_folder
from model.checkpoint import TOKENIZER, Checkpoint, find, load_weights, model_of, readable
from model.llama import Transformer
from model.shapes import Shape
from tokenizer.encode import Encoder, read_model
from tokenizer.export import NO_TRAP, TRAP, write_export

SHARD_BYTES = 5_000_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = 1e-5  # of fp32 logits, absolute up to a logit of 1, relative beyond
ROWS, ROW_TOKENS = 4, 256  # whose logits are compared
NAMES = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "tok_embeddings": "embed_tokens",
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written, and what was compared."""

    out: Path
    files: list[str]
    texts: int
    farthest: float  # of a logit from ours


def export(path: Path, out: Path, texts: Sequence[str], dtype: str = "float32") -> Exported:
    """Write the model of a checkpoint (or of a run's newest one) into a new folder and prove it.

    `texts`: documents that both tokenizers encode. RecipeError: OUT is there, transformers is not. StoreError: a
    damaged checkpoint. StageError: what was written is not the same model; OUT is not made.
    """
    if importlib.util.find_spec("transformers") is None:
        raise RecipeError("export hf proves its result with transformers: pip install 'curate-llama[hf]'")
    if dtype not in DTYPES:
        raise RecipeError(f"--dtype {dtype}: there is {', '.join(DTYPES)}")
    if not texts:
        raise RecipeError("there is no text to compare the tokenizers with")
    if out.is_symlink():
        raise RecipeError(f"{out}: is a link; give a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out}: is there already; give a new folder")
    found = find(path)
    with _part_of(out) as part:
        with disk_errors(out):
            write(found, part, DTYPES[dtype])
        farthest = verify(found, part, texts, DTYPES[dtype])
        with disk_errors(out):
            if out.is_dir():
                out.rmdir()
            os.rename(part, out)
            sync_folder(out.absolute().parent)
    return Exported(out, sorted(p.name for p in out.iterdir()), len(texts), farthest)


@contextmanager
def _part_of(out: Path) -> Iterator[Path]:
    """A new hidden folder beside `out`, removed at the end if it is still there; so are those of exports that died."""
    part = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}")
    with disk_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        for left in part.parent.glob(f".{glob.escape(out.name)}.{'[0-9a-f]' * 8}"):
            with suppress(FileNotFoundError), _locked(left) as dead:  # another export may remove it, too
                if dead:
                    shutil.rmtree(left)
        part.mkdir()
    try:
        with _locked(part):
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether no living process had locked it before; False, too, where folders cannot be locked (NFS)."""
    handle, free = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def write(found: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """All files, unproved."""
    shape = model_of(found).shape
    _write_weights(hf_weights(shape, load_weights(found), dtype), folder)
    bos, eos = _special(found)
    for name, value in (("config.json", config(shape, bos, eos, dtype)), ("generation_config.json", {
        "bos_token_id": bos, "eos_token_id": eos, "do_sample": True, "temperature": 0.8, "top_p": 0.95,
    })):  # fmt: skip
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    shutil.copyfile(found.folder / TOKENIZER, folder / TOKENIZER)
    write_export(folder / TOKENIZER, folder)
    try:
        (folder / "README.md").write_text(card(found, shape))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{found.folder}: not a checkpoint of a training: {error}") from None


def hf_name(name: str) -> str:
    """transformers' name of one of our parameters."""
    if name == "output.weight":
        return "lm_head.weight"
    for ours, theirs in NAMES.items():
        name = name.replace(f"{ours}.weight", f"{theirs}.weight")
    return f"model.{name}"


def hf_weights(shape: Shape, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(transformers' name, tensor) of each of ours."""
    for name, tensor in weights.items():
        if ".wq." in name or ".wk." in name:
            tensor = halves(tensor, shape.head_dim)
        yield hf_name(name), tensor.to(dtype).contiguous()


def halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of wq or wk from adjacent pairs to halves: (2i, 2i + 1) of a head become (i, i + d / 2)."""
    return rows.view(-1, head_dim // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def config(shape: Shape, bos: int, eos: int, dtype: torch.dtype) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocabulary,
        "hidden_size": shape.dim, "intermediate_size": shape.ffn_dim, "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads, "num_key_value_heads": shape.n_kv_heads, "head_dim": shape.head_dim,
        "hidden_act": "silu", "max_position_embeddings": shape.length, "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": bos, "eos_token_id": eos, "torch_dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip


def _special(found: Checkpoint) -> tuple[int, int]:
    encoder = Encoder(found.folder / TOKENIZER)
    return encoder.bos, encoder.eos


def _write_weights(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
        readable(folder / "model.safetensors")
        return
    placed: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        readable(folder / file)
        placed |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def card(found: Checkpoint, shape: Shape) -> str:
    """README.md of the folder: what the model is and where it comes from."""
    record, settings = found.record, found.record["settings"]
    proto = read_model(found.folder / TOKENIZER)[1]
    trap = TRAP if proto.normalizer_spec.add_dummy_prefix else NO_TRAP
    return f"""# {shape.name}

A LLaMA of {shape.parameters:,} parameters ({shape.n_layers} layers, {shape.dim} wide, {shape.n_heads} heads, \
{shape.vocabulary:,} tokens), trained by `curate train` for {found.step:,} of {settings["steps"]:,} steps of \
{record["length"]:,}-token rows; the data are those of mixture plan `{settings["plan"][:16]}`.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")

{trap}"""


def verify(found: Checkpoint, folder: Path, texts: Sequence[str], dtype: torch.dtype) -> float:
    """Load the folder with transformers and compare; the farthest a logit is from ours. StageError: another model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = Encoder(folder / TOKENIZER)
    theirs = AutoTokenizer.from_pretrained(str(folder))
    rows: list[list[int]] = []
    for number, text in enumerate(texts):
        ids = encoder.processor.encode(text)
        if theirs(text, add_special_tokens=False)["input_ids"] != ids:
            raise StageError(f"{folder}: transformers' tokenizer encodes text {number} otherwise than SentencePiece")
        rows += [[encoder.bos, *ids][:ROW_TOKENS]] if len(rows) < ROWS else []
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True).eval()
    ours = _ours(found, dtype)
    if sum(p.numel() for p in model.parameters()) != ours.shape.parameters:
        raise StageError(f"{folder}: transformers' model has another number of parameters")
    return max(_difference(folder, ours, model, row) for row in rows)


def _ours(found: Checkpoint, dtype: torch.dtype) -> Transformer:
    """Our model with weights rounded as they were written, in fp32."""
    model = model_of(found)
    weights = {name: tensor.to(dtype).float() for name, tensor in load_weights(found).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


@torch.no_grad()
def _difference(folder: Path, ours: Transformer, theirs: Any, row: list[int]) -> float:
    ids = torch.tensor([row])
    a, b = ours(ids), theirs(ids).logits
    assert isinstance(a, Tensor)
    difference = float((a - b).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(a.abs().max())):
        raise StageError(f"{folder}: transformers' logits differ from ours by {difference:.3g}")
    return difference


def sample_texts(corpus: Path, n: int = 10_000) -> list[str]:
    """Up to `n` documents of a corpus, as many of each source, the first ones of its units. StoreError: damaged."""
    from curate.store import Corpus

    found: list[str] = []
    sources = Corpus(corpus).sources()
    for i, source in enumerate(sources):
        room = (n - len(found)) // (len(sources) - i)
        for commit in Corpus(corpus).commits(source):
            reader = commit.open("documents")
            for b in range(reader.num_record_batches):
                if room <= 0:
                    break
                texts = reader.get_batch(b).column("text").slice(0, room).to_pylist()
                found, room = found + texts, room - len(texts)
    if not found:
        raise StoreError(f"{corpus}: has no documents")
    return found
