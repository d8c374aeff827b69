"""MinHash signatures of documents: our own, and those of `datasketch.MinHash`, value by value.

Both take the same shingles (`curate.kernels.minhash` says what a word is). Ours hash a shingle with 64-bit arithmetic,
datasketch's with SHA-1 of its UTF-8 text: `shingle_texts` gives these texts, so that a sketch made elsewhere by
`MinHash(num_perm, seed).update_batch(s.encode() for s in shingle_texts(text))` is equal to a row of
`datasketch_signatures`, and indexes of both can be mixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import RecipeError
from curate.kernels.minhash import Signatures, Signatures64, minima, sha1_minima
from curate.kernels.minhash import shingle_texts as shingle_texts

if TYPE_CHECKING:
    import datasketch

Unit = Literal["word", "character"]
Scheme = Literal["affine32", "affine64", "legacy"]
CODES = {"affine32": 32, "affine64": 64, "legacy": 0}
LARGEST_N, LARGEST_PERMUTATIONS = 1000, 1 << 16


def check(unit: str, n: int, permutations: int) -> None:
    """RecipeError where these are no settings of a signature."""
    if unit not in ("word", "character"):
        raise RecipeError(f"unit is {unit!r}, must be 'word' or 'character'")
    if not 1 <= n <= LARGEST_N:
        raise RecipeError(f"n is {n}, must be from 1 to {LARGEST_N}")
    if not 1 <= permutations <= LARGEST_PERMUTATIONS:
        raise RecipeError(f"permutations is {permutations}, must be from 1 to {LARGEST_PERMUTATIONS}")


def factors(permutations: int, seed: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """(a, b), uint32, of the permutations a * h + b modulo 2^32: a is odd. Those of datasketch's scheme "affine32"."""
    if not 0 <= seed < 1 << 32:
        raise RecipeError(f"seed is {seed}, must be from 0 to {(1 << 32) - 1}")
    draw = np.random.RandomState(seed)  # its numbers never change, by a promise of NumPy
    a = draw.randint(0, 1 << 31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, draw.randint(0, 1 << 32, permutations, dtype=np.uint32)


def signatures(
    column: pa.Array | pa.ChunkedArray, *, unit: Unit = "word", n: int = 5, permutations: int = 128, seed: int = 1
) -> Signatures:
    """uint32 (rows, permutations) of a string column; a null is an empty text.

    The share of equal values of two rows is the Jaccard similarity s of their sets of shingles, with the standard
    deviation sqrt(s (1 - s) / permutations). A row without shingles is all 2^32 - 1 and is like no other: `empty`.
    A row is `datasketch.MinHash(permutations, seed, hashfunc=...).hashvalues` where hashfunc is the low 32 bits of
    `curate.kernels.minhash.shingles`. RecipeError for a wrong setting.
    """
    check(unit, n, permutations)
    return minima(column, *factors(permutations, seed), unit, n)


def datasketch_signatures(
    column: pa.Array | pa.ChunkedArray,
    *,
    unit: Unit = "word",
    n: int = 5,
    permutations: int = 128,
    seed: int = 1,
    scheme: Scheme = "affine32",
) -> Signatures | Signatures64:
    """What `datasketch.MinHash(permutations, seed, scheme=scheme)` holds after the shingles of each row as UTF-8.

    (rows, permutations), uint32 for "affine32", else uint64. "legacy" is what datasketch did before its version 2.
    The hash is the default one, SHA-1. RecipeError for a wrong setting.
    """
    check(unit, n, permutations)
    if scheme not in CODES:
        raise RecipeError(f"scheme is {scheme!r}, must be one of {', '.join(CODES)}")
    from datasketch import MinHash

    a, b = MinHash(num_perm=permutations, seed=seed, scheme=scheme).permutations
    return sha1_minima(column, a, b, CODES[scheme], unit, n)


def empty(rows: Signatures | Signatures64, scheme: Scheme = "affine32") -> npt.NDArray[np.bool_]:
    """True for each signature of a document without shingles: nothing is known of it, so nothing may match it."""
    full = (1 << 64) - 1 if scheme == "affine64" else (1 << 32) - 1
    found: npt.NDArray[np.bool_] = (rows == rows.dtype.type(full)).all(axis=1)
    return found


def sketches(
    rows: Signatures | Signatures64, *, seed: int = 1, scheme: Scheme = "affine32", lean: bool = True
) -> list[datasketch.LeanMinHash] | list[datasketch.MinHash]:
    """The rows as objects of datasketch, to insert into its indexes; `seed` and `scheme` as the rows were made with.

    MinHash objects (lean=False) of `datasketch_signatures` can be updated further with its default hash function.
    Those of `signatures` must not be, as their shingles are hashed differently.
    """
    import datasketch

    if lean:
        return [datasketch.LeanMinHash(seed=seed, hashvalues=row, scheme=scheme) for row in rows]
    made: list[Any] = [datasketch.MinHash(seed=seed, hashvalues=row, scheme=scheme) for row in rows]
    return made
