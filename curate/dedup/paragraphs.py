"""Repeated paragraphs removed across documents, as CCNet does (arXiv 1911.00359, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curate.dedup.settings import scope
from curate.errors import StageError
from curate.kernels.arrow import buffers, from_buffers
from curate.kernels.keys import all_copies, later_copies, local_repeats
from curate.kernels.paragraphs import cut_lines, line_keys
from curate.stage import AnsweredBarrier, Flags, KeyBatch, Keys, Offsets, Outcome, check_settings, convert

Policy = Literal["keep_first", "drop_all"]


@dataclass(frozen=True, kw_only=True)
class Paragraphs(AnsweredBarrier):
    """A line that stands in several documents of a group is removed: a repeated line is boilerplate.

    Two lines are equal when they are after strip, lower case, every digit to 0 and the loss of control characters and
    of CCNet's listed punctuation (its code; its paper says otherwise of accents). Inside one document the first copy
    stays under either policy, as in CCNet. A document of which no text stays is dropped.
    """

    policy: Policy = "keep_first"  # of a line in several documents: keep the first copy, or, as CCNet, none
    scope: int | str = 2000  # files that see each other: 2000 are 3 % of a dump (CCNet, section 4.2); or "run": all

    name = "paragraphs"
    reads = ("text",)
    writes = (pa.field("paragraphs_kept_ratio", pa.float32()),)  # share of the UTF-8 bytes of the text
    reasons = ("all_repeated",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", convert("paragraphs.policy", self.policy, Policy))
        object.__setattr__(self, "scope", scope("paragraphs.scope", self.scope))

    def emit(self, table: pa.Table) -> KeyBatch:
        """A key a line; local where the document has the line already, and where the line says nothing.

        To `drop_all` a blank line is a line like any other, as it is to CCNet, which reads only an empty text not at
        all; `keep_first` does not keep the first blank line of a group.
        """
        data, rows = buffers(table["text"])
        keys, blank, offsets = line_keys(data, rows)
        if self.policy == "drop_all":
            blank[:] = 0
            blank[offsets[:-1][rows[1:] == rows[:-1]]] = 1
        local_repeats(keys, offsets, blank)
        return KeyBatch(keys, blank, offsets)

    def resolve(self, chunks: Callable[[], Iterator[Keys]], count: int) -> Iterator[Flags]:
        """1 for the key of a line to remove. The asked keys of one document differ, so equal ones are two documents."""
        return (all_copies if self.policy == "drop_all" else later_copies)(chunks, count)

    def apply(self, table: pa.Table, answers: Flags, offsets: Offsets) -> Outcome:
        """The text without the lines whose answer is 1, and the share that stays; StageError if answers do not fit."""
        data, rows = buffers(table["text"])
        try:
            text, ends = cut_lines(data, rows, answers, offsets)
        except ValueError as error:
            raise StageError(str(error), self.name) from None
        kept, before = np.diff(ends), np.diff(rows)
        ratio = (kept / np.maximum(before, 1)).astype(np.float32)
        gone = np.flatnonzero(kept == 0)
        reason: list[str | None] = [None] * len(kept)
        value: list[str | None] = [None] * len(kept)
        for row in gone:
            reason[row], value[row] = "all_repeated", f"{offsets[row + 1] - offsets[row]} lines"
        columns = {"text": from_buffers(text, ends), "paragraphs_kept_ratio": pa.array(ratio)}
        return Outcome(columns, pa.array(reason, pa.string()), pa.array(value, pa.string()))


def paragraphs(**settings: Any) -> Paragraphs:
    """`Paragraphs` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Paragraphs(**dict(check_settings("paragraphs", Paragraphs, settings)))
