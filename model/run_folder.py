"""The folder of a training run, and its settings (no torch).

RUN/run.json            what is trained: model, data, optimiser; a resume with other settings is refused by name
RUN/log.jsonl           a line a step, held-out losses, skipped steps, spikes, resumes, warnings
RUN/checkpoints/        see model.checkpoint
RUN/tensorboard/        the same figures for TensorBoard
RUN/loss.html           the curves as a page
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate.errors import RecipeError, StoreError
from curate.store import disk_errors, read_json, replace_file, sync_folder, to_json
from model.shapes import Shape, find_shape

PAPER_WARMUP = 2000
WARMUP_SHARE = 0.1  # of a run too short for 2,000 steps
DTYPES = ("float32", "bfloat16")
POLICIES = ("none", "paper", "full")  # of model.recompute
FEWEST_EPS = 1e-30  # below, Adam's eps is zero in fp32, and 0 / 0 no number
LONGEST_LINE = 1 << 24  # bytes of the log; more in one line is no line of ours


@dataclass(frozen=True)
class Settings:
    """What a user asks for. None: chosen by the model, the plan or the device."""

    corpus: str
    run: str
    model: str = "debug"
    steps: int | None = None  # default: all of the plan
    lr: float | None = None  # default: the model's
    warmup: int | None = None  # default: the paper's 2,000 steps, a tenth of a run of fewer than 20,000
    weight_decay: float = 0.1
    clip: float = 1.0
    eps: float = 1e-8
    seed: int = 0
    dtype: str | None = None  # of the products; default: bfloat16 on CUDA, float32 elsewhere
    device: str | None = None
    micro_batch: int | None = None  # rows at a time; default: by the device
    recompute: str | None = None  # default: none, paper for large models
    compile: bool | None = None  # default: on CUDA
    tp: int = 1
    eval_every: int | None = None  # steps; default: a tenth of the run
    eval_rows: int = 32  # held-out windows of each source
    save_every: int | None = None  # steps; default: a tenth of the run, at most 1,000
    keep: int = 3
    log_every: int = 10  # steps between lines on the screen
    max_hours: float | None = None
    resume: int | None = None  # this step's checkpoint, not the newest
    spike_sigma: float = 6.0  # over the mean of the last 128 losses
    max_skips: int = 3  # steps in a row that may be left out before the run stops

    def __post_init__(self) -> None:
        at_least_one = ("steps", "micro_batch", "tp", "eval_every", "save_every", "keep", "log_every", "max_skips")
        for name in at_least_one:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= sys.maxsize:
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be at least 1, at most {sys.maxsize}")
        for name in ("warmup", "eval_rows"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= sys.maxsize:
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be at least 0, at most {sys.maxsize}")
        for name in ("lr", "clip", "eps", "max_hours", "spike_sigma"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be above zero")
        if self.eps < FEWEST_EPS:
            raise RecipeError(f"--eps {self.eps}: must be at least {FEWEST_EPS}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise RecipeError(f"--weight-decay {self.weight_decay}: must be a number, zero or above")
        if self.recompute not in (None, *POLICIES):
            raise RecipeError(f"--recompute {self.recompute}: there is {', '.join(POLICIES)}")
        if self.dtype not in (None, *DTYPES):
            raise RecipeError(f"--dtype {self.dtype}: there is {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Resolved:
    """What a run is: all that shapes its result."""

    shape: Shape
    plan: str  # hash
    tokenizer: str  # SHA-256
    steps: int
    lr: float
    warmup: int
    weight_decay: float
    clip: float
    eps: float
    seed: int
    dtype: str

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"shape": self.shape.record(), **{k: v for k, v in asdict(self).items() if k != "shape"}}


def resolve(settings: Settings, plan: Mapping[str, Any], dtype: str) -> tuple[Resolved, list[str]]:
    """What the settings mean for a plan, and warnings. RecipeError: no such model."""
    shape = find_shape(settings.model, int(plan["vocabulary"]), int(plan["length"]))
    there, warnings = int(plan["steps"]), []
    steps = settings.steps or there
    if steps > there:
        warnings.append(f"the data run out after step {there:,}: {steps:,} steps were asked for, and training ends "
                        "there; curate mix --tokens makes a longer plan")  # fmt: skip
        steps = there
    for source, entry in plan["sources"].items():
        epochs = entry["epochs"] * steps / there
        if epochs > 4:
            warnings.append(f"{source} is read {epochs:.1f} times: it is small for its share")
    warmup = PAPER_WARMUP if settings.warmup is None else settings.warmup
    if settings.warmup is None and steps * WARMUP_SHARE < PAPER_WARMUP:
        warmup = max(1, round(steps * WARMUP_SHARE))
    return Resolved(
        shape, str(plan["hash"]), str(plan["tokenizer"]), steps, settings.lr or shape.lr, warmup,
        settings.weight_decay, settings.clip, settings.eps, settings.seed, dtype,
    ), warnings  # fmt: skip


def claim(run: Path, resolved: Resolved) -> None:
    """Compare with the run.json that is there. RecipeError names the first setting that differs."""
    path = run / "run.json"
    for name in ("run.json", "log.jsonl"):  # of writers that were killed
        for left in run.glob(f".{name}.*"):
            left.unlink(missing_ok=True)
    if not path.exists():
        return  # a checkpoint has the settings, too, and is compared when it is read
    there = read_record(path)
    before = there.get("settings") if isinstance(there, dict) else None
    if not isinstance(before, dict):
        raise RecipeError(f"{path}: is not of a training run; give another --out")
    compare(run, before, resolved)


def compare(run: Path, before: Mapping[str, Any], resolved: Resolved) -> None:
    """RecipeError names the first setting that differs from those that a run or a checkpoint was made with."""
    for name, value in resolved.record().items():
        if before.get(name) != value:
            was, now = _shown(name, before.get(name), value)
            raise RecipeError(f"{run}: was begun with {name} {was}, now it is {now}; give another --out, or the old "
                              "setting to go on")  # fmt: skip


def write_facts(run: Path, resolved: Resolved, facts: Mapping[str, Any]) -> None:
    """Write run.json; when all is ready, so that a start that failed binds nobody to its settings."""
    replace_file(run / "run.json", to_json({"format": 1, "settings": resolved.record(), **facts}))


def read_record(path: Path) -> Any:
    """A JSON file of ours. StoreError: damaged, nested without end, or not to be read."""
    try:
        with disk_errors(path):
            return read_json(path)
    except RecursionError:
        raise StoreError(f"{path}: damaged, not JSON of ours (nested too deeply)") from None


def _shown(name: str, was: Any, now: Any) -> tuple[str, str]:
    """Two values, shortened to where they differ."""
    if name == "shape" and isinstance(was, dict):
        different = [k for k in now if was.get(k) != now[k]]
        return ", ".join(f"{k}={was.get(k)}" for k in different), ", ".join(f"{k}={now[k]}" for k in different)
    return str(was)[:16], str(now)[:16]


class Log:
    """RUN/log.jsonl: lines are appended whole; a resume drops those of steps that are done again."""

    def __init__(self, run: Path, from_step: int) -> None:
        """Keep lines of steps below `from_step` (a held-out line of that step, too), and open for more."""
        self.path = run / "log.jsonl"
        with disk_errors(self.path):
            self.dropped = _cut(self.path, from_step) if self.path.exists() else 0
            self._file = open(self.path, "ab")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one; numbers that JSON does not have become strings."""
        with disk_errors(self.path):
            self._file.write((json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n").encode())
            self._file.flush()  # all of the line, or an error: without a buffer a full disk takes a part and says so

    def sync(self) -> None:
        """Make what was written durable: a checkpoint must not be ahead of the log."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):  # of a line that found no room; `write` has said so
            self._file.close()


def _cut(path: Path, from_step: int) -> int:
    """Leave out lines that do not stay, by a new file in place of the old one; returns their number."""
    part, dropped = path.with_name(f".{path.name}.part"), 0
    with open(path, "rb") as old, open(part, "wb") as new:
        while line := old.readline(LONGEST_LINE):
            if _stays(line, from_step):
                new.write(line)
            else:
                dropped += 1
        new.flush()
        os.fsync(new.fileno())
    os.replace(part, path)
    sync_folder(path.parent)
    return dropped


def _stays(line: bytes, from_step: int) -> bool:
    try:
        record = json.loads(line)
        step = int(record.get("step", -1))
        kept = step < from_step or (record["kind"] == "held_out" and step == from_step)
        return kept and line.endswith(b"\n") and isinstance(record["kind"], str)
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
        return False  # cut off when the process died, or none of ours


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def losses(run: Path) -> list[float]:
    """Training losses in the order of steps."""
    found = []
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "step":
            found.append(float(record["loss"]))
    return found
