"""One training step: forward and backward over micro-batches, then the optimiser; on one device or on many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curate.errors import RecipeError
from model.flat import Flat
from model.head_loss import compile_parts
from model.llama import Transformer, attention_kernels, initialise
from model.optimiser import FlatAdamW, Hyper, ShardedAdamW, Took
from model.parallel import World, local_part, spread
from model.shapes import Shape

CPU_TOKENS = 4096  # of a micro-batch: more does not make a product faster, and activations leave the cache
CUDA_TOKENS = 49_152  # at most: products are at full speed from 8,192 rows on
CUDA_SHARE = 0.88  # of free memory that activations may take; the rest is for the head's chunk and for fragments


@dataclass(frozen=True)
class How:
    """How steps are computed; changes speed and memory, not what is computed."""

    dtype: torch.dtype
    micro_batch: int  # rows at a time on a rank
    recompute: str = "none"
    compile: bool = False


@dataclass(frozen=True)
class StepResult:
    """Of a step; tensors stay on the device."""

    rows: Tensor  # (2, B) float64: sum of losses in nats and predicted bytes of each row of the global batch
    took: Took


class Stepper:
    """A model, its optimiser and the way to make a step. Shapes: B rows of the global batch, R of this rank, L."""

    def __init__(self, shape: Shape, hyper: Hyper, how: How, world: World, seed: int, batch: int) -> None:
        self.world, self.how, self.hyper, self.batch = world, how, hyper, batch
        self.rank_rows = batch // world.dp
        if batch % world.dp or self.rank_rows % how.micro_batch:
            raise RecipeError(f"a batch of {batch} rows does not divide into {world.dp} ranks of micro-batches of "
                              f"{how.micro_batch} rows; set --micro-batch, or curate mix --batch")  # fmt: skip
        self.optimiser: FlatAdamW | ShardedAdamW
        if world.size == 1:
            self.model = Transformer(shape).to(world.device)
            initialise(self.model, seed)
            self.optimiser = FlatAdamW(Flat(self.model, how.dtype, self.rank_rows > how.micro_batch), hyper)
        else:
            with torch.device("meta"):
                self.model = Transformer(shape)
            spread(self.model, world, how.dtype, seed)
            self.optimiser = ShardedAdamW(self.model, hyper, fused=world.device.type == "cuda")
        for layer in self.model.layers:
            layer.recompute = how.recompute
            if how.compile:
                layer.compile()
        if how.compile and world.tp == 1:
            compile_parts()

    @property
    def local_parameters(self) -> int:
        """Numbers that this rank has of all parameters."""
        return sum(local_part(p).numel() for p in self.model.parameters())

    def losses(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(sum of losses, losses (R, L)) of rows (R, L + 1), or of given targets."""
        made = self.model(tokens[:, :-1], tokens[:, 1:] if targets is None else targets)
        assert isinstance(made, tuple)
        return made

    def step(self, tokens: Tensor, lr: float, bytes_of: Tensor) -> StepResult:
        """Train on this rank's rows (R, L + 1) of a global batch; `bytes_of` (V,): bytes that each token stands for."""
        rows, length = self.rank_rows, tokens.shape[1] - 1
        found = torch.zeros(2, self.batch, dtype=torch.float64, device=self.world.device)
        first = self.world.dp_rank * rows
        with attention_kernels(self.world.device):
            for i in range(0, rows, self.how.micro_batch):
                part = tokens[i : i + self.how.micro_batch]
                loss, losses = self.losses(part)
                (loss / (rows * length)).backward()  # FSDP takes the mean over data ranks
                place = slice(first + i, first + i + len(part))
                found[0, place] = losses.double().sum(1)
                found[1, place] = bytes_of[part[:, 1:]].double().sum(1)
        self.world.sum(found)
        took = self.optimiser.step(lr, found[0].sum() / (self.batch * length))
        return StepResult(found, took)


def token_bytes(size: int, bytes_of: list[int], device: torch.device) -> Tensor:
    """(V,) int32: bytes of text that each id stands for."""
    made = torch.zeros(size, dtype=torch.int32)
    made[: len(bytes_of)] = torch.tensor(bytes_of, dtype=torch.int32)
    return made.to(device)


def activation_bytes(shape: Shape, recompute: str) -> int:
    """Of bf16 activations that a token leaves for the backward pass, about (measured figures of trainer.md)."""
    kept = {
        "none": 8 * shape.dim + 3 * shape.ffn_dim, "paper": 7 * shape.dim + 2 * shape.ffn_dim, "full": shape.dim
    }  # fmt: skip
    return 2 * shape.n_layers * kept[recompute]


def choose(
    shape: Shape,
    rank_rows: int,
    length: int,
    world: World,
    several: bool,
    asked: How,
    given: tuple[int | None, str | None],
) -> How:
    """`asked` with the micro-batch and the recompute policy that are not `given` chosen by the device's memory."""
    micro, recompute = given
    if world.device.type != "cuda":
        rows = micro or _divisor(rank_rows, CPU_TOKENS // length)
        return How(asked.dtype, rows, recompute or "none", asked.compile)
    free = torch.cuda.mem_get_info(world.device)[0]
    held = shape.parameters * (20 if several else 16) // world.size
    room = max(0, int(CUDA_SHARE * (free - held)))

    def fits(policy: str) -> int:
        return min(room // (activation_bytes(shape, policy) * length // world.tp), CUDA_TOKENS // length)

    if recompute is None:
        recompute = next((p for p in ("none", "paper") if fits(p) * length >= 8192), "full")
    return How(asked.dtype, micro or _divisor(rank_rows, fits(recompute)), recompute, asked.compile)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, at least 1."""
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)
