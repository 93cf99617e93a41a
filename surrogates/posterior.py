"""Posterior of a Gaussian process with a Matern-5/2 kernel and given hyperparameters, in NumPy.

BoTorch finds the hyperparameters (``learned.py``); the posterior itself is three lines of linear algebra (Rasmussen & Williams 2006,
eq. 2.25 and 2.26), which makes refits for cross-validation, prediction and storage fast and free of PyTorch.

n training points, s points asked for, d inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from surrogates.base import FloatArray


@dataclass(frozen=True)
class Hyperparameters:
    """What BoTorch learns.

    Args:
        lengthscale_d: one per input.
        outputscale: variance of the process.
        mean: constant mean of the process.
        noise: variance of the noise that all records share.
    """

    lengthscale_d: FloatArray
    outputscale: float
    mean: float
    noise: float


def matern52(X_nd: FloatArray, X_sd: FloatArray, hyper: Hyperparameters) -> FloatArray:
    """Kernel matrix of shape (n, s) (Rasmussen & Williams 2006, eq. 4.17)."""
    from scipy.spatial.distance import cdist

    r_ns = math.sqrt(5.0) * cdist(X_nd / hyper.lengthscale_d, X_sd / hyper.lengthscale_d)
    kernel_ns: FloatArray = hyper.outputscale * (1.0 + r_ns + r_ns**2 / 3.0) * np.exp(-r_ns)
    return kernel_ns


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process conditioned on n points.

    Args:
        X_nd: inputs.
        y_n: targets.
        noise_n: known variance of each target, on top of ``hyper.noise``.
        hyper: hyperparameters.
    """

    X_nd: FloatArray
    y_n: FloatArray
    noise_n: FloatArray
    hyper: Hyperparameters

    @cached_property
    def _cholesky_nn(self) -> FloatArray:
        kernel = matern52(self.X_nd, self.X_nd, self.hyper)
        jitter = 1e-8 * self.hyper.outputscale
        kernel[np.diag_indices_from(kernel)] += self.noise_n + self.hyper.noise + jitter
        factor: FloatArray = np.linalg.cholesky(kernel).astype(np.float64)
        return factor

    @cached_property
    def _weights_n(self) -> FloatArray:
        from scipy.linalg import cho_solve

        weights: FloatArray = cho_solve((self._cholesky_nn, True), self.y_n - self.hyper.mean)
        return weights

    def __call__(self, X_sd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of the process itself (without noise) at s points, each of shape (s,)."""
        from scipy.linalg import solve_triangular

        kernel_ns = matern52(self.X_nd, X_sd, self.hyper)
        half_ns = solve_triangular(self._cholesky_nn, kernel_ns, lower=True)
        variance_s = self.hyper.outputscale - np.sum(half_ns**2, axis=0)
        return self.hyper.mean + kernel_ns.T @ self._weights_n, np.maximum(variance_s, 0.0)
