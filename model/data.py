"""Batches of a plan, from memory-mapped token shards.

    data = open_data(corpus, load_plan(corpus))     refuses data that have changed
    data.batch(step, rank, world)                   numpy, a pure function
    data.held_out(source, rows)                     what the plan never trains on, for an evaluation
    for step, batch in tensors(data, start=step):   torch, made ahead by a thread, pinned where CUDA is there

Rows are packed: documents follow each other without padding, each with the BOS and EOS of the plan's policy. Masks are
optional: `document` numbers the documents of a row, so that attention can be kept inside each (`document[q] ==
document[k]`), and `position` begins anew with each. A row that begins inside a document begins at position 0. The loss
is of all L targets, with masks or without.

Shapes: B rows of a rank's batch, L = length. What torch needs is imported in `tensors` alone.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import RecipeError, StoreError, near
from curate.store import Corpus
from model.plan import WORLDS, Bools, Ints, Order, check, held_out_entry, held_out_share, shard_batches

if TYPE_CHECKING:
    import torch

Tokens = npt.NDArray[Any]  # uint16 or uint32, as stored
OPEN_SHARDS = 1024  # of a source, kept mapped; a shard is opened again in about 0.2 ms


@dataclass(frozen=True)
class Segment:
    """Documents of one record batch of a shard that follow each other, with none left out between them."""

    begin: int  # place of its first token in the shard's stream
    row: int  # number of its first document in the shard
    values: Tokens  # ids of all documents of the batch, mapped
    offsets: npt.NDArray[Any]  # documents + 1 places in `values`
    column: pa.Array  # doc_id
    bos: int | None
    eos: int | None

    @property
    def extra(self) -> int:
        """Tokens added to each document."""
        return (self.bos is not None) + (self.eos is not None)

    def start(self, document: int) -> int:
        """Where a document (or the end of the last one) is in this segment's stream."""
        return int(self.offsets[document]) - int(self.offsets[0]) + document * self.extra

    @property
    def size(self) -> int:
        """Tokens in the stream."""
        return self.start(len(self.offsets) - 1)

    def document(self, at: int) -> int:
        """The document that the token at this place belongs to."""
        return bisect.bisect_right(range(len(self.offsets)), at, key=self.start) - 1

    def starts(self, at: int, n: int) -> tuple[int, Ints]:
        """The document at place `at`, and where it and those up to place at + n begin and end, relative to `at`."""
        first, last = self.document(at), self.document(at + n - 1)
        numbers = np.arange(first, last + 2, dtype=np.int64)
        return first, self.offsets[first : last + 2] + (numbers * self.extra - (int(self.offsets[0]) + at))

    def read(self, at: int, n: int) -> Tokens:
        """`n` tokens: the mapped ones themselves where no BOS or EOS comes between them."""
        first = self.document(at)
        inside, end = at - self.start(first), self.start(first + 1) - at
        skipped = int(self.offsets[first]) + inside - (self.bos is not None)
        if not self.extra or (inside >= (self.bos is not None) and n <= end - (self.eos is not None)):
            return self.values[skipped : skipped + n]
        return self._woven(at, n)

    def _woven(self, at: int, n: int) -> Tokens:
        """The same with BOS and EOS among them."""
        first, starts = self.starts(at, n)
        tokens, real = np.empty(n, self.values.dtype), np.ones(n, np.bool_)
        for special, places in ((self.bos, starts[:-1]), (self.eos, starts[1:] - 1)):
            if special is not None:
                places = places[(places >= 0) & (places < n)]
                tokens[places], real[places] = special, False
        begin = int(self.offsets[first]) + max(-int(starts[0]) - (self.bos is not None), 0)
        tokens[real] = self.values[begin : begin + int(np.count_nonzero(real))]
        return tokens


@dataclass(frozen=True)
class Found:
    """Where a token of a stream comes from."""

    unit: Mapping[str, Any]  # as in the plan
    row: int  # of the document in the unit
    doc_id: str
    at: int  # of the token in the document, BOS included
    size: int  # tokens of the document, BOS and EOS included


class Stream:
    """The endless stream of one source: of what is trained on or, `held`, of what the share holds out.

    `entry`: as in the plan, with the counts of that side. Threads may share a stream.
    """

    def __init__(
        self,
        folder: Path,
        entry: Mapping[str, Any],
        bos: int | None,
        eos: int | None,
        share: float = 0.0,
        held: bool = False,
    ) -> None:
        self.folder, self.units, self.bos, self.eos = folder, list(entry["units"]), bos, eos
        self.share, self.held = share, held
        self.ends = np.cumsum([u["tokens"] for u in self.units], dtype=np.int64).tolist()
        self.lap = int(entry["tokens"])
        self._open: OrderedDict[int, list[Segment]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, n: int) -> Tokens:
        """Tokens start, start + 1 ... start + n - 1; a view of the mapped file where they lie in one piece."""
        pieces = [segment.read(at, take) for segment, at, take in self._pieces(start, n)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def begins(self, start: int, n: int) -> Ints:
        """Where documents begin among these tokens, relative to `start`; ascending."""
        found, done = [], 0
        for segment, at, take in self._pieces(start, n):
            places = segment.starts(at, take)[1][:-1]
            found.append(places[places >= 0] + done)
            done += take
        return np.concatenate(found)

    def find(self, position: int) -> Found:
        """The document that a token belongs to."""
        unit, segment, at = self._place(position % self.lap)
        document = segment.document(at)
        start = segment.start(document)
        doc_id, size = segment.column[document].as_py(), segment.start(document + 1) - start
        return Found(self.units[unit], segment.row + document, doc_id, at - start, size)

    def _pieces(self, start: int, n: int) -> Iterator[tuple[Segment, int, int]]:
        while n:
            _, segment, at = self._place(start % self.lap)
            take = min(n, segment.size - at)
            yield segment, at, take
            start, n = start + take, n - take

    def _place(self, position: int) -> tuple[int, Segment, int]:
        unit = bisect.bisect_right(self.ends, position)
        within = position - (self.ends[unit - 1] if unit else 0)
        segments = self._segments(unit)
        found = segments[bisect.bisect_right(segments, within, key=lambda s: s.begin) - 1]
        return unit, found, within - found.begin

    def _segments(self, unit: int) -> list[Segment]:
        with self._lock:
            if unit in self._open:
                self._open.move_to_end(unit)
                return self._open[unit]
            self._open[unit] = made = self._map(self.units[unit])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return made

    def _map(self, unit: Mapping[str, Any]) -> list[Segment]:
        path, segments, begin, row = self.folder / unit["file"], [], 0, 0
        for batch, held in shard_batches(path, self.share):
            ids = batch.column(1)
            offsets = ids.offsets.to_numpy(zero_copy_only=True)
            values = ids.values.to_numpy(zero_copy_only=True)
            for a, b in _runs(held == self.held):
                column = batch.column(0).slice(a, b - a)
                segment = Segment(begin, row + a, values, offsets[a : b + 1], column, self.bos, self.eos)
                segments.append(segment)
                begin += segment.size
            row += batch.num_rows
        if begin != unit["tokens"]:
            raise StoreError(f"{path}: {begin} tokens, the plan says {unit['tokens']}")
        return segments


def _runs(wanted: Bools) -> list[tuple[int, int]]:
    """(first, end) of each stretch of True."""
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


@dataclass(frozen=True)
class Batch:
    """Rows of a step. Numpy arrays, or torch tensors from `tensors`."""

    tokens: Any  # (B, L + 1) int64
    source: Any  # (B,) int64: index into the plan's sources
    document: Any = None  # (B, L) int32: number of the document in the row, from 0
    position: Any = None  # (B, L) int32: place in the document, as far as the row has it

    @property
    def inputs(self) -> Any:
        """(B, L), a view."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Any:
        """(B, L), a view: the token that follows each input."""
        return self.tokens[:, 1:]


@dataclass(frozen=True)
class Data:
    """A plan and its streams."""

    plan: Mapping[str, Any]
    order: Order
    streams: list[Stream]

    def batch(self, step: int, rank: int = 0, world: int = 1, masks: bool = False) -> Batch:
        """What a rank reads at a step. RecipeError: no such step, or a world that does not divide the batch."""
        places, length = self.order.batch_places(step, rank, world), self.order.length
        tokens = np.empty((len(places.source), length + 1), np.int64)
        starts = (places.window * length).tolist()
        for row, (source, start) in enumerate(zip(places.source.tolist(), starts, strict=True)):
            tokens[row] = self.streams[source].read(start, length + 1)
        if not masks:
            return Batch(tokens, places.source)
        begins = [self.streams[s].begins(at, length) for s, at in zip(places.source.tolist(), starts, strict=True)]
        return Batch(tokens, places.source, *document_masks(begins, length))

    def held_out(self, source: str, rows: int, rank: int = 0, world: int = 1) -> tuple[Ints, Ints]:
        """The first windows of a source's held-out documents, `rows` at most: (tokens (n, L + 1), targets (n,)).

        Packed as in training, in the plan's order, a window every L tokens; once, so that each token but the first is
        one target. The last window may have fewer than L targets; 0 follows its tokens. Rank r of a world has windows
        r, r + world ..., so ranks may differ by a row. Only shards that have these windows are opened. RecipeError: no
        such source or rank. StoreError: a damaged shard.
        """
        if source not in self.plan["sources"]:
            raise RecipeError(f"the plan has no source {source!r}{near(source, list(self.plan['sources']))}")
        if not 0 <= rank < world:
            raise RecipeError(f"rank {rank} of {world}: there is no such rank")
        stream, length = self._held(source), self.order.length
        windows = range(min(rows, -(-(stream.lap - 1) // length)))[rank::world]
        tokens, targets = np.zeros((len(windows), length + 1), np.int64), np.zeros(len(windows), np.int64)
        for row, window in enumerate(windows):
            found = stream.read(window * length, min(length + 1, stream.lap - window * length))
            tokens[row, : len(found)], targets[row] = found, len(found) - 1
        return tokens, targets

    def check_ids(self, tokens: Any, where: str) -> None:
        """StoreError for an id that the model has no row for: a device would read what lies beyond."""
        if len(tokens) and (most := int(tokens.max())) >= self.plan["vocabulary"]:
            raise StoreError(f"{where}: a shard has id {most:,}, the vocabulary ends at {self.plan['vocabulary']:,}: "
                             "it is damaged; curate mix --audit reads all of them again")  # fmt: skip

    def _held(self, source: str) -> Stream:
        plan, trained = self.plan, self.streams[self.order.sources.index(source)]
        entry = held_out_entry(plan["sources"][source])
        return Stream(trained.folder, entry, plan["bos"], plan["eos"], held_out_share(plan), held=True)


def document_masks(begins: list[Ints], length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(document, position), each (B, L), from where documents begin in each row."""
    marks = np.zeros((len(begins), length), np.int32)
    for row, at in zip(marks, begins, strict=True):
        row[at] = 1
    marks[:, 0] = 0  # the first document of a row is 0, whether it begins there or before
    places = np.arange(length, dtype=np.int32)
    since = np.maximum.accumulate(marks * places, axis=1)  # where the document at each place began
    return np.cumsum(marks, axis=1, dtype=np.int32), (places - since).astype(np.int32, copy=False)


def cu_seqlens(batch: Batch) -> npt.NDArray[np.int32]:
    """Where documents begin in the flattened (B * L) inputs, and the end: what variable-length attention takes."""
    position = np.asarray(batch.position).reshape(-1)
    return np.append(np.flatnonzero(position == 0), len(position)).astype(np.int32)


def open_data(corpus: Corpus | Path, plan: Mapping[str, Any], deep: bool = False) -> Data:
    """Streams of a plan. StoreError where shards are not those that it was made of; `deep` digests every one."""
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(Path(corpus))
    check(corpus, plan, deep)
    return Data(plan, Order(plan), streams(corpus, plan))


def streams(corpus: Corpus, plan: Mapping[str, Any]) -> list[Stream]:
    """A stream for each source, in the plan's order; nothing is opened yet."""
    share = held_out_share(plan)
    return [
        Stream(corpus.tokens(source).root, entry, plan["bos"], plan["eos"], share)
        for source, entry in plan["sources"].items()
    ]


def batches(
    data: Data, start: int = 0, rank: int = 0, world: int = 1, masks: bool = False, workers: int = 1, ahead: int = 4
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from step `start` to the end, made `ahead` of time by `workers` threads; the same for any number.

    An error of a worker is raised where its batch is due.
    """
    yield from _ahead(lambda step: data.batch(step, rank, world, masks), range(start, data.order.steps), workers, ahead)


def tensors(
    data: Data, start: int = 0, rank: int = 0, world: int = 1, masks: bool = False, workers: int = 1, ahead: int = 4,
    pin: bool = False,
) -> Iterator[tuple[int, Batch]]:  # fmt: skip
    """As `batches`, as torch tensors; `pin`: in pinned memory, for `.to(device, non_blocking=True)`."""
    import torch

    device = torch.cuda.current_device() if pin else None

    def tensor(array: Any) -> torch.Tensor | None:
        made = None if array is None else torch.from_numpy(array)
        return made.pin_memory() if made is not None and pin else made

    def make(step: int) -> Batch:
        if device is not None:  # a thread begins on GPU 0, where each process would take half a gigabyte for pinning
            torch.cuda.set_device(device)
        made = data.batch(step, rank, world, masks)
        return Batch(tensor(made.tokens), tensor(made.source), tensor(made.document), tensor(made.position))

    yield from _ahead(make, range(start, data.order.steps), workers, ahead)


def _ahead(make: Callable[[int], Batch], steps: Sequence[int], workers: int, ahead: int) -> Iterator[tuple[int, Batch]]:
    waiting: deque[tuple[int, Future[Batch]]] = deque()
    with ThreadPoolExecutor(workers, "data") as pool:
        try:
            for step in steps:
                waiting.append((step, pool.submit(make, step)))
                if len(waiting) > ahead:
                    due, future = waiting.popleft()
                    yield due, future.result()
            while waiting:
                due, future = waiting.popleft()
                yield due, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def audit_reading(data: Data, steps: int = 16, workers: Sequence[int] = (1, 2, 4)) -> list[str]:
    """Read steps of the whole run again with other numbers of workers and ranks; what differs, nothing if all is well.

    `model.plan.audit` proves the order of all steps; this proves on real tokens that reading follows it.
    """
    chosen = sorted({i * (data.order.steps - 1) // max(1, steps - 1) for i in range(steps)})
    wanted = {step: data.batch(step).tokens for step in chosen}
    found = []
    for n in workers:
        read = _ahead(data.batch, chosen, n, 2 * n)
        found += [
            f"step {s}: {n} workers read other tokens" for s, b in read if not np.array_equal(b.tokens, wanted[s])
        ]
    for world in (w for w in WORLDS if data.order.batch % w == 0):
        for step, tokens in wanted.items():
            parts = [data.batch(step, rank, world).tokens for rank in range(world)]
            if not np.array_equal(np.concatenate(parts), tokens):
                found.append(f"step {step}: a world of {world} reads other tokens")
    return found
