"""fp32 numbers as two halves: a bf16 that the products read, and the 16 bits that rounding took off.

Weights in bf16 beside a fp32 copy for the optimiser take 6 bytes a parameter and hold the upper half twice. Kept as two
halves they take 4, and the fp32 number comes back to the last bit.

The upper half is rounded to the nearest, halves away from zero, so the rest lies in [-32768, 32767]: an int16.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """(bits of the bf16, what is left), both int16, of fp32 numbers below the largest bf16."""
    bits = x.view(torch.int32)
    upper = (bits + 0x8000) >> 16  # sign and magnitude: adding to the bits rounds the magnitude
    return upper.to(torch.int16), (bits - (upper << 16)).to(torch.int16)


def join(upper: Tensor, rest: Tensor) -> Tensor:
    """The fp32 numbers of two halves (int16)."""
    return ((upper.to(torch.int32) << 16) + rest.to(torch.int32)).view(torch.float32)
