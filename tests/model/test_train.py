"""Training runs: the same to the bit however they are interrupted, and what they say and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import RecipeError, StoreError
from curate.store import Corpus
from model import checkpoint
from model.data import open_data
from model.plan import load_plan, make_plan
from model.run_folder import Log, Settings, losses
from model.train import Hooks, Stopped, train
from model.watch import Diverged, Watch, documents_of
from tests.conftest import ROOT
from tests.model.tiny import BATCH, LENGTH, WEIGHTS, tiny_corpus, tiny_settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    go(tiny_settings(corpus, run))
    return run


def go(settings: Settings, **hooks: Any) -> dict[str, Any]:
    said: list[str] = []
    return train(settings, Hooks(note=said.append, **hooks)) | {"said": said}


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [r for line in (run / "log.jsonl").read_text().splitlines() if (r := json.loads(line))["kind"] == kind]


def state(run: Path, step: int = 12) -> dict[str, str]:
    """Digest of every tensor of a checkpoint."""
    found = checkpoint.verified(checkpoint.folder_of(run, step))
    made = {}
    for key, entry in found.record["tensors"].items():
        made[key] = torch.empty(entry["shape"])
    checkpoint.fill(found, made.items())
    return {k: str(v.flatten().view(torch.int32).tolist()) for k, v in made.items()}


class Crash(BaseException):
    """The process is gone."""


# ---- the run ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_what_happens(whole: Path, corpus: Corpus) -> None:
    found = losses(whole)
    assert len(found) == 12 and found[-1] < found[0] - 0.2
    steps = records(whole, "step")
    assert [s["step"] for s in steps] == list(range(12))
    assert all(
        {"loss", "lr", "grad_norm", "tok_s", "mfu_a", "mfu_b", "tokens", "seconds", "sources"} <= s.keys()
        for s in steps
    )
    assert steps[-1]["tokens"] == 12 * BATCH * LENGTH
    for step in steps:  # sources are parts of the whole
        total = sum(f["loss"] * f["tokens"] for f in step["sources"].values())
        assert total / (BATCH * LENGTH) == pytest.approx(step["loss"])
    held = records(whole, "held_out")
    assert [h["step"] for h in held] == [6, 12] and set(held[0]["sources"]) == set(WEIGHTS)
    assert held[1]["bits_per_byte"] > 0 and held[1]["loss"] < held[0]["loss"]
    assert json.loads((whole / "run.json").read_text())["parameters"] == _parameters()


def test_speed_is_that_of_training_alone(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation takes half a second, which is neither in the seconds nor in the rate; both say the same."""
    import model.train

    real = model.train.held_out
    monkeypatch.setattr(model.train, "held_out", lambda *given: (time.sleep(0.5), real(*given))[1])
    started = time.monotonic()
    go(tiny_settings(corpus, tmp_path / "run", eval_every=2, log_every=4))
    steps = records(tmp_path / "run", "step")
    assert steps[-1]["seconds"] < time.monotonic() - started - 6 * 0.5
    for at in range(12):
        first = at // 4 * 4  # what was shown last
        taken = steps[at]["seconds"] - (steps[first - 1]["seconds"] if first else 0.0)
        assert steps[at]["tok_s"] == pytest.approx((at + 1 - first) * BATCH * LENGTH / taken, rel=0.02, abs=1)


def _parameters() -> int:
    from model.shapes import Shape
    from tests.model.tiny import SHAPE

    return Shape("tiny", vocabulary=2500, **SHAPE).parameters


def test_losses_are_those_of_a_plain_loop(whole: Path, corpus: Corpus) -> None:
    """The whole step again with torch's own parts: autograd, cross-entropy, AdamW, clipping."""
    import torch.nn.functional as F

    from model.llama import Transformer, initialise
    from model.optimiser import Hyper
    from model.shapes import Shape
    from tests.model.tiny import SHAPE

    plan = load_plan(corpus)
    data, model = open_data(corpus, plan), Transformer(Shape("tiny", vocabulary=2500, **SHAPE))
    initialise(model, 0)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip
    adamw, hyper = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8), Hyper(lr=0.01, warmup=1, steps=12)
    for step, loss in enumerate(losses(whole)):
        rows = torch.from_numpy(data.batch(step).tokens)
        ours = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        assert ours.item() == pytest.approx(loss, abs=2e-4), step
        ours.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = hyper.lr_at(step)
        adamw.step()
        adamw.zero_grad()


def test_held_out_is_not_trained_on(corpus: Corpus) -> None:
    plan = load_plan(corpus)
    data = open_data(corpus, plan)
    seen = {d for s in range(data.order.steps) for row in documents_of(data, s, range(BATCH)) for d in row["documents"]}
    assert sum(e["held_out"]["documents"] for e in plan["sources"].values()) > 3
    trained = sum(u["documents"] for e in plan["sources"].values() for u in e["units"])
    assert len(seen) <= trained


# ---- resume ----------------------------------------------------------------------------------------------------------


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends in the middle of a step."""
    from model.stepper import Stepper

    real = Stepper.step

    def stepped(self: Stepper, *arguments: Any) -> Any:
        stepped.calls += 1  # type: ignore[attr-defined]
        if stepped.calls > step:  # type: ignore[attr-defined]
            raise Crash
        return real(self, *arguments)

    stepped.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(Stepper, "step", stepped)


@pytest.mark.parametrize("stops", [(1,), (4,), (5, 3), (7, 2, 1), (11,), (2, 9)])
def test_a_resume_is_bitwise(stops: tuple[int, ...], corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    """Interrupted once, twice, three times: the same losses and the same bits in every tensor."""
    settings = tiny_settings(corpus, tmp_path / "run")
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
            crash_after(stop, patch)
            go(settings)
    go(settings)
    assert losses(settings_run(settings)) == losses(whole)
    assert state(settings_run(settings)) == state(whole)
    assert [r["step"] for r in records(settings_run(settings), "step")] == list(range(12))


def settings_run(settings: Settings) -> Path:
    return Path(settings.run)


SCRIPT = """
    import sys, json
    from model.run_folder import Settings
    from model.train import Hooks, train
    train(Settings(**json.loads(sys.argv[1])), Hooks(note=lambda line: print(line, flush=True)))
"""


def spawn(settings: Settings, *launcher: str, **environment: str) -> subprocess.Popen[str]:
    from dataclasses import asdict

    script = Path(settings.corpus) / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [*(launcher or (sys.executable,)), str(script), json.dumps(asdict(settings))]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        **environment,
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("line", [2, 5, 9])
def test_killed_for_real(line: int, corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    """SIGKILL at some line of output, then again, then to the end."""
    settings = replace(tiny_settings(corpus, tmp_path / "run"), log_every=1)
    for _ in range(2):
        process = spawn(settings)
        assert process.stdout is not None
        for _ in range(line):
            process.stdout.readline()
        process.kill()
        process.communicate()
    process = spawn(settings)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert losses(tmp_path / "run") == losses(whole) and state(tmp_path / "run") == state(whole)


@pytest.mark.slow
def test_sigterm_saves_and_goes_on(corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    settings = replace(tiny_settings(corpus, tmp_path / "run"), log_every=1, save_every=1000)
    process = spawn(settings)
    assert process.stdout is not None
    for line in iter(process.stdout.readline, ""):
        if line.startswith("step"):
            process.send_signal(signal.SIGTERM)
            break
    out, _ = process.communicate(timeout=60)
    assert "saved at step" in out
    there = checkpoint.steps(tmp_path / "run")
    assert len(there) == 1 and 0 < there[0] < 12
    go(settings)
    assert losses(tmp_path / "run") == losses(whole) and state(tmp_path / "run") == state(whole)


def test_asked_to_stop_and_out_of_time(corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    settings = replace(tiny_settings(corpus, tmp_path / "run"), save_every=1000)
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="asked to stop: saved at step 3 of 12") as error:
        go(settings, stopping=lambda: next(asked))
    assert error.value.exit_code == 4
    with pytest.raises(Stopped, match=r"--max-hours 1e-06: saved at step 4"):
        go(replace(settings, max_hours=1e-6))
    go(settings)
    assert losses(tmp_path / "run") == losses(whole) and state(tmp_path / "run") == state(whole)


def test_a_finished_run_does_nothing(corpus: Corpus, whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole / "checkpoints").rglob("*")}
    done = go(tiny_settings(corpus, whole))
    assert done["step"] == 12 and len(losses(whole)) == 12
    assert {p: p.stat().st_mtime_ns for p in (whole / "checkpoints").rglob("*")} == before


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_change_rounding_alone(micro: int, corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    go(tiny_settings(corpus, tmp_path / "run", micro_batch=micro))
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-3)


@pytest.mark.parametrize("policy", ["paper", "full"])
def test_recompute_is_bitwise(policy: str, corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    go(tiny_settings(corpus, tmp_path / "run", recompute=policy))
    assert losses(tmp_path / "run") == losses(whole)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 0.02}, "lr 0.01, now it is 0.02"),
        ({"steps": 13}, "steps 12, now it is 13"),
        ({"seed": 1}, "seed 0, now it is 1"),
        ({"weight_decay": 0.0}, "weight_decay 0.1"),
        ({"dtype": "bfloat16"}, "dtype float32, now it is bfloat16"),
        ({"model": "debug"}, "shape .*dim=32.*dim=256"),
    ],
)
def test_other_settings_are_refused_by_name(changes: dict[str, Any], named: str, corpus: Corpus, whole: Path) -> None:
    with pytest.raises(RecipeError, match=named):
        go(tiny_settings(corpus, whole, **changes))
    assert len(losses(whole)) == 12


def test_another_plan_is_refused(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "c")
    settings = tiny_settings(corpus, tmp_path / "run", steps=4)
    go(settings)
    make_plan(corpus, 6000, WEIGHTS, length=LENGTH, batch=BATCH, held_out=0.1, seed=5)
    with pytest.raises(RecipeError, match="was begun with plan"):
        go(settings)


def test_changed_data_are_refused(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "c")
    shard = next((corpus.root / "tokens" / "books").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-8] + b"12345678")
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(StoreError, match=shard.name):
        go(tiny_settings(corpus, tmp_path / "run"))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "c")
    (corpus.root / "models" / "tokenizer" / "tokenizer.model").write_bytes(b"")
    with pytest.raises(Exception, match=r"tokenizer\.model"):
        go(tiny_settings(corpus, tmp_path / "run"))


def test_batches_that_do_not_divide(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a batch of 4 rows does not divide"):
        go(tiny_settings(corpus, tmp_path / "run", micro_batch=3))


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"lr": -1.0}, {"lr": float("nan")}, {"recompute": "some"}, {"dtype": "int8"}, {"keep": 0}]
)
def test_settings_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"--{next(iter(changes))}"):
        Settings(corpus="c", run="r", **changes)


def test_no_cuda_is_said(corpus: Corpus, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RecipeError, match="sees no CUDA device"):
        go(tiny_settings(corpus, tmp_path / "run", device="cuda"))


def test_data_run_out_is_said(corpus: Corpus, tmp_path: Path) -> None:
    there = load_plan(corpus)["steps"]
    done = go(tiny_settings(corpus, tmp_path / "run", steps=there + 5, save_every=1000, eval_every=1000))
    assert done["step"] == there and any(f"run out after step {there}" in line for line in done["said"])
    assert any("run out" in r["text"] for r in records(tmp_path / "run", "warning"))


# ---- trouble on the way ----------------------------------------------------------------------------------------------


def trouble(change: Callable[[int, Any], None]) -> Any:
    """A Stepper.step that harms the model before some steps."""
    from model.stepper import Stepper

    real = Stepper.step

    def stepped(self: Stepper, tokens: Any, lr: float, bytes_of: Any) -> Any:
        undo = change(stepped.calls, self)  # type: ignore[attr-defined,func-returns-value]
        stepped.calls += 1  # type: ignore[attr-defined]
        made = real(self, tokens, lr, bytes_of)
        if undo is not None:
            undo()
        return made

    stepped.calls = 0  # type: ignore[attr-defined]
    return stepped


def poison(value: float, at: set[int]) -> Callable[[int, Any], Any]:
    def change(step: int, stepper: Any) -> Any:
        if step not in at:
            return None
        weight = stepper.model.norm.weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(value)
        return lambda: weight.data.copy_(before)

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_left_out(
    value: float, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.stepper.Stepper.step", trouble(poison(value, {5})))
    done = go(tiny_settings(corpus, tmp_path / "run"))
    skips = records(tmp_path / "run", "skip")
    assert [s["step"] for s in skips] == [5] and skips[0]["reason"] == "loss"
    data = open_data(corpus, load_plan(corpus))
    wanted = {tuple(r["documents"]) for r in documents_of(data, 5, range(BATCH))}
    assert {tuple(r["documents"]) for r in skips[0]["rows"]} == wanted
    assert [s["skipped"] for s in records(tmp_path / "run", "step")].count(True) == 1
    assert any("skip at step 5" in line and "curate trace --step 5" in line for line in done["said"])
    assert float(records(tmp_path / "run", "step")[-1]["loss"]) < 7.9


def test_three_in_a_row_stop(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.stepper.Stepper.step", trouble(poison(float("nan"), {5, 6, 7, 8, 9})))
    with pytest.raises(Diverged, match="3 steps in a row up to step 7"):
        go(tiny_settings(corpus, tmp_path / "run"))
    assert checkpoint.steps(tmp_path / "run") == [4]


def test_a_spike_names_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tiny_corpus(tmp_path / "c")
    monkeypatch.setattr("model.watch.FEWEST", 8)
    monkeypatch.setattr("model.stepper.Stepper.step", trouble(poison(60.0, {30})))
    go(tiny_settings(corpus, tmp_path / "run", steps=36, save_every=100, eval_every=100))
    spikes = records(tmp_path / "run", "spike")
    assert [s["step"] for s in spikes] == [30]
    rows = spikes[0]["rows"]
    assert [r["loss"] for r in rows] == sorted((r["loss"] for r in rows), reverse=True) and rows[0]["documents"]


def test_watch_survives_a_resume_exactly() -> None:
    a = Watch(6.0, 3)
    for i in range(200):
        a.spike(3.0 + (i % 7) * 0.1)
    a.count(False, 3)
    b = Watch(6.0, 3)
    b.restore(json.loads(json.dumps(a.state())))
    assert a.spike(9.0) == b.spike(9.0) is not None and b.in_a_row == 1


def test_the_log_drops_what_is_done_again(tmp_path: Path) -> None:
    lines = [{"kind": "step", "step": i, "loss": 1.0} for i in range(6)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"kind": "step", "st')
    log = Log(tmp_path, 4)
    log.write({"kind": "step", "step": 4, "loss": float("nan")})
    log.close()
    assert log.dropped == 3
    assert [json.loads(x)["step"] for x in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["loss"] == "nan"


def test_two_trainings_in_one_folder(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(tiny_settings(corpus, tmp_path / "run"), log_every=1, save_every=1000)
    process = spawn(replace(settings, eval_rows=1))
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="in use by run train"):
            go(settings)
    finally:
        process.kill()
        process.communicate()


def test_out_of_memory_is_one_line(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")

    monkeypatch.setattr("model.stepper.Stepper.step", full)
    with pytest.raises(RecipeError, match="^CUDA out of memory; a smaller --micro-batch"):
        go(tiny_settings(corpus, tmp_path / "run"))
