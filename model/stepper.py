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
from model.run_folder import POLICIES
from model.shapes import Shape

CPU_TOKENS = 4096  # of a micro-batch: more does not make a product faster, and activations leave the cache
CUDA_TOKENS = 49_152  # at most: products are at full speed from 8,192 rows on
CUDA_SHARE = 0.92  # of free memory that activations may take; the rest is for the head's chunk and for fragments
FULL_SPEED = 8192  # tokens of a micro-batch from which on products are no faster


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
            with torch.device("meta"):
                self.model = Transformer(shape)
            self.model.to_empty(device=world.device)
            initialise(self.model, seed)
            self.optimiser = FlatAdamW(Flat(self.model, how.dtype, self.rank_rows > how.micro_batch), hyper)
            if world.device.type == "cuda":
                torch.cuda.empty_cache()  # what held the fp32 model is of the wrong sizes for activations
        else:
            with torch.device("meta"):
                self.model = Transformer(shape)
            spread(self.model, world, how.dtype, seed)
            self.optimiser = ShardedAdamW(self.model, hyper)
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
    """Of bf16 activations that a token leaves for the backward pass, about.

    Counted from what the compiled layers keep, per token and layer. none: the input, both normed ones, q and k as they
    are and turned, v, attention's output, the sum behind it; gate, up and their product. paper: outputs of products.
    Measured on an H200 (trainer.md): 1.77 MB for the 1b shape without recomputing (here 1.79), 2.87 MB for 7b with
    products kept (here 3.04).
    """
    whole = 10 * shape.dim + 3 * shape.ffn_dim
    kept = {"none": whole, "paper": 6 * shape.dim + 2 * shape.ffn_dim, "full": shape.dim}[recompute]
    return 2 * (shape.n_layers * kept + whole - kept)  # the layer that is computed again is there as a whole


def state_bytes(dtype: torch.dtype, several: bool, world: int) -> int:
    """For each parameter of this rank: weights, Adam's state and gradients (over micro-batches: their fp32 sums)."""
    return 4 + 8 + (4 if world > 1 or several or dtype == torch.float32 else 2)


def passing_bytes(shape: Shape, world: World) -> int:
    """What FSDP has of whole layers at a time: two gathered ones in bf16, the gradients of two in bf16, of one in fp32
    and on its way, and the embeddings and the head in bf16 with their gradients.
    """
    if world.size == 1:
        return 0
    ends = 2 * shape.vocabulary * shape.dim
    layer = (shape.parameters - ends) // shape.n_layers
    return (14 * layer + 4 * ends) // world.tp


def fitting_rows(shape: Shape, length: int, world: World, several: bool, dtype: torch.dtype, recompute: str) -> int:
    """Rows of a micro-batch that the memory of a CUDA device has room for, before anything is on it; 0: none."""
    free = torch.cuda.mem_get_info(world.device)[0]
    held = shape.parameters * state_bytes(dtype, several, world.size) // world.size + passing_bytes(shape, world)
    room = max(0, int(CUDA_SHARE * (free - held)))
    return min(room // (activation_bytes(shape, recompute) * length // world.tp), CUDA_TOKENS // length)


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
    fits = {p: fitting_rows(shape, length, world, several, asked.dtype, p) for p in POLICIES}
    if recompute is None:
        recompute = next((p for p in ("none", "paper") if fits[p] * length >= FULL_SPEED), "full")
    return How(asked.dtype, micro or _divisor(rank_rows, fits[recompute]), recompute, asked.compile)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, at least 1."""
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)
