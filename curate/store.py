"""What is on disk, and what "done" means.

    OUT/corpus.json                        fingerprints, versions, frozen groups
    OUT/<source>/documents/<unit>.arrow    kept
    OUT/<source>/dropped/<unit>.arrow      every record dropped, with stage, reason and value
    OUT/<source>/commits/<unit>.json       name, size and digest of each file, counts, fingerprint; no time in it
    OUT/<source>/spool/                    while a run is under way

A unit is done when its commit record exists, and not before. An attempt writes into a folder of its own, syncs, links
each finished file to its final name if that name is free, and last links the commit record, again only if absent: of
two attempts at one unit the first to commit wins and the other one's files are removed. Readers follow commit records,
never a glob. A later generation of a unit (`<unit>.g2.arrow`, `<unit>.g2.json`) supersedes the earlier one; `gc`
removes what is superseded. Nothing in the final folders is ever opened for writing.

This module alone changes files below OUT. Hard links are the create-if-absent primitive: a file system without them is
refused at the start (`probe`).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from curate.errors import CurateError, StoreError

SHARD = ""  # kind of a token shard: it lies in the root of its folder
FINAL = ("documents", "dropped")  # kinds of file that a committed unit has
_UNIT_FILE = re.compile(r"^(?P<unit>[0-9a-f]{12})(?:\.g(?P<generation>\d+))?\.(?P<ending>arrow|json)$")


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn what the disk answers into one line that names the path and the space."""
    try:
        yield
    except OSError as error:
        raise StoreError(_disk_message(path, error)) from error


def _disk_message(path: Path | str, error: OSError) -> str:
    shown = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        folder = Path(path)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        return f"{path}: {shown} ({free / 1e6:,.1f} MB free there); make room and run the same command again"
    return f"{path}: {shown}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Results of calls that wait for the disk, made at the same time: syncs share what the disk does for one."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(1, len(calls))]
    for thread in threads:
        thread.start()
    if calls:
        make(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def link_if_absent(source: Path, target: Path) -> bool:
    """Give a finished file its final name; False if that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def replace_file(target: Path, data: bytes) -> None:
    """Write a whole file under a name that may exist, atomically and durably (corpus.json, reports)."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with open(part, "xb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target.parent)


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces to choose, a newline at the end."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def read_json(path: Path) -> Any:
    """A JSON file of ours; a damaged one is a StoreError that names it."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: damaged, not JSON ({error}); remove it and run the same command again") from error


def file_digest(path: Path) -> tuple[int, str]:
    """(bytes, sha256) of a file, read in pieces; of a folder, over the names and contents of its files in order."""
    if path.is_dir():
        return _folder_digest(path)
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _folder_digest(folder: Path) -> tuple[int, str]:
    """Links and what is no regular file count by their names alone."""
    digest, total = hashlib.sha256(), 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            is_file = stat.S_ISREG(os.lstat(path).st_mode)
            size, content = file_digest(Path(path)) if is_file else (0, "")
            digest.update(f"{os.path.relpath(path, folder)}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
            total += size
    return total, digest.hexdigest()


class _Digesting:
    """A file object for Arrow's writers that digests what passes through."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.digest, self.size, self.closed = raw, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.raw.write(view)
        self.digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        self.raw.flush()

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class ArrowFile:
    """An Arrow IPC file being written in an attempt's folder."""

    def __init__(self, path: Path, schema: pa.Schema, compression: str | None = "zstd") -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self._raw = open(path, "xb", buffering=0)
        self._sink = _Digesting(self._raw)
        codec = pa.Codec("zstd", compression_level=1) if compression == "zstd" else compression
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, mode="w"), schema, options=options)

    def write(self, table: pa.Table) -> None:
        """Append a table in the file's schema."""
        if table.num_rows:
            self.rows += table.num_rows
            self._writer.write_table(table.combine_chunks())

    def finish(self) -> dict[str, Any]:
        """Close, sync, and describe the file."""
        self._writer.close()
        os.fsync(self._raw.fileno())
        self._raw.close()
        return {"bytes": self._sink.size, "sha256": self._sink.digest.hexdigest(), "rows": self.rows}

    def abandon(self) -> None:
        """Close without finishing."""
        self._raw.close()


class RawFile:
    """A plain binary file being written in an attempt's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = open(path, "xb", buffering=0)
        self._sink = _Digesting(self._raw)

    def write(self, data: Any) -> None:
        """Append bytes, or anything with a buffer."""
        self._sink.write(data)

    def finish(self) -> dict[str, Any]:
        """Close, sync, and describe the file."""
        os.fsync(self._raw.fileno())
        self._raw.close()
        return {"bytes": self._sink.size, "sha256": self._sink.digest.hexdigest()}

    def abandon(self) -> None:
        """Close without finishing."""
        self._raw.close()


@dataclass(frozen=True)
class Folder:
    """Where units of one kind are committed: `files` by kind, and `commits`."""

    root: Path
    attempts: Path

    def file(self, kind: str, unit: str, generation: int, ending: str = "arrow") -> Path:
        """Final name of one file of a unit."""
        return self.root / kind / (f"{unit}.{ending}" if generation == 1 else f"{unit}.g{generation}.{ending}")

    def commit_path(self, unit: str, generation: int) -> Path:
        """Final name of the commit record."""
        return self.file("commits", unit, generation, "json")

    def generations(self) -> dict[str, int]:
        """Units with a commit record, and the latest generation of each."""
        found: dict[str, int] = {}
        with suppress(FileNotFoundError):
            for name in os.listdir(self.root / "commits"):
                if m := _UNIT_FILE.match(name):
                    unit, generation = m["unit"], int(m["generation"] or 1)
                    found[unit] = max(generation, found.get(unit, 0))
        return found

    def latest(self, unit: str) -> Commit | None:
        """The commit record in force for a unit, None where it is not done."""
        generation = 1
        if not self.commit_path(unit, 1).exists():
            generation = self.generations().get(unit, 0)
            if not generation:
                return None
        while self.commit_path(unit, generation + 1).exists():
            generation += 1
        return self.commit(unit, generation)

    def commit(self, unit: str, generation: int) -> Commit:
        """Read one commit record."""
        record = read_json(self.commit_path(unit, generation))
        if not isinstance(record, dict) or record.get("unit") != unit or not isinstance(record.get("files"), dict):
            raise StoreError(f"{self.commit_path(unit, generation)}: not a commit record of unit {unit}")
        if record.pop("record_sha256", None) != hashlib.sha256(to_json(record)).hexdigest():
            path = self.commit_path(unit, generation)
            raise StoreError(f"{path}: damaged, its own digest is another; remove it and run the same command again")
        return Commit(self, unit, generation, record)


@dataclass(frozen=True)
class Commit:
    """A unit that is done."""

    folder: Folder
    unit: str
    generation: int
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """What the unit was made from."""
        return str(self.record["fingerprint"])

    @property
    def passes(self) -> list[str]:
        """Later passes that the unit has been through."""
        return list(self.record.get("passes", []))

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether this is a commit of the same content as `record` describes."""
        return self.fingerprint == record["fingerprint"] and self.passes == list(record.get("passes", []))

    def path(self, kind: str) -> Path:
        """Where a file of the unit lies."""
        return self.folder.root / kind / str(self.record["files"][kind]["name"])

    def open(self, kind: str) -> pa.ipc.RecordBatchFileReader:
        """An Arrow file of the unit, read in pieces, not mapped (mapped pages would count as memory)."""
        path = self.path(kind)
        try:
            return pa.ipc.open_file(pa.OSFile(str(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{path}: {error}") from error

    def problems(self, deep: bool = True) -> list[str]:
        """What is wrong with the files that the record names; nothing is trusted."""
        return [p for kind in self.record["files"] for p in self._file_problems(kind, deep)]

    def _file_problems(self, kind: str, deep: bool) -> list[str]:
        described, path = self.record["files"][kind], self.path(kind)
        if not path.is_file():
            return [f"{path}: missing"]
        if path.stat().st_size != described["bytes"]:
            return [f"{path}: {path.stat().st_size} bytes, the commit says {described['bytes']}"]
        if deep and file_digest(path)[1] != described["sha256"]:
            return [f"{path}: its digest is not the committed one"]
        return []


def tables(commit: Commit, kind: str) -> Iterator[pa.Table]:
    """The batches of an Arrow file of a unit, one in memory at a time."""
    reader = commit.open(kind)
    for i in range(reader.num_record_batches):
        yield pa.Table.from_batches([reader.get_batch(i)])


@dataclass
class Attempt:
    """One attempt at one unit. Use as a context manager; without `commit` it leaves nothing behind."""

    folder: Folder
    unit: str
    path: Path = field(init=False)
    files: dict[str, ArrowFile | RawFile] = field(default_factory=dict)

    def __enter__(self) -> Attempt:
        self.path = self.folder.attempts / f"{self.unit}-{secrets.token_hex(6)}"
        with disk_errors(self.path):
            self.path.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self.files.values():
            with suppress(OSError):
                file.abandon()
        shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, CurateError):
            raise StoreError(_disk_message(self.path, error)) from error

    def arrow(self, kind: str, schema: pa.Schema, compression: str | None = "zstd") -> ArrowFile:
        """Begin an Arrow file of this attempt."""
        file = self.files[kind] = ArrowFile(self.path / f"{kind or 'file'}.arrow", schema, compression)
        return file

    def raw(self, kind: str) -> RawFile:
        """Begin a plain file of this attempt."""
        file = self.files[kind] = RawFile(self.path / f"{kind}.raw")
        return file

    def commit(self, record: Mapping[str, Any]) -> Commit:
        """Finish all files and make the unit done; if another attempt was first, its commit is the answer."""
        with disk_errors(self.folder.root):
            facts = at_once([file.finish for file in self.files.values()])
            described = {kind: (file.path, x) for (kind, file), x in zip(self.files.items(), facts, strict=True)}
            before = self.folder.latest(self.unit)
            if before is not None and before.is_of(record) and not before.problems(deep=False):
                return before
            generation = before.generation + 1 if before else 1
            while (files := self._place(described, generation)) is None:
                generation += 1
            sealed = {**record, "unit": self.unit, "generation": generation, "files": files}
            folders = [functools.partial(sync_folder, self.folder.root / kind) for kind in files]
            at_once([functools.partial(self._write_record, sealed), *folders])
            return self._seal(sealed, generation)

    def _place(self, described: dict[str, tuple[Path, dict[str, Any]]], generation: int) -> dict[str, Any] | None:
        """Link each file to its final name; None if a name is taken by other content (left by a dead attempt)."""
        files = {}
        for kind, (path, facts) in described.items():
            target = self.folder.file(kind, self.unit, generation, path.suffix[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            if not link_if_absent(path, target) and file_digest(target)[1] != facts["sha256"]:
                return None
            files[kind] = {"name": target.name, **facts}
        return files

    def _write_record(self, record: dict[str, Any]) -> None:
        record = {**record, "record_sha256": hashlib.sha256(to_json(record)).hexdigest()}
        with open(self.path / "commit.json", "xb") as f:
            f.write(to_json(record))
            f.flush()
            os.fsync(f.fileno())

    def _seal(self, record: dict[str, Any], generation: int) -> Commit:
        """Link the record, which is synced as the folders of its files are: now the unit is done."""
        target = self.folder.commit_path(self.unit, generation)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_if_absent(self.path / "commit.json", target)
        sync_folder(target.parent)
        made = self.folder.commit(self.unit, generation)
        if not made.is_of(record):
            raise StoreError(f"{target}: another run committed this unit with other settings at the same time")
        return made


@dataclass(frozen=True)
class Corpus:
    """The folder that a user names with --out."""

    root: Path

    def final(self, source: str) -> Folder:
        """Where finished units of a source are."""
        return Folder(self.root / source, self.spool(source) / "attempts")

    def spool(self, source: str) -> Path:
        """What is there while a run is under way."""
        return self.root / source / "spool"

    def segment(self, source: str, number: int) -> Folder:
        """Where units of an unfinished run wait between two segments."""
        return Folder(self.spool(source) / f"segment-{number}", self.spool(source) / "attempts")

    def answers(self, source: str, number: int, group: str) -> Folder:
        """Where the answers of a barrier for one group of splits are, a unit a partition."""
        return Folder(self.spool(source) / f"answers-{number}-{group}", self.spool(source) / "attempts")

    def tokens(self, source: str) -> Folder:
        """Where the token shards of a source are, each a file of kind SHARD beside the folder of commits."""
        return Folder(self.root / "tokens" / source, self.root / "runs" / "tokenize")

    @property
    def manifest(self) -> dict[str, Any]:
        """corpus.json; an empty one where the corpus is new."""
        path = self.root / "corpus.json"
        found = read_json(path) if path.exists() else {"format": 1, "sources": {}}
        sources = found.get("sources") if isinstance(found, dict) and found.get("format") == 1 else None
        if not isinstance(sources, dict) or not all(isinstance(entry, dict) for entry in sources.values()):
            raise StoreError(f"{path}: damaged, or not a corpus of this version")
        return found

    def save_manifest(self, manifest: dict[str, Any]) -> None:
        """Write corpus.json; nothing happens where it is the same already."""
        data, path = to_json(manifest), self.root / "corpus.json"
        if not path.exists() or path.read_bytes() != data:
            replace_file(path, data)

    def sources(self) -> list[str]:
        """Sources with a folder of commits."""
        return sorted(p.parent.name for p in self.root.glob("*/commits") if p.is_dir())

    def commits(self, source: str) -> Iterator[Commit]:
        """Commit records in force, by unit name."""
        folder = self.final(source)
        for unit, generation in sorted(folder.generations().items()):
            yield folder.commit(unit, generation)


def probe(root: Path) -> None:
    """Create the folder and prove that the commit primitive works there; refuse a folder of somebody else."""
    with disk_errors(root):
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: is a file, --out needs a folder")
        ours = {"corpus.json", "runs", "models", "report.html"}
        if root.is_dir() and not (root / "corpus.json").exists():  # a run that died early leaves some of ours
            foreign = [p.name for p in root.iterdir() if p.name not in ours and not p.name.startswith(".")]
            if foreign:
                raise StoreError(f"{root}: holds {foreign[0]!r} and no corpus.json; give --out a new or empty folder")
        (root / "runs").mkdir(parents=True, exist_ok=True)
        token = root / "runs" / f".probe-{secrets.token_hex(6)}"
        try:
            token.write_bytes(b"probe")
            if not link_if_absent(token, token.with_suffix(".linked")) or link_if_absent(
                token, token.with_suffix(".linked")
            ):
                raise StoreError(f"{root}: hard links do not behave there")
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise StoreError(f"{root}: this file system has no hard links, which commits need") from error
            raise
        finally:
            token.unlink(missing_ok=True)
            token.with_suffix(".linked").unlink(missing_ok=True)


@contextmanager
def locked(root: Path, run: str) -> Iterator[None]:
    """One run at a time in a corpus. The lock of a dead process is free at once."""
    path = root / ".lock"
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise StoreError(f"{root}: in use by {holder}; wait for it or give another --out") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"run {run} (process {os.getpid()} on {socket.gethostname()})\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def drop_spool(corpus: Corpus, source: str, units: Iterable[str], groups: Iterable[str]) -> None:
    """Remove what the spool holds of units that are done, and the answers of their groups."""
    wanted = set(units)
    for segment in corpus.spool(source).glob("segment-*"):
        for kind in (
            "commits",
            "documents",
            "dropped",
            "keys",
            "facts",
        ):  # the commit first: what is left then is no unit
            for path in sorted((segment / kind).glob("*")):
                if path.name.partition(".")[0] in wanted:
                    path.unlink(missing_ok=True)
    for group in groups:
        for answers in corpus.spool(source).glob(f"answers-*-{group}"):
            shutil.rmtree(answers, ignore_errors=True)


def clean_spool(corpus: Corpus, source: str) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(corpus.spool(source), ignore_errors=True)


def gc(corpus: Corpus, source: str) -> tuple[int, int]:
    """Remove superseded generations and files that no commit names; (files, bytes) removed."""
    folder = corpus.final(source)
    return gc_folder(folder, (*FINAL, "commits"), set(folder.generations()))


def gc_folder(folder: Folder, kinds: Sequence[str], units: set[str]) -> tuple[int, int]:
    """As `gc`, of the files of these kinds; what is of other units than `units` goes, too."""
    latest = {unit: generation for unit, generation in folder.generations().items() if unit in units}
    commits = [folder.commit(unit, generation) for unit, generation in sorted(latest.items())]
    named = {commit.path(kind) for commit in commits for kind in commit.record["files"]}
    files = size = 0
    for kind in kinds:
        for path in sorted((folder.root / kind).glob("*")):
            m = _UNIT_FILE.match(path.name)
            if kind == "commits":
                stays = m is not None and int(m["generation"] or 1) == latest.get(m["unit"])
            else:
                stays = path in named
            if not stays and m is not None:
                files, size = files + 1, size + path.stat().st_size
                path.unlink()
    return files, size
