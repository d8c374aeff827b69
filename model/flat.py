"""All parameters of a model on one device in one piece of memory, and their gradients in another.

One buffer makes the norm of the gradient, the optimiser and clearing one launch each, and it lets the matrices that
read the same input (wq, wk, wv; w1, w3) be used as one product: they lie side by side, so a view of the buffer is the
joined matrix. Names and layout of the parameters stay Meta's.

In bf16 the optimiser has all of fp32 all the same: beside the weights lie the 16 bits that rounding took off
(`rest`, model.split). Gradients are summed in fp32 over the micro-batches of a step, where there are several; those of
bf16 weights are moved here as soon as autograd has made one, so that there is no other place for all of them.

Shapes: P parameters, matrices first (they have weight decay), then the vectors of the norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from curate.errors import RecipeError
from model.llama import Attention, FeedForward, Transformer
from model.split import join, split

JOINED = {Attention: ("wqkv", ("wq", "wk", "wv")), FeedForward: ("w13", ("w1", "w3"))}


class Flat:
    """Owns the memory of a model's parameters and gradients."""

    def __init__(self, model: Transformer, dtype: torch.dtype, several: bool) -> None:
        """Move the parameters of `model` (fp32) into place; `several`: a step sums over micro-batches."""
        self.model = model
        named = _ordered(model)
        self.n_decayed = sum(p.numel() for _, p in named if p.dim() > 1)
        size, device = sum(p.numel() for _, p in named), named[0][1].device
        if dtype not in (torch.float32, torch.bfloat16):
            raise RecipeError(f"weights of {dtype}: there is float32 and bfloat16")
        self.places: dict[str, tuple[int, torch.Size]] = {}
        self.weights = torch.empty(size, dtype=dtype, device=device)
        self.rest = None if dtype == torch.float32 else torch.empty(size, dtype=torch.int16, device=device)
        self.gradients = torch.zeros(size, dtype=torch.float32 if several else dtype, device=device)
        at = 0
        for name, parameter in named:
            self.places[name] = at, parameter.shape
            at += parameter.numel()
            self.store(name, parameter.detach())
            parameter.data = self.part(self.weights, name)
        self._join()
        for leaf, at in self.leaves():
            place = self.gradients[at : at + leaf.numel()].view(leaf.shape)
            if dtype == torch.float32:
                leaf.grad = place
            else:
                leaf.register_post_accumulate_grad_hook(_mover(place, several))
        if dtype == torch.float32:  # also those that are inside of joined ones
            for name, parameter in named:
                parameter.grad = self.part(self.gradients, name)

    def part(self, buffer: Tensor, name: str) -> Tensor:
        """The view of a buffer that belongs to a parameter."""
        at, shape = self.places[name]
        return buffer[at : at + shape.numel()].view(shape)

    def upper(self) -> Tensor:
        """The bits of bf16 weights, int16; a view."""
        return self.weights.view(torch.int16)

    def exact(self, name: str) -> Tensor:
        """A parameter in fp32: in bf16 a copy, else a view."""
        if self.rest is None:
            return self.part(self.weights, name)
        return join(self.part(self.upper(), name), self.part(self.rest, name))

    def store(self, name: str, values: Tensor) -> None:
        """Set a parameter from fp32."""
        if self.rest is None:
            self.part(self.weights, name).copy_(values)
        else:
            upper, rest = split(values.contiguous())
            self.part(self.upper(), name).copy_(upper)
            self.part(self.rest, name).copy_(rest)

    def clear(self) -> None:
        """Forget all gradients. Those of one micro-batch in bf16 are overwritten by the next."""
        if self.gradients.dtype == torch.float32:
            self.gradients.zero_()

    def _join(self) -> None:
        for prefix, module in self.model.named_modules():
            for kind, (joined, parts) in JOINED.items():
                if isinstance(module, kind):
                    names = [f"{prefix}.{part}.weight" for part in parts]
                    object.__setattr__(module, joined, self._joined(names))

    def _joined(self, names: list[str]) -> nn.Parameter:
        """One matrix over parameters that lie side by side."""
        at, (_, columns) = self.places[names[0]]
        end = at + sum(self.places[name][1].numel() for name in names)
        return nn.Parameter(self.weights[at:end].view(-1, columns))

    def leaves(self) -> Iterator[tuple[Tensor, int]]:
        """What autograd gives gradients to, and where it lies: joined matrices in place of their parts."""
        inside = set()
        for prefix, module in self.model.named_modules():
            for kind, (joined, parts) in JOINED.items():
                if isinstance(module, kind):
                    inside |= {f"{prefix}.{part}.weight" for part in parts}
                    yield getattr(module, joined), self.places[f"{prefix}.{parts[0]}.weight"][0]
        for name, parameter in self.model.named_parameters():
            if name not in inside:
                yield parameter, self.places[name][0]


def _mover(place: Tensor, several: bool) -> Callable[[Tensor], None]:
    def move(leaf: Tensor) -> None:
        assert leaf.grad is not None
        if several:
            place.add_(leaf.grad)
        else:
            place.copy_(leaf.grad)
        leaf.grad = None

    return move


def _ordered(model: Transformer) -> list[tuple[str, nn.Parameter]]:
    """Matrices, those that are joined side by side, then vectors."""
    named = list(model.named_parameters())
    first = {name: i for i, (name, _) in enumerate(named)}
    for prefix, module in model.named_modules():
        for kind, (_, parts) in JOINED.items():
            if isinstance(module, kind):
                first |= {f"{prefix}.{part}.weight": first[f"{prefix}.{parts[0]}.weight"] for part in parts}
    return sorted(named, key=lambda item: (item[1].dim() == 1, first[item[0]]))  # stable: parts stay in their order
