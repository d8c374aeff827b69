"""LLaMA as published (arXiv 2302.13971 section 2.2), with Meta's names and layout of weights.

Pre-normalised with RMSNorm in fp32, rotary embeddings of adjacent pairs, SwiGLU, no biases, untied embeddings, grouped
key-value heads for the Llama 2 shapes.

Shapes: B rows, T tokens, D = dim, H heads, K key-value heads, d = head_dim, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.head_loss import head_loss
from model.recompute import recomputed
from model.shapes import Shape

INIT_STD = 0.02  # the paper gives no initialisation; this is GPT-2's, outputs of a residual branch scaled by its depth


@dataclass
class LayerCache:
    """Keys and values of one layer that generation has seen."""

    keys: Tensor  # (B, room, K, d)
    values: Tensor  # (B, room, K, d)
    used: int = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, T, K, d) and give all of them."""
        end = self.used + k.shape[1]
        self.keys[:, self.used : end], self.values[:, self.used : end] = k, v
        self.used = end
        return self.keys[:, :end], self.values[:, :end]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight, in fp32, cast back before the weight as in Meta's code."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).type_as(x) * self.weight


def rope_tables(head_dim: int, length: int, theta: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (length, d / 2) fp32: the angle of pair i at place t is t * theta^(-2i / d)."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), inverse)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent pairs (2i, 2i + 1) of (B, T, H, d) by the angles of (T, d / 2), in fp32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with rotary embeddings."""

    wqkv: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = d = shape.head_dim
        self.grouped = shape.n_heads != shape.n_kv_heads
        self.wq = nn.Linear(shape.dim, shape.n_heads * d, bias=False)
        self.wk = nn.Linear(shape.dim, shape.n_kv_heads * d, bias=False)
        self.wv = nn.Linear(shape.dim, shape.n_kv_heads * d, bias=False)
        self.wo = nn.Linear(shape.n_heads * d, shape.dim, bias=False)
        object.__setattr__(self, "wqkv", None)  # all three as one matrix, where model.flat has laid them so

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.wqkv is None:
            q, k, v = self.wq(x), self.wk(x), self.wv(x)
        else:
            sizes = [self.wq.out_features, self.wk.out_features, self.wv.out_features]
            q, k, v = F.linear(x, self.wqkv).split(sizes, -1)
        q, k, v = (
            y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v)
        )  # a tensor-parallel rank has its heads alone
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        causal, mask = True, None
        if cache is not None:
            causal, mask = cache.used == 0, _mask(q.shape[1], cache.used, q.device)
            k, v = cache.extend(k, v)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, is_causal=causal, enable_gqa=self.grouped
        )
        return self.wo(attended.transpose(1, 2).flatten(2))


def _mask(n: int, before: int, device: torch.device) -> Tensor | None:
    """What n new places may see behind `before` old ones; None where that is all, or plainly causal."""
    if before == 0 or n == 1:
        return None
    return torch.ones(n, before + n, dtype=torch.bool, device=device).tril(before)


class FeedForward(nn.Module):
    """w2(SiLU(w1 x) * w3 x)."""

    w13: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.w2 = nn.Linear(shape.ffn_dim, shape.dim, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        object.__setattr__(self, "w13", None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate, up = (self.w1(x), self.w3(x)) if self.w13 is None else F.linear(x, self.w13).chunk(2, -1)
        return self.w2(F.silu(gate) * up)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.feed_forward = FeedForward(shape)
        self.attention_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.ffn_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.recompute = "none"

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self._trained(x, cos, sin) if cache is None else self._forward(x, cos, sin, cache)

    def compile(self) -> None:
        """Compile the pass without a cache, once for all layers. FSDP's hooks stay outside, recomputing inside."""
        object.__setattr__(self, "_trained", torch.compile(self._trained, fullgraph=True, dynamic=False))

    def _trained(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.recompute != "none" and torch.is_grad_enabled():
            return recomputed(self.recompute, self._forward, x, cos, sin)
        return self._forward(x, cos, sin)

    def _forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        h = x + self.attention(self.attention_norm(x), cos, sin, cache)
        return h + self.feed_forward(self.ffn_norm(h))


class Transformer(nn.Module):
    """The model. `layers` is keyed by number, so that names are Meta's: layers.0.attention.wq.weight."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocabulary, shape.dim)
        self.layers = nn.ModuleList(TransformerBlock(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.dim, shape.norm_eps)
        self.output = nn.Linear(shape.dim, shape.vocabulary, bias=False)
        self._rope: tuple[Tensor, Tensor] | None = None

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cache: list[LayerCache] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of (B, T) tokens, or (sum of losses, losses (B, T) in nats) where targets are given.

        A target below zero is not counted. With a `cache` the tokens follow those that it holds.
        """
        start = cache[0].used if cache else 0
        cos, sin = (table[start : start + tokens.shape[1]] for table in self._tables(tokens.device))
        h = self.tok_embeddings(tokens)
        if type(h) is not Tensor:  # of a collective under way: a compiled layer would give it no gradient (torch 2.13)
            h = h.clone()
        for i, layer in enumerate(self.layers):
            h = layer(h, cos, sin) if cache is None else layer(h, cos, sin, cache[i])
        h = self.norm(h)
        return self.output(h) if targets is None else head_loss(h, self.output.weight, targets)

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._rope is None or self._rope[0].device != device:  # for twice the length, as in Meta's code
            self._rope = rope_tables(self.shape.head_dim, 2 * self.shape.length, self.shape.rope_theta, device)
        return self._rope

    def new_cache(self, rows: int, room: int) -> list[LayerCache]:
        """An empty cache for `room` tokens of each row."""
        weight = self.tok_embeddings.weight
        size = (rows, room, self.shape.n_kv_heads, self.shape.head_dim)
        return [
            LayerCache(weight.new_empty(size), weight.new_empty(size)) for _ in range(self.shape.n_layers)
        ]  # what is not yet written is never read


def initial(shape: Shape, name: str, like: Tensor, seed: int) -> Tensor:
    """First value of a parameter, whole, on the device of `like`: a function of its name and the seed alone.

    So a model begins the same however it is spread over processes. Norms are ones.
    """
    if name.endswith("norm.weight"):
        return torch.ones_like(like)
    generator = torch.Generator(like.device).manual_seed(_seed_of(name, seed))
    std = INIT_STD
    if name.endswith(("attention.wo.weight", "feed_forward.w2.weight")):
        std /= math.sqrt(2 * shape.n_layers)
    return torch.empty_like(like, dtype=torch.float32).normal_(0.0, std, generator=generator).to(like.dtype)


def _seed_of(name: str, seed: int) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "little") >> 1


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Set all parameters to their first values."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial(model.shape, name, parameter, seed))


@contextmanager
def attention_kernels(device: torch.device) -> Iterator[str]:
    """Attention kernels by preference, for the calls inside; gives what was chosen, for the log.

    None of them keeps the weights or computes masked scores; the plain one, which does, comes last. On Hopper cuDNN is
    1.7 to 2.3 times as fast as FlashAttention 2 (trainer.md 3), elsewhere torch's own order holds.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0):
        order = [
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.MATH,
        ]
        with sdpa_kernel(order, set_priority=True):
            yield "cudnn, flash, efficient, math"
    else:
        yield "torch's own order"
