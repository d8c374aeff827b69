"""Sizes of the models, published ones and small ones; their parameters and floating-point operations (no torch).

Sizes are those of LLaMA (arXiv 2302.13971, Table 2) and Llama 2 (arXiv 2307.09288, Table 1); eps and the feed-forward
widths come from the released `params.json`. `debug`, `160m` and `1b` are ours, by the same rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate.errors import RecipeError, near

MOST = {
    "dim": 1 << 20,
    "n_layers": 1 << 14,
    "n_heads": 1 << 16,
    "n_kv_heads": 1 << 16,
    "multiple_of": 1 << 20,
    "vocabulary": 1 << 26,
    "length": 1 << 24,
}  # far above all that was ever trained; more is a slip of the pen
ABOVE_ZERO = {"ffn_multiplier": 64.0, "norm_eps": 1.0, "rope_theta": 1e12, "lr": 1e9}  # and at most that


@dataclass(frozen=True)
class Shape:
    """What a model is made of, and the learning rate that its size was trained with."""

    name: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int = 0  # 0: as many as heads
    ffn_multiplier: float = 1.0  # of the 2/3 rule; Llama 2 70B has 1.3
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of this
    vocabulary: int = 32_000
    length: int = 2048  # tokens that the model was made for
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    lr: float = 3e-4  # peak
    released: str = ""  # what Meta calls it

    def __post_init__(self) -> None:
        kv = self.n_kv_heads or self.n_heads
        if wrong := self._out_of_range():
            raise RecipeError(f"not a model's shape: {wrong}")
        object.__setattr__(self, "n_kv_heads", kv)
        if self.dim % self.n_heads or self.head_dim % 2 or self.n_heads % kv or self.head_dim < 2:
            raise RecipeError(f"{self.name}: {self.dim} wide with {self.n_heads} heads and {kv} key-value heads is no "
                              "shape: heads divide the width into even parts, key-value heads the heads")  # fmt: skip

    def _out_of_range(self) -> str:
        """The first field that is no number of its kind, as a file may give it; "" where all are."""
        if not isinstance(self.name, str) or not self.name.isprintable() or len(self.name) > 100:
            return "name must be a short text"
        for field, most in MOST.items():
            value, least = getattr(self, field), int(field != "n_kv_heads")
            if type(value) is not int or not least <= value <= most:
                return f"{field} is {str(value)[:40]!r}, must be a whole number from {least} to {most:,}"
        for field, limit in ABOVE_ZERO.items():
            given = getattr(self, field)
            if type(given) not in (int, float) or not (0 < given <= limit and math.isfinite(given)):
                return f"{field} is {str(given)[:40]!r}, must be a number above 0, at most {limit:g}"
        return ""

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer: 2/3 of 4 * dim (section 2.2), times the multiplier, rounded up."""
        width = int(self.ffn_multiplier * int(2 * 4 * self.dim / 3))
        return -(-width // self.multiple_of) * self.multiple_of

    @property
    def parameters(self) -> int:
        """All of them, exactly."""
        return self.n_layers * self.layer_parameters + 2 * self.vocabulary * self.dim + self.dim

    @property
    def layer_parameters(self) -> int:
        """Of one layer, its two norms included."""
        attention = 2 * self.dim * (self.n_heads + self.n_kv_heads) * self.head_dim
        return attention + 3 * self.dim * self.ffn_dim + 2 * self.dim

    def flops_a(self, length: int) -> int:
        """Floating-point operations a token of training, the usual count: 6 N + 12 L d T (PaLM, appendix B)."""
        return 6 * self.parameters + 12 * self.n_layers * self.dim * length

    def flops_b(self, length: int) -> int:
        """The exact causal count: no look-up of embeddings, no masked scores: 6 (N - V d) + 6 L d T."""
        return 6 * (self.parameters - self.vocabulary * self.dim) + 6 * self.n_layers * self.dim * length

    def record(self) -> dict[str, Any]:
        """As JSON; `shape_of` reads it."""
        return {
            "name": self.name, "dim": self.dim, "n_layers": self.n_layers, "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads, "ffn_multiplier": self.ffn_multiplier, "multiple_of": self.multiple_of,
            "vocabulary": self.vocabulary, "length": self.length, "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta, "lr": self.lr,
        }  # fmt: skip


def shape_of(record: Mapping[str, Any]) -> Shape:
    """A shape as `record` wrote it. RecipeError: it is none."""
    try:
        return Shape(**record)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"not a model's shape: {error}") from None


SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("7b", 4096, 32, 32, released="LLaMA 7B"),
        Shape("13b", 5120, 40, 40, released="LLaMA 13B"),
        Shape("33b", 6656, 60, 52, lr=1.5e-4, released="LLaMA 33B (the folder 30B)"),
        Shape("65b", 8192, 80, 64, norm_eps=1e-5, lr=1.5e-4, released="LLaMA 65B"),
        Shape("llama2-7b", 4096, 32, 32, length=4096, norm_eps=1e-5, released="Llama 2 7B"),
        Shape("llama2-13b", 5120, 40, 40, length=4096, norm_eps=1e-5, released="Llama 2 13B"),
        Shape("llama2-70b", 8192, 80, 64, 8, 1.3, 4096, length=4096, norm_eps=1e-5, lr=1.5e-4, released="Llama 2 70B"),
        Shape("1b", 2048, 24, 16),  # 1.35 B
        Shape("160m", 768, 16, 12, lr=6e-4),  # 162 M
        Shape("debug", 256, 4, 4, lr=2e-3),  # 3.4 M and twice the vocabulary's table; a minute on a laptop
    )
}


def _from_file(path: Path) -> Shape:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or error
        raise RecipeError(f"--model {path}: cannot be read: {said}") from None
    if not isinstance(record, dict):
        raise RecipeError(f'--model {path}: must hold the fields of a shape, such as {{"dim": 512, ...}}')
    return shape_of({"name": path.stem, **record})


def find_shape(name: str, vocabulary: int, length: int) -> Shape:
    """A shape by name or from a .json file of its fields, for `vocabulary` pieces and rows of `length` tokens."""
    if name.endswith(".json"):
        found = _from_file(Path(name))
    elif name in SHAPES:
        found = SHAPES[name]
    else:
        raise RecipeError(f"--model {name}: there is no such model{near(name, SHAPES)}; a .json file gives one's own")
    return replace(found, vocabulary=vocabulary, length=max(length, found.length))
