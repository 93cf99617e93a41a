"""Prediction, the only thing a surrogate returns, and Surrogate, what every surrogate can do.

A Prediction is a belief. It is deliberately another type than ``nas.objectives.Evaluation``, which holds what was measured
or computed exactly: an Evaluation refuses Predictions, so a guess cannot enter a Pareto front.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a surrogate believes about n architectures, in the unit it was fitted to.

    The interval is about one fresh measurement, not about the mean of many.

    Args:
        mean_n: expected value.
        std_n: standard deviation of a measurement around ``mean_n``.
        low_n: lower end of the interval.
        high_n: upper end of the interval.
        level: probability with which the interval should hold a fresh measurement, in (0, 1).
        extrapolates_n: True where the architecture lies outside the data of the fit; there the interval promises nothing.
        log_scale_n: unit of ``knots_q`` at each architecture; None for a log-normal distribution of this mean and deviation.
        knots_q: quantiles of ``log(measured / mean)`` in that unit, at q probabilities evenly spaced in (0, 1).

    Raises:
        ValueError: if the arrays differ in shape, are not finite, or are not ordered low <= mean <= high.
    """

    mean_n: FloatArray
    std_n: FloatArray
    low_n: FloatArray
    high_n: FloatArray
    level: float = 0.9
    extrapolates_n: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    log_scale_n: FloatArray | None = None
    knots_q: FloatArray | None = None

    def __post_init__(self) -> None:
        n = np.asarray(self.mean_n).shape
        if len(n) != 1:
            raise ValueError(f"expected mean_n with one dimension, got shape {n}")
        if np.size(self.extrapolates_n) == 0:
            object.__setattr__(self, "extrapolates_n", np.zeros(n, dtype=np.bool_))
        for name in ("mean_n", "std_n", "low_n", "high_n", "extrapolates_n"):
            kind = np.bool_ if name == "extrapolates_n" else np.float64
            array: npt.NDArray[Any] = np.array(getattr(self, name), dtype=kind)
            if array.shape != n:
                raise ValueError(f"expected {name} of shape {n} like mean_n, got {array.shape}")
            if not np.all(np.isfinite(array)):
                raise ValueError(
                    f"expected finite numbers in {name}, got {array[~np.isfinite(array)][0]}"
                )
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"expected an interval level in (0, 1), got {self.level!r}")
        if np.any(self.std_n < 0):
            raise ValueError(f"expected std_n of 0 or more, got {self.std_n.min()}")
        wrong = (self.low_n > self.mean_n) | (self.mean_n > self.high_n)
        if np.any(wrong):
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"expected low <= mean <= high, got {self.low_n[i]}, {self.mean_n[i]}, {self.high_n[i]} "
                f"at position {i}"
            )

    def __len__(self) -> int:
        return len(self.mean_n)

    def quantiles(self, probabilities_p: npt.ArrayLike) -> FloatArray:
        """Quantiles of a fresh measurement, shape (n, p); never negative. Beyond the outermost knot stands that knot.

        Args:
            probabilities_p: in (0, 1).

        Raises:
            ValueError: if a probability is outside (0, 1).
        """
        p = np.atleast_1d(np.asarray(probabilities_p, dtype=np.float64))
        if p.ndim != 1 or not np.all((p > 0) & (p < 1)):
            raise ValueError(f"expected probabilities in (0, 1), got {p.tolist()}")
        return self._at(np.broadcast_to(p, (len(self), len(p))))

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """One draw of each measurement, independent of each other, above 0; shape (n,)."""
        return self._at(rng.uniform(1e-9, 1.0 - 1e-9, size=(len(self), 1)))[:, 0]

    def _at(self, probability_np: FloatArray) -> FloatArray:
        """Inverse distribution function of each architecture."""
        mean_n1 = self.mean_n[:, None]
        if self.knots_q is not None and self.log_scale_n is not None:
            at_q = (np.arange(len(self.knots_q)) + 0.5) / len(self.knots_q)
            score_np = np.interp(probability_np, at_q, self.knots_q)
            exponent_np = np.clip(score_np * self.log_scale_n[:, None], -50.0, 50.0)
            shaped: FloatArray = mean_n1 * np.exp(exponent_np)
            return shaped
        from scipy.special import ndtri

        variance_n1 = np.log1p((self.std_n[:, None] / np.maximum(mean_n1, 1e-300)) ** 2)
        median_n1 = mean_n1 * np.exp(-0.5 * variance_n1)
        found: FloatArray = median_n1 * np.exp(np.sqrt(variance_n1) * ndtri(probability_np))
        return found

    def to_json(self, index: int) -> dict[str, Any]:
        """One architecture's belief as JSON values: mean, low, high, extrapolates."""
        return {
            "mean": float(self.mean_n[index]),
            "low": float(self.low_n[index]),
            "high": float(self.high_n[index]),
            "extrapolates": bool(self.extrapolates_n[index]),
        }


@runtime_checkable
class Surrogate(Protocol):
    """A posterior over one metric of architectures (tests/contracts.py holds the laws)."""

    def fit(self, architectures: Sequence[Architecture], values_n: npt.ArrayLike, /) -> Self:
        """Learn from n measurements; a second call forgets the first. Returns itself.

        Raises:
            ValueError: if there are too few measurements, or one is not finite and positive.
        """
        ...

    def predict(self, architectures: Sequence[Architecture]) -> Prediction:
        """Believe something about architectures, in the order given.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        ...

    def sample(self, architectures: Sequence[Architecture], rng: np.random.Generator) -> FloatArray:
        """One measurement each, drawn from the predictive distribution, in the order given.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted surrogate to one file; a classmethod ``load(path)`` reads it.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        ...
