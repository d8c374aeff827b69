"""Several processes on gloo give what one gives: FSDP, tensor and sequence parallelism, other worlds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from curate.errors import RecipeError
from curate.store import Corpus
from model import checkpoint
from model.llama import Transformer
from model.parallel import check_shape
from model.run_folder import Settings, losses
from model.shapes import Shape
from tests.conftest import ROOT
from tests.model.test_train import go, records, spawn, state
from tests.model.tiny import SHAPE, tiny_corpus, tiny_settings

pytestmark = pytest.mark.slow
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    go(tiny_settings(corpus, run))
    return run


def launch(settings: Settings, n: int) -> str:
    process = spawn(settings, *LAUNCH, str(n), OMP_NUM_THREADS="1")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out[-3000:]
    return out


@pytest.mark.parametrize(("n", "tp"), [(2, 1), (2, 2), (4, 2), (4, 1)], ids=["fsdp2", "tp2", "fsdp2-tp2", "fsdp4"])
def test_the_loss_curve_of_one_process(n: int, tp: int, corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(tiny_settings(corpus, run, micro_batch=1, tp=tp), n)
    assert losses(run) == pytest.approx(losses(whole), abs=2e-3)
    assert [h["loss"] for h in records(run, "held_out")] == pytest.approx(
        [h["loss"] for h in records(whole, "held_out")], abs=2e-3
    )
    for a, b in zip(records(run, "step"), records(whole, "step"), strict=True):
        assert a["sources"].keys() == b["sources"].keys() and a["grad_norm"] == pytest.approx(b["grad_norm"], abs=5e-3)
    # nothing is whole on a rank that should be in parts: norms of a tensor group alone are
    started = records(run, "start")[0]
    norms = 5 * 32
    matrices = started["parameters"] - norms
    most = matrices / n * 1.02 + norms / (n // tp) + 64  # rows of the vocabulary do not divide evenly
    assert started["parameters_of_rank_0"] <= most
    files = sorted(p.name for p in checkpoint.folder_of(run, 12).glob("rank-*"))
    assert files == [f"rank-{i:05d}.safetensors" for i in range(n)]
    sizes = [(checkpoint.folder_of(run, 12) / name).stat().st_size for name in files]
    assert max(sizes) < 3 * 4 * most + 20_000


def test_a_run_goes_on_in_other_worlds(corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    """1 process, then 2, then 4 as 2 x 2, then 1: the same rows in the same order, the same losses within rounding."""
    settings = replace(tiny_settings(corpus, tmp_path / "run", micro_batch=1), save_every=3)
    asked = iter([False] * 2 + [True])
    with pytest.raises(Exception, match="saved at step 3"):
        go(settings, stopping=lambda: next(asked))
    for n, tp, until in ((2, 1, 6), (4, 2, 9)):
        out = launch_until(replace(settings, tp=tp), n, until)
        assert f"going on from step {until - 3}" in out
    go(settings)
    found = losses(tmp_path / "run")
    assert found == pytest.approx(losses(whole), abs=2e-3) and found[:3] != []
    rows = [{s: f["tokens"] for s, f in r["sources"].items()} for r in records(tmp_path / "run", "step")]
    assert rows == [{s: f["tokens"] for s, f in r["sources"].items()} for r in records(whole, "step")]


def launch_until(settings: Settings, n: int, until: int) -> str:
    """Processes that are asked to stop when `until` steps are done."""
    script = Path(settings.corpus) / "until.py"
    script.write_text(
        "import sys, json\n"
        "from model.run_folder import Settings\n"
        "from model.train import Hooks, Stopped, train\n"
        "left = iter([False] * (int(sys.argv[2]) - 1) + [True])\n"
        "try:\n"
        "    train(Settings(**json.loads(sys.argv[1])), Hooks(note=lambda l: print(l, flush=True),\n"
        "          stopping=lambda: next(left)))\n"
        "except Stopped as error:\n"
        "    print(error)\n"
    )
    command = [*LAUNCH, str(n), str(script), json.dumps(asdict(settings)), "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and f"saved at step {until}" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_skipped_step_is_skipped_on_all_ranks(corpus: Corpus, tmp_path: Path) -> None:
    """A gradient that is not finite on one rank leaves the optimiser of every rank untouched."""
    script = Path(corpus.root) / "poison.py"
    script.write_text(
        "import sys, json, torch\n"
        "from model.run_folder import Settings\n"
        "from model.train import Hooks, train\n"
        "from model.stepper import Stepper\n"
        "real, calls = Stepper.losses, [0]\n"
        "def losses(self, tokens, targets=None):\n"
        "    made = real(self, tokens, targets)\n"
        "    calls[0] += targets is None\n"
        "    if targets is None and calls[0] == 10 and self.world.rank == 1:\n"  # a micro-batch of step 4, of rank 1
        "        made = (made[0] * float('nan'), made[1])\n"
        "    return made\n"
        "Stepper.losses = losses\n"
        "train(Settings(**json.loads(sys.argv[1])), Hooks(note=lambda l: print(l, flush=True)))\n"
    )
    settings = tiny_settings(corpus, tmp_path / "run", micro_batch=1)
    command = [*LAUNCH, "2", str(script), json.dumps(asdict(settings))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    skips = records(tmp_path / "run", "skip")
    assert [s["step"] for s in skips] == [4] and skips[0]["reason"] == "gradient"
    assert all(v for v in state(tmp_path / "run")) and len(losses(tmp_path / "run")) == 12
    assert all(isinstance(x, float) and x < 9 for x in losses(tmp_path / "run"))


@pytest.mark.parametrize(("changes", "tp", "named"), [
    ({}, 3, "does not divide tiny's 4 heads"), ({"n_kv_heads": 1}, 2, "1 key-value heads"),
])  # fmt: skip
def test_what_does_not_divide_is_refused(changes: dict[str, Any], tp: int, named: str) -> None:
    import torch

    with torch.device("meta"):
        model = Transformer(Shape("tiny", vocabulary=100, **{**SHAPE, **changes}))
    with pytest.raises(RecipeError, match=named):
        check_shape(model, tp)


def test_one_process_has_no_tensor_group(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--tp 2: does not divide 1 process"):
        go(tiny_settings(corpus, tmp_path / "run", tp=2))


GRADIENTS = """
    import sys, torch
    from model.llama import Transformer
    from model.parallel import join, leave, spread
    from model.shapes import Shape
    world = join("cpu", int(sys.argv[1]))
    shape = Shape("t", 32, 2, 4, 2, multiple_of=32, vocabulary=301, length=32)
    rows = torch.randint(0, 301, (2, 33), generator=torch.Generator().manual_seed(0))
    def gradients(compiled, policy):
        with torch.device("meta"):
            model = Transformer(shape)
        spread(model, world, torch.float32, 0)
        for layer in model.layers:
            layer.recompute = policy
            if compiled:
                layer.compile()
        part = rows[world.dp_rank * 2 // world.dp :][: 2 // world.dp]
        loss, losses = model(part[:, :-1], part[:, 1:])
        (loss / losses.numel()).backward()
        return {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    eager, compiled = gradients(False, "none"), gradients(True, "paper")
    for name, gradient in eager.items():
        assert gradient.norm() > 0 and torch.allclose(gradient, compiled[name], rtol=1e-4, atol=1e-6), name
    print("all the same")
    leave(world)
"""


@pytest.mark.parametrize("tp", [1, 2])
def test_compiled_layers_give_the_same_gradients(tp: int, tmp_path: Path) -> None:
    """Of every parameter. The embeddings' once were zero with --tp and --compile."""
    import os
    import shutil
    import subprocess
    import textwrap

    from tests.conftest import ROOT

    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    (tmp_path / "gradients.py").write_text(textwrap.dedent(GRADIENTS))
    command = [*LAUNCH, "2", str(tmp_path / "gradients.py"), str(tp)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("all the same") == 2, done.stderr[-2000:]


FLIPS = """
import json, sys
import torch
from curate.errors import StoreError
from model import train as t
from model.run_folder import Settings
from model.train import Hooks, train

one = t._Training._one
t.PROBE_EVERY = 3
def flip(self, step, batch):
    made = one(self, step, batch)
    if step == 4 and self.world.rank == int(sys.argv[2]):
        weights = t.parallel.local_part(self.stepper.model.layers[1].ffn_norm.weight)
        weights.data.view(torch.int32)[3] ^= 1
    return made
t._Training._one = flip
try:
    train(Settings(**json.loads(sys.argv[1])), Hooks(note=lambda line: None))
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize(("n", "rank"), [(2, 1), (4, 2)])
def test_a_flipped_bit_of_a_copy_is_found(n: int, rank: int, corpus: Corpus, tmp_path: Path) -> None:
    """On each rank, before anything of it is saved: the checkpoint of step 3 is the last one."""
    (tmp_path / "flips.py").write_text(FLIPS)
    settings = tiny_settings(corpus, tmp_path / "run", micro_batch=1, tp=2, save_every=3)
    command = [*LAUNCH, str(n), str(tmp_path / "flips.py"), json.dumps(asdict(settings)), str(rank)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    said = "after step 6 the ranks' copies of layers.1.ffn_norm.weight are not the same"
    assert done.stdout.count(said) == n
    assert checkpoint.steps(tmp_path / "run") == [3]
