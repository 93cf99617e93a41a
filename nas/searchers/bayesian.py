"""Beliefs and acquisition functions for static discrete or mixed spaces, on BoTorch's models; one to four objectives.

Notation: n points, f features, m objectives, b baseline points, S function draws.  Everything is minimized: the improvement of a
hypervolume is measured in boxes (nas/searchers/boxes.py), and only the acquisition value, a logarithm of an expected improvement,
is maximized.

A learned quantity is a BoTorch SingleTaskGP. Its kernel adds a linear part to the Matern-5/2 one (one length scale per feature under
the dimension-scaled prior of Hvarfner et al. 2024, 2402.02229): architectures far from those told are then extrapolated, not taken
for average ones.  The acquisition functions are those of BoTorch's
qLogNoisyExpectedHypervolumeImprovement and qLogNParEGO for q = 1 (Daulton et al. 2021, 2105.08195; Ament et al. 2023, 2310.20708), on
function draws made once and extended to each candidate by conditioning; BoTorch's classes draw the baseline again with every
candidate, decompose boxes in Python and compile C++ on first use. tests/test_acquisition.py compares the values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from botorch.utils.safe_math import fatmin, log_fatplus, logmeanexp, logsumexp
from gpytorch.kernels import LinearKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior
from scipy.special import log_ndtr, ndtri
from scipy.stats import qmc, skew
from torch import Tensor

from nas.searchers.boxes import non_dominated_boxes
from nas.searchers.map_fit import LogNormal, Priors, fit

FloatArray = npt.NDArray[np.float64]
# Prior of the variance of each part of the kernel; the values are standardized.
_VARIANCE = LogNormal(0.0, 1.0)
# Share of the box: expected improvements below it are ranked by the smoothed logarithm.
_FLOOR = 1e-10
_TAU_RELU, _TAU_MAX = 1e-6, 1e-3  # BoTorch's smoothing temperatures
_CHUNK = 4_000_000  # numbers in one block of the improvement


def normal_draws(num_draws: int, dim: int, seed: int) -> FloatArray:
    """Quasi-random standard normal numbers, shape (num_draws, dim)."""
    if dim > 21_000:
        return np.random.default_rng(seed).standard_normal((num_draws, dim))
    sobol = qmc.Sobol(dim, rng=np.random.default_rng(seed))
    with warnings.catch_warnings():  # a number of draws that is no power of two is fine
        warnings.simplefilter("ignore", UserWarning)
        uniform = sobol.random(num_draws)
    return np.asarray(ndtri(np.clip(uniform, 1e-9, 1.0 - 1e-9)))


class GaussianProcess:
    """Posterior of one quantity over feature vectors.

    Args:
        F_nf: features of the observations, in [0, 1].
        y_n: observed values.
        may_log: whether to model the logarithm where all values are positive and that makes them less skewed.
    """

    def __init__(self, F_nf: FloatArray, y_n: FloatArray, may_log: bool = True) -> None:
        positive = may_log and float(y_n.min()) > 0.0
        self._log = positive and abs(_skewness(np.log(y_n))) < abs(_skewness(y_n))
        y = np.log(y_n) if self._log else y_n
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        y = (y - self._mean) / self._scale
        self._low, self._high = y.min() - 3.0, y.max() + 3.0
        self._center = F_nf.mean(axis=0)  # the origin of the linear part
        F = F_nf - self._center
        size = max(float((F**2).sum(axis=1).mean()), 1e-6)
        X, Y = torch.from_numpy(F), torch.from_numpy(y)[:, None]
        matern = get_covar_module_with_dim_scaled_prior(
            ard_num_dims=X.shape[1], use_rbf_kernel=False
        )
        linear_prior = LogNormal(_VARIANCE.loc - math.log(size), _VARIANCE.scale)
        scaled = ScaleKernel(
            matern, outputscale_prior=LogNormalPrior(_VARIANCE.loc, _VARIANCE.scale)
        )
        linear = LinearKernel(variance_prior=LogNormalPrior(linear_prior.loc, linear_prior.scale))
        self.model = SingleTaskGP(X, Y, covar_module=scaled + linear, outcome_transform=None).to(X)
        noise = self.model.likelihood.noise_covar
        found = fit(
            F,
            y,
            Priors(
                length=_prior(matern.lengthscale_prior),
                noise=_prior(noise.noise_prior),
                matern=_VARIANCE,
                linear=linear_prior,
                min_length=float(matern.raw_lengthscale_constraint.lower_bound),
                min_noise=float(noise.raw_noise_constraint.lower_bound),
            ),
        )
        matern.lengthscale = torch.from_numpy(found.lengths_f)
        scaled.outputscale = torch.tensor(found.matern, dtype=X.dtype)
        linear.variance = torch.tensor(found.linear, dtype=X.dtype)
        self.model.likelihood.noise = torch.tensor([found.noise], dtype=X.dtype)
        self.model.mean_module.constant = torch.tensor(found.constant, dtype=X.dtype)
        self.model.eval()
        self._X, self._offset = X, found.constant
        with torch.no_grad():
            self._L = _cholesky(self._k(X, X) + found.noise * torch.eye(len(X), dtype=X.dtype))
            self._alpha = torch.cholesky_solve(Y - found.constant, self._L)

    def _k(self, A: Tensor, B: Tensor) -> Tensor:
        dense: Tensor = self.model.covar_module(A, B).to_dense()
        return dense

    def _k_diag(self, A: Tensor) -> Tensor:
        diagonal: Tensor = self.model.covar_module(A, diag=True)
        return diagonal

    def _points(self, F_nf: FloatArray) -> Tensor:
        return torch.from_numpy(F_nf - self._center)

    def _moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, and the half of the covariance that the observations explain, in standardized units."""
        K = self._k(self._X, X)
        V = torch.linalg.solve_triangular(self._L, K, upper=False)
        return self._offset + (K.T @ self._alpha)[:, 0], V

    def predict(self, F_nf: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the quantity (of its logarithm where that is modeled) without observation noise."""
        with torch.no_grad():
            X = self._points(F_nf)
            mean, V = self._moments(X)
            std = (self._k_diag(X) - V.square().sum(0)).clamp_min(1e-12).sqrt()
        return mean.numpy() * self._scale + self._mean, std.numpy() * self._scale

    def start_draws(self, F_bf: FloatArray, z_Sb: FloatArray) -> FloatArray:
        """Draw S functions at the baseline points jointly; later calls of :meth:`extend_draws` extend these functions."""
        with torch.no_grad():
            B = self._points(F_bf)
            mean, V = self._moments(B)
            self._base, self._V_base = B, V
            self._L_base = _cholesky(self._k(B, B) - V.T @ V)
            noise = torch.from_numpy(z_Sb) @ self._L_base.T
            self._weights = torch.cholesky_solve(noise.T, self._L_base)  # b x S
            return self._restored(mean + noise)

    def extend_draws(self, F_nf: FloatArray, z_S: FloatArray) -> FloatArray:
        """Values (S, n) of the drawn functions at n candidates, each conditioned on the baseline values (not on one another)."""
        with torch.no_grad():
            X = self._points(F_nf)
            mean, V = self._moments(X)
            C = self._k(self._base, X) - self._V_base.T @ V  # b x n
            half = torch.linalg.solve_triangular(self._L_base, C, upper=False)
            variance = (self._k_diag(X) - V.square().sum(0) - half.square().sum(0)).clamp_min(0.0)
            noise = torch.from_numpy(z_S)[:, None] * variance.sqrt()
            return self._restored(mean + self._weights.T @ C + noise)

    def _restored(self, f: Tensor) -> FloatArray:
        """From standardized units to the quantity's own."""
        values: FloatArray = f.clamp(self._low, self._high).numpy() * self._scale + self._mean
        return np.exp(values) if self._log else values


def _prior(prior: LogNormalPrior) -> LogNormal:
    return LogNormal(float(prior.loc), float(prior.scale))


def _skewness(y: FloatArray) -> float:
    return float(skew(y)) if np.ptp(y) > 0 else 0.0


def _cholesky(K: Tensor) -> Tensor:
    """Root of a covariance, with the least jitter that makes it positive definite."""
    eye = torch.eye(len(K), dtype=K.dtype)
    L = eye
    for jitter in (1e-8, 1e-6, 1e-4, 1e-2, 1e-1):
        L, info = torch.linalg.cholesky_ex(K + jitter * eye)
        if not int(info):
            break
    return L


class ImprovementScore:
    """log E[hypervolume improvement] over function draws; one objective makes it log noisy expected improvement.

    Args:
        draws_Sbm: values of the drawn functions at the baseline points.
        ref_point_m: worst values that still count.
        scale_m: size of the box that the improvement is a share of, per objective.
    """

    def __init__(self, draws_Sbm: FloatArray, ref_point_m: FloatArray, scale_m: FloatArray) -> None:
        self._scale = scale_m
        ref = ref_point_m / scale_m
        boxes = [non_dominated_boxes(Y, ref) for Y in draws_Sbm / scale_m]
        width = max(len(lower) for lower, _ in boxes)
        lower = np.zeros((len(boxes), width, len(ref)))  # the padding has no volume
        upper = np.zeros_like(lower)
        for s, (low, high) in enumerate(boxes):
            lower[s, : len(low)], upper[s, : len(high)] = low, high
        self._lower, self._upper = torch.from_numpy(lower), torch.from_numpy(upper)

    def __call__(self, draws_Snm: FloatArray) -> FloatArray:
        """Score_n of n candidates from the values of the drawn functions there."""
        Y = torch.from_numpy(np.ascontiguousarray(draws_Snm / self._scale))
        expected = self._in_chunks(self._improvement, Y)
        score = expected.log()
        if bool((expected < _FLOOR).all()):
            # No draw improves on anything: only the smoothed logarithm still tells candidates apart.
            smooth = self._in_chunks(self._smooth_log_improvement, Y)
            score = smooth.clamp_max(math.log(_FLOOR))
        return np.asarray(score.numpy(), dtype=np.float64)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], Y: Tensor) -> Tensor:
        rows = max(1, _CHUNK // self._upper.numel())
        return torch.cat([function(chunk) for chunk in Y.split(rows, dim=1)])

    def _improvement(self, Y: Tensor) -> Tensor:
        """Exact improvement by each candidate, averaged over the draws: Y is S x n x m."""
        volume = torch.ones((), dtype=Y.dtype)
        for j in range(Y.shape[-1]):
            start = torch.maximum(Y[:, :, None, j], self._lower[:, None, :, j])
            volume = volume * (self._upper[:, None, :, j] - start).clamp_min(0.0)
        return volume.sum(-1).mean(0)

    def _smooth_log_improvement(self, Y: Tensor) -> Tensor:
        """The same with BoTorch's fat-tailed smoothing (Ament et al. 2023, sec. 4.3), which is never zero."""
        inside = log_fatplus(self._upper[:, None] - Y[:, :, None], tau=_TAU_RELU)
        sides = (self._upper - self._lower).clamp(0.0, 1e10).log()[:, None].expand_as(inside)
        lengths = fatmin(torch.stack([inside, sides], dim=-1), dim=-1, tau=_TAU_MAX)
        lengths = torch.where(sides == -torch.inf, sides, lengths)
        return logmeanexp(logsumexp(lengths.sum(-1), dim=-1), dim=0)


def chebyshev(
    Y: FloatArray, weights_m: FloatArray, low_m: FloatArray, high_m: FloatArray
) -> FloatArray:
    """Augmented Chebyshev scalarization of (..., m) values, to be minimized (Knowles 2005, eq. 2, with rho = 0.05)."""
    weighted = weights_m * (Y - low_m) / np.where(high_m > low_m, high_m - low_m, 1.0)
    return np.asarray(weighted.max(axis=-1) + 0.05 * weighted.sum(axis=-1))


def log_feasibility(constraints: list[GaussianProcess], F_nf: FloatArray) -> FloatArray:
    """Log probability that every learned constraint is zero or less."""
    total = np.zeros(len(F_nf))
    for constraint in constraints:
        mean, std = constraint.predict(F_nf)
        total += log_ndtr(-mean / std)
    return total
