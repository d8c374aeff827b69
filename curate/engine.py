"""Runs a recipe: on Ray (a local cluster, or one to join) or inline. Ray is imported here and nowhere else."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Protocol

from curate.packages import claim

claim()  # on the driver and, since tasks are imported from here, on every worker; before ours are imported

# ruff: noqa: E402
from curate.adopt import resolve_models
from curate.download import configure
from curate.download import settings as settings_of_requests
from curate.errors import CurateError, RecipeError, SourceError, StageError, StoreError, near
from curate.exchange import Settings
from curate.io import named
from curate.progress import Progress
from curate.recipe import OURS, Recipe, modules_of, part_module
from curate.report import account, write_html
from curate.schedule import Schedule, freeze
from curate.stage import Split, Stage
from curate.store import (
    Corpus,
    clean_spool,
    disk_errors,
    drop_spool,
    file_digest,
    gc,
    locked,
    probe,
    read_json,
    replace_file,
    to_json,
)
from curate.worker import Job, Result, identity
from sources.dumps import BASE, listing

TASK_RETRIES = 3  # of a task whose worker died; an error in our code or in the data is not retried


class Interrupted(CurateError):
    """Stopped by a signal; the same command goes on from here."""

    exit_code = 4


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    out: Path
    report: dict[str, Any]  # the contract of `curate report --json`
    units_done: int
    units_reused: int
    stale: tuple[str, ...]
    seconds: float
    peak_rss: int  # bytes, of the largest worker
    lacking: tuple[str, ...] = ()  # what ran without its model


def run(
    recipe: Recipe | str,
    inputs: Sequence[str] = (),
    *,
    out: str | Path = "corpus",
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    engine: str = "ray",
    pipelines: str = "pipelines.llama",
    strict: bool = False,
    dump: str | None = None,
    base: str = BASE,
    allow_private: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run a recipe on inputs (none: the embedded sample) and commit a corpus in `out`.

    `settings` are `{"stage.setting": value}`; `limit` takes the first files only, in the order of their names;
    `workers` are processes of one core each (default: all cores); `engine` is "ray" or "inline" (this process alone);
    `strict` refuses to run where a stage lacks its model. `dump` names a crawl of Common Crawl whose files are read in
    place of inputs, from `base`; addresses of private networks are refused unless `allow_private`.
    Raises a CurateError for a mistake of the user; running again goes on where a run was stopped.
    """
    if engine not in ("ray", "inline"):
        raise RecipeError(f"engine is {engine!r}, must be ray or inline")
    if workers is not None and workers < 1:
        raise RecipeError(f"--workers is {workers}, must be at least 1")
    if isinstance(recipe, str):
        recipe = find_recipe(recipe, pipelines)
    recipe = _with_absolute_files(recipe.with_settings(settings or {}))
    requests = request_settings(allow_private, workers)
    splits = plan(recipe, inputs, dump, base, limit)
    root = Path(out).absolute()
    probe(root)
    name = time.strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    with locked(root, name), stopping():
        is_sample = not inputs and dump is None
        asked = _Run(
            Corpus(root), name, recipe, splits, is_sample, strict, requests, workers, address, engine, progress
        )
        return _run_locked(asked)


@dataclass(frozen=True)
class _Run:
    corpus: Corpus
    name: str
    recipe: Recipe
    splits: list[Split]
    is_sample: bool  # no input was given: the embedded sample
    strict: bool
    requests: Settings
    workers: int | None
    address: str | None
    engine: str
    progress: Progress | None


def _run_locked(r: _Run) -> Outcome:
    started, progress = time.monotonic(), r.progress or Progress.silent()
    warm_kernels(kernel_modules(r.recipe), progress)
    with disk_errors(r.corpus.root):
        if r.recipe.sample_models is not None and r.is_sample:
            r.recipe.sample_models(r.recipe, r.splits, r.corpus.root, progress.note)
        recipe, lacking = resolve_models(r.recipe, r.corpus, r.splits, r.strict, progress.note)
    _try_on_nothing(recipe)
    manifest = r.corpus.manifest
    groups = freeze(manifest, recipe, r.splits)
    _note_recipe(manifest, recipe, lacking)
    identities = _Identities(r.corpus)
    job = Job(str(r.corpus.root), recipe, r.requests)
    schedule = Schedule(job, {s.unit: s for s in r.splits}, groups, identities.digest)
    r.corpus.save_manifest(manifest)
    progress.begin(recipe, r.splits, schedule.reused, schedule.stale, r.corpus.root)
    for line in lacking:
        progress.note(line)
    seconds, peak, tasks, first = 0.0, 0, 0, 0.0
    asked = Asked(r.corpus, r.name, r.engine, r.workers, r.address)
    try:
        for result in execute(asked, job, schedule, kernel_modules(recipe)):
            first = first or time.monotonic() - result.wall
            schedule.finished(result)
            _drop_retired(schedule, r.corpus, recipe)
            identities.remember(result)
            seconds, peak, tasks = seconds + result.seconds, max(peak, result.rss), tasks + 1
            progress.finished(result, schedule.remaining)
    finally:
        progress.end()
        identities.save()
        wall = time.monotonic() - first if tasks else 0.0  # from the start of the first task, the cluster being up
        _note_timing(r, recipe, seconds, wall, peak, tasks)
    clean_spool(r.corpus, recipe.source.name)
    gc(r.corpus, recipe.source.name)
    report = account(r.corpus)
    write_html(r.corpus, report)
    done = len(schedule.done_units) - schedule.reused
    seconds, stale = time.monotonic() - started, tuple(schedule.stale)
    return Outcome(r.corpus.root, report, done, schedule.reused, stale, seconds, peak, tuple(lacking))


def request_settings(allow_private: bool = False, workers: int | None = None) -> Settings:
    """How files on the web are asked for in this run, here and in every worker."""
    configure(None)
    chosen = settings_of_requests()
    slots = max(chosen.leases.max_connections, workers or 0)  # a slot is held for as long as its file streams
    chosen = replace(chosen, leases=replace(chosen.leases, max_connections=slots))
    chosen = replace(chosen, allow_private=allow_private or chosen.allow_private)
    configure(chosen)
    return chosen


def plan(
    recipe: Recipe, inputs: Sequence[str], dump: str | None, base: str = BASE, limit: int | None = None
) -> list[Split]:
    """What a run reads: the inputs, a whole crawl, or the embedded sample."""
    if limit is not None and limit < 1:
        raise RecipeError(f"--limit is {limit}, must be at least 1")
    if dump is None:
        splits = _planned(recipe, inputs)[:limit]
    elif inputs:
        raise RecipeError("give inputs or --dump, not both")
    else:
        splits = listing(dump, getattr(recipe.source, "kind", "wet"), base, limit)
    if not splits:
        raise RecipeError("nothing to read: no input file")
    # Workers stand in another directory than the user.
    return [s if "://" in s.path else replace(s, path=os.path.abspath(s.path)) for s in splits]


def _planned(recipe: Recipe, inputs: Sequence[str]) -> list[Split]:
    """What a source makes of the user's inputs; only whole files, whose names can be written down."""
    names = [inputs] if isinstance(inputs, str) else [os.fspath(x) for x in inputs]
    if "" in names:
        raise RecipeError("an input is empty (an unset variable, perhaps)")
    try:
        splits = recipe.source.plan(names)
    except (OSError, RuntimeError, ValueError) as error:
        raise RecipeError(f"cannot read the inputs: {error}") from error
    for split in splits:
        if os.path.exists(split.path) and not os.path.isfile(split.path) and not os.path.isdir(split.path):
            raise RecipeError(f"{split.path}: not a regular file; a stream can be read only once")
    return [replace(s, name=s.name.encode("utf-8", "backslashreplace").decode()) for s in splits]


def _with_absolute_files(recipe: Recipe) -> Recipe:
    """Files that settings name, as paths that mean the same in every worker."""
    for step in recipe.steps:
        if isinstance(step, Stage):
            named_files = {k: v for k, v in step.settings if k in step.files and v is not None}
            if named_files:
                absolute = {k: os.path.abspath(v) for k, v in named_files.items()}
                recipe = recipe.with_stage(step.with_settings(**absolute))
    return recipe


def _try_on_nothing(recipe: Recipe) -> None:
    """Run every stage on no document: a setting that it refuses is told before anything is read."""
    for segment in recipe.segments():
        empty = recipe.schema_before(segment).empty_table()
        for step in segment.stages:
            if part_module(step).split(".")[0] not in OURS:
                return  # a stage of the user's need not know what to do with nothing
            outcome = step(empty)
            for name, values in outcome.columns.items():
                at = empty.schema.get_field_index(name)
                empty = empty.append_column(name, values) if at < 0 else empty.set_column(at, name, values)


def _drop_retired(schedule: Schedule, corpus: Corpus, recipe: Recipe) -> None:
    """Make room: the spool of a group goes as soon as all of the group is committed."""
    while schedule.retired:
        units = schedule.retired.pop()
        drop_spool(corpus, recipe.source.name, units, schedule.groups_of(units))


def find_recipe(name: str, pipelines: str) -> Recipe:
    """A recipe of a module with `RECIPES`, by name."""
    module = pipelines_module(pipelines)
    recipes: dict[str, Recipe] = module.RECIPES
    if name not in recipes:
        raise RecipeError(f"no recipe {name!r}{near(name, recipes)}")
    return recipes[name]


def pipelines_module(name: str) -> ModuleType:
    """Import a module of recipes; the user's own is looked for in the working directory too."""
    sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise RecipeError(f"--pipelines {name}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    recipes = getattr(module, "RECIPES", None)
    if not isinstance(recipes, dict) or not all(isinstance(r, Recipe) for r in recipes.values()):
        raise RecipeError(f"--pipelines {name}: has no RECIPES, a dict of recipes by name")
    return module


def _note_recipe(manifest: dict[str, Any], recipe: Recipe, lacking: list[str]) -> None:
    """corpus.json keeps what shaped the units of each fingerprint, so that a later run can say what changed."""
    entry = manifest["sources"].setdefault(recipe.source.name, {})
    entry["recipe"], entry["fingerprint"], entry["lacking"] = recipe.name, recipe.fingerprint, lacking
    entry.setdefault("shaped_by", {})[recipe.fingerprint] = recipe.shaped_by()


def _note_timing(r: _Run, recipe: Recipe, seconds: float, wall: float, peak: int, tasks: int) -> None:
    metrics = {
        "source": recipe.source.name,
        "recipe": recipe.fingerprint,
        "engine": r.engine,
        "core_seconds": round(seconds, 3),
        "task_seconds": round(wall, 3),
        "tasks": tasks,
        "peak_rss": peak,
    }
    note_metrics(r.corpus, r.name, metrics)


def note_metrics(corpus: Corpus, run_name: str, metrics: Mapping[str, Any]) -> None:
    """Keep what a run took; it is no part of what is compared."""
    with suppress(StoreError):  # the disk may be full: the error that stopped the run is the one to show
        path = corpus.root / "runs" / run_name / "metrics.json"
        replace_file(path, to_json({**metrics, "host": socket.gethostname()}))


class _Identities:
    """Digests of input files, remembered by what the file system says of them, so that a rerun reads nothing twice.

    The change time is part of it: it moves even where size and modification time were put back.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.path = corpus.root / "runs" / "inputs.json"
        try:
            self.known: dict[str, Any] = read_json(self.path) if self.path.exists() else {}
        except StoreError:
            self.known = {}  # a cache: the files are read again
        self.before: dict[str, list[int]] = {}

    def digest(self, split: Split) -> str | None:
        """Digest of the file as it is now; None for a remote one."""
        as_found = identity(split.path)
        if as_found is None:
            return None
        known = self.known.get(split.unit)
        if known is not None and known[0] == as_found:
            return str(known[1])
        with _reading(split):
            digest = file_digest(Path(split.path))[1]
        self.known[split.unit] = [as_found, digest]
        return digest

    def remember(self, result: Result) -> None:
        """Take the digest that a worker computed while it read."""
        split = getattr(result.task, "split", None)
        if split is not None and result.identity is not None:
            self.known[split.unit] = [result.identity, result.input_digest]

    def save(self) -> None:
        """Keep them for the next run."""
        with suppress(StoreError):
            replace_file(self.path, to_json(self.known))


@contextmanager
def _reading(split: Split) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{split.path}: {error.strerror}") from error


@contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and SIGINT stop a run at once; what is committed stays. A second one ends the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: os._exit(Interrupted.exit_code))
        raise Interrupted(f"stopped by {signal.Signals(number).name}; run the same command again to go on")

    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not the main thread: signals are the caller's
    try:
        yield
    except SystemError as error:  # raised inside a call into Ray's own code, which makes another error of it
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Asked:
    """Where and how tasks are done."""

    corpus: Corpus
    name: str  # of the run
    engine: str  # "ray" or "inline"
    workers: int | None
    address: str | None


class Work(Protocol):
    """What all tasks share; sent to every worker once."""

    def run(self, task: Any) -> Result:
        """Do one of them."""


class Tasks(Protocol):
    """Hands out tasks that can run now."""

    def pop(self) -> Any | None:
        """The next one."""

    def __bool__(self) -> bool: ...


# -- executors -------------------------------------------------------------------------------------------------------


def execute(asked: Asked, job: Work, schedule: Tasks, kernels: Sequence[str]) -> Iterator[Result]:
    """Do all tasks, those that results make possible included."""
    if not schedule:
        return  # nothing to do: no cluster is started
    if asked.engine == "inline":
        while (task := schedule.pop()) is not None:
            yield job.run(task)
    else:
        with cluster(asked.workers, asked.address) as n_workers:
            if isinstance(job, Job):
                _ship_user_modules(job.recipe)
            check_nodes(asked.corpus, asked.name, kernels)
            with stopping():  # again: Ray puts a handler of its own in place of ours when it starts
                yield from _on_ray(job, schedule, n_workers)


def kernel_modules(recipe: Recipe) -> tuple[str, ...]:
    """The kernel modules that a run of this recipe calls."""
    return kernels_of(["curate.worker", *(part_module(part) for part in (recipe.source, *recipe.steps))])


def kernels_of(modules: Sequence[str]) -> tuple[str, ...]:
    """The kernel modules that some modules import, directly or not."""
    return tuple(sorted({m for part in modules for m in modules_of(part) if m.startswith("curate.kernels.")}))


def warm_kernels(modules: Sequence[str], progress: Progress | None = None) -> float:
    """Compile what is not compiled yet, before there are workers that would each do it; seconds."""
    from curate.kernels.warm import compile_modules, is_warm

    if progress is not None and not is_warm(modules):
        progress.note("compiling kernels, once on this machine (up to half a minute) ...")
    return compile_modules(modules)


@contextmanager
def cluster(workers: int | None, address: str | None) -> Iterator[int]:
    """Ray, started here or joined; gives the number of tasks to run at once.

    A local cluster gets an empty working directory: otherwise Ray puts the directory that the user stands in before
    ours on the workers' path, and a folder named model/ or sources/ there would be imported in place of ours.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    started = not ray.is_initialized()
    with tempfile.TemporaryDirectory(prefix="curate-empty-") as empty:
        if started:
            _init_ray(ray, workers, address, empty)
        try:
            yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        finally:
            if started:
                ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray knows at once
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RecipeError(f"--address {address}: no Ray cluster answers there ({error})") from error


def _init_ray(ray: Any, workers: int | None, address: str | None, empty: str) -> None:
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") is None:  # under `ray job submit` the job has one already
        options["runtime_env"] = {"working_dir": empty}
    if address or os.environ.get("RAY_ADDRESS"):
        options.pop("include_dashboard")
        options["address"] = address or "auto"
        _refuse_unreachable(options["address"])
    else:
        options["num_cpus"] = workers or len(os.sched_getaffinity(0))
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"--address {address}" if address else "Ray"
        raise RecipeError(f"{where}: cannot start or join a cluster: {str(error).splitlines()[0]}") from error


def _ship_user_modules(recipe: Recipe) -> None:
    """The user's own sources and stages travel by value: workers do not see the directory that they lie in."""
    from ray import cloudpickle

    parts = {part_module(part) for part in (recipe.source, *recipe.steps)}
    needed = {name for part in parts for name in modules_of(part)}
    for name in {m for m in needed if m.partition(".")[0] not in (*OURS, "__main__")}:
        cloudpickle.register_pickle_by_value(sys.modules[name])


def check_nodes(corpus: Corpus, run_name: str, kernels: Sequence[str] = ()) -> None:
    """Every node writes below --out and the driver reads it back, or the run is refused."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = corpus.root / "runs" / run_name / "nodes"
    folder.mkdir(parents=True, exist_ok=True)
    secret = f"{run_name} {os.urandom(8).hex()}"
    (folder / "driver").write_text(secret)
    prove = ray.remote(_prove_node)
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    asked = {
        n["NodeID"]: prove.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote(str(folder), n["NodeID"], secret, kernels)
        for n in nodes
    }
    for node, ref in asked.items():
        try:
            answer = ray.get(ref, timeout=120)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise StoreError(f"node {node[:8]}: did not answer: {str(error).splitlines()[0]}") from error
        seen = (folder / node).read_text() if (folder / node).exists() else ""
        if answer or seen != secret:
            raise StoreError(
                f"--out {corpus.root}: node {node[:8]} does not see this folder ({answer or 'its file is not here'}); "
                "a cluster needs --out on a file system that all nodes share"
            )


def _prove_node(folder: str, node: str, secret: str, kernels: Sequence[str]) -> str:
    """Runs on a node: "" where it reads what the driver wrote and could write beside it. Warms the node's kernels."""
    try:
        if Path(folder, "driver").read_text() != secret:
            return "another folder of the same name"
        Path(folder, node).write_text(secret)
        warm_kernels(kernels)
    except OSError as error:
        return str(error.strerror)
    return ""


def _on_ray(job: Work, schedule: Tasks, n_workers: int) -> Iterator[Result]:
    import ray

    remote = ray.remote(_ray_task).options(num_cpus=1, max_retries=TASK_RETRIES)
    shared = ray.put(job)
    running: dict[Any, Any] = {}
    try:
        while schedule or running:
            while len(running) < 2 * n_workers and (task := schedule.pop()) is not None:
                running[remote.remote(shared, task)] = task
            done, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for ref in done:
                task = running.pop(ref)
                yield _ray_result(ray, ref, task)
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _ray_task(job: Work, task: Any) -> Result:
    return job.run(task)


def _ray_result(ray: Any, ref: Any, task: Any) -> Result:
    try:
        result: Result = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, CurateError):
            raise cause from None
        raise StageError(str(error), unit=str(getattr(task, "split", task))) from error
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"a worker died {TASK_RETRIES + 1} times at {_where(task)}: {str(error).strip().splitlines()[0]}"
        ) from error
    return replace(result, task=task)


def _where(task: Any) -> str:
    split = getattr(task, "split", None)
    if split is not None:
        return named(split.path)
    return f"{getattr(task, 'phase', getattr(task, 'kind', 'task'))} {task.index}"
