"""Starts a training: in this process, in one of those that torchrun started, or on Ray.

`model.train` knows no Ray and `curate.engine` no training: this module puts the two together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curate.engine import Place, launch
from curate.errors import RecipeError
from model.run_folder import Settings


def train(
    settings: Settings,
    workers: int | None = None,
    address: str | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train as `model.train.train` does. With `workers` or an `address`, on Ray: that many processes, default 1."""
    require_torch()
    model = os.path.abspath(settings.model) if settings.model.endswith(".json") else settings.model
    corpus, run = os.path.abspath(settings.corpus), os.path.abspath(settings.run)  # workers stand in another folder
    settings = replace(settings, model=model, corpus=corpus, run=run)
    if workers is not None and workers < 1:
        raise RecipeError(f"--workers {workers}: must be at least 1")
    if workers is None and address is None:
        from model.train import Hooks
        from model.train import train as train_here

        return train_here(settings, Hooks(note=note))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("--workers and --address start processes on Ray; torchrun has started some already")
    gpus = settings.device != "cpu" and _cuda()
    cores = max(1, (os.cpu_count() or 1) // (workers or 1)) if address is None and not gpus else 1
    done = launch(
        _on_worker, settings, workers=workers or 1, out=Path(settings.run), gpus=gpus, cores=cores, address=address,
        on_report=None if note is None else _line(note), note=note,
    )  # fmt: skip
    return dict(done.value)


def _on_worker(settings: Settings, place: Place) -> dict[str, Any]:
    """Runs in each of Ray's processes; torch.distributed is there already."""
    from model.train import Hooks
    from model.train import train as train_here

    device = settings.device or ("cuda" if _cuda() else "cpu")
    hooks = Hooks(report=place.report, stopping=place.stopping, checkpointed=place.checkpoint, note=_nowhere)
    return train_here(replace(settings, device=device), hooks)


def _nowhere(line: str) -> None:
    """Lines of a worker go to log.jsonl; the driver shows the figures."""


def _line(note: Callable[[str], None]) -> Callable[[Mapping[str, float]], None]:
    def show(metrics: Mapping[str, float]) -> None:
        m = metrics
        note(f"step {m['step'] + 1:.0f}  loss {m['loss']:.4f}  lr {m['lr']:.2e}  grad norm {m['grad_norm']:.2f}  "
             f"{m['tok_s']:,.0f} tok/s  MFU {100 * m['mfu_a']:.1f} %")  # fmt: skip

    return show


def _cuda() -> bool:
    from model.speed import has_cuda

    return bool(has_cuda())


def require_torch() -> None:
    """RecipeError where torch is not installed."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise RecipeError("training needs torch: pip install 'curate-llama[train]' (2.11 to 2.13)")
