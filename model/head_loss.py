"""Cross-entropy of the last layer, a chunk of tokens at a time: the logits of a batch are never held.

A chunk's logits, losses and gradients are made together in the forward pass, as in torchtitan's chunked loss; the
backward pass only scales them. Products are in the dtype of the hidden states, the softmax and the gradient of the
weight in fp32.

With tensor parallelism each rank has some rows of the weight: the maximum, the sum and the target's logit are reduced
over the ranks, and the gradient of the hidden states is a partial sum.

Shapes: N tokens, D = dim, V = vocabulary (of this rank).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}  # of fp32 logits: a cache's worth, and a product of good size


def head_loss(h: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of losses, loss of each target in nats) for hidden states (B, T, D); targets below zero count nothing.

    The sum has a gradient, the losses have none. Takes DTensors: a weight in row shards, hidden states of any kind.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate

    group, first = None, 0
    if isinstance(weight, DTensor):
        mesh, size = weight.device_mesh, weight.shape[0]
        group = mesh.get_group()
        weight = weight.to_local()
        first = -(-size // mesh.size()) * mesh.get_local_rank()  # rows lie as torch.chunk deals them
        if isinstance(h, DTensor):
            h = h.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    if not torch.is_grad_enabled():  # autograd.Function would make its gradient all the same
        weight = weight.detach()
    loss, losses = _HeadLoss.apply(h.flatten(0, -2), weight, targets.flatten(), group, first)
    return loss, losses.view(targets.shape)


def _softmax_parts(logits: Tensor, targets: Tensor, wanted: Tensor, group: Any, first: int) -> tuple[Tensor, Tensor]:
    """Losses (N,), and the gradient of their sum with respect to fp32 logits (N, V), which it takes the place of.

    With a `group` the other ranks have the other parts of the vocabulary, and this one begins at `first`.
    """
    local = targets - first
    ours = ((local >= 0) & (local < logits.shape[1])).float()  # whose target this rank has
    local = local.clamp(0, logits.shape[1] - 1)[:, None]
    top = logits.amax(1, keepdim=True)
    if group is not None:
        dist.all_reduce(top, dist.ReduceOp.MAX, group)
    gradient = logits.sub_(top)
    picked = gradient.gather(1, local)[:, 0] * ours
    sums = gradient.exp_().sum(1)
    if group is not None:
        both = torch.stack([sums, picked])
        dist.all_reduce(both, dist.ReduceOp.SUM, group)
        sums, picked = both.unbind()
    losses = (sums.log() - picked) * wanted
    gradient.mul_((wanted / sums)[:, None])
    gradient.scatter_add_(1, local, -(ours * wanted)[:, None])
    return losses, gradient


def _parts(logits: Tensor, targets: Tensor, wanted: Tensor, group: Any, first: int) -> tuple[Tensor, Tensor]:
    """Of logits in the dtype of the products: losses in fp32, the gradient in that dtype."""
    losses, gradient = _softmax_parts(logits.float(), targets, wanted, group, first)
    return losses, gradient.to(logits.dtype)


def _fused_parts(logits: Tensor, targets: Tensor, wanted: Tensor, group: Any, first: int) -> tuple[Tensor, Tensor]:
    """The same without a group, in a form that Inductor makes two passes of: nothing of fp32 is as large as logits."""
    x, at = logits.float(), targets.unsqueeze(1)
    top = x.amax(1, keepdim=True)
    raised = (x - top).exp()
    sums = raised.sum(1)
    losses = (sums.log() - (x.gather(1, at) - top).squeeze(1)) * wanted
    hit = torch.arange(x.shape[1], device=x.device) == at
    return losses, (raised * (wanted / sums).unsqueeze(1) - hit * wanted.unsqueeze(1)).to(logits.dtype)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, group: Any, first: int) -> tuple[Tensor, Tensor]:
        wanted = (targets >= 0).float()
        targets = targets.clamp(min=0)
        needs_h, needs_weight = ctx.needs_input_grad[:2]
        dh = torch.empty_like(h) if needs_h else None
        dw = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        losses = torch.empty(len(h), dtype=torch.float32, device=h.device)
        rows = max(16, CHUNK_BYTES.get(h.device.type, 64 << 20) // (4 * weight.shape[0]))
        rows = rows // 512 * 512 or rows  # whole tiles of a product
        for i in range(0, len(h), rows):
            part = slice(i, i + rows)
            logits = h[part] @ weight.t()
            losses[part], gradient = _chosen(logits, targets[part], wanted[part], group, first)
            if dh is not None:
                torch.mm(gradient, weight, out=dh[part])
            if dw is not None:
                _add_product(dw, gradient, h[part])
        ctx.save_for_backward(*(x for x in (dh, dw) if x is not None))
        ctx.needs, ctx.weight_dtype = (needs_h, needs_weight), weight.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _losses: Tensor) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        # In fp32: a bf16 tensor would round the scale, and every layer's gradient with it.
        dh = _scaled(saved.pop(0), scale) if ctx.needs[0] else None
        dw = saved.pop(0).mul_(scale).to(ctx.weight_dtype) if ctx.needs[1] else None
        return dh, dw, None, None, None


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    return x.mul_(scale) if x.dtype == scale.dtype else (x.float() * scale).to(x.dtype)


def _add_product(dw: Tensor, gradient: Tensor, h: Tensor) -> None:
    """dw += gradient' h, summed in fp32."""
    if h.dtype == torch.float32:
        dw.addmm_(gradient.t(), h)
    else:
        dw += gradient.t() @ h


_chosen = _parts


def compile_parts() -> None:
    """Let Inductor fuse the softmax and its gradient (without tensor parallelism; shapes are those of a chunk)."""
    global _chosen
    _chosen = torch.compile(_fused_parts, dynamic=False)
