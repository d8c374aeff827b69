"""Settings that all barriers of duplicates share, checked when a recipe is built."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from curate.errors import RecipeError
from curate.stage import DuplicateBarrier, convert

SHARES = ("max_removed", "threshold")


def check_fields(barrier: DuplicateBarrier) -> None:
    """Convert every setting to its type; RecipeError for what makes no sense."""
    hints = typing.get_type_hints(type(barrier))
    for field in dataclasses.fields(barrier):  # type: ignore[arg-type]
        name = f"{barrier.name}.{field.name}"
        value: Any = getattr(barrier, field.name)
        value = scope(name, value) if field.name == "scope" else convert(name, value, hints[field.name])
        if field.name in SHARES and not 0 < value <= 1:
            raise RecipeError(f"{name} is {value:g}, must be above 0 and at most 1")
        if isinstance(value, int) and not isinstance(value, bool) and field.name != "seed" and value < 1:
            raise RecipeError(f"{name} is {value}, must be at least 1")
        object.__setattr__(barrier, field.name, value)


def scope(name: str, value: int | str) -> int | str:
    """A number of files, or "run"; RecipeError for anything else."""
    try:
        files = value if value == "run" else int(convert(name, value, int))
    except RecipeError:
        files = 0
    if isinstance(files, int) and files < 1:
        raise RecipeError(f"{name} is {value!r}, must be a number of files or 'run'")
    return files
