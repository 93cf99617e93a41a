"""A new device from ten to thirty measurements: what other devices cost tells nearly everything about it.

The functions of other devices, each divided by its mean, span the new one: their average takes its scale and their deviations from it
its character (how it weighs FLOPs, bytes and launches), which is the empirical covariance between devices of a multi-task Gaussian
process (Bonilla, Chai & Williams 2008, sec. 2, with the task covariance estimated from the devices seen). What they leave is small.

n architectures, o other devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from surrogates.additive.encoding import Encoded
from surrogates.additive.kernel import NAMES
from surrogates.base import FloatArray

if TYPE_CHECKING:
    from surrogates.additive.surrogate import AdditiveSurrogate

_AMPLITUDES = ("width", "depth", "bias", "whole", "heads", "heads squared", "ffn", "ffn squared")
_FIRST = 3.0  # the average carries the new device's scale: its coefficient is wider than those of the deviations
_OWN = 0.1  # prior share of a device's variance that the others do not know, against a device alone


@dataclass(frozen=True, eq=False)
class Others:
    """Fitted surrogates of other devices on the same space.

    Args:
        surrogates: one or more, of any metric that costs something; they need not be measured on the same architectures.
        means: mean of each over its own records, the unit it is divided by.
    """

    surrogates: tuple[AdditiveSurrogate, ...]
    means: tuple[float, ...]

    @classmethod
    def of(cls, surrogates: Sequence[AdditiveSurrogate]) -> Others:
        """What fitted surrogates know.

        Raises:
            ValueError: if there is none, one is not fitted, or their spaces differ.
        """
        if not surrogates:
            raise ValueError("expected one surrogate of another device or more, got none")
        spaces = {surrogate.space.fingerprint for surrogate in surrogates}
        if len(spaces) > 1:
            raise ValueError(
                f"expected surrogates of one space, got {sorted({s.space.name for s in surrogates})}"
            )
        return cls(tuple(surrogates), tuple(surrogate.middle for surrogate in surrogates))

    def columns(self, encoded: Encoded) -> FloatArray:
        """The devices' average and each one's deviation from it, shape (n, 1 + o)."""
        found_no = np.column_stack(
            [
                surrogate.mean(encoded) / unit
                for surrogate, unit in zip(self.surrogates, self.means, strict=True)
            ]
        )
        average_n1 = found_no.mean(axis=1, keepdims=True)
        return np.hstack([_FIRST * average_n1, found_no - average_n1])

    def prior(self) -> FloatArray:
        """Prior of the hyperparameters: geometric means over the other devices, effects of a device's own scaled down."""
        theta: FloatArray = np.mean([surrogate.theta for surrogate in self.surrogates], axis=0)
        for name in _AMPLITUDES:
            theta[NAMES.index(name)] += np.log(_OWN)
        theta[NAMES.index("others")] = 0.0
        return theta


def choose(
    psi_np: FloatArray, weight_n: FloatArray, num: int, noise: float
) -> npt.NDArray[np.int64]:
    """Which architectures to measure: greedily those whose measurement lowers the summed variance of all predictions most.

    This is active learning by Cohn's criterion (Seo, Wallat, Graepel & Obermayer 2000, IJCNN, eq. 7); what is measured does not enter
    a Gaussian posterior's variance, so all can be chosen before the first is measured.

    Args:
        psi_np: whitened features of n candidates under the prior.
        weight_n: importance of each candidate's variance, and of its noise's inverse: one over its squared expected value.
        num: how many to choose.
        noise: variance of a measurement of a candidate of weight 1.

    Returns:
        Rows of the candidates, in the order chosen, each row once.
    """
    covariance_nn = psi_np @ psi_np.T
    chosen: list[int] = []
    for _ in range(num):
        own_n = np.diag(covariance_nn) + noise / weight_n
        gain_n = (weight_n @ covariance_nn**2) / own_n
        gain_n[chosen] = -1.0
        best = int(np.argmax(gain_n))
        chosen.append(best)
        column_n = covariance_nn[:, best].copy()
        covariance_nn -= np.outer(column_n, column_n) / own_n[best]
    return np.array(chosen, dtype=np.int64)
