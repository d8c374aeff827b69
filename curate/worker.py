"""What one worker does: one segment of one split, or one task of a barrier. No engine here.

A segment reads a split (or the spool of the segment before, with what the barrier between has found), runs its stages
on bounded batches, and commits documents, dropped records and, where a barrier follows, the keys for it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import resource
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.barriers import Applied, keys_out, run_phase
from curate.download import configure, share
from curate.errors import CurateError, SourceError, StageError, StoreError
from curate.exchange import Settings
from curate.members import Members
from curate.recipe import Recipe, Segment, digest
from curate.schema import DOCUMENT, DROPPED
from curate.stage import Outcome, Split, Stage, Tally
from curate.store import ArrowFile, Attempt, Commit, Corpus, tables


@dataclass(frozen=True)
class Job:
    """What all tasks of one run share. Sent to every worker once."""

    out: str
    recipe: Recipe
    requests: Settings | None = None  # how files on the web are asked for; None: after the environment

    @property
    def corpus(self) -> Corpus:
        """Where the run writes."""
        return Corpus(Path(self.out))

    @property
    def source(self) -> str:
        """Name of the source, and of its folder."""
        return self.recipe.source.name

    def run(self, task: Task) -> Result:
        """Do one task."""
        return run_task(self, task)


@dataclass(frozen=True)
class Group:
    """Splits that a barrier resolves together, in the order of their canonical names."""

    name: str
    units: tuple[str, ...]
    partitions: int


@dataclass(frozen=True)
class SegmentTask:
    """One segment of one split. `group`: that of the barrier at the start, `next_group`: that of the one at the end."""

    segment: int
    split: Split
    fingerprint: str
    group: Group | None = None
    next_group: Group | None = None


@dataclass(frozen=True)
class ResolveTask:
    """One task of a phase of the barrier at the end of `segment`, for one group."""

    segment: int
    group: Group
    phase: str
    index: int
    fingerprint: str


Task = SegmentTask | ResolveTask


def sealed(base: str, input_digest: str) -> str:
    """Fingerprint of a commit: that of the task, with the digest of the split that was read."""
    return digest([base, input_digest])


@dataclass
class Result:
    """What the driver is told about a finished task."""

    task: Any  # what was asked for
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # CPU time of this process
    wall: float = 0.0  # seconds on the clock
    rss: int = 0  # bytes, largest so far
    input_digest: str = ""
    identity: list[int] | None = None  # of the file that was read, taken before


def identity(path: str) -> list[int] | None:
    """What the file system says of a local file; it moves when the content does. None for a remote one."""
    if "://" in path:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return _folder_identity(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _folder_identity(path: str) -> list[int]:
    """Files of a folder, and a digest of what the file system says of each of them."""
    count, seen = 0, hashlib.blake2b(digest_size=8)
    for place, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            about = os.lstat(os.path.join(place, name))
            line = f"{place}/{name}\0{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}\n"
            seen.update(line.encode("utf-8", "surrogateescape"))
            count += 1
    return [count, int(seen.hexdigest(), 16)]


def run_task(job: Job, task: Task) -> Result:
    """Run one task and commit what it makes."""
    work = run_resolve if isinstance(task, ResolveTask) else run_segment
    return measured(job.out, job.requests, lambda: work(job, task))  # type: ignore[arg-type]


def measured(out: str, requests: Settings | None, work: Callable[[], Result]) -> Result:
    """Do some work as a worker of one core; its result says what it took."""
    started, clock = time.process_time(), time.monotonic()
    pa.set_cpu_count(1)  # a worker is one core
    _lean_memory()
    configure(requests)
    share(f"{out}/runs/requests")  # one limit for the requests of all workers
    result = work()
    result.seconds, result.wall = time.process_time() - started, time.monotonic() - clock
    result.rss = _peak_rss()
    return result


@functools.cache
def _lean_memory() -> None:
    """Of Arrow's allocators jemalloc leaves a worker smallest at the same speed (484 MiB against 611; DECISIONS 11)."""
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Counts:
    """The account of one unit, carried from segment to segment in the commit records."""

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        self.dropped: Counter[str] = Counter((before or {}).get("dropped", {}))
        self.flow: list[list[Any]] = [list(x) for x in (before or {}).get("flow", [])]
        self.before = before or {}

    def add_flow(self, stage: str, documents: int, kept: int) -> None:
        """Documents that came to a stage and that it kept."""
        for row in self.flow:
            if row[0] == stage:
                row[1], row[2] = row[1] + documents, row[2] + kept
                return
        self.flow.append([stage, documents, kept])

    def record(self, tally: Tally | None, kept: int, text_bytes: int) -> dict[str, Any]:
        """As it stands in a commit record; raises where it does not balance."""
        if tally is not None:
            failed = Counter(reason for _, _, reason, _ in tally.failed)
            read = sum(self.dropped.values()) + kept
            base: dict[str, Any] = {
                "records_in": read + len(tally.failed) + sum(tally.skipped.values()) + tally.merged,
                "bytes_in": tally.bytes_in,
                "merged": tally.merged,
                "failed": dict(sorted(failed.items())),
                "skipped": dict(sorted(tally.skipped.items())),
                "flags": dict(sorted(tally.flags.items())),
                "damage": tally.damage,
            }
        else:
            base = dict(self.before)
        base |= {"kept": kept, "text_bytes_kept": text_bytes, "dropped": dict(sorted(self.dropped.items()))}
        base["flow"] = self.flow
        if not balances(base):
            raise StoreError(f"the account of a unit does not balance: {base}")
        return base


def balances(counts: dict[str, Any]) -> bool:
    """records_in = kept + failed + merged + skipped + dropped."""
    parts = sum(sum(counts[k].values()) for k in ("failed", "skipped", "dropped"))
    return bool(counts["records_in"] == counts["kept"] + counts["merged"] + parts)


def run_segment(job: Job, task: SegmentTask) -> Result:
    """Read, run the stages, and commit documents, dropped records and keys."""
    segment = job.recipe.segments()[task.segment]
    last = segment.end is None
    corpus = job.corpus
    folder = corpus.final(job.source) if last else corpus.segment(job.source, segment.number)
    before = None if segment.number == 0 else _previous(job, task, segment.number - 1)
    as_found = identity(task.split.path) if before is None else None
    counts, tally = Counts(before.record["counts"] if before else None), None if before else Tally()
    with Attempt(folder, task.split.unit) as attempt:
        if tally is not None:
            tally.scratch = str(attempt.path)
        schema = job.recipe.schema if last else job.recipe.schema_before(job.recipe.segments()[segment.number + 1])
        documents = attempt.arrow("documents", schema, "zstd" if last else "lz4")
        dropped = attempt.arrow("dropped", DROPPED)
        keys = keys_out(attempt, segment.end, task.next_group.partitions) if segment.end and task.next_group else None
        written = 0
        for table in _input(job, task, segment, before, tally, dropped, counts):
            table = _run_stages(segment.stages, table, dropped, counts, task.split.unit)
            written += text_bytes(table)
            if keys is not None:
                keys.add(table)
            documents.write(conform(table, schema))
        if tally is not None:
            if identity(task.split.path) != as_found:
                raise SourceError(f"{task.split.name}: changed while it was read; run again when it is whole")
            _write_failed(dropped, tally)
        if keys is not None:
            keys.finish()
        found = tally.input_digest if tally is not None else str(before.record["input"]) if before else ""
        record = {
            "name": task.split.name,
            "source": job.source,
            "recipe": job.recipe.fingerprint,
            "fingerprint": sealed(task.fingerprint, found),
            "input": found,
            "counts": counts.record(tally, documents.rows, written),
        }
        commit = attempt.commit(record)
    return Result(task, commit.record["counts"], input_digest=str(commit.record["input"]), identity=as_found)


def _previous(job: Job, task: SegmentTask, number: int) -> Commit:
    commit = job.corpus.segment(job.source, number).latest(task.split.unit)
    if commit is None:
        raise StoreError(f"{task.split.name}: what segment {number} made of it is gone from the spool; run again")
    return commit


def _input(
    job: Job,
    task: SegmentTask,
    segment: Segment,
    before: Commit | None,
    tally: Tally | None,
    dropped: ArrowFile,
    counts: Counts,
) -> Iterator[pa.Table]:
    """Tables of the split: from the source, or from the spool with the barrier's answers applied."""
    if before is None:
        assert tally is not None
        for table in job.recipe.source.read(task.split, tally):
            counts.add_flow("read", table.num_rows, table.num_rows)
            yield table
        return
    assert segment.start is not None and task.group is not None
    _copy(before, "dropped", dropped)
    members = members_of(job, segment.number - 1, task.group)
    applied = Applied(segment.start, members, task.group.units.index(task.split.unit))
    for table in tables(before, "documents"):
        outcome = applied.next(table)
        yield settle(segment.start.name, segment.start.reasons, table, outcome, dropped, counts)


def members_of(job: Job, number: int, group: Group) -> Members:
    """The units of a group, as the barrier at the end of segment `number` sees them."""
    folder = job.corpus.segment(job.source, number)

    @functools.cache
    def keyed(unit: str) -> Commit:
        commit = folder.latest(unit)
        if commit is None:
            raise StoreError(f"unit {unit}: its keys are gone from the spool; run again")
        return commit

    answers = job.corpus.answers(job.source, number, group.name)
    return Members(group.units, group.partitions, keyed, lambda unit: tables(keyed(unit), "documents"), answers)


def _copy(commit: Commit, kind: str, file: ArrowFile) -> None:
    for table in tables(commit, kind):
        file.write(table)


def _run_stages(stages: tuple[Stage, ...], table: pa.Table, dropped: ArrowFile, counts: Counts, unit: str) -> pa.Table:
    for stage in stages:
        if table.num_rows == 0:
            counts.add_flow(stage.name, 0, 0)
            continue
        try:
            outcome = stage(table)
        except (CurateError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise StageError(f"{type(error).__name__}: {error}", stage.name, unit) from error
        undeclared = set(outcome.columns) - {*DOCUMENT.names, *(f.name for f in stage.writes)}
        if undeclared:
            raise StageError(f"writes {sorted(undeclared)[0]!r}, which it does not declare", stage.name, unit)
        try:
            table = settle(stage.name, stage.reasons, table, outcome, dropped, counts)
        except (pa.ArrowInvalid, TypeError, ValueError, KeyError) as error:  # an error of the disk is none of these
            raise StageError(f"{type(error).__name__}: {error}", stage.name, unit) from error
        if table["text"].null_count or table["doc_id"].null_count:
            raise StageError("gave documents without a text or an id", stage.name, unit)
    return table


def settle(
    name: str, reasons: tuple[str, ...], table: pa.Table, outcome: Outcome, dropped: ArrowFile, counts: Counts
) -> pa.Table:
    """Take up new columns, move the rows that have a reason to the ledger, and count."""
    for column, values in outcome.columns.items():
        if len(values) != table.num_rows:
            raise StageError(f"gave {len(values)} values of {column} for {table.num_rows} documents", name)
        at = table.schema.get_field_index(column)
        table = table.append_column(column, values) if at < 0 else table.set_column(at, column, values)
    came = table.num_rows
    if outcome.reason is not None and outcome.reason.null_count < came:
        goes = pc.is_valid(outcome.reason)
        _write_dropped(name, reasons, table, outcome, goes, dropped, counts)
        table = table.filter(pc.invert(goes))
    counts.add_flow(name, came, table.num_rows)
    return table


def _write_dropped(
    name: str,
    reasons: tuple[str, ...],
    table: pa.Table,
    outcome: Outcome,
    goes: pa.Array | pa.ChunkedArray,
    dropped: ArrowFile,
    counts: Counts,
) -> None:
    assert outcome.reason is not None
    reason = outcome.reason.filter(goes)
    rows = table.select(["doc_id", "url"]).filter(goes)
    value = outcome.value.filter(goes) if outcome.value is not None else pa.nulls(len(reason), pa.string())
    for entry in pc.value_counts(reason.cast(pa.string())).to_pylist():
        if entry["values"] not in reasons:
            raise StageError(f"gave the reason {entry['values']!r}, which it does not declare", name)
        counts.dropped[f"{name}:{entry['values']}"] += entry["counts"]
    columns = [rows["doc_id"], rows["url"], pa.array([name] * len(reason), pa.string()), reason, value]
    dropped.write(pa.table([_as(c, f.type) for c, f in zip(columns, DROPPED, strict=True)], schema=DROPPED))


def _write_failed(dropped: ArrowFile, tally: Tally) -> None:
    """Records lost to damage stand in the ledger too, under the stage "read"."""
    if tally.failed:
        ids, urls, reasons, values = zip(*tally.failed, strict=True)
        dropped.write(pa.table([ids, urls, ["read"] * len(ids), reasons, values], schema=DROPPED))


def _as(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a file, null where it has none."""
    columns = [
        _as(table[f.name], f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def text_bytes(table: pa.Table) -> int:
    """UTF-8 bytes of all texts."""
    return int(pc.sum(pc.binary_length(table["text"])).as_py() or 0)


def run_resolve(job: Job, task: ResolveTask) -> Result:
    """Do one task of a barrier, for all splits of a group in canonical order."""
    barrier = job.recipe.segments()[task.segment].end
    assert barrier is not None
    run_phase(barrier, members_of(job, task.segment, task.group), task.phase, task.index, task.fingerprint)
    return Result(task)
