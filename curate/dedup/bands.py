"""How signatures are cut into bands, and what that finds: bands and rows by datasketch's search, error rates in words.

Documents become candidates when all values of any band agree: b bands of r rows find a pair of Jaccard similarity s
with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from curate.errors import RecipeError
from curate.kernels.minhash import band_keys as band_keys

# Of a false positive and a false negative. Verification takes false positives out again; nothing brings back a pair
# that no band found. With these, 96 to 99 % of the pairs at the threshold itself are found; with datasketch's equal
# weights it is 31 to 55 %.
RECALL = (0.02, 0.98)
JACCARDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Bands:
    """`bands` bands of `rows` values, chosen for a threshold of Jaccard similarity."""

    bands: int
    rows: int
    threshold: float
    permutations: int

    def found(self, jaccard: float) -> float:
        """Probability that a pair of this similarity becomes a candidate."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands

    def deviation(self, jaccard: float) -> float:
        """Standard deviation of the share of equal values of such a pair."""
        return math.sqrt(jaccard * (1.0 - jaccard) / self.permutations)


@functools.cache
def choose(threshold: float, permutations: int = 128, weights: tuple[float, float] = RECALL) -> Bands:
    """The bands and rows for which datasketch expects the least weighted error around `threshold`.

    `weights`: of false positives and of false negatives; they add to 1. RecipeError for what it does not take.
    """
    from datasketch import MinHashLSH

    if not 0.0 < threshold < 1.0:
        raise RecipeError(f"threshold is {threshold}, must be between 0 and 1")
    if permutations < 2:
        raise RecipeError(f"permutations is {permutations}, bands need 2 or more")
    if len(weights) != 2 or min(weights) < 0.0 or not math.isclose(sum(weights), 1.0):
        raise RecipeError(f"weights are {weights}, must be two numbers from 0 that add to 1")
    index = MinHashLSH(threshold=threshold, num_perm=permutations, weights=weights)
    return Bands(index.b, index.r, threshold, permutations)


def error_rates(bands: Bands) -> dict[float, dict[str, float]]:
    """For Jaccard similarities: the share of pairs that become candidates, and the deviation of their estimate."""
    at = sorted({*JACCARDS, bands.threshold})
    return {s: {"found": bands.found(s), "deviation": bands.deviation(s)} for s in at}


def explain(threshold: float, permutations: int = 128, weights: tuple[float, float] = RECALL) -> str:
    """What the chosen bands find, as lines of text to print."""
    chosen = choose(threshold, permutations, weights)
    used = chosen.bands * chosen.rows
    lines = [
        f"threshold {threshold:g}: {chosen.bands} bands of {chosen.rows} rows ({used} of {permutations} permutations)",
        "  Jaccard   pairs found   estimate from the signature alone",
    ]
    for s, rates in error_rates(chosen).items():
        mark = "  <- threshold" if s == threshold else ""
        lines.append(f"     {s:4.2f}     {rates['found']:8.3%}   {s:.2f} +- {rates['deviation']:.3f}{mark}")
    return "\n".join(lines)
