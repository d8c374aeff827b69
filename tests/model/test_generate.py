"""Generation and export: the same tokens and logits as the model's own, or a refusal."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import RecipeError, StageError, StoreError
from curate.store import Corpus
from model import checkpoint, export_hf
from model.export_hf import _locked, export, halves, sample_texts
from model.generate import Loaded, draw, load, text, tokens
from model.run_folder import Settings
from tests.model.test_train import go
from tests.model.tiny import tiny_corpus, tiny_settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    settings: Settings = tiny_settings(corpus, folder, steps=6)
    go(settings)
    return folder


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return load(run, "cpu")


def test_greedy_is_the_most_likely_one_each_time(loaded: Loaded) -> None:
    ids = [1, 50, 60, 70]
    made = list(tokens(loaded.model, ids, 20))
    for token in made:
        with torch.no_grad():
            logits = loaded.model(torch.tensor([ids]))
        assert int(logits[0, -1].argmax()) == token
        ids = [*ids, token]
    assert len(made) == 20


def test_it_ends_at_eos_and_at_the_length_of_the_model(loaded: Loaded) -> None:
    made = list(tokens(loaded.model, [1, 50], 8))
    assert list(tokens(loaded.model, [1, 50], 8, stop=made[3])) == made[: made.index(made[3])]
    room = loaded.model.shape.length
    assert len(list(tokens(loaded.model, [1] * (room - 3), 50))) == 3


def test_seeds(loaded: Loaded) -> None:
    a, b, c = (list(tokens(loaded.model, [1], 12, 1.0, 0.9, seed)) for seed in (1, 1, 2))
    assert a == b != c


def test_draws_follow_temperature_and_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float, n: int = 8000) -> list[float]:
        drawn = torch.tensor([draw(logits, temperature, top_p, generator) for _ in range(n)])
        return (torch.bincount(drawn, minlength=4) / n).tolist()

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(1.0, 0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)  # 0.5 and 0.3 make 0.8
    assert shares(1.0, 0.81)[2] > 0.1
    assert shares(0.5, 1.0) == pytest.approx([x / 0.365 for x in (0.25, 0.09, 0.0225, 0.0025)], abs=0.02)
    assert shares(1.0, 1e-9, 50) == [1, 0, 0, 0] and draw(logits, 0.0, 1.0, generator) == 0


def test_pieces_make_the_whole_text(loaded: Loaded) -> None:
    pieces = list(text(loaded, "The bees 東", 60, 1.5, 1.0, 3))
    ids = [1, *loaded.encoder.processor.encode("The bees 東")]
    made = list(tokens(loaded.model, ids, 60, 1.5, 1.0, 3, loaded.encoder.eos))
    whole = loaded.encoder.processor.decode(ids + made)
    assert "The bees 東" + "".join(pieces) == whole or whole.startswith("The bees 東" + "".join(pieces))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"prompt": []}])
def test_settings_out_of_range(wrong: dict[str, Any], loaded: Loaded) -> None:
    given = {"prompt": [1], "n": 3, "temperature": 1.0, "top_p": 1.0, **wrong}
    with pytest.raises(RecipeError):
        list(tokens(loaded.model, given["prompt"], given["n"], given["temperature"], given["top_p"]))
    with pytest.raises(RecipeError, match="the model takes 1 to"):
        list(tokens(loaded.model, [1] * 5000, 3))


def test_a_step_is_chosen_by_its_folder(run: Path) -> None:
    step = checkpoint.steps(run)[0]
    assert load(checkpoint.folder_of(run, step), "cpu").checkpoint.step == step
    with pytest.raises(StoreError, match="there is no checkpoint"):
        load(checkpoint.folder_of(run, 999), "cpu")


# ---- export --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_export_reads_back(dtype: str, run: Path, corpus: Corpus, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    done = export(run, tmp_path / "out", sample_texts(corpus.root), dtype)
    assert done.texts == 160 and done.farthest < 1e-5
    assert sorted(done.files) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"} <= set(done.files)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ours = load(run, "cpu").model
    if dtype == "float32":
        ids = torch.tensor([[1, 5, 9, 33]])
        with torch.no_grad():
            assert (ours(ids) - model(ids).logits).abs().max() < 1e-5
        made = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
        assert made[0, 4:].tolist() == list(tokens(ours, [1, 5, 9, 33], 8))
    assert not list(tmp_path.glob(".out*"))


def test_large_models_are_in_several_files(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_hf, "SHARD_BYTES", 100_000)
        done = export(run, tmp_path / "out", ["a text"])
    names = [f for f in done.files if f.endswith(".safetensors")]
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)


def harm(what: str, patch: pytest.MonkeyPatch) -> str:
    """Write something else than the model; what the refusal has to say."""
    if what == "rows not permuted":
        patch.setattr(export_hf, "halves", lambda rows, head_dim: rows)
        return "logits differ from ours"
    if what == "a weight":
        real = export_hf.hf_weights

        def changed(*arguments: Any) -> Any:
            for name, tensor in real(*arguments):
                yield name, tensor + 0.01 * (name == "model.norm.weight")

        patch.setattr(export_hf, "hf_weights", changed)
        return "logits differ from ours"
    if what == "eps":
        real_config = export_hf.config
        patch.setattr(export_hf, "config", lambda *a: real_config(*a) | {"rms_norm_eps": 1e-2})
        return "logits differ from ours"
    real_export = export_hf.write_export

    def other(model: Path, out: Path) -> list[str]:
        names = real_export(model, out)
        content = json.loads((out / "tokenizer.json").read_text())
        content["normalizer"]["normalizers"].pop(0)  # no dummy prefix
        (out / "tokenizer.json").write_text(json.dumps(content))
        return names

    patch.setattr(export_hf, "write_export", other)
    return "encodes text 0 otherwise than SentencePiece"


@pytest.mark.parametrize("what", ["rows not permuted", "a weight", "eps", "tokenizer"])
def test_what_is_not_the_model_is_refused(what: str, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        said = harm(what, patch)
        with pytest.raises(StageError, match=said):
            export(run, tmp_path / "out", ["Some text, 123.", "more"])
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_export_refuses_what_is_there(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(RecipeError, match="is there already"):
        export(run, tmp_path / "out", ["a"])
    with pytest.raises(RecipeError, match="--dtype int8"):
        export(run, tmp_path / "new", ["a"], "int8")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(StoreError, match="neither a checkpoint nor a run"):
        export(tmp_path, tmp_path / "new", ["a"])


def test_what_a_killed_export_left_is_removed(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "a[b]"  # no pattern of names
    for name in (f".{out.name}.0123abcd", f".{out.name}.4567abcd", f".{out.name}.mine", ".ab.0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with _locked(tmp_path / f".{out.name}.4567abcd") as free:  # an export that is under way
        assert free
        export(run, out, sample_texts(corpus.root)[:4])
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([".ab.0123abcd", f".{out.name}.4567abcd", f".{out.name}.mine", out.name])


def test_export_where_folders_cannot_be_locked(
    run: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: it is made all the same, and nothing is removed that may be somebody's."""
    pytest.importorskip("transformers")

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    (tmp_path / ".out.0123abcd").mkdir()
    monkeypatch.setattr("model.export_hf.fcntl.flock", refuse)
    export(run, tmp_path / "out", sample_texts(corpus.root)[:4])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.0123abcd", "out"]


def test_halves() -> None:
    rows = torch.arange(16.0)[:, None].repeat(1, 3)
    assert halves(rows, 8)[:, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


def test_samples_are_of_all_sources(corpus: Corpus) -> None:
    found = sample_texts(corpus.root, 10)
    assert len(found) == 10 and {t.split()[0] for t in found} == {"books", "wikipedia"}
