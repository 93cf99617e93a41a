"""``python -m experiments.supernet_quality.overhead``: what a subnet costs inside the supernet, over the same one extracted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from experiments.results import result_folder, write_result
from nas.model import MaskCache, Supernet, extract, load_supernet
from nas.training import embedded_path
from nas.training.sandwich import draw_subnet
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


def main() -> None:
    """Measure the embedded supernet's subnets, print and write the ratios."""
    supernet, info = load_supernet(embedded_path())
    space, rng = supernet.space, np.random.default_rng(0)
    sample = [space.largest, space.smallest, *(draw_subnet(space, rng, 1.0) for _ in range(14))]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(space.family.vocab_size, (16, 256), generator=generator)
    ratios = overheads(supernet, sample, tokens)
    dense = [r for r, a in zip(ratios, sample, strict=True) if "[" not in str(a)]
    values = {
        "median": statistics.median(ratios),
        "largest": max(ratios),
        "dense_median": statistics.median(dense),
        "ratios": dict(zip(map(str, sample), ratios, strict=True)),
        "supernet": info["sha256"],
    }
    folder = result_folder("supernet_quality")
    command = "python -m experiments.supernet_quality.overhead"
    write_result(folder, command=command, seeds=[0], values=values, name="overhead.json")
    print(
        f"forward in the supernet over extracted: median {values['median']:.3f}, largest {values['largest']:.3f}"
    )
    print(f"Results in {folder}/overhead.json")


if __name__ == "__main__":
    main()
