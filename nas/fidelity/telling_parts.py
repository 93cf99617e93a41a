"""Which windows of a text to read, when only a few are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nas.fidelity.calibration import NOISE_STD, OFFSET_STD, SLOPE_STD
from nas.fidelity.record import spread_order

FloatArray = npt.NDArray[np.float64]


def telling_parts(
    losses_np: FloatArray, tokens_p: FloatArray, count: int, begin: Sequence[int] = ()
) -> list[int]:
    """The parts of a text whose log perplexity tells that of the whole best, chosen one by one.

    Each addition is the part with which the calibration fits the pairs best (least posterior scale of its noise). Without pairs, and
    among equals, the parts are spread over the text.

    Args:
        losses_np: nats a token of n architectures on each of p parts.
        tokens_p: of each part.
        count: parts wanted, at most p.
        begin: parts that are among them.

    Returns:
        Indices, in the order in which they were chosen.
    """
    order = np.array(spread_order(len(tokens_p)))
    full_n = losses_np @ tokens_p / tokens_p.sum()
    chosen = list(begin)[:count]
    nats_n, tokens = losses_np[:, chosen] @ tokens_p[chosen], float(tokens_p[chosen].sum())
    while len(chosen) < count:
        left = order[~np.isin(order, chosen)]
        after = tokens + tokens_p[left]
        low_nl = (nats_n[:, None] + losses_np[:, left] * tokens_p[left]) / after
        misfit = _misfits(low_nl, full_n)
        # not the last digits: sums of another order must not change the choice
        best = int(left[np.flatnonzero(misfit <= misfit.min() * (1 + 1e-6) + 1e-15)[0]])
        chosen.append(best)
        nats_n, tokens = nats_n + losses_np[:, best] * tokens_p[best], tokens + tokens_p[best]
    return chosen


def _misfits(low_nl: FloatArray, full_n: FloatArray) -> FloatArray:
    """Twice what :meth:`Calibration.fit` adds to the scale, for each column, where the choices do not matter.

    Centered, offset and slope do not mix.
    """
    if len(low_nl) == 0:
        return np.zeros(low_nl.shape[1])
    difference = full_n[:, None] - low_nl
    centered = low_nl - low_nl.mean(axis=0)
    sums, products = difference.sum(axis=0), (difference * centered).sum(axis=0)
    offset = sums / (len(full_n) + (NOISE_STD / OFFSET_STD) ** 2)
    slope = products / ((centered**2).sum(axis=0) + (NOISE_STD / SLOPE_STD) ** 2)
    found: FloatArray = (difference**2).sum(axis=0) - offset * sums - slope * products
    return found
