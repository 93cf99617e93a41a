"""What is believed of all objectives and constraints of a study at any point.

c points, m objectives; everything is minimized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from nas.searchers.structured.belief import Belief
from nas.searchers.structured.fits import Quantity

FloatArray = npt.NDArray[np.float64]
Moments = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
FAILED = "constraint: failed"


@dataclass(frozen=True, eq=False)
class Beliefs:
    """Beliefs of learned quantities, and the known objectives beside them.

    Args:
        num_objectives: m.
        quantities: the learned ones by name: ``objective 0``, ``constraint bound``.
        beliefs: of each of them.
        known: mean and standard deviation of the objectives that are not learned, by index.
    """

    num_objectives: int
    quantities: Mapping[str, Quantity]
    beliefs: Mapping[str, Belief]
    known: Mapping[int, Moments]

    @property
    def is_log(self) -> list[bool]:
        """Of which objectives the logarithm is believed."""
        return [
            j not in self.known and self.beliefs[f"objective {j}"].is_log
            for j in range(self.num_objectives)
        ]

    def moments(self, X_cd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the objectives, or of their logarithms, shapes (c, m)."""
        found = [
            self.known[j](X_cd) if j in self.known else self._predict(f"objective {j}", X_cd)
            for j in range(self.num_objectives)
        ]
        mean_cm, std_cm = np.stack(found, axis=2)
        return mean_cm, std_cm

    def typical(self, X_cd: FloatArray) -> FloatArray:
        """Medians of the objectives themselves, shape (c, m)."""
        if not len(X_cd):
            return np.empty((0, self.num_objectives))
        mean_cm, is_log = self.moments(X_cd)[0], self.is_log
        return np.where(is_log, np.exp(np.where(is_log, mean_cm, 0.0)), mean_cm)

    def spread(self, X_cd: FloatArray) -> FloatArray:
        """Standard deviations of the objectives themselves, shape (c, m)."""
        std_cm = self.moments(X_cd)[1]
        # of a log-normal value: its median times sqrt(e^(2 s^2) - e^(s^2))
        variance = np.minimum(
            std_cm**2, 100.0
        )  # beyond it nothing is known but the order of magnitude
        relative = np.exp(0.5 * variance) * np.sqrt(np.expm1(variance))
        return np.where(self.is_log, relative * self.typical(X_cd), std_cm)

    def feasibility(self, X_cd: FloatArray, doubt: float = 1.0) -> FloatArray:
        """Probability that all constraints are kept and the trial does not fail, shape (c,).

        Args:
            X_cd: points.
            doubt: factor of the standard deviations.
        """
        probability = np.ones(len(X_cd))
        for name in self.beliefs:
            if name.startswith("constraint"):
                center, spread = self._predict(name, X_cd)
                # that points fail is never doubted: nothing better is to be found among them
                width = spread if name == FAILED else doubt * spread
                probability *= np.exp(log_ndtr(-center / width))
        return probability

    def _predict(self, name: str, X_cd: FloatArray) -> tuple[FloatArray, FloatArray]:
        belief, extra = self.beliefs[name], self.quantities[name].extra
        return belief.predict(belief.columns(X_cd, None if extra is None else extra(X_cd)))
