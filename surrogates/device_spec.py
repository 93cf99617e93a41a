"""DeviceSpec: the few figures of a device that an analytic model needs, each with its source, and their JSON.

Peaks are dense (no 2:4 doubling), in floating-point operations per second. A figure without a public source is absent (None) or
its source starts with ``assumed``; such a figure orders architectures, it does not predict milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_BYTES = {"float32": 4, "tfloat32": 4, "bfloat16": 2, "float16": 2}
_FIGURES = (
    "bandwidth_bytes_s",
    "op_overhead_s",
    "cache_bytes",
    "cache_bandwidth_bytes_s",
    "power_w",
    "memory_bytes",
    "num_units",
    "on_chip_bytes",
    "instructions_s",
)
_WHOLE = ("cache_bytes", "memory_bytes", "num_units", "on_chip_bytes")
_FIELDS = ("name", "peak_flops", *_FIGURES, "sparse_s", "source")
_PATTERNS = ("n:m", "unstructured", "block", "vector")


@dataclass(frozen=True)
class DeviceSpec:
    """What a roofline and a dataflow model know of a device.

    Args:
        name: short name.
        peak_flops: FLOP/s by dtype (``float32``, ``tfloat32``, ``bfloat16``, ``float16``), without structured sparsity.
        bandwidth_bytes_s: bytes per second from main memory.
        op_overhead_s: seconds that launching one operator costs when nothing else limits it.
        cache_bytes: last-level cache, None if not known.
        cache_bandwidth_bytes_s: bytes per second from that cache, None if not known.
        power_w: board or package power limit in watts, None if not known.
        memory_bytes: size of main memory, None if not known.
        num_units: compute units that can work on different operators (multiprocessors, cores, PCUs), None if not known.
        on_chip_bytes: memory beside the units that a program places data in (shared memory, scratch pads; on a CPU its last-level
            cache), which bounds what can be fused; None if not known.
        instructions_s: thread-instructions per second that the project's GPU kernels can issue; None where they do not run.
        sparse_s: seconds that a sparse product adds to its roofline where torch's own products run, by pattern: per product, and per
            weight of the dense matrix (calls; the dense weight rebuilt). None where that is not known.
        source: where each figure above comes from, by field name.

    Raises:
        ValueError: if a figure is not a finite number above 0 or has no source.
    """

    name: str
    peak_flops: Mapping[str, float]
    bandwidth_bytes_s: float
    op_overhead_s: float
    cache_bytes: int | None = None
    cache_bandwidth_bytes_s: float | None = None
    power_w: float | None = None
    memory_bytes: int | None = None
    num_units: int | None = None
    on_chip_bytes: int | None = None
    instructions_s: float | None = None
    sparse_s: Mapping[str, tuple[float, float]] | None = None
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"expected the name of a device, got {self.name!r}")
        for name in ("peak_flops", "source"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"expected {name} by name, got {getattr(self, name)!r}")
        if not self.peak_flops or set(self.peak_flops) - set(_BYTES):
            raise ValueError(
                f"expected peak_flops for dtypes in {list(_BYTES)}, got {dict(self.peak_flops)}"
            )
        for dtype, value in self.peak_flops.items():
            self._check(f"peak_flops of {dtype}", value, whole=False)
        given = ["peak_flops", *(n for n in _FIGURES if getattr(self, n) is not None)]
        for name in given[1:]:
            self._check(name, getattr(self, name), whole=name in _WHOLE)
        if self.sparse_s is not None:
            given.append("sparse_s")
            object.__setattr__(self, "sparse_s", _checked_sparse(self.name, self.sparse_s))
        for name in ("bandwidth_bytes_s", "op_overhead_s"):
            if name not in given:
                raise ValueError(f"expected {name} of device {self.name!r}, got None")
        for name in given:
            text = self.source.get(name)
            if not isinstance(text, str) or not text:
                raise ValueError(f"expected a source for {name} of device {self.name!r}, got none")
        if unused := set(self.source) - set(given):
            raise ValueError(
                f"expected sources for the figures of device {self.name!r}, got some for {sorted(unused)}"
            )
        object.__setattr__(self, "peak_flops", MappingProxyType(dict(self.peak_flops)))
        object.__setattr__(self, "source", MappingProxyType(dict(self.source)))

    def sparse_seconds(self, pattern: str, weights: float) -> float:
        """Seconds that one product with a sparse matrix of so many weights, zeros included, adds to its roofline; 0 if not known."""
        per_product, per_weight = (self.sparse_s or {}).get(pattern, (0.0, 0.0))
        return per_product + per_weight * weights

    def __hash__(self) -> int:  # the mappings have none
        return hash((self.name, *(getattr(self, name) for name in _FIGURES)))

    def _check(self, name: str, value: object, whole: bool) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (whole and not isinstance(value, int)):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"expected {name} of device {self.name!r} to be {kind}, got {value!r}")
        assert isinstance(value, int | float)
        if not value > 0 or not math.isfinite(value):
            raise ValueError(
                f"expected {name} above 0 and finite for device {self.name!r}, got {value}"
            )

    def peak(self, dtype: str) -> float:
        """FLOP/s for a dtype.

        Raises:
            ValueError: if the table has no figure for it.
        """
        if dtype not in self.peak_flops:
            raise ValueError(
                f"expected a dtype in {', '.join(self.peak_flops)} for device {self.name!r}, got {dtype!r}"
            )
        return self.peak_flops[dtype]

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values; a figure that is not known is None."""
        values = {name: getattr(self, name) for name in _FIELDS}
        if self.sparse_s is not None:
            values["sparse_s"] = {pattern: list(pair) for pattern, pair in self.sparse_s.items()}
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> DeviceSpec:
        """Inverse of :meth:`to_json`; figures that are not known may be left out.

        Raises:
            ValueError: if a field is missing, unknown or invalid.
        """
        needed = ("name", "peak_flops", "bandwidth_bytes_s", "op_overhead_s", "source")
        if not isinstance(fields, dict) or not set(needed) <= set(fields) <= set(_FIELDS):
            raise ValueError(
                f"expected a device with {', '.join(needed)} and, where known, others of {', '.join(_FIELDS)}; got {fields!r}"
            )
        return cls(**fields)


def _checked_sparse(name: str, found: object) -> Mapping[str, tuple[float, float]]:
    if not isinstance(found, Mapping) or set(found) - set(_PATTERNS):
        raise ValueError(
            f"expected sparse_s of device {name!r} by pattern in {_PATTERNS}, got {found!r}"
        )
    for pattern, pair in found.items():
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf
            for v in pair
        ):
            raise ValueError(
                f"expected sparse_s of {pattern} of device {name!r} as two finite numbers of 0 or more, got {pair!r}"
            )
    return MappingProxyType({p: (float(a), float(b)) for p, (a, b) in found.items()})


def value_bytes(dtype: str) -> int:
    """Bytes of one number.

    Raises:
        ValueError: if the dtype is unknown.
    """
    if dtype not in _BYTES:
        raise ValueError(f"expected a dtype in {', '.join(_BYTES)}, got {dtype!r}")
    return _BYTES[dtype]
