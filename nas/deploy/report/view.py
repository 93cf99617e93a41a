"""Results as the report tells them: winners with their state, who is fastest and smallest, and the verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

from nas.deploy.report.units import Metric, percent
from search_spaces import Architecture

PERPLEXITY_LIMIT = (
    1.15  # the front is wide: winners are named where the text model is still as good, within 15 %
)
Status = Literal["verified", "failed", "unmeasured"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Claim:
    """A prediction and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """One line of a verification: what was measured, and the interval it had to fall in."""

    name: str
    passed: bool
    measured: float | None
    low: float | None
    high: float | None
    tolerance: float | None
    unit: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Check:
        """Read one check of the results."""
        low, high, tolerance = (fields.get(key) for key in ("low", "high", "tolerance"))
        unit = str(fields.get("unit") or "")
        return cls(
            fields["name"], fields["passed"], fields.get("measured"), low, high, tolerance, unit
        )

    @property
    def text(self) -> str:
        """The check in words."""
        metric = Metric(self.name, self.unit)
        parts = [f"measured {metric.format(self.measured)}"]
        if self.low is not None and self.high is not None:
            low, high = metric.format(self.low), metric.format(self.high)
            parts.append(f"claimed {low}" if low == high else f"claimed {low} to {high}")
        if self.tolerance:
            parts.append(f"tolerance {percent(self.tolerance, 1)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Winner:
    """One architecture of the front, as predicted and as measured; winners are numbered from 1, as people count."""

    number: int
    label: str
    architecture: Architecture
    predicted: dict[str, Claim]
    measured: dict[str, float]
    status: Status
    speedup: float | None
    perplexity_ratio: float | None
    size_ratio: float | None
    checks: tuple[Check, ...]
    sample: str
    folder: str

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"winner {self.number}"

    @property
    def anchor(self) -> str:
        """Where its picture stands on the page."""
        return f"winner-{self.number}"

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True)
class RandomPoint:
    """The random search's counterpart of the fastest winner; predicted, never measured."""

    architecture: Architecture
    values: dict[str, float]
    is_within_limit: bool
    speedup: float | None
    perplexity_ratio: float | None
    size_ratio: float | None


class View:
    """Everything the report says, computed once from checked results.

    Args:
        results: results of schema 1, already validated.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.metrics = [Metric(o["name"], str(o.get("unit") or "")) for o in results["objectives"]]
        self.provenance: dict[str, Any] = results.get("provenance") or {}
        self.baseline = self._spelled(results["baseline"]["measured"])
        self.baseline_architecture = Architecture.from_json(results["baseline"]["architecture"])
        self.baseline_path = str(results["baseline"].get("path") or "")
        self.trials: list[dict[str, Any]] = results.get("trials") or []
        self.random: dict[str, Any] = results.get("random_search") or {}
        self.hypervolume: float | None = results.get("hypervolume")
        self.surrogate: dict[str, dict[str, Any]] = results.get("surrogate") or {}
        self.winners = [self._winner(i, w) for i, w in enumerate(results["winners"], 1)]

    @cached_property
    def latency(self) -> Metric | None:
        """What a speed-up is about: the first objective that is a time, or else the first time measured."""
        metrics = [*self.metrics, *map(Metric, self.baseline)]
        return next((m for m in metrics if m.is_latency), None)

    @cached_property
    def table_metrics(self) -> list[Metric]:
        """Objectives, then perplexity, latency, weight bytes and peak memory wherever they were measured."""
        known = {m.base for m in self.metrics}
        rows = (self.baseline, *(w.measured for w in self.winners))
        wanted = [
            Metric("perplexity"),
            self.latency,
            Metric("weight_bytes"),
            Metric("peak_memory_bytes"),
        ]
        extra = [
            m for m in wanted if m and m.base not in known and any(m.name in row for row in rows)
        ]
        return [*self.metrics, *extra]

    @property
    def verified(self) -> list[Winner]:
        """Winners whose every check passed."""
        return [w for w in self.winners if w.status == "verified"]

    @cached_property
    def fastest(self) -> Winner | None:
        """The fastest verified winner within the perplexity limit."""
        return best_of(self._within_limit, lambda w: -w.speedup if w.speedup else None)

    @cached_property
    def smallest(self) -> Winner | None:
        """The smallest verified winner within the perplexity limit."""
        return best_of(self._within_limit, lambda w: w.size_ratio)

    @cached_property
    def random_best(self) -> RandomPoint | None:
        """The fastest (or else smallest) point of random search's front within the limit, or else the most accurate."""
        points = [self._random_point(p) for p in self.random.get("front") or []]
        within = [p for p in points if p.is_within_limit]
        return (
            best_of(within, lambda p: -p.speedup if p.speedup else None)
            or best_of(within, lambda p: p.size_ratio)
            or best_of(points, lambda p: p.perplexity_ratio)
            or (points[0] if points else None)
        )

    @cached_property
    def intervals(self) -> tuple[int, int]:
        """How many measured values lie in their predicted interval, and how many have one wider than a point."""
        hits = [
            claim.low <= winner.measured[name] <= claim.high
            for winner in self.winners
            for name, claim in winner.predicted.items()
            if name in winner.measured and claim.low < claim.high
        ]
        return sum(hits), len(hits)

    @cached_property
    def interval_level(self) -> float:
        """The level the intervals were made for."""
        levels = [q["interval_level"] for q in self.surrogate.values() if q.get("interval_level")]
        return float(levels[0]) if levels else 0.9

    @cached_property
    def _within_limit(self) -> list[Winner]:
        return [
            w
            for w in self.verified
            if w.perplexity_ratio is not None and w.perplexity_ratio <= PERPLEXITY_LIMIT
        ]

    def _spelled(self, values: dict[str, float] | None) -> dict[str, float]:
        """Measured values under the objectives' spellings too: ``peak_memory_bytes`` may stand without its workload."""
        found = dict(values or {})
        for metric in self.metrics:
            if metric.name not in found and metric.base in found:
                found[metric.name] = found[metric.base]
        return found

    def _winner(self, number: int, fields: dict[str, Any]) -> Winner:
        measured = self._spelled(fields.get("measured"))
        architecture = Architecture.from_json(fields["architecture"])
        status: Status = "unmeasured"
        if measured:
            status = "verified" if fields["verified"] else "failed"
        return Winner(
            number=number,
            label=str(fields.get("label") or architecture),
            architecture=architecture,
            predicted={
                name: Claim(c["mean"], c["low"], c["high"])
                for name, c in fields["predicted"].items()
            },
            measured=measured,
            status=status,
            checks=tuple(Check.of(check) for check in fields.get("checks") or []),
            sample=str(fields.get("sample") or ""),
            folder=str(fields.get("folder") or ""),
            **{**self._ratios(measured), **_given(fields)},
        )

    def _random_point(self, fields: dict[str, Any]) -> RandomPoint:
        values = self._spelled(fields["values"])
        ratios = self._ratios(values)
        quality = ratios["perplexity_ratio"]
        return RandomPoint(
            architecture=Architecture.from_json(fields["architecture"]),
            values=values,
            is_within_limit=quality is None or quality <= PERPLEXITY_LIMIT,
            **ratios,
        )

    def _ratios(self, values: dict[str, float]) -> dict[str, float | None]:
        """Speed-up and ratios over the baseline, where both sides are known."""

        def over(name: str) -> float | None:
            dense = self.baseline.get(name)
            return values[name] / dense if name in values and dense else None

        slowdown = over(self.latency.name) if self.latency else None
        return {
            "speedup": 1 / slowdown if slowdown else None,
            "perplexity_ratio": over("perplexity"),
            "size_ratio": over("weight_bytes"),
        }


def _given(fields: dict[str, Any]) -> dict[str, float]:
    names = ("speedup", "perplexity_ratio", "size_ratio")
    return {name: fields[name] for name in names if fields.get(name) is not None}


def best_of(items: Iterable[_T], cost: Callable[[_T], float | None]) -> _T | None:
    """The item of least cost among those that have one."""
    costs = [(value, item) for item in items if (value := cost(item)) is not None]
    return min(costs, key=lambda pair: pair[0])[1] if costs else None
