"""Checkpoints: whole or not there, whatever stops the writer; damage is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.errors import CurateError, RecipeError, StoreError
from curate.store import to_json
from model import checkpoint
from model.checkpoint import (
    RECORD,
    Saver,
    _seal,
    fill,
    find,
    folder_of,
    load_weights,
    newest,
    open_checkpoint,
    steps,
    verified,
)
from model.parallel import World

CPU = World(torch.device("cpu"))


def tensors(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = {f"{kind}/{name}": torch.randn(size, generator=random)
            for kind in ("weights", "m") for name, size in (("a.weight", (7, 5)), ("norm.weight", (5,)))}  # fmt: skip
    made["m/a.weight"][0, 0] = float("nan")  # bits are compared, not numbers
    return {**made, "count": torch.tensor(float(seed))}


def save(run: Path, *at: int, keep: int = 3, token: str = "t") -> None:
    tokenizer = run / "given.model"
    run.mkdir(exist_ok=True)
    tokenizer.write_bytes(b"pieces")
    saver = Saver(run, CPU, token, keep, tokenizer)
    for step in at:
        saver.save(step, tensors(step).items(), {"data": {"step": step}})
    saver.wait()


def same(run: Path, step: int) -> bool:
    wanted = tensors(step)
    read = {k: torch.empty_like(v) for k, v in wanted.items()}
    fill(verified(folder_of(run, step)), read.items())
    return all(torch.equal(read[k].view(torch.int32), wanted[k].view(torch.int32)) for k in wanted)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save(tmp_path / "run", 1, 2)
    assert steps(tmp_path / "run") == [1, 2] and same(tmp_path / "run", 1) and same(tmp_path / "run", 2)
    names = sorted(p.name for p in folder_of(tmp_path / "run", 2).iterdir())
    assert names == ["checkpoint.json", "rank-00000.safetensors", "tokenizer.model"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert set(load_weights(find(tmp_path / "run"))) == {"a.weight", "norm.weight"}


def test_the_copy_is_made_at_once(tmp_path: Path) -> None:
    """Training goes on while a checkpoint is written: it has what the tensors were, not what they became."""
    saver, given = Saver(tmp_path, CPU, "t", 1, None), tensors(5)
    saver.save(5, given.items(), {})
    for tensor in given.values():
        tensor.zero_()
    saver.wait()
    assert same(tmp_path, 5)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert steps(tmp_path) == [4, 5] and same(tmp_path, 4)
    save(tmp_path, 6, keep=1)
    assert steps(tmp_path) == [6]
    with pytest.raises(RecipeError, match="--keep 0"):
        Saver(tmp_path, CPU, "t", 0, None)


def test_a_failed_save_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only good checkpoint stays where the next one cannot be written, or is written wrongly."""
    save(tmp_path, 1, keep=1)

    def wrong(given: dict[str, Tensor], path: Path) -> None:
        given = {k: v.clone() for k, v in given.items()}
        given["weights/a.weight"][3, 3] += 1e-3
        real(given, path)

    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", wrong)
    with pytest.raises(StoreError, match="reads back other bytes"):
        save(tmp_path, 2, keep=1)
    monkeypatch.setattr(
        checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StoreError, match="No space left on device .* MB free there"):
        save(tmp_path, 2, keep=1, token="u")
    assert steps(tmp_path) == [1] and same(tmp_path, 1)


# ---- crashes ---------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


OPERATIONS = (
    ("model.checkpoint.save_file", "write the tensors"), ("model.checkpoint._sync", "sync"),
    ("model.checkpoint.replace_file", "write a record"), ("model.checkpoint.sync_folder", "sync the folder"),
    ("pathlib.Path.rename", "rename"), ("pathlib.Path.mkdir", "make a folder"), ("pathlib.Path.unlink", "unlink"),
    ("shutil.rmtree", "remove a folder"), ("shutil.copyfile", "copy the tokenizer"),
)  # fmt: skip


def counting(patch: pytest.MonkeyPatch, stop: int | None, after: bool) -> list[str]:
    """Number all file operations; crash before or after number `stop`."""
    import importlib

    done: list[str] = []

    def wrapped(real: Any, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            number = len(done)
            done.append(name)
            if number == stop and not after:
                raise Crash
            made = real(*arguments, **options)
            if number == stop and after:
                raise Crash
            return made

        return call

    for target, name in OPERATIONS:
        module, _, function = target.rpartition(".")
        owner = Path if module == "pathlib.Path" else importlib.import_module(module)
        patch.setattr(owner, function, wrapped(getattr(owner, function), name))
    return done


def attempts(run: Path) -> Iterator[tuple[int, bool]]:
    with pytest.MonkeyPatch.context() as patch:
        total = len(counting_run(patch, run, None, False))
    yield from ((k, after) for k in range(total) for after in (False, True))


def counting_run(patch: pytest.MonkeyPatch, run: Path, stop: int | None, after: bool) -> list[str]:
    done = counting(patch, stop, after)
    save(run, 3, keep=2, token=f"t{stop}{after}")
    return done


def test_a_crash_at_any_file_operation(tmp_path: Path) -> None:
    """After it the newest checkpoint is whole, a good one is always there, and the same save can be done again."""
    start = tmp_path / "start"
    save(start, 1, 2, keep=2)
    shutil.copytree(start, tmp_path / "count")
    points = list(attempts(tmp_path / "count"))
    assert len(points) > 20
    for k, after in points:
        run = tmp_path / f"crash-{k}-{after}"
        shutil.copytree(start, run)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
            counting_run(patch, run, k, after)
        said: list[str] = []
        found = newest(run, said.append)
        assert found is not None and found.step in (2, 3) and not said, (k, after)
        assert all(same(run, s) for s in steps(run))
        save(run, 3, keep=2, token="again")
        assert steps(run) == [2, 3] and same(run, 3)
        assert not list((run / "checkpoints").glob(".*"))


# ---- damage ----------------------------------------------------------------------------------------------------------


def damaged(folder: Path, how: str) -> str:
    """Harm a checkpoint; what has to be named."""
    data = folder / "rank-00000.safetensors"
    if how == "a bit":
        content = bytearray(data.read_bytes())
        content[-3] ^= 1
        data.write_bytes(content)
        return r"rank-00000\.safetensors: damaged"
    if how == "cut":
        data.write_bytes(data.read_bytes()[:-10])
        return r"rank-00000\.safetensors: [\d,]+ bytes in place of"
    if how == "missing":
        data.unlink()
        return r"rank-00000\.safetensors: missing"
    if how == "no tokenizer":
        (folder / "tokenizer.model").unlink()
        return r"tokenizer\.model: missing"
    record = folder / RECORD
    if how == "record edited":
        record.write_text(record.read_text().replace('"step": 2', '"step": 3'))
        return r"checkpoint\.json: damaged, its own digest"
    if how == "record cut":
        record.write_text(record.read_text()[:100])
        return r"checkpoint\.json: damaged, not JSON"
    if how == "newer format":
        content = json.loads(record.read_text()) | {"format": 9}
        content.pop("record_sha256")
        record.write_bytes(to_json({**content, "record_sha256": _seal(content)}))
        return r"of format 9, this version reads 1"
    record.unlink()
    return "there is no checkpoint"


HOW = ("a bit", "cut", "missing", "no tokenizer", "record edited", "record cut", "newer format", "no record")


@pytest.mark.parametrize("how", HOW)
def test_damage_is_named(how: str, tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    said: list[str] = []
    named = damaged(folder_of(tmp_path, 2), how)
    with pytest.raises(StoreError, match=named) as error:
        verified(folder_of(tmp_path, 2))
    assert error.value.exit_code == 2
    with pytest.raises(StoreError, match=named):
        find(folder_of(tmp_path, 2))
    found = newest(tmp_path, said.append)  # the one before, with a warning
    assert found is not None and found.step == 1 and len(said) == 1 and "step 2 is not used" in said[0]
    damaged(folder_of(tmp_path, 1), how if how != "record edited" else "a bit")
    with pytest.raises(StoreError, match="none of 2 checkpoints is good"):
        newest(tmp_path, said.append)


def test_no_partial_load(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = open_checkpoint(folder_of(tmp_path, 1))
    with pytest.raises(StoreError, match=r"weights/b\.weight should be \[2\], there is nothing"):
        fill(found, [("weights/b.weight", torch.empty(2))])
    with pytest.raises(StoreError, match=r"should be \[7, 6\], there is \[7, 5\]"):
        fill(found, [("weights/a.weight", torch.empty(7, 6))])
    found.record["tensors"]["weights/a.weight"]["pieces"][0]["begin"] = [1, 0]
    with pytest.raises(StoreError, match="is not whole: 30 of 35 numbers"):
        fill(found, [("weights/a.weight", torch.empty(7, 5))])


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A file that would run code when it is unpickled is refused, and does not run."""
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    save(tmp_path / "run", 1)
    folder = folder_of(tmp_path / "run", 1)
    content = json.loads((folder / RECORD).read_text())
    content.pop("record_sha256")
    evil = pickle.dumps(Evil())
    import hashlib

    (folder / "rank-00000.safetensors").write_bytes(evil)
    content["files"]["rank-00000.safetensors"] = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    (folder / RECORD).write_bytes(to_json({**content, "record_sha256": _seal(content)}))
    with pytest.raises(CurateError):
        load_weights(find(folder))
    assert not marker.exists()


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="neither a checkpoint nor a run"):
        find(tmp_path)
    assert newest(tmp_path, print) is None and steps(tmp_path) == []


def test_files_have_the_rights_of_their_folder(tmp_path: Path) -> None:
    """safetensors would write them for the owner alone; others of a cluster read them, too."""
    save(tmp_path / "run", 1)
    folder = folder_of(tmp_path / "run", 1)
    assert {p.stat().st_mode & 0o666 for p in folder.iterdir()} == {folder.stat().st_mode & 0o666}
