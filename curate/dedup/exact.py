"""Documents whose text, or whose address, another document has too."""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curate.dedup.settings import check_fields
from curate.errors import StageError
from curate.kernels.arrow import buffers
from curate.stage import Bools, DuplicateBarrier, KeyBatch, Keys, Offsets, Scores, check_settings
from curate.url_forms import c4_form, url_form

EMPTY_KEYS = np.zeros(0, np.uint64)


@dataclass(frozen=True, kw_only=True)
class _SameKey(DuplicateBarrier):
    """What has the same 128 bits of BLAKE2b is the same: 64 bring documents together, the other 64 are compared."""

    score: str = ""
    scope: int | str = "run"
    max_removed: float = 0.95  # of the documents: a run that would remove more stops
    memory: int = 384

    bytes_per_key = 3000.0  # a document's
    one_key = True

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def _hashes(self, table: pa.Table) -> Keys:
        """Two 64-bit numbers a row, shape (rows, 2); (0, 0) for a row that is like no other."""

    def emit(self, table: pa.Table) -> KeyBatch:
        """At most one key a row, and the other 64 bits."""
        found = self._hashes(table)
        has = found.any(axis=1)
        offsets = np.concatenate([[0], np.cumsum(has)]).astype(np.int64)
        keys = np.ascontiguousarray(found[has, 0])
        return KeyBatch(keys, np.zeros(len(keys), np.uint8), offsets, np.ascontiguousarray(found[:, 1]))

    def shingles(self, table: pa.Table) -> tuple[Keys, Offsets]:
        """Not asked for."""
        raise StageError("compares no shingles", self.name)

    def accepts(self, jaccard: Scores, containment: Scores) -> Bools:
        """Not asked for."""
        raise StageError("compares no shingles", self.name)


@dataclass(frozen=True, kw_only=True)
class Exact(_SameKey):
    """Of documents with the same text, byte for byte, one stays: the best by `score`, then the first."""

    name = "exact"
    reads = ("text",)
    reasons = ("duplicate",)

    def _hashes(self, table: pa.Table) -> Keys:
        data, rows = buffers(table["text"])
        view = memoryview(data.data)
        return _digests(view[a:b] for a, b in itertools.pairwise(rows.tolist()))


@dataclass(frozen=True, kw_only=True)
class Url(_SameKey):
    """Of documents with the same address one stays. Documents without an address all stay.

    `form`: what two addresses are compared by. "address": without scheme, user, default port, fragment and last slash,
    as block lists compare them. "c4": as C4's published code (recipes.md 2.1, step 4), which also cuts "www." and a
    query that begins with utm_, ref or feed. `score="date"` keeps the newest, as C4 3.x does.
    """

    name = "url"
    reads = ("url", "text")
    reasons = ("duplicate_url",)
    form: Literal["address", "c4"] = "address"

    def _hashes(self, table: pa.Table) -> Keys:
        form = c4_form if self.form == "c4" else url_form
        return _digests(form(url).encode() if url else b"" for url in table["url"].to_pylist())


def _digests(values: Iterable[bytes | memoryview]) -> Keys:
    """128 bits of each value, shape (n, 2); (0, 0) for an empty one."""
    zeros = bytes(16)
    found = [hashlib.blake2b(v, digest_size=16).digest() if len(v) else zeros for v in values]
    return np.frombuffer(b"".join(found), np.uint64).reshape(-1, 2)


def exact(**settings: Any) -> Exact:
    """`Exact` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Exact(**dict(check_settings("exact", Exact, settings)))


def url(**settings: Any) -> Url:
    """`Url` by its stage name, as a recipe writes it; RecipeError for an unknown setting or a wrong value."""
    return Url(**dict(check_settings("url", Url, settings)))
