"""A crash, a torn write or an error of the disk at every single file operation of a run; the same bytes after resume.

Operations are counted by wrapping what `curate.store` calls. A crash is a real one: the run is a forked child that
ends with os._exit. What process crashes cannot show (an fsync left out) is shown by the order of operations.
"""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from curate import store
from curate.engine import run
from curate.errors import CurateError
from curate.kernels.warm import compile_all
from curate.report import verify
from curate.store import Corpus
from tests import toy
from tests.curate.test_engine import tree

SHM = Path("/dev/shm")
MUTATING = ("link", "fsync", "replace", "mkdir", "unlink", "rmdir", "open")


class Operations:
    """Counts operations; at number `stop` does what `fault` says, before, half way through or after."""

    def __init__(self, stop: int = -1, fault: Callable[[], None] | None = None, when: str = "before") -> None:
        self.count, self.stop, self.fault, self.when = 0, stop, fault, when
        self.log: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def hit(self, name: str, subject: Any, call: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        with self.lock:  # syncs are made at once, from several threads
            number, self.count = self.count, self.count + 1
            self.log.append((name, str(subject)))
        if number == self.stop and self.fault is not None:
            if self.when == "half" and half is not None:
                half()
            try:
                if self.when == "after":
                    call()
            finally:
                self.fault()
        return call()


@contextmanager
def watched(ops: Operations) -> Iterator[None]:
    """Every changing file operation of this process goes through `ops`."""
    real = {name: getattr(os, name) for name in MUTATING}
    real_open, real_write = builtins.open, store._Digesting.write

    def wrap(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            subject = (
                os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else args[-1] if name == "link" else args[0]
            )
            if name == "open" and not (len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return real[name](*args, **options)
            return ops.hit(name, subject, lambda: real[name](*args, **options))

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            return ops.hit("create", file, lambda: real_open(file, mode, *args, **options))
        return real_open(file, mode, *args, **options)

    def write(self: Any, data: Any) -> int:
        view = memoryview(data)
        half = lambda: self.raw.write(view[: view.nbytes // 2] if view.itemsize == 1 else view)  # noqa: E731
        return int(ops.hit("write", self.raw.name, lambda: real_write(self, data), half))

    for name in MUTATING:
        setattr(os, name, wrap(name))
    builtins.open, store._Digesting.write = opened, write  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        builtins.open, store._Digesting.write = real_open, real_write  # type: ignore[method-assign]


def go(inputs: Path, out: Path) -> None:
    run(toy.GROUPED, [str(inputs)], out=out, engine="inline")


def crash(inputs: Path, out: Path, stop: int, when: str) -> int:
    """Run in a child that ends at operation `stop`; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            with watched(Operations(stop, lambda: os._exit(137), when)):
                go(inputs, out)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of real fsyncs would take minutes."""
    usable = SHM.is_dir() and os.access(SHM, os.W_OK)
    folder = Path(tempfile.mkdtemp(prefix="curate-crash-", dir=SHM)) if usable else tmp_path_factory.mktemp("crash")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture()
def tmp_path(memory: Path) -> Iterator[Path]:
    """In place of pytest's own."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def clean(memory: Path) -> Iterator[tuple[Path, dict[str, str], Operations]]:
    """Input, the tree that a run without faults leaves, and its operations."""
    compile_all()  # what numba writes into its cache is not the machine's
    folder = memory / "clean"
    inputs, ops = toy.write_files(folder / "in", 2, 12), Operations()
    with pytest.MonkeyPatch.context() as patch:  # fewer partitions have fewer operations of the same kinds
        patch.setattr("curate.schedule.partitions_for", lambda *_: 2)
        with watched(ops):
            go(inputs, folder / "out")
        yield inputs, tree(folder / "out"), ops


def crash_everywhere(
    clean: tuple[Path, dict[str, str], Operations], out: Path, when: str, step: int = 1, most: int = 99
) -> int:
    """Crash at every `step`-th operation, resume; how many resumed trees differ from the clean one, `most` at most."""
    inputs, wanted, ops = clean
    wrong = 0
    # A write that is half done stands for one that is not begun, too: it leaves more to be mistaken for a file.
    for stop in [i for i, (name, _) in enumerate(ops.log) if (name == "write") == (when == "half")][::step]:
        assert crash(inputs, out, stop, when) == 137, f"operation {stop} was not reached"
        try:
            go(inputs, out)
            wrong += tree(out) != wanted or bool(verify(Corpus(out)))
        except Exception:  # noqa: BLE001 - whatever a bad writer makes of it, it is not the clean tree
            wrong += 1
        shutil.rmtree(out)
        if wrong == most:
            break
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(("when", "step"), [("before", 1), ("half", 1), ("after", 3)])
def test_a_crash_at_every_operation(clean: Any, tmp_path: Path, when: str, step: int) -> None:
    assert clean[2].count > 100
    assert crash_everywhere(clean, tmp_path / "out", when, step) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_an_error_of_the_disk_at_many_operations(clean: Any, tmp_path: Path, code: int) -> None:
    inputs, wanted, ops = clean
    writes = [i for i, (name, _) in enumerate(ops.log) if name not in ("unlink", "rmdir")]
    refused = 0
    for stop in writes[code % 5 :: 5]:
        out = tmp_path / f"out-{stop}"

        def fail() -> None:
            raise OSError(code, os.strerror(code))

        try:
            with watched(Operations(stop, fail)):
                go(inputs, out)
        except CurateError as error:
            refused += 1
            assert os.strerror(code) in str(error) and str(out) in str(error), str(error)
            assert code != errno.ENOSPC or "MB free" in str(error)
        go(inputs, out)
        assert tree(out) == wanted and verify(Corpus(out)) == []
        shutil.rmtree(out)
    assert refused > 20


def test_data_is_synced_before_names_and_names_before_commits(clean: Any) -> None:
    log = [x for x in clean[2].log if ".probe" not in x[1]]
    assert [p for p in problems_per_file(log) if p] == []


def problems_per_file(log: list[tuple[str, str]]) -> list[str]:
    """What a run's operations link before it is synced, and commit before the names that it needs are."""
    problems, synced, folders, pending = [], set(), {}, {}
    for number, (name, subject) in enumerate(log):
        path = Path(subject)
        if name == "fsync":
            synced.add(path.name)
            folders[str(path)] = number
        elif name == "link" and path.parent.name in ("documents", "dropped", "keys", "bits"):
            pending[str(path.parent)] = number
            if f"{path.parent.name}.{path.suffix[1:]}" not in synced:
                problems.append(f"{path} linked before its data is synced")
        elif name == "link" and path.parent.name == "commits":
            if "commit.json" not in synced:
                problems.append(f"{path} linked before it is synced")
            problems += [f"{path} before {f} is synced" for f, at in pending.items() if folders.get(f, -1) < at]
            synced.clear()
            pending.clear()
    return problems


# The harness itself must bite: each of these is a way that real writers get it wrong.


def naive_place(self: store.Attempt, described: Any, generation: int) -> Any:
    """Writes the final name in place, and takes what is there for done."""
    files = {}
    for kind, (path, facts) in described.items():
        target = self.folder.file(kind, self.unit, generation, path.suffix[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with open(target, "wb") as raw:
                store._Digesting(raw).write(path.read_bytes())
        files[kind] = {"name": target.name, **facts}
    return files


def marker_first(self: store.Attempt, record: Any) -> Any:
    """Commits before the data has its names."""
    described = {kind: (file.path, file.finish()) for kind, file in self.files.items()}
    files = {k: {"name": self.folder.file(k, self.unit, 1, p.suffix[1:]).name, **f} for k, (p, f) in described.items()}
    sealed = {**record, "unit": self.unit, "generation": 1, "files": files}
    self._write_record(sealed)
    made = self._seal(sealed, 1)
    self._place(described, 1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant", "when"), [("_place", naive_place, "half"), ("commit", marker_first, "before")]
)
def test_the_harness_catches_bad_writers(
    clean: Any, tmp_path: Path, monkeypatch: Any, name: str, mutant: Any, when: str
) -> None:
    inputs, _, _ = clean
    monkeypatch.setattr(store.Attempt, name, mutant)
    monkeypatch.setattr(store.Commit, "problems", lambda self, deep=True: [])
    ops = Operations()
    with watched(ops):
        go(inputs, tmp_path / "mutant")
    assert crash_everywhere((inputs, tree(tmp_path / "mutant"), ops), tmp_path / "out", when, 3, most=1) > 0


@pytest.mark.parametrize("left_out", ["folder", "file"])
def test_the_harness_catches_a_sync_left_out(clean: Any, tmp_path: Path, monkeypatch: Any, left_out: str) -> None:
    ops = Operations()
    with watched(ops):
        counted = os.fsync

        def sync(handle: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{handle}") != (left_out == "folder"):
                counted(handle)

        monkeypatch.setattr(os, "fsync", sync)
        go(clean[0], tmp_path / "out")
        monkeypatch.undo()
    assert problems_per_file(ops.log)


def test_a_glob_would_see_what_is_not_committed(clean: Any, tmp_path: Path) -> None:
    inputs, _, ops = clean
    stop = max(i for i, (name, path) in enumerate(ops.log) if name == "link" and "/commits/" in path)
    crash(inputs, tmp_path / "out", stop, "before")
    seen = list((tmp_path / "out/lines/documents").glob("*.arrow"))
    committed = list(Corpus(tmp_path / "out").commits("lines"))
    assert len(seen) == len(committed) + 1


def test_a_late_attempt_changes_nothing(tmp_path: Path) -> None:
    """An attempt that was held up while another one committed (A6): its files are not seen, the commit stays."""
    import pyarrow as pa

    corpus, record = Corpus(tmp_path), {"fingerprint": "f"}
    folder, table = corpus.final("lines"), pa.table({"a": [1, 2]})
    with store.Attempt(folder, "0123456789ab") as zombie:
        zombie.arrow("documents", table.schema).write(table)
        with store.Attempt(folder, "0123456789ab") as other:
            other.arrow("documents", table.schema).write(table)
            first = other.commit(record)
        before = tree(tmp_path)
        assert zombie.commit(record).record == first.record
    assert tree(tmp_path) == before
    assert not any(corpus.spool("lines").joinpath("attempts").iterdir())
