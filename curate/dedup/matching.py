"""Which documents are copies of which: from shared keys to what is removed. Pure functions on arrays.

keys -> candidate pairs -> pairs that hold -> clusters -> a survivor for each, the others removed. A document is an
int64 that sorts in canonical order. Results depend neither on the order in which pairs come
nor on how keys were partitioned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import RecipeError, near
from curate.kernels.clusters import components, links_of_partition, sorted_edges, survivors
from curate.kernels.minhash import pair_similarity
from curate.stage import Bools, DuplicateBarrier, KeyBatch, Keys, Offsets, Scores

Documents = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]  # shape (n, 2), the smaller document first

FEW = 16  # documents that share a key and are all compared; of more, each with a few of the others
COMPARE_BYTES = 64 << 20  # of shingles that are compared at a time
UNSCORED = float("nan")


@dataclass(frozen=True)
class Facts:
    """What decides between copies, an entry a document asked for."""

    score: Scores  # higher is better, NaN: none
    length: npt.NDArray[np.int64]  # UTF-8 bytes of the text
    check: Keys


@dataclass(frozen=True)
class Decisions:
    """Documents to remove, in ascending order."""

    removed: Documents
    survivor: Documents  # the one of its cluster that stays
    size: npt.NDArray[np.int64]  # documents in the cluster, the survivor included


class Sketches(Protocol):
    """The shingles of documents, wherever they lie."""

    def sizes(self, documents: Documents) -> npt.NDArray[np.int64]:
        """How many distinct shingles each has."""
        ...

    def load(self, documents: Documents) -> tuple[Keys, Offsets]:
        """Their sorted distinct hashes, and documents + 1 offsets."""
        ...


def as_pairs(edges: tuple[Documents, Documents]) -> Pairs:
    """Pairs from two columns."""
    return np.stack(edges, axis=1)


def as_edges(pairs: Pairs) -> tuple[Documents, Documents]:
    """Two columns from pairs."""
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def facts_of(barrier: DuplicateBarrier, table: pa.Table, batch: KeyBatch) -> Facts:
    """Facts of the rows of one table. The score is a number, or a date (the newest survives)."""
    length = pc.cast(pc.binary_length(table["text"]), pa.int64()).to_numpy()
    score = _scores(barrier, table) if barrier.score else np.full(table.num_rows, UNSCORED)
    check = np.zeros(table.num_rows, np.uint64) if batch.check is None else batch.check
    return Facts(-score if barrier.score.startswith("-") else score, length, check)


def with_score(barrier: DuplicateBarrier, table: pa.Table) -> pa.Table:
    """The table, with an empty column of the barrier's score where its source has none."""
    name = barrier.score.removeprefix("-")
    if not barrier.score or name in table.column_names:
        return table
    return table.append_column(name, pa.nulls(table.num_rows))


def _scores(barrier: DuplicateBarrier, table: pa.Table) -> Scores:
    name = barrier.score.removeprefix("-")
    if name not in table.column_names:
        raise RecipeError(f"{barrier.name}.score: documents have no column {name!r}{near(name, table.column_names)}")
    column = table[name]
    if pa.types.is_null(column.type):
        return np.full(table.num_rows, UNSCORED)
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.int64())
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise RecipeError(f"{barrier.name}.score: {name} is of type {column.type}, must be a number or a date")
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)  # type: ignore[no-any-return]


def candidates(barrier: DuplicateBarrier, keys: Keys, documents: Documents) -> Pairs:
    """Pairs of documents that share a key, each once."""
    return as_pairs(links_of_partition(keys, documents, 1 if barrier.one_key else FEW))


def confirmed(barrier: DuplicateBarrier, pairs: Pairs, sketches: Sketches | None) -> tuple[Pairs, Scores]:
    """The pairs that hold, each once, and the Jaccard similarity of their shingles (NaN where not compared)."""
    pairs = as_pairs(sorted_edges(*as_edges(pairs)))
    if sketches is None or not len(pairs):
        return pairs, np.full(len(pairs), np.nan)
    parts = [_compared(barrier, part, sketches) for part in _portions(pairs, sketches)]
    return np.concatenate([p for p, _ in parts]), np.concatenate([s for _, s in parts])


def _portions(pairs: Pairs, sketches: Sketches) -> Iterator[Pairs]:
    """Runs of pairs whose shingles fit into COMPARE_BYTES together."""
    step = 1 << 14
    for begin in range(0, len(pairs), step):
        part = pairs[begin : begin + step]
        needed = np.cumsum(8 * (sketches.sizes(part[:, 0]) + sketches.sizes(part[:, 1])))
        cuts = np.flatnonzero(np.diff(needed // COMPARE_BYTES)) + 1
        yield from np.split(part, cuts)


def _compared(barrier: DuplicateBarrier, pairs: Pairs, sketches: Sketches) -> tuple[Pairs, Scores]:
    documents, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    hashes, offsets = sketches.load(documents)
    left, right = (np.ascontiguousarray(places[:, i], np.int64) for i in (0, 1))
    jaccard, containment = pair_similarity(hashes, offsets, left, right)
    holds: Bools = barrier.accepts(jaccard, containment)
    return pairs[holds], jaccard[holds]


def decide(pairs: Pairs, facts: Callable[[Documents], Facts]) -> Decisions:
    """Clusters of the pairs, and what is removed of each; pairs whose documents differ in `check` do not count."""
    if len(pairs):
        documents, places = np.unique(pairs, return_inverse=True)
        check = facts(documents).check[places.reshape(-1, 2)]
        pairs = pairs[check[:, 0] == check[:, 1]]
    if not len(pairs):
        none = np.zeros(0, np.int64)
        return Decisions(none, none, none)
    members, roots = components(*as_edges(pairs))
    known = facts(members)
    winner = survivors(roots, known.score, known.length, members)
    _, place, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    removed = winner != members
    return Decisions(members[removed], winner[removed], sizes[place][removed])


@dataclass(frozen=True)
class Found:
    """What a duplicate barrier finds in documents that are all in memory."""

    pairs: Pairs  # rows of pairs that hold
    jaccard: Scores
    decisions: Decisions


def find(barrier: DuplicateBarrier, tables: Sequence[pa.Table]) -> Found:
    """Run a duplicate barrier on tables in memory; a document is the number of its row over all of them."""
    keys, documents, facts, sketches, first = [], [], [], _InMemory(barrier, tables), 0
    for table in tables:
        batch = barrier.emit(table)
        counts = np.diff(batch.offsets)
        keys.append(batch.keys)
        documents.append(np.repeat(np.arange(first, first + len(counts)), counts))
        facts.append(facts_of(barrier, table, batch))
        first += table.num_rows
    together = Facts(*(np.concatenate([getattr(f, n) for f in facts]) for n in ("score", "length", "check")))
    found = candidates(barrier, np.concatenate(keys), np.concatenate(documents))
    pairs, jaccard = confirmed(barrier, found, sketches if barrier.verifies else None)

    def look_up(rows: Documents) -> Facts:
        return Facts(together.score[rows], together.length[rows], together.check[rows])

    return Found(pairs, jaccard, decide(pairs, look_up))


class _InMemory:
    """Shingles of documents in memory, made when they are asked for."""

    def __init__(self, barrier: DuplicateBarrier, tables: Sequence[pa.Table]) -> None:
        self.barrier = barrier
        self.table = pa.concat_tables([t.select(list(barrier.reads)) for t in tables])
        self.lengths = pc.binary_length(self.table["text"]).to_numpy() if "text" in barrier.reads else None

    def sizes(self, documents: Documents) -> npt.NDArray[np.int64]:
        assert self.lengths is not None
        return self.lengths[documents] // 4 + 1  # type: ignore[no-any-return]  # about: a shingle a word

    def load(self, documents: Documents) -> tuple[Keys, Offsets]:
        return self.barrier.shingles(self.table.take(pa.array(documents)))
