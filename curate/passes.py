"""Later passes over a finished corpus: barriers applied to what is committed, across sources.

`curate dedup DIR` freezes which units it reads, works each barrier on what the ones before have left, and last commits
the units that lose something again, as their next generation (house.md 3): documents/ always holds what is kept. A pass
that is stopped goes on with the same units; one whose settings or units have changed begins anew.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.barriers import Applied, Phase, keys_out, phases, run_phase
from curate.clustering import largest, outcome
from curate.dedup.matching import with_score
from curate.errors import RecipeError, StoreError, near
from curate.exchange import Settings
from curate.members import Members, phase_unit
from curate.recipe import describe, digest
from curate.schema import DROPPED
from curate.stage import Barrier, DuplicateBarrier
from curate.store import Attempt, Commit, Corpus, Folder, read_json, replace_file, tables, to_json
from curate.worker import Counts, Result, conform, measured, settle, text_bytes

SAMPLE_BYTES = 64 << 20  # of documents that a barrier is tried on
SAMPLE_UNITS = 16
DOCUMENT_BYTES = 3000  # of text, about: what `bytes_per_key` of a barrier with so many keys a document counts with


@dataclass(frozen=True)
class Unit:
    """One committed unit as a pass found it."""

    source: str
    unit: str
    generation: int
    name: str  # canonical upstream name: with the source's, what the order is made of
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class PassJob:
    """What all tasks of a pass share. Sent to every worker once."""

    out: str
    name: str  # digest of settings and units
    barriers: tuple[Barrier, ...]
    partitions: tuple[int, ...]  # a barrier
    units: tuple[Unit, ...]  # in canonical order
    requests: Settings | None = None

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(u.documents for u in self.units)

    @property
    def corpus(self) -> Corpus:
        """The corpus."""
        return Corpus(Path(self.out))

    @property
    def spool(self) -> Path:
        """Where the pass keeps what it works with."""
        return self.corpus.root / "runs" / "pass"

    def folder(self, kind: str) -> Folder:
        """Where the tasks of one kind commit."""
        return Folder(self.spool / self.name / kind, self.spool / "attempts")

    def members(self, number: int) -> Members:
        """All units, as barrier `number` sees them."""
        keyed = functools.cache(functools.partial(self._keyed, number))
        places = {_key(i): i for i in range(len(self.units))}
        return Members(
            tuple(places),
            self.partitions[number],
            keyed,
            lambda unit: (table for table, _ in self.remaining(places[unit], number)),
            self.folder(f"found-{number}"),
        )

    def _keyed(self, number: int, unit: str) -> Commit:
        commit = self.folder(f"keys-{number}").latest(unit)
        if commit is None:
            raise StoreError(f"{self.spool}: the keys of unit {unit} are gone; run again")
        return commit

    def committed(self, place: int) -> Commit:
        """A unit as the pass found it."""
        unit = self.units[place]
        return self.corpus.final(unit.source).commit(unit.unit, unit.generation)

    def remaining(self, place: int, number: int) -> Iterator[tuple[pa.Table, list[tuple[Barrier, pa.Table, Any]]]]:
        """(what barrier `number` still sees of a table, what those before have made of it), table after table."""
        applied = [Applied(b, self.members(k), place) for k, b in enumerate(self.barriers[:number])]
        for table in tables(self.committed(place), "documents"):
            steps = []
            for one in applied:
                made = one.next(table)
                steps.append((one.barrier, table, made))
                table = _left(table, made)
            yield table, steps

    def run(self, task: PassTask) -> Result:
        """Do one task."""
        return measured(self.out, self.requests, lambda: self._run(task))

    def _run(self, task: PassTask) -> Result:
        if task.kind == "keys":
            _emit(self, task)
        elif task.kind == "commit":
            return Result(task, commit_again(self, task.index))
        else:
            run_phase(self.barriers[task.number], self.members(task.number), task.kind, task.index, task.fingerprint)
        return Result(task)


@dataclass(frozen=True)
class PassTask:
    """One task: "keys" or "commit" of a unit, or one of a phase of barrier `number`."""

    kind: str
    number: int
    index: int
    fingerprint: str = ""


def _key(place: int) -> str:
    """Name in the spool of a unit: units of two sources may have one name."""
    return f"{place:012x}"


def _left(table: pa.Table, made: Any) -> pa.Table:
    for column, values in made.columns.items():
        at = table.schema.get_field_index(column)
        table = table.append_column(column, values) if at < 0 else table.set_column(at, column, values)
    return table if made.reason is None else table.filter(made.reason.is_null())


def _emit(job: PassJob, task: PassTask) -> None:
    barrier = job.barriers[task.number]
    with Attempt(job.folder(f"keys-{task.number}"), _key(task.index)) as attempt:
        if task.number == 0:
            _must_be_sound(job.committed(task.index))
        keys = keys_out(attempt, barrier, job.partitions[task.number])
        for table, _ in job.remaining(task.index, task.number):
            keys.add(with_score(barrier, table) if isinstance(barrier, DuplicateBarrier) else table)
        keys.finish()
        attempt.commit({"fingerprint": task.fingerprint})


def _must_be_sound(commit: Commit) -> None:
    """StoreError where a file is not what was committed: to commit it again would call the damage sound."""
    problems = commit.problems()
    if problems:
        raise StoreError(f"{problems[0]}; nothing was changed (curate verify names all)")


def commit_again(job: PassJob, place: int) -> dict[str, Any]:
    """Commit what is left of a unit as its next generation; {} where nothing has changed."""
    unit, before = job.units[place], job.committed(place)
    folder = replace(job.corpus.final(unit.source), attempts=job.spool / "attempts")
    counts = Counts(before.record["counts"])
    written, changed = 0, False
    with Attempt(folder, unit.unit) as attempt:
        schema = before.open("documents").schema
        documents, dropped = attempt.arrow("documents", schema), attempt.arrow("dropped", DROPPED)
        for table in tables(before, "dropped"):
            dropped.write(table)
        for table, steps in job.remaining(place, len(job.barriers)):
            for barrier, came, made in steps:
                settle(barrier.name, barrier.reasons, came, made, dropped, counts)
                changed |= bool(made.columns) or (made.reason is not None and made.reason.null_count < len(came))
            documents.write(conform(table, schema))
            written += text_bytes(table)
        if not changed:
            return {}
        made_of = {k: v for k, v in before.record.items() if k not in ("files", "unit", "generation")}
        record = {
            **made_of,
            "counts": counts.record(None, documents.rows, written),
            "passes": [*before.passes, job.name],
        }
        return dict(attempt.commit(record).record["counts"])


# -- the order of work -------------------------------------------------------------------------------------------------


def freeze(corpus: Corpus, barriers: Sequence[Barrier], sources: Sequence[str], keep: bool = True) -> PassJob:
    """The job of a pass: one that was stopped, where its settings and its units are still these, else a new one.

    `keep`: it will be worked. Else nothing is written, and what a stopped pass has made stays.
    """
    units = sorted(
        (
            Unit(
                s,
                c.unit,
                c.generation,
                str(c.record["name"]),
                int(c.record["counts"]["kept"]),
                int(c.record["counts"]["text_bytes_kept"]),
            )
            for s in sources
            for c in corpus.commits(s)
        ),
        key=lambda u: (u.source, u.name, u.unit),
    )
    settings = [describe(b) for b in barriers]
    path = corpus.root / "runs" / "pass.json"
    before = read_json(path) if path.exists() else None
    if before is not None and before["settings"] == settings:
        stopped = [Unit(*u) for u in before["units"]]
        if len(stopped) == len(units) and all(map(functools.partial(_is_ours, corpus, before["name"]), stopped, units)):
            return _job(corpus, barriers, stopped, str(before["name"]))
    facts = [[u.source, u.unit, u.generation, u.name, u.documents, u.text_bytes] for u in units]
    name = digest([settings, facts])
    if not keep:
        return _job(corpus, barriers, units, name)
    shutil.rmtree(corpus.root / "runs" / "pass", ignore_errors=True)
    replace_file(path, to_json({"name": name, "settings": settings, "units": facts}))
    return _job(corpus, barriers, units, name)


def check_scores(job: PassJob) -> None:
    """RecipeError where no source, and no barrier before it, has the column that a barrier takes for its score."""
    written: set[str] = set()
    for barrier in job.barriers:
        name = barrier.score.removeprefix("-") if isinstance(barrier, DuplicateBarrier) and barrier.score else None
        if name is not None and name not in written and job.units:
            seen: set[str] = set()
            for place in range(len(job.units)):
                seen.update(job.committed(place).open("documents").schema.names)
                if name in seen:
                    break
            else:
                raise RecipeError(f"{barrier.name}.score: documents have no column {name!r}{near(name, seen)}")
        written.update(f.name for f in barrier.writes)


def _is_ours(corpus: Corpus, name: str, then: Unit, now: Unit) -> bool:
    """Whether a unit is as it was, or has been committed again by the same pass."""
    if then == now:
        return True
    if (then.source, then.unit) != (now.source, now.unit):
        return False
    return name in corpus.final(now.source).commit(now.unit, now.generation).passes


def _job(corpus: Corpus, barriers: Sequence[Barrier], units: Sequence[Unit], name: str) -> PassJob:
    documents, text = sum(u.documents for u in units), sum(u.text_bytes for u in units)
    partitions = tuple(_partitions(b, documents, text) for b in barriers)
    return PassJob(str(corpus.root), name, tuple(barriers), partitions, tuple(units))


def _partitions(barrier: Barrier, documents: int, text_bytes: int) -> int:
    """Hash partitions, a power of two from 4 to 4,096, so that one partition's keys fit into memory.

    Some barriers have so many keys a document and some so many a byte of text: the larger number is planned for. With
    48 bytes a key of one partition, a barrier with one key a document takes at most 12 bytes a document.
    """
    one_key = isinstance(barrier, DuplicateBarrier) and barrier.one_key
    keys = documents if one_key else max(documents * DOCUMENT_BYTES, text_bytes) / barrier.bytes_per_key
    count = 4
    while count * barrier.keys_per_partition < keys and count < 4096:
        count *= 2
    return count


@dataclass
class PassSchedule:
    """Hands out the tasks of a pass, phase after phase; what is committed already is not done again."""

    job: PassJob
    gate: Callable[[PassJob], None]  # called when all is found and nothing is committed yet; may refuse
    note: Callable[[str], None]
    done: list[Result] = field(default_factory=list)
    remaining: int = 0

    def __post_init__(self) -> None:
        self._ready: list[PassTask] = []
        self._steps = self._all_steps()
        self._open = 0
        self._go_on()

    def _all_steps(self) -> list[tuple[int, Phase]]:
        units, steps = len(self.job.units), []
        for number, barrier in enumerate(self.job.barriers):
            steps.append((number, ("keys", units)))
            steps += [(number, phase) for phase in phases(barrier, units, self.job.partitions[number])]
        return [*steps, (len(self.job.barriers), ("commit", units))]

    def _go_on(self) -> None:
        while not self._open and self._steps:
            number, (kind, count) = self._steps.pop(0)
            if kind == "commit":
                self.gate(self.job)
            tasks = [PassTask(kind, number, i, digest([self.job.name, number, kind, i])) for i in range(count)]
            self._ready = [t for t in reversed(tasks) if not self._is_done(t)]
            self._open = len(self._ready)
            if self._ready:
                name = self.job.barriers[number].name if number < len(self.job.barriers) else "all"
                self.note(f"{name}: {kind}, {len(self._ready):,} of {count:,} tasks")
            self.remaining = self._open

    def _is_done(self, task: PassTask) -> bool:
        if task.kind == "commit":
            unit = self.job.units[task.index]
            commit = self.job.corpus.final(unit.source).latest(unit.unit)
            return commit is not None and self.job.name in commit.passes
        folder = self.job.folder(f"keys-{task.number}" if task.kind == "keys" else f"found-{task.number}")
        found = folder.latest(_key(task.index) if task.kind == "keys" else phase_unit(task.kind, task.index))
        return found is not None and found.fingerprint == task.fingerprint and not found.problems(deep=False)

    def __bool__(self) -> bool:
        return bool(self._ready)

    def pop(self) -> PassTask | None:
        """The next task that can run now."""
        return self._ready.pop() if self._ready else None

    def finished(self, result: Result) -> None:
        """Take a result; the next phase begins when all of this one is there."""
        self.done.append(result)
        self._open -= 1
        self.remaining -= 1
        if not self._open:
            self._go_on()


def sample(job: PassJob) -> list[pa.Table]:
    """About SAMPLE_BYTES of documents, the first tables of units spread over the corpus; all where that is less."""
    step = max(1, len(job.units) // SAMPLE_UNITS)
    places = [*range(0, len(job.units), step), *(p for p in range(len(job.units)) if p % step)]
    found, size = [], 0
    for place in places:
        _must_be_sound(job.committed(place))
        for table in tables(job.committed(place), "documents"):
            found.append(table)
            size += table.nbytes
            if size >= SAMPLE_BYTES:
                return found
            if step > 1:
                break  # of many units the first table each
    return found


def findings(job: PassJob) -> list[dict[str, Any]]:
    """What each barrier of duplicates will remove, once all is found."""
    found = []
    for number, barrier in enumerate(job.barriers):
        if isinstance(barrier, DuplicateBarrier):
            members = job.members(number)
            total, removed = outcome(barrier, members)
            one = {"barrier": barrier.name, "documents": total, "removed": removed}
            found.append({**one, "largest": largest(barrier, members)})
    return found


def finish(corpus: Corpus) -> None:
    """Remove what a finished pass no longer needs."""
    shutil.rmtree(corpus.root / "runs" / "pass", ignore_errors=True)
    (corpus.root / "runs" / "pass.json").unlink(missing_ok=True)
