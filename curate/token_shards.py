"""From committed documents to committed token shards (`curate tokenize`).

    OUT/tokens/<source>/<unit>.arrow          doc_id, tokens: list<uint16>, text_hash: uint64; uncompressed, so that it
                                              can be mapped
    OUT/tokens/<source>/commits/<unit>.json   digests of the documents and of the tokenizer, counts

A shard has the documents of a unit in their order, without BOS and EOS: those are the plan's. `text_hash` is XXH3-64 of
the text's UTF-8 bytes: the plan holds documents out by it, so that copies of a text are on one side wherever they lie.
A unit whose documents or whose tokenizer have changed is done again, as its next generation.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.engine import Asked, execute, kernels_of, note_metrics, stopping, warm_kernels
from curate.errors import RecipeError, StoreError, near
from curate.exchange import Settings
from curate.kernels.arrow import buffers
from curate.progress import Progress
from curate.recipe import code_digest, digest
from curate.store import SHARD, Attempt, Commit, Corpus, Folder, gc_folder, locked, tables
from curate.worker import Result, measured, text_bytes
from tokenizer.encode import Encoder, check

CHECKED = 3  # documents of each batch whose ids are compared with SentencePiece's (at 6 MB/s)


@dataclass(frozen=True)
class TokenTask:
    """One unit to encode."""

    source: str
    unit: str
    fingerprint: str

    @property
    def index(self) -> str:
        """What it is called where it fails."""
        return f"{self.source} {self.unit}"


@dataclass(frozen=True)
class TokenJob:
    """What all tasks share. Sent to every worker once."""

    out: str
    encoder: Encoder
    requests: Settings | None = None

    def run(self, task: TokenTask) -> Result:
        """Encode one unit and commit its shard."""
        return measured(self.out, self.requests, lambda: self._encode(task))

    def _encode(self, task: TokenTask) -> Result:
        corpus = Corpus(Path(self.out))
        commit = corpus.final(task.source).latest(task.unit)
        if commit is None:
            raise StoreError(f"{task.source}: unit {task.unit} is gone")
        return Result(task, encode_unit(corpus.tokens(task.source), commit, self.encoder, task.fingerprint))


def encode_unit(folder: Folder, commit: Commit, encoder: Encoder, fingerprint: str) -> dict[str, Any]:
    """Commit the token shard of one unit of documents; its counts. StageError where ids are not SentencePiece's."""
    schema = shard_schema(encoder.type)
    counts = {"documents": 0, "tokens": 0, "bytes": 0}
    with Attempt(folder, commit.unit) as attempt:
        shard = attempt.arrow(SHARD, schema, None)
        for table in tables(commit, "documents"):
            ids = encoder.encode(table["text"])
            check(encoder, table["text"], CHECKED)
            columns = [table["doc_id"], ids.cast(schema.field("tokens").type), text_hashes(table["text"])]
            shard.write(pa.table(columns, schema=schema))
            counts["documents"] += table.num_rows
            counts["tokens"] += len(ids.values)
            counts["bytes"] += text_bytes(table)
        if counts["documents"] != commit.record["counts"]["kept"]:
            raise StoreError(f"{commit.path('documents')}: {counts['documents']} documents, its commit says otherwise")
        record = {
            "name": commit.record["name"],
            "fingerprint": fingerprint,
            "tokenizer": encoder.sha256,
            "documents_sha256": commit.record["files"]["documents"]["sha256"],
            "counts": counts,
        }
        return dict(attempt.commit(record).record["counts"])


def shard_schema(ids: pa.DataType) -> pa.Schema:
    """Columns of a shard with ids of this type. Readers take them by their order."""
    return pa.schema([pa.field("doc_id", pa.string(), nullable=False), ("tokens", pa.list_(ids)),
                      pa.field("text_hash", pa.uint64(), nullable=False)])  # fmt: skip


def text_hashes(column: pa.Array | pa.ChunkedArray) -> pa.UInt64Array:
    """XXH3-64 of the UTF-8 bytes of each text of a string column (null: of the empty text)."""
    data, offsets = buffers(column)
    view, hashed = memoryview(data.data), xxhash.xxh3_64_intdigest
    hashes = (hashed(view[begin:end]) for begin, end in pairwise(offsets.tolist()))
    return pa.array(np.fromiter(hashes, np.uint64, len(offsets) - 1))


@functools.cache
def _code() -> str:
    return code_digest("tokenizer.encode")


def fingerprint_of(commit: Commit, encoder: Encoder) -> str:
    """What shapes a shard: the documents, the tokenizer, the columns, the code that encodes."""
    columns = [f"{field.name}: {field.type}" for field in shard_schema(encoder.type)]
    return digest([commit.record["files"]["documents"]["sha256"], encoder.sha256, columns, "xxh3_64", _code()])


@dataclass
class TokenSchedule:
    """Hands out units; all can run at once."""

    tasks: list[TokenTask]
    note: Callable[[str], None]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    shown: float = 0.0

    def __post_init__(self) -> None:
        self._ready, self.total, self.done = self.tasks[::-1], len(self.tasks), 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def pop(self) -> TokenTask | None:
        """The next unit."""
        return self._ready.pop() if self._ready else None

    def finished(self, result: Result) -> None:
        """Take a result and say now and then how far it is."""
        self.done += 1
        if time.monotonic() - self.shown > 5 or self.done == self.total:
            self.shown = time.monotonic()
            self.note(f"tokenize: {self.done:,} of {self.total:,} files")


@dataclass(frozen=True)
class Tokenized:
    """What `tokenize` did: documents, tokens and bytes by source."""

    sources: dict[str, dict[str, int]]
    done: int
    reused: int
    seconds: float
    core_seconds: float
    encoded_bytes: int  # of text, in this run


def tokenize(
    out: str | Path,
    model: str | Path | None = None,
    *,
    sources: Sequence[str] = (),
    workers: int | None = None,
    address: str | None = None,
    engine: str = "ray",
    progress: Progress | None = None,
) -> Tokenized:
    """Encode all documents of a corpus with a SentencePiece model (default: OUT/models/tokenizer/tokenizer.model).

    RecipeError: no corpus, no such source, no model. Running it again encodes what has changed alone.
    """
    corpus, started = Corpus(Path(out).absolute()), time.monotonic()
    wanted = chosen_sources(corpus, sources)
    path = Path(model).absolute() if model else corpus.root / "models" / "tokenizer" / "tokenizer.model"
    if not path.is_file():
        raise RecipeError(f"{path}: there is no tokenizer; `curate tokenizer train {out}` makes one")
    note, name = (progress or Progress.silent()).note, time.strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    with locked(corpus.root, name), stopping():
        kernels = kernels_of(["curate.token_shards"])
        warm_kernels(kernels, progress)
        job = TokenJob(str(corpus.root), Encoder(path))
        if job.encoder.reason:
            note(f"{path}: {job.encoder.reason}; encoded by the library, slowly")
        tasks = list(_stale(corpus, wanted, job.encoder))
        schedule = TokenSchedule(tasks, note)
        seconds, encoded, peak = 0.0, 0, 0
        for result in execute(Asked(corpus, name, engine, workers, address), job, schedule, kernels):
            schedule.finished(result)
            seconds, encoded = seconds + result.seconds, encoded + result.counts["bytes"]
            peak = max(peak, result.rss)
        note_metrics(corpus, name, {"source": "tokens", "core_seconds": round(seconds, 3), "peak_rss": peak})
        counts = {source: _settled(corpus, source) for source in wanted}
    reused = sum(1 for s in wanted for _ in corpus.commits(s)) - len(tasks)
    return Tokenized(counts, len(tasks), reused, time.monotonic() - started, seconds, encoded)


def chosen_sources(corpus: Corpus, sources: Sequence[str]) -> list[str]:
    """The sources to work on, all where none is named; RecipeError for one that is not there."""
    known = corpus.sources()
    if not (corpus.root / "corpus.json").is_file() or not known:
        raise RecipeError(f"{corpus.root}: not a corpus (no commits there)")
    for source in sources:
        if source not in known:
            raise RecipeError(f"{corpus.root}: has no source {source!r}{near(source, known)}")
    return list(sources) or known


def _stale(corpus: Corpus, sources: Sequence[str], encoder: Encoder) -> Iterator[TokenTask]:
    """Units without a shard of their present documents and of this tokenizer."""
    for source in sources:
        folder = corpus.tokens(source)
        for commit in corpus.commits(source):
            wanted, made = fingerprint_of(commit, encoder), folder.latest(commit.unit)
            if made is None or made.fingerprint != wanted or made.problems(deep=False):
                yield TokenTask(source, commit.unit, wanted)


def _settled(corpus: Corpus, source: str) -> dict[str, int]:
    """Remove superseded shards, and those of units that are gone; what is there in all."""
    folder, units = corpus.tokens(source), {c.unit for c in corpus.commits(source)}
    gc_folder(folder, (SHARD, "commits"), units)
    found = [folder.commit(unit, g).record["counts"] for unit, g in sorted(folder.generations().items())]
    return {k: sum(int(c[k]) for c in found) for k in ("documents", "tokens", "bytes")}


def text(done: Tokenized) -> str:
    """What was made, for people."""
    lines = [f"{'source':<16}{'documents':>14}{'tokens':>18}{'bytes/token':>13}"]
    for source, c in done.sources.items():
        lines.append(f"{source:<16}{c['documents']:>14,}{c['tokens']:>18,}{c['bytes'] / max(c['tokens'], 1):>13.2f}")
    speed = f", {done.encoded_bytes / 1e6 / done.core_seconds:,.1f} MB/s per core" if done.core_seconds else ""
    lines.append(f"  {done.done} files encoded, {done.reused} reused, in {done.seconds:.1f} s{speed}")
    return "\n".join(lines)


def verify_tokens(corpus: Corpus, source: str) -> Iterator[str]:
    """What is wrong with the token shards of a source: digests, counts, documents that are not those committed."""
    folder = corpus.tokens(source)
    documents = {c.unit: c for c in corpus.commits(source)}
    for unit, generation in sorted(folder.generations().items()):
        made = folder.commit(unit, generation)
        problems = made.problems()
        yield from problems
        of = documents.get(unit)
        if of is None or of.record["files"]["documents"]["sha256"] != made.record["documents_sha256"]:
            yield f"{folder.commit_path(unit, generation)}: made of other documents; run curate tokenize again"
        elif not problems:
            yield from _content_problems(made, of)


def _content_problems(made: Commit, of: Commit) -> Iterator[str]:
    """What is wrong inside a shard whose digest is right: columns, documents, hashes, the count of tokens."""
    if made.open(SHARD).schema not in (shard_schema(pa.uint16()), shard_schema(pa.uint32())):
        yield f"{made.path(SHARD)}: its columns are not those of a token shard; run curate tokenize again"
        return
    rows, ids, hashes = list(tables(made, SHARD)), [], []
    for table in tables(of, "documents"):
        ids += table["doc_id"].to_pylist()
        hashes.append(text_hashes(table["text"]))
    tokens = sum(int(pc.sum(pc.list_value_length(t["tokens"])).as_py() or 0) for t in rows)
    if [x for t in rows for x in t["doc_id"].to_pylist()] != ids or tokens != made.record["counts"]["tokens"]:
        yield f"{made.path(SHARD)}: its documents or tokens are not those that its commit counts"
    elif not pa.chunked_array([c for t in rows for c in t["text_hash"].chunks], pa.uint64()).equals(
        pa.chunked_array(hashes, pa.uint64())
    ):
        yield f"{made.path(SHARD)}: its hashes are not those of the texts; run curate tokenize again"
