"""What is believed of one quantity: its scale, its structure and its hyperparameters by evidence, and the exact posterior they give.

The evidence (type-II marginal likelihood, Rasmussen & Williams 2006, sec. 5.4) chooses between descriptions: of the value or of its
logarithm, with every parameter at work or with those beyond the counter switched off, computed or measured with noise. What a rough
function and noise look like differs only where points are alike, so noise is believed only where it is clearly likelier.

n points, c candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtri

from nas.searchers.structured.features import Columns, FeatureMap
from nas.searchers.structured.kernel import JITTER, Gram, Layout, maximize_evidence
from nas.searchers.structured.outliers import noise_inflation
from nas.searchers.tails import without_tail

FloatArray = npt.NDArray[np.float64]
_TRIAL_STEPS, _COLD_STEPS, _WARM_STEPS = 15, 120, 40
_NOISE_COST = 2.0  # nats by which noise has to be likelier than a rough function
_OUTLIER_COST = 3.0  # nats of an observation that is none of the others' kind: one in twenty
_CLEARLY = 1.5  # times the noise, from which on an observation is such a one
_REWEIGHTED = 2  # fits with inflated noise


@dataclass(frozen=True, eq=False)
class Description:
    """How a quantity is modeled.

    Args:
        is_log: whether the logarithm is modeled.
        is_gated: whether parameters beyond the counter are switched off.
        theta: logarithms of the hyperparameters (see nas/searchers/structured/kernel.py).
        is_noisy: whether it is measured with noise, and outliers are to be expected.
    """

    is_log: bool
    is_gated: bool
    theta: FloatArray
    is_noisy: bool = False


@dataclass(frozen=True, eq=False)
class Data:
    """Observations of one quantity.

    Args:
        X_nd: points.
        y_n: values.
        extra_ne: extra columns of the points, if the feature map has any.
    """

    X_nd: FloatArray
    y_n: FloatArray
    extra_ne: FloatArray | None = None


def describe(
    features: FeatureMap, data: Data, may_log: bool = True, is_noisy: bool | None = None
) -> Description:
    """The likeliest description, from nothing but the data.

    Args:
        features: of the space.
        data: two observations or more.
        may_log: whether the quantity may be modeled by its logarithm (only where all values are positive).
        is_noisy: whether it is measured with noise; None to choose.
    """
    scales = [False, True] if may_log and float(data.y_n.min()) > 0.0 else [False]
    gates = [False, True] if features.gate is not None else [False]
    columns = {g: features(data.X_nd, g, data.extra_ne) for g in gates}

    def fitted(is_log: bool, is_gated: bool, is_noisy: bool) -> tuple[float, Description]:
        layout = Layout(features, is_noisy)
        y, _, size, jacobian = _standardized(data.y_n, is_log)
        theta, cost = maximize_evidence(y, columns[is_gated], layout, layout.median, _TRIAL_STEPS)
        cost += jacobian + len(y) * np.log(size)
        return cost, Description(is_log, is_gated, theta, is_noisy)

    found = min((fitted(s, False, bool(is_noisy)) for s in scales), key=_cost)
    if len(gates) > 1:
        found = min(found, fitted(found[1].is_log, True, bool(is_noisy)), key=_cost)
    best = found[1]
    if is_noisy is None:
        x, y = columns[best.is_gated], _standardized(data.y_n, best.is_log)[0]
        exact, noisy = Layout(features), Layout(features, is_noisy=True)
        start = maximize_evidence(y, x, noisy, noisy.median, _TRIAL_STEPS)[0]
        inflation = _inflation(x, noisy, start, y)
        theta, cost = maximize_evidence(y, x, noisy, start, _TRIAL_STEPS, inflation)
        cost += _OUTLIER_COST * int((inflation > _CLEARLY).sum()) + _NOISE_COST
        # as many steps for either: evidence that still grows would favor the longer fit
        if cost < maximize_evidence(y, x, exact, best.theta, _TRIAL_STEPS)[1]:
            best = replace(best, theta=theta, is_noisy=True)
    return refine(features, data, best, _COLD_STEPS)


def _cost(fitted: tuple[float, Description]) -> float:
    return fitted[0]


def refine(
    features: FeatureMap, data: Data, description: Description, steps: int = _WARM_STEPS
) -> Description:
    """The same description with hyperparameters fitted to more data, starting from the old ones."""
    x = features(data.X_nd, description.is_gated, data.extra_ne)
    is_log = description.is_log and float(data.y_n.min()) > 0.0
    y = _standardized(data.y_n, is_log)[0]
    layout = Layout(features, description.is_noisy)
    theta, _ = maximize_evidence(y, x, layout, description.theta, steps)
    for _ in range(_REWEIGHTED if description.is_noisy else 0):
        inflation = _inflation(x, layout, theta, y)
        theta, _ = maximize_evidence(y, x, layout, theta, steps, inflation)
    return replace(description, is_log=is_log, theta=theta)


def _inflation(x: Columns, layout: Layout, theta: FloatArray, y_n: FloatArray) -> FloatArray:
    h = layout.unpack(theta)
    return noise_inflation(Gram(x, h)(x), h.noise, y_n)


class Belief:
    """Posterior of one quantity.

    Args:
        features: of the space.
        data: what was observed.
        description: how the quantity is modeled.
    """

    def __init__(self, features: FeatureMap, data: Data, description: Description) -> None:
        self.is_log = description.is_log and float(data.y_n.min()) > 0.0
        self.is_gated = description.is_gated
        self._features = features
        h = Layout(features, description.is_noisy).unpack(description.theta)
        y, self._center, self._size, _ = _standardized(data.y_n, self.is_log)
        x = features(data.X_nd, self.is_gated, data.extra_ne)
        self._gram = Gram(x, h)
        K = self._gram(x)
        inflation = noise_inflation(K, h.noise, y) if description.is_noisy else 1.0
        K[np.diag_indices(len(y))] += h.noise * inflation + JITTER
        inverse, _ = dtrtri(np.linalg.cholesky(K), lower=1)
        self._root = np.tril(inverse)
        self._weights_n = self._root.T @ (self._root @ y)
        self.noise_std = float(np.sqrt(h.noise)) * self._size

    def columns(self, X_cd: FloatArray, extra_ce: FloatArray | None = None) -> Columns:
        """Features of points, as :meth:`predict` takes them."""
        return self._features(X_cd, self.is_gated, extra_ce)

    def predict(self, z: Columns) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation at points, without the noise of an observation.

        Where :attr:`is_log` they are those of the logarithm.
        """
        K = self._gram(z)
        explained = K @ self._root.T
        variance = self._gram.variance(z) - np.einsum("cn,cn->c", explained, explained)
        std = np.sqrt(np.maximum(variance, 1e-10))
        return K @ self._weights_n * self._size + self._center, std * self._size

    def typical(self, z: Columns) -> FloatArray:
        """Median of the quantity itself at points."""
        mean = self.predict(z)[0]
        return np.exp(mean) if self.is_log else mean


def _standardized(y_n: FloatArray, is_log: bool) -> tuple[FloatArray, float, float, float]:
    """Values of unit variance, their center and size, and what the logarithm adds to the cost of the evidence."""
    y_n = without_tail(
        y_n
    )  # before the logarithm, so that the evidence weighs the same values on either scale
    z = np.log(y_n) if is_log else y_n
    jacobian = float(z.sum()) if is_log else 0.0
    center, size = float(z.mean()), float(z.std())
    size = size if size > 1e-12 * max(abs(center), 1e-300) else 1.0
    return (z - center) / size, center, size, jacobian
