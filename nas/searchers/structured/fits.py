"""When beliefs are fitted, and to what: a pure function of what was told, remembered between proposals.

Hyperparameters are fitted when the told points have grown by 15 %, at every fourth time from nothing and otherwise from the fit before,
so that a resumed study repeats four fits at most and goes on exactly as if it had not stopped. Between these times the posterior is
conditioned anew on every point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.searchers.history import History, telling_rows
from nas.searchers.rungs import COLD_EVERY, rungs
from nas.searchers.structured.belief import Belief, Data, Description, describe, refine
from nas.searchers.structured.features import FeatureMap

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Extra = Callable[[FloatArray], FloatArray]
_MOST_POINTS = 300  # told points a belief is conditioned on


@dataclass(frozen=True, eq=False)
class Quantity:
    """An objective or a constraint.

    Args:
        name: unlike any other of the study.
        y_n: told values; NaN where it was not told.
        may_log: whether its logarithm may be modeled.
        features: of the space.
        extra: points to the extra columns of ``features``; None if it has none.
        is_noisy: whether it is measured with noise; None if that is to be found out.
    """

    name: str
    y_n: FloatArray
    may_log: bool
    features: FeatureMap
    extra: Extra | None
    is_noisy: bool | None = None

    def belief(self, X_nd: FloatArray, y_n: FloatArray, description: Description) -> Belief:
        """Posterior given values at points."""
        return Belief(self.features, self.data(X_nd, y_n), description)

    def data(self, X_nd: FloatArray, y_n: FloatArray) -> Data:
        """Observations with the extra columns of their points."""
        return Data(X_nd, y_n, None if self.extra is None else self.extra(X_nd))


class Fits:
    """Descriptions of the quantities of a study."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[int, Description]] = {}

    def belief(self, history: History, quantity: Quantity) -> Belief:
        """Posterior of a quantity given what was told of it, and of running trials what is believed of them."""
        told = np.flatnonzero(np.isfinite(quantity.y_n))
        description = self.description(history, quantity, told)
        rows = told[telling_rows(history.Y_nm[told], _MOST_POINTS)]
        X, y = history.X_nd[rows], quantity.y_n[rows]
        belief = quantity.belief(X, y, description)
        if not len(history.running_rd):
            return belief
        running = history.running_rd
        extra = None if quantity.extra is None else quantity.extra(running)
        believed = belief.typical(belief.columns(running, extra))
        return quantity.belief(
            np.concatenate([X, running]), np.concatenate([y, believed]), description
        )

    def description(self, history: History, quantity: Quantity, told: IntArray) -> Description:
        """The description fitted at the last rung."""
        steps = rungs(len(told))
        cold = len(steps) - 1 - (len(steps) - 1) % COLD_EVERY
        found: Description | None = None
        stamp = 0  # of a fit and of those before it, from which it started
        for i in range(cold, len(steps)):
            first = told[: steps[i]]
            rows = first[telling_rows(history.Y_nm[first], _MOST_POINTS)]
            X, y = history.X_nd[rows], quantity.y_n[rows]
            data = quantity.data(X, y)
            # extra columns are scaled by all that was told: they may change though the points do not
            extra = None if data.extra_ne is None else data.extra_ne.tobytes()
            stamp = hash((stamp, X.tobytes(), y.tobytes(), extra))
            remembered = self._found.get((quantity.name, i))
            if remembered is not None and remembered[0] == stamp:
                found = remembered[1]
                continue
            if found is None:
                found = describe(quantity.features, data, quantity.may_log, quantity.is_noisy)
            else:
                found = refine(quantity.features, data, found)
            self._found[quantity.name, i] = (stamp, found)
        assert found is not None
        return found
