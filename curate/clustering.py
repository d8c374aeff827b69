"""How a group of units finds its duplicate documents, phase after phase; each task of a phase commits one unit.

    links     a task a hash partition: keys that documents share -> candidate pairs
    sketches  a task a unit (only where candidates are compared): the shingles of its candidates
    pairs     a task a partition of the pairs: each pair once, compared, and reduced to a forest
    clusters  one task (for barriers with one key a document: one a partition): what is removed, and for whom

What is committed before it, a unit: `keys` (records of key and row, by partition) and `facts` (score, length, check,
doc_id). All is deterministic, so that a task whose worker was killed is done again to the same bytes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.dedup.matching import (
    Decisions,
    Documents,
    Facts,
    Pairs,
    as_edges,
    as_pairs,
    candidates,
    confirmed,
    decide,
    facts_of,
)
from curate.errors import StoreError
from curate.kernels.clusters import spanning_forest
from curate.members import ROW_BITS, Members
from curate.stage import DuplicateBarrier, KeyBatch, Keys, Offsets, Outcome
from curate.store import ArrowFile, Attempt, Commit, RawFile

FACTS = pa.schema([("doc_id", pa.string()), ("score", pa.float64()), ("length", pa.int64()), ("check", pa.uint64())])
SHOWN_CLUSTERS, SHOWN_MEMBERS, BEGINS = 5, 3, 80  # in the report; characters of a text
REDUCED = 4_000_000  # pairs that are brought into one forest at a time, at least
FULL_KEY = 288  # bytes of memory, measured: of a key that 16 documents share, all of whose pairs are candidates
PAIR = 32  # bytes of memory of a pair that is compared, beside its shingles
MANY = 1000  # documents: a share of fewer says nothing


# -- before: keys and facts of a unit ----------------------------------------------------------------------------------


class KeyedUnit:
    """Collects the keys and facts of a unit, table after table."""

    def __init__(self, attempt: Attempt, barrier: DuplicateBarrier, partitions: int) -> None:
        self.barrier, self.rows = barrier, 0
        self.keys = Partitioned(attempt, "keys", partitions)
        self.facts: ArrowFile = attempt.arrow("facts", FACTS, None)

    def add(self, table: pa.Table) -> None:
        """Emit the keys of one table."""
        batch: KeyBatch = self.barrier.emit(table)
        rows = np.repeat(np.arange(self.rows, self.rows + table.num_rows, dtype=np.uint64), np.diff(batch.offsets))
        self.keys.add(batch.keys, np.stack([batch.keys, rows], axis=1))
        facts = facts_of(self.barrier, table, batch)
        self.facts.write(pa.table([table["doc_id"], facts.score, facts.length, facts.check], schema=FACTS))
        self.rows += table.num_rows

    def finish(self) -> None:
        """Put the parts of each partition together."""
        self.keys.finish()


class Partitioned:
    """A file of records of two 64-bit numbers, arranged by hash partition; little stays in memory.

    int64 number of partitions P, P + 1 int64 positions, then the records of partition 0, of partition 1, ... each in
    the order in which they came.
    """

    def __init__(self, attempt: Attempt, kind: str, partitions: int) -> None:
        self.out: RawFile = attempt.raw(kind)
        self.runs = open(attempt.path / f"{kind}.runs", "xb+")
        self.partitions, self.shift = partitions, np.uint64(64 - (partitions.bit_length() - 1))
        self.positions: list[npt.NDArray[np.int64]] = []

    def add(self, hashes: Keys, records: npt.NDArray[Any]) -> None:
        """Append records, shape (n, 2); the partition of each is the range that its hash is in."""
        codes = (hashes >> self.shift).astype(np.uint16) if self.partitions > 1 else np.zeros(len(hashes), np.uint16)
        order = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=self.partitions))])
        self.positions.append(starts + self.runs.tell() // 16)
        self.runs.write(records[order].data)

    def finish(self) -> None:
        """Put the runs together, partition after partition."""
        sizes = np.zeros(self.partitions, np.int64)
        for starts in self.positions:
            sizes += np.diff(starts)
        self.out.write(np.array([self.partitions], np.int64))
        self.out.write(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        self.runs.flush()
        for p in range(self.partitions):
            for starts in self.positions:
                self.runs.seek(int(starts[p]) * 16)
                self.out.write(self.runs.read(int(starts[p + 1] - starts[p]) * 16))
        self.runs.close()


def records(commit: Commit, kind: str, partition: int) -> npt.NDArray[np.uint64]:
    """The (key, value) records of one partition of a file of `Partitioned`, shape (n, 2)."""
    path = commit.path(kind)
    with open(path, "rb", buffering=0) as f:
        count = int.from_bytes(f.read(8), "little")
        f.seek(8 + 8 * partition)
        first, last = np.frombuffer(f.read(16), np.int64)
        f.seek(8 + 8 * (count + 1) + 16 * int(first))
        data = f.read(16 * int(last - first))
    if len(data) != 16 * int(last - first):
        raise StoreError(f"{path}: shorter than it says")
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


# -- the phases --------------------------------------------------------------------------------------------------------


def links(barrier: DuplicateBarrier, members: Members, index: int, attempt: Attempt) -> dict[str, Any]:
    """Candidate pairs of one partition of the keys, arranged by pair, and the documents that are in one."""
    keys, documents = [], []
    for place, unit in enumerate(members.units):
        part = records(members.keyed(unit), "keys", index)
        keys.append(part[:, 0])
        documents.append(part[:, 1].astype(np.int64) | (place << ROW_BITS))
    by_pair = Partitioned(attempt, "pairs", 1 if barrier.one_key else members.partitions)
    found, count = [np.zeros(0, np.int64)], 0
    for some, theirs in _pieces(barrier, np.concatenate(keys), np.concatenate(documents)):
        pairs = candidates(barrier, some, theirs)
        by_pair.add(pair_hashes(pairs), pairs)
        found.append(_ascending(pairs.ravel()))
        count += len(pairs)
    by_pair.finish()
    attempt.raw("candidates").write(_ascending(np.concatenate(found)).data)
    return {"pairs": count}


def _ascending(documents: Documents) -> Documents:
    """Each once. np.unique of numpy 2.4 takes many times as long (a hash set)."""
    documents = np.sort(documents)
    return documents[np.diff(documents, prepend=-1) > 0]


def _pieces(barrier: DuplicateBarrier, keys: Keys, documents: Documents) -> Iterator[tuple[Keys, Documents]]:
    """The keys in parts whose pairs fit into memory even where each is shared by as many as are all compared.

    Equal keys stay together. A pair that two parts find is written twice; whoever reads the pairs takes each once.
    """
    parts = 1 if barrier.one_key else -(-len(keys) * FULL_KEY // (barrier.memory * 1_000_000))
    if parts <= 1:
        yield keys, documents
        return
    mixed = (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # a partition is a range of keys
    number = ((mixed * np.uint64(parts)) >> np.uint64(32)).astype(np.uint16)
    for part in range(parts):
        here = number == part
        yield keys[here], documents[here]


def sketches(barrier: DuplicateBarrier, members: Members, index: int, attempt: Attempt) -> dict[str, Any]:
    """The shingles of the candidates of one unit, whatever partition found them."""
    first, last = members.documents_of(index)
    found = [_slice(members.commit("links", p).path("candidates"), 1, first, last) for p in range(members.partitions)]
    rows = _ascending(np.concatenate(found)) - first
    hashes, counts, seen = attempt.raw("hashes"), [np.zeros(1, np.int64)], 0
    for table in members.documents(members.units[index]) if len(rows) else ():
        wanted = rows[np.searchsorted(rows, seen) : np.searchsorted(rows, seen + table.num_rows)] - seen
        seen += table.num_rows
        if len(wanted):
            values, offsets = barrier.shingles(table.take(pa.array(wanted)))
            hashes.write(np.ascontiguousarray(values[offsets[0] : offsets[-1]]).data)
            counts.append(np.diff(offsets))
    index_file = attempt.raw("index")
    index_file.write(np.array([len(rows)], np.int64).data)
    index_file.write(rows.data)
    index_file.write(np.cumsum(np.concatenate(counts)).data)
    return {"documents": len(rows)}


def pairs(barrier: DuplicateBarrier, members: Members, index: int, attempt: Attempt) -> dict[str, Any]:
    """The pairs of one partition that hold, reduced to those that join something."""
    parts = (records(members.commit("links", p), "pairs", index).view(np.int64) for p in range(members.partitions))
    sketched = _Sketched(members) if barrier.verifies else None
    room = max(1, barrier.memory * 1_000_000 // PAIR)
    kept = (confirmed(barrier, some, sketched)[0] for some in _gathered(parts, room))
    attempt.raw("edges").write(reduced(kept).data)
    return {}


def _gathered(parts: Iterable[Pairs], room: int) -> Iterator[Pairs]:
    """The same pairs, about `room` at a time."""
    waiting: list[Pairs] = []
    for part in parts:
        for begin in range(0, len(part), room):
            waiting.append(part[begin : begin + room])
            if sum(map(len, waiting)) >= room:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def clusters(barrier: DuplicateBarrier, members: Members, index: int, attempt: Attempt) -> dict[str, Any]:
    """What is removed."""
    if barrier.one_key:
        edges = records(members.commit("links", index), "pairs", 0).astype(np.int64)
    else:
        found = (members.commit("pairs", p).path("edges") for p in range(members.partitions))
        edges = reduced(np.fromfile(path, np.int64).reshape(-1, 2) for path in found)
    facts = FactsOf(members)
    made = decide(edges, facts.look_up)
    attempt.raw("decisions").write(np.stack([made.removed, made.survivor, made.size], axis=1).data)
    return {"removed": len(made.removed), "largest": _largest(made)}


def _largest(made: Decisions) -> list[dict[str, Any]]:
    """The largest clusters, with a few of their documents (by number)."""
    survivors, counts = np.unique(made.survivor, return_counts=True)
    found = []
    for i in np.lexsort((survivors, -counts))[:SHOWN_CLUSTERS].tolist():
        members = made.removed[made.survivor == survivors[i]][:SHOWN_MEMBERS]
        found.append({"size": int(counts[i]) + 1, "survivor": int(survivors[i]), "removed": members.tolist()})
    return found


def _shown(members: Members, documents: Documents) -> list[dict[str, str]]:
    """What people recognise a document by: its id, its address, how its text begins."""
    found: dict[int, dict[str, str]] = {}
    for place, which in _by_unit(documents):
        first, rows = place << ROW_BITS, np.sort(documents[which]) - (place << ROW_BITS)
        seen = 0
        for table in members.documents(members.units[place]):
            wanted = rows[(rows >= seen) & (rows < seen + table.num_rows)]
            part = table.select(["doc_id", "url", "text"]).take(pa.array(wanted - seen))
            for row, one in zip(wanted.tolist(), part.to_pylist(), strict=True):
                begins = " ".join(one["text"][: 4 * BEGINS].split())[:BEGINS]
                found[first + row] = {"doc_id": one["doc_id"], "url": one["url"] or "", "begins": begins}
            seen += table.num_rows
            if seen > rows[-1]:
                break
    return [found[int(d)] for d in documents]


def forest(pairs: Pairs) -> Pairs:
    """The fewest pairs with the same clusters."""
    return as_pairs(spanning_forest(*as_edges(pairs)))


def reduced(parts: Iterable[Pairs], room: int = REDUCED) -> Pairs:
    """One forest of many. No more than the forest, as much again and `room` pairs are in memory at a time.

    What comes waits until it is as much as the forest, so that a pair is looked at a bounded number of times.
    """
    whole = np.zeros((0, 2), np.int64)
    waiting: list[Pairs] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= max(room, len(whole)):
            whole, waiting = forest(np.concatenate([whole, *waiting])), []
    return forest(np.concatenate([whole, *waiting]))


def pair_hashes(pairs: Pairs) -> Keys:
    """A number a pair, uniform over 64 bits: equal pairs, whatever key found them, come together by it."""
    a, b = (x.astype(np.uint64) for x in as_edges(pairs))
    with np.errstate(over="ignore"):
        x = a * np.uint64(0x9FB21C651E98DF25) + b * np.uint64(0xD6E8FEB86659FD93)
        x = (x ^ (x >> np.uint64(32))) * np.uint64(0xC2B2AE3D27D4EB4F)
    return np.asarray(x ^ (x >> np.uint64(29)), np.uint64)


# -- reading what the phases made --------------------------------------------------------------------------------------


def _slice(path: Any, width: int, first: int, last: int) -> npt.NDArray[np.int64]:
    """The rows of a sorted int64 file, `width` numbers each, whose first number is in [first, last)."""
    if path.stat().st_size == 0:
        return np.zeros(0 if width == 1 else (0, width), np.int64)
    data = np.memmap(path, np.int64, "r").reshape(-1, width)
    begin, end = np.searchsorted(data[:, 0], [first, last])
    rows = np.array(data[begin:end])
    return rows[:, 0] if width == 1 else rows


def _by_unit(documents: Documents) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(place of a unit, which of the documents are in it), units in order."""
    places = documents >> ROW_BITS
    order = np.argsort(places, kind="stable")
    units, first = np.unique(places[order], return_index=True)
    yield from zip(units.tolist(), np.split(order, first[1:]), strict=bool(len(units)))


class _Sketched:
    """Shingles that the phase `sketches` wrote."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.open = functools.lru_cache(maxsize=64)(self._open)

    def _open(self, place: int) -> tuple[BinaryIO, Documents, Offsets]:
        commit = self.members.commit("sketches", place)
        index = np.fromfile(commit.path("index"), np.int64)
        count = int(index[0])
        hashes = open(commit.path("hashes"), "rb", buffering=0)  # not mapped: mapped pages would count as memory
        return hashes, index[1 : 1 + count], index[1 + count :]

    def _places(self, documents: Documents) -> Iterator[tuple[npt.NDArray[np.int64], BinaryIO, Offsets, Offsets]]:
        """(which of the documents, hashes, first, last) of each unit that some are in."""
        for place, which in _by_unit(documents):
            hashes, rows, offsets = self.open(place)
            at = np.searchsorted(rows, documents[which] & ((1 << ROW_BITS) - 1))
            yield which, hashes, offsets[at], offsets[at + 1]

    def sizes(self, documents: Documents) -> npt.NDArray[np.int64]:
        """How many distinct shingles each document has."""
        found = np.zeros(len(documents), np.int64)
        for which, _, first, last in self._places(documents):
            found[which] = last - first
        return found

    def load(self, documents: Documents) -> tuple[Keys, Offsets]:
        """Sorted distinct hashes of the documents, and documents + 1 offsets."""
        offsets = np.concatenate([[0], np.cumsum(self.sizes(documents))])
        values = np.empty(int(offsets[-1]), np.uint64)
        for which, hashes, first, last in self._places(documents):
            for i, a, b in zip(which.tolist(), first.tolist(), last.tolist(), strict=True):
                got = os.preadv(hashes.fileno(), [values[offsets[i] : offsets[i + 1]].data], 8 * a) if a < b else 0
                if got != 8 * (b - a):
                    raise StoreError(f"{hashes.name}: shorter than it says")
        return values, offsets


class FactsOf:
    """Facts of any documents of a group, read from where their units keep them."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.open = functools.lru_cache(maxsize=64)(self._open)

    def _open(self, place: int) -> pa.Table:
        path = self.members.keyed(self.members.units[place]).path("facts")
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def _columns(self, documents: Documents, names: list[str]) -> pa.Table:
        parts, order = [FACTS.empty_table().select(names)], [np.zeros(0, np.int64)]
        for place, which in _by_unit(documents):
            rows = documents[which] & ((1 << ROW_BITS) - 1)
            parts.append(self.open(place).select(names).take(pa.array(rows)))
            order.append(which)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))

    def look_up(self, documents: Documents) -> Facts:
        """Scores, lengths and checks."""
        table = self._columns(documents, ["score", "length", "check"])
        score, length, check = (table[n].to_numpy() for n in ("score", "length", "check"))
        return Facts(score, length, check)

    def ids(self, documents: Documents) -> list[str]:
        """Their doc_id."""
        return self._columns(documents, ["doc_id"])["doc_id"].to_pylist()  # type: ignore[no-any-return]


@dataclass
class Removals:
    """What is removed of one unit, table after table, as the outcome of the barrier."""

    barrier: DuplicateBarrier
    members: Members
    place: int
    seen: int = 0

    def __post_init__(self) -> None:
        first, last = self.members.documents_of(self.place)
        tasks = self.members.partitions if self.barrier.one_key else 1
        parts = [_slice(self.members.commit("clusters", i).path("decisions"), 3, first, last) for i in range(tasks)]
        found = np.concatenate(parts)
        found = found[np.argsort(found[:, 0], kind="stable")]
        self.rows, self.sizes = found[:, 0] - first, found[:, 2]
        self.survivors = FactsOf(self.members).ids(found[:, 1])

    def next(self, table: pa.Table) -> Outcome:
        """Reasons for the rows of the next table: the value names the survivor and the size of the cluster."""
        begin, end = np.searchsorted(self.rows, [self.seen, self.seen + table.num_rows])
        reason: list[str | None] = [None] * table.num_rows
        value: list[str | None] = [None] * table.num_rows
        for i in range(begin, end):
            row = int(self.rows[i]) - self.seen
            reason[row] = self.barrier.reasons[0]
            value[row] = f"{self.survivors[i]}, one of {self.sizes[i]:,} alike"
        self.seen += table.num_rows
        return Outcome(reason=pa.array(reason, pa.string()), value=pa.array(value, pa.string()))


def outcome(barrier: DuplicateBarrier, members: Members) -> tuple[int, int]:
    """(documents, how many of them are removed) once all phases are done."""
    found = _found(barrier, members)
    total = sum(int(members.keyed(u).record["files"]["facts"]["rows"]) for u in members.units)
    return total, sum(int(r["removed"]) for r in found)


def largest(barrier: DuplicateBarrier, members: Members) -> list[dict[str, Any]]:
    """The largest clusters of all, with id, address and beginning of a few of their documents."""
    clusters = sorted(
        (c for r in _found(barrier, members) for c in r["largest"]), key=lambda c: (-c["size"], c["survivor"])
    )[:SHOWN_CLUSTERS]
    asked = [d for c in clusters for d in (c["survivor"], *c["removed"])]
    shown = dict(zip(asked, _shown(members, np.array(asked, np.int64)), strict=True))
    return [
        {"size": c["size"], "survivor": shown[c["survivor"]], "removed": [shown[d] for d in c["removed"]]}
        for c in clusters
    ]


def _found(barrier: DuplicateBarrier, members: Members) -> list[dict[str, Any]]:
    tasks = members.partitions if barrier.one_key else 1
    return [members.commit("clusters", i).record for i in range(tasks)]
