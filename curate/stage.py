"""The nouns that a recipe is made of: Split, Tally, Source, Stage and Barrier.

A stage is a pure function on a table of documents. It never deletes a row: it returns new columns and, for the rows
that should go, a reason and the value that the rule saw. The machine drops and counts.

Three ways to write one, all alike to a recipe:

    @rule(reasons=("few_words",))                        # a document at a time, for a user's own rules
    def long_enough(text: str, *, min_words: int = 50) -> str | None: ...

    @stage(reads=("text",), reasons=("too_short",))      # whole columns, pyarrow.compute or a kernel
    def length(table: pa.Table, *, min_characters: int = 300) -> Outcome: ...

Calling the decorated function with settings gives the stage: `length(min_characters=300)`.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import RecipeError, StageError, near
from curate.schema import DOCUMENT, SCORES, unit_name

Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """One unit of reading: one upstream file (or part of one)."""

    name: str  # canonical upstream name: what the unit and its documents are named after, wherever the file lies
    path: str  # where to read it: a local path or an http(s)://, s3:// or gs:// address
    bytes: int | None = None  # size as stored, where known

    @property
    def unit(self) -> str:
        """Name of the unit of writing that this split becomes."""
        return unit_name(self.name)


@dataclass
class Tally:
    """What a source saw in one split besides the documents that it yielded. Filled by `Source.read`.

    records = documents yielded + skipped + failed + merged; `bytes_in` counts uncompressed input.
    """

    bytes_in: int = 0
    merged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # not of the wanted kind, by kind
    failed: list[tuple[str, str | None, str, str]] = field(default_factory=list)  # doc_id, url, reason, value
    flags: Counter[str] = field(default_factory=Counter)  # repaired or odd but kept, by kind; not records
    damage: list[str] = field(default_factory=list)  # what is wrong with the file as a whole: "truncated_input: ..."
    input_digest: str = ""  # sha256 of the bytes as stored
    scratch: str | None = None  # folder for what a source keeps on disk while it reads; None: the system's

    def skip(self, kind: str, count: int = 1) -> None:
        """Count records that are not of the wanted kind."""
        self.skipped[kind] += count

    def fail(self, doc_id: str, url: str | None, reason: str, value: str = "") -> None:
        """Count one record lost to damage."""
        self.failed.append((doc_id, url, reason, value))


class Source(Protocol):
    """Where documents come from: a frozen dataclass with these two methods."""

    @property
    def name(self) -> str:
        """Name of the source, and of its folder."""
        ...

    def plan(self, inputs: Sequence[str]) -> list[Split]:
        """What there is to read. No inputs: the embedded sample."""
        ...

    def read(self, split: Split, tally: Tally) -> Iterator[pa.Table]:
        """Bounded batches in `schema.DOCUMENT`, in file order; everything else is counted in `tally`."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a stage says about the rows of one table."""

    columns: Mapping[str, pa.Array | pa.ChunkedArray] = field(default_factory=dict)  # new or replaced
    reason: pa.Array | pa.ChunkedArray | None = None  # string a row, null = keep
    value: pa.Array | pa.ChunkedArray | None = None  # string a row: what the rule saw


@dataclass(frozen=True)
class Stage:
    """One configured stage of a recipe."""

    name: str
    function: Callable[..., Any]
    settings: tuple[tuple[str, Any], ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[pa.Field, ...] = ()
    reasons: tuple[str, ...] = ()
    models: tuple[tuple[str, str], ...] = ()  # (setting, model): settings resolved to a model file before the run
    files: tuple[str, ...] = ()  # settings that name a file whose content shapes the outcome

    def __call__(self, table: pa.Table) -> Outcome:
        """Run on one table of documents."""
        outcome = self.function(table, **dict(self.settings))
        if not isinstance(outcome, Outcome):
            raise StageError(f"returned {type(outcome).__name__}, not Outcome", self.name)
        return outcome

    def with_settings(self, **changes: Any) -> Stage:
        """The same stage with other settings, checked."""
        checked = check_settings(self.name, self.function, {**dict(self.settings), **changes})
        return replace(self, settings=checked)


@dataclass(frozen=True)
class KeyBatch:
    """What a barrier emits for one table: the keys of its rows, in row order."""

    keys: Keys  # uint64, uniform over their range (hash them first)
    local: Flags  # a key: 0 = ask the other splits, 1 = already known to be a repeat and not asked
    offsets: Offsets  # rows + 1: keys of row i are offsets[i]:offsets[i + 1]
    check: Keys | None = None  # of a duplicate barrier, a number a row: documents for which it differs are no copies


class Barrier(ABC):
    """A stage that must see more than one split. Its keys are brought together by hash partition.

    Sub-classes are frozen dataclasses whose fields are the settings; `group_size` splits (in the order of their
    canonical names) see each other. Two kinds: an `AnsweredBarrier` is told one bit a key, a `DuplicateBarrier` finds
    documents that are copies of another.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[pa.Field, ...] = ()
    reasons: tuple[str, ...]
    scope: int | str = "run"  # files that see each other, or "run": all of the run
    bytes_per_key: float = 45.0  # of text, about, to plan partitions with: a paragraph's (CCNet 4.2)
    keys_per_partition: int = 8_000_000  # about: of a table of keys, near 128 MB

    @property
    def group_size(self) -> int | None:
        """Splits that are resolved together; None: all splits of the run."""
        return None if isinstance(self.scope, str) else self.scope

    @abstractmethod
    def emit(self, table: pa.Table) -> KeyBatch:
        """Keys of the rows of one table."""


class AnsweredBarrier(Barrier):
    """`resolve` answers one bit a key for one hash partition of a whole group, `apply` uses the answers."""

    @abstractmethod
    def resolve(self, chunks: Callable[[], Iterator[Keys]], count: int) -> Iterator[Flags]:
        """Answers (0 or 1 a key), chunk by chunk as given.

        `chunks()` yields the keys of one partition, split after split in canonical order, and can be called again
        for another pass; `count` is their number.
        """

    @abstractmethod
    def apply(self, table: pa.Table, answers: Flags, offsets: Offsets) -> Outcome:
        """Use the answers: one a key emitted, local ones included, rows as in `KeyBatch.offsets`."""


class DuplicateBarrier(Barrier):
    """Documents that share a key are candidates; what the machine makes of them is in `curate.dedup.matching`.

    Of each cluster one document survives: the best by `score` (a column; "-column" where lower is better), then the
    longest text, then the first by canonical name. `all_pairs` of the documents that share a key are candidates where
    a key is shared by few; False: the first of them stands for all, which is right where sharing a key is proof.
    """

    bytes_per_record = 48  # of memory, that a key takes while a partition is resolved
    one_key: bool = False  # a document has at most one key, and sharing it is proof
    verifies: bool = False  # candidates are compared by their shingles before they count
    finds_near: bool = False  # a text with a few words changed is a duplicate, too
    score: str = ""
    max_removed: float
    memory: int  # MB, of one task that resolves a partition

    @abstractmethod
    def shingles(self, table: pa.Table) -> tuple[Keys, Offsets]:
        """What candidates are compared by: sorted distinct hashes a row, and rows + 1 offsets."""

    @abstractmethod
    def accepts(self, jaccard: Scores, containment: Scores) -> Bools:
        """Which pairs are duplicates, from the similarity of their shingles."""

    @property
    def keys_per_partition(self) -> int:  # type: ignore[override]
        """As many as `memory` holds."""
        return max(1, self.memory * 1_000_000 // self.bytes_per_record)


Step = Stage | Barrier


def check_settings(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """All settings of a stage function, defaults filled in; a RecipeError for an unknown or mistyped one."""
    function = getattr(function, "function", function)  # a document function that was lifted to tables
    parameters = {p.name: p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    hints = typing.get_type_hints(function)
    for key in given:
        if key not in parameters:
            raise RecipeError(f"{name} has no setting {key!r}{near(key, parameters)}")
    values = {k: given.get(k, p.default) for k, p in parameters.items()}
    for key, value in values.items():
        values[key] = convert(f"{name}.{key}", value, hints.get(key, str))
    return tuple(sorted(values.items()))


def convert(what: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type: text from the command line is parsed, anything else must fit already."""
    options = typing.get_args(hint) if not isinstance(hint, type) and typing.get_origin(hint) is not tuple else (hint,)
    if typing.get_origin(hint) is typing.Literal:
        if value not in options:
            raise RecipeError(f"{what} is {value!r}, must be one of {', '.join(map(str, options))}")
        return value
    for option in options:
        try:
            return _convert_one(value, option)
        except (TypeError, ValueError):
            continue
    shown = getattr(hint, "__name__", None) if typing.get_origin(hint) is None else str(hint)
    raise RecipeError(f"{what} is {value!r}, must be {shown}")


def _convert_one(value: Any, hint: Any) -> Any:
    if hint is type(None):
        if value is None or value in ("none", "None"):
            return None
    elif typing.get_origin(hint) is tuple:
        items = [x for x in value.split(",") if x] if isinstance(value, str) else list(value)
        return tuple(_convert_one(x, typing.get_args(hint)[0]) for x in items)
    elif hint is bool:
        table = {"true": True, "false": False, "yes": True, "no": False, True: True, False: False}
        if str(value).lower() in table or value in (True, False):
            return table[str(value).lower()] if isinstance(value, str) else bool(value)
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        if float(value) != float(value):
            raise ValueError("not a number")
        return float(value)
    elif hint is int and isinstance(value, (int, str)) and not isinstance(value, bool):
        return int(value)
    elif hint is str and isinstance(value, str):
        return value
    raise TypeError


def stage(
    *,
    reads: Sequence[str] = ("text",),
    writes: Sequence[pa.Field] = (),
    reasons: Sequence[str] = (),
    models: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
) -> Callable[[Callable[..., Outcome]], Callable[..., Stage]]:
    """Turn a function `(table, *, settings) -> Outcome` into a maker of stages."""

    def decorate(function: Callable[..., Outcome]) -> Callable[..., Stage]:
        name = function.__name__

        def make(**settings: Any) -> Stage:
            checked = check_settings(name, function, settings)
            wanted = tuple((models or {}).items())
            return Stage(name, function, checked, tuple(reads), tuple(writes), tuple(reasons), wanted, tuple(files))

        make.__name__, make.__doc__, make.__module__ = name, function.__doc__, function.__module__
        make.__wrapped__ = function  # type: ignore[attr-defined]
        return make

    return decorate


def rule(*, reasons: Sequence[str]) -> Callable[[Callable[..., str | None]], Callable[..., Stage]]:
    """Turn a function `(column, ..., *, settings) -> reason | None` on one document into a maker of stages."""

    def decorate(function: Callable[..., str | None]) -> Callable[..., Stage]:
        positional = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        name = function.__name__

        def make(**settings: Any) -> Stage:
            checked = check_settings(name, function, settings)
            return Stage(name, _OneByOne(function, tuple(positional)), checked, tuple(positional), (), tuple(reasons))

        make.__name__, make.__doc__, make.__module__ = name, function.__doc__, function.__module__
        make.__wrapped__ = function  # type: ignore[attr-defined]
        return make

    return decorate


@dataclass(frozen=True)
class _OneByOne:
    """Lifts a document function to tables."""

    function: Callable[..., str | None]
    columns: tuple[str, ...]

    def __call__(self, table: pa.Table, **settings: Any) -> Outcome:
        rows: Iterable[tuple[Any, ...]] = zip(*(table[c].to_pylist() for c in self.columns), strict=True)
        return Outcome(reason=pa.array([self.function(*row, **settings) for row in rows], pa.string()))


def known_columns(steps: Sequence[Step]) -> dict[str, pa.Field]:
    """Every column that exists after these steps, in the order of the committed file."""
    columns = {f.name: f for f in (*DOCUMENT, *SCORES)}
    for step in steps:
        for added in step.writes:
            columns.setdefault(added.name, added)
    return columns
