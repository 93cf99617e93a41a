"""Inherited perplexity against perplexity after training the same architecture alone for the same tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.results import digest
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
    ``out/trained.jsonl``, each with its setting: those of another recipe, text, space or number of
    held-out tokens are left out.

    Returns:
        Kendall tau, its value among pairs of equal width (None if there is no such pair), and the pairs.
    """
    context = space.family.context_length
    tokens = validation_batch(corpus.validation_tokens, context, num_tokens)
    setting = digest(
        {
            "recipe": recipe.to_json(),
            "corpus": corpus.fingerprint,
            "space": space.fingerprint,
            "num_tokens": tokens.shape[0] * context,
        }
    )
    log = _Log(out / "trained.jsonl", setting)
    rng = np.random.default_rng((recipe.seed, 24))
    architectures = [draw_subnet(space, rng) for _ in range(num_architectures)]
    missing = [a for a in architectures if ("inherited", a.key) not in log]
    if missing:  # a supernet that is trained already comes from its last checkpoint
        supernet = Supernet(space, recipe.seed)
        checkpoint = out / f"supernet-{setting}.json"
        train(supernet, corpus.train_tokens, recipe, checkpoint=checkpoint)
        found = supernet_perplexities(supernet, missing, tokens)
        for architecture, perplexity in zip(missing, found, strict=True):
            log.keep("inherited", architecture.key, perplexity)
    for number, architecture in enumerate(architectures):
        if ("alone", architecture.key) in log:
            continue
        print(f"alone {number + 1}/{num_architectures}: {architecture}", flush=True)
        alone = Supernet(only(space, architecture), recipe.seed)
        train(alone, corpus.train_tokens, recipe, subnets=partial(_always, architecture))
        perplexity = supernet_perplexities(alone, [architecture], tokens)[0]
        log.keep("alone", architecture.key, perplexity)
    inherited = np.array([log["inherited", a.key] for a in architectures])
    trained = np.array([log["alone", a.key] for a in architectures])
    return {
        "kendall_tau": kendall_tau(inherited, trained),
        "kendall_tau_equal_width": tau_within(
            [a.embed_dim for a in architectures], inherited, trained
        ),
        "tokens": recipe.tokens,
        "validation_tokens": tokens.shape[0] * context,
        "pairs": [
            {"architecture": str(a), "inherited": float(i), "alone": float(t)}
            for a, i, t in zip(architectures, inherited, trained, strict=True)
        ],
    }


def tau_within(
    groups: Sequence[int], a_n: npt.NDArray[np.float64], b_n: npt.NDArray[np.float64]
) -> float | None:
    """Kendall's tau over the pairs of one group only: agreeing less disagreeing ones, over both; None without any.

    A supernet that only tells wide from narrow ranks well over all pairs, and badly here.
    """
    signs = [
        float(np.sign(a_n[i] - a_n[j]) * np.sign(b_n[i] - b_n[j]))
        for i, j in itertools.combinations(range(len(groups)), 2)
        if groups[i] == groups[j]
    ]
    decided = [sign for sign in signs if sign]
    return sum(decided) / len(decided) if decided else None


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


class _Log:
    """Perplexities on the disk, by kind and architecture; it shows those of one setting only."""

    def __init__(self, path: Path, setting: str) -> None:
        self._path, self._setting = path, setting
        self._found: dict[tuple[str, str], float] = {}
        for record in read_jsonl(path):
            if record.get("setting") == setting:
                self._found[record["kind"], record["architecture"]] = record["perplexity"]

    def __contains__(self, name: tuple[str, str]) -> bool:
        return name in self._found

    def __getitem__(self, name: tuple[str, str]) -> float:
        return self._found[name]

    def keep(self, kind: str, architecture: str, perplexity: float) -> None:
        """Append one; it survives a kill."""
        record = {"kind": kind, "architecture": architecture, "perplexity": perplexity}
        append_jsonl(self._path, record | {"setting": self._setting})
        self._found[kind, architecture] = perplexity
