"""Spaces, functions and slow definitions that the tests of the sampler ``auto`` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial

from nas.searchers.history import History
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.features import Columns, FeatureMap
from nas.searchers.structured.kernel import Layout

Array = npt.NDArray[np.float64]
Space = dict[str, BaseDistribution]
Function = Callable[[Mapping[str, Any]], list[float]]

# 27 choices as in a GPT of 13 layers: two families and a choice of its own
WIDE: Space = {
    **{f"layer{i}.heads": CategoricalDistribution((4, 8, 12)) for i in range(13)},
    **{f"layer{i}.ratio": CategoricalDistribution((2, 3, 4)) for i in range(13)},
    "width": CategoricalDistribution((256, 512, 768)),
}
# one of every kind of parameter
EVERY_KIND: Space = {
    "pattern": CategoricalDistribution(("dense", "2:4", "block")),
    "bias": CategoricalDistribution(("no", "yes")),
    "fixed": CategoricalDistribution((7,)),
    "only": CategoricalDistribution(("gelu",)),
    "even": IntDistribution(2, 11, step=2),
    "power": IntDistribution(1, 30, log=True),
    "many": IntDistribution(1, 200, log=True),
    "quarter": FloatDistribution(0.0, 1.0, step=0.25),
    "tenth": FloatDistribution(0.0, 1.2, step=0.1),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "ratio": FloatDistribution(-1.0, 1.0),
}
# four layers, of which the first ``depth`` count
DEEP: Space = {
    "depth": IntDistribution(1, 4),
    **{f"layer{i}.heads": CategoricalDistribution((1, 2, 3)) for i in range(4)},
    **{f"layer{i}.ffn": CategoricalDistribution((1, 2, 3)) for i in range(4)},
    "width": CategoricalDistribution((1, 2, 3)),
}


def ranks(space: Space, params: Mapping[str, Any]) -> Array:
    """Positions of categorical values in [0, 1]."""
    found = []
    for name, dist in space.items():
        assert isinstance(dist, CategoricalDistribution)
        found.append(dist.choices.index(params[name]) / max(len(dist.choices) - 1, 1))
    return np.array(found)


def additive(space: Space, seed: int) -> Function:
    """Error and cost that both add up over the choices: larger is better for the one and worse for the other."""
    rng = np.random.default_rng(seed)
    gain, price = rng.uniform(0.2, 1.0, (2, len(space)))

    def function(params: Mapping[str, Any]) -> list[float]:
        x = ranks(space, params)
        return [float(gain @ (1.0 - x) ** 2), float(price @ x)]

    return function


def of_active_layers(params: Mapping[str, Any]) -> float:
    """A cost of DEEP that ignores the layers beyond the depth."""
    layers = range(params["depth"])
    total = sum(params[f"layer{i}.heads"] + 0.5 * params[f"layer{i}.ffn"] for i in layers)
    return float(params["width"] + total)


def active_part(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a point of DEEP is, apart from its inactive layers."""
    layers = range(params["depth"])
    return (
        params["depth"],
        params["width"],
        *((params[f"layer{i}.heads"], params[f"layer{i}.ffn"]) for i in layers),
    )


def told(
    sampler: optuna.samplers.BaseSampler,
    space: Space,
    function: Function,
    n_trials: int,
    directions: tuple[str, ...] = ("minimize", "minimize"),
    study: optuna.Study | None = None,
) -> optuna.Study:
    """A study whose sampler was asked and told until it has so many trials."""
    study = study or optuna.create_study(directions=list(directions))
    study.sampler = sampler
    while len(study.get_trials(deepcopy=False)) < n_trials:
        trial = study.ask(space)
        study.tell(trial, function(trial.params))
    return study


def study_of(space: Space, params: list[dict[str, Any]], values: list[list[float]]) -> optuna.Study:
    """A finished study of given points."""
    study = optuna.create_study(directions=["minimize"] * len(values[0]))
    study.add_trials(
        create_trial(params=p, distributions=space, values=v)
        for p, v in zip(params, values, strict=True)
    )
    return study


def draws(space: ParameterSpace, seed: int, n: int) -> Array:
    """Uniform points."""
    return space.random(np.random.default_rng(seed), n)


def history_of(X_nd: Array, Y_nm: Array, running_rd: Array | None = None) -> History:
    """What a study without constraints was told."""
    return History(
        X_nd=X_nd,
        Y_nm=Y_nm,
        feasible_n=np.ones(len(X_nd), dtype=np.bool_),
        constraints={},
        running_rd=np.empty((0, X_nd.shape[1])) if running_rd is None else running_rd,
        failed_fd=np.empty((0, X_nd.shape[1])),
        sign_m=np.ones(Y_nm.shape[1]),
        ref_point_m=Y_nm.max(axis=0) + 1.0,
    )


class SlowKernel:
    """The kernel as its module states it, one pair of points and one column at a time.

    Args:
        features: of the space.
        theta: logarithms of the hyperparameters.
    """

    def __init__(self, features: FeatureMap, theta: Array) -> None:
        values = np.exp(theta).tolist()
        g = features.num_families
        names = ("shared", "own", "product_shared", "product_own", "closeness")
        self.family = {name: values[i * g : (i + 1) * g] for i, name in enumerate(names)}
        rest = values[5 * g :]
        self.relevance = rest[: features.num_parameters]
        self.constant, self.noise, self.remainder = rest[features.num_parameters :]
        self.features = features

    def pair(self, x: Columns, i: int, z: Columns, j: int) -> float:
        """Covariance of the function at point i of x and point j of z."""
        f = self.features
        linear = product = distance = 0.0
        for p, parameter in enumerate(f.parameter_p.tolist()):
            g = f.family_d[parameter]
            a, b = x.own_np[i, p], z.own_np[j, p]
            weight = self.relevance[parameter]
            linear += self.family["own"][g] * weight * a * b
            product += self.family["product_own"][g] * weight * a * b
            distance += self.family["closeness"][g] * weight * f.members_g[g] * (a - b) ** 2
        for s, g in enumerate(f.family_s.tolist()):
            a, b = x.shared_ns[i, s], z.shared_ns[j, s]
            linear += self.family["shared"][g] * a * b
            product += self.family["product_shared"][g] * a * b
        r = math.sqrt(5.0 * distance)
        matern = (1.0 + r + r * r / 3.0) * math.exp(-r)
        return float(self.constant + linear + product**2 + self.remainder * matern)

    def matrix(self, x: Columns, z: Columns) -> Array:
        """Covariances of all pairs."""
        rows = [[self.pair(x, i, z, j) for j in range(len(z))] for i in range(len(x))]
        return np.array(rows)


def some_theta(layout: Layout, seed: int) -> Array:
    """Hyperparameters about their medians, no two alike and none so small that an error in it could hide."""
    rng = np.random.default_rng(seed)
    theta = np.maximum(layout.median, math.log(1e-3)) + rng.normal(0.0, 0.5, len(layout.median))
    is_fixed = (
        layout.deviation < 0.1
    )  # there the prior is so sharp that it would drown everything else
    return np.where(is_fixed, layout.median, theta)
