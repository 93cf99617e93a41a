"""Devices: the few published figures that an analytic roofline needs, each with its source.

Peaks are dense (no 2:4 doubling), in floating-point operations per second. A figure without a public source is absent (None) or
its source starts with ``assumed``; such a figure orders architectures, it does not predict milliseconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_BYTES = {"float32": 4, "tfloat32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class DeviceSpec:
    """What a roofline knows of a device.

    Args:
        name: short lower-case name.
        peak_flops: FLOP/s by dtype (``float32``, ``tfloat32``, ``bfloat16``, ``float16``), without structured sparsity.
        bandwidth_bytes_s: bytes per second from main memory.
        op_overhead_s: seconds that launching one operator costs when nothing else limits it.
        cache_bytes: last-level cache, None if not known.
        cache_bandwidth_bytes_s: bytes per second from that cache, None if not known.
        power_w: board or package power limit, None if not known.
        source: where each figure above comes from, by field name.

    Raises:
        ValueError: if a figure is not positive or has no source.
    """

    name: str
    peak_flops: Mapping[str, float]
    bandwidth_bytes_s: float
    op_overhead_s: float
    cache_bytes: int | None = None
    cache_bandwidth_bytes_s: float | None = None
    power_w: float | None = None
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.peak_flops or set(self.peak_flops) - set(_BYTES):
            raise ValueError(
                f"expected peak_flops for dtypes in {list(_BYTES)}, got {dict(self.peak_flops)}"
            )
        figures: dict[str, float | None] = {
            name: getattr(self, name)
            for name in (
                "bandwidth_bytes_s",
                "op_overhead_s",
                "cache_bytes",
                "cache_bandwidth_bytes_s",
                "power_w",
            )
        }
        figures["peak_flops"] = min(self.peak_flops.values())
        for name, value in figures.items():
            if value is not None and not value > 0:
                raise ValueError(f"expected {name} above 0 for device {self.name!r}, got {value}")
            if value is not None and not self.source.get(name):
                raise ValueError(f"expected a source for {name} of device {self.name!r}, got none")
        object.__setattr__(self, "peak_flops", MappingProxyType(dict(self.peak_flops)))
        object.__setattr__(self, "source", MappingProxyType(dict(self.source)))

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


def value_bytes(dtype: str) -> int:
    """Bytes of one number.

    Raises:
        ValueError: if the dtype is unknown.
    """
    if dtype not in _BYTES:
        raise ValueError(f"expected a dtype in {', '.join(_BYTES)}, got {dtype!r}")
    return _BYTES[dtype]


_LAUNCH = "assumed: 5 us for one operator launched from Python without CUDA graphs"
_A100 = "NVIDIA A100 datasheet (80 GB SXM)"
_H100 = "NVIDIA H100 datasheet (SXM), halved where it is given with sparsity"
_H200 = "NVIDIA H200 datasheet (SXM), halved where it is given with sparsity"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A (RTX 4090; tensor figures with FP32 accumulate)"

_DEVICES = (
    DeviceSpec(
        name="a100",
        peak_flops={"float32": 19.5e12, "tfloat32": 156e12, "bfloat16": 312e12, "float16": 312e12},
        bandwidth_bytes_s=2039e9,
        op_overhead_s=5e-6,
        cache_bytes=40 * 2**20,
        cache_bandwidth_bytes_s=5120 * 1.41e9,
        power_w=400,
        source={
            "peak_flops": _A100,
            "bandwidth_bytes_s": _A100,
            "op_overhead_s": _LAUNCH,
            "cache_bytes": "NVIDIA A100 architecture whitepaper (L2)",
            "cache_bandwidth_bytes_s": "NVIDIA A100 architecture whitepaper: 5120 bytes per clock from L2, times 1.41 GHz boost",
            "power_w": _A100,
        },
    ),
    DeviceSpec(
        name="h100",
        peak_flops={
            "float32": 67e12,
            "tfloat32": 494.7e12,
            "bfloat16": 989.4e12,
            "float16": 989.4e12,
        },
        bandwidth_bytes_s=3.35e12,
        op_overhead_s=5e-6,
        cache_bytes=50 * 2**20,
        power_w=700,
        source={
            "peak_flops": _H100,
            "bandwidth_bytes_s": _H100,
            "op_overhead_s": _LAUNCH,
            "cache_bytes": "NVIDIA H100 architecture whitepaper (L2)",
            "power_w": _H100,
        },
    ),
    DeviceSpec(
        name="h200",
        peak_flops={
            "float32": 67e12,
            "tfloat32": 494.7e12,
            "bfloat16": 989.4e12,
            "float16": 989.4e12,
        },
        bandwidth_bytes_s=4.8e12,
        op_overhead_s=5e-6,
        power_w=700,
        source={
            "peak_flops": _H200,
            "bandwidth_bytes_s": _H200,
            "op_overhead_s": _LAUNCH,
            "power_w": _H200,
        },
    ),
    DeviceSpec(
        name="rtx4090",
        peak_flops={
            "float32": 82.6e12,
            "tfloat32": 82.6e12,
            "bfloat16": 165.2e12,
            "float16": 165.2e12,
        },
        bandwidth_bytes_s=1008e9,
        op_overhead_s=5e-6,
        cache_bytes=73728 * 2**10,
        power_w=450,
        source={
            "peak_flops": _ADA,
            "bandwidth_bytes_s": _ADA,
            "op_overhead_s": _LAUNCH,
            "cache_bytes": _ADA,
            "power_w": _ADA,
        },
    ),
    DeviceSpec(
        name="cpu",
        peak_flops={"float32": 192e9, "bfloat16": 192e9, "float16": 192e9},
        bandwidth_bytes_s=20e9,
        op_overhead_s=4e-6,
        cache_bytes=32 * 2**20,
        cache_bandwidth_bytes_s=60e9,
        source={
            "peak_flops": "assumed: two 3 GHz cores, two 8-wide FMA units each (AVX2): 2 x 3e9 x 2 x 8 x 2; halves computed as float32",
            "bandwidth_bytes_s": "assumed: two cores of a server with DDR4",
            "op_overhead_s": "assumed: one operator dispatched by eager PyTorch",
            "cache_bytes": "assumed: shared last-level cache of a server",
            "cache_bandwidth_bytes_s": "assumed: two cores reading the shared cache",
        },
    ),
)


def devices() -> Mapping[str, DeviceSpec]:
    """The table, by name."""
    return MappingProxyType({spec.name: spec for spec in _DEVICES})


def device(name: str) -> DeviceSpec:
    """One device of the table.

    Args:
        name: for example ``"a100"``; case, spaces, dashes and underscores do not matter.

    Raises:
        ValueError: if it is unknown; the near names are proposed.
    """
    table = devices()
    key = "".join(c for c in str(name).lower() if c not in " -_")
    if key not in table:
        near = difflib.get_close_matches(key, table, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"expected a device in {', '.join(table)}, got {name!r}{hint}")
    return table[key]
