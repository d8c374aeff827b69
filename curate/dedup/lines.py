"""Repeated lines removed across documents, as C4's published code does it (recipes.md 2.1, step 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dedup.settings import scope
from curate.errors import StageError
from curate.kernels.arrow import buffers, from_buffers
from curate.kernels.c4 import line_keys
from curate.kernels.keys import later_copies, local_repeats
from curate.kernels.paragraphs import cut_lines
from curate.stage import AnsweredBarrier, Flags, KeyBatch, Keys, Offsets, Outcome, check_settings


@dataclass(frozen=True, kw_only=True)
class Lines(AnsweredBarrier):
    """A line that stands in several documents stays in one of them; within a document its first copy stays.

    Two lines are equal when they are after strip and lower case. The published code keeps a line at the page whose
    address has the smallest MD5; here it stays with the document that comes first, in the order of canonical names and
    places in a file, so that the outcome is as free of chance. A document of which no line stays is dropped; whether
    enough sentences are left is asked by the stage `c4_sentences` behind it.
    """

    scope: int | str = "run"  # files that see each other, or "run": all of them, as in C4

    name = "lines"
    reads = ("text",)
    writes = (pa.field("lines_kept_ratio", pa.float32()),)  # share of the UTF-8 bytes of the text
    reasons = ("all_repeated",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", scope("lines.scope", self.scope))

    def emit(self, table: pa.Table) -> KeyBatch:
        """A key a line; local where the document has the line already."""
        data, rows = buffers(table["text"])
        keys, offsets = line_keys(data, rows)
        local = np.zeros(len(keys), np.uint8)
        local_repeats(keys, offsets, local)
        return KeyBatch(keys, local, offsets)

    def resolve(self, chunks: Callable[[], Iterator[Keys]], count: int) -> Iterator[Flags]:
        """1 for the key of a line that an earlier document has. The asked keys of one document differ."""
        return later_copies(chunks, count)

    def apply(self, table: pa.Table, answers: Flags, offsets: Offsets) -> Outcome:
        """The text without the lines whose answer is 1, and the share that stays; StageError if answers do not fit."""
        data, rows = buffers(table["text"])
        try:
            text, ends = cut_lines(data, rows, answers, offsets)
        except ValueError as error:
            raise StageError(str(error), self.name) from None
        kept, before = np.diff(ends), np.diff(rows)
        reason: list[str | None] = [None] * len(kept)
        value: list[str | None] = [None] * len(kept)
        for row in np.flatnonzero(kept == 0).tolist():
            n = int(offsets[row + 1] - offsets[row])
            reason[row], value[row] = "all_repeated", f"{n} line{'s' * (n != 1)}"
        columns = {
            "text": from_buffers(text, ends),
            "lines_kept_ratio": pa.array((kept / np.maximum(before, 1)).astype(np.float32)),
        }
        return Outcome(columns, pa.array(reason, pa.string()), pa.array(value, pa.string()))


def lines(**settings: Any) -> Lines:
    """`Lines` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Lines(**dict(check_settings("lines", Lines, settings)))
