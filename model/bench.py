"""`curate bench train`: training speed of a device beside transformers, in one run, and proof of the loss.

A step is a forward and backward pass over one micro-batch and the optimiser's step, with fp32 master weights and Adam
state, fed by the real loader from token shards. On a CPU all contenders take turns, step by step, so that what else
the machine does hits them alike; on CUDA they run one after the other, each with the whole memory and as many rows as
fit into it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from curate.errors import RecipeError
from curate.store import Corpus
from model import parallel
from model.data import Data, Stream, open_data, tensors
from model.flat import Flat
from model.llama import Transformer, attention_kernels, initialise
from model.optimiser import Hyper
from model.parallel import World
from model.plan import Order, load_plan
from model.run_folder import POLICIES
from model.shapes import Shape, find_shape
from model.speed import out_of_memory, peak, peak_memory, wait
from model.stepper import CPU_TOKENS, FULL_SPEED, How, Stepper, fitting_rows

RIVALS = ("transformers", "compile", "liger")
PARITY_STEPS = 10
PARITY_LAYERS = 2  # of the shape: an fp32 model of all of its layers with its optimiser may not fit
KEPT_LAYERS, KEPT_ROWS = 2, 2  # that a policy's memory is measured with; layers and rows are alike
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What to measure; None: chosen by the device."""

    model: str | None = None
    length: int | None = None
    micro_batch: int | None = None
    recompute: str | None = None  # a policy, or "all"
    steps: int | None = None
    warmup: int | None = None
    device: str | None = None
    dtype: str | None = None
    compile: bool | None = None
    rivals: str = "all"
    data: str | None = None


@dataclass(frozen=True)
class Setting:
    """The same, decided."""

    shape: Shape
    length: int
    how: How
    steps: int
    warmup: int
    world: World


def bench_train(asked: Asked, say: Say) -> dict[str, Any]:
    """Measure; {machine, versions, model, rows: [{name, tok_s, mfu_a, mfu_b, memory, ...}], parity, ratio}."""
    for name, least in (("length", 1), ("micro_batch", 1), ("steps", 1), ("warmup", 0)):
        if (given := getattr(asked, name)) is not None and given < least:
            raise RecipeError(f"--{name.replace('_', '-')} {given}: must be at least {least}")
    world = parallel.join(asked.device)
    if world.size > 1:
        raise RecipeError("bench train measures one process; start it without torchrun")
    cuda = world.device.type == "cuda"
    length = asked.length or (2048 if cuda else 256)
    data = open_data(Corpus(Path(asked.data)), load_plan(Path(asked.data))) if asked.data else None
    vocabulary = int(data.plan["vocabulary"]) if data else 32_000
    length = data.order.length if data else length
    shape = find_shape(asked.model or ("1b" if cuda else "debug"), vocabulary, length)
    settings = {p: _setting(asked, shape, length, world, p) for p in _policies(asked, shape, length, world)}
    setting = next(iter(settings.values()))
    contenders = [Contender(f"ours, recompute {p}", s, _ours, s.how.micro_batch) for p, s in settings.items()]
    most = max(s.how.micro_batch for s in settings.values())
    for name in _rivals(asked.rivals):
        how = replace(setting.how, micro_batch=most, recompute=asked.recompute if asked.recompute == "full" else "none")
        contenders.append(Contender(name, replace(setting, how=how), functools.partial(_theirs, name=name), most))
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        data = data or random_data(Path(folder), length, most, vocabulary)
        found = {**_facts(setting), "parity": parity(setting, data), "activations": _kept(settings)}
        rows = found["rows"] = (_one_by_one if cuda else _in_turns)(data, contenders, say)
    best = max((r["tok_s"] for r in rows if not r["name"].startswith("ours")), default=None)
    fastest = max((r["tok_s"] for r in rows if r["name"].startswith("ours")), default=None)
    if best and fastest:
        found["ratio"] = fastest / best
    return found


def _policies(asked: Asked, shape: Shape, length: int, world: World) -> Sequence[str]:
    """Which to measure: what is asked for, else those that may be the fastest on this device."""
    if asked.recompute is not None:
        return POLICIES if asked.recompute == "all" else (asked.recompute,)
    if world.device.type != "cuda":
        return ("none",)
    dtype = _dtype(asked, world)
    rows = {p: fitting_rows(shape, length, world, False, dtype, p) for p in POLICIES}
    fit = [p for p in POLICIES if rows[p] > 0]
    return [p for i, p in enumerate(fit) if all(rows[p] > rows[q] for q in fit[:i])][:2] or ["full"]


def _dtype(asked: Asked, world: World) -> torch.dtype:
    made = getattr(torch, asked.dtype or ("bfloat16" if world.device.type == "cuda" else "float32"))
    assert isinstance(made, torch.dtype)
    return made


def _setting(asked: Asked, shape: Shape, length: int, world: World, policy: str) -> Setting:
    cuda, dtype = world.device.type == "cuda", _dtype(asked, world)
    rows = fitting_rows(shape, length, world, False, dtype, policy) if cuda else CPU_TOKENS // length
    how = How(dtype, asked.micro_batch or max(1, rows), policy, cuda if asked.compile is None else asked.compile)
    steps, warmup = asked.steps or (50 if cuda else 5), 20 if cuda else 2
    return Setting(shape, length, how, steps, asked.warmup if asked.warmup is not None else warmup, world)


def _rivals(given: str) -> list[str]:
    if given == "none":
        return []
    names = RIVALS if given == "all" else tuple(given.split(","))
    if unknown := [n for n in names if n not in RIVALS]:
        raise RecipeError(f"--rivals {unknown[0]}: there is {', '.join(RIVALS)}, all and none")
    needs = {"liger": ("transformers", "liger_kernel")}
    cuda_only = () if torch.cuda.is_available() else ("compile", "liger")
    found = [n for n in names if all(importlib.util.find_spec(m) for m in needs.get(n, ("transformers",)))]
    found = [n for n in found if given != "all" or n not in cuda_only]
    return sorted(found, key=RIVALS.index)  # liger last: it changes transformers for the rest of the process


def random_data(folder: Path, length: int, rows: int, vocabulary: int, steps: int = 200) -> Data:
    """Random tokens in a token shard, read by the real loader: documents of 20 to 2,000 tokens, BOS and EOS added."""
    random = np.random.default_rng(0)
    wanted = steps * rows * length + length
    sizes = np.exp(random.uniform(np.log(20), np.log(2000), max(4, wanted // 400))).astype(np.int64)
    ids = random.integers(3, vocabulary, int(sizes.sum())).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
    names = pa.array([f"{i:032x}" for i in range(len(sizes))])
    table = pa.table({"doc_id": names, "tokens": lists, "text_hash": pa.array(np.arange(len(sizes), dtype=np.uint64))})
    with pa.ipc.new_file(str(folder / "random.arrow"), table.schema) as writer:
        writer.write_table(table)
    tokens = int(len(ids) + 2 * len(sizes))
    unit = {"unit": "random", "name": "random", "file": "random.arrow", "tokens": tokens, "documents": len(sizes)}
    entry = {"weight": 1, "tokens": tokens, "units": [unit]}
    plan = {
        "seed": 0,
        "length": length,
        "batch": rows,
        "steps": steps,
        "bos": 1,
        "eos": 2,
        "sources": {"random": entry},
    }
    return Data(plan, Order(plan), [Stream(folder, entry, 1, 2)])


# ---- contenders ------------------------------------------------------------------------------------------------------

Step = Callable[[Tensor], Any]  # one training step on rows (R, L + 1)


@dataclass(frozen=True)
class Contender:
    """What is measured."""

    name: str
    setting: Setting
    make: Callable[[Setting], Step]
    rows: int  # that it begins with

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.name.startswith("ours")

    def smaller(self) -> Contender | None:
        """What to try where memory was not enough; None: nothing is left.

        Ours loses an eighth of its rows. A rival has half of them as long as products are at full speed, then it
        recomputes its layers with as many as it began with, then half again.
        """
        how, rows = self.setting.how, self.setting.how.micro_batch
        if self.ours or how.recompute == "full":
            how = replace(how, micro_batch=rows - max(1, rows // 8) if self.ours else rows // 2)
        elif rows // 2 * self.setting.length >= FULL_SPEED:
            how = replace(how, micro_batch=rows // 2)
        else:
            how = replace(how, micro_batch=self.rows, recompute="full")
        return replace(self, setting=replace(self.setting, how=how)) if how.micro_batch else None


def _ours(setting: Setting) -> Step:
    hyper = Hyper(setting.shape.lr, warmup=10, steps=10_000)
    stepper = Stepper(setting.shape, hyper, setting.how, setting.world, 0, setting.how.micro_batch)
    sizes = torch.ones(setting.shape.vocabulary, dtype=torch.int32, device=setting.world.device)
    return lambda tokens: stepper.step(tokens, 1e-4, sizes)


def _theirs(setting: Setting, name: str) -> Step:
    """transformers with sdpa, fp32 weights, autocast to the dtype of the products, fused AdamW, clipping."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from model.export_hf import config

    device, dtype = setting.world.device, setting.how.dtype
    if name == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    with device:
        model = LlamaForCausalLM(LlamaConfig(**config(setting.shape, 1, 2, torch.float32)))
    if setting.how.recompute != "none":
        model.gradient_checkpointing_enable()
    model.train()
    model.config.use_cache = False
    if name == "compile":
        model.compile()
    adamw = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: Tensor) -> Any:
        inputs = tokens[:, :-1]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return loss.detach()

    return step


def _feed(setting: Setting, data: Data) -> Iterator[Tensor]:
    rows, cuda = setting.how.micro_batch, setting.world.device.type == "cuda"
    left = torch.empty((0, setting.length + 1), dtype=torch.int64)
    while True:
        for _, batch in tensors(data, pin=cuda):
            left = torch.cat([left, batch.tokens]) if len(left) else batch.tokens
            while len(left) >= rows:
                yield left[:rows].to(setting.world.device, non_blocking=True)
                left = left[rows:]


def _in_turns(data: Data, contenders: Sequence[Contender], say: Say) -> list[dict[str, Any]]:
    setting = contenders[0].setting
    steps = [c.make(c.setting) for c in contenders]
    times: list[list[float]] = [[] for _ in steps]
    with contextlib.closing(_feed(setting, data)) as feed:  # type: ignore[type-var]
        for i in range(setting.warmup + setting.steps):
            tokens = next(feed)
            for step, taken in zip(steps, times, strict=True):
                started = time.perf_counter()
                step(tokens)
                if i >= setting.warmup:
                    taken.append(time.perf_counter() - started)
            say(f"round {i + 1} of {setting.warmup + setting.steps}")
    return [_row(c, taken, None) for c, taken in zip(contenders, times, strict=True)]


def _one_by_one(data: Data, contenders: Sequence[Contender], say: Say) -> list[dict[str, Any]]:
    rows = []
    for contender in contenders:
        trying: Contender | None = contender
        while trying is not None:
            row = _alone(data, trying, say)
            torch._dynamo.reset()
            gc.collect()  # also what the error of a lack of memory held
            torch.cuda.empty_cache()
            if row is not None:
                rows.append(row)
                say(f"{row['name']}, {row['micro_batch']} rows: {row['tok_s']:,.0f} tok/s")
                break
            say(f"{trying.name}: not done with {trying.setting.how.micro_batch} rows, recompute "
                f"{trying.setting.how.recompute}")  # fmt: skip
            trying = trying.smaller()
    return rows


def _alone(data: Data, contender: Contender, say: Say) -> dict[str, Any] | None:
    """Figures of one contender; None where memory is not enough, or where a rival fails for a reason of its own."""
    setting = contender.setting
    device, times, state = setting.world.device, [], ""
    torch.cuda.reset_peak_memory_stats(device)
    try:
        step = contender.make(setting)
        with contextlib.closing(_feed(setting, data)) as feed:  # type: ignore[type-var]
            for i in range(setting.warmup + setting.steps):
                started = time.perf_counter()
                step(next(feed))
                if i == setting.warmup - 1:
                    state = _gpu_state(device)  # while it is busy
                wait(device)
                if i >= setting.warmup:
                    times.append(time.perf_counter() - started)
    except Exception as error:
        if contender.ours and not out_of_memory(error):
            raise
        say(f"{contender.name}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}")
        return None
    return {**_row(contender, times, peak_memory(device)), "gpu_state": state}


def _row(contender: Contender, times: Sequence[float], memory: int | None) -> dict[str, Any]:
    setting, name, middle = contender.setting, contender.name, statistics.median(times)
    if not contender.ours and setting.how.recompute != "none":
        name += ", recompute full"
    rate, best = setting.how.micro_batch * setting.length / middle, peak(setting.world.device)[0]
    return {
        "name": name, "micro_batch": setting.how.micro_batch, "tok_s": rate, "ms": 1e3 * middle,
        "spread": (max(times) - min(times)) / middle, "mfu_a": rate * setting.shape.flops_a(setting.length) / best,
        "mfu_b": rate * setting.shape.flops_b(setting.length) / best, "memory": memory,
    }  # fmt: skip


# ---- the loss is right -----------------------------------------------------------------------------------------------


def parity(setting: Setting, data: Data) -> dict[str, Any]:
    """Losses of our step beside an eager fp32 model with torch's cross-entropy and AdamW: same seed, same batches."""
    shape = replace(setting.shape, n_layers=min(PARITY_LAYERS, setting.shape.n_layers))
    device, hyper = setting.world.device, Hyper(setting.shape.lr, warmup=2, steps=PARITY_STEPS)
    rows = min(2, setting.how.micro_batch)
    ours = Stepper(shape, hyper, replace(setting.how, micro_batch=rows), setting.world, 0, rows)
    sizes = torch.ones(shape.vocabulary, dtype=torch.int32, device=device)
    reference = Transformer(shape).to(device)
    initialise(reference, 0)
    groups = [{"params": [p for p in reference.parameters() if p.dim() > 1], "weight_decay": hyper.weight_decay},
              {"params": [p for p in reference.parameters() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, betas=(hyper.beta1, hyper.beta2), eps=hyper.eps)
    pairs = []
    with contextlib.closing(_feed(replace(setting, how=replace(setting.how, micro_batch=rows)), data)) as feed:  # type: ignore[type-var]
        for step in range(PARITY_STEPS):
            tokens = next(feed)
            made = float(ours.step(tokens, hyper.lr_at(step), sizes).rows[0].sum()) / (rows * setting.length)
            pairs.append((made, _reference_step(reference, adamw, tokens, hyper.lr_at(step))))
    ours_, theirs = zip(*pairs, strict=True)
    return {"layers": shape.n_layers, "steps": PARITY_STEPS, "ours": ours_, "reference": theirs,
            "farthest": max(abs(a - b) for a, b in pairs)}  # fmt: skip


def _reference_step(model: Transformer, adamw: Any, tokens: Tensor, lr: float) -> float:
    for group in adamw.param_groups:
        group["lr"] = lr
    with attention_kernels(tokens.device):
        logits = model(tokens[:, :-1])
        assert isinstance(logits, Tensor)
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad()
    return float(loss.detach())


def _kept(settings: Mapping[str, Setting]) -> dict[str, int]:
    """Bytes that the layers of one micro-batch leave for the backward pass, by policy, as the setting runs them."""
    found = {}
    for policy, setting in settings.items():
        shape = replace(setting.shape, n_layers=min(KEPT_LAYERS, setting.shape.n_layers))
        rows, device = min(KEPT_ROWS, setting.how.micro_batch), setting.world.device
        model = Transformer(shape).to(device)
        Flat(model, setting.how.dtype, False)
        for layer in model.layers:
            layer.recompute = policy
            if setting.how.compile:
                layer.compile()
        x = torch.randn(rows, setting.length, shape.dim, device=device, dtype=setting.how.dtype).requires_grad_()
        cos, sin = (t[: setting.length] for t in model._tables(device))
        with attention_kernels(device):
            kept = _held_by(functools.partial(_layers, model, x, cos, sin), device)
        found[policy] = kept * setting.shape.n_layers // shape.n_layers * setting.how.micro_batch // rows
    return found


def _held_by(forward: Callable[[], Tensor], device: torch.device) -> int:
    """Bytes that are held as long as the result of a forward pass is."""
    if device.type == "cuda":
        forward()  # the second call is the one: the first compiles, and cuBLAS takes its workspace
        gc.collect()
        before = torch.cuda.memory_allocated(device)
        out = forward()
        held = torch.cuda.memory_allocated(device) - before
        del out
        return held
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as seen:
        out = forward()
    del out
    return int(sum(e.self_cpu_memory_usage for e in seen.key_averages()))


def _layers(model: Transformer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    for layer in model.layers:
        x = layer(x, cos, sin)
    return x


# ---- what it ran on --------------------------------------------------------------------------------------------------


def _facts(setting: Setting) -> dict[str, Any]:
    device = setting.world.device
    best, source = peak(device)
    with attention_kernels(device) as kernels:
        attention = kernels
    return {
        "model": setting.shape.record(), "parameters": setting.shape.parameters, "length": setting.length,
        "dtype": str(setting.how.dtype).removeprefix("torch."), "compile": setting.how.compile,
        "steps": setting.steps, "warmup": setting.warmup, "attention": attention, "peak": best, "peak_from": source,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("transformers", "liger-kernel", "triton", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), platform.processor())


def _gpu_state(device: torch.device) -> str:
    """Clocks and watts, as the driver says."""
    which = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = "--query-gpu=clocks.sm,clocks.mem,power.draw,power.limit,driver_version"
    try:
        done = subprocess.run(["nvidia-smi", which, query, "--format=csv,noheader"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    m = found["model"]
    lines = [
        f"{m['name']}: {found['parameters']:,} parameters, rows of {found['length']:,} tokens, {found['dtype']}, "
        f"{'compiled' if found['compile'] else 'eager'}, on {found['device']} ({found['threads']} threads)",
        f"peak {found['peak'] / 1e12:,.2f} TFLOP/s ({found['peak_from']}); attention: {found['attention']}; "
        + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        f"{'':<30}{'rows':>6}{'tok/s':>12}{'ms':>10}{'MFU A %':>9}{'MFU B %':>9}{'memory':>11}{'spread':>8}",
    ]
    for r in found["rows"]:
        memory = f"{r['memory'] / 2**30:.1f} GiB" if r["memory"] else "-"
        lines.append(f"{r['name']:<30}{r['micro_batch']:>6}{r['tok_s']:>12,.0f}{r['ms']:>10,.1f}"
                     f"{100 * r['mfu_a']:>9.1f}{100 * r['mfu_b']:>9.1f}{memory:>11}"
                     f"{100 * r['spread']:>7.0f}%  {r.get('gpu_state', '')}".rstrip())  # fmt: skip
    if "ratio" in found:
        lines.append(f"ours is {found['ratio']:.2f} times the fastest of the others")
    for policy, size in found["activations"].items():
        lines.append(f"  recompute {policy}: layers keep {size / 2**20:,.1f} MiB of a micro-batch")
    p = found["parity"]
    lines.append(f"loss after {p['steps']} steps of {p['layers']} layers: {p['ours'][-1]:.5f}, eager fp32 reference "
                 f"{p['reference'][-1]:.5f}, farthest apart {p['farthest']:.2e}")  # fmt: skip
    return "\n".join(lines)
