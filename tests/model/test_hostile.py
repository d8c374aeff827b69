"""What users, disks and strangers do to a training: each is one line, and nothing is lost."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.cli import main
from curate.errors import CurateError, RecipeError, StoreError
from curate.store import Corpus, to_json
from model import checkpoint
from model.bench import Asked, bench_train
from model.checkpoint import _seal
from model.data import open_data
from model.generate import draw, load
from model.parallel import device_of
from model.plan import load_plan
from model.run_folder import Log, Settings, losses
from model.shapes import find_shape
from model.train import Stopped
from tests.conftest import ROOT
from tests.model.test_train import go, records, state
from tests.model.tiny import shape_file, tiny_corpus, tiny_settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    go(tiny_settings(corpus, run))
    return run


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run that ends after step 8."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(checkpoint.folder_of(run, 12))
    return run


# ---- numbers ---------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 1e9}, {"dim": 10**9}, {"dim": 0}, {"dim": -32}, {"dim": True}, {"dim": "32"}, {"dim": None},
        {"dim": 32.0}, {"n_layers": 10**9}, {"n_layers": 0}, {"n_layers": 2.5}, {"n_heads": 0}, {"n_heads": 3},
        {"n_kv_heads": -2}, {"lr": -1}, {"lr": NAN}, {"lr": "x"}, {"lr": True}, {"norm_eps": NAN}, {"norm_eps": -1},
        {"rope_theta": 0}, {"rope_theta": INF}, {"multiple_of": 0}, {"multiple_of": 10**9}, {"ffn_multiplier": NAN},
        {"ffn_multiplier": -1}, {"ffn_multiplier": 1e30}, {"length": 10**12}, {"length": -1}, {"name": 5},
        {"name": "x\n\x1b[2J"}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_file_of_no_shape(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="shape"):
        find_shape(shape_file(tmp_path, **changes), 2500, 32)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"dim":' * 5000, "1" * 5000, "", "null"])
def test_a_file_of_no_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shape.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match="--model"):
        find_shape(str(path), 2500, 32)


def test_a_model_that_has_no_room(corpus: Corpus, tmp_path: Path) -> None:
    settings = tiny_settings(corpus, tmp_path / "run", model=shape_file(tmp_path, dim=1 << 20, n_layers=100))
    with pytest.raises(RecipeError, match="parameters take"):
        go(settings)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup": -1}, {"warmup": 10**400}, {"eval_rows": -1}, {"weight_decay": NAN}, {"weight_decay": -1.0},
        {"weight_decay": INF}, {"eps": 1e-300}, {"micro_batch": 10**30}, {"steps": 10**30},
    ],
)  # fmt: skip
def test_numbers_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        Settings(corpus="c", run="r", **changes)


@pytest.mark.parametrize("name", ["foo", "meta", "mps", "cuda:99", "cpu:x"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(RecipeError, match="--device"):
        device_of(name)


# ---- one line and exit code 2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["/proc/nothing", "/dev/null", "/dev/null/x", "x" * 300])
def test_a_run_that_cannot_be_there(
    out: str, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shape_file(tmp_path)
    out = out if out.startswith("/") else str(tmp_path / out)
    assert main(["train", str(corpus.root), "--model", model, "--out", out, "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "given",
    [["--temperature", "nan"], ["--temperature", "inf"], ["--seed", str(2**70)], ["--prompt", "\udcff"],
     ["--device", "foo"], ["--prompt", "ab " * 3000], ["--top-p", "nan"]],
)  # fmt: skip
def test_generate_refuses_in_one_line(given: list[str], whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(whole), "--device", "cpu", *given]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out


def test_extremes_of_drawing() -> None:
    logits, generator = torch.tensor([1.0, 80.0, -50.0]), torch.Generator().manual_seed(0)
    assert draw(logits, 1e-300, 1.0, generator) == draw(logits, 0.8, 1e-300, generator) == 1
    with pytest.raises(StoreError, match="no numbers"):
        draw(torch.tensor([1.0, NAN]), 1.0, 1.0, generator)


# ---- files of a run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"settings": {}}', b"[" * 100_000])
def test_a_run_json_that_was_edited(data: bytes, cut: Path, corpus: Corpus) -> None:
    (cut / "run.json").write_bytes(data)
    with pytest.raises(CurateError, match=r"run\.json|was begun with"):
        go(tiny_settings(corpus, cut))


def test_a_lost_run_json_comes_back_and_settings_are_still_compared(cut: Path, corpus: Corpus, whole: Path) -> None:
    (cut / "run.json").unlink()
    with pytest.raises(RecipeError, match="step-00000008: was begun with lr 0.01, now it is 0.02"):
        go(tiny_settings(corpus, cut, lr=0.02))
    go(tiny_settings(corpus, cut))
    assert losses(cut) == losses(whole) and json.loads((cut / "run.json").read_text())["settings"]["lr"] == 0.01


def test_a_start_that_failed_binds_nobody(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not divide"):
        go(tiny_settings(corpus, tmp_path / "run", micro_batch=3, lr=0.5))
    go(tiny_settings(corpus, tmp_path / "run", steps=1))


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100_000, b"[" * 200_000 + b"\n",
     b'{"kind": "step", "step": 1e999}\n{"step": 1}\n{"kind": 7, "step": 1}\n5\n'],
)  # fmt: skip
def test_a_log_of_anything(data: bytes, tmp_path: Path) -> None:
    good = b'{"kind": "step", "step": 0, "loss": 1.0}\n'
    (tmp_path / "log.jsonl").write_bytes(good + data)
    Log(tmp_path, 4).close()
    assert (tmp_path / "log.jsonl").read_bytes() == good and losses(tmp_path) == [1.0]


def test_what_killed_writers_left_goes(cut: Path, corpus: Corpus) -> None:
    for name in (".run.json.0011aabb", ".log.jsonl.part", "checkpoints/.part-x"):
        (cut / name).touch()
    (cut / "checkpoints" / ".part-y").symlink_to(corpus.root)
    (checkpoint.folder_of(cut, 12)).touch()  # a file where a checkpoint comes
    go(tiny_settings(corpus, cut))
    assert not [p for p in cut.rglob(".*") if p.name != ".lock"] and (corpus.root / "mixture.json").is_file()


def test_a_full_disk(corpus: Corpus, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*given: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    settings = tiny_settings(corpus, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="step 4 could not be written.*No space"):
        patch.setattr(checkpoint, "save_file", full)
        go(settings)
    go(settings)
    assert losses(tmp_path / "run") == losses(whole) and state(tmp_path / "run") == state(whole)


# ---- going back ------------------------------------------------------------------------------------------------------


def test_a_run_that_went_back_stays_back(whole: Path, corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    settings = tiny_settings(corpus, run)
    with pytest.raises(Stopped, match="step 5 of 12; run the same command without --resume"):
        go(replace(settings, resume=4, max_hours=1e-9))
    assert checkpoint.steps(run) == [4, 5] and len(list((run / "checkpoints").glob("aside-*"))) == 2
    go(settings)
    assert losses(run) == losses(whole) and state(run) == state(whole)
    assert [r["step"] for r in records(run, "step")] == list(range(12))


def test_asked_to_stop_when_it_is_done(corpus: Corpus, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    assert go(tiny_settings(corpus, tmp_path / "run", steps=3), stopping=lambda: next(asked))["step"] == 3


# ---- forged checkpoints ----------------------------------------------------------------------------------------------

RANK, NORM = "rank-00000.safetensors", "weights/norm.weight"


def put(*path: Any) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        *names, last, value = path
        for name in names:
            record = record[name]
        record[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("files", "../../../../etc/passwd", {"bytes": 1, "sha256": ""}), put("files", RANK, 5), put("files", []),
        put("files", RANK, "bytes", -1), put("tensors", []), put("tensors", NORM, "shape", [10**15]),
        put("tensors", NORM, "shape", [-32]), put("tensors", NORM, "pieces", 0, "begin", [-1]),
        put("tensors", NORM, "pieces", 0, "size", [10**9]), put("tensors", NORM, "pieces", 0, "size", [3]),
        put("tensors", NORM, "pieces", []), put("tensors", NORM, "pieces", 0, "file", "../x"),
        put("tensors", NORM, "pieces", 0, "file", "tokenizer.model"), lambda r: r["tensors"].pop("m/norm.weight"),
        lambda r: r["tensors"].pop("count"), put("step", "8"), put("step", 4), put("data", "step", 5),
        put("data", None), put("progress", []), put("progress", "watch", "window", ["x"]), put("settings", {}),
    ],
)  # fmt: skip
def test_forged_records_are_refused(change: Callable[[Any], Any], cut: Path, corpus: Corpus) -> None:
    shutil.rmtree(checkpoint.folder_of(cut, 4))
    forge(cut, 8, change)
    with pytest.raises(CurateError, match="step-00000008"):
        go(tiny_settings(corpus, cut))


@pytest.mark.parametrize(
    "change", [put("shape", 5), put("shape", "dim", 64), put("shape", "n_layers", 10**9), put("shape", "n_layers", 3)]
)
def test_a_forged_shape_is_refused(change: Callable[[Any], Any], cut: Path) -> None:
    forge(cut, 8, change)
    with pytest.raises(StoreError, match="step-00000008"):
        load(cut, "cpu")


def forge(run: Path, step: int, change: Callable[[Any], Any]) -> None:
    path = checkpoint.folder_of(run, step) / "checkpoint.json"
    record = json.loads(path.read_bytes())
    del record["record_sha256"]
    change(record)
    path.write_bytes(to_json({**record, "record_sha256": _seal(record)}))


def test_numbers_of_another_kind_are_refused(cut: Path, corpus: Corpus) -> None:
    """A file of bf16 under a record of fp32 would be cast in silence."""
    from safetensors.torch import load_file, save_file

    from curate.store import file_digest

    path = checkpoint.folder_of(cut, 8) / RANK
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path)
    size, digest = file_digest(path)

    def change(record: Any) -> None:
        record["files"][RANK] = {"bytes": 2 * size, "sha256": digest}

    forge(cut, 8, change)
    with pytest.raises(StoreError, match="bytes in place of"):
        checkpoint.verified(checkpoint.folder_of(cut, 8))
    found = checkpoint.open_checkpoint(checkpoint.folder_of(cut, 8))
    with pytest.raises(StoreError, match="is BF16 .* the record says F32"):
        checkpoint.load_weights(found)


def test_pickles_in_a_checkpoint_are_never_read(cut: Path, corpus: Corpus, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/marker",)

    for folder in (cut, checkpoint.folder_of(cut, 8)):
        for name in ("pytorch_model.bin", "model.pt", ".metadata", "rank-00001.safetensors"):
            (folder / name).write_bytes(pickle.dumps(Evil()))
    load(cut, "cpu")
    go(tiny_settings(corpus, cut))
    assert not (tmp_path / "marker").exists()


def test_an_id_beyond_the_vocabulary(corpus: Corpus) -> None:
    data = open_data(corpus, load_plan(corpus))
    batch = data.batch(0)
    data.check_ids(batch.tokens, "step 0")
    batch.tokens[1, 3] = data.plan["vocabulary"]
    with pytest.raises(StoreError, match="step 0: a shard has id 2,500"):
        data.check_ids(batch.tokens, "step 0")


# ---- the code --------------------------------------------------------------------------------------------------------

BANNED = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "model").glob("*.py"), *(ROOT / "curate").glob("*training.py")]), ids=lambda p: str(p.name)
)
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name.partition(".")[0] for a in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
            assert not names & BANNED, f"{path}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "torch.jit.load", "__import__"), f"{path}:{node.lineno}"
            assert not any(k.arg in ("allow_pickle", "trust_remote_code") for k in node.keywords), path


def test_a_run_in_the_place_of_a_corpus_is_refused(corpus: Corpus) -> None:
    with pytest.raises(RecipeError, match="is a corpus"):
        go(tiny_settings(corpus, corpus.root))
    assert not (corpus.root / "run.json").exists()


@pytest.mark.parametrize("asked", [{"steps": 0}, {"micro_batch": 0}, {"warmup": -1}, {"length": 0}])
def test_a_benchmark_of_nothing_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="must be at least"):
        bench_train(Asked(**asked), print)  # type: ignore[arg-type]
