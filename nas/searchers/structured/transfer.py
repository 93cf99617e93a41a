"""What earlier studies of the same space tell a new one: on another device, with another text, at another scale.

A source's belief of each objective becomes a feature of the new study's belief of that objective: if both rank architectures alike, a
polynomial of one number explains most of the new values after a handful of trials, and what differs is learned as usual. If they do
not, the evidence finds no use for the feature.

n points, m objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from nas.pareto import non_dominated_mask
from nas.searchers.history import finite, telling_rows
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.belief import Belief, Data, describe
from nas.searchers.structured.features import FeatureMap

FloatArray = npt.NDArray[np.float64]
_MOST_POINTS = 300
_LEAST_POINTS = 5


class Source:
    """Beliefs of an earlier study.

    Args:
        study: finished or not; its trials with all parameters of the space count.
        space: of the new study.

    Raises:
        ValueError: if it has fewer than five complete trials in the space.
    """

    def __init__(self, study: Study, space: ParameterSpace) -> None:
        names = space.distributions.keys()
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [
            t
            for t in complete
            if names <= t.params.keys()
            and all(t.distributions[name] == dist for name, dist in space.distributions.items())
        ]
        if len(trials) < _LEAST_POINTS:
            raise ValueError(
                f"expected sources with {_LEAST_POINTS} complete trials of this space or more, got {len(trials)} of "
                f"{len(complete)} in study {study.study_name!r}; the parameters must have the same names and choices"
            )
        sign = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
        Y = finite(np.array([t.values for t in trials], dtype=np.float64) * sign)
        X = np.array([space.point(t.params) for t in trials])
        self.name = study.study_name
        feasible = np.array([all(not e > 0.0 for e in t.constraints.values()) for t in trials])
        self.front_nd = X[feasible][non_dominated_mask(Y[feasible])]
        self.num_objectives = len(sign)
        rows = telling_rows(Y, _MOST_POINTS)
        features = FeatureMap(space)
        self._beliefs, self._ranges = [], []
        for j in range(len(sign)):
            data = Data(X[rows], Y[rows, j])
            belief = Belief(features, data, describe(features, data))
            mean = belief.predict(belief.columns(X[rows]))[0]
            self._beliefs.append(belief)
            self._ranges.append((float(mean.min()), float(np.ptp(mean)) or 1.0))

    def check(self, num_objectives: int | None) -> None:
        """Refuse a study with another number of objectives.

        Raises:
            ValueError: if the numbers differ.
        """
        if num_objectives not in (None, self.num_objectives):
            raise ValueError(
                f"expected sources with {num_objectives} objectives like this study, got {self.num_objectives} in study "
                f"{self.name!r}"
            )

    def column(self, objective: int, X_nd: FloatArray) -> FloatArray:
        """Position of the prediction of an objective in the range seen there, in [0, 1], shape (n,)."""
        belief, (low, size) = self._beliefs[objective], self._ranges[objective]
        mean = belief.predict(belief.columns(X_nd))[0]
        return np.asarray(np.clip((mean - low) / size, 0.0, 1.0))


def read_sources(studies: Sequence[Study], space: ParameterSpace) -> list[Source]:
    """Sources of a study.

    Raises:
        ValueError: if one has too few trials of the space.
    """
    return [Source(study, space) for study in studies]
