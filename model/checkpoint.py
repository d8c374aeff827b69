"""Checkpoints: distributed, written in the background, atomic, verified; safetensors and JSON, nothing pickled.

    RUN/checkpoints/step-00000100/
        checkpoint.json          step, data, shape, settings; where every tensor lies; digests of all files, and its own
        rank-00000.safetensors   what that rank had: `weights/NAME` (fp32), `m/NAME`, `v/NAME`
        tokenizer.model

All ranks copy their tensors to host memory, which is all that training waits for, and a thread of each writes them,
syncs, reads them back and compares every byte. Rank 0's thread waits for all, writes the record and gives the folder
its name: what has a name is whole. Older checkpoints are removed after that, never before.

A checkpoint can be read by any number of ranks: a rank takes the pieces that overlap its parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.errors import RecipeError, StoreError
from curate.store import disk_errors, file_digest, replace_file, sync_folder, to_json
from model.llama import Transformer
from model.parallel import World, local_part, place_of
from model.run_folder import read_record
from model.shapes import shape_of

FORMAT = 1
RECORD = "checkpoint.json"
TOKENIZER = "tokenizer.model"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}  # as safetensors names them
PATIENCE = 1800.0  # seconds that rank 0 waits for the other ranks' files
_NAME = re.compile(r"^step-([0-9]{8}|[1-9][0-9]{8,17})$")
_FILE = re.compile(r"^(rank-[0-9]{5}\.safetensors|tokenizer\.model)$")


@dataclass(frozen=True)
class Checkpoint:
    """One that is there, as its record says."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])

    def problems(self) -> list[str]:
        """Files that are not what the record says, each named; every byte is read."""
        found = []
        for name, facts in self.record["files"].items():
            path = self.folder / name
            if not path.is_file():
                found.append(f"{path}: missing")
            elif path.stat().st_size != facts["bytes"]:
                found.append(f"{path}: {path.stat().st_size:,} bytes in place of {facts['bytes']:,}")
            elif file_digest(path)[1] != facts["sha256"]:
                found.append(f"{path}: damaged, its SHA-256 is another")
        return found


def steps(run: Path) -> list[int]:
    """Steps of which there is a checkpoint, ascending; whether they are good is not looked at."""
    names = (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else []
    return sorted(int(m[1]) for p in names if (m := _NAME.match(p.name)))


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a record. StoreError: missing, damaged, or of another version."""
    path = folder / RECORD
    if not path.is_file():
        raise StoreError(f"{path}: there is no checkpoint")
    record = read_record(path)
    sealed = isinstance(record, dict) and record.pop("record_sha256", None) == _seal(record)
    if not sealed or not isinstance(record.get("files"), dict):
        raise StoreError(f"{path}: damaged, its own digest is another")
    if record.get("format") != FORMAT:
        raise StoreError(f"{path}: of format {record.get('format')}, this version reads {FORMAT}")
    _check_record(folder, record)
    return Checkpoint(folder, record)


def _check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """StoreError where a record says what none of ours can: it has its own digest, so this is no accident."""
    try:
        step = _whole(record["step"])
        if (named := _NAME.match(folder.name)) and int(named[1]) != step:
            raise ValueError(f"it is of step {step}")
        for name, facts in record["files"].items():
            if not _FILE.match(name) or _whole(facts["bytes"]) < 0 or not isinstance(facts["sha256"], str):
                raise ValueError(f"it names a file {name[:80]!r}")
        numbers = sum(_check_tensor(key, entry, record["files"]) for key, entry in record["tensors"].items())
        if 4 * numbers > sum(facts["bytes"] for facts in record["files"].values()):
            raise ValueError("it has more numbers than bytes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{folder / RECORD}: not a checkpoint's record: {error}") from None


def _check_tensor(key: str, entry: Mapping[str, Any], files: Mapping[str, Any]) -> int:
    """The numbers in a tensor; its pieces lie in files of the record and within its shape."""
    shape = [_whole(n) for n in entry["shape"]]
    for piece in entry["pieces"]:
        inside = all(
            _whole(b) >= 0 and _whole(n) >= 0 and b + n <= whole
            for b, n, whole in zip(piece["begin"], piece["size"], shape, strict=True)
        )
        if not inside or piece["file"] not in files:
            raise ValueError(f"a piece of {key[:80]!r} lies elsewhere")
    return math.prod(shape)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} should be a whole number")
    return value


def verified(folder: Path) -> Checkpoint:
    """Open a checkpoint all of whose bytes are as they were written; StoreError names what is not."""
    found = open_checkpoint(folder)
    with disk_errors(folder):
        problems = found.problems()
    if problems:
        raise StoreError("; ".join(problems))
    return found


def newest(run: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest good checkpoint of a run; a damaged one is named and passed over. StoreError: all are damaged."""
    there, said = steps(run), ""
    for step in reversed(there):
        try:
            return verified(folder_of(run, step))
        except StoreError as error:
            said = str(error)
            note(f"checkpoint of step {step} is not used: {said}")
    if there:
        raise StoreError(f"{run}: none of {len(there)} checkpoints is good; {said}")
    return None


def find(given: Path) -> Checkpoint:
    """The checkpoint that a user names: its folder, or a run (then its newest). It is verified."""
    if (given / RECORD).is_file() or _NAME.match(given.name):
        return verified(given)
    if not steps(given):
        raise StoreError(f"{given}: neither a checkpoint nor a run with one")
    return verified(folder_of(given, steps(given)[-1]))


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(record)).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


def fill(checkpoint: Checkpoint, wanted: Iterable[tuple[str, Tensor]]) -> None:
    """Copy a checkpoint into tensors (DTensors: this rank's part). StoreError: one is missing or of another shape."""
    tensors = checkpoint.record["tensors"]
    files: dict[str, Any] = {}
    try:
        for key, tensor in wanted:
            if key not in tensors or list(tensor.shape) != tensors[key]["shape"]:
                have = tensors[key]["shape"] if key in tensors else "nothing"
                raise StoreError(f"{checkpoint.folder}: {key} should be {list(tensor.shape)}, there is {have}")
            _fill_one(checkpoint, files, key, tensors[key]["pieces"], tensor)
    except SafetensorError as error:
        raise StoreError(f"{checkpoint.folder}: {error}") from error


def _fill_one(
    checkpoint: Checkpoint, files: dict[str, Any], key: str, pieces: list[dict[str, Any]], tensor: Tensor
) -> None:
    place, local, filled = place_of(tensor), local_part(tensor), 0
    for piece in {tuple(p["begin"]): p for p in pieces}.values():  # parts that ranks share are there several times
        name = piece["file"]
        if name not in files:
            with disk_errors(checkpoint.folder):
                files[name] = safe_open(checkpoint.folder / name, "pt")
        view = files[name].get_slice(key)
        if (view.get_shape(), view.get_dtype()) != (piece["size"], _DTYPES.get(tensor.dtype)):
            raise StoreError(f"{checkpoint.folder / name}: {key} is {view.get_dtype()} {view.get_shape()}, the record "
                             f"says {_DTYPES.get(tensor.dtype)} {piece['size']}")  # fmt: skip
        inside = [
            (max(s.start, b), min(s.stop, b + n)) for s, b, n in zip(place, piece["begin"], piece["size"], strict=True)
        ]
        if any(a >= b for a, b in inside):
            continue
        source = tuple(slice(a - begin, b - begin) for (a, b), begin in zip(inside, piece["begin"], strict=True))
        target = tuple(slice(a - s.start, b - s.start) for (a, b), s in zip(inside, place, strict=True))
        data = view[source] if source else files[name].get_tensor(key)
        local[target].copy_(data)
        filled += data.numel()
    if filled != local.numel():
        raise StoreError(f"{checkpoint.folder}: {key} is not whole: {filled:,} of {local.numel():,} numbers")


def model_of(checkpoint: Checkpoint) -> Transformer:
    """The model of a checkpoint's shape, on the meta device. StoreError: its weights are of another shape."""
    tensors = checkpoint.record["tensors"]
    there = {key: entry["shape"] for key, entry in tensors.items() if key.startswith("weights/")}
    try:
        shape = shape_of(checkpoint.record["shape"])
        if shape.n_layers > len(there):
            raise RecipeError(f"{shape.n_layers:,} layers, {len(there):,} weights")
        with torch.device("meta"):
            model = Transformer(shape)
    except (KeyError, RecipeError) as error:
        raise StoreError(f"{checkpoint.folder}: has no model's shape: {error}") from None
    wanted = {f"weights/{name}": list(tensor.shape) for name, tensor in model.named_parameters()}
    if wrong := sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k)):
        key = wrong[0]
        raise StoreError(f"{checkpoint.folder}: {key} is {there.get(key, 'missing')}, the model of its shape has "
                         f"{wanted.get(key, 'none')}")  # fmt: skip
    return model


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's weights, fp32, whole, under Meta's names, in host memory."""
    made = {}
    for key, entry in checkpoint.record["tensors"].items():
        kind, _, name = key.partition("/")
        if kind == "weights":
            made[name] = torch.empty(entry["shape"], dtype=torch.float32)
    fill(checkpoint, ((f"weights/{name}", tensor) for name, tensor in made.items()))
    return made


# ---- writing ---------------------------------------------------------------------------------------------------------


class Saver:
    """Writes the checkpoints of a run, one at a time."""

    def __init__(self, run: Path, world: World, token: str, keep: int, tokenizer: Path | None) -> None:
        """`token`: the same on all ranks, of this start alone; `keep`: how many to keep, at least 1."""
        if keep < 1:
            raise RecipeError(f"--keep {keep}: at least one checkpoint is kept")
        self.run, self.world, self.token, self.keep, self.tokenizer = run, world, token, keep, tokenizer
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if world.rank == 0:
            with disk_errors(run):
                (run / "checkpoints").mkdir(parents=True, exist_ok=True)
                for left in (run / "checkpoints").glob(".part-*"):  # of attempts that died
                    _remove(left)

    def save(self, step: int, tensors: Iterable[tuple[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Copy and return; the rest is done in the background. Waits for the one before; raises its error."""
        self.wait()
        copies, pieces = self._copied(tensors)
        record = {**state, "format": FORMAT, "step": step}
        self._thread = threading.Thread(target=self._guarded, args=(step, copies, pieces, record), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun is on disk; StoreError where it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _copied(self, tensors: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Host copies of this rank's parts, and where each lies in the whole."""
        copies, pieces = {}, {}
        for key, tensor in tensors:
            local, place = local_part(tensor), place_of(tensor)
            if local.numel() == 0 or (local is tensor and self.world.rank and self.world.size > 1):
                continue  # what is no DTensor is the same on all ranks
            # Pageable: pinned memory is taken in powers of two and never given back, 99 GiB for the 75 of a 7B.
            copies[key] = local.detach().to("cpu", copy=True)
            begin = [s.start for s in place]
            pieces[key] = {"shape": list(tensor.shape), "begin": begin, "size": list(local.shape)}
        return copies, pieces

    def _guarded(self, *arguments: Any) -> None:
        try:
            with disk_errors(self.run):
                self._write(*arguments)
        except SafetensorError as error:  # how it says that a disk is full
            self._error = StoreError(f"{self.run}: a checkpoint of step {arguments[0]} could not be written: {error}")
        except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the caller's thread
            self._error = error

    def _write(self, step: int, copies: dict[str, Tensor], pieces: dict[str, Any], record: dict[str, Any]) -> None:
        part = self.run / "checkpoints" / f".part-{self.token}-{step:08d}"
        part.mkdir(exist_ok=True)
        name = f"rank-{self.world.rank:05d}.safetensors"
        save_file(copies, part / name)
        readable(part / name)
        _sync(part / name)
        _compare(part / name, copies)
        size, digest = file_digest(part / name)
        facts = {"file": name, "bytes": size, "sha256": digest, "pieces": pieces}
        replace_file(part / f"{name}.json", to_json(facts))
        if self.world.rank == 0:
            self._commit(part, step, record)
            self._drop_older(step)

    def _commit(self, part: Path, step: int, record: dict[str, Any]) -> None:
        record |= {"files": {}, "tensors": {}}
        for facts in self._all_ranks(part):
            record["files"][facts["file"]] = {"bytes": facts["bytes"], "sha256": facts["sha256"]}
            for key, piece in facts["pieces"].items():
                entry = record["tensors"].setdefault(key, {"shape": piece["shape"], "pieces": []})
                entry["pieces"].append({"file": facts["file"], "begin": piece["begin"], "size": piece["size"]})
        if self.tokenizer is not None:
            shutil.copyfile(self.tokenizer, part / TOKENIZER)
            _sync(part / TOKENIZER)
            size, digest = file_digest(part / TOKENIZER)
            record["files"][TOKENIZER] = {"bytes": size, "sha256": digest}
        replace_file(part / RECORD, to_json({**record, "record_sha256": _seal(record)}))
        target = folder_of(self.run, step)
        if target.exists():  # of the same step, damaged or trained again
            target.rename(part.with_name(f".part-{self.token}-old-{step:08d}"))
        part.rename(target)
        sync_folder(target.parent)
        with contextlib.suppress(OSError):
            _remove(part.with_name(f".part-{self.token}-old-{step:08d}"))

    def _all_ranks(self, part: Path) -> Iterator[dict[str, Any]]:
        """Facts of every rank's file, as they come; no collective, which a thread could not call safely."""
        deadline = time.monotonic() + PATIENCE
        for rank in range(self.world.size):
            path = part / f"rank-{rank:05d}.safetensors.json"
            while not path.exists():
                if time.monotonic() > deadline:
                    raise StoreError(f"{path}: rank {rank} has not written its part in {PATIENCE:.0f} s")
                time.sleep(0.05)
            yield json.loads(path.read_bytes())
            path.unlink()

    def _drop_older(self, step: int) -> None:
        """Keep the last ones. The one just written has been compared byte by byte, so a good one is always left."""
        for old in [s for s in steps(self.run) if s < step][: -(self.keep - 1) or None]:
            gone = self.run / "checkpoints" / f".part-{self.token}-gone-{old:08d}"
            folder_of(self.run, old).rename(gone)  # at once, so that no half of one is ever seen
            _remove(gone)


def set_aside(run: Path, step: int, token: str) -> list[str]:
    """Rename the checkpoints after a step, so that a run goes on from it and not from them; returns the new names.

    The newest first: whatever is left when the process dies is what a run without them has.
    """
    names = []
    with disk_errors(run):
        for later in reversed([s for s in steps(run) if s > step]):
            names.append(f"aside-{later:08d}-{token}")
            folder_of(run, later).rename(run / "checkpoints" / names[-1])
        if names:
            sync_folder(run / "checkpoints")
    return names[::-1]


def _remove(path: Path) -> None:
    """A folder with all in it; of a link or a file, itself."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def readable(path: Path) -> None:
    """Give a file the rights of its folder: safetensors writes for its owner alone, whatever the umask says."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compare(path: Path, copies: Mapping[str, Tensor]) -> None:
    """StoreError where the file does not hold the same bytes."""
    with safe_open(path, "pt") as file:
        for key, tensor in copies.items():
            read = file.get_tensor(key)
            if not torch.equal(read.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)):
                raise StoreError(f"{path}: {key} reads back other bytes than were written")
