"""The commands of training, run as a user does: train (one process, torchrun, Ray), generate, export hf, bench."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from curate.store import Corpus  # noqa: E402
from model import checkpoint  # noqa: E402
from model.run_folder import losses  # noqa: E402
from tests.model.tiny import shape_file, tiny_corpus  # noqa: E402

SHORT = ("--steps", "12", "--save-every", "4", "--device", "cpu", "--micro-batch", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    made = tiny_corpus(tmp_path_factory.mktemp("training") / "corpus")
    shape_file(made.root.parent)
    return made


def curate(
    corpus: Corpus, *arguments: str, stdin: str = "", start: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*(start or (sys.executable, "-m", "curate.cli")), *arguments]
    return subprocess.run(
        command, cwd=corpus.root.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        input=stdin, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one(corpus: Corpus) -> Path:
    done = curate(corpus, "train", "corpus", "--model", "tiny.json", *SHORT, "--out", "one")
    assert done.returncode == 0, done.stderr
    assert "written to one" in done.stdout and "training loss" in done.stdout
    assert "step 10/12  loss" in done.stderr and "ETA" in done.stderr and "MFU" in done.stderr
    assert "held out after step 12" in done.stderr
    return corpus.root.parent / "one"


def test_what_a_run_leaves(one: Path) -> None:
    assert {"run.json", "log.jsonl", "checkpoints", "loss.html"} <= {p.name for p in one.iterdir()}
    assert checkpoint.steps(one) == [4, 8, 12]
    assert "<svg" in (one / "loss.html").read_text()


def test_tensorboard_has_the_same_losses(one: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format that is read here by hand

    data = b"".join(p.read_bytes() for p in sorted((one / "tensorboard").glob("events*")))
    found: dict[int, float] = {}
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found |= dict((event.step, v.simple_value) for v in event.summary.value if v.tag == "train/loss")
        at += 12 + size + 4
    assert [found[s] for s in sorted(found)] == pytest.approx(losses(one))


def test_tokens_in_place_of_steps(corpus: Corpus, one: Path) -> None:
    asked = ("--model", "tiny.json", "--tokens", "1.5k", "--micro-batch", "1", "--out", "one", "--device", "cpu")
    done = curate(corpus, "train", "corpus", *asked)
    assert done.returncode == 0 and len(losses(one)) == 12, done.stderr  # 12 steps of 128 tokens: it was done already


@pytest.mark.slow
def test_torchrun(corpus: Corpus, one: Path) -> None:
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "curate.cli")
    done = curate(corpus, "train", "corpus", "--model", "tiny.json", *SHORT, "--out", "two", start=start)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to two") == 1  # one of the processes speaks
    assert losses(corpus.root.parent / "two") == pytest.approx(losses(one), abs=2e-3)


@pytest.mark.slow
def test_ray(corpus: Corpus, one: Path) -> None:
    done = curate(corpus, "train", "corpus", "--model", "tiny.json", *SHORT, "--out", "ray", "--workers", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(corpus.root.parent / "ray") == pytest.approx(losses(one), abs=2e-3)
    assert "step 10  loss" in done.stderr and "written to ray" in done.stdout
    assert "processes" in (corpus.root.parent / "ray" / "run.json").read_text()


@pytest.mark.slow
def test_sigterm_of_a_ray_training_saves(corpus: Corpus, one: Path) -> None:
    run = corpus.root.parent / "stopped"
    asked = ("--model", "tiny.json", "--steps", "40", "--device", "cpu", "--micro-batch", "1", "--out", "stopped")
    rest = ("--save-every", "1000", "--workers", "1", "--eval-every", "1")
    command = [sys.executable, "-m", "curate.cli", "train", "corpus", *asked, *rest]
    process = subprocess.Popen(
        command, cwd=corpus.root.parent, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"step"') > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 4, err[-2000:]
    assert len(checkpoint.steps(run)) == 1 and checkpoint.verified(checkpoint.folder_of(run, checkpoint.steps(run)[0]))


def test_generate(corpus: Corpus, one: Path) -> None:
    asked = ("--max-tokens", "12", "--temperature", "1", "--seed", "3", "--device", "cpu")
    done = curate(corpus, "generate", "one", "--prompt", "The", *asked)
    assert done.returncode == 0 and done.stdout.startswith("The") and len(done.stdout) > 5, done.stderr
    piped = curate(corpus, "generate", "one/checkpoints/step-00000012", "--prompt", "-", *asked, stdin="The")
    assert piped.stdout == done.stdout


def test_export_hf(corpus: Corpus, one: Path) -> None:
    pytest.importorskip("transformers")
    done = curate(corpus, "export", "hf", "one", "exported")
    assert done.returncode == 0, done.stderr
    assert "SentencePiece's ids for 160 documents" in done.stdout and done.stderr == ""
    again = curate(corpus, "export", "hf", "one", "exported")
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "is there already" in again.stderr


@pytest.mark.slow
def test_bench(corpus: Corpus) -> None:
    asked = (
        "--model",
        "tiny.json",
        "--length",
        "64",
        "--micro-batch",
        "2",
        "--steps",
        "2",
        "--warmup",
        "1",
        "--device",
        "cpu",
    )
    done = curate(corpus, "bench", "train", *asked, "--recompute", "all", "--json", "bench.json")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((corpus.root.parent / "bench.json").read_text())
    names = [r["name"] for r in found["rows"]]
    assert names[:3] == ["ours, recompute none", "ours, recompute paper", "ours, recompute full"]
    assert all(r["tok_s"] > 0 and r["mfu_a"] > 0 for r in found["rows"])
    assert found["parity"]["farthest"] < 1e-4 and len(found["parity"]["ours"]) == 10
    kept = found["activations"]
    assert kept["none"] > kept["paper"] > kept["full"] > 0
    assert found["versions"]["torch"] == torch.__version__
    if "transformers" in names:
        assert found["ratio"] > 0 and "times the fastest of the others" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "nowhere"), "nowhere: not a corpus"),
        (("train", "corpus", "--model", "13bb"), "there is no such model; did you mean '13b'"),
        (("train", "corpus", "--model", "none.json"), "none.json: cannot be read: No such file or directory"),
        (("train", "corpus", "--steps", "0"), "--steps 0: must be at least 1"),
        (("train", "corpus", "--steps", "3", "--tokens", "3M"), "give --steps or --tokens, not both"),
        (("train", "corpus", "--tokens", "many"), "--tokens many: must be a number"),
        (("train", "corpus", "--device", "cuda", "--model", "tiny.json"), "sees no CUDA device"),
        (
            ("train", "corpus", "--resume", "7", "--out", "one", "--model", "tiny.json", *SHORT),
            "no checkpoint of that step",
        ),
        (("generate", "corpus"), "neither a checkpoint nor a run"),
        (("generate", "one", "--top-p", "0", "--device", "cpu"), "--top-p above 0"),
        (("export", "hf", "corpus", "x"), "neither a checkpoint nor a run"),
        (("bench", "train", "--rivals", "none,other"), "--rivals"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], said: str, corpus: Corpus, one: Path) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = curate(corpus, *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_damaged_checkpoint_is_named(corpus: Corpus, one: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(one, tmp_path / "one")
    path = checkpoint.folder_of(tmp_path / "one", 12) / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = curate(corpus, "generate", str(tmp_path / "one"), "--device", "cpu")
    assert done.returncode == 2 and f"{path}: damaged" in done.stderr
    asked = ("train", "corpus", "--model", "tiny.json", *SHORT, "--out", str(tmp_path / "one"))
    refused = curate(corpus, *asked, "--resume", "12")
    assert refused.returncode == 2 and f"{path}: damaged" in refused.stderr
    resumed = curate(corpus, *asked)
    assert resumed.returncode == 0 and f"step 12 is not used: {path}: damaged" in resumed.stderr
    assert losses(tmp_path / "one") == losses(one)
    assert path.read_bytes() != bytes(data)  # written again from step 8 on
