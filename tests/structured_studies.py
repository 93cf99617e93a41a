"""The study of 27 choices that the tests of the sampler ``auto`` share, and how good its points truly are."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution

from nas.pareto import hypervolume
from nas.searchers import make_sampler
from nas.searchers.parameters import ParameterSpace
from tests.structured_cases import (
    WIDE,
    Function,
    additive,
    draws,
    told,
)

FAST: dict[str, Any] = {"population": 60, "generations": 3}
FUNCTION = additive(WIDE, 0)
REF = [
    float(v)
    for v in np.max(
        [FUNCTION(ParameterSpace(WIDE).params(x)) for x in draws(ParameterSpace(WIDE), 0, 200)],
        axis=0,
    )
]


def auto(seed: int = 0, **options: Any) -> optuna.samplers.BaseSampler:
    return make_sampler("auto", seed=seed, **(FAST | options))


def volume(study: optuna.Study, function: Function = FUNCTION) -> float:
    """Hypervolume of what the study's points are truly worth."""
    return float(hypervolume([function(t.params) for t in study.trials], REF))


def best_volume() -> float:
    """Hypervolume of the optimum: for every weight of the two sums, the best value of every parameter alone."""
    front = []
    names = list(WIDE)
    for weight in np.linspace(0.0, 1.0, 101):
        params = {}
        for name in names:
            dist = WIDE[name]
            assert isinstance(dist, CategoricalDistribution)
            base = {
                n: d.choices[0] for n, d in WIDE.items() if isinstance(d, CategoricalDistribution)
            }
            scored = []
            for choice in dist.choices:
                error, cost = FUNCTION(base | {name: choice})
                scored.append((weight * error + (1.0 - weight) * cost, choice))
            params[name] = min(scored)[1]
        front.append(FUNCTION(params))
    return float(hypervolume(front, REF))


def mean_random(n_trials: int, seeds: int = 5) -> float:
    return float(
        np.mean(
            [
                volume(told(make_sampler("random", seed=s), WIDE, FUNCTION, n_trials))
                for s in range(seeds)
            ]
        )
    )
