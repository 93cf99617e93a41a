"""Constraints: the largest values of objectives that a search may accept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nas.objectives import Evaluation, Objective

_EXAMPLE = 'such as "weight_bytes<=4e6"'


def parse_constraints(texts: Sequence[str]) -> dict[str, float]:
    """Read constraints spelled ``objective<=bound``.

    Args:
        texts: one constraint each, on different objectives.

    Returns:
        Largest allowed value, in the objective's unit, by the objective's one spelling.

    Raises:
        ValueError: if a text is no such comparison, the objective is unknown, the bound is no finite
            number, or an objective has two.
    """
    bounds: dict[str, float] = {}
    for text in texts:
        name, sign, number = text.partition("<=")
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not sign or math.isnan(bound):
            raise ValueError(
                f"expected a constraint {_EXAMPLE}, got {text!r}; quote it, so that the shell leaves < alone"
            )
        found = check_constraints({name: bound})
        if bounds.keys() & found.keys():
            raise ValueError(f"expected one bound for {name.strip()}, got two: {list(texts)}")
        bounds |= found
    return bounds


def check_constraints(constraints: Mapping[str, float]) -> dict[str, float]:
    """Constraints under the one spelling of their objectives.

    Raises:
        ValueError: if an objective is unknown or named twice, or a bound is not finite.
    """
    bounds = {str(Objective.parse(name)): float(bound) for name, bound in constraints.items()}
    if len(bounds) < len(constraints):
        raise ValueError(f"expected one bound for each objective, got {dict(constraints)}")
    for name, bound in bounds.items():
        if not math.isfinite(bound):
            raise ValueError(f"expected a finite bound for {name}, {_EXAMPLE}, got {bound}")
    return bounds


def feasible_mask(
    evaluations: Sequence[Evaluation], constraints: Mapping[str, float]
) -> npt.NDArray[np.bool_]:
    """Which evaluations keep to all constraints.

    Raises:
        ValueError: if an evaluation lacks a constrained objective.
    """
    kept = [all(e.value(n) <= bound for n, bound in constraints.items()) for e in evaluations]
    return np.array(kept, dtype=np.bool_)
