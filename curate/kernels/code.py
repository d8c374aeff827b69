"""Counts behind the rules for source code, one pass over the bytes of a document."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import types

from curate.kernels import Bytes, I64s, kernel
from curate.kernels.arrow import buffers
from curate.kernels.unicode import ALPHA, SPACE, WORD, decode, tables

COUNTS = ("characters", "lines", "longest_line", "alphanumeric", "letters", "tokens")
UNDERSCORE = 0x5F
# What a run of characters is, for tokens: GPT-2's pre-tokens without its English contractions.
BLANK, LETTERS, DIGITS, OTHER = 0, 1, 2, 3

Counts = npt.NDArray[np.int64]


@kernel(types.void(Bytes, I64s, Bytes, types.Array(types.int64, 2, "C")))
def _counts(data, offsets, flags, out):  # type: ignore[no-untyped-def]
    for row in range(offsets.size - 1):
        i, end = offsets[row], offsets[row + 1]
        characters = lines = longest = line = alphanumeric = letters = tokens = 0
        before = BLANK
        while i < end:
            b = data[i]
            if b < 0x80:
                point, step = np.int64(b), 1
            else:
                point, step = decode(data, i)
            f = flags[point]
            i += step
            characters += 1
            if point == 10:
                lines += 1
                longest = max(longest, line)
                line = 0
            else:
                line += 1
            if f & ALPHA:
                run = LETTERS
                letters += 1
                alphanumeric += 1
            elif f & WORD and point != UNDERSCORE:
                run = DIGITS
                alphanumeric += 1
            elif f & SPACE:
                run = BLANK
            else:
                run = OTHER
            tokens += run != before and run != BLANK
            before = run
        out[row, 0] = characters
        out[row, 1] = lines + (line > 0)
        out[row, 2] = max(longest, line)
        out[row, 3] = alphanumeric
        out[row, 4] = letters
        out[row, 5] = tokens


def code_counts(text: pa.Array | pa.ChunkedArray) -> dict[str, Counts]:
    """Counts of `COUNTS`, each an array of one integer a document.

    Characters are code points; a line ends with "\\n", which is no part of its length; `alphanumeric` and `letters`
    are `str.isalnum` and `str.isalpha`; `tokens` are runs of letters, of other alphanumerics, and of anything else
    but white space.
    """
    data, offsets = buffers(text)
    out = np.zeros((len(offsets) - 1, len(COUNTS)), np.int64)
    _counts(data, offsets, tables()[0], out)
    return dict(zip(COUNTS, out.T, strict=True))
