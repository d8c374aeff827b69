"""A recipe: a source and the steps that its documents go through. Frozen data, checked when it is built."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.errors import RecipeError, near
from curate.schema import DOCUMENT, SCORES
from curate.stage import Barrier, Source, Stage, Step, convert, known_columns

OURS = ("curate", "sources", "tokenizer", "model", "pipelines")
# Modules that move, show or account for documents but do not shape what is committed about one.
NOT_SHAPING = {"curate.errors", "curate.cache", "curate.models", "curate.stage", "curate.recipe"}


@dataclass(frozen=True)
class Segment:
    """What happens to a split between two barriers: `start` is applied first, `end` is emitted last."""

    number: int
    start: Barrier | None
    stages: tuple[Stage, ...]
    end: Barrier | None


@dataclass(frozen=True)
class Choice:
    """A stage that a recipe has only when one of its settings, or `on=yes`, is given."""

    make: Callable[..., Stage]
    after: str = "read"  # the step that it follows; "read": it comes first

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.make.__name__


@dataclass(frozen=True)
class Recipe:
    """`source` read and passed through `steps` (stages and barriers), in this order."""

    name: str
    source: Source
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()  # stages that the user can switch on
    missing: tuple[str, ...] = ()  # what the paper has here and this recipe does not, shown to the user
    sample_models: Callable[..., None] | None = None  # (recipe, splits, out, note): models for the embedded sample

    def __post_init__(self) -> None:
        """Every column is there when a stage reads it, every name occurs once."""
        columns = set(DOCUMENT.names)
        seen: set[str] = set()
        for step in self.steps:
            if not isinstance(step, (Stage, Barrier)):
                raise RecipeError(f"recipe {self.name}: {step!r} is not a stage; call it with its settings")
            if step.name in seen:
                raise RecipeError(f"recipe {self.name}: stage {step.name!r} occurs twice")
            seen.add(step.name)
            for column in step.reads:
                if column not in columns:
                    raise RecipeError(f"recipe {self.name}: {step.name} reads {column!r}{near(column, columns)}")
            columns.update(f.name for f in step.writes)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the committed documents."""
        return pa.schema(list(known_columns(self.steps).values()))

    def schema_before(self, segment: Segment) -> pa.Schema:
        """Columns of the documents that wait for a segment."""
        passed = [s for part in self.segments()[: segment.number] for s in (part.start, *part.stages) if s is not None]
        written = {f.name: f for step in passed for f in step.writes}
        return pa.schema([*DOCUMENT, *(f for f in written.values() if f.name not in DOCUMENT.names)])

    def segments(self) -> tuple[Segment, ...]:
        """The steps, cut at the barriers."""
        segments: list[Segment] = []
        start: Barrier | None = None
        stages: list[Stage] = []
        for step in self.steps:
            if isinstance(step, Barrier):
                segments.append(Segment(len(segments), start, tuple(stages), step))
                start, stages = step, []
            else:
                stages.append(step)
        return (*segments, Segment(len(segments), start, tuple(stages), None))

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """The same recipe with `{"stage.setting": value}` changed; text values are parsed."""
        by_stage: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            stage_name, _, setting = name.partition(".")
            if not setting:
                raise RecipeError(f"--set {name}: give it as STAGE.SETTING=VALUE, such as language.min_score=0.65")
            by_stage.setdefault(stage_name, {})[setting] = value
        recipe = self
        for stage_name, given in by_stage.items():
            recipe = recipe._with_stage_settings(stage_name, given)
        return recipe

    def _with_stage_settings(self, name: str, given: dict[str, Any]) -> Recipe:
        known, choices = {s.name: s for s in self.steps}, {c.name: c for c in self.choices}
        if name in ("source", self.source.name):
            return replace(self, source=_changed(self.source, "source", given))
        if name in choices and name not in known:
            return self._with_choice(choices[name], given)
        if name not in known:
            raise RecipeError(f"recipe {self.name} has no stage {name!r}{near(name, [*known, *choices, 'source'])}")
        step = known[name]
        new: Step = step.with_settings(**given) if isinstance(step, Stage) else _changed(step, name, given)
        return replace(self, steps=tuple(new if s is step else s for s in self.steps))

    def _with_choice(self, choice: Choice, given: dict[str, Any]) -> Recipe:
        """The same recipe with an optional stage in its place."""
        settings = {k: v for k, v in given.items() if k != "on"}
        if not convert(f"{choice.name}.on", given.get("on", True), bool):
            return self
        at = [s.name for s in self.steps].index(choice.after) + 1 if choice.after != "read" else 0
        return replace(self, steps=(*self.steps[:at], choice.make(**settings), *self.steps[at:]))

    def with_stage(self, stage: Stage) -> Recipe:
        """The same recipe with the stage of that name replaced."""
        return replace(self, steps=tuple(stage if s.name == stage.name else s for s in self.steps))

    def shaped_by(self, until: int | None = None) -> dict[str, Any]:
        """Everything that shapes the output of the segments up to `until`, as canonical JSON data."""
        described: dict[str, Any] = {"source": describe(self.source)}
        for segment in self.segments()[: None if until is None else until + 1]:
            described |= {stage.name: describe(stage) for stage in segment.stages}
            if segment.end is not None:
                described[segment.end.name] = describe(segment.end)
        described["schema"] = str(self.schema if until is None else [*DOCUMENT.names, *SCORES.names])
        return described

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hex digits of all that shapes this recipe's output."""
        return digest(self.shaped_by())


def digest(value: Any) -> str:
    """12 hex digits of JSON data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two pieces of JSON data: "language.min_score: 0.5 -> 0.65"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new}, key=str)
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path.replace('.settings.', '.')}: {old} -> {new}"]


def part_module(part: Any) -> str:
    """Name of the module that a source or a step comes from."""
    if isinstance(part, Stage):
        return str(getattr(part.function, "function", part.function).__module__)  # a lifted document function's own
    return type(part).__module__


def describe(part: Any) -> dict[str, Any]:
    """Settings of a source or a step, and the digest of the code that runs."""
    if isinstance(part, Stage):
        settings = dict(part.settings)
        for name in (*dict(part.models), *part.files):  # a file counts by its content, not by where it lies
            settings[name] = model_digest(settings[name])
    else:
        settings = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    described = {"settings": json.loads(json.dumps(settings, default=str)), "code": code_digest(part_module(part))}
    if isinstance(part, Stage) and part_module(part).split(".")[0] not in OURS:
        described["function"] = function_digest(getattr(part.function, "function", part.function))
    return described


def model_digest(path: str | None) -> str | None:
    """Digest of a model file, or of the cards and cut-offs of a folder of models; None stays None."""
    if path is None or not Path(path).exists():
        return path
    if Path(path).is_dir():  # cards hold the digests of the model files (see curate.adopt)
        cards = sorted(p for p in Path(path).rglob("*.json") if not p.name.startswith("."))
        return digest([[str(p.relative_to(path)), p.read_text()] for p in cards])
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


@functools.cache
def code_digest(module: str) -> str:
    """Digest of a module's source and of the modules that it imports, ours and its neighbours, so that a changed rule
    is noticed."""
    return digest({name: hashlib.sha256(_source_of(name)).hexdigest() for name in modules_of(module)})


@functools.cache
def modules_of(module: str) -> tuple[str, ...]:
    """A module, what it imports of ours and, of a user's own, what it imports from beside itself."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in NOT_SHAPING:
            found.add(name)
            waiting += [m for m in _imports(name) if m.split(".")[0] in OURS or _is_beside(m, module)]
    return tuple(sorted(found))


def _is_beside(module: str, start: str) -> bool:
    """Whether a loaded module lies in the folder of a user's own module, or below it."""
    file, first = (getattr(sys.modules.get(m), "__file__", None) for m in (module, start))
    if not file or not first or start.split(".")[0] in OURS:
        return False
    root = Path(first).resolve().parents[start.count(".")]
    return Path(file).resolve().is_relative_to(root) and "site-packages" not in Path(file).parts


def function_digest(function: Callable[..., Any]) -> str:
    """Digest of a function's code and of what it closes over: two rules of one factory are two rules."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    return digest([_code(code), [repr(cell.cell_contents) for cell in cells]])


def _code(code: Any) -> Any:
    if code is None or not hasattr(code, "co_code"):
        return repr(code)
    return [code.co_code.hex(), [_code(c) for c in code.co_consts], list(code.co_names)]


def _source_of(module: str) -> bytes:
    loaded = getattr(sys.modules.get(module), "__file__", None)  # a script's own functions are of "__main__"
    spec = importlib.util.find_spec(module) if loaded is None and module != "__main__" else None
    origin = loaded or (spec.origin if spec else None)
    return Path(origin).read_bytes() if origin and Path(origin).is_file() else b""


def _imports(module: str) -> list[str]:
    """Modules that a module imports; `from x import y` as x and, where that is a module, x.y."""
    names: list[str] = []
    package = module if hasattr(sys.modules.get(module), "__path__") else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(_source_of(module))):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            if node.level and not package:
                continue
            base = importlib.util.resolve_name(origin, package) if node.level else origin
            names += [base, *(f"{base}.{a.name}" for a in node.names if _is_module(f"{base}.{a.name}"))]
    return names


def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    if name.split(".")[0] not in OURS:
        return False  # the neighbours of a module that runs are loaded
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def _changed(part: Any, name: str, given: Mapping[str, Any]) -> Any:
    """A frozen dataclass with some fields changed, their text parsed after the fields' types."""
    fields = {f.name: f for f in dataclasses.fields(part)}
    hints = typing.get_type_hints(type(part))
    for setting in given:
        if setting not in fields:
            raise RecipeError(f"{name} has no setting {setting!r}{near(setting, fields)}")
    return replace(part, **{k: convert(f"{name}.{k}", v, hints.get(k, str)) for k, v in given.items()})
