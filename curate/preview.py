"""The first documents of a run as a stage will see them: what cut-offs and sample models are made from.

The sample is read from the first splits, in the order of their names, until enough documents are there, and taken
through the steps before the stage; a barrier sees the sample alone. So it is a pure function of the first splits, and
costs no second pass over a crawl.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.dedup.matching import find
from curate.recipe import Recipe
from curate.stage import AnsweredBarrier, DuplicateBarrier, Outcome, Split, Stage, Step, Tally


def preview(recipe: Recipe, splits: Sequence[Split], before: str, documents: int) -> tuple[list[pa.Table], list[str]]:
    """Tables of about `documents` documents that reach the stage `before`, and the names of the splits read."""
    steps = recipe.steps[: [s.name for s in recipe.steps].index(before)]
    tables: list[pa.Table] = []
    names: list[str] = []
    rows = 0
    for split in splits:
        names.append(split.name)
        for table in recipe.source.read(split, Tally()):
            tables.append(table)
            rows += table.num_rows
            if rows >= documents:
                break
        if rows >= documents:
            break
    for step in steps:
        tables = _through(step, tables)
    return tables, names


def _through(step: Step, tables: list[pa.Table]) -> list[pa.Table]:
    if isinstance(step, DuplicateBarrier):
        removed = find(step, tables).decisions.removed
        keep = np.ones(sum(t.num_rows for t in tables), np.bool_)
        keep[removed] = False
        return [t.filter(pa.array(k)) for t, k in zip(tables, _cut(keep, tables), strict=True)]
    if isinstance(step, AnsweredBarrier):
        return [_settled(t, o) for t, o in zip(tables, _alone(step, tables), strict=True)]
    assert isinstance(step, Stage)
    return [_settled(table, step(table)) if table.num_rows else table for table in tables]


def _cut(flags: npt.NDArray[np.bool_], tables: list[pa.Table]) -> list[npt.NDArray[np.bool_]]:
    return np.split(flags, np.cumsum([t.num_rows for t in tables])[:-1])


def _alone(barrier: AnsweredBarrier, tables: list[pa.Table]) -> list[Outcome]:
    """A barrier whose group is these tables."""
    batches = [barrier.emit(table) for table in tables]
    asked = [b.keys[b.local == 0] for b in batches]
    answers = barrier.resolve(lambda: iter(asked), sum(map(len, asked)))
    outcomes = []
    for table, batch, answer in zip(tables, batches, answers, strict=True):
        flags = np.ones(len(batch.keys), np.uint8)
        flags[batch.local == 0] = answer
        outcomes.append(barrier.apply(table, flags, batch.offsets - batch.offsets[0]))
    return outcomes


def _settled(table: pa.Table, outcome: Outcome) -> pa.Table:
    for column, values in outcome.columns.items():
        at = table.schema.get_field_index(column)
        table = table.append_column(column, values) if at < 0 else table.set_column(at, column, values)
    return table if outcome.reason is None else table.filter(pc.is_null(outcome.reason))
