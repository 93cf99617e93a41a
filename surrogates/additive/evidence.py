"""Hyperparameters by the marginal likelihood, and a robust posterior for given ones.

Rows that a normal distribution cannot explain (a measurement on another node of the cluster, a clock that dropped) lose weight: the
noise is Student's t with 4 degrees of freedom, fitted by reweighting (Lange, Little & Taylor 1989, JASA 84(408), sec. 2).

n architectures, p whitened features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surrogates.additive.kernel import NAMES, Gram
from surrogates.base import FloatArray

_FREEDOM = 4.0
_PRIOR_WEIGHT = 0.05  # half the precision of the normal prior of every log-hyperparameter: its deviation is about 3
_BOUNDS = (-18.0, 9.0)
_JITTER = 1e-8


def learn(
    gram: Gram,
    y_n: FloatArray,
    noise_n: FloatArray,
    prior: FloatArray,
    start: FloatArray,
    steps: int,
) -> FloatArray:
    """Maximize log marginal likelihood plus log prior by L-BFGS with exact gradients (Rasmussen & Williams 2006, eq. 5.9).

    Args:
        gram: prior covariance of n architectures.
        y_n: targets, of about unit variance.
        noise_n: variance of each target's noise relative to the hyperparameter ``noise``.
        prior: medians of the hyperparameters' prior, as logarithms.
        start: where to begin.
        steps: at most this many iterations.

    Returns:
        Logarithms of the hyperparameters, in the order of ``NAMES``.
    """
    from scipy.optimize import minimize

    n = len(y_n)
    where = {name: i for i, name in enumerate(NAMES)}

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        K_nn, slopes_of = gram(theta)
        own_n = np.exp(theta[where["noise"]]) * noise_n
        K_nn[np.diag_indices(n)] += own_n + _JITTER * np.exp(theta[where["constant"]])
        gap = theta - prior
        try:
            factor_nn = np.asarray(np.linalg.cholesky(K_nn), dtype=np.float64)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros(len(theta))
        inverse_nn = _inverse_of_factor(factor_nn)
        weights_n = inverse_nn @ y_n
        value = 0.5 * y_n @ weights_n + np.log(np.diag(factor_nn)).sum()
        half_nn = 0.5 * (inverse_nn - np.outer(weights_n, weights_n))
        gradient = 2.0 * _PRIOR_WEIGHT * gap
        for name, slope in slopes_of(half_nn).items():
            gradient[where[name]] += slope
        gradient[where["noise"]] += float(np.diag(half_nn) @ own_n)
        return float(value + _PRIOR_WEIGHT * gap @ gap), gradient

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(start),
        options={"maxiter": steps},
    )
    theta: FloatArray = found.x
    return theta


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weights of the whitened features: mean, and covariance I * whole + sign * M^T M.

    Args:
        mean_p: posterior mean.
        spread_rp: M.
        is_reduction: whether M^T M is subtracted from the identity (few rows) or is the covariance itself.
    """

    mean_p: FloatArray
    spread_rp: FloatArray
    is_reduction: bool

    def __call__(self, psi_sp: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance at s points, each of shape (s,)."""
        part_s = np.einsum("sr,sr->s", moved := psi_sp @ self.spread_rp.T, moved)
        if self.is_reduction:
            part_s = np.einsum("sp,sp->s", psi_sp, psi_sp) - part_s
        return psi_sp @ self.mean_p, np.maximum(part_s, 0.0)

    def compressed(self, psi_sp: FloatArray, allowed: float) -> Posterior:
        """Without the directions of a full covariance that hardly matter at any of s points.

        Args:
            psi_sp: whitened features of points all over the space, not of the records only.
            allowed: variance that may be lost, on average over the points.
        """
        if self.is_reduction:
            return self
        left, values, _ = np.linalg.svd(self.spread_rp @ psi_sp.T, full_matrices=False)
        lost = np.cumsum((values**2)[::-1])[::-1] / len(psi_sp)
        keep = lost > allowed
        return Posterior(self.mean_p, left[:, keep].T @ self.spread_rp, False)


def robust_weights(residual_n: FloatArray, variance_n: FloatArray) -> FloatArray:
    """Weights of the normal equations that a t-distribution gives residuals, 1.25 for one of 0.

    Args:
        residual_n: target minus what the others say about it.
        variance_n: variance that residual should have, up to a factor that all share.
    """
    e_n = residual_n / np.sqrt(variance_n)
    scale = 1.4826 * float(np.median(np.abs(e_n))) * np.sqrt(0.5) + 1e-12
    weight_n: FloatArray = (_FREEDOM + 1.0) / (_FREEDOM + (e_n / scale) ** 2)
    return weight_n


def solve(
    psi_np: FloatArray, y_n: FloatArray, noise_n: FloatArray, reweightings: int = 6
) -> tuple[FloatArray, FloatArray]:
    """Robust posterior mean of the weights, for features whose prior is standard normal.

    A row is judged by what the *other* rows say about it (leave-one-out in closed form, Rasmussen & Williams 2006, eq. 5.12): with
    few rows, one that nothing else resembles is fitted exactly and would look better than all others.

    Args:
        psi_np: whitened features.
        y_n: targets.
        noise_n: variance of each target's noise.
        reweightings: solves; the first has every row at its full weight.

    Returns:
        The mean of shape (p,), and the noise variances that the last solve used, of shape (n,).
    """
    n, p = psi_np.shape
    gram_nn = psi_np @ psi_np.T if n <= p else None
    used_n = noise_n
    for turn in range(reweightings):
        if gram_nn is not None:
            inverse_nn = inverse_spd(gram_nn + np.diag(used_n))
            alpha_n, precision_n = inverse_nn @ y_n, np.diag(inverse_nn)
            mean_p = psi_np.T @ alpha_n
            left_n = alpha_n / precision_n
            known_n = np.maximum(1.0 / precision_n - used_n, 0.0)
        else:  # more rows than features: each weighs little, and its own residual will do
            inner_pp = (psi_np.T / used_n) @ psi_np + np.eye(p)
            mean_p = _solve_spd(inner_pp, psi_np.T @ (y_n / used_n))
            left_n, known_n = y_n - psi_np @ mean_p, np.zeros(n)
        if turn < reweightings - 1:
            used_n = noise_n / robust_weights(left_n, known_n + noise_n)
    return mean_p, used_n


def inverse_spd(matrix: FloatArray) -> FloatArray:
    """Inverse of a symmetric positive definite matrix.

    Raises:
        numpy.linalg.LinAlgError: if it is not positive definite.
    """
    return _inverse_of_factor(_cholesky(matrix))


def _inverse_of_factor(lower_nn: FloatArray) -> FloatArray:
    """Inverse of L L^T for a lower triangular L, at a third of the cost of solving for the identity."""
    from scipy.linalg.lapack import dpotri

    half_nn, _ = dpotri(lower_nn, lower=1)
    found: FloatArray = half_nn + np.tril(half_nn, -1).T
    return found


def _cholesky(matrix: FloatArray) -> FloatArray:
    """Lower factor; a matrix that rounding has made indefinite gets the least of a few jitters that mends it.

    Noise far below a prior that is wide (a device without noise, but for some wild rows) leaves fewer digits than there are.
    """
    size = float(np.mean(np.diag(matrix)))
    for jitter in (0.0, 1e-13, 1e-11, 1e-9):
        try:
            jittered = matrix + jitter * size * np.eye(len(matrix))
            return np.asarray(np.linalg.cholesky(jittered), dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("expected a positive definite matrix")


def _solve_spd(matrix: FloatArray, right: FloatArray) -> FloatArray:
    from scipy.linalg import cho_factor, cho_solve

    found: FloatArray = cho_solve(cho_factor(matrix, lower=True), right)
    return found


def posterior(psi_np: FloatArray, y_n: FloatArray, noise_n: FloatArray) -> Posterior:
    """Robust posterior with its covariance."""
    mean_p, used_n = solve(psi_np, y_n, noise_n)
    n, p = psi_np.shape
    if n <= p:
        factor_nn = _cholesky(psi_np @ psi_np.T + np.diag(used_n))
        from scipy.linalg import solve_triangular

        return Posterior(mean_p, solve_triangular(factor_nn, psi_np, lower=True), True)
    eigenvalues, vectors = np.linalg.eigh((psi_np.T / used_n) @ psi_np)
    return Posterior(mean_p, (vectors / np.sqrt(1.0 + np.maximum(eigenvalues, 0.0))).T, False)


def out_of_fold(
    psi_np: FloatArray,
    y_n: FloatArray,
    noise_n: FloatArray,
    fold_n: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance at the rows of some folds from a posterior that has not seen the row's fold, each of shape (n,).

    The features are first rotated to at most n, so that each fold costs one small system however many features there are.
    """
    n, p = psi_np.shape
    if n < p:
        eigenvalues, vectors = np.linalg.eigh(psi_np @ psi_np.T)
        psi_np = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    mean_n, variance_n = np.zeros(n), np.zeros(n)
    for fold in folds:
        held = fold_n == fold
        seen = posterior(psi_np[~held], y_n[~held], noise_n[~held])
        mean_n[held], variance_n[held] = seen(psi_np[held])
    return mean_n, variance_n
