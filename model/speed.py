"""How fast a device could be: peaks of known chips, measured where the chip is not known."""

from __future__ import annotations

import functools
import time

import torch

PEAKS = {  # dense bf16 products, FLOP/s, by a part of the device's name; from the makers' data sheets
    "H200 NVL": 835e12, "H200": 989.5e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989.5e12, "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 125e12, "A10": 125e12, "B200": 2250e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12, "V100": 125e12,
}  # fmt: skip


@functools.cache
def peak(device: torch.device) -> tuple[float, str]:
    """(FLOP/s of one device, where the number comes from): a data sheet, or the fastest product measured here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, flops in PEAKS.items():
            if part in name:
                return flops, f"data sheet of {part}, bf16"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return measured(device, dtype), f"a product measured on this {device.type}, {str(dtype).removeprefix('torch.')}"


def measured(device: torch.device, dtype: torch.dtype, n: int | None = None, tries: int = 25) -> float:
    """FLOP/s of an n x n product, the best of some tries."""
    n = n or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(tries):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def wait(device: torch.device) -> None:
    """For what was asked of the device to be done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most: of the device, or resident on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory was not enough; libraries below it say so in their own words."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in said)


def has_cuda() -> bool:
    """Whether this torch sees a CUDA device."""
    return torch.cuda.is_available()
