"""Inherited perplexity against perplexity after training the same architecture alone for the same tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nas.data import Corpus, validation_batch
from nas.files import append_jsonl, read_jsonl
from nas.model import Supernet, supernet_perplexities
from nas.training import TrainingRecipe, train
from nas.training.sandwich import draw_subnet
from search_spaces import Architecture, SearchSpace
from surrogates import kendall_tau


def rank(
    space: SearchSpace,
    corpus: Corpus,
    recipe: TrainingRecipe,
    *,
    num_architectures: int,
    num_tokens: int,
    out: Path,
) -> dict[str, Any]:
    """Train the supernet and each architecture alone with the same recipe, and correlate their perplexities.

    Every step of the supernet visits the largest, the smallest and random subnets; a step of a lone
    architecture visits only it. Both read ``recipe.tokens`` tokens. Finished trainings are kept in
    ``out/trained.jsonl``.

    Returns:
        Kendall tau, its value among architectures of equal width, and the pairs.
    """
    path = out / "trained.jsonl"
    done = {r["name"]: r for r in read_jsonl(path)} if path.exists() else {}
    context = space.family.context_length
    tokens = validation_batch(corpus.validation_tokens, context, num_tokens)
    rng = np.random.default_rng((recipe.seed, 24))
    architectures = [draw_subnet(space, rng) for _ in range(num_architectures)]
    if "supernet" not in done:
        supernet = Supernet(space, recipe.seed)
        train(supernet, corpus.train_tokens, recipe, checkpoint=out / "supernet-training.json")
        inherited = supernet_perplexities(supernet, architectures, tokens)
        done["supernet"] = _keep(path, {"name": "supernet", "perplexities": inherited})
    for number, architecture in enumerate(architectures):
        if architecture.key in done:
            continue
        print(f"alone {number + 1}/{num_architectures}: {architecture}", flush=True)
        alone = Supernet(only(space, architecture), recipe.seed)
        train(alone, corpus.train_tokens, recipe, subnets=partial(_always, architecture))
        perplexity = supernet_perplexities(alone, [architecture], tokens)[0]
        done[architecture.key] = _keep(path, {"name": architecture.key, "perplexity": perplexity})
    shared = np.array(done["supernet"]["perplexities"])
    trained = np.array([done[a.key]["perplexity"] for a in architectures])
    return {
        "kendall_tau": kendall_tau(shared, trained),
        "tokens": recipe.tokens,
        "pairs": [
            {"architecture": str(a), "inherited": float(i), "alone": float(t)}
            for a, i, t in zip(architectures, shared, trained, strict=True)
        ],
    }


def only(space: SearchSpace, architecture: Architecture) -> SearchSpace:
    """The smallest space around one architecture: its widths are the stored ones, so nothing else shares the weights."""
    layers = architecture.layers
    heads = {layer.num_heads for layer in layers if layer.attention} or {space.num_heads[0]}
    ratios = {layer.ffn_ratio for layer in layers if layer.ffn} or {space.ffn_ratios[0]}
    return replace(
        space,
        name=f"only-{architecture.key}",
        embed_dims=(architecture.embed_dim,),
        depths=(architecture.depth,),
        num_heads=tuple(sorted(heads)),
        ffn_ratios=tuple(sorted(ratios)),
    )


def _always(architecture: Architecture, step: int) -> list[Architecture]:
    return [architecture]


def _keep(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    append_jsonl(path, record)
    return record
