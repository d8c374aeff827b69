"""Trains a LLaMA on a corpus' mixture.

    curate train corpus --model 160m --steps 1000 --out runs/one

`train` is the same for one process, under torchrun and under Ray: it finds the other processes by the environment and
knows no Ray. The order of the data is a pure function of the plan, so a checkpoint has to keep one number of it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from curate.errors import INTERRUPTED, CurateError, RecipeError, StoreError
from curate.store import Corpus, disk_errors, locked
from model import checkpoint, parallel
from model.data import Batch, open_data, tensors
from model.evaluate import held_out
from model.optimiser import Hyper
from model.parallel import World
from model.plan import load_plan, resume_step, state_of
from model.run_folder import Log, Settings, claim, compare, resolve, write_facts
from model.speed import out_of_memory, peak, peak_memory
from model.stepper import How, Stepper, StepResult, choose, token_bytes
from model.watch import Watch, by_source, documents_of, worst_rows
from tokenizer.encode import Encoder, _piece_bytes, read_model

PROBE_EVERY = 50  # steps, and before each checkpoint

Note = Callable[[str], None]


class Stopped(CurateError):
    """Asked to stop, or out of time; everything is saved, the same command goes on."""

    exit_code = INTERRUPTED


@dataclass(frozen=True)
class Hooks:
    """What a launcher wants to hear, and says."""

    report: Callable[[Mapping[str, Any]], None] = lambda metrics: None  # on rank 0, where a line is shown
    stopping: Callable[[], bool] = lambda: False
    checkpointed: Callable[[str, Mapping[str, Any]], None] = lambda path, metrics: None  # rank 0, when it is written
    note: Note | None = None  # rank 0's lines; default: stderr


def train(settings: Settings, hooks: Hooks | None = None) -> dict[str, Any]:
    """Train until the end of the run, on this process and those that a launcher started beside it.

    Returns {step, loss, held_out, tokens, seconds, tok_s, run}. RecipeError: settings that do not fit the data, the
    device or the run that is there; StoreError: damaged data or checkpoints; Stopped: saved, to be continued.
    """
    hooks = hooks or Hooks()
    world = parallel.join(settings.device, settings.tp)
    note = (hooks.note or _to_stderr) if world.rank == 0 else _nowhere
    run = Path(settings.run).absolute()
    try:
        with contextlib.ExitStack() as held, _asked_to_stop() as asked:
            world.first(lambda: held.enter_context(_taken(run)))
            return _Training(settings, run, world, note, hooks, asked).run()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        said = str(error).partition(". ")[0]
        raise RecipeError(f"{said}; a smaller --micro-batch, --recompute full or more processes take less") from error
    finally:
        parallel.leave(world)


@contextlib.contextmanager
def _taken(run: Path) -> Iterator[None]:
    """The folder of a run, made where it is not there, locked. StoreError: it cannot be, or another has it."""
    with disk_errors(run):
        if (run / "corpus.json").exists():
            raise RecipeError(f"--out {run}: is a corpus; a run has a folder of its own, such as {run}/runs/one")
        run.mkdir(parents=True, exist_ok=True)
    with locked(run, "train"):
        yield


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nowhere(line: str) -> None:
    pass


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[str]]:
    """SIGTERM and SIGINT are noted; the step under way is finished, then all is saved. A second one ends at once."""
    asked: list[str] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are the launcher's
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Pending:
    """A step whose figures are on their way from the device."""

    step: int
    lr: float
    rows: torch.Tensor
    scalars: torch.Tensor
    event: Any
    seconds: float = 0.0  # of training when it was done


class _Training:
    """The state of a run. One method for each thing that happens in its course."""

    def __init__(self, settings: Settings, run: Path, world: World, note: Note, hooks: Hooks, asked: list[str]) -> None:
        self.settings, self.folder, self.world, self.note, self.hooks, self.asked = (
            settings, run, world, note, hooks, asked
        )  # fmt: skip
        self.started = time.monotonic()
        corpus = Corpus(Path(settings.corpus).absolute())
        self.plan = load_plan(corpus)
        self.data = open_data(corpus, self.plan)
        device = world.device
        dtype = settings.dtype or ("bfloat16" if device.type == "cuda" else "float32")
        self.resolved, self.warnings = resolve(settings, self.plan, dtype)
        self.tokenizer = _tokenizer(corpus, self.resolved.tokenizer)
        world.first(lambda: claim(run, self.resolved))
        self.stepper = self._stepper(getattr(torch, dtype))
        self.bytes_of = token_bytes(int(self.plan["vocabulary"]), _bytes_of(self.tokenizer), device)
        self.watch = Watch(settings.spike_sigma, settings.max_skips)
        self.step, self.seconds = 0, 0.0  # done, and how long that took over all sessions
        self.saver = checkpoint.Saver(run, world, _token(world), settings.keep, self.tokenizer)
        self.last: dict[str, Any] = {}

    # ---- before the first step ----------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        shape = self.resolved.shape
        tokens = self.data.order.batch * self.data.order.length
        return {
            "model": shape.name, "parameters": shape.parameters, "steps": self.resolved.steps, "batch_tokens": tokens,
            "length": self.data.order.length, "vocabulary": shape.vocabulary,
            "corpus": str(Path(self.settings.corpus).absolute()),
            "device": _device_name(self.world.device), "processes": self.world.size, "torch": torch.__version__,
        }  # fmt: skip

    def _stepper(self, dtype: torch.dtype) -> Stepper:
        s, r, world, order = self.settings, self.resolved, self.world, self.data.order
        compiled = world.device.type == "cuda" if s.compile is None else s.compile
        rows = order.batch // world.dp if order.batch % world.dp == 0 else 1  # the stepper refuses the other case
        how = How(dtype, s.micro_batch or 1, s.recompute or "none", compiled)
        how = choose(r.shape, rows, order.length, world, s.micro_batch != rows, how, (s.micro_batch, s.recompute))
        _check_room(r.shape.parameters, world)
        hyper = Hyper(r.lr, 0.1, r.warmup, r.steps, eps=r.eps, weight_decay=r.weight_decay, clip=r.clip)
        return Stepper(r.shape, hyper, how, world, r.seed, order.batch)

    def _restore(self) -> None:
        found = self._found()
        if found is None:
            return
        try:
            self.step = resume_step(self.plan, found.record["data"])
            compare(found.folder, found.record["settings"], self.resolved)
            self.seconds = float(found.record["progress"]["seconds"])
            self.watch.restore(found.record["progress"]["watch"])
            if self.step != found.step:
                raise ValueError(f"data of step {self.step}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{found.folder}: not a checkpoint of a training: {error}") from None
        checkpoint.fill(found, self.stepper.optimiser.to_fill())
        step = self.step
        if self.settings.resume is not None and self.world.rank == 0:
            self._set_aside(step)
        self.note(f"going on from step {step:,} ({found.folder})")

    def _set_aside(self, step: int) -> None:
        """A run that goes back must not jump forward again when it is interrupted."""
        if names := checkpoint.set_aside(self.folder, step, self.saver.token):
            self.note(f"later checkpoints are set aside, not removed: {', '.join(names)} in {self.folder}/checkpoints")

    def _found(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to go on from: rank 0 looks and verifies, the others are told its step."""
        chosen, error = -1, None
        if self.world.rank == 0:
            try:
                chosen = self._chosen()
            except CurateError as e:
                chosen, error = -2, e
        if self.world.size > 1:
            told = torch.tensor(chosen, device=self.world.device)
            dist.broadcast(told, 0)
            chosen = int(told)
        if chosen == -2:
            raise error or StoreError(f"{self.folder}: rank 0 found no good checkpoint")
        return checkpoint.open_checkpoint(checkpoint.folder_of(self.folder, chosen)) if chosen >= 0 else None

    def _chosen(self) -> int:
        wanted = self.settings.resume
        if wanted is None:
            found = checkpoint.newest(self.folder, self._warn_early)
            return -1 if found is None else found.step
        there = checkpoint.steps(self.folder)
        if wanted not in there:
            raise RecipeError(f"--resume {wanted}: {self.folder} has no checkpoint of that step (there is: "
                              f"{', '.join(map(str, there)) or 'none'})")  # fmt: skip
        return checkpoint.verified(checkpoint.folder_of(self.folder, wanted)).step

    def _warn_early(self, line: str) -> None:
        self.warnings.append(line)

    def _begin(self) -> None:
        r, order, how = self.resolved, self.data.order, self.stepper.how
        self.log: Log | None = None
        self.world.first(self._open_log)
        self.board = _board(self.folder, self.step, self.note) if self.world.rank == 0 else None
        _, peak_from = peak(self.world.device)
        facts = {
            "step": self.step, "processes": self.world.size, "data_ranks": self.world.dp, "tensor_ranks": self.world.tp,
            "parameters": r.shape.parameters, "parameters_of_rank_0": self.stepper.local_parameters, "dtype": r.dtype,
            "micro_batch": how.micro_batch, "recompute": how.recompute, "compile": how.compile, "peak": peak_from,
        }  # fmt: skip
        self._write({"kind": "resume" if self.step else "start", **facts})
        self.note(f"{r.shape.name}: {r.shape.parameters:,} parameters, {r.steps:,} steps of {order.batch:,} x "
                  f"{order.length:,} tokens in micro-batches of {how.micro_batch}, {r.dtype}, recompute "
                  f"{how.recompute}, on {self.world.size} x {_device_name(self.world.device)}; warm-up "
                  f"{r.warmup:,} steps to {r.lr:g}")  # fmt: skip
        for line in self.warnings:
            self.note(f"warning: {line}")
            self._write({"kind": "warning", "step": self.step, "text": line})

    def _open_log(self) -> None:
        write_facts(self.folder, self.resolved, self._facts())
        self.log = Log(self.folder, self.step)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All steps that are left."""
        self._restore()
        self._begin()
        try:
            self._steps()
        finally:
            self._finish()
        return {**self.last, "run": str(self.folder), "step": self.step, "seconds": round(self.seconds, 1)}

    def _steps(self) -> None:
        total, pending = self.resolved.steps, None
        self.since, self.shown = time.monotonic(), (self.seconds, self.step)
        feed = tensors(self.data, self.step, self.world.dp_rank, self.world.dp, pin=self.world.device.type == "cuda")
        with contextlib.closing(feed):  # type: ignore[type-var]
            for step, batch in feed if self.step < total else ():
                made = self._one(step, batch)
                if pending is not None:
                    self._look(pending)
                pending, self.step = made, step + 1
                pending.seconds = self._counted()
                if self._due(PROBE_EVERY):
                    self._probe()
                stop = self._why_stop()
                if self._due(self.settings.eval_every or -(-total // 10)) or self.step == total:
                    self._settle(pending)
                    pending = None
                    self._evaluate()
                if stop or self.step == total or self._due(self.settings.save_every or min(1000, -(-total // 10))):
                    if pending is not None:
                        self._settle(pending)
                        pending = None
                    self._save()
                if pending is None:
                    self.since = time.monotonic()  # evaluation and saving do not count as training
                if stop and self.step < total:
                    self.saver.wait()
                    again = "run the same command" + (" without --resume" if self.settings.resume is not None else "")
                    raise Stopped(f"{stop}: saved at step {self.step:,} of {total:,}; {again} to go on")
                if self.step == total:
                    break
        self.saver.wait()

    def _counted(self) -> float:
        """Seconds of training until now."""
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        return self.seconds

    def _settle(self, pending: _Pending) -> None:
        """Wait for a step, and look at it."""
        if pending.event is not None:
            pending.event.synchronize()
        pending.seconds = self._counted()
        self._look(pending)

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _one(self, step: int, batch: Batch) -> _Pending:
        self.data.check_ids(batch.tokens, f"step {step}")
        tokens = batch.tokens.to(self.world.device, non_blocking=True)
        lr = self.stepper.hyper.lr_at(step)
        result = self.stepper.step(tokens, lr, self.bytes_of)
        return _fetched(step, lr, result)

    def _why_stop(self) -> str:
        hours = self.settings.max_hours
        late = hours is not None and time.monotonic() - self.started > hours * 3600
        stop = bool(self.asked) or late or self.hooks.stopping()
        if not self.world.any(stop):
            return ""
        return f"--max-hours {hours}" if late else self.asked[0] if self.asked else "asked to stop"

    def _look(self, pending: _Pending) -> None:
        """Take the figures of a step to the log; they have had a step's time to arrive."""
        if pending.event is not None:
            pending.event.synchronize()
        nll, size = pending.rows.numpy()
        norm, ok = pending.scalars.tolist()
        order, r = self.data.order, self.resolved
        loss = float(nll.sum()) / (order.batch * order.length)
        step = pending.step
        taken = max(1e-9, pending.seconds - self.shown[0])
        rate = (step + 1 - self.shown[1]) * order.batch * order.length / taken
        best = peak(self.world.device)[0] * self.world.size
        sources = by_source(order.sources, order.batch_places(step).source, nll, size, order.length)
        line = {
            "kind": "step", "step": step, "loss": loss, "lr": pending.lr, "grad_norm": norm, "skipped": not ok,
            "tokens": (step + 1) * order.batch * order.length, "seconds": round(pending.seconds, 6),
            "tok_s": round(rate, 1),
            "mfu_a": rate * r.shape.flops_a(order.length) / best, "mfu_b": rate * r.shape.flops_b(order.length) / best,
            "sources": sources,
        }  # fmt: skip
        self._write(line)
        self.last |= {"loss": loss, "tokens": line["tokens"], "tok_s": line["tok_s"]}
        if self.board is not None:
            _to_board(self.board, line)
        if not ok:
            reason = "gradient" if np.isfinite(loss) else "loss"
            self._tell("skip", step, nll, {"reason": reason, "loss": loss, "grad_norm": norm})
        elif (spike := self.watch.spike(loss)) is not None:
            self._tell("spike", step, nll, {"loss": loss, "mean": spike[0], "sigma": spike[1]})
        if (step + 1) % self.settings.log_every == 0 or step + 1 == r.steps:
            self._show(line)
        self.watch.count(bool(ok), step)

    def _tell(self, kind: str, step: int, nll: Any, facts: Mapping[str, Any]) -> None:
        """A step that was left out, or a spike: with its worst rows and their documents."""
        if self.world.rank:
            return
        worst = worst_rows(nll, self.data.order.length)
        rows = documents_of(self.data, step, [row for row, _ in worst])
        rows = [{**row, "loss": loss} for row, (_, loss) in zip(rows, worst, strict=True)]
        self._write({"kind": kind, "step": step, **facts, "rows": rows})
        first = rows[0]
        self.note(f"{kind} at step {step}: loss {facts['loss']:.4g}; row {first['row']} is worst "
                  f"({first['source']}, document {first['documents'][0]}); curate trace --step {step} --row "
                  f"{first['row']} shows it")  # fmt: skip

    def _show(self, line: Mapping[str, Any]) -> None:
        total, order = self.resolved.steps, self.data.order
        left = (total - line["step"] - 1) * order.batch * order.length / max(1e-9, line["tok_s"])
        self.note(
            f"step {line['step'] + 1:>{len(str(total))}}/{total}  loss {line['loss']:.4f}  lr {line['lr']:.2e}  "
            f"grad norm {line['grad_norm']:.2f}  {line['tok_s']:,.0f} tok/s  MFU {100 * line['mfu_a']:.1f} % (exact "
            f"{100 * line['mfu_b']:.1f} %)  ETA {_time(left)}"
        )
        self.shown = (line["seconds"], line["step"] + 1)
        self.hooks.report({k: line[k] for k in ("step", "loss", "lr", "grad_norm", "tok_s", "mfu_a", "tokens")})

    def _evaluate(self) -> None:
        found = held_out(self.stepper, self.data, self.settings.eval_rows, self.bytes_of)
        if not found:
            return
        seen = self.step * self.data.order.batch * self.data.order.length
        line = {"kind": "held_out", "step": self.step, **found, "held_out_tokens": found["tokens"], "tokens": seen}
        self._write(line)
        if self.board is not None:
            _to_board(self.board, line)
        self.last["held_out"] = {k: found[k] for k in ("loss", "bits_per_byte")}
        self.note(f"held out after step {self.step}: loss {found['loss']:.4f}, {found['bits_per_byte'] or 0:.4f} bits "
                  "per byte; " + ", ".join(f"{s} {f['loss']:.3f}" for s, f in found["sources"].items()))  # fmt: skip

    def _probe(self) -> None:
        """StoreError: ranks that should have the same numbers have not. Nothing of it is saved."""
        if wrong := parallel.differing_copies(self.stepper.model, self.world):
            raise StoreError(f"after step {self.step:,} the ranks' copies of {', '.join(wrong[:3])} are not the same: "
                             "a device, its memory or a link is faulty; run the same command without that host to go "
                             "on from the last checkpoint")  # fmt: skip

    def _save(self) -> None:
        self._probe()
        if self.log is not None:
            self.log.sync()
        state = {
            "data": state_of(self.plan, self.step), "settings": self.resolved.record(),
            "shape": self.resolved.shape.record(), "tokenizer": self.resolved.tokenizer,
            "corpus": str(Path(self.settings.corpus).absolute()), "length": self.data.order.length,
            "bos": self.plan["bos"], "eos": self.plan["eos"],
            "progress": {"seconds": self.seconds, "watch": self.watch.state()},
        }  # fmt: skip
        self.saver.save(self.step, self.stepper.optimiser.tensors(), state)
        if self.world.rank == 0:
            path = checkpoint.folder_of(self.folder, self.step)
            self.hooks.checkpointed(str(path), {"step": self.step, "loss": self.last.get("loss", 0.0)})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)

    def _finish(self) -> None:
        self.last["peak_memory"] = peak_memory(self.world.device)
        with contextlib.suppress(CurateError):  # an error that stopped the run is the one to show
            self.saver.wait()
        if self.log is not None:
            self.log.close()
        if self.board is not None:
            self.board.close()


def _check_room(parameters: int, world: World) -> None:
    """RecipeError where weights, gradients and Adam's state are more than this host's memory; CUDA says so itself."""
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if world.device.type == "cpu" and 16 * parameters // world.size > room:
        raise RecipeError(f"{parameters:,} parameters take {16 * parameters // world.size / 1e9:,.1f} GB on each of "
                          f"{world.size} processes, this host has {room / 1e9:,.1f} GB; more processes on more hosts, "
                          "or a smaller --model")  # fmt: skip


def _fetched(step: int, lr: float, result: StepResult) -> _Pending:
    """Copies on the host, on their way where the device is another one."""
    scalars = torch.stack([result.took.norm.double(), result.took.ok.double()])
    event = None
    rows = result.rows
    if rows.is_cuda:
        rows, scalars = (x.to("cpu", non_blocking=True) for x in (rows, scalars))
        event = torch.cuda.Event()
        event.record()
    return _Pending(step, lr, rows, scalars, event)


def _tokenizer(corpus: Corpus, sha256: str) -> Path:
    """The model file that made the tokens. SourceError: it has changed."""
    path = corpus.root / "models" / "tokenizer" / "tokenizer.model"
    if not path.is_file():
        raise RecipeError(f"{path}: the tokenizer is not there; put the one that made the tokens there")
    return Encoder(path, sha256=sha256).path


def _bytes_of(path: Path) -> list[int]:
    proto = read_model(path)[1]
    return [len(x) for x in _piece_bytes(proto).to_pylist()]


def _token(world: World) -> str:
    """A word of this start, the same on all ranks."""
    number = torch.tensor(secrets.randbits(48), device=world.device)
    if world.size > 1:
        dist.broadcast(number, 0)
    return f"{int(number):012x}"


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} ({torch.get_num_threads()} threads)"
    )


def _board(run: Path, step: int, note: Note) -> Any:
    """A writer for TensorBoard; None where its package is not there."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        note("tensorboardX is not installed: no TensorBoard log (pip install 'curate-llama[train]')")
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=step, write_to_disk=True)


def _to_board(board: Any, line: Mapping[str, Any]) -> None:
    step, prefix = line["step"], "held_out" if line["kind"] == "held_out" else "train"
    for name in ("loss", "lr", "grad_norm", "tok_s", "mfu_a", "mfu_b", "bits_per_byte"):
        if line.get(name) is not None:
            board.add_scalar(f"{prefix}/{name}", line[name], step)
    for source, found in line["sources"].items():
        for name in ("loss", "bits_per_byte"):
            if found[name] is not None:
                board.add_scalar(f"{prefix}_{name}/{source}", found[name], step)


def _time(seconds: float) -> str:
    minutes, s = divmod(int(seconds + 0.5), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s" if m else f"{s}s"
