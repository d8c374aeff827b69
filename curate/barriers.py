"""What happens at a barrier, whichever kind it is: keys out, phases of tasks, and what they mean for each table.

one bit a key (`AnsweredBarrier`)    answers
documents (`DuplicateBarrier`)       links, sketches, pairs, clusters (see `curate.clustering`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from curate import answering, clustering
from curate.errors import RefusalError
from curate.members import Members, phase_unit
from curate.stage import AnsweredBarrier, Barrier, DuplicateBarrier, Outcome
from curate.store import Attempt

Phase = tuple[str, int]  # name, number of tasks
Work = Callable[[Any, Members, int, Attempt], dict[str, Any]]
WORK: dict[str, Work] = {
    "answers": answering.answer,
    "links": clustering.links,
    "sketches": clustering.sketches,
    "pairs": clustering.pairs,
    "clusters": clustering.clusters,
}


def keys_out(attempt: Attempt, barrier: Barrier, partitions: int) -> answering.AnsweredKeys | clustering.KeyedUnit:
    """What collects the keys of a unit, table after table (`add`, `finish`)."""
    if isinstance(barrier, DuplicateBarrier):
        return clustering.KeyedUnit(attempt, barrier, partitions)
    assert isinstance(barrier, AnsweredBarrier)
    return answering.AnsweredKeys(attempt, barrier, partitions)


def phases(barrier: Barrier, units: int, partitions: int) -> list[Phase]:
    """The phases of a barrier in order; each needs all of the one before."""
    if not isinstance(barrier, DuplicateBarrier):
        return [("answers", partitions)]
    if barrier.one_key:
        return [("links", partitions), ("clusters", partitions)]
    sketches = [("sketches", units)] if barrier.verifies else []
    return [("links", partitions), *sketches, ("pairs", partitions), ("clusters", 1)]


def run_phase(barrier: Barrier, members: Members, phase: str, index: int, fingerprint: str) -> None:
    """Do one task of a phase and commit it."""
    with Attempt(members.folder, phase_unit(phase, index)) as attempt:
        made = WORK[phase](barrier, members, index, attempt)
        attempt.commit({"fingerprint": fingerprint, **made})


class Applied:
    """What a barrier found, table after table of one unit."""

    def __init__(self, barrier: Barrier, members: Members, place: int) -> None:
        self.barrier = barrier
        self.found: answering.Answers | clustering.Removals
        if isinstance(barrier, DuplicateBarrier):
            self.found = clustering.Removals(barrier, members, place)
        else:
            self.found = answering.Answers(members, place)

    def next(self, table: pa.Table) -> Outcome:
        """What becomes of the rows of the next table, one of those whose keys were given."""
        if isinstance(self.found, clustering.Removals):
            return self.found.next(table)
        assert isinstance(self.barrier, AnsweredBarrier)
        flags, offsets = self.found.next(table.num_rows)
        return self.barrier.apply(table, flags, offsets)


def refuse_runaway(barrier: Barrier, members: Members) -> None:
    """RefusalError where more is removed than the barrier's `max_removed` allows."""
    if not isinstance(barrier, DuplicateBarrier):
        return
    total, removed = clustering.outcome(barrier, members)
    if total >= clustering.MANY and removed > barrier.max_removed * total:
        first = clustering.largest(barrier, members)[0]
        raise RefusalError(
            f"would remove {removed:,} of {total:,} documents ({100 * removed / total:.0f} %), more than "
            f"{barrier.name}.max_removed={barrier.max_removed:g} allows; the largest of its clusters has "
            f"{first['size']:,}, which {first['survivor']['doc_id']} stands for",
            barrier.name,
        )
