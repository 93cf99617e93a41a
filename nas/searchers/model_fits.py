"""When hyperparameters are fitted, and to what: a pure function of what was told, remembered between proposals.

They are fitted when the told points have grown by 15 %, at every fourth time from the priors' modes and otherwise from the fit before, so
that a resumed study repeats four fits at most and goes on exactly as if it had not stopped. Between these times the posterior is
conditioned on every point under the hyperparameters as they are.

n told points, f features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nas.searchers.gaussian_process import Description, describe
from nas.searchers.history import History, telling_rows
from nas.searchers.map_fit import Parts
from nas.searchers.parameters import ParameterSpace
from nas.searchers.rungs import COLD_EVERY, rungs

FloatArray = npt.NDArray[np.float64]
Features = Callable[[FloatArray], FloatArray]  # X_nd -> F_nf
# told points to features (known objectives are scaled by the told ones), and which part of a kernel sees which
FeaturesOf = Callable[[ParameterSpace, FloatArray], tuple[Features, Parts]]
MAX_TOLD = 400  # told points a model is fitted to; beyond it :func:`telling_rows`


class ModelFits:
    """Descriptions of the quantities of a study.

    Args:
        features_of: what the models see of points, given the points told.
    """

    def __init__(self, features_of: FeaturesOf) -> None:
        self._features_of = features_of
        self._space: ParameterSpace | None = None
        self._found: dict[tuple[str, int], tuple[int, Description]] = {}

    def description(
        self, space: ParameterSpace, history: History, name: str, y_n: FloatArray, may_log: bool
    ) -> Description:
        """The description fitted at the last rung.

        Args:
            space: the parameters.
            history: everything that was told.
            name: of the quantity, unlike any other of the study.
            y_n: its told values, two or more; NaN where it was not told.
            may_log: whether its logarithm may be modeled.
        """
        if self._space is not space:  # points of another space may be the same numbers
            self._space = space
            self._found.clear()
        told = np.flatnonzero(np.isfinite(y_n))
        steps = rungs(len(told))[1:]  # one point says nothing of lengths
        cold = len(steps) - 1 - (len(steps) - 1) % COLD_EVERY
        found: Description | None = None
        stamp = 0  # of a fit and of those before it, from which it started
        for i in range(cold, len(steps)):
            first = told[: steps[i]]
            rows = first[telling_rows(history.Y_nm[first], MAX_TOLD)]
            X, y = history.X_nd[rows], y_n[rows]
            stamp = hash((stamp, X.tobytes(), y.tobytes()))
            remembered = self._found.get((name, i))
            if remembered is not None and remembered[0] == stamp:
                found = remembered[1]
                continue
            features, parts = self._features_of(space, X)
            found = describe(features(X), y, may_log, found, parts)
            self._found[name, i] = (stamp, found)
        assert found is not None
        return found
