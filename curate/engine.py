"""Runs a recipe: on Ray (a local cluster, or one to join) or inline. Ray is imported here and nowhere else."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
        raise _interrupted(signal.Signals(number))

    try:
        with _handled(stop):
            yield
    except SystemError as error:  # raised inside a call into Ray's own code, which makes another error of it
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


@contextmanager
def _handled(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop`, until the end of the block."""
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not the main thread: signals are the caller's
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(by: signal.Signals) -> Interrupted:
    return Interrupted(f"stopped by {by.name}; run the same command again to go on")


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
        options["address"] = "local"  # not one that `ray start` left running here
        options["num_cpus"] = workers or len(os.sched_getaffinity(0))
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"--address {address}" if address else "Ray"
        raise RecipeError(f"{where}: cannot start or join a cluster: {str(error).splitlines()[0]}") from error


def _ship_user_modules(recipe: Recipe) -> None:
    """The user's own sources and stages travel by value: workers do not see the directory that they lie in."""
    _ship({part_module(part) for part in (recipe.source, *recipe.steps)})


def _ship(parts: Iterable[str]) -> None:
    from ray import cloudpickle

    needed = {name for part in parts for name in modules_of(part)}
    for name in {m for m in needed if m.partition(".")[0] not in (*OURS, "__main__")}:
        cloudpickle.register_pickle_by_value(sys.modules[name])


def check_nodes(corpus: Corpus, run_name: str, kernels: Sequence[str] = ()) -> None:
    """Every node writes below --out and the driver reads it back, or the run is refused."""
    _check_nodes(corpus.root, corpus.root / "runs" / run_name / "nodes", kernels)


def _check_nodes(root: Path, folder: Path, kernels: Sequence[str]) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder.mkdir(parents=True, exist_ok=True)
    secret = f"{folder} {os.urandom(8).hex()}"
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
                f"--out {root}: node {node[:8]} does not see this folder ({answer or 'its file is not here'}); "
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


# -- training --------------------------------------------------------------------------------------------------------

ASK_EVERY = 1.0  # seconds between two questions of a worker whether to stop: each one is a round trip to the driver
_TRAIN_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: how late an end or a death is seen
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the first import of torch from a shared disk takes minutes
    "RAY_TRAIN_METRICS_ENABLED": "0",  # counters for a dashboard that is not there
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a node, for a warning that nobody here asks for
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # of workers that wait for a dead one, before they are ended
}


@dataclass(frozen=True)
class Place:
    """What a worker is told. torch.distributed is initialised, and MASTER_ADDR, RANK and so on are set.

    `report` and `checkpoint` of rank 0 reach the driver at once and never wait; the other ranks' go nowhere. `stopping`
    turns True some time after the driver was asked to stop, and not on all ranks in the same step: ranks that meet in
    collectives must agree on it (reduce it with the loss), or one of them waits for ever.
    """

    rank: int
    world: int
    local_rank: int  # among the workers of this node: the number of its GPU
    report: Callable[[Mapping[str, float]], None]
    checkpoint: Callable[[str, Mapping[str, float]], None]  # path of a finished checkpoint, metrics of its step
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class Launched:
    """What came of a launch."""

    value: Any  # what `fn` returned on rank 0
    checkpoints: tuple[str, ...]  # in the order in which they were reported
    restarts: int  # how often the workers were started again


class _Broken(Exception):
    """An error that the death of another worker can cause: `fn` is called again on new workers."""


def launch(
    fn: Callable[[Any, Place], Any],
    settings: Any,
    *,
    workers: int,
    out: str | Path,
    gpus: bool = False,
    cores: int = 1,
    address: str | None = None,
    restarts: int = 3,
    on_report: Callable[[Mapping[str, float]], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Launched:
    """Call `fn(settings, place)` in `workers` processes, on Ray started here or joined at `address`.

    Each worker has `cores` cores and, with `gpus`, one GPU (nccl; gloo without). `fn`, `settings` and what rank 0
    returns travel by Ray's own pickling; paths in them must be absolute. When a worker dies, `fn` is called again on
    new ones, at most `restarts` times, and goes on from its own checkpoints. `on_report` is called here with what rank
    0 reports, `note` with a line about a restart. Ray's own records go below `out`/ray.
    Raises what a CurateError of `fn` says; StageError for another error of `fn`; StoreError where workers kept dying;
    Interrupted when SIGTERM or SIGINT came and `fn` has ended (a second signal ends the process).
    """
    if workers < 1:
        raise RecipeError(f"--workers is {workers}, must be at least 1")
    for name, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    root = Path(out).absolute()
    name = time.strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    with stopping(), cluster(workers * cores, address), stopping():  # again: Ray puts a handler of its own in place
        _refuse_too_many(workers, cores, gpus)
        _check_nodes(root, root / "ray" / name / "nodes", ())
        _ship({fn.__module__})
        board = _start_board()
        trainer = _trainer(board, (fn, settings), (workers, cores, gpus), restarts, root / "ray", name)
        pool = ThreadPoolExecutor(1)  # not in this thread, where Ray would put its own handler of SIGINT
        try:
            ear = _Ear(restarts, on_report or (lambda _: None), note or (lambda _: None))
            return _watch(pool.submit(trainer.fit), board, ear)
        finally:
            pool.shutdown(wait=False)


def _refuse_too_many(workers: int, cores: int, gpus: bool) -> None:
    """Ray itself waits for ever for what the cluster does not have."""
    import ray

    there = ray.cluster_resources()
    for name, needed in (("CPU", workers * cores), ("GPU", workers * gpus)):
        if there.get(name, 0) < needed:
            raise RecipeError(f"--workers {workers}: needs {needed} {name}s, the cluster has {there.get(name, 0):.0f}")


def _trainer(
    board: Any, work: tuple[Any, Any], size: tuple[int, int, bool], restarts: int, folder: Path, name: str
) -> Any:
    """Ray's TorchTrainer. `work` is an object of its own, so that it is unpickled after our packages are claimed."""
    try:
        import ray.train
        from ray.train.torch import TorchTrainer
    except (ImportError, RuntimeError) as error:  # Ray says either of a package that it lacks
        raise RecipeError(f"training on Ray needs the packages of the extra `train`: {error}") from error
    workers, cores, gpus = size
    judge = type("_Judge", (ray.train.UserCallback,), {"after_exception": _judge})
    return TorchTrainer(
        _on_worker,
        train_loop_config={"board": board, "work": ray.put(work)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": cores, **({"GPU": 1} if gpus else {})}
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=restarts, controller_failure_limit=restarts),
            callbacks=[judge()],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _judge(callback: Any, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
    """Runs in Ray's controller when workers failed: raising ends the run, where Ray would try anything again."""
    for error in worker_exceptions.values():
        if isinstance(error, CurateError):
            raise error


class _Board:
    """An actor between the workers and the driver. Not Ray's report: that is a barrier of all workers, once a poll."""

    def __init__(self) -> None:
        self.news: list[tuple[str, Any]] = []
        self.stop = False

    def hear(self, kind: str, what: Any) -> None:
        """A worker says something."""
        self.news.append((kind, what))

    def take(self, stop: bool) -> list[tuple[str, Any]]:
        """The driver fetches what was said, and says whether it was asked to stop."""
        self.stop = stop
        news, self.news = self.news, []
        return news

    def stopping(self) -> bool:
        """A worker asks."""
        return self.stop


def _start_board() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
    return actor.remote()


class _Voice:
    """A worker's side of the board."""

    def __init__(self, board: Any, rank: int) -> None:
        self.board, self.rank = board, rank
        self.last: Any = None  # the last thing said, on its way
        self.metrics: dict[str, float] = {}
        self.path = ""
        self.asked, self.stop = -ASK_EVERY, False

    def say(self, kind: str, what: Any) -> None:
        self.last = self.board.hear.remote(kind, what)

    def report(self, metrics: Mapping[str, float]) -> None:
        if self.rank == 0:
            self.metrics = dict(metrics)
            self.say("report", self.metrics)

    def checkpoint(self, path: str, metrics: Mapping[str, float]) -> None:
        if self.rank == 0:
            self.metrics, self.path = dict(metrics), str(path)
            self.say("checkpoint", self.path)

    def stopping(self) -> bool:
        import ray

        if not self.stop and time.monotonic() - self.asked >= ASK_EVERY:
            with suppress(ray.exceptions.RayError):  # the driver's node is busy or gone: then Ray ends this worker
                self.stop = ray.get(self.board.stopping.remote(), timeout=10)
            self.asked = time.monotonic()
        return self.stop

    def flush(self) -> None:
        """Wait until all that was said has arrived: calls from one worker arrive in order."""
        import ray

        if self.last is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self.last, timeout=10)


def _on_worker(config: Mapping[str, Any]) -> Any:
    """Runs in every worker. Only Ray's own errors and `_Broken` are tried again."""
    import ray.train

    context = ray.train.get_context()
    voice = _Voice(config["board"], context.get_world_rank())
    place = Place(
        rank=voice.rank,
        world=context.get_world_size(),
        local_rank=context.get_local_rank(),
        report=voice.report,
        checkpoint=voice.checkpoint,
        stopping=voice.stopping,
    )
    if voice.rank == 0:
        voice.say("begin", None)
    try:
        fn, settings = ray.get(config["work"])
        value = fn(settings, place)
        _note_in_ray(voice)
        return value
    except CurateError:
        raise
    except (RuntimeError, OSError) as error:  # what torch raises when a peer is gone, and much else
        voice.say("broken", _said(error, voice.rank))
        raise _Broken(_said(error, voice.rank)) from None
    except Exception as error:  # noqa: BLE001
        raise StageError(_said(error, voice.rank)) from None
    finally:
        voice.flush()


def _said(error: Exception, rank: int) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"rank {rank}: {type(error).__name__}: {_first_line(error)} ({at.filename}:{at.lineno})"


def _note_in_ray(voice: _Voice) -> None:
    """Ray's result gets the last metrics and, since the checkpoint itself stays where it is, a file that says where."""
    import ray.train

    if not voice.path:
        ray.train.report(voice.metrics)  # all workers are here: it waits for all of them
        return
    with tempfile.TemporaryDirectory(prefix="curate-pointer-") as folder:
        Path(folder, "pointer.json").write_bytes(to_json({"path": voice.path}))
        ray.train.report(voice.metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class _Ear:
    """The driver's side of the board."""

    def __init__(
        self, restarts: int, on_report: Callable[[Mapping[str, float]], None], note: Callable[[str], None]
    ) -> None:
        self.restarts, self.on_report, self.note = restarts, on_report, note
        self.begun = 0
        self.why = "a worker died"
        self.checkpoints: list[str] = []
        self.failure: Exception | None = None

    def take(self, news: Sequence[tuple[str, Any]]) -> None:
        """Pass on what workers said. What the caller's own function raises is kept until they have ended."""
        for kind, what in news:
            if kind == "begin":
                self.begun += 1
                if self.begun > 1:
                    self.note(f"{self.why}: all workers were started again ({self.begun - 1} of {self.restarts})")
                self.why = "a worker died"
            elif kind == "broken":
                self.why = what
            elif kind == "checkpoint":
                self.checkpoints.append(what)
            elif self.failure is None:
                try:
                    self.on_report(what)
                except Exception as error:  # noqa: BLE001
                    self.failure = error


def _watch(run: Future[Any], board: Any, ear: _Ear) -> Launched:
    """The driver's part: listen until the workers have ended, and tell them when to stop."""
    import ray

    with _signals(ear.note) as signals:
        over = False
        while not over:
            over = run.done()  # asked before the news are taken: those of the end must not be missed
            try:
                news = ray.get(board.take.remote(bool(signals or ear.failure)), timeout=10 if signals else 120)
            except ray.exceptions.RayError as error:
                if signals:  # sent to all processes of a local cluster, Ray's own among them
                    raise _interrupted(signals[0]) from error
                raise StoreError(f"the Ray cluster was lost: {_first_line(error)}") from error
            ear.take(news)
            if not over:
                time.sleep(0.1)
    if failure := ear.failure or run.exception():
        raise _as_ours(failure, ear.restarts)
    if signals:
        raise _interrupted(signals[0])
    return Launched(run.result().return_value, tuple(ear.checkpoints), max(0, ear.begun - 1))


def _as_ours(error: BaseException, restarts: int) -> BaseException:
    """What ended Ray's run, as an error of ours; one that does not come from Ray stays as it is."""
    import ray

    cause = getattr(error, "controller_failure", error)
    if isinstance(cause, CurateError):
        return cause
    failures = getattr(error, "worker_failures", None)
    if failures is None:
        return StoreError(f"Ray: {_first_line(cause)}") if isinstance(error, ray.exceptions.RayError) else error
    dead = [e for e in failures.values() if not isinstance(e, _Broken)]  # its peers then break too
    if not dead:
        return StageError(str(next(iter(failures.values()))))
    why = getattr(dead[0], "health_check_failure", dead[0])
    return StoreError(f"workers died or broke {restarts + 1} times, the last one: {_first_line(why)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _signals(note: Callable[[str], None]) -> Iterator[list[signal.Signals]]:
    """SIGTERM and SIGINT are noted in the list given; a second one ends the process."""
    seen: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if seen:
            os._exit(Interrupted.exit_code)
        seen.append(signal.Signals(number))
        note(f"{seen[0].name}: the workers save and stop; once more ends at once")

    with _handled(stop):
        yield seen
