"""A trial of a duplicate barrier on a sample with planted documents, before it may touch a corpus.

Planted are exact copies, near copies (a few words replaced) and documents that are like no other (words of
many documents). What share of the copies is found and whether a unique document goes says if the settings
do what they should; what goes of the sample itself says what to expect of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.dedup.matching import Documents, find
from curate.errors import RecipeError
from curate.stage import DuplicateBarrier

PLANTED = 200  # of each kind, at most
MAX_BYTES = 4 << 20  # of a document that is tried: longer ones say little and take much
MIN_WORDS = 40  # of a document that copies are made of
NEAR_WORDS = 60  # of one that near copies are made of: a word is 1 of 40, and five shingles: a Jaccard below 0.8
NEAR_SHARE = 0.01  # of the words of a near copy are others: at five words a shingle a Jaccard similarity near 0.9
POOLED = 1000  # words of a document that unique ones are made of
WORST_RECALL = 0.9  # of planted copies
SIGMAS = 4.0
ALL_SEEN = 0.001  # of the documents, more or less, where the sample is the whole: a barrier before it saw more


@dataclass(frozen=True)
class Trial:
    """What a trial found. Shares are from 0 to 1; None where nothing of the kind was planted."""

    barrier: str
    sampled: int
    documents: int  # of the whole
    recall_copies: float | None
    recall_near: float | None
    unique_removed: int
    unique_planted: int
    removed: int  # of the sample itself
    expected: tuple[float, float]  # share of the whole that may be removed

    def text(self) -> str:
        """One paragraph for people."""
        low, high = self.expected
        recalls = [
            f"{name} {100 * share:.1f} % found"
            for name, share in (("exact copies", self.recall_copies), ("near copies", self.recall_near))
            if share is not None
        ]
        return (
            f"{self.barrier}: trial on {self.sampled:,} of {self.documents:,} documents: "
            f"{', '.join(recalls) or 'too few to plant copies'}, {self.unique_removed} of {self.unique_planted} unique "
            f"documents removed; {self.removed:,} of the sample itself removed, so between {100 * low:.2f} and "
            f"{100 * high:.2f} % of the whole are expected to go"
        )

    def objection(self) -> str | None:
        """Why a full pass should not follow; None where nothing speaks against it."""
        for name, share in (("exact", self.recall_copies), ("near", self.recall_near)):
            if share is not None and share < WORST_RECALL:
                return f"only {100 * share:.0f} % of the {name} copies planted in a sample were found"
        if self.unique_removed:
            return f"{self.unique_removed} of {self.unique_planted} unique documents planted in a sample were removed"
        return None

    def surprise(self, removed: int, documents: int) -> str | None:
        """Why what a full pass found is not what the trial let expect; None where it is."""
        low, high = self.expected
        share = removed / max(documents, 1)
        if low <= share <= high:
            return None
        return (
            f"{self.barrier} would remove {removed:,} of {documents:,} documents ({100 * share:.2f} %); by a trial on "
            f"{self.sampled:,} of them {100 * low:.2f} to {100 * high:.2f} % were expected"
        )


def rehearse(
    barrier: DuplicateBarrier, sample: Sequence[pa.Table], documents: int, seed: int = 0
) -> tuple[Trial, list[pa.Table]]:
    """Try a barrier on a sample of a corpus of so many documents; the sample comes back without its duplicates."""
    try:  # sources have columns of their own
        base = pa.concat_tables(sample, promote_options="permissive").combine_chunks()
    except pa.ArrowTypeError as error:
        raise RecipeError(f"{barrier.name}: a column is of one type here, of another there: {error}") from None
    base = base.filter(pc.less_equal(pc.binary_length(base["text"]), MAX_BYTES))
    removed = find(barrier, [base]).decisions.removed
    rng = np.random.default_rng(seed)
    stays = np.setdiff1d(np.arange(base.num_rows), removed)
    words = pc.add(pc.count_substring(base["text"], " "), 1).to_numpy(zero_copy_only=False)
    usable = stays[words[stays] >= MIN_WORDS]
    chosen = np.sort(rng.permutation(usable)[:PLANTED])
    edited = chosen[words[chosen] >= NEAR_WORDS]
    copies, unique = (_planted(base, chosen, kind, rng) for kind in ("copy", "unique"))
    near = _planted(base, edited, "near", rng)
    gone = find(barrier, [base, copies, unique, near]).decisions
    n, k = base.num_rows, len(chosen)
    trial = Trial(
        barrier=barrier.name,
        sampled=n,
        documents=documents,
        recall_copies=_found(gone.removed, n + np.arange(k), chosen) if k else None,
        recall_near=_found(gone.removed, n + 2 * k + np.arange(len(edited)), edited)
        if len(edited) and barrier.finds_near
        else None,
        unique_removed=int(np.isin(n + k + np.arange(k), gone.removed).sum()),
        unique_planted=k,
        removed=len(removed),
        expected=_expected(len(removed), n, documents),
    )
    return trial, [base.take(pa.array(stays))]


def _found(removed: Documents, planted: Documents, origin: Documents) -> float:
    """Share of planted copies of which only one, copy or original, is left at most."""
    stays = ~np.isin(planted, removed) & ~np.isin(origin, removed)
    return 1.0 - float(stays.mean())


def _expected(removed: int, sampled: int, documents: int) -> tuple[float, float]:
    """Share of the whole that a sample lets expect.

    What has a copy in the sample has one in the whole: the sample's share is the lowest. Pairs grow with the square:
    a document whose only copy lies anywhere in the whole has it in the sample with the probability that the sample
    has of the whole, so that the share may be up to documents / sampled times as high. Both with SIGMAS of chance.
    """
    if not sampled:
        return 0.0, 1.0
    share = removed / sampled
    if sampled >= documents:
        return max(0.0, share - ALL_SEEN), min(1.0, share + ALL_SEEN)
    chance = SIGMAS * math.sqrt((removed + 1) * (1 - share)) / sampled
    return max(0.0, share - chance), min(1.0, (share + chance) * documents / sampled)


def _planted(base: pa.Table, rows: Documents, kind: str, rng: np.random.Generator) -> pa.Table:
    """Copies of rows, their text changed as the kind of document to plant asks."""
    table = base.take(pa.array(rows))
    texts = table["text"].to_pylist()
    pool = np.array([w for text in texts for w in text.split()[:POOLED]], object)
    texts = [_changed(text, kind, pool, rng) for text in texts]
    columns: dict[str, Any] = {"text": pa.array(texts, pa.large_string())}
    if kind == "unique":
        columns["url"] = pa.array([f"https://planted.invalid/{i}" for i in range(len(rows))], pa.string())
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [values])
    return table


def _changed(text: str, kind: str, pool: npt.NDArray[Any], rng: np.random.Generator) -> str:
    if kind == "copy":
        return text
    words = text.split(" ")
    if kind == "unique":
        return " ".join(rng.choice(pool, len(words)))
    for place in rng.choice(len(words), max(1, int(NEAR_SHARE * len(words))), replace=False):
        words[place] = f"planted{rng.integers(1 << 30)}"
    return " ".join(words)
