"""Processes that train one model together: FSDP2 over data, tensor and sequence parallelism over matrices, or both.

The mesh is (data, tensor). Ranks of one tensor group read the same rows; each has some heads, some of the feed-forward
width and some of the vocabulary, and between the matrices some of the sequence (Korthikanti et al. 2022, arXiv
2205.05198). Over data, each layer is a unit of FSDP: its fp32 weights and Adam state lie in shards, are gathered in the
compute dtype when the layer runs, the next layer's while this one computes, and gradients are scattered in fp32.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from curate.errors import CurateError, RecipeError, StoreError
from model.llama import Transformer, initial

WAIT = datetime.timedelta(hours=2)  # for a rank that is behind (rank 0 reads checkpoints), before all give up


@dataclass(frozen=True)
class World:
    """This process among all."""

    device: torch.device
    rank: int = 0
    size: int = 1
    tp: int = 1
    mesh: Any = None  # DeviceMesh (data, tensor) where there are several processes
    ours: bool = False  # the group was made here, not by a launcher

    @property
    def dp(self) -> int:
        """Groups that read different rows."""
        return self.size // self.tp

    @property
    def dp_rank(self) -> int:
        """Which of them this is."""
        return self.rank // self.tp

    def sum(self, x: Tensor) -> Tensor:
        """Add up over data ranks, in place; all ranks have the result. Of a tensor group the first one counts."""
        if self.rank % self.tp:
            x.zero_()
        if self.size > 1:
            dist.all_reduce(x, dist.ReduceOp.SUM)
        return x

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def first(self, act: Callable[[], Any]) -> None:
        """Rank 0 does it; where it fails there, all fail: none waits for a rank that has gone."""
        error: CurateError | None = None
        if self.rank == 0:
            try:
                act()
            except CurateError as e:
                error = e
        if self.any(error is not None):
            raise error or StoreError("rank 0 could not go on, and says why")

    def wait(self) -> None:
        """For all ranks to come here."""
        if self.size > 1:
            dist.barrier()


def in_group() -> bool:
    """Whether a launcher (torchrun, Ray Train) says that this is one of several processes."""
    return dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1


def device_of(given: str | None) -> torch.device:
    """A device by name; CUDA's without a number: that of this process. RecipeError: it is not there."""
    kind = given or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError("--device cuda: this torch sees no CUDA device")
    try:
        found = torch.device(kind)
    except RuntimeError:
        raise RecipeError(f"--device {kind}: there is cuda and cpu") from None
    if found.type not in ("cuda", "cpu"):
        raise RecipeError(f"--device {kind}: there is cuda and cpu")
    if found.type == "cpu":
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) if found.index is None else found.index
    if number >= torch.cuda.device_count():
        raise RecipeError(
            f"--device {kind}: there are {torch.cuda.device_count()} CUDA devices, this is number {number}"
        )
    return torch.device("cuda", number)


def join(device: str | None = None, tp: int = 1) -> World:
    """Find the device and the other processes. RecipeError: a device that is not there, a `tp` that does not divide."""
    found = device_of(device)
    if found.type == "cuda":
        if not os.environ.get("PYTORCH_ALLOC_CONF") and not os.environ.get("PYTORCH_CUDA_ALLOC_CONF"):
            torch.cuda.memory._set_allocator_settings("expandable_segments:True")  # or memory is lost between sizes
        torch.cuda.set_device(found)
    ours = in_group() and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=WAIT)
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if tp < 1 or size % tp:
        raise RecipeError(f"--tp {tp}: does not divide {size} process{'es' if size > 1 else ''}")
    if size == 1:
        return World(found, ours=ours)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(found.type, (size // tp, tp), mesh_dim_names=("data", "tensor"))
    return World(found, rank, size, tp, mesh, ours)


def check_shape(model: Transformer, tp: int) -> None:
    """RecipeError: heads or widths do not divide over `tp` ranks."""
    shape = model.shape
    for what, n in (("heads", shape.n_heads), ("key-value heads", shape.n_kv_heads), ("feed-forward", shape.ffn_dim)):
        if n % tp:
            raise RecipeError(f"--tp {tp}: does not divide {shape.name}'s {n} {what}")


def spread(model: Transformer, world: World, dtype: torch.dtype, seed: int) -> None:
    """Spread a model on the meta device over all processes and give it its first values, a parameter at a time."""
    check_shape(model, world.tp)
    if world.tp > 1:
        _tensor_parallel(model, world.mesh["tensor"])
    _fsdp(model, world.mesh["data"], dtype)
    model.to_empty(device=world.device)
    _initialise(model, seed, world.device)


def _tensor_parallel(model: Transformer, mesh: Any) -> None:
    """Columns of the matrices that read, rows of those that write; the sequence is split in between."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    whole = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
    plan: dict[str, Any] = {
        "tok_embeddings": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "output": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    for i in range(model.shape.n_layers):
        plan |= {f"layers.{i}.{name}": style for name, style in {
            "attention_norm": SequenceParallel(), "ffn_norm": SequenceParallel(),
            "attention": PrepareModuleInput(
                input_layouts=(Shard(1), None, None, None), desired_input_layouts=(Replicate(), None, None, None)
            ),
            "attention.wq": ColwiseParallel(), "attention.wk": ColwiseParallel(), "attention.wv": ColwiseParallel(),
            "attention.wo": RowwiseParallel(output_layouts=Shard(1)),
            "feed_forward": PrepareModuleInput(**whole),
            "feed_forward.w1": ColwiseParallel(), "feed_forward.w3": ColwiseParallel(),
            "feed_forward.w2": RowwiseParallel(output_layouts=Shard(1)),
        }.items()}  # fmt: skip
    parallelize_module(model, mesh, plan)


def _fsdp(model: Transformer, mesh: Any, dtype: torch.dtype) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Inputs are not cast: rotary tables stay fp32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for i, layer in enumerate(model.layers):
        # the last one is needed again at once
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=i < len(model.layers) - 1)
    fully_shard(model, mesh=mesh, mp_policy=policy)


@torch.no_grad()
def _initialise(model: Transformer, seed: int, device: torch.device) -> None:
    for name, parameter in model.named_parameters():
        whole = initial(model.shape, name, torch.empty(parameter.shape, device=device), seed)
        local_part(parameter).copy_(whole[place_of(parameter)])


def local_part(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor, the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def place_of(tensor: Tensor) -> tuple[slice, ...]:
    """Where this rank's part lies in the whole tensor. Parts may be empty."""
    if not hasattr(tensor, "to_local"):
        return tuple(slice(0, n) for n in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, begins = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(b, b + n) for b, n in zip(begins, sizes, strict=True))


def unsharded(model: Transformer, world: World) -> list[str]:
    """Names of parameters of which a rank has more than its share; nothing but norms of a tensor group may be."""
    found = []
    for name, p in model.named_parameters():
        parts = world.dp if p.dim() == 1 else world.size  # a norm is whole in a tensor group
        if local_part(p).numel() > -(-p.shape[0] // parts) * (p.numel() // p.shape[0]) * (2 if p.dim() > 1 else 1):
            found.append(name)
    return found


@torch.no_grad()
def differing_copies(model: Transformer, world: World) -> list[str]:
    """Names of parameters of which ranks have copies that are not the same bits; the same answer on all ranks.

    Norms of a tensor group are such copies, each stepped by its own rank: a fault of a device or a link would let them
    drift apart unseen. Compared by a sum over their bits, in which one flipped bit shows.
    """
    if world.size == 1:
        return []
    named = [(name, p) for name, p in model.named_parameters() if world.tp > 1 and p.dim() == 1]
    if not named:
        return []
    sums = torch.stack([local_part(p).contiguous().view(torch.int32).to(torch.int64).sum() for _, p in named])
    low, high = sums.clone(), sums
    group = world.mesh["tensor"].get_group()
    dist.all_reduce(low, dist.ReduceOp.MIN, group)
    dist.all_reduce(high, dist.ReduceOp.MAX, group)
    differ = (low != high).float()
    dist.all_reduce(differ, dist.ReduceOp.MAX)
    return [name for (name, _), wrong in zip(named, differ.tolist(), strict=True) if wrong]


def leave(world: World) -> None:
    """End the group of processes, where it was made here."""
    if world.ours and dist.is_initialized():
        dist.destroy_process_group()
