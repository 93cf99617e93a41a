"""What a subnet costs inside the supernet, over the same architecture extracted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from nas.model import MaskCache, Supernet, extract
from search_spaces import Architecture


def overheads(
    supernet: Supernet, architectures: Sequence[Architecture], tokens_BT: Tensor, repeats: int = 9
) -> list[float]:
    """Forward time in the supernet over forward time extracted, per architecture; timed in turns, medians.

    Args:
        supernet: the weights.
        architectures: members of its space.
        tokens_BT: one evaluation batch.
        repeats: timed pairs.
    """
    masks = MaskCache()
    ratios = []
    for architecture in architectures:
        model = extract(supernet, architecture, masks=masks)
        pair = (partial(supernet, tokens_BT, architecture, masks), partial(model, tokens_BT))
        with torch.inference_mode():
            for call in pair:
                call()
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(repeats):
                for call, kept in zip(pair, times, strict=True):
                    start = time.perf_counter()
                    call()
                    kept.append(time.perf_counter() - start)
        ratios.append(statistics.median(times[0]) / statistics.median(times[1]))
    return ratios
