"""``python -m experiments.supernet_quality``: ranking, overhead and training speed of the tiny supernet."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.results import command_line, result_folder, run, write_result
from experiments.supernet_quality.overhead import overheads
from experiments.supernet_quality.ranking import rank
from nas.data import load_corpus
from nas.model import Supernet, load_supernet
from nas.training import TrainingRecipe, embedded_path, embedded_tokenizer, train
from nas.training.precision import faster_dtype
from nas.training.sandwich import draw_subnet
from search_spaces import preset


@dataclass(frozen=True)
class Recipe:
    """What is measured.

    Args:
        steps: training steps of the supernet and of every architecture alone.
        architectures: trained alone.
        tokens: held-out tokens of a perplexity.
        seed: of everything.
        out: working folder; a killed run goes on from it.
    """

    steps: int = 400
    architectures: int = 24
    tokens: int = 16384
    seed: int = 0
    out: Path = Path("runs/supernet_quality")


def main(recipe: Recipe) -> None:
    """Run the experiment and write its table and plot."""
    space = preset("tiny")
    corpus = load_corpus(
        "stdlib",
        vocab_size=space.family.vocab_size,
        tokenizer=embedded_tokenizer(),
        cache_dir=recipe.out,
    )
    training = TrainingRecipe(
        steps=recipe.steps,
        batch_size=8,
        learning_rate=1e-3,
        warmup_steps=recipe.steps // 8,
        seed=recipe.seed,
    )
    supernet, info = load_supernet(embedded_path())
    rng = np.random.default_rng(recipe.seed)
    sample = [space.largest, space.smallest, *(draw_subnet(space, rng) for _ in range(10))]
    tokens = corpus.validation_tokens[: 16 * 256].astype(np.int64).reshape(16, 256)
    ratios = overheads(supernet, sample, torch.from_numpy(tokens))
    speed = training_speed(supernet, corpus.train_tokens)
    ranking = rank(
        space,
        corpus,
        training,
        num_architectures=recipe.architectures,
        num_tokens=recipe.tokens,
        out=recipe.out,
    )
    folder = result_folder("supernet_quality")
    write_result(
        folder,
        command=command_line("experiments.supernet_quality", recipe),
        seeds=[recipe.seed],
        values={
            "kendall_tau": ranking["kendall_tau"],
            "kendall_tau_equal_width": ranking["kendall_tau_equal_width"],
            "training_tokens_of_each": ranking["tokens"],
            "validation_tokens": ranking["validation_tokens"],
            "forward_overhead_median": statistics.median(ratios),
            "forward_overhead_largest": max(ratios),
            "training": speed,
            "embedded_tokens": info["tokens"],
            "pairs": ranking["pairs"],
            "overheads": ratios,
        },
    )
    matplotlib.use("agg", force=False)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(
        [p["inherited"] for p in ranking["pairs"]],
        [p["alone"] for p in ranking["pairs"]],
        "o",
        color="#2a6f97",
    )
    axes.set_xlabel("perplexity inherited from the supernet")
    axes.set_ylabel("perplexity trained alone, same tokens")
    axes.set_title(
        f"Kendall tau {ranking['kendall_tau']:.3f}, {len(ranking['pairs'])} architectures"
    )
    figure.savefig(folder / "ranking.png", dpi=130)
    within = ranking["kendall_tau_equal_width"]
    print(
        f"Kendall tau {ranking['kendall_tau']:.3f}, among equal widths "
        f"{'none' if within is None else f'{within:.3f}'}; "
        f"forward overhead median {statistics.median(ratios):.3f}; "
        f"training {speed['tokens_per_s']:,.0f} tokens/s on {speed['threads']} threads"
    )
    print(f"Results in {folder}")


def training_speed(supernet: Supernet, tokens: Any, steps: int = 8) -> dict[str, Any]:
    """Tokens that a training step reads per second of wall time, and what it was timed with.

    Every token passes through all subnets of a step: largest, smallest and the random ones.

    Args:
        supernet: on its device; its weights change.
        tokens: to draw sequences from.
        steps: timed, after as many that are not.
    """
    dtype = faster_dtype("auto", next(supernet.parameters()).device)
    name: Any = "bfloat16" if dtype == torch.bfloat16 else "float32"
    context = min(256, supernet.space.family.context_length)
    recipe = TrainingRecipe(steps=steps, batch_size=8, context=context, warmup_steps=2, dtype=name)
    train(supernet, tokens, recipe, progress=False)
    start = time.perf_counter()
    train(supernet, tokens, recipe, progress=False)
    return {
        "tokens_per_s": recipe.tokens / (time.perf_counter() - start),
        "threads": torch.get_num_threads(),
        "dtype": name,
        "subnets_per_step": 2 + recipe.num_random,
    }


if __name__ == "__main__":
    run(main, Recipe, __doc__)
