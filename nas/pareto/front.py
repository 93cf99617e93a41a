"""The Pareto front of measured architectures. Everything is minimized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nas.objectives import Evaluation, Objective
from nas.pareto.bounds import members_within
from nas.pareto.knee import knee_point
from nas.pareto.subset import SubsetSelection, select_subset
from surrogates.base import FloatArray
from surrogates.dominance import (
    Hypervolume,
    hypervolume,
    non_dominated_mask,
    normalized_hypervolume,
)


@dataclass(frozen=True, init=False)
class ParetoFront:
    """The measured architectures that no other measured architecture dominates.

    Args:
        evaluations: measurements in any order; the dominated ones are left out of :attr:`evaluations`.
        objectives: what is minimized, in the order of the columns of :attr:`values_nm`.
        ref_point: the worst values that still count, by objective or in their order; None when no
            hypervolume is asked for.

    Raises:
        TypeError: if an evaluation is anything else, a Prediction above all: a guess never enters a
            front.
        ValueError: if an evaluation lacks an objective, or ``ref_point`` does not fit the objectives.
    """

    evaluations: tuple[Evaluation, ...]
    objectives: tuple[Objective, ...]
    ref_point: tuple[float, ...] | None

    def __init__(
        self,
        evaluations: Sequence[Evaluation],
        objectives: Sequence[Objective | str],
        ref_point: Mapping[str, float] | Sequence[float] | None = None,
    ) -> None:
        goals = tuple(Objective.parse(o) if isinstance(o, str) else o for o in objectives)
        if not goals or len(set(goals)) != len(goals):
            raise ValueError(
                f"expected one or more different objectives, got {[str(o) for o in goals]}"
            )
        for evaluation in evaluations:
            if not isinstance(evaluation, Evaluation):
                raise TypeError(
                    f"expected measured Evaluations in a ParetoFront, got {type(evaluation).__name__}; "
                    "measure the architecture first, a prediction is not a result"
                )
        Y = np.array([[e.value(o) for o in goals] for e in evaluations], dtype=np.float64)
        mask = non_dominated_mask(Y.reshape(-1, len(goals)))
        kept = tuple(e for e, keep in zip(evaluations, mask, strict=True) if keep)
        object.__setattr__(self, "evaluations", kept)
        object.__setattr__(self, "objectives", goals)
        object.__setattr__(self, "ref_point", _ref_point(ref_point, goals))

    def __len__(self) -> int:
        return len(self.evaluations)

    @cached_property
    def values_nm(self) -> FloatArray:
        """Objective values of :attr:`evaluations`, one row each; read-only."""
        rows = [[e.value(o) for o in self.objectives] for e in self.evaluations]
        Y = np.array(rows, dtype=np.float64).reshape(-1, len(self.objectives))
        Y.setflags(write=False)
        return Y

    @cached_property
    def hypervolume(self) -> Hypervolume:
        """Volume between the front and ``ref_point``, in the product of the objectives' units.

        Raises:
            ValueError: if the front has no ``ref_point``.
        """
        if self.ref_point is None:
            raise ValueError(
                "expected a front with a ref_point, got none; pass ref_point= to ParetoFront"
            )
        return hypervolume(self.values_nm, self.ref_point)

    @property
    def num_beyond(self) -> int:
        """Members of the front that exceed ``ref_point`` in some objective; 0 without a ``ref_point``."""
        return self.hypervolume.num_beyond if self.ref_point is not None else 0

    def normalized_hypervolume(self, ideal: Mapping[str, float] | Sequence[float]) -> Hypervolume:
        """Hypervolume as a share of the box from ``ideal`` to ``ref_point``, in [0, 1].

        Raises:
            ValueError: if the front has no ``ref_point``, or the ideal is not below it.
        """
        best = _ref_point(ideal, self.objectives)
        if self.ref_point is None or best is None:
            raise ValueError("expected a front with a ref_point and an ideal, got none")
        return normalized_hypervolume(self.values_nm, best, self.ref_point)

    def within(self, bounds: Mapping[str, float]) -> ParetoFront:
        """The members that keep to all bounds, with the same objectives and ``ref_point``.

        Args:
            bounds: largest value that is accepted, by anything that all members were evaluated on: its full spelling, or the metric alone
                (``decode_ms``) where only one has it.

        Raises:
            ValueError: if a name is unknown or fits several, a bound is not finite, two are about the same, or no member keeps to all
                (the message tells the least there is).
        """
        kept = members_within(self.evaluations, [str(o) for o in self.objectives], bounds)
        return ParetoFront(kept, self.objectives, self.ref_point)

    def select(self, k: int) -> SubsetSelection:
        """The rows of the k members that together dominate the most: see :func:`nas.pareto.select_subset`.

        Without a ``ref_point``, the worst values of the front and a tenth of its range beyond them stand in for it.

        Raises:
            ValueError: if ``k`` is below 1.
        """
        Y = self.values_nm
        ref = self.ref_point
        if ref is None and len(Y):
            worst, spread = Y.max(axis=0), np.ptp(Y, axis=0)
            ref = tuple(worst + 0.1 * np.where(spread > 0.0, spread, np.abs(worst) + 1.0))
        return select_subset(Y, ref if ref is not None else np.ones(len(self.objectives)), k)

    def pick(self, k: int) -> ParetoFront:
        """The k members that together dominate the most, in the order they have here; all if there are no more.

        Raises:
            ValueError: if ``k`` is below 1.
        """
        chosen = [self.evaluations[row] for row in self.select(k).rows]
        return ParetoFront(chosen, self.objectives, self.ref_point)

    @property
    def knee(self) -> Evaluation:
        """The member where giving up a little of one objective stops gaining much: see :func:`nas.pareto.knee_point`.

        Members beyond ``ref_point`` are left out where there are others: they would stretch the scale to what nobody wants.

        Raises:
            ValueError: if the front is empty.
        """
        rows = np.arange(len(self))
        if self.ref_point is not None:
            inside = np.all(self.values_nm <= np.array(self.ref_point), axis=1)
            rows = rows[inside] if inside.any() else rows
        return self.evaluations[int(rows[knee_point(self.values_nm[rows])])]

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        names = [str(o) for o in self.objectives]
        ref_point = (
            None if self.ref_point is None else dict(zip(names, self.ref_point, strict=True))
        )
        return {
            "objectives": names,
            "ref_point": ref_point,
            "evaluations": [e.to_json() for e in self.evaluations],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ParetoFront:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing or invalid.
        """
        if not isinstance(fields, Mapping) or set(fields) != {
            "objectives",
            "ref_point",
            "evaluations",
        }:
            raise ValueError(
                f"expected a front with objectives, ref_point and evaluations, got {fields!r:.120}"
            )
        evaluations = [Evaluation.from_json(e) for e in fields["evaluations"]]
        return cls(evaluations, fields["objectives"], fields["ref_point"])


def _ref_point(
    values: Mapping[str, float] | Sequence[float] | None, objectives: tuple[Objective, ...]
) -> tuple[float, ...] | None:
    if values is None:
        return None
    if isinstance(values, Mapping):
        by_objective = {Objective.parse(name): value for name, value in values.items()}
        if set(by_objective) != set(objectives):
            raise ValueError(
                f"expected a value for each of {[str(o) for o in objectives]}, got {list(values)}"
            )
        values = [by_objective[o] for o in objectives]
    point = tuple(float(v) for v in values)
    if len(point) != len(objectives) or not np.all(np.isfinite(point)):
        raise ValueError(
            f"expected {len(objectives)} finite values, one for each of {[str(o) for o in objectives]}, "
            f"got {list(point)}"
        )
    return point
