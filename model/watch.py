"""Watching a run: losses by source, spikes, steps that were left out, and the documents behind them (no torch)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from model.data import Data

WINDOW = 128  # losses that a spike is measured against
FEWEST = 32  # before that many there is no spike
SHOWN_ROWS = 8  # of a batch, those with the highest loss
Floats = npt.NDArray[np.float64]


class Diverged(CurateError):
    """Too many steps in a row were not finite; the last checkpoint is from before."""


@dataclass
class Watch:
    """Keeps the last losses. Its state is part of a checkpoint."""

    sigma: float
    max_skips: int
    window: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    skipped: int = 0  # in all
    in_a_row: int = 0

    def state(self) -> dict[str, Any]:
        """As JSON, exactly."""
        return {"window": list(self.window), "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.window.extend(float(loss) for loss in state["window"])
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])

    def spike(self, loss: float) -> tuple[float, float] | None:
        """(mean, deviation) of the losses before, where this one is far above them; a spike is not added to them."""
        mean = deviation = 0.0
        if len(self.window) >= FEWEST:
            mean = math.fsum(self.window) / len(self.window)
            deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in self.window) / len(self.window))
            if loss > mean + self.sigma * max(deviation, 1e-3 * abs(mean)):
                return mean, deviation
        self.window.append(loss)
        return None

    def count(self, ok: bool, step: int) -> None:
        """Note whether a step was made. Diverged: too many in a row were not."""
        self.in_a_row = 0 if ok else self.in_a_row + 1
        self.skipped += not ok
        if self.in_a_row >= self.max_skips:
            raise Diverged(f"{self.in_a_row} steps in a row up to step {step} had a loss or gradient that is not "
                           "finite; log.jsonl names their documents. Run again to go on from the last checkpoint, with "
                           "a lower --lr in another --out if it happens again")  # fmt: skip


def by_source(
    names: Sequence[str], source: npt.NDArray[Any], nll: Floats, bytes_of: Floats, length: int
) -> dict[str, Any]:
    """Loss (nats a token) and bits per byte of each source in a batch, from sums of its rows."""
    found = {}
    for i, name in enumerate(names):
        mine = source == i
        if mine.any():
            found[name] = figures(float(nll[mine].sum()), int(mine.sum()) * length, float(bytes_of[mine].sum()))
    return found


def figures(nll: float, tokens: int, bytes_of: float) -> dict[str, Any]:
    """{loss, bits_per_byte, tokens} from a sum in nats; bits are None where no byte was predicted."""
    bits = nll / math.log(2) / bytes_of if bytes_of else None
    return {"loss": nll / tokens, "bits_per_byte": bits, "tokens": tokens}


def documents_of(data: Data, step: int, rows: Iterable[int]) -> list[dict[str, Any]]:
    """For each row of a step's global batch: its source, window and the ids of the documents in it."""
    places, length = data.order.batch_places(step), data.order.length
    found = []
    for row in rows:
        source, window = int(places.source[row]), int(places.window[row])
        stream, start = data.streams[source], window * length
        begins = sorted({0, *stream.begins(start, length).tolist()})
        ids = list(dict.fromkeys(stream.find(start + at).doc_id for at in begins))
        found.append({"row": row, "source": data.order.sources[source], "window": window, "documents": ids})
    return found


def worst_rows(nll: Floats, length: int) -> list[tuple[int, float]]:
    """(row, mean loss) of the rows with the highest loss; what is no number comes first."""
    means = nll / length
    order = np.argsort(np.where(np.isnan(means), np.inf, means))[::-1][:SHOWN_ROWS]
    return [(int(row), float(means[row])) for row in order]
