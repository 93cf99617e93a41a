"""Studies of a given length on a function of 27 choices and two objectives, without the time it takes to search so long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import create_trial

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
NUM_LAYERS = 13
CHOICES = {"heads": (4, 8, 12), "ratio": (2, 3, 4)}
WIDTHS = (256, 512, 768)
# How many of the told points are uniform draws; the others lie about the front, as those of a search do.
_UNIFORM = 0.1
_CHANGED = 0.1  # choices of such a point that are redrawn


def space() -> dict[str, BaseDistribution]:
    """27 choices of three values: two for each of 13 layers, and the width."""
    layers: dict[str, BaseDistribution] = {
        f"layer{i}.{name}": CategoricalDistribution(values)
        for i in range(NUM_LAYERS)
        for name, values in CHOICES.items()
    }
    return layers | {"width": CategoricalDistribution(WIDTHS)}


class TwoSums:
    """An error that falls, and a cost that rises, with every choice by an amount of its own; both are positive and minimized.

    Args:
        seed: of the amounts.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.names = tuple(space())
        self._gain_d, self._price_d = rng.uniform(0.2, 1.0, (2, len(self.names)))
        self._values = [dist.choices for dist in _categorical()]

    def __call__(self, params: Mapping[str, Any]) -> list[float]:
        """Error and cost of a point."""
        rank_d = [
            values.index(params[n]) for n, values in zip(self.names, self._values, strict=True)
        ]
        values: list[float] = self.of_ranks(np.array([rank_d]))[0].tolist()
        return values

    def of_ranks(self, rank_nd: IntArray) -> FloatArray:
        """Error and cost of n points given by the rank of each choice, shape (n, 2)."""
        x_nd = rank_nd / 2.0
        return np.stack(
            [1.0 + (1.0 - x_nd) ** 2 @ self._gain_d, 1.0 + x_nd @ self._price_d], axis=1
        )

    def told_ranks(self, seed: int, n: int) -> IntArray:
        """n points as a search of so many trials would have told: some uniform, most about the front; no two alike.

        A longer list starts with the shorter one's points.
        """
        rng = np.random.default_rng(seed)
        found: dict[bytes, IntArray] = {}
        while len(found) < n:
            weight = rng.random()
            # of each choice, the rank with the least weighted sum
            grid = np.arange(3)[:, None] / 2.0
            sums = weight * (1.0 - grid) ** 2 * self._gain_d + (1.0 - weight) * grid * self._price_d
            is_uniform = rng.random() < _UNIFORM
            redrawn_d = rng.random(len(self.names)) < (1.0 if is_uniform else _CHANGED)
            rank_d = np.where(redrawn_d, rng.integers(3, size=len(self.names)), sums.argmin(axis=0))
            found.setdefault(rank_d.tobytes(), rank_d)
        return np.array(list(found.values()), dtype=np.int64).reshape(-1, len(self.names))

    def params(self, rank_d: IntArray) -> dict[str, Any]:
        """Values of the choices."""
        return {
            name: values[rank]
            for name, values, rank in zip(self.names, self._values, rank_d.tolist(), strict=True)
        }


def study_of(function: TwoSums, seed: int, n: int) -> optuna.Study:
    """A study in memory with n complete trials."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    ranks = function.told_ranks(seed, n)
    distributions = space()
    study.add_trials(
        create_trial(params=function.params(rank_d), distributions=distributions, values=values)
        for rank_d, values in zip(ranks, function.of_ranks(ranks).tolist(), strict=True)
    )
    return study


def _categorical() -> list[CategoricalDistribution]:
    return [dist for dist in space().values() if isinstance(dist, CategoricalDistribution)]
