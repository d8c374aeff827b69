"""Compile kernels before they are needed, or load them from the cache."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Iterable

import curate.kernels
from curate.kernels import DECLARED, cache_folder

PACKAGE = "curate.kernels."


def every_module() -> list[str]:
    """All kernel modules."""
    return [f"{PACKAGE}{m.name}" for m in pkgutil.iter_modules(curate.kernels.__path__) if m.name != "warm"]


def is_warm(modules: Iterable[str]) -> bool:
    """Whether the kernels of these modules (others of the program may be among them) are in this machine's cache."""
    return all((cache_folder(name) / "complete").exists() for name in _kernels(modules))


def compile_modules(modules: Iterable[str]) -> float:
    """Compile the kernels of these modules; seconds it took."""
    started = time.perf_counter()
    for name in _kernels(modules):
        importlib.import_module(PACKAGE + name)
        for ready in DECLARED.get(PACKAGE + name, ()):
            ready()
        folder = cache_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "complete").touch()
    return time.perf_counter() - started


def compile_all() -> float:
    """Compile every kernel; seconds it took."""
    return compile_modules(every_module())


def _kernels(modules: Iterable[str]) -> list[str]:
    return sorted(m.removeprefix(PACKAGE) for m in modules if m.startswith(PACKAGE) and m != f"{PACKAGE}warm")
