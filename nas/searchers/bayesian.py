"""Acquisition functions on draws of functions, one to four objectives.

Notation: n points, m objectives, S function draws.  Everything is minimized: the improvement of a hypervolume is measured in boxes, and
only the acquisition value, a logarithm of an expected improvement, is maximized.

The acquisition functions are those of BoTorch's qLogNoisyExpectedHypervolumeImprovement and qLogNParEGO for q = 1 (Daulton et al. 2021,
2105.08195; Ament et al. 2023, 2310.20708), on function draws made once (nas/searchers/gaussian_process.py) and extended to each candidate
by conditioning, and on boxes made once for each draw: for two objectives all at once, from one sort (nas/searchers/staircases.py), for more
by nas/searchers/boxes.py. BoTorch's classes draw the baseline again with every candidate, decompose boxes in Python and compile C++ on
first use. tests/test_acquisition.py compares the values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from botorch.utils.safe_math import fatmin, log_fatplus, logmeanexp, logsumexp
from scipy.special import log_ndtr, ndtri
from scipy.stats import qmc
from torch import Tensor

from nas.searchers.boxes import non_dominated_boxes
from nas.searchers.gaussian_process import GaussianProcess
from nas.searchers.staircases import Staircases

FloatArray = npt.NDArray[np.float64]
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
        self._staircases: Staircases | None = None
        if len(ref) == 2:
            self._staircases = Staircases(draws_Sbm / scale_m, ref)
            lower, upper = self._staircases.boxes()
        else:
            lower, upper = _padded_boxes(draws_Sbm / scale_m, ref)
        self._lower, self._upper = torch.from_numpy(lower), torch.from_numpy(upper)

    def __call__(self, draws_Snm: FloatArray) -> FloatArray:
        """Score_n of n candidates from the values of the drawn functions there."""
        scaled = draws_Snm / self._scale
        Y = torch.from_numpy(np.ascontiguousarray(scaled))
        if self._staircases is not None:
            expected = torch.from_numpy(self._staircases.improvement(scaled).mean(axis=0))
        else:
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


def _padded_boxes(Y_Sbm: FloatArray, ref_point_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds of the boxes of every draw, shape (S, most boxes, m); boxes that only fill up have no volume."""
    boxes = [non_dominated_boxes(Y, ref_point_m) for Y in Y_Sbm]
    width = max(len(lower) for lower, _ in boxes)
    lower = np.zeros((len(boxes), width, len(ref_point_m)))
    upper = np.zeros_like(lower)
    for s, (low, high) in enumerate(boxes):
        lower[s, : len(low)], upper[s, : len(high)] = low, high
    return lower, upper


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
