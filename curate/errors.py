"""Errors of the toolkit.

    CurateError
    ├── RecipeError   a choice is wrong: unknown recipe, setting or input; raised before any data is read
    ├── SourceError   upstream is missing, truncated, or not what it claims to be
    ├── StageError    a stage failed on a table; carries the stage and the unit
    │   └── RefusalError  a barrier would remove more than it may; nothing was changed
    └── StoreError    a commit, a digest or the disk

A `CurateError` is shown as one line and ends the command with `exit_code`; anything else is our own bug and
shows a traceback. All of them survive the trip between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE, BUG, USER, DAMAGE, INTERRUPTED = 0, 1, 2, 3, 4  # exit codes of every command


class CurateError(Exception):
    """Something the user can act on; `str(error)` is one line."""

    exit_code = USER


class RecipeError(CurateError):
    """A recipe, a setting or an input that cannot be run."""


class SourceError(CurateError):
    """An upstream file that is missing, truncated or of another kind."""


class StageError(CurateError):
    """A stage failed. `stage` and `unit` say where."""

    exit_code = BUG

    def __init__(self, message: str, stage: str = "", unit: str = "") -> None:
        super().__init__(message, stage, unit)
        self.stage, self.unit = stage, unit

    def __str__(self) -> str:
        where = " ".join(x for x in (self.stage, self.unit) if x)
        return f"{where}: {self.args[0]}" if where else str(self.args[0])


class RefusalError(StageError):
    """A barrier would remove more than was expected or allowed; the data is as it was, and the user decides."""

    exit_code = USER


class StoreError(CurateError):
    """A commit, a digest or the disk."""


def near(wrong: str, known: Iterable[str]) -> str:
    """The tail of an error line about an unknown name: what exists, the closest first."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (there is: {', '.join(names) or 'nothing'})"
