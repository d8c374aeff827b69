"""Reading batches of a plan, beside the ways in which others read token shards; the "MB" are millions of tokens.

The tokens are random, 10,000,000 of them in documents of 20 to 2,000 (mean about 640), in the page cache.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from model.data import Data, open_data
from model.plan import make_plan
from tests.bench.stages import Timed, stage
from tests.model import MODEL, TOKENS, commit_documents, tokenizer_digest
from tests.tokenizer import trained

LENGTH, BATCH, STEPS, DOCUMENTS = 2048, 64, 60, 15_600
KEPT: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


@functools.cache
def corpus() -> Path:
    """Two units of one source."""
    from curate.schema import unit_name
    from curate.store import Attempt, Corpus

    KEPT.append(tempfile.TemporaryDirectory(prefix="curate-bench-data-"))
    made, random = Corpus(Path(KEPT[0].name)), np.random.default_rng(0)
    for name in ("one", "two"):
        commit_documents(made, "books", name, [""] * (DOCUMENTS // 2), 2000)
        of = made.final("books").latest(unit_name(name))
        assert of is not None
        sizes = np.exp(random.uniform(np.log(20), np.log(2000), DOCUMENTS // 2)).astype(int)
        ids = pa.array(random.integers(3, 32000, int(sizes.sum())).astype(np.uint16))
        offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
        hashes = pa.array(np.random.default_rng(ord(name[0])).integers(0, 2**64, len(sizes), np.uint64))
        table = pa.table(
            [of.open("documents").read_all()["doc_id"], pa.ListArray.from_arrays(offsets, ids), hashes], schema=TOKENS
        )
        with Attempt(made.tokens("books"), unit_name(name)) as attempt:
            attempt.arrow("", TOKENS, None).write(table)
            counts = {"documents": table.num_rows, "tokens": len(ids), "bytes": 0}
            attempt.commit({"name": name, "fingerprint": name, "tokenizer": tokenizer_digest(), "counts": counts,
                            "documents_sha256": of.record["files"]["documents"]["sha256"]})  # fmt: skip
    return made.root


def data(specials: bool = True) -> Data:
    """The plan of all that is timed."""
    plan = make_plan(corpus(), STEPS * BATCH * LENGTH, {"books": 1}, length=LENGTH, batch=BATCH, bos=specials,
                     eos=specials, tokenizer=trained() / MODEL)  # fmt: skip
    return open_data(corpus(), plan)


def _reading(reader: Data, masks: bool = False) -> Timed:
    return STEPS * BATCH * LENGTH / 1e6, lambda: [reader.batch(step, masks=masks) for step in range(STEPS)]


@stage("batches of 64 x 2,049 tokens (M tokens)", "ours, BOS and EOS added")
def _(wet: Path) -> Timed:
    return _reading(data())


@stage("batches of 64 x 2,049 tokens (M tokens)", "ours, with document masks and positions")
def _(wet: Path) -> Timed:
    return _reading(data(), masks=True)


@stage("batches of 64 x 2,049 tokens (M tokens)", "ours, nothing added")
def _(wet: Path) -> Timed:
    return _reading(data(specials=False))


@stage("batches of 64 x 2,049 tokens (M tokens)", "ours, torch tensors from the thread", "torch")
def _(wet: Path) -> Timed:
    from model.data import tensors

    reader = data()
    return STEPS * BATCH * LENGTH / 1e6, lambda: sum(1 for _ in tensors(reader))


@stage("batches of 64 x 2,049 tokens (M tokens)", "datasets, arrow, packed in Python", "datasets")
def _(wet: Path) -> Timed:
    import datasets

    files = sorted(map(str, (corpus() / "tokens" / "books").glob("*.arrow")))
    found = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(corpus() / "cache"))
    n = 1500

    def run() -> int:
        stream: list[int] = []
        for row in found.select(range(n)):
            stream += [1, *row["tokens"], 2]
        return np.array(stream[: len(stream) // 2049 * 2049]).reshape(-1, 2049).size

    return run() / 1e6, run


@stage("batches of 64 x 2,049 tokens (M tokens)", "one flat uint16 memmap, random windows (nanoGPT's way)")
def _(wet: Path) -> Timed:
    path = corpus() / "flat.bin"
    ids = np.random.default_rng(0).integers(3, 32000, 10_000_000).astype(np.uint16)
    ids.tofile(path)

    def run() -> None:
        random = np.random.default_rng(1)
        for _step in range(STEPS):
            flat = np.memmap(path, np.uint16, "r")
            np.stack([flat[i : i + LENGTH + 1].astype(np.int64) for i in random.integers(0, len(flat) - 2049, BATCH)])

    return STEPS * BATCH * LENGTH / 1e6, run
