"""Kernels: numba functions over Arrow's own buffers. numba is imported in this package and nowhere else.

A kernel has a declared signature. It is compiled for it when it is first called (or by `kernels.warm`, before workers
start), and read from a private cache on disk afterwards, so that a run pays for the kernels of its own recipe only. The
folder's name holds the digest of the kernel's module and of every kernel module that this one imports: numba itself
would not notice a change in another file that a kernel calls.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.registry import CPUDispatcher

from curate.cache import private_folder

Bytes = types.Array(types.uint8, 1, "C", readonly=True)  # an Arrow data buffer; a writable array fits too
I64s = types.Array(types.int64, 1, "C", readonly=True)  # Arrow offsets
I32s = types.Array(types.int32, 1, "C", readonly=True)
U64s = types.Array(types.uint64, 1, "C", readonly=True)
U32s = types.Array(types.uint32, 1, "C", readonly=True)
U16s = types.Array(types.uint16, 1, "C", readonly=True)
F32s = types.Array(types.float32, 1, "C", readonly=True)
F64s = types.Array(types.float64, 1, "C", readonly=True)

CHECKED = bool(os.environ.get("CURATE_KERNEL_CHECKS"))  # tests: array bounds checked, in a cache of their own
HERE = Path(__file__).parent
IMPORT = re.compile(rb"^from curate\.kernels(?:\.(\w+))? import ([^\n]+)", re.M)
# What `warm` has to call to compile the kernels of a module, by the module's name.
DECLARED: dict[str, list[Callable[[], Any]]] = {}


@functools.cache
def cache_folder(module: str) -> Path:
    """Where the compiled kernels of one module of this package lie."""
    digest = hashlib.sha256(numba.__version__.encode())
    for name in sorted(_with_imports(module)):
        digest.update((HERE / f"{name}.py").read_bytes())
    return private_folder("kernels") / f"{module}-{digest.hexdigest()[:12]}{'-checked' if CHECKED else ''}"


def _with_imports(module: str) -> set[str]:
    """The module and the kernel modules that it imports, directly or not."""
    found, waiting = {"__init__"}, [module]
    while waiting:
        name = waiting.pop()
        if name in found or not (HERE / f"{name}.py").exists():
            continue
        found.add(name)
        for part, names in IMPORT.findall((HERE / f"{name}.py").read_bytes()):
            waiting += [part.decode()] if part else re.findall(r"\w+", names.decode())
    return found


def kernel(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for one signature (None: a helper that is inlined where its callers' types say)."""
    settings = {"nogil": True, "cache": True, "boundscheck": CHECKED, "error_model": "numpy", **options}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if settings["cache"] and function.__module__.startswith(f"{__name__}."):
            numba.config.CACHE_DIR = str(cache_folder(function.__module__.rpartition(".")[2]))  # type: ignore[attr-defined]
        made = numba.njit(**settings)(function)
        if signature is not None:
            _compile_when_needed(made, signature)
        return made  # type: ignore[no-any-return]

    return decorate


class _Declared(CPUDispatcher):
    """A kernel that is not compiled yet. It becomes an ordinary one at its first call, from Python or a kernel."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ready(self)(*args, **kwargs)

    def get_call_template(self, args: Any, kwargs: Any) -> Any:
        """What numba asks when it compiles a kernel that calls this one."""
        return _ready(self).get_call_template(args, kwargs)


def _compile_when_needed(dispatcher: Any, signature: Any) -> None:
    dispatcher.__class__ = _Declared
    dispatcher.declared = signature
    DECLARED.setdefault(dispatcher.py_func.__module__, []).append(lambda: _ready(dispatcher))


def _ready(dispatcher: Any) -> Any:
    """Compile for the declared signature, and let numba compile for no other."""
    signature = dispatcher.__dict__.pop("declared", None)
    if signature is not None:
        dispatcher.__class__ = CPUDispatcher
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher
