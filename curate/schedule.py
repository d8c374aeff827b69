"""What is to be done, in which order: segments of splits and partitions of barriers, each when its inputs are there.

Two phases. `freeze` decides, from corpus.json and the splits of this run, which splits belong together at each
barrier. `Schedule` then finds what is already committed with the same fingerprint, and hands out the rest: earlier
groups first, and within a group later segments first, so that the spool stays small.

Fingerprints. A segment's is made of everything that shapes its output: source, stages, settings, code, models, the
group's members with their input digests; `Result.input_digest` of the split itself is added by the commit. So a
changed byte in one file of a group makes the whole group stale, and nothing else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.barriers import Phase, phases, refuse_runaway
from curate.errors import RecipeError
from curate.members import phase_unit
from curate.recipe import Recipe, Segment, differences, digest
from curate.stage import Split
from curate.store import Commit
from curate.worker import Group, Job, ResolveTask, Result, SegmentTask, Task, members_of, sealed

INFLATE = 3.0  # gzip of crawl text


def partitions_for(stored_bytes: int, bytes_per_key: float, keys_per_partition: int) -> int:
    """Hash partitions for a group of this many stored (compressed) bytes: a power of two from 4 to 4,096."""
    wanted = stored_bytes * INFLATE / bytes_per_key / keys_per_partition
    count = 4
    while count < wanted and count < 4096:
        count *= 2
    return count


def freeze(manifest: dict[str, Any], recipe: Recipe, splits: Sequence[Split]) -> dict[str, list[Group]]:
    """Groups of each barrier, those of earlier runs as they are; new splits form new ones. Updates `manifest`."""
    entry = manifest["sources"].setdefault(recipe.source.name, {})
    entry["units"] = sorted({*entry.get("units", ()), *(s.unit for s in splits)})
    groups: dict[str, list[Group]] = {}
    for segment in recipe.segments():
        barrier = segment.end
        if barrier is None:
            continue
        scope = barrier.group_size or "run"
        known = entry.setdefault("groups", {}).get(barrier.name, {})
        if known.get("scope") != scope:
            known = {"scope": scope, "groups": []}
        taken = {unit for g in known["groups"] for unit in g["units"]}
        new = [s for s in sorted(splits, key=lambda s: s.name) if s.unit not in taken]
        size = barrier.group_size or max(1, len(new))
        for i in range(0, len(new), size):
            part = new[i : i + size]
            stored = sum(s.bytes or 0 for s in part)
            partitions = partitions_for(stored, barrier.bytes_per_key, barrier.keys_per_partition)
            known["groups"].append({"units": [s.unit for s in part], "partitions": partitions})
        entry["groups"][barrier.name] = known
        groups[barrier.name] = [Group(digest(g["units"]), tuple(g["units"]), g["partitions"]) for g in known["groups"]]
    return groups


def _members(group: Group, inputs: dict[str, str]) -> str:
    """Digest of a group's members and of what was read of each."""
    return digest([[u, inputs[u]] for u in group.units])


@dataclass
class Schedule:
    """Hands out tasks and takes results."""

    job: Job
    splits: dict[str, Split]  # by unit: all that this run may have to read
    groups: dict[str, list[Group]]
    input_digest: Callable[[Split], str | None]  # of the file as it is now; None where only reading it can tell
    reused: int = 0
    stale: list[str] = field(default_factory=list)  # what changed since the commits that are redone
    remaining: int = 0  # tasks that are known and not finished
    done_units: set[str] = field(default_factory=set)
    retired: list[list[str]] = field(default_factory=list)  # units that shaped each other and are all done

    def __post_init__(self) -> None:
        self.segments: tuple[Segment, ...] = self.job.recipe.segments()
        self._shaped = [self.job.recipe.shaped_by(None if s.end is None else s.number) for s in self.segments]
        self._base = [digest(x) for x in self._shaped]
        self._heap: list[tuple[tuple[int, int, int], Task]] = []
        self._sequence = 0
        self._inputs: dict[str, str] = {}
        self._members: dict[str, str] = {}  # by group whose inputs are all known
        self._group_of = [
            {u: g for g in self.groups.get(s.end.name, []) for u in g.units} if s.end else {} for s in self.segments
        ]
        self._order = {g.name: i for gs in self.groups.values() for i, g in enumerate(gs)}
        self._left: dict[str, list[str]] = {}  # units that are not done, and the component of each
        self._count_left: dict[int, int] = {}
        self._open_units: dict[tuple[int, str], set[str]] = {}
        self._open_partitions: dict[tuple[int, str], set[int]] = {}
        self._begin()

    # -- what is there already ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        if len(self.segments) == 1:
            for unit in sorted(self.splits, key=lambda u: self.splits[u].name):
                self._start_alone(unit)
            return
        for units in self._components():
            self._start_together(units)

    def _components(self) -> list[list[str]]:
        """Units that shape each other through any barrier, those of this run and what their groups add."""
        seen: set[str] = set()
        entered: set[str] = set()
        components = []
        for start in sorted(self.splits, key=lambda u: self._order[self._group_of[0][u].name]):
            if start in seen:
                continue
            members, waiting = [], [start]
            seen.add(start)
            while waiting:
                unit = waiting.pop()
                members.append(unit)
                for groups in self._group_of:
                    group = groups.get(unit)
                    if group is not None and group.name not in entered:
                        entered.add(group.name)
                        near = [u for u in group.units if u not in seen]
                        seen.update(near)
                        waiting += near
            components.append(members)
        return components

    def _start_alone(self, unit: str) -> None:
        commit = self.job.corpus.final(self.job.source).latest(unit)
        if commit and self._fresh(commit, self._base[0], self._digest_of(unit, commit)):
            self._reuse(unit)
        else:
            self._note_stale([commit] if commit else [])
            self._push_segment(0, unit)

    def _start_together(self, units: list[str]) -> None:
        """Find how far each unit of a component has come."""
        self._left.update(dict.fromkeys(units, units))
        self._count_left[id(units)] = len(units)
        final = self.job.corpus.final(self.job.source)
        commits = {u: c for u in units if (c := final.latest(u)) is not None}
        if len(commits) == len(units):
            inputs = {u: self._digest_of(u, c) for u, c in commits.items()}
            groups = {g.name: g for u in units for by_unit in self._group_of if (g := by_unit.get(u))}
            members = {name: _members(g, inputs) for name, g in groups.items()}
            last = len(self.segments) - 1
            if all(self._fresh(c, self._segment_base(last, u, members), inputs[u]) for u, c in commits.items()):
                for unit in units:
                    self._reuse(unit)
                return
        self._refuse_missing([u for u in units if u not in self.splits], commits)
        self._note_stale(commits.values())
        for unit in sorted(units, key=lambda u: self.splits[u].name):
            commit = self.job.corpus.segment(self.job.source, 0).latest(unit)
            current = self._digest_of(unit, commit) if commit else None
            if commit and current and self._fresh(commit, self._base[0], current):
                self._segment_done(0, unit, str(commit.record["input"]))
            else:
                self._push_segment(0, unit)

    def _refuse_missing(self, missing: list[str], commits: dict[str, Commit]) -> None:
        if missing:
            names = sorted(str(commits[u].record["name"]) if u in commits else f"unit {u}" for u in missing)
            raise RecipeError(
                f"{len(missing)} files of a frozen group are not among the inputs, {names[0]} first; give them too, "
                "or another --out"
            )

    def _digest_of(self, unit: str, commit: Commit) -> str:
        """Digest of the input as it is now; that of the commit where the input is not at hand to compare."""
        split = self.splits.get(unit)
        return (self.input_digest(split) if split else None) or str(commit.record["input"])

    def _fresh(self, commit: Commit, base: str, current_input: str) -> bool:
        return commit.fingerprint == sealed(base, current_input) and not commit.problems(deep=False)

    def _reuse(self, unit: str) -> None:
        self.reused += 1
        self._done(unit)

    def _done(self, unit: str) -> None:
        self.done_units.add(unit)
        component = self._left.pop(unit, None)
        if component is not None:
            self._count_left[id(component)] -= 1
            if not self._count_left[id(component)]:
                self.retired.append(component)

    def _note_stale(self, commits: Iterable[Commit]) -> None:
        entry = self.job.corpus.manifest["sources"].get(self.job.source, {})
        for commit in commits:
            old = entry.get("shaped_by", {}).get(commit.record.get("recipe"))
            changed = differences(old, self._shaped[-1]) if old else []
            lines = changed or [f"input {commit.record['name']} changed, or another file of its group"]
            self.stale += [x for x in lines if x not in self.stale]

    # -- fingerprints --------------------------------------------------------------------------------------------

    def _segment_base(self, number: int, unit: str, members: dict[str, str]) -> str:
        """Fingerprint of segment `number` of a unit, the digest of the unit's own input left out."""
        passed = [members[self._group_of[k][unit].name] for k in range(number)]
        return digest([self._base[number], passed]) if passed else self._base[number]

    # -- handing out and taking back -------------------------------------------------------------------------------

    def groups_of(self, units: Iterable[str]) -> set[str]:
        """Names of the groups that some units are in."""
        return {g.name for u in units for by_unit in self._group_of if (g := by_unit.get(u))}

    def pop(self) -> Task | None:
        """The next task that can run now."""
        return heapq.heappop(self._heap)[1] if self._heap else None

    def __bool__(self) -> bool:
        return bool(self._heap)

    def _push(self, task: Task, order: tuple[int, int]) -> None:
        self._sequence += 1
        self.remaining += 1
        heapq.heappush(self._heap, ((*order, self._sequence), task))

    def _push_segment(self, number: int, unit: str) -> None:
        end, before = self._group_of[number].get(unit), self._group_of[number - 1].get(unit) if number else None
        first = self._group_of[0].get(unit)
        task = SegmentTask(number, self.splits[unit], self._segment_base(number, unit, self._members), before, end)
        self._push(task, (self._order[first.name] if first else 0, -number))

    def finished(self, result: Result) -> None:
        """Take a result; what it makes possible becomes ready."""
        self.remaining -= 1
        task = result.task
        if isinstance(task, SegmentTask):
            self._segment_done(task.segment, task.split.unit, result.input_digest)
        else:
            self._phase_done(task.segment, task.group, task.phase, task.index)

    def _segment_done(self, number: int, unit: str, input_digest: str) -> None:
        self._inputs[unit] = input_digest
        group = self._group_of[number].get(unit)
        if group is None:
            self._done(unit)
            return
        waiting = self._open_units.setdefault((number, group.name), set(group.units))
        waiting.discard(unit)
        if not waiting:
            self._push_barrier(number, group)

    def _push_barrier(self, number: int, group: Group) -> None:
        """All units of a group are there: resolve it, phase after phase."""
        self._members[group.name] = _members(group, self._inputs)
        self._push_phase(number, group, 0)

    def _phases(self, number: int, group: Group) -> list[Phase]:
        barrier = self.segments[number].end
        assert barrier is not None
        return phases(barrier, len(group.units), group.partitions)

    def _push_phase(self, number: int, group: Group, at: int) -> None:
        phase, count = self._phases(number, group)[at]
        self._open_partitions[number, group.name] = set(range(count))
        answers = self.job.corpus.answers(self.job.source, number, group.name)
        for i in range(count):
            base = digest([self._base[number], self._members[group.name], phase, i])
            commit = answers.latest(phase_unit(phase, i))
            if commit and commit.fingerprint == base and not commit.problems(deep=False):
                self._phase_done(number, group, phase, i)
            else:
                self._push(ResolveTask(number, group, phase, i, base), (self._order[group.name], -number))

    def _phase_done(self, number: int, group: Group, phase: str, index: int) -> None:
        waiting = self._open_partitions[number, group.name]
        waiting.discard(index)
        if waiting:
            return
        steps = self._phases(number, group)
        after = [name for name, _ in steps].index(phase) + 1
        if after < len(steps):
            self._push_phase(number, group, after)
            return
        barrier = self.segments[number].end
        assert barrier is not None
        refuse_runaway(barrier, members_of(self.job, number, group))
        for unit in group.units:
            self._advance(number + 1, unit)

    def _advance(self, number: int, unit: str) -> None:
        """A unit may enter a segment: reuse what is committed of it, or hand it out."""
        last = number == len(self.segments) - 1
        corpus, source = self.job.corpus, self.job.source
        commit = (corpus.final(source) if last else corpus.segment(source, number)).latest(unit)
        if commit and self._fresh(commit, self._segment_base(number, unit, self._members), self._inputs[unit]):
            self.reused += last
            self._segment_done(number, unit, self._inputs[unit])
        else:
            self._push_segment(number, unit)
