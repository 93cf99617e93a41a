"""Which arithmetic is faster here for training: float32, or bfloat16 where the device has units for it."""

from __future__ import annotations

import statistics
import time

import torch


def faster_dtype(requested: str, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass.

    Args:
        requested: ``float32``, ``bfloat16``, or ``auto`` to time a product in both.
        device: where training runs.

    Returns:
        ``torch.bfloat16`` if asked for or at least 1.3 times faster, else ``torch.float32``.
    """
    if requested != "auto":
        return torch.bfloat16 if requested == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    times = {dtype: _product_s(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    # The margin pays for the casts around every product.
    return torch.bfloat16 if times[torch.float32] > 1.3 * times[torch.bfloat16] else torch.float32


def _product_s(dtype: torch.dtype, device: torch.device) -> float:
    x = torch.ones(2048, 256, dtype=dtype, device=device)
    w = torch.ones(1024, 256, dtype=dtype, device=device)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
