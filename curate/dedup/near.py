"""Documents that are nearly the same as another one, or nearly contained in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curate.dedup.bands import choose
from curate.dedup.settings import check_fields
from curate.dedup.signatures import empty, signatures
from curate.errors import RecipeError
from curate.kernels.minhash import band_keys, distinct, shingles
from curate.stage import Bools, DuplicateBarrier, KeyBatch, Keys, Offsets, Scores, check_settings

DOCUMENT_BYTES = 3000.0  # of text, about
MOST_SAMPLING = 1 << 16  # a long book has hundreds of thousands of shingles
Unit = Literal["word", "character"]


@dataclass(frozen=True, kw_only=True)
class _Shingled(DuplicateBarrier):
    """What compares documents by their shingles."""

    unit: Unit = "word"
    n: int = 5
    scope: int | str = "run"
    max_removed: float = 0.9
    memory: int = 384

    finds_near = True

    def shingles(self, table: pa.Table) -> tuple[Keys, Offsets]:
        """Sorted distinct shingle hashes a row."""
        return distinct(*shingles(table["text"], self.unit, self.n))


@dataclass(frozen=True, kw_only=True)
class Near(_Shingled):
    """Of documents whose sets of shingles have a Jaccard similarity of at least `threshold` one stays (MinHash LSH).

    Bands and rows are chosen so that few pairs at the threshold are missed; with `verify` candidates are compared
    exactly, so that what is missed is all that chance decides, and nothing is removed that is not similar to another.
    A text of fewer than `n` words has one shingle: all of it.
    """

    threshold: float = 0.8
    permutations: int = 128
    verify: bool = True
    seed: int = 1
    score: str = ""

    name = "near"
    reads = ("text",)
    reasons = ("near_duplicate",)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "verifies", self.verify)
        bands, _ = self.bands
        object.__setattr__(self, "bytes_per_key", DOCUMENT_BYTES / bands)

    @property
    def bands(self) -> tuple[int, int]:
        """(bands, rows of each)."""
        chosen = choose(self.threshold, self.permutations)
        return chosen.bands, chosen.rows

    def emit(self, table: pa.Table) -> KeyBatch:
        """A key a band; none for a document without words."""
        bands, rows = self.bands
        found = signatures(table["text"], unit=self.unit, n=self.n, permutations=self.permutations, seed=self.seed)
        has = ~empty(found)
        keys = band_keys(found[has], bands, rows).ravel()
        offsets = np.concatenate([[0], np.cumsum(has * bands)]).astype(np.int64)
        return KeyBatch(keys, np.zeros(len(keys), np.uint8), offsets)

    def accepts(self, jaccard: Scores, containment: Scores) -> Bools:
        """Jaccard similarity of at least the threshold."""
        return np.asarray(jaccard >= self.threshold)


@dataclass(frozen=True, kw_only=True)
class Containment(_Shingled):
    """A book most of whose shingles are in another one is removed, the longer one stays (LLaMA 2.1: 90 % overlap).

    Candidates share a shingle whose hash is among the lowest `1 / sampling` of all hashes; candidates are compared
    exactly: common shingles over those of the one that has fewer.
    """

    threshold: float = 0.9
    sampling: int = 64

    name = "containment"
    reads = ("text",)
    reasons = ("contained",)
    verifies = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sampling > MOST_SAMPLING:
            raise RecipeError(f"{self.name}.sampling is {self.sampling}, must be at most {MOST_SAMPLING}")
        object.__setattr__(self, "bytes_per_key", 6.0 * self.sampling)

    def emit(self, table: pa.Table) -> KeyBatch:
        """The sampled shingles of each row, spread over all 64 bits."""
        hashes, offsets = self.shingles(table)
        low = hashes < np.uint64((1 << 64) // self.sampling - 1)
        counts = np.concatenate([[0], np.cumsum(low)])[offsets - offsets[0]]
        with np.errstate(over="ignore"):
            keys = hashes[low] * np.uint64(self.sampling)
        return KeyBatch(keys, np.zeros(len(keys), np.uint8), counts.astype(np.int64))

    def accepts(self, jaccard: Scores, containment: Scores) -> Bools:
        """Containment above the threshold."""
        return np.asarray(containment > self.threshold)


def near(**settings: Any) -> Near:
    """`Near` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Near(**dict(check_settings("near", Near, settings)))


def containment(**settings: Any) -> Containment:
    """`Containment` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Containment(**dict(check_settings("containment", Containment, settings)))
