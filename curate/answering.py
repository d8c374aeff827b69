"""How a barrier that answers one bit a key is worked: keys by hash partition, answers, and back to the documents.

The keys file of a unit: int64 number of partitions P, P + 1 int64 positions, then the uint64 keys of partition 0,
of partition 1, ... each in document order. The answers of partition p for a group are one unit: uint8 bits, packed,
split after split. The codes file has, a key, the partition that will answer it (0xFFFF = known already), so that the
bits can be put back in order without the keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import StoreError
from curate.kernels.partition import gather_bits, split_by_partition
from curate.members import Members
from curate.stage import AnsweredBarrier, Flags, KeyBatch
from curate.store import ArrowFile, Attempt, Commit, tables

CODES = pa.schema([pa.field("codes", pa.large_list(pa.uint16()))])


class AnsweredKeys:
    """Collects keys by partition, batch after batch, without holding the unit's keys in memory."""

    def __init__(self, attempt: Attempt, barrier: AnsweredBarrier, partitions: int) -> None:
        self.partitions, self.attempt, self.barrier = partitions, attempt, barrier
        self.codes: ArrowFile = attempt.arrow("codes", CODES, "lz4")
        self.runs = open(attempt.path / "runs", "xb+")
        self.positions: list[npt.NDArray[np.int64]] = []  # of each batch: where its partitions begin in `runs`

    def add(self, table: pa.Table) -> None:
        """Emit the keys of a table."""
        batch: KeyBatch = self.barrier.emit(table)
        keys, codes, starts = split_by_partition(batch.keys, batch.local, self.partitions)
        self.positions.append(starts + self.runs.tell() // 8)
        self.runs.write(keys.data)
        column = pa.LargeListArray.from_arrays(pa.array(batch.offsets - batch.offsets[0]), pa.array(codes))
        self.codes.write(pa.table([column], schema=CODES))

    def finish(self) -> None:
        """Put the runs together, partition after partition."""
        out = self.attempt.raw("keys")
        sizes = np.zeros(self.partitions, np.int64)
        for starts in self.positions:
            sizes += np.diff(starts)
        out.write(np.array([self.partitions], np.int64))
        out.write(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        self.runs.flush()
        for p in range(self.partitions):
            for starts in self.positions:
                self.runs.seek(int(starts[p]) * 8)
                out.write(self.runs.read(int(starts[p + 1] - starts[p]) * 8))
        self.runs.close()


class _KeysIn:
    """The keys of one partition of one unit."""

    def __init__(self, commit: Commit, partition: int) -> None:
        self.path = commit.path("keys")
        with open(self.path, "rb", buffering=0) as f:
            head = f.read(8)
            f.seek(8 + 8 * partition)
            place = f.read(16)
        if len(head) + len(place) != 24:
            raise StoreError(f"{self.path}: shorter than it says")
        n = int.from_bytes(head, "little")
        first, last = np.frombuffer(place, np.int64)
        self.start, self.count = 8 + 8 * (n + 1) + 8 * int(first), int(last - first)

    def read(self) -> npt.NDArray[np.uint64]:
        """All of them."""
        with open(self.path, "rb", buffering=0) as f:
            f.seek(self.start)
            data = f.read(8 * self.count)
        if len(data) != 8 * self.count:
            raise StoreError(f"{self.path}: shorter than it says")
        return np.frombuffer(data, np.uint64)


def answer(barrier: AnsweredBarrier, members: Members, partition: int, attempt: Attempt) -> dict[str, Any]:
    """Answer the keys of one hash partition, for all splits of a group in canonical order."""
    inputs = [_KeysIn(members.keyed(unit), partition) for unit in members.units]
    out, positions, at = attempt.raw("bits"), [], 0
    for flags in barrier.resolve(lambda: (k.read() for k in inputs), sum(k.count for k in inputs)):
        packed = np.packbits(flags, bitorder="little")
        positions.append(at)
        out.write(packed)
        at += len(packed)
    return {"positions": [*positions, at], "keys": [k.count for k in inputs]}


class Answers:
    """The answers for one unit, handed out table by table in the order of its keys."""

    def __init__(self, members: Members, place: int) -> None:
        bits, starts, total = [], [], 0
        for p in range(members.partitions):
            commit = members.commit("answers", p)
            first, last = commit.record["positions"][place : place + 2]
            with open(commit.path("bits"), "rb", buffering=0) as f:
                f.seek(first)
                bits.append(np.frombuffer(f.read(last - first), np.uint8))
            starts.append(total * 8)
            total += last - first
        self.bits = np.concatenate(bits) if bits else np.zeros(0, np.uint8)
        self.cursors = np.array(starts, np.int64)  # next bit of each partition
        self.codes = tables(members.keyed(members.units[place]), "codes")

    def next(self, rows: int) -> tuple[Flags, npt.NDArray[np.int64]]:
        """Answers of the keys of the next `rows` documents, a table as it was added, and where each row's begin."""
        if not rows:
            return np.zeros(0, np.uint8), np.zeros(1, np.int64)
        column = next(self.codes)["codes"].chunk(0)
        if len(column) != rows:
            raise StoreError(f"the keys of {len(column)} documents are not those of {rows}")
        offsets = column.offsets.to_numpy()
        parts = column.values.to_numpy()[offsets[0] : offsets[-1]]
        return gather_bits(parts, self.bits, self.cursors), offsets - offsets[0]
