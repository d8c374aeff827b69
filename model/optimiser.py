"""AdamW with a cosine schedule (arXiv 2302.13971 section 2.3), and steps that are left out without asking the device.

Weight decay is on matrices, not on the vectors of the norms; the paper does not say. The gradient is clipped to a norm
of 1.0. A step whose loss or gradient is not finite changes nothing, the count of steps for Adam's bias included.

`FlatAdamW` is for one process (model.flat), `ShardedAdamW` for DTensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.flat import Flat
from model.parallel import local_part
from model.split import join, split

PART = 1 << 30  # numbers that one launch updates: places in it fit 32 bits


@dataclass(frozen=True)
class Hyper:
    """Of the optimiser; the paper's numbers."""

    lr: float = 3e-4  # peak
    final_ratio: float = 0.1  # the cosine ends at this share of the peak
    warmup: int = 2000  # steps
    steps: int = 1000  # of the whole run
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8  # not in the paper; Llama 2 has 1e-5
    weight_decay: float = 0.1
    clip: float = 1.0

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: a line up to the peak at the end of warm-up, then a cosine to the last."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.lr * (self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True)
class Took:
    """What a step found; tensors stay on the device until somebody looks."""

    norm: Tensor  # of the gradient before clipping, fp32
    ok: Tensor  # bool: the step was made


def adamw_(
    weights: Tensor, m: Tensor, v: Tensor, gradient: Tensor, scalars: Tensor, decay: float, beta1: float, beta2: float,
    eps: float,
) -> None:  # fmt: skip
    """One step of fp32 weights in place, all of one shape; Inductor makes one pass of it on CUDA.

    `scalars` (5,) fp32: learning rate, factor of the gradient, 1 - beta1^t, 1 - beta2^t, and 1 where the step is made.
    """
    new, new_m, new_v = _stepped(weights, m, v, gradient, scalars, decay, beta1, beta2, eps)
    m.copy_(new_m)
    v.copy_(new_v)
    weights.copy_(new)


def adamw_split_(
    upper: Tensor, rest: Tensor, m: Tensor, v: Tensor, gradient: Tensor, scalars: Tensor, decay: float, beta1: float,
    beta2: float, eps: float,
) -> None:  # fmt: skip
    """The same for the two halves (int16) of fp32 weights; see model.split."""
    new, new_m, new_v = _stepped(join(upper, rest), m, v, gradient, scalars, decay, beta1, beta2, eps)
    new_upper, new_rest = split(new)
    m.copy_(new_m)
    v.copy_(new_v)
    upper.copy_(new_upper)
    rest.copy_(new_rest)


def _stepped(
    weights: Tensor, m: Tensor, v: Tensor, gradient: Tensor, scalars: Tensor, decay: float, beta1: float, beta2: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    lr, factor, correct1, correct2, made = scalars.unbind()
    g = gradient.float() * factor
    g = torch.where(made > 0, g, torch.zeros_like(g))  # what is not finite times 0 would not be 0
    new_m = m + (g - m) * (1 - beta1)
    new_v = v * beta2 + g * g * (1 - beta2)
    change = new_m / correct1 / ((new_v / correct2).sqrt() + eps) + decay * weights
    made = made > 0
    return torch.where(made, weights - lr * change, weights), torch.where(made, new_m, m), torch.where(made, new_v, v)


def norm_of(gradient: Tensor, block: int = 1 << 16) -> Tensor:
    """Euclidean norm of a long vector in fp32, block by block: one sum over millions is off by 1e-3 on a CPU."""
    whole = len(gradient) // block * block
    blocks = torch.linalg.vector_norm(gradient[:whole].view(-1, block), dim=1, dtype=torch.float32)
    rest = torch.linalg.vector_norm(gradient[whole:], dtype=torch.float32)
    return torch.linalg.vector_norm(torch.cat([blocks, rest[None]]))


class FlatAdamW:
    """Over the buffers of a `Flat`."""

    def __init__(self, flat: Flat, hyper: Hyper) -> None:
        self.flat, self.hyper = flat, hyper
        self.m, self.v = (torch.zeros_like(flat.weights, dtype=torch.float32) for _ in range(2))
        self.count = torch.zeros((), device=flat.weights.device)  # steps made
        self.on_cpu = flat.weights.device.type == "cpu"
        update = adamw_ if flat.rest is None else adamw_split_
        self._update: Callable[..., None] = update if self.on_cpu else torch.compile(update, dynamic=False)

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor) -> Took:
        """Use the gradients that are there, unless they or the loss are not finite, and clear them."""
        hyper, gradient = self.hyper, self.flat.gradients
        norm = norm_of(gradient)
        ok = torch.isfinite(norm) & torch.isfinite(loss)
        factor = (hyper.clip / (norm + 1e-6)).clamp(max=1.0)
        self.count += ok
        if self.on_cpu and self.flat.rest is None:
            if ok:
                self._fused(lr, gradient.mul_(factor))
        else:
            corrections = [1 - hyper.beta1**self.count, 1 - hyper.beta2**self.count]
            scalars = torch.stack([torch.full_like(norm, lr), factor, *corrections, ok.float()])
            rest = self.flat.rest
            weights = (self.flat.weights,) if rest is None else (self.flat.upper(), rest)
            for part, decay in self._parts():
                self._update(
                    *(w[part] for w in weights), self.m[part], self.v[part], gradient[part], scalars, decay,
                    hyper.beta1, hyper.beta2, hyper.eps,
                )  # fmt: skip
        self.flat.clear()
        return Took(norm, ok)

    def _parts(self) -> Iterator[tuple[slice, float]]:
        """Slices of at most `PART` numbers, with the weight decay that is theirs."""
        whole, n = len(self.flat.weights), self.flat.n_decayed
        for begin, end, decay in ((0, n, self.hyper.weight_decay), (n, whole, 0.0)):
            for at in range(begin, end, PART):
                yield slice(at, min(at + PART, end)), decay

    def _fused(self, lr: float, gradient: Tensor) -> None:
        """torch's own kernel, one pass; it counts the step by itself."""
        hyper = self.hyper
        for part, decay in self._parts():
            torch._fused_adamw_(
                [self.flat.weights[part]], [gradient[part]], [self.m[part]], [self.v[part]], [], [self.count.clone()],
                lr=lr, beta1=hyper.beta1, beta2=hyper.beta2, weight_decay=decay, eps=hyper.eps, amsgrad=False,
                maximize=False,
            )  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a checkpoint keeps, under the parameters' names; weights in fp32."""
        for name in self.flat.places:
            yield f"weights/{name}", self.flat.exact(name)
        for kind, buffer in (("m", self.m), ("v", self.v)):
            for name in self.flat.places:
                yield f"{kind}/{name}", self.flat.part(buffer, name)
        yield "count", self.count

    def to_fill(self) -> Iterator[tuple[str, Tensor]]:
        """The same, for a caller who writes into each tensor before asking for the next."""
        for key, tensor in self.tensors():
            yield key, tensor
            kind, _, name = key.partition("/")
            if kind == "weights" and self.flat.rest is not None:  # the tensor was a copy
                self.flat.store(name, tensor)
        self.flat.clear()


def _copies(tensor: Tensor) -> int:
    """On how many ranks the same part of a DTensor is."""
    mesh, copies = tensor.device_mesh, 1
    for dimension, placement in enumerate(tensor.placements):
        copies *= mesh.size(dimension) if placement.is_replicate() else 1
    return copies


class ShardedAdamW:
    """Over a model whose parameters are DTensors, fp32. The step is torch's fused kernel on this rank's parts."""

    def __init__(self, model: torch.nn.Module, hyper: Hyper) -> None:
        self.hyper, self.model = hyper, model
        self.named = list(model.named_parameters())
        self.m, self.v = ({name: torch.zeros_like(p) for name, p in self.named} for _ in range(2))
        device = local_part(self.named[0][1]).device
        self.count = torch.zeros((), device=device)  # steps made
        self.copies = torch.tensor([_copies(p) for _, p in self.named], dtype=torch.float64, device=device)

    @torch.no_grad()
    def step(self, lr: float, loss: Tensor) -> Took:
        """As of `FlatAdamW`; `loss` must be the same on all ranks."""
        hyper, norm = self.hyper, self._norm()
        ok = torch.isfinite(norm) & torch.isfinite(loss)
        factor = (hyper.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local_part(p.grad) for _, p in self.named], factor)
        self.count += ok
        for decay, names in ((hyper.weight_decay, self._of(matrices=True)), (0.0, self._of(matrices=False))):
            parts = [local_part(p) for _, p in names]
            torch._fused_adamw_(
                parts, [local_part(p.grad) for _, p in names], [local_part(self.m[n]) for n, _ in names],
                [local_part(self.v[n]) for n, _ in names], [], [self.count.clone() for _ in names],
                lr=lr, beta1=hyper.beta1, beta2=hyper.beta2, weight_decay=decay, eps=hyper.eps, amsgrad=False,
                maximize=False, found_inf=(~ok).float(),
            )  # fmt: skip
        self.model.zero_grad(set_to_none=True)
        return Took(norm, ok)

    def _of(self, matrices: bool) -> list[tuple[str, Tensor]]:
        """Parameters of one kind that this rank has something of."""
        return [(n, p) for n, p in self.named if (p.dim() > 1) == matrices and local_part(p).numel()]

    def _norm(self) -> Tensor:
        """Of the gradients of all ranks, by one sum over them: the same number on each, so that all decide alike."""
        gradients = [p.grad for _, p in self.named]
        squares = torch.stack(torch._foreach_norm([local_part(g) for g in gradients])).double() ** 2
        total = (squares / self.copies).sum()
        dist.all_reduce(total, dist.ReduceOp.SUM)
        return total.sqrt().float()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a checkpoint keeps."""
        yield from ((f"weights/{name}", p.detach()) for name, p in self.named)
        yield from ((f"m/{name}", m) for name, m in self.m.items())
        yield from ((f"v/{name}", v) for name, v in self.v.items())
        yield "count", self.count

    def to_fill(self) -> Iterator[tuple[str, Tensor]]:
        """The same, for a caller who writes into each tensor before asking for the next."""
        yield from self.tensors()
