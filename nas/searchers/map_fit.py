"""Kernel of the BoTorch samplers, and its maximum a posteriori hyperparameters with the gradient in closed form.  NumPy and SciPy only.

    K = a matern52(r) + L + Q o Q + noise I,    r^2 = sum_j (x_j - x'_j)^2 / length_j^2,
    L = b u.u' + c v.v',    Q = d u.u' + e v.v'

u are features of single parameters, v of families of them (either may be all features or none), and the elementwise square of Q is the
covariance of the products of pairs of features (polynomial kernels; Duvenaud et al. 2011, 1112.4394): main effects and interactions are
learned from few trials, and the Matern part is left with what is neither.

The objective is the one that ``botorch.fit.fit_gpytorch_mll`` maximizes for the same model; tests/test_acquisition.py compares the
optima.  An evaluation of it and of its gradient costs a few matrix products and one inverse, a tenth of what it costs in gpytorch
for the sizes of a search (n <= 400).

Notation: n observations, f features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from nas.searchers.threads import one_blas_thread

FloatArray = npt.NDArray[np.float64]
_SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class LogNormal:
    """Prior of a positive hyperparameter: its logarithm is normal with mean ``loc`` and deviation ``scale``."""

    loc: float
    scale: float

    @classmethod
    def of_mode(cls, mode: float, scale: float) -> LogNormal:
        """The prior whose most probable value is ``mode``."""
        return cls(math.log(mode) + scale**2, scale)

    @property
    def mode(self) -> float:
        """Most probable value."""
        return math.exp(self.loc - self.scale**2)

    def cost(self, log_value: FloatArray) -> tuple[float, FloatArray]:
        """Negative log density up to a constant, and its derivative by the logarithm."""
        z = (log_value - self.loc) / self.scale
        return float(np.sum(0.5 * z**2 + log_value)), z / self.scale + 1.0


@dataclass(frozen=True)
class Parts:
    """Which features each part of the kernel sees.

    Args:
        matern: of the Matern part.
        own: u, features of single parameters.
        shared: v, features of families; may be empty.
    """

    matern: slice
    own: slice
    shared: slice

    @classmethod
    def plain(cls, num_features: int) -> Parts:
        """Every feature in the Matern part and in u."""
        return cls(slice(0, num_features), slice(0, num_features), slice(0, 0))


@dataclass(frozen=True)
class Priors:
    """Priors of the hyperparameters, and the lower bounds of two of them."""

    length: LogNormal
    noise: LogNormal
    matern: LogNormal
    own: LogNormal
    shared: LogNormal
    product_own: LogNormal
    product_shared: LogNormal
    min_length: float
    min_noise: float

    @property
    def scalars(self) -> tuple[LogNormal, ...]:
        """All but the length scales', in the order of :attr:`Hyperparameters.scalars`."""
        linear = (self.own, self.shared, self.product_own, self.product_shared)
        return (self.noise, self.matern, *linear)


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales of the Matern part's features, and noise, a, b, c, d, e of the kernel; the constant mean; the cost reached."""

    lengths_f: FloatArray
    noise: float
    matern: float
    own: float
    shared: float
    product_own: float
    product_shared: float
    constant: float
    cost: float

    @property
    def scalars(self) -> tuple[float, ...]:
        """Noise and the weights of the parts."""
        linear = (self.own, self.shared, self.product_own, self.product_shared)
        return (self.noise, self.matern, *linear)


def covariance(A_nf: FloatArray, B_cf: FloatArray, h: Hyperparameters, parts: Parts) -> FloatArray:
    """Prior covariance K_nc of the function (without noise) between two sets of features."""
    A, B = A_nf[:, parts.matern] / h.lengths_f, B_cf[:, parts.matern] / h.lengths_f
    r2 = A @ (-2.0 * B.T)
    r2 += (A**2).sum(axis=1)[:, None]
    r2 += (B**2).sum(axis=1)[None, :]
    np.maximum(r2, 0.0, out=r2)
    if A_nf is B_cf:
        np.fill_diagonal(r2, 0.0)
    root = np.sqrt(r2)
    root *= _SQRT5
    r2 *= 5.0 / 3.0
    r2 += root
    r2 += 1.0
    np.negative(root, out=root)
    r2 *= np.exp(root, out=root)
    r2 *= h.matern
    own = A_nf[:, parts.own] @ B_cf[:, parts.own].T
    shared = A_nf[:, parts.shared] @ B_cf[:, parts.shared].T
    Q = h.product_own * own
    Q += h.product_shared * shared
    Q *= Q
    own *= h.own
    shared *= h.shared
    for part in (own, shared, Q):
        r2 += part
    return np.asarray(r2)


def variance(A_nf: FloatArray, h: Hyperparameters, parts: Parts) -> FloatArray:
    """Diagonal of :func:`covariance` of features with themselves."""
    own = (A_nf[:, parts.own] ** 2).sum(axis=1)
    shared = (A_nf[:, parts.shared] ** 2).sum(axis=1)
    product = h.product_own * own + h.product_shared * shared
    return np.asarray(h.matern + h.own * own + h.shared * shared + product**2)


def fit(
    F_nf: FloatArray,
    y_n: FloatArray,
    priors: Priors,
    parts: Parts,
    start: Hyperparameters | None = None,
    max_steps: int = 200,
) -> Hyperparameters:
    """Fit by L-BFGS, on one thread.

    Matrices of this size gain nothing from more, and BLAS threads that wait take the cores from torch's.

    Args:
        F_nf: features; the linear parts of the kernel have their origin at 0.
        y_n: standardized values.
        priors: of all hyperparameters.
        parts: which features each part of the kernel sees.
        start: where to begin, usually the fit to fewer observations; by default the priors' modes.
        max_steps: L-BFGS iterations.

    Returns:
        The hyperparameters; ``cost`` is the negative log posterior up to the priors' constants.
    """
    with one_blas_thread():
        return _fit(F_nf, y_n, priors, parts, start, max_steps)


def _fit(
    F_nf: FloatArray,
    y_n: FloatArray,
    priors: Priors,
    parts: Parts,
    start: Hyperparameters | None,
    max_steps: int,
) -> Hyperparameters:
    F = F_nf[:, parts.matern]
    n, f = F.shape
    squares = F**2
    own = F_nf[:, parts.own] @ F_nf[:, parts.own].T
    shared = F_nf[:, parts.shared] @ F_nf[:, parts.shared].T
    ones = np.ones(n)

    def solve(theta: FloatArray) -> tuple[float, FloatArray, float]:
        lengths = np.exp(theta[:f])
        noise, matern, b, c, d, e = np.exp(theta[f:]).tolist()
        scaled = F / lengths
        norms = (scaled**2).sum(axis=1)
        r = np.sqrt(np.maximum(norms[:, None] + norms[None, :] - 2.0 * scaled @ scaled.T, 0.0))
        np.fill_diagonal(r, 0.0)
        decay = np.exp(-_SQRT5 * r)
        M = (1.0 + _SQRT5 * r + 5.0 / 3.0 * r**2) * decay
        Q = d * own + e * shared
        K = matern * M + b * own + c * shared + Q * Q
        K[np.diag_indices(n)] += noise + 1e-10
        L, info = dpotrf(K, lower=1, clean=1)
        if info:  # numerically singular: the line search steps back
            return 1e10, np.zeros(f + 6), 0.0
        inverse, _ = dpotri(L, lower=1)  # a third of the cost of solving for the identity
        inverse += np.tril(inverse, -1).T
        constant = float(ones @ inverse @ y_n / (ones @ inverse @ ones))  # optimal given the rest
        alpha = inverse @ (y_n - constant)
        log_det = 2.0 * float(np.log(np.diag(L)).sum())
        cost = 0.5 * (float((y_n - constant) @ alpha) + log_det + n * math.log(2.0 * math.pi))
        # d cost / d K = (inverse - alpha alpha^T) / 2 and, for the Matern part,
        # d K / d log length_j = a 5/3 (1 + sqrt5 r) decay (x_j - x'_j)^2 / length_j^2
        by_K = 0.5 * (inverse - np.outer(alpha, alpha))
        G = by_K * (matern * 5.0 / 3.0 * (1.0 + _SQRT5 * r) * decay)
        pairs = 2.0 * (G.sum(axis=1) @ squares - np.einsum("nf,nf->f", F, G @ F))
        by_Q = 2.0 * by_K * Q
        slope = np.empty(f + 6)
        slope[:f] = pairs / lengths**2
        slope[f:] = (
            float(np.trace(by_K)) * noise,
            float(np.sum(by_K * M)) * matern,
            float(np.sum(by_K * own)) * b,
            float(np.sum(by_K * shared)) * c,
            float(np.sum(by_Q * own)) * d,
            float(np.sum(by_Q * shared)) * e,
        )
        prior_cost, prior_slope = priors.length.cost(theta[:f])
        cost += prior_cost
        slope[:f] += prior_slope
        for i, prior in enumerate(priors.scalars, start=f):
            prior_cost, prior_slope = prior.cost(theta[i : i + 1])
            cost += prior_cost
            slope[i] += float(prior_slope[0])
        return cost, slope, constant

    theta = np.full(f + 6, math.log(max(priors.length.mode, priors.min_length)))
    theta[f:] = np.log([prior.mode for prior in priors.scalars])
    theta[f] = math.log(max(priors.noise.mode, priors.min_noise))
    if start is not None:
        theta[:f] = np.log(start.lengths_f)
        theta[f:] = np.log(start.scalars)
    length_bounds, noise_bounds = (
        (math.log(low), high) for low, high in ((priors.min_length, 12.0), (priors.min_noise, 5.0))
    )
    result = minimize(
        lambda theta: solve(theta)[:2],
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=[length_bounds] * f + [noise_bounds] + [(-16.0, 6.0)] * 5,
        options={"maxiter": max_steps},
    )
    cost, _, constant = solve(result.x)
    noise, matern, b, c, d, e = np.exp(result.x[f:]).tolist()
    return Hyperparameters(np.exp(result.x[:f]), noise, matern, b, c, d, e, constant, cost)
