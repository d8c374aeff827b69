"""`curate bench train`: training speed of a device beside transformers, in one run, and proof of the loss.

A step is a forward and backward pass over one micro-batch and the optimiser's step, with fp32 master weights and Adam
state, fed by the real loader from token shards. On a CPU all contenders take turns, step by step, so that what else
the machine does hits them alike; on CUDA they run one after the other, each with the whole memory.
"""

from __future__ import annotations

import contextlib
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
from model.llama import Transformer, attention_kernels, initialise
from model.optimiser import Hyper
from model.parallel import World
from model.plan import Order, load_plan
from model.run_folder import POLICIES
from model.shapes import Shape, find_shape
from model.speed import peak, peak_memory, wait
from model.stepper import How, Stepper, choose

RIVALS = ("transformers", "compile", "liger")
PARITY_STEPS = 10
PARITY_LAYERS = 2  # of the shape: an fp32 model of all of its layers with its optimiser may not fit
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
    world = parallel.join(asked.device)
    if world.size > 1:
        raise RecipeError("bench train measures one process; start it without torchrun")
    cuda = world.device.type == "cuda"
    length = asked.length or (2048 if cuda else 256)
    data = open_data(Corpus(Path(asked.data)), load_plan(Path(asked.data))) if asked.data else None
    vocabulary = int(data.plan["vocabulary"]) if data else 32_000
    length = data.order.length if data else length
    setting = _setting(asked, find_shape(asked.model or ("1b" if cuda else "debug"), vocabulary, length), length, world)
    policies = POLICIES if asked.recompute == "all" else (setting.how.recompute,)
    rivals = _rivals(asked.rivals)
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        data = data or random_data(Path(folder), length, setting.how.micro_batch, vocabulary)
        ours = {
            f"ours, recompute {p}": _ours(replace(setting, how=replace(setting.how, recompute=p))) for p in policies
        }
        makers = {**ours, **{name: _theirs(setting, name) for name in rivals}}
        rows = _one_by_one(setting, data, makers, say) if cuda else _in_turns(setting, data, makers, say)
        found = {
            **_facts(setting),
            "rows": rows,
            "parity": parity(setting, data),
            "activations": _kept(setting, policies),
        }
    best = max((r["tok_s"] for r in rows if not r["name"].startswith("ours")), default=None)
    if best:
        found["ratio"] = max(r["tok_s"] for r in rows if r["name"].startswith("ours")) / best
    return found


def _setting(asked: Asked, shape: Shape, length: int, world: World) -> Setting:
    cuda = world.device.type == "cuda"
    dtype = getattr(torch, asked.dtype or ("bfloat16" if cuda else "float32"))
    how = How(dtype, 1, "none", cuda if asked.compile is None else asked.compile)
    policy = None if asked.recompute == "all" else asked.recompute
    rows = 64 * 2048 // length if cuda else 4096 // length  # what a batch could have; the device's memory decides
    how = choose(shape, max(1, rows), length, world, False, how, (asked.micro_batch, policy))
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
    return [n for n in found if given != "all" or n not in cuda_only]


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


def _ours(setting: Setting) -> Callable[[], Step]:
    def make() -> Step:
        hyper = Hyper(setting.shape.lr, warmup=10, steps=10_000)
        stepper = Stepper(setting.shape, hyper, setting.how, setting.world, 0, setting.how.micro_batch)
        sizes = torch.ones(setting.shape.vocabulary, dtype=torch.int32, device=setting.world.device)
        return lambda tokens: stepper.step(tokens, 1e-4, sizes)

    return make


def _theirs(setting: Setting, name: str) -> Callable[[], Step]:
    """transformers with sdpa, fp32 weights, autocast to the dtype of the products, fused AdamW, clipping."""

    def make() -> Step:
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

    return make


def _feed(setting: Setting, data: Data) -> Iterator[Tensor]:
    rows = setting.how.micro_batch
    while True:
        for _, batch in tensors(data):
            for i in range(0, len(batch.tokens) - rows + 1, rows):
                yield batch.tokens[i : i + rows].to(setting.world.device, non_blocking=True)


def _in_turns(setting: Setting, data: Data, makers: Mapping[str, Callable[[], Step]], say: Say) -> list[dict[str, Any]]:
    steps = {name: make() for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    with contextlib.closing(_feed(setting, data)) as feed:  # type: ignore[type-var]
        for i in range(setting.warmup + setting.steps):
            tokens = next(feed)
            for name, step in steps.items():
                started = time.perf_counter()
                step(tokens)
                if i >= setting.warmup:
                    times[name].append(time.perf_counter() - started)
            say(f"round {i + 1} of {setting.warmup + setting.steps}")
    return [_row(setting, name, taken, None) for name, taken in times.items()]


def _one_by_one(
    setting: Setting, data: Data, makers: Mapping[str, Callable[[], Step]], say: Say
) -> list[dict[str, Any]]:
    rows = []
    for name, make in makers.items():
        try:
            rows.append(_alone(setting, data, name, make))
            say(f"{name}: {rows[-1]['tok_s']:,.0f} tok/s")
        except torch.OutOfMemoryError:
            say(f"{name}: out of memory with {setting.how.micro_batch} rows; tried again with half of them")
            if name in RIVALS and setting.how.micro_batch > 1:
                smaller = replace(setting, how=replace(setting.how, micro_batch=setting.how.micro_batch // 2))
                rows += _one_by_one(smaller, data, {name: _theirs(smaller, name)}, say)
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()
    return rows


def _alone(setting: Setting, data: Data, name: str, make: Callable[[], Step]) -> dict[str, Any]:
    device = setting.world.device
    torch.cuda.reset_peak_memory_stats(device)
    step, times = make(), []
    with contextlib.closing(_feed(setting, data)) as feed:  # type: ignore[type-var]
        for i in range(setting.warmup + setting.steps):
            started = time.perf_counter()
            step(next(feed))
            wait(device)
            if i >= setting.warmup:
                times.append(time.perf_counter() - started)
    return _row(setting, name, times, peak_memory(device))


def _row(setting: Setting, name: str, times: Sequence[float], memory: int | None) -> dict[str, Any]:
    middle = statistics.median(times)
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


def _kept(setting: Setting, policies: Sequence[str]) -> dict[str, int]:
    """Bytes that the layers of one micro-batch leave for the backward pass, by policy, uncompiled."""
    found = {}
    for policy in policies:
        model = Transformer(setting.shape).to(setting.world.device)
        for layer in model.layers:
            layer.recompute = policy
        x = torch.randn(setting.how.micro_batch, setting.length, setting.shape.dim, device=setting.world.device)
        x.requires_grad_()
        cos, sin = (t[: setting.length] for t in model._tables(setting.world.device))
        activity = torch.profiler.ProfilerActivity.CPU
        if setting.world.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            out = _layers(model, x, cos, sin)
            found[policy] = torch.cuda.memory_allocated() - before
        else:
            with torch.profiler.profile(activities=[activity], profile_memory=True) as seen:
                out = _layers(model, x, cos, sin)
            found[policy] = sum(e.self_cpu_memory_usage for e in seen.key_averages())
        del out
    return found


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
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(), "gpu_state": _gpu_state(),
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


def _gpu_state() -> str:
    """Clocks and watts, as the driver says."""
    query = "clocks.sm,clocks.mem,power.draw,power.limit,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    m = found["model"]
    lines = [
        f"{m['name']}: {found['parameters']:,} parameters, rows of {found['length']:,} tokens, {found['dtype']}, "
        f"{'compiled' if found['compile'] else 'eager'}, on {found['device']} ({found['threads']} threads) "
        + found["gpu_state"],
        f"peak {found['peak'] / 1e12:,.2f} TFLOP/s ({found['peak_from']}); attention: {found['attention']}; "
        + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        f"{'':<26}{'rows':>6}{'tok/s':>12}{'ms':>10}{'MFU A %':>9}{'MFU B %':>9}{'memory':>11}{'spread':>8}",
    ]
    for r in found["rows"]:
        memory = f"{r['memory'] / 2**30:.1f} GiB" if r["memory"] else "-"
        lines.append(f"{r['name']:<26}{r['micro_batch']:>6}{r['tok_s']:>12,.0f}{r['ms']:>10,.1f}"
                     f"{100 * r['mfu_a']:>9.1f}{100 * r['mfu_b']:>9.1f}{memory:>11}"
                     f"{100 * r['spread']:>7.0f}%")  # fmt: skip
    if "ratio" in found:
        lines.append(f"ours is {found['ratio']:.2f} times the fastest of the others")
    for policy, size in found["activations"].items():
        lines.append(f"  recompute {policy}: layers keep {size / 2**20:,.1f} MiB of a micro-batch")
    p = found["parity"]
    lines.append(f"loss after {p['steps']} steps of {p['layers']} layers: {p['ours'][-1]:.5f}, eager fp32 reference "
                 f"{p['reference'][-1]:.5f}, farthest apart {p['farthest']:.2e}")  # fmt: skip
    return "\n".join(lines)
