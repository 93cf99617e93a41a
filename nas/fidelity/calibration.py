"""Calibration: what a few windows say about the perplexity on all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

FloatArray = npt.NDArray[np.float64]
# Beliefs before any pair, of log perplexities.
OFFSET_STD = 0.5  # one text is harder than another
SLOPE_STD = 0.25
NOISE_STD = 0.03
NOISE_SHAPE = 2.0  # weight of that belief: of twice as many pairs
RATIOS = (1.0, 4.0, 16.0, 64.0)  # variance of what the choices do, over that of the noise
Z_90 = 1.6448536269514722  # half the width of a 90 % interval, in standard deviations


@dataclass(frozen=True)
class Calibration:
    """Bayesian regression of the full log perplexity on a low one, over the architectures that have both.

    All architectures read the same windows, so the two differ by how hard those windows are (the same for all), by a slope near 1, by
    what each choice of an architecture does to those windows more than to others, and by a small noise:

        full = low + offset + slope (low - center) + g(architecture) + noise,    g ~ GP(0, ratio noise^2 agreement)

    an autoregressive model of two fidelities (Kennedy & O'Hagan, 2000, Biometrika 87(1)) with a discrepancy that is additive in the
    choices. Given ``ratio`` the prior is conjugate, normal-inverse-gamma (Gelman et al., Bayesian Data Analysis, 3rd ed., sec. 14.2-14.8,
    in the form of kernels); the prediction is the mixture over a few ratios, weighted by their evidence. With few pairs it is wide.

    Args:
        center: mean of the low log perplexities.
        design_n2: of the pairs: offset and slope, each in units of its prior standard deviation over that of the noise.
        fits: one for each ratio.
    """

    center: float
    design_n2: FloatArray
    fits: tuple[_Fit, ...]

    @classmethod
    def fit(
        cls, low_n: npt.ArrayLike, full_n: npt.ArrayLike, agreement_nn: FloatArray | None = None
    ) -> Calibration:
        """Learn from n pairs of log perplexities (nats a token); n may be 0.

        Args:
            low_n: on the few windows.
            full_n: on all windows.
            agreement_nn: of the architectures (:func:`nas.fidelity.agreement.agreement`); without it they do not matter.

        Raises:
            ValueError: if the shapes differ or a value is not finite.
        """
        low, full = np.asarray(low_n, dtype=np.float64), np.asarray(full_n, dtype=np.float64)
        if low.shape != full.shape or low.ndim != 1 or not np.isfinite([low, full]).all():
            raise ValueError(
                f"expected as many finite low log perplexities as full ones, got {low.tolist()} and {full.tolist()}"
            )
        n = len(low)
        if agreement_nn is not None and agreement_nn.shape != (n, n):
            raise ValueError(
                f"expected an agreement of all {n} pairs, shape {(n, n)}, got {agreement_nn.shape}"
            )
        center = float(low.mean()) if n else 0.0
        design = _design(low, center)
        kernel = np.eye(n) + design @ design.T
        if agreement_nn is None:
            fits = [_Fit.of(kernel, full - low, 0.0)]
        else:
            fits = [_Fit.of(kernel + r * agreement_nn, full - low, r) for r in RATIOS]
        return cls(center, design, tuple(fits))

    def predict(
        self, low_q: npt.ArrayLike, agreement_nq: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the full log perplexity, shape (q,) each.

        For each ratio the posterior predictive is Student's t with ``2 shape`` degrees of freedom; the moments are those of the mixture.

        Args:
            low_q: on the windows that the pairs read.
            agreement_nq: of the pairs' architectures with these; needed where the pairs had theirs.

        Raises:
            ValueError: if it is missing.
        """
        if agreement_nq is None and any(fit.ratio for fit in self.fits):
            raise ValueError(
                "expected the agreement with the pairs' architectures, which the fit had; pass agreement_nq"
            )
        low = np.asarray(low_q, dtype=np.float64)
        design = _design(low, self.center)
        common = self.design_n2 @ design.T
        own = 1.0 + np.sum(design**2, axis=1)
        alike = np.zeros_like(common) if agreement_nq is None else agreement_nq
        evidence = np.array([fit.log_evidence for fit in self.fits])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        moments = [fit.moments(common + fit.ratio * alike, own + fit.ratio) for fit in self.fits]
        means = np.array([mean for mean, _ in moments])
        squares = np.array([variance for _, variance in moments]) + means**2
        mean = weights @ means
        return low + mean, np.sqrt(np.maximum(weights @ squares - mean**2, 1e-18))


@dataclass(frozen=True)
class _Fit:
    """Posterior of the differences for one ratio; all covariances in units of the noise variance."""

    ratio: float
    factor_nn: FloatArray  # Cholesky
    white_n: FloatArray  # the differences, whitened by it
    shape: float
    scale: float
    log_evidence: float  # up to a constant that all ratios share

    @classmethod
    def of(cls, covariance_nn: FloatArray, difference_n: FloatArray, ratio: float) -> _Fit:
        factor: FloatArray = np.linalg.cholesky(covariance_nn).astype(np.float64)
        white = solve_triangular(factor, difference_n, lower=True)
        shape = NOISE_SHAPE + 0.5 * len(difference_n)
        scale = NOISE_SHAPE * NOISE_STD**2 + 0.5 * float(white @ white)
        log_evidence = -shape * math.log(scale) - float(np.log(np.diag(factor)).sum())
        return cls(ratio, factor, white, shape, scale, log_evidence)

    def moments(self, cross_nq: FloatArray, own_q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of differences with these prior covariances, noise included."""
        whitened = solve_triangular(self.factor_nn, cross_nq, lower=True)
        spread = np.maximum(own_q - np.sum(whitened**2, axis=0), 0.0)
        return whitened.T @ self.white_n, self.scale / (self.shape - 1.0) * spread


def _design(low_n: FloatArray, center: float) -> FloatArray:
    """Offset and slope of differences, scaled by their prior standard deviations over the noise's."""
    columns = [np.full_like(low_n, OFFSET_STD), SLOPE_STD * (low_n - center)]
    return np.stack(columns, axis=-1) / NOISE_STD
