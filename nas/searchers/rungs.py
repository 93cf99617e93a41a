"""Rungs: the numbers of told points at which hyperparameters are fitted."""

from __future__ import annotations

_GROWTH = 1.15
COLD_EVERY = 4  # fits from nothing; those between start from the fit before


def rungs(n: int) -> list[int]:
    """Numbers of told points, each 15 % above the one before, up to n of 1 or more."""
    found = [1]
    while (following := max(found[-1] + 1, int(found[-1] * _GROWTH))) <= n:
        found.append(following)
    return found
