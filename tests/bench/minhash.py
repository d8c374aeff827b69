"""MinHash signatures beside datasketch and rensa; verified pairs, links and clusters beside what Python has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.bench.stages import Timed, documents, stage, text_mb

SIGNATURES = "MinHash signatures, 128 permutations, words, n = 5"
GIVEN = "MinHash signatures, 128 permutations, shingles given"
SKETCHES = "sketches of datasketch, 128 permutations, words, n = 5"
PAIRS = "exact Jaccard of pairs, n = 5"
LINKS = "links of equal band keys, 4 M keys of 8 bytes"
CLUSTERS = "clusters of 4 M edges of 16 bytes"
PEERS, DATASKETCH, UPDATE = 1500, 400, 60  # pages that the slow ones get


def pages(wet: Path, count: int | None = None) -> pa.Table:
    return documents(wet) if count is None else documents(wet).slice(0, count).combine_chunks()


def mb(table: pa.Table) -> float:
    """MB of UTF-8 text, also of a slice."""
    import pyarrow.compute as pc

    return pc.sum(pc.binary_length(table["text"])).as_py() / 1e6


def given(wet: Path, count: int) -> tuple[float, list[list[str]]]:
    """The shingles of our kernel as Python strings: what they are is the same for all."""
    from curate.dedup.signatures import shingle_texts

    table = pages(wet, count)
    return mb(table), [shingle_texts(text, "word", 5) for text in table["text"].to_pylist()]


def shingled(text: str) -> list[str]:
    """What users of a Python library write."""
    import re

    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))]


@stage(SIGNATURES, "ours")
def _(wet: Path) -> Timed:
    from curate.dedup.signatures import signatures

    table = pages(wet)
    return text_mb(table), lambda: signatures(table["text"])


@stage(SIGNATURES, "rensa, RMinHash, shingles in Python", "rensa")
def _(wet: Path) -> Timed:
    from rensa import RMinHash

    table = pages(wet, PEERS)
    texts = table["text"].to_pylist()
    return mb(table), lambda: RMinHash.digest_matrix_from_token_sets([shingled(t) for t in texts], 128, 1)


@stage(SIGNATURES, "datasketch, update_batch, shingles in Python", "datasketch")
def _(wet: Path) -> Timed:
    from datasketch import MinHash

    table = pages(wet, DATASKETCH)
    texts = table["text"].to_pylist()
    return mb(table), lambda: MinHash.bulk([[s.encode() for s in shingled(t)] for t in texts], num_perm=128)


@stage(SIGNATURES, "datasketch, update, shingles in Python", "datasketch")
def _(wet: Path) -> Timed:
    from datasketch import MinHash

    table = pages(wet, UPDATE)
    texts = table["text"].to_pylist()

    def run() -> None:
        for text in texts:
            sketch = MinHash(num_perm=128)
            for shingle in shingled(text):
                sketch.update(shingle.encode())

    return mb(table), run


@stage(GIVEN, "ours, from text")
def _(wet: Path) -> Timed:
    from curate.dedup.signatures import signatures

    table = pages(wet)
    return text_mb(table), lambda: signatures(table["text"])


@stage(GIVEN, "rensa, RMinHash, strings", "rensa")
def _(wet: Path) -> Timed:
    from rensa import RMinHash

    size, tokens = given(wet, PEERS)
    return size, lambda: RMinHash.digest_matrix_from_token_sets(tokens, 128, 1)


@stage(GIVEN, "rensa, RMinHash, our 64-bit shingle hashes", "rensa")
def _(wet: Path) -> Timed:
    from rensa import RMinHash

    from curate.kernels.minhash import shingles

    table = pages(wet)
    hashes, offsets = shingles(table["text"])
    rows = offsets.astype(np.uint64)
    return text_mb(table), lambda: RMinHash.digest_matrix_from_flat_token_hashes(hashes, rows, 128, 1)


@stage(GIVEN, "datasketch, update_batch, UTF-8 strings", "datasketch")
def _(wet: Path) -> Timed:
    from datasketch import MinHash

    size, tokens = given(wet, DATASKETCH)
    encoded = [[s.encode() for s in row] for row in tokens]
    return size, lambda: MinHash.bulk(encoded, num_perm=128)


@stage(SKETCHES, "ours, value by value the same")
def _(wet: Path) -> Timed:
    from curate.dedup.signatures import datasketch_signatures

    table = pages(wet)
    return text_mb(table), lambda: datasketch_signatures(table["text"])


@stage(SKETCHES, "datasketch, update_batch, shingles given", "datasketch")
def _(wet: Path) -> Timed:
    from datasketch import MinHash

    size, tokens = given(wet, DATASKETCH)
    encoded = [[s.encode() for s in row] for row in tokens]
    return size, lambda: MinHash.bulk(encoded, num_perm=128)


@stage("MinHash signatures, 128 permutations, characters, n = 5", "ours")
def _(wet: Path) -> Timed:
    from curate.dedup.signatures import signatures

    table = pages(wet)
    return text_mb(table), lambda: signatures(table["text"], unit="character")


def random_pairs(rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    return draw.integers(0, rows, count), draw.integers(0, rows, count)


@stage(PAIRS, "ours, shingles made and 20 pairs a page")
def _(wet: Path) -> Timed:
    from curate.kernels.minhash import distinct, pair_similarity, shingles

    table = pages(wet)
    left, right = random_pairs(table.num_rows, 20 * table.num_rows)
    return text_mb(table), lambda: pair_similarity(*distinct(*shingles(table["text"])), left, right)


@stage(PAIRS, "Python sets, 20 pairs a page")
def _(wet: Path) -> Timed:
    table = pages(wet, PEERS)
    texts = table["text"].to_pylist()
    left, right = (side.tolist() for side in random_pairs(len(texts), 20 * len(texts)))

    def run() -> list[float]:
        sets = [set(shingled(t)) for t in texts]
        return [len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) for i, j in zip(left, right, strict=True)]

    return mb(table), run


def band(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys of one partition, of which 30 % are copies of another, and their documents."""
    draw = np.random.default_rng(1)
    keys = draw.integers(0, 1 << 58, count, dtype=np.uint64)
    copies = np.flatnonzero(draw.random(count) < 0.3)
    keys[copies] = keys[draw.integers(0, count, len(copies))]
    return keys, draw.integers(0, 1 << 40, count)


@stage(LINKS, "ours")
def _(wet: Path) -> Timed:
    from curate.kernels.clusters import links_of_partition

    keys, docs = band(4_000_000)
    return keys.nbytes / 1e6, lambda: links_of_partition(keys, docs)


@stage(LINKS, "numpy, stable argsort and runs")
def _(wet: Path) -> Timed:
    keys, docs = band(4_000_000)

    def run() -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(keys, kind="stable")
        named, starts = docs[order], np.flatnonzero(np.diff(keys[order], prepend=~keys[order[0]]))
        sizes = np.diff(np.append(starts, len(keys)))
        first = np.repeat(np.minimum.reduceat(named, starts), sizes)
        return first[first != named], named[first != named]

    return keys.nbytes / 1e6, run


@stage(LINKS, "a Python dictionary")
def _(wet: Path) -> Timed:
    keys, docs = (side[:400_000].tolist() for side in band(4_000_000))

    def run() -> list[tuple[int, int]]:
        buckets: dict[int, list[int]] = {}
        for key, doc in zip(keys, docs, strict=True):
            buckets.setdefault(key, []).append(doc)
        return [(min(b), doc) for b in buckets.values() if len(b) > 1 for doc in b]

    return 8 * len(keys) / 1e6, run


def edges(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Among as many ids as edges, below 2^40."""
    draw = np.random.default_rng(1)
    names = draw.integers(0, 1 << 40, count)
    return names[draw.integers(0, count, count)], names[draw.integers(0, count, count)]


@stage(CLUSTERS, "ours")
def _(wet: Path) -> Timed:
    from curate.kernels.clusters import components

    a, b = edges(4_000_000)
    return 2 * a.nbytes / 1e6, lambda: components(a, b)


@stage(CLUSTERS, "scipy, connected_components after np.unique", "scipy")
def _(wet: Path) -> Timed:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = edges(4_000_000)

    def run() -> tuple[int, np.ndarray]:
        names, places = np.unique(np.concatenate((a, b)), return_inverse=True)
        n, ones = len(names), np.ones(len(a), np.int8)
        return connected_components(coo_matrix((ones, (places[: len(a)], places[len(a) :])), (n, n)), directed=False)

    return 2 * a.nbytes / 1e6, run
