"""The loss curve of our step beside transformers' model under torch's AdamW: the same first weights, the same batches.

    python -m tests.bench.curve CORPUS --model debug --steps 300 --json curve.json

Both read the plan of CORPUS (curate mix). At the end both are tried on the plan's held-out documents.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from curate.store import Corpus
from model import parallel
from model.bench import versions
from model.data import Data, open_data, tensors
from model.export_hf import config, hf_weights
from model.optimiser import Hyper
from model.plan import load_plan
from model.run_folder import Settings, resolve
from model.stepper import How, Stepper


def theirs_from(stepper: Stepper) -> Any:
    """transformers' model with our first weights."""
    shape = stepper.model.shape
    model = LlamaForCausalLM(LlamaConfig(**config(shape, 1, 2, torch.float32)))
    model.load_state_dict(dict(hf_weights(shape, stepper.model.state_dict(), torch.float32)))
    return model.to(stepper.world.device).train()


def adamw_of(model: Any, hyper: Hyper) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": hyper.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(hyper.beta1, hyper.beta2), eps=hyper.eps, fused=True)


def their_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1]).logits
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def their_step(model: Any, adamw: torch.optim.AdamW, tokens: torch.Tensor, lr: float, micro: int) -> float:
    total = 0.0
    for i in range(0, len(tokens), micro):
        loss = their_loss(model, tokens[i : i + micro]) * micro / len(tokens)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in adamw.param_groups:
        group["lr"] = lr
    adamw.step()
    adamw.zero_grad()
    return total


@torch.no_grad()
def held_out_losses(stepper: Stepper, model: Any, data: Data, rows: int) -> dict[str, list[float]]:
    """{source: [our loss, their loss]} over full held-out windows."""
    found = {}
    for source in data.order.sources:
        tokens, counts = data.held_out(source, rows)
        full = torch.from_numpy(tokens[counts == data.order.length]).to(stepper.world.device)
        if len(full):
            ours = float(stepper.losses(full)[1].mean())
            found[source] = [ours, float(their_loss(model, full))]
    return found


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", type=Path)
    p.add_argument("--model", default="debug")
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--micro-batch", type=int, default=16)
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    plan = load_plan(a.corpus)
    data, world = open_data(Corpus(a.corpus), plan), parallel.join()
    resolved, _ = resolve(Settings(str(a.corpus), "", model=a.model, steps=a.steps), plan, "float32")
    hyper = Hyper(resolved.lr, warmup=resolved.warmup, steps=resolved.steps)
    stepper = Stepper(resolved.shape, hyper, How(torch.float32, a.micro_batch), world, 0, data.order.batch)
    model = theirs_from(stepper)
    adamw, sizes = adamw_of(model, hyper), torch.ones(resolved.shape.vocabulary, dtype=torch.int32)
    curve, seconds = [], [0.0, 0.0]
    for step, batch in tensors(data):
        if step == resolved.steps:
            break
        tokens = batch.tokens.to(world.device)
        times = [time.perf_counter()]
        ours = float(stepper.step(tokens, hyper.lr_at(step), sizes.to(world.device)).rows[0].sum())
        times.append(time.perf_counter())
        theirs = their_step(model, adamw, tokens, hyper.lr_at(step), a.micro_batch)
        times.append(time.perf_counter())
        curve.append([ours / tokens[:, 1:].numel(), theirs])
        seconds = [seconds[0] + times[1] - times[0], seconds[1] + times[2] - times[1]]
        if step % 25 == 0 or step + 1 == resolved.steps:
            print(f"step {step:5}  ours {curve[-1][0]:.5f}  theirs {curve[-1][1]:.5f}", flush=True)
    found = {
        "model": resolved.shape.record(), "parameters": resolved.shape.parameters, "steps": len(curve),
        "tokens": len(curve) * data.order.batch * data.order.length, "seconds": seconds, "curve": curve,
        "farthest": max(abs(x - y) for x, y in curve), "held_out": held_out_losses(stepper, model, data, 32),
        "sources": {s: e["drawn"] for s, e in plan["sources"].items()}, "versions": versions(),
    }  # fmt: skip
    print(json.dumps({k: v for k, v in found.items() if k != "curve"}, indent=1))
    if a.json:
        a.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
