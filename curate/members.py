"""A group of units at a barrier, and what each phase of the barrier has made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from curate.errors import StoreError
from curate.store import Commit, Folder

ROW_BITS = 32
PHASES = ("answers", "links", "sketches", "pairs", "clusters")


@dataclass(frozen=True)
class Members:
    """The units of a group, in canonical order, and where their parts are."""

    units: tuple[str, ...]
    partitions: int
    keyed: Callable[[str], Commit]  # what holds the keys of a unit
    documents: Callable[[str], Iterator[pa.Table]]  # the tables whose keys they are
    folder: Folder  # where the phases commit

    def documents_of(self, place: int) -> tuple[int, int]:
        """First document of a unit, and the first of the next."""
        return place << ROW_BITS, (place + 1) << ROW_BITS

    def commit(self, phase: str, index: int) -> Commit:
        """What one task of a phase made."""
        found = self.folder.latest(phase_unit(phase, index))
        if found is None:
            raise StoreError(f"{phase} {index} of a barrier are gone from the spool; run again")
        return found


def phase_unit(phase: str, index: int) -> str:
    """Name of the unit that one task of a phase commits."""
    return f"{PHASES.index(phase):x}{index:011x}"
