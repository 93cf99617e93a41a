"""Gaussian processes of the BoTorch samplers: BoTorch's model and priors, fitted and evaluated in closed form.

A learned quantity is a BoTorch SingleTaskGP whose kernel (nas/searchers/map_fit.py) adds main effects and their products to the
Matern-5/2 one, which has one length scale per feature under the dimension-scaled prior of Hvarfner et al. (2024, 2402.02229):
architectures far from those told are then extrapolated, not taken for average ones.  For the sizes of a search (n <= 400) most of the
time of gpytorch goes into objects, so moments and draws are computed here in NumPy; :attr:`GaussianProcess.model` is the same process as a
BoTorch model, and tests/test_acquisition.py compares the two.

n observations, c candidates, b baseline points, f features, S function draws.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel, LinearKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import LogNormalPrior
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf
from scipy.stats import skew

from nas.searchers.map_fit import (
    Hyperparameters,
    LogNormal,
    Parts,
    Priors,
    covariance,
    fit,
    variance,
)

FloatArray = npt.NDArray[np.float64]
# Priors of the shares of the parts in the variance of the standardized values: main effects first, the Matern part last.
_MATERN = LogNormal.of_mode(0.01, 2.0)
_LINEAR_MODE, _LINEAR_SCALE = 0.37, 2.0
# Of the noise: BoTorch's (mode 0.007, 0.0001 at least) blurs a front of dozens of points that were computed, not measured.
_NOISE = LogNormal.of_mode(1e-4, 2.5)
_MIN_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Description:
    """How a quantity is modeled, found by a fit and kept until the next.

    Args:
        is_log: whether its logarithm is modeled.
        mean: of the (log) values, which the model sees standardized.
        scale: standard deviation of the same.
        found: hyperparameters of the standardized values.
    """

    is_log: bool
    mean: float
    scale: float
    found: Hyperparameters


def describe(
    F_nf: FloatArray,
    y_n: FloatArray,
    may_log: bool = True,
    before: Description | None = None,
    parts: Parts | None = None,
) -> Description:
    """Fit the hyperparameters, from the priors' modes or from those of an earlier fit.

    Args:
        F_nf: features of the observations, in [0, 1].
        y_n: observed values.
        may_log: whether to model the logarithm where all values are positive and that makes them less skewed.
        before: description of fewer observations, whose hyperparameters are the start; its choice of the logarithm stays.
        parts: which features each part of the kernel sees; by default all of them.
    """
    parts = parts or Parts.plain(F_nf.shape[1])
    if before is not None and fits(before, y_n):
        is_log, start = before.is_log, before.found
    else:
        positive = may_log and float(y_n.min()) > 0.0
        is_log = positive and abs(_skewness(np.log(y_n))) < abs(_skewness(y_n))
        start = None
    y = np.log(y_n) if is_log else y_n
    mean, scale = float(y.mean()), float(y.std()) or 1.0
    found = fit(F_nf, (y - mean) / scale, _priors(F_nf, parts), parts, start)
    return Description(is_log, mean, scale, found)


def fits(description: Description, y_n: FloatArray) -> bool:
    """Whether values can be described so: a logarithm needs positive ones."""
    return not description.is_log or float(y_n.min()) > 0.0


class GaussianProcess:
    """Posterior of one quantity over feature vectors.

    Args:
        F_nf: features of the observations, in [0, 1].
        y_n: observed values.
        may_log: whether to model the logarithm where all values are positive and that makes them less skewed.
        description: of an earlier fit to some of these observations; by default one is fitted here.
        parts: which features each part of the kernel sees; by default all of them.
    """

    def __init__(
        self,
        F_nf: FloatArray,
        y_n: FloatArray,
        may_log: bool = True,
        description: Description | None = None,
        parts: Parts | None = None,
    ) -> None:
        self._parts = parts or Parts.plain(F_nf.shape[1])
        if description is None or not fits(description, y_n):
            description = describe(F_nf, y_n, may_log, parts=parts)
        self.description = description
        self._log = description.is_log
        self._mean, self._scale = description.mean, description.scale
        y = ((np.log(y_n) if self._log else y_n) - self._mean) / self._scale
        self._low, self._high = y.min() - 3.0, y.max() + 3.0
        self._X, self._y, self._h = F_nf, y, description.found
        K = self._covariance(F_nf, F_nf)
        K[np.diag_indices(len(K))] += self._h.noise
        self._L = _cholesky(K)
        ones = np.ones(len(y))
        weights = cho_solve((self._L, True), np.stack([y, ones], axis=1), check_finite=False)
        # the constant mean that is optimal given the rest
        self._offset = float(ones @ weights[:, 0] / (ones @ weights[:, 1]))
        self._alpha = weights[:, 0] - self._offset * weights[:, 1]

    @functools.cached_property
    def model(self) -> SingleTaskGP:
        """The same process as a BoTorch model of standardized values."""
        X, Y = torch.from_numpy(self._X), torch.from_numpy(self._y)[:, None]
        h, parts, priors = self._h, self._parts, _priors(self._X, self._parts)
        columns = range(X.shape[1])
        matern = get_covar_module_with_dim_scaled_prior(
            ard_num_dims=len(h.lengths_f),
            use_rbf_kernel=False,
            active_dims=tuple(columns[parts.matern]),
        )
        scaled = ScaleKernel(matern, outputscale_prior=_gpytorch(priors.matern))

        def linear(own: float, shared: float) -> Kernel:
            found = []
            for part, prior, value in (
                (parts.own, priors.own, own),
                (parts.shared, priors.shared, shared),
            ):
                if active := tuple(columns[part]):
                    kernel = LinearKernel(variance_prior=_gpytorch(prior), active_dims=active)
                    found.append(kernel.to(X))
                    found[-1].variance = torch.tensor(value, dtype=X.dtype)
            return found[0] if len(found) == 1 else found[0] + found[1]

        products = linear(h.product_own, h.product_shared)
        likelihood = GaussianLikelihood(
            noise_prior=_gpytorch(priors.noise),
            noise_constraint=GreaterThan(_MIN_NOISE, transform=None, initial_value=h.noise),
        )
        kernel = scaled + linear(h.own, h.shared) + products * products
        model = SingleTaskGP(
            X, Y, likelihood=likelihood, covar_module=kernel, outcome_transform=None
        ).to(X)
        matern.lengthscale = torch.from_numpy(h.lengths_f)
        scaled.outputscale = torch.tensor(h.matern, dtype=X.dtype)
        model.likelihood.noise = torch.tensor([h.noise], dtype=X.dtype)
        model.mean_module.constant = torch.tensor(self._offset, dtype=X.dtype)
        model.eval()
        return model

    def predict(self, F_cf: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the quantity (of its logarithm where that is modeled) without observation noise."""
        Z = F_cf
        mean, V, _ = self._moments(Z)
        variance = np.maximum(self._prior_variance(Z) - (V**2).sum(axis=0), 1e-12)
        return mean * self._scale + self._mean, np.sqrt(variance) * self._scale

    def start_draws(self, F_bf: FloatArray, z_Sb: FloatArray) -> FloatArray:
        """Draw S functions at the baseline points jointly; later calls of :meth:`extend_draws` extend these functions."""
        B = F_bf
        mean, V, K = self._moments(B)
        # the baseline usually is what was observed, whose covariances with a candidate are known already
        self._base = None if np.array_equal(B, self._X) else B
        self._V_base = V
        own = K if self._base is None else self._covariance(B, B)
        self._L_base = _cholesky(own - V.T @ V)
        noise = z_Sb @ self._L_base.T
        self._weights = cho_solve((self._L_base, True), noise.T, check_finite=False)  # b x S
        return self._restored(mean + noise)

    def extend_draws(self, F_cf: FloatArray, z_S: FloatArray) -> FloatArray:
        """Values (S, c) of the drawn functions at candidates, each conditioned on the baseline values (not on one another)."""
        Z = F_cf
        mean, V, K = self._moments(Z)
        at_base = K if self._base is None else self._covariance(self._base, Z)
        C = at_base - self._V_base.T @ V  # b x c
        half = solve_triangular(self._L_base, C, lower=True, check_finite=False)
        variance = self._prior_variance(Z) - (V**2).sum(axis=0) - (half**2).sum(axis=0)
        noise = z_S[:, None] * np.sqrt(np.maximum(variance, 0.0))
        return self._restored(mean + self._weights.T @ C + noise)

    def _moments(self, Z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, the half of the covariance that the observations explain, and prior covariances with them, in standardized units."""
        K = self._covariance(self._X, Z)
        V = solve_triangular(self._L, K, lower=True, check_finite=False)
        return self._offset + self._alpha @ K, V, K

    def _covariance(self, A: FloatArray, B: FloatArray) -> FloatArray:
        return covariance(A, B, self._h, self._parts)

    def _prior_variance(self, Z: FloatArray) -> FloatArray:
        return variance(Z, self._h, self._parts)

    def _restored(self, f: FloatArray) -> FloatArray:
        """From standardized units to the quantity's own."""
        values: FloatArray = np.clip(f, self._low, self._high) * self._scale + self._mean
        return np.exp(values) if self._log else values


def _priors(F_nf: FloatArray, parts: Parts) -> Priors:
    """Priors for features of this size: BoTorch's of the length scales, and shares of the variance for the parts of the kernel."""
    length, min_length = _of_botorch(F_nf[:, parts.matern].shape[1])

    def share(part: slice) -> LogNormal:
        norms = (F_nf[:, part] ** 2).sum(axis=1)
        return LogNormal.of_mode(_LINEAR_MODE / max(float(norms.mean()), 1e-3), _LINEAR_SCALE)

    own, shared = share(parts.own), share(parts.shared)
    return Priors(length, _NOISE, _MATERN, own, shared, own, shared, min_length, _MIN_NOISE)


def _gpytorch(prior: LogNormal) -> LogNormalPrior:
    return LogNormalPrior(prior.loc, prior.scale)


@functools.cache
def _of_botorch(num_features: int) -> tuple[LogNormal, float]:
    """Prior and lower bound of the length scales, read from a kernel as BoTorch makes it."""
    matern = get_covar_module_with_dim_scaled_prior(ard_num_dims=num_features, use_rbf_kernel=False)
    prior = matern.lengthscale_prior
    length = LogNormal(float(prior.loc), float(prior.scale))
    return length, float(matern.raw_lengthscale_constraint.lower_bound)


def _skewness(y: FloatArray) -> float:
    return float(skew(y)) if np.ptp(y) > 0 else 0.0


def _cholesky(K: FloatArray) -> FloatArray:
    """Lower root of a covariance, with the least jitter that makes it positive definite."""
    diagonal = np.diag_indices(len(K))
    for jitter in (1e-8, 1e-6, 1e-4, 1e-2, 1e-1):
        raised = K.copy()
        raised[diagonal] += jitter
        L, info = dpotrf(raised, lower=1, clean=1)
        if not info:
            break
    return np.asarray(L)
