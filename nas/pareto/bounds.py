"""Bounds on the values of a front's members, under short names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from nas.objectives import Evaluation, Objective


def members_within(
    evaluations: Sequence[Evaluation], objectives: Sequence[str], bounds: Mapping[str, float]
) -> list[Evaluation]:
    """The evaluations that keep to all bounds, in their order.

    Args:
        evaluations: members of a front.
        objectives: that all of them have, in their one spelling.
        bounds: largest value that is accepted, by an objective or whatever else all have a value of: its full spelling, or the
            metric alone where only one has it.

    Raises:
        ValueError: if a name is unknown or fits several, a bound is not finite, two are about the same, or none of several
            members keeps to all.
    """
    known = _evaluated(evaluations, objectives)
    limits: dict[str, float] = {}
    for name, bound in bounds.items():
        spelling = _spelling(name, known)
        if spelling in limits:
            raise ValueError(f"expected one bound for {spelling}, got two: {list(bounds)}")
        limits[spelling] = float(bound)
        if not math.isfinite(limits[spelling]):
            raise ValueError(f"expected a finite bound for {spelling}, got {bound}")
    kept = _keeping(evaluations, limits)
    if not kept and evaluations:
        wanted = " and ".join(f"{name} <= {most:g}" for name, most in limits.items())
        least = "; ".join(_least(evaluations, name, limits) for name in limits)
        raise ValueError(f"expected a member of the front with {wanted}, got none; {least}")
    return kept


def _keeping(evaluations: Sequence[Evaluation], limits: Mapping[str, float]) -> list[Evaluation]:
    return [e for e in evaluations if all(e.value(n) <= most for n, most in limits.items())]


def _evaluated(evaluations: Sequence[Evaluation], objectives: Sequence[str]) -> list[str]:
    """The objectives, then whatever else every member has a value of."""
    others = [
        name
        for name in (evaluations[0].values if evaluations else ())
        if name not in objectives and all(name in e.values for e in evaluations)
    ]
    return [*objectives, *others]


def _spelling(name: str, known: Sequence[str]) -> str:
    """The one of ``known`` that is meant: by its spelling, or by its metric where only one has it."""
    name = name.strip()
    found = [n for n in known if name in (n, n.split("[")[0])]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"expected the full spelling of one of {', '.join(found)}, got {name!r}")
    there = ", ".join(known)
    try:
        spelling = str(Objective.parse(name))
    except ValueError as error:
        raise ValueError(f"{error}; this front has {there}") from None
    if spelling in known:
        return spelling
    near = difflib.get_close_matches(spelling, known, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"expected one of what this front has ({there}), got {name!r}{hint}")


def _least(evaluations: Sequence[Evaluation], name: str, limits: Mapping[str, float]) -> str:
    """The least value there is, and the least that the other bounds leave."""
    text = f"the least {name} there is is {min(e.value(name) for e in evaluations):.6g}"
    others = {n: most for n, most in limits.items() if n != name}
    if not others:
        return text
    left = _keeping(evaluations, others)
    if not left:
        return f"{text}, and no member keeps to the other bounds"
    least = min(e.value(name) for e in left)
    return f"{text}, and {least:.6g} among those that keep to the other bounds"
