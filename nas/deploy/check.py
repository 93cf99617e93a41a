"""Check: one claim of the search held against one measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.objectives import Objective

PERPLEXITY_TOLERANCE = 0.005  # extraction is exact; a reduced-precision runtime rounds
MEMORY_TOLERANCE = 0.01


@dataclass(frozen=True)
class Check:
    """One claim held against one measurement.

    Args:
        name: of the objective.
        measured: afresh.
        low: lower end of what was claimed.
        high: upper end.
        tolerance: relative widening of both ends.
        unit: of all three.
        passed: whether the measurement lies inside.
    """

    name: str
    measured: float
    low: float
    high: float
    tolerance: float
    unit: str
    passed: bool

    @classmethod
    def of(cls, objective: Objective, measured: float, claim: Mapping[str, Any]) -> Check:
        """Judge a measurement; counted metrics must agree exactly."""
        tolerance = {"perplexity": PERPLEXITY_TOLERANCE, "peak_memory_bytes": MEMORY_TOLERANCE}.get(
            objective.metric, 0.0
        )
        low, high = float(claim["low"]), float(claim["high"])
        passed = low * (1.0 - tolerance) <= measured <= high * (1.0 + tolerance)
        return cls(str(objective), measured, low, high, tolerance, objective.unit, passed)
