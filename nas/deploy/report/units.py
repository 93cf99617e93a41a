"""Metrics and their values as people read them: titles, units, sensible digits."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MISSING = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"  # between a value and its unit, so that a line never ends between them
_TITLES = {
    "perplexity": "Perplexity",
    "params": "Parameters",
    "nonzeros": "Non-zero weights",
    "weight_bytes": "Stored weights",
    "flops": "FLOPs per token",
    "decode_ms": "Decode latency",
    "prefill_ms": "Prefill latency",
    "peak_memory_bytes": "Peak memory",
    "energy_j": "Energy",
}
_UNITS = {"_ms": "ms", "_bytes": "bytes", "_j": "J"}
_COUNTS = ("params", "nonzeros", "flops")
_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric by its house spelling, for example ``decode_ms[batch=1,context=128]``.

    Args:
        name: the full spelling.
        unit: its unit; inferred from the spelling when empty.
    """

    name: str
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.unit:
            unit = next((u for suffix, u in _UNITS.items() if self.base.endswith(suffix)), "")
            object.__setattr__(self, "unit", unit)

    @property
    def base(self) -> str:
        """The name without its workload."""
        return self.name.split("[", 1)[0]

    @property
    def title(self) -> str:
        """The name in words, without workload or unit."""
        return _TITLES.get(self.base, self.base.replace("_", " "))

    @property
    def workload(self) -> str:
        """The workload in words, or nothing."""
        match = re.fullmatch(r"[^\[]*\[(.*)\]", self.name)
        return ", ".join(re.split(r"\s*,\s*", match[1].replace("=", " "))) if match else ""

    @property
    def label(self) -> str:
        """Title and workload."""
        return f"{self.title} ({self.workload})" if self.workload else self.title

    @property
    def axis(self) -> str:
        """What an axis says: title, workload, and the unit where the ticks do not carry it."""
        return self.label if self.has_prefix or not self.unit else f"{self.label}, {self.unit}"

    @property
    def is_latency(self) -> bool:
        """Whether it is a time."""
        return self.unit == "ms"

    @property
    def has_prefix(self) -> bool:
        """Whether its values are written with an SI prefix (24 MB, 3 M)."""
        return self.unit == "bytes" or self.base in _COUNTS

    def format(self, value: float | None) -> str:
        """The value with its unit, to three or four digits; a dash for none."""
        if value is None:
            return MISSING
        if self.unit == "bytes":
            return si(value, "B")
        if self.unit == "ms":
            return _duration(value)
        if self.has_prefix:
            return si(value, "")
        text = number(value, digits=4 if self.base == "perplexity" else 3)
        return f"{text}{NBSP}{self.unit}" if self.unit else text


def number(value: float, digits: int = 3) -> str:
    """Fixed to ``digits`` significant digits where that reads well, else scientific."""
    size = abs(
        float(f"{value:.{digits}g}")
    )  # rounded first: 9.999 has one digit before the point less than 10.00
    if size == 0:
        return "0"
    if size >= 1e6 or size < 1e-4:
        return f"{value:.2e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"


def si(value: float, unit: str) -> str:
    """With an SI prefix: 24.1 MB, 3.20 M."""
    for factor, prefix in _SI:
        if abs(value) >= factor * 0.9995:
            if abs(value) >= 1e18:
                break
            return f"{number(value / factor)}{NBSP}{prefix}{unit}"
    text = f"{value:.2e}" if abs(value) >= 1e18 else f"{value:.0f}"
    return f"{text}{NBSP}{unit}" if unit else text


def ratio(value: float | None, digits: int = 2) -> str:
    """A factor: 2.41x with the multiplication sign; a dash for none."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}" if 0.01 <= abs(value) < 1e4 else number(value)
    return f"{text}\N{MULTIPLICATION SIGN}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent; a dash for none."""
    return MISSING if value is None else f"{100 * value:.{digits}f}{NBSP}%"


def _duration(ms: float) -> str:
    if abs(ms) < 0.1 and ms != 0:
        return f"{number(ms * 1e3)}{NBSP}\N{MICRO SIGN}s"
    if abs(ms) >= 1e3:
        return f"{number(ms / 1e3)}{NBSP}s"
    return f"{number(ms)}{NBSP}ms"
