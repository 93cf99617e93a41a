"""Observations that the others do not bear out: how much noisier than the rest each is taken to be.

Timings have tails: on HW-GPT-Bench's RTX 2080 one in twenty is a quarter too fast or more, and a front of such is a front of accidents.
Each observation is predicted from all others (leave-one-out, Rasmussen & Williams 2006, eqs. 5.10 to 5.12); one that lies farther off
than 2.5 standard deviations is given as much more noise as puts it there, over and over, as in iteratively reweighted least squares
(Huber 1981, sec. 7.8).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.searchers.structured.kernel import JITTER, inverse_of

FloatArray = npt.NDArray[np.float64]
_BOUND = 2.5  # standard deviations
_ROUNDS = 4


def noise_inflation(K_nn: FloatArray, noise: float, y_n: FloatArray) -> FloatArray:
    """Times the noise variance that each observation has, 1 or more, shape (n,).

    Args:
        K_nn: covariance of the function at the points, without noise.
        noise: variance of the noise of an ordinary observation.
        y_n: observations of mean zero.
    """
    inflation_n = np.ones(len(y_n))
    for _ in range(_ROUNDS):
        A = K_nn.copy()
        A[np.diag_indices(len(y_n))] += noise * inflation_n + JITTER
        inverse = inverse_of(np.asarray(np.linalg.cholesky(A), dtype=np.float64))
        precision_n = np.diag(inverse)
        residual_n = (inverse @ y_n) / precision_n
        of_function_n = np.maximum(1.0 / precision_n - noise * inflation_n, 0.0)
        z2_n = residual_n**2 / (of_function_n + noise + JITTER)
        inflation_n = np.maximum(z2_n / _BOUND**2, 1.0)
    return inflation_n
