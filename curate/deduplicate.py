"""Removes duplicates from a finished corpus: a trial on a sample, the passes, and the account (`curate dedup`)."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.clustering import MANY
from curate.dedup.bands import explain
from curate.dedup.matching import with_score
from curate.dedup.near import Near
from curate.dedup.rehearsal import Trial, rehearse
from curate.engine import Asked, execute, kernels_of, note_metrics, stopping, warm_kernels
from curate.errors import RecipeError, RefusalError, StoreError, near
from curate.passes import PassJob, PassSchedule, check_scores, findings, finish, freeze, sample
from curate.progress import Progress
from curate.recipe import describe, part_module
from curate.report import account, plain, write_html
from curate.stage import Barrier, DuplicateBarrier
from curate.store import Corpus, gc, locked


@dataclass(frozen=True)
class Deduplicated:
    """What `dedup` did."""

    trials: tuple[Trial, ...]
    found: tuple[dict[str, Any], ...]  # barrier, documents, removed, largest clusters
    units: int  # committed again
    report: dict[str, Any] | None  # None after a dry run
    seconds: float
    peak_rss: int


def dedup(
    out: str | Path,
    barriers: Sequence[Barrier],
    *,
    sources: Sequence[str] = (),
    accept: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    address: str | None = None,
    engine: str = "ray",
    progress: Progress | None = None,
) -> Deduplicated:
    """Remove duplicates from a finished corpus, across `sources` (none: all), one barrier after the other.

    Each barrier is tried on a sample first; a trial that fails, or a full pass that finds something else than the
    trial let expect, is a RefusalError and nothing is changed, unless `accept`. `dry_run`: the trials alone.
    """
    _check(barriers, workers, engine)
    corpus = Corpus(Path(out).absolute())
    known = corpus.sources()
    if not (corpus.root / "corpus.json").is_file() or not known:
        raise StoreError(f"{out}: not a corpus (no commits there)")
    for source in sources:
        if source not in known:
            raise RecipeError(f"{out}: has no source {source!r}{near(source, known)}")
    name = time.strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    with locked(corpus.root, name), stopping():
        unfinished = [s for s in known if corpus.spool(s).exists()]
        if unfinished:
            raise StoreError(f"{out}: a run of {unfinished[0]} is not finished; run it to its end first")
        asked = _Pass(corpus, name, accept, dry_run, workers, address, engine, progress or Progress.silent())
        once = list(dict.fromkeys(sources))  # the documents of a source named twice are no copies of themselves
        return _dedup_locked(asked, barriers, once or known)


def _check(barriers: Sequence[Barrier], workers: int | None, engine: str) -> None:
    """RecipeError for what a pass cannot do."""
    if engine not in ("ray", "inline"):
        raise RecipeError(f"engine is {engine!r}, must be ray or inline")
    if workers is not None and workers < 1:
        raise RecipeError(f"--workers is {workers}, must be at least 1")
    if not barriers or len({b.name for b in barriers}) < len(barriers):
        raise RecipeError("give one barrier or more, each once")
    for barrier in barriers:
        if barrier.group_size is not None:
            raise RecipeError(f"{barrier.name}.scope is {barrier.group_size}: a finished corpus is seen as one, 'run'")


@dataclass(frozen=True)
class _Pass:
    corpus: Corpus
    name: str
    accept: bool
    dry_run: bool
    workers: int | None
    address: str | None
    engine: str
    progress: Progress


def _dedup_locked(p: _Pass, barriers: Sequence[Barrier], sources: Sequence[str]) -> Deduplicated:
    started = time.monotonic()
    kernels = kernels_of(["curate.passes", *map(part_module, barriers)])
    warm_kernels(kernels, p.progress)
    job = freeze(p.corpus, barriers, sources, keep=not p.dry_run)
    check_scores(job)
    trials = tuple(_trials(p, job))
    if p.dry_run:
        return Deduplicated(trials, (), 0, None, time.monotonic() - started, 0)
    found: list[dict[str, Any]] = []
    schedule = PassSchedule(job, functools.partial(_gate, p, trials, found), p.progress.note)
    seconds, peak, first = 0.0, 0, 0.0
    for result in execute(Asked(p.corpus, p.name, p.engine, p.workers, p.address), job, schedule, kernels):
        first = first or time.monotonic() - result.wall
        schedule.finished(result)
        seconds, peak = seconds + result.seconds, max(peak, result.rss)
    p.corpus.save_manifest(_with_pass(p.corpus, job, found))
    wall = time.monotonic() - first if first else 0.0
    note_metrics(
        p.corpus,
        p.name,
        {
            "source": "dedup",
            "pass": job.name,
            "engine": p.engine,
            "tasks": len(schedule.done),
            "core_seconds": round(seconds, 3),
            "task_seconds": round(wall, 3),
            "peak_rss": peak,
        },
    )
    finish(p.corpus)
    for source in sources:
        gc(p.corpus, source)
    report = account(p.corpus)
    write_html(p.corpus, report)
    units = sum(1 for r in schedule.done if r.task.kind == "commit" and r.counts)
    return Deduplicated(trials, tuple(found), units, report, time.monotonic() - started, peak)


def _trials(p: _Pass, job: PassJob) -> Iterator[Trial]:
    """Each barrier tried on what the ones before leave of a sample; RefusalError where one does not do as it should."""
    asked = {
        "doc_id",
        "url",
        "text",
        *(b.score.removeprefix("-") for b in job.barriers if isinstance(b, DuplicateBarrier)),
    }
    base = [t.select([c for c in t.column_names if c in asked]) for t in sample(job)]
    documents = job.documents
    for barrier in job.barriers:
        if not isinstance(barrier, DuplicateBarrier) or not documents:
            continue
        if isinstance(barrier, Near):
            p.progress.note(explain(barrier.threshold, barrier.permutations))
        trial, base = rehearse(barrier, [with_score(barrier, table) for table in base], documents)
        documents = round(documents * (1 - trial.removed / max(1, trial.sampled)))
        p.progress.note(trial.text())
        objection = trial.objection()
        if objection and not (p.accept or p.dry_run):
            raise RefusalError(f"{objection}; nothing was changed (--accept goes on)", barrier.name)
        yield trial


def _gate(p: _Pass, trials: Sequence[Trial], found: list[dict[str, Any]], job: PassJob) -> None:
    """All is found and nothing is changed yet: say what was found, and stop where it is not what was expected."""
    found += findings(job)
    by_name = {t.barrier: t for t in trials}
    for one in found:
        p.progress.note(f"{one['barrier']}: removes {one['removed']:,} of {one['documents']:,} documents")
        for cluster in one["largest"]:
            first, more = cluster["survivor"], cluster["size"] - 1 - len(cluster["removed"])
            p.progress.note(f"  {cluster['size']:,} alike; kept: {_named(first)} {plain(first['begins'])!r}")
            gone = ", ".join(map(_named, cluster["removed"])) + (f" and {more:,} more" if more else "")
            p.progress.note(f"    removed: {gone}")
        if one["barrier"] not in by_name:
            continue  # nothing to try it on
        surprise = by_name[one["barrier"]].surprise(one["removed"], one["documents"]) or _runaway(one, job)
        if surprise and not p.accept:
            raise RefusalError(f"{surprise}; nothing was changed (--accept goes on)", one["barrier"])


def _runaway(one: dict[str, Any], job: PassJob) -> str | None:
    """Why so much may not go, whatever a trial let expect; None where it may."""
    barrier = next(b for b in job.barriers if b.name == one["barrier"])
    assert isinstance(barrier, DuplicateBarrier)
    if one["documents"] < MANY or one["removed"] <= barrier.max_removed * one["documents"]:
        return None
    return (
        f"would remove {one['removed']:,} of {one['documents']:,} documents, more than "
        f"{barrier.name}.max_removed={barrier.max_removed:g} allows"
    )


def _named(document: dict[str, str]) -> str:
    return plain(document["url"]) or document["doc_id"]


def _with_pass(corpus: Corpus, job: PassJob, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """corpus.json with the history of its passes."""
    manifest = corpus.manifest
    done = {"name": job.name, "barriers": [describe(b) for b in job.barriers], "found": list(found)}
    manifest["passes"] = [x for x in manifest.get("passes", []) if x["name"] != job.name] + [done]
    return manifest
