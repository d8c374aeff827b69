"""The folder of a training run, and its settings (no torch).

RUN/run.json            what is trained: model, data, optimiser; a resume with other settings is refused by name
RUN/log.jsonl           a line a step, held-out losses, skipped steps, spikes, resumes, warnings
RUN/checkpoints/        see model.checkpoint
RUN/tensorboard/        the same figures for TensorBoard
RUN/loss.html           the curves as a page
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate.errors import RecipeError
from curate.store import read_json, replace_file, to_json
from model.shapes import Shape, find_shape

PAPER_WARMUP = 2000
WARMUP_SHARE = 0.1  # of a run too short for 2,000 steps
DTYPES = ("float32", "bfloat16")
POLICIES = ("none", "paper", "full")  # of model.recompute


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
            if value is not None and value < 1:
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        for name in ("lr", "clip", "eps", "max_hours", "spike_sigma"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be above zero")
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


def claim(run: Path, resolved: Resolved, facts: Mapping[str, Any]) -> None:
    """Write run.json, or compare with the one that is there. RecipeError names the first setting that differs."""
    path, record = run / "run.json", resolved.record()
    if not path.exists():
        if (run / "checkpoints").is_dir() and any((run / "checkpoints").glob("step-*")):
            raise RecipeError(f"{run}: has checkpoints and no run.json; give another --out")
        replace_file(path, to_json({"format": 1, "settings": record, **facts}))
        return
    there = read_json(path)
    before = there.get("settings") if isinstance(there, dict) else None
    if not isinstance(before, dict):
        raise RecipeError(f"{path}: is not of a training run; give another --out")
    for name, value in record.items():
        if before.get(name) != value:
            was, now = _shown(name, before.get(name), value)
            raise RecipeError(f"{run}: was begun with {name} {was}, now it is {now}; give another --out, or the old "
                              "setting to go on")  # fmt: skip
    replace_file(path, to_json({**there, **facts}))


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
        kept, self.dropped = [], 0
        if self.path.exists():
            with open(self.path, "rb") as f:
                for line in f:
                    if _stays(line, from_step):
                        kept.append(line)
                    else:
                        self.dropped += 1
            replace_file(self.path, b"".join(kept))
        self._file = open(self.path, "ab", buffering=0)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one; numbers that JSON does not have become strings."""
        self._file.write((json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n").encode())

    def sync(self) -> None:
        """Make what was written durable: a checkpoint must not be ahead of the log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End it."""
        self._file.close()


def _stays(line: bytes, from_step: int) -> bool:
    try:
        record = json.loads(line)
        step = int(record.get("step", -1))
        return line.endswith(b"\n") and (step < from_step or (record["kind"] == "held_out" and step == from_step))
    except (ValueError, KeyError, AttributeError, TypeError):
        return False  # cut off when the process died


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
