"""Documents as JSON lines or Parquet, for tools that do not read Arrow files (`curate export jsonl|parquet DIR OUT`).

    OUT/<source>/<unit>.jsonl        a document a line, all columns; dates as ISO 8601, `meta` as the text that it is
    OUT/<source>/<unit>.parquet      the same columns and types, zstd

A file has its name when it is whole. One batch of documents is in memory at a time.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RecipeError, StoreError, near
from curate.store import Commit, Corpus, disk_errors, sync_folder, tables

KINDS = ("jsonl", "parquet")


def export(
    corpus: Corpus | Path,
    out: Path | str,
    kind: str = "jsonl",
    sources: Sequence[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, int]]:
    """Write the kept documents of a corpus; {source: {files, documents, bytes}}. Files of the same names are replaced.

    `sources`: all where none is named. RecipeError: no corpus, no such kind or source, OUT inside the corpus.
    StoreError: a file that is not as committed in number of documents, or the disk.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(Path(corpus))
    known, out = corpus.sources(), Path(out)
    if kind not in KINDS:
        raise RecipeError(f"no kind {kind!r} of export{near(kind, KINDS)}")
    if not (corpus.root / "corpus.json").is_file() or not known:
        raise RecipeError(f"{corpus.root}: not a corpus (no commits there)")
    for source in sources:
        if source not in known:
            raise RecipeError(f"{corpus.root}: has no source {source!r}{near(source, known)}")
    if out.absolute().resolve().is_relative_to(corpus.root.absolute().resolve()):
        raise RecipeError(f"{out}: lies inside the corpus; give another folder")
    counts = {}
    for source in sources or known:
        counts[source] = {"files": 0, "documents": 0, "bytes": 0}
        for commit in corpus.commits(source):
            path = out / source / f"{commit.unit}.{kind}"
            counts[source]["documents"] += _write(commit, path, kind)
            counts[source]["files"] += 1
            counts[source]["bytes"] += path.stat().st_size
        note(f"{source}: {counts[source]['documents']:,} documents in {counts[source]['files']:,} files")
    return counts


def _write(commit: Commit, path: Path, kind: str) -> int:
    with _whole(path) as file:
        rows = (_write_jsonl if kind == "jsonl" else _write_parquet)(commit, file)
        if rows != commit.record["counts"]["kept"]:
            raise StoreError(f"{commit.path('documents')}: {rows} documents, its commit says otherwise")
    return rows


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when all of it is written and synced."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def _write_jsonl(commit: Commit, file: BinaryIO) -> int:
    rows, encoder = 0, json.JSONEncoder(ensure_ascii=False, default=_iso, separators=(",", ":"), allow_nan=False)
    for table in tables(commit, "documents"):
        for row in table.to_pylist():
            file.write(encoder.encode({k: _finite(v) for k, v in row.items()}).encode() + b"\n")
        rows += table.num_rows
    return rows


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _iso(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _write_parquet(commit: Commit, file: BinaryIO) -> int:
    rows = 0
    with commit.open("documents") as reader, pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for i in range(reader.num_record_batches):
            table = pa.Table.from_batches([reader.get_batch(i)])
            writer.write_table(table)
            rows += table.num_rows
    return rows
