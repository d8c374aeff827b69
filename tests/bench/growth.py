"""How the cost of duplicates grows: `python -m tests.bench.growth`, band keys of up to 20 M documents.

The keys are made, not read: a tenth of the documents are copies. Timed is what the phases do with them, partition by
partition as they do it: links of equal keys, pairs brought together and reduced to forests, clusters.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from curate.clustering import forest, pair_hashes, reduced
from curate.dedup.matching import Documents, Facts, as_edges, as_pairs, candidates, decide
from curate.dedup.near import near
from curate.kernels.clusters import sorted_edges

SIZES = (1_250_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000)
BARRIER = near()


def band_keys(stamp: np.ndarray, band: int) -> np.ndarray:
    """A well mixed key a document; equal stamps give equal keys."""
    with np.errstate(over="ignore"):
        k = (stamp * np.uint64(0x9E3779B97F4A7C15) + np.uint64(band * 0x1234567)) * np.uint64(0xD6E8FEB86659FD93)
        k = (k ^ (k >> np.uint64(32))) * np.uint64(0xC2B2AE3D27D4EB4F)
        return k ^ (k >> np.uint64(29))


def no_facts(documents: Documents) -> Facts:
    """Documents of equal length without a score."""
    n = len(documents)
    return Facts(np.full(n, np.nan), np.ones(n, np.int64), np.zeros(n, np.uint64))


def measure(n: int) -> tuple[float, int, int]:
    """(CPU seconds, documents removed, partitions) for n documents."""
    bands, partitions = BARRIER.bands[0], 1
    while n * bands / partitions > BARRIER.keys_per_partition:
        partitions *= 2
    rng = np.random.default_rng(1)
    stamp = np.arange(n, dtype=np.uint64)
    copies = rng.permutation(n)[: n // 10]
    stamp[copies] = rng.integers(0, n, len(copies)).astype(np.uint64)
    shift, seconds = np.uint64(64 - (partitions.bit_length() - 1)), 0.0
    by_pair: list[list[np.ndarray]] = [[] for _ in range(partitions)]
    for p in range(partitions):
        keys, documents = [], []
        for band in range(bands):
            k = band_keys(stamp, band)
            mine = (k >> shift) == p if partitions > 1 else np.ones(n, np.bool_)
            keys.append(k[mine])
            documents.append(np.flatnonzero(mine))
        k, d = np.concatenate(keys), np.concatenate(documents)
        started = time.process_time()
        pairs = candidates(BARRIER, k, d)
        codes = pair_hashes(pairs) >> shift if partitions > 1 else np.zeros(len(pairs), np.uint64)
        for q, mine in enumerate(by_pair):
            mine.append(pairs[codes == q])
        seconds += time.process_time() - started
    started = time.process_time()
    made = decide(reduced(forest(as_pairs(sorted_edges(*as_edges(np.concatenate(x))))) for x in by_pair), no_facts)
    return seconds + time.process_time() - started, len(made.removed), partitions


def main() -> None:
    """Print a line a size."""
    before = 0.0
    for n in SIZES:
        seconds, removed, partitions = measure(n)
        grown = f"t(2n)/t(n) {seconds / before:.2f}" if before else ""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{n:,} documents, {n * BARRIER.bands[0]:,} keys, {partitions} partitions: {seconds:.1f} s CPU, "
            f"{removed:,} removed, peak {peak:,} MiB  {grown}",
            flush=True,
        )
        before = seconds


if __name__ == "__main__":
    main()
