"""Held-out loss: documents that the plan leaves out of training, by the hash of their text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.data import Data
from model.llama import attention_kernels
from model.stepper import Stepper
from model.watch import figures


@torch.no_grad()
def held_out(stepper: Stepper, data: Data, rows: int, bytes_of: Tensor) -> dict[str, Any]:
    """{loss, bits_per_byte, sources: {name: {loss, bits_per_byte, tokens}}} over up to `rows` windows of each source.

    `loss` and `bits_per_byte` of all sources are over their tokens together. Empty where nothing is held out.
    """
    sums = torch.zeros(3, len(data.order.sources), dtype=torch.float64, device=stepper.world.device)
    with attention_kernels(stepper.world.device):
        for i, source in enumerate(data.order.sources):
            _add_source(stepper, data, source, rows, bytes_of, sums[:, i])
    nll, tokens, length = stepper.world.sum(sums).tolist()
    return _figures(dict(zip(data.order.sources, zip(nll, tokens, length, strict=True), strict=True)))


def _add_source(stepper: Stepper, data: Data, source: str, rows: int, bytes_of: Tensor, sums: Tensor) -> None:
    world, micro = stepper.world, stepper.how.micro_batch
    tokens, counts = data.held_out(source, rows, world.dp_rank, world.dp)
    data.check_ids(tokens, f"{source}, held out")
    most = math.ceil(rows / world.dp)  # of a rank
    calls = math.ceil(most / micro)  # the same on all ranks: FSDP's collectives are called in step
    for call in range(calls):
        part = slice(call * micro, (call + 1) * micro)
        if world.size == 1 and not len(counts[part]):
            return
        padded, valid = _padded(tokens[part], counts[part], micro, data.order.length)
        held = torch.from_numpy(padded).to(world.device)
        wanted = torch.from_numpy(valid).to(world.device)
        targets = torch.where(wanted, held[:, 1:], -1)
        losses = stepper.losses(held, targets)[1]
        sums[0] += losses.double().sum()
        sums[1] += wanted.sum()
        sums[2] += (bytes_of[held[:, 1:]] * wanted).sum()


def _padded(tokens: Any, counts: Any, rows: int, length: int) -> tuple[Any, Any]:
    """Rows filled up to a fixed number, and which targets (rows, L) count."""
    made = np.zeros((rows, length + 1), np.int64)
    made[: len(tokens)] = tokens
    valid = np.zeros((rows, length), np.bool_)
    valid[: len(counts)] = np.arange(length) < np.asarray(counts)[:, None]
    return made, valid


def _figures(sums: Mapping[str, tuple[float, float, float]]) -> dict[str, Any]:
    found = {name: figures(nll, int(tokens), size) for name, (nll, tokens, size) in sums.items() if tokens}
    if not found:
        return {}
    nll, tokens, size = (sum(s[i] for s in sums.values()) for i in range(3))
    return {**figures(nll, int(tokens), size), "sources": found}
