"""Duplicates end to end: from the text of pages in memory to what is kept, at equal settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.bench.stages import Timed, documents, files, read, stage, text_mb

PAGES, THRESHOLD, PERMUTATIONS = 20_000, 0.8, 128


def pages(wet: Path) -> pa.Table:
    """The first pages of the set."""
    return pa.concat_tables([read(f) for f in files(wet)]).slice(0, PAGES).combine_chunks()


@stage("near duplicates, kept set", "ours")
def _(wet: Path) -> Timed:
    from curate.dedup.matching import find
    from curate.dedup.near import near

    table, barrier = pages(wet), near(threshold=THRESHOLD, permutations=PERMUTATIONS, verify=False)
    return text_mb(table), lambda: find(barrier, [table])


@stage("near duplicates, kept set", "ours, pairs verified")
def _(wet: Path) -> Timed:
    from curate.dedup.matching import find
    from curate.dedup.near import near

    table, barrier = pages(wet), near(threshold=THRESHOLD, permutations=PERMUTATIONS)
    return text_mb(table), lambda: find(barrier, [table])


def _shingles(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


@stage("near duplicates, kept set", "rensa, Python shingles", "rensa")
def _(wet: Path) -> Timed:
    from rensa import RMinHash, RMinHashLSH

    from curate.dedup.bands import choose

    table = pages(wet)
    texts, bands = table["text"].to_pylist(), choose(THRESHOLD, PERMUTATIONS).bands

    def work() -> set[int]:
        index = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=_divisor(bands))
        kept: set[int] = set()
        for i, text in enumerate(texts):
            minhash = RMinHash(num_perm=PERMUTATIONS, seed=1)
            minhash.update(list(_shingles(text)))
            if not index.query(minhash):
                kept.add(i)
            index.insert(i, minhash)
        return kept

    return text_mb(table), work


def _divisor(bands: int) -> int:
    """The number of bands nearest to ours that rensa takes: one that divides the permutations."""
    return min((d for d in range(1, PERMUTATIONS + 1) if PERMUTATIONS % d == 0), key=lambda d: abs(d - bands))


@stage("near duplicates, kept set", "datasketch, Python shingles", "datasketch")
def _(wet: Path) -> Timed:
    from datasketch import MinHash, MinHashLSH

    from curate.dedup.bands import choose

    table, bands = pages(wet), choose(THRESHOLD, PERMUTATIONS)
    texts = table["text"].to_pylist()

    def work() -> set[int]:
        index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands.bands, bands.rows))
        kept: set[int] = set()
        for i, text in enumerate(texts):
            minhash = MinHash(num_perm=PERMUTATIONS, seed=1)
            minhash.update_batch([s.encode() for s in _shingles(text)])
            if not index.query(minhash):
                kept.add(i)
            index.insert(i, minhash)
        return kept

    return text_mb(table), work


@stage("exact duplicates, kept set", "ours")
def _(wet: Path) -> Timed:
    from curate.dedup.exact import exact
    from curate.dedup.matching import find

    table = documents(wet)
    return text_mb(table), lambda: find(exact(), [table])


@stage("exact duplicates, kept set", "a Python set of SHA-1")
def _(wet: Path) -> Timed:
    import hashlib

    table = documents(wet)
    texts = table["text"].to_pylist()

    def work() -> set[bytes]:
        return {hashlib.sha1(text.encode(), usedforsecurity=False).digest() for text in texts}

    return text_mb(table), work


@stage("URL duplicates, kept set", "ours")
def _(wet: Path) -> Timed:
    from curate.dedup.exact import url
    from curate.dedup.matching import find

    table = documents(wet)
    return text_mb(table), lambda: find(url(), [table])


@stage("links of equal keys", "ours, 8 M keys (MB of keys and documents)")
def _(wet: Path) -> Timed:
    from curate.kernels.clusters import links_of_partition

    rng = np.random.default_rng(1)
    keys, made = rng.integers(0, 1 << 62, 8_000_000).astype(np.uint64), np.arange(8_000_000)
    keys[::5] = keys[1::5]
    return keys.nbytes * 2 / 1e6, lambda: links_of_partition(keys, made)
