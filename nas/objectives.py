"""Objective, what a search minimizes, and Evaluation, what was measured (or computed exactly) for one architecture."""

from __future__ import annotations

import difflib
import json
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from search_spaces import Architecture, Workload
from surrogates.base import Prediction

# metric -> (unit, phase of the workload it depends on; None: it depends on the architecture and its weights alone)
_METRICS: dict[str, tuple[str, str | None]] = {
    "perplexity": ("", None),
    "params": ("", None),
    "nonzeros": ("", None),
    "weight_bytes": ("bytes", None),
    "flops": ("FLOP", "decode"),
    "decode_ms": ("ms", "decode"),
    "prefill_ms": ("ms", "prefill"),
    "peak_memory_bytes": ("bytes", "decode"),
    "energy_j": ("J", "decode"),
}
_MEANT = {
    "latency": "decode_ms",
    "latency_ms": "decode_ms",
    "speed": "decode_ms",
    "time": "decode_ms",
    "ppl": "perplexity",
    "loss": "perplexity",
    "memory": "peak_memory_bytes",
    "size": "weight_bytes",
    "energy": "energy_j",
    "power": "energy_j",
}
_SPELLING = re.compile(r"\s*([A-Za-z_0-9]+)\s*(?:\[(.*)\])?\s*", re.DOTALL)


def metrics() -> tuple[str, ...]:
    """Names of the metrics an objective can be about."""
    return tuple(_METRICS)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _near_metric(name: str) -> str:
    """What else a metric is often called counts for it."""
    meant = {m: m for m in _METRICS} | _MEANT
    if name.lower() in meant:
        return f"; did you mean {meant[name.lower()]}?"
    near = difflib.get_close_matches(name.lower(), list(meant), n=3, cutoff=0.4)
    proposed = dict.fromkeys(meant[n] for n in near)
    return f"; did you mean {' or '.join(proposed)}?" if proposed else ""


@dataclass(frozen=True)
class Objective:
    """A quantity to minimize. ``str()`` is its one spelling: ``perplexity``, ``decode_ms[batch=1,context=128]``.

    Args:
        metric: one of :func:`metrics`.
        workload: batch and context for a metric that depends on them, None for the others.

    Raises:
        ValueError: if the metric is unknown or the workload does not fit it.
    """

    metric: str
    workload: Workload | None = None

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise ValueError(
                f"expected a metric in {', '.join(_METRICS)}, got {self.metric!r}"
                f"{_near_metric(str(self.metric))}"
            )
        phase = _METRICS[self.metric][1]
        got = None if self.workload is None else self.workload.phase
        if phase != got:
            remedy = f"a {phase} workload" if phase else "no workload (it does not depend on one)"
            raise ValueError(f"expected {remedy} for {self.metric}, got {self.workload}")

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``metric`` or ``metric[batch=B,context=C]``; what is left out is batch=1, context=128.

        Raises:
            ValueError: if the metric or a name in the brackets is unknown (the near ones are
                proposed), or a number is not a positive integer.
        """
        match = _SPELLING.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"expected an objective such as perplexity or decode_ms[batch=1,context=128], got {text!r}"
            )
        metric, inside = match.groups()
        if metric not in _METRICS:
            cls(metric)  # refuses and proposes
        phase = _METRICS[metric][1]
        if phase is None:
            if inside is not None:
                raise ValueError(
                    f"expected {metric} without brackets (it does not depend on a workload), got {text!r}"
                )
            return cls(metric)
        fields: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in (inside or "").split(","))):
            name, equals, value = (part.strip() for part in item.partition("="))
            if name not in ("batch", "context") or not equals or name in fields:
                raise ValueError(
                    f"expected {metric}[batch=B,context=C], got {text!r}{_near(name, ('batch', 'context'))}"
                )
            fields[name] = value
        return cls(metric, Workload.parse(phase, fields))

    @property
    def unit(self) -> str:
        """Unit of the values; empty for a plain number."""
        return _METRICS[self.metric][0]

    @property
    def direction(self) -> Literal["minimize"]:
        """Every objective is minimized."""
        return "minimize"

    def __str__(self) -> str:
        if self.workload is None:
            return self.metric
        return f"{self.metric}[batch={self.workload.batch},context={self.workload.context}]"

    def to_json(self) -> dict[str, str]:
        """Name, unit and direction as JSON values."""
        return {"name": str(self), "unit": self.unit, "direction": self.direction}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Objective:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing, or unit or direction contradict the name.
        """
        if not isinstance(fields, Mapping) or set(fields) != {"name", "unit", "direction"}:
            raise ValueError(f"expected an objective with name, unit and direction, got {fields!r}")
        objective = cls.parse(fields["name"])
        if objective.to_json() != {**fields, "name": str(objective)}:
            raise ValueError(f"expected {objective.to_json()}, got {dict(fields)}")
        return objective


def _number(name: str, value: object) -> int | float:
    if isinstance(value, Prediction):
        raise TypeError(
            f"expected a measured number for {name}, got a Prediction; measure the architecture, a guess is not an Evaluation"
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"expected a number for {name}, got {type(value).__name__}: {value!r:.80}")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"expected a finite number for {name}, got {number}; a failed measurement is no Evaluation"
        )
    if number < 0:
        raise ValueError(f"expected {name} of 0 or more, got {number}")
    return number


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one architecture as they were measured or computed exactly; never a guess.

    Args:
        architecture: what was evaluated.
        values: value by objective, in the objective's unit; names are brought to their one spelling.
        fidelity: tokens the measurement used; None when it does not depend on any.
        seed: seed of the measurement; None when nothing was random.
        provenance: where the values come from (device, versions, date, ...), JSON values only.

    Raises:
        TypeError: if a value is a Prediction or no number, or the provenance is not JSON.
        ValueError: if a value is NaN, infinite or negative, a name is no objective, or one is given
            twice.
    """

    architecture: Architecture
    values: Mapping[str, int | float]
    fidelity: int | None = None
    seed: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, Architecture):
            raise TypeError(f"expected an Architecture, got {type(self.architecture).__name__}")
        if isinstance(self.values, Prediction) or not isinstance(self.values, Mapping):
            raise TypeError(f"expected values by objective, got {type(self.values).__name__}")
        values: dict[str, int | float] = {}
        for name, value in self.values.items():
            spelling = str(Objective.parse(name))
            if spelling in values:
                raise ValueError(f"expected each objective once, got {spelling} twice")
            values[spelling] = _number(spelling, value)
        if not values:
            raise ValueError("expected the value of one objective or more, got none")
        for name in ("fidelity", "seed"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
                raise TypeError(f"expected {name} to be an integer or None, got {number!r}")
        # Through JSON and back: what cannot be stored is refused now, and nobody else holds the copy.
        provenance = json.loads(json.dumps(dict(self.provenance), allow_nan=False))
        object.__setattr__(self, "values", MappingProxyType(values))
        object.__setattr__(self, "provenance", MappingProxyType(provenance))

    def __hash__(self) -> int:
        return hash(
            (self.architecture, tuple(sorted(self.values.items())), self.fidelity, self.seed)
        )

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot be copied by itself
        return Evaluation.from_json, (self.to_json(),)

    def value(self, objective: Objective | str) -> float:
        """Value of one objective, in any of its spellings.

        Raises:
            ValueError: if it was not evaluated.
        """
        name = str(Objective.parse(objective) if isinstance(objective, str) else objective)
        if name not in self.values:
            raise ValueError(
                f"expected an evaluation of {name}, got only {', '.join(self.values)}"
                f"{_near(name, tuple(self.values))}"
            )
        return self.values[name]

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "architecture": self.architecture.to_json(),
            "values": dict(self.values),
            "fidelity": self.fidelity,
            "seed": self.seed,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Evaluation:
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a field is missing, unknown or invalid.
        """
        expected = {"architecture", "values", "fidelity", "seed", "provenance"}
        if not isinstance(fields, Mapping) or set(fields) != expected:
            raise ValueError(f"expected an evaluation with {sorted(expected)}, got {fields!r:.120}")
        return cls(**{**fields, "architecture": Architecture.from_json(fields["architecture"])})
