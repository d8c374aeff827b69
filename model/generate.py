"""Text from a trained model: keys and values are kept, tokens drawn by temperature and top-p (`curate generate`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from curate.errors import RecipeError, StoreError
from model.checkpoint import TOKENIZER, Checkpoint, find, load_weights, model_of
from model.llama import Transformer, attention_kernels
from model.parallel import device_of
from tokenizer.encode import Encoder

COLDEST = 1e-6  # below it a logit divided by it may be no number; only the most likely token has a share anyway
REPLACEMENT = "�"


@dataclass(frozen=True)
class Loaded:
    """A trained model and its tokenizer."""

    model: Transformer
    encoder: Encoder
    checkpoint: Checkpoint


def load(path: Path, device: str | None = None, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of a checkpoint or of a run's newest one. StoreError: missing or damaged."""
    found = find(path)
    where, model = device_of(device), model_of(found)
    model.load_state_dict(load_weights(found), assign=True)
    tokenizer = found.folder / TOKENIZER
    if not tokenizer.is_file():
        raise StoreError(f"{tokenizer}: missing")
    encoder = Encoder(tokenizer, sha256=str(found.record.get("tokenizer")))
    return Loaded(model.to(where, dtype).eval(), encoder, found)


@torch.no_grad()
def tokens(
    model: Transformer, prompt: list[int], n: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:  # fmt: skip
    """Up to `n` tokens that follow a prompt, one by one; ends before `stop` (EOS) or where the model's length ends.

    `temperature` 0 takes the most likely one. RecipeError: settings out of range, or a prompt that leaves no room.
    """
    if n < 1 or not 0 <= temperature < math.inf or not 0 < top_p <= 1 or not -(2**63) <= seed < 2**63:
        raise RecipeError("--max-tokens must be at least 1, --temperature at least 0, --top-p above 0 and at most "
                          "1, --seed of 64 bits")  # fmt: skip
    room = model.shape.length
    if not prompt or len(prompt) >= room:
        raise RecipeError(f"the prompt has {len(prompt):,} tokens; the model takes 1 to {room - 1:,}")
    device = model.tok_embeddings.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    cache = model.new_cache(1, min(room, len(prompt) + n))
    given = torch.tensor([prompt], device=device)
    with attention_kernels(device):
        for _ in range(min(n, room - len(prompt))):
            logits = model(given, cache=cache)
            assert isinstance(logits, Tensor)
            chosen = draw(logits[0, -1].float(), temperature, top_p, generator)
            if chosen == stop:
                return
            yield chosen
            given = torch.tensor([[chosen]], device=device)


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token of (V,) logits: from the fewest most likely ones that together have a share of `top_p`."""
    if not bool(torch.isfinite(logits).all()):
        raise StoreError("the model gives logits that are no numbers: its weights are damaged, or training diverged")
    if temperature < COLDEST:
        return int(logits.argmax())
    shares, order = (logits / temperature).softmax(-1).sort(descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    before[0] = -1.0  # the first one stays, however small `top_p` is in fp32
    shares = torch.where(before < top_p, shares, 0.0)
    return int(order[torch.multinomial(shares / shares.sum(), 1, generator=generator)])


def text(
    loaded: Loaded, prompt: str, n: int = 128, temperature: float = 0.8, top_p: float = 0.95, seed: int = 0
) -> Iterator[str]:
    """The text that follows a prompt, in pieces; what is no whole character waits for the next token."""
    encoder = loaded.encoder
    ids = encoder.encode(pa.array([prompt]))[0].as_py()
    if encoder.bos >= 0:
        ids = [encoder.bos, *ids]
    made: list[int] = []
    shown = whole = encoder.processor.decode(ids)
    for token in tokens(loaded.model, ids, n, temperature, top_p, seed, encoder.eos if encoder.eos >= 0 else None):
        made.append(token)
        whole = encoder.processor.decode(ids + made)  # of all: a piece alone would lose its leading space
        if whole.endswith(REPLACEMENT) and encoder.processor.is_byte(token):
            continue
        yield whole[len(shown) :]
        shown = whole
    if whole != shown:  # ends within a character
        yield whole[len(shown) :]
