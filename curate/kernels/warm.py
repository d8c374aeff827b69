"""Compile kernels before they are needed, or load them from the cache."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterable

import curate.kernels
from curate.kernels import DECLARED, HERE, cache_folder

PACKAGE = "curate.kernels."


def every_module() -> list[str]:
    """All kernel modules."""
    return [f"{PACKAGE}{m.name}" for m in pkgutil.iter_modules(curate.kernels.__path__) if m.name != "warm"]


def is_warm(modules: Iterable[str]) -> bool:
    """Whether the kernels of these modules (others of the program may be among them) are in this machine's cache."""
    return all((cache_folder(name) / "complete").exists() for name in _kernels(modules))


def compile_modules(modules: Iterable[str]) -> float:
    """Compile the kernels of these modules, on all cores; seconds it took."""
    started = time.perf_counter()
    names = _kernels(modules)
    cold = [name for name in names if not (cache_folder(name) / "complete").exists()]
    if len(cold) > 1 and (cores := len(os.sched_getaffinity(0))) > 1:
        _side_by_side(cold, cores)
    for name in names:
        _compile(name)
    return time.perf_counter() - started


def _compile(name: str) -> None:
    """In this process; what is in the cache is read from there."""
    importlib.import_module(PACKAGE + name)
    for ready in DECLARED.get(PACKAGE + name, ()):
        ready()
    folder = cache_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "complete").touch()


def _side_by_side(names: Iterable[str], cores: int) -> None:
    """A process for each module, the long ones first. Where one fails, its caller compiles, and shows the error."""
    waiting = sorted(names, key=lambda name: (HERE / f"{name}.py").stat().st_size)
    path = os.pathsep.join([str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    running: list[subprocess.Popen[bytes]] = []
    try:
        while waiting or running:
            running = [process for process in running if process.poll() is None]
            while waiting and len(running) < cores:
                # -P: a folder of our name where the user stands is not ours.
                command = [sys.executable, "-P", "-m", __name__, waiting.pop()]
                environment, null = {**os.environ, "PYTHONPATH": path}, subprocess.DEVNULL
                running.append(subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env=environment))
            time.sleep(0.01)
    finally:
        for process in running:
            process.terminate()
            process.wait()


def compile_all() -> float:
    """Compile every kernel; seconds it took."""
    return compile_modules(every_module())


def _kernels(modules: Iterable[str]) -> list[str]:
    return sorted(m.removeprefix(PACKAGE) for m in modules if m.startswith(PACKAGE) and m != f"{PACKAGE}warm")


if __name__ == "__main__":
    _compile(sys.argv[1])
