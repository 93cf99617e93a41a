"""A measured machine as a table to read."""

from __future__ import annotations

from rich.table import Table

from surrogates import DeviceSpec


def machine_table(spec: DeviceSpec) -> Table:
    """The figures of a machine as they were measured, each with its source."""
    table = Table(title="This machine", title_justify="left")
    for column in ("figure", "value", "source"):
        table.add_column(column)
    for dtype, peak in spec.peak_flops.items():
        table.add_row(f"peak, {dtype}", f"{peak / 1e9:,.0f} GFLOP/s", spec.source["peak_flops"])
    scales = {
        "bandwidth_bytes_s": ("memory bandwidth", 1e9, "GB/s"),
        "cache_bytes": ("cache", 2**20, "MiB"),
        "cache_bandwidth_bytes_s": ("cache bandwidth", 1e9, "GB/s"),
        "op_overhead_s": ("one launch", 1e-6, "us"),
        "power_w": ("power limit", 1.0, "W"),
    }
    for name, (title, scale, unit) in scales.items():
        value = getattr(spec, name)
        text = "not known" if value is None else f"{value / scale:,.1f} {unit}"
        table.add_row(title, text, spec.source.get(name, "no source on this machine"))
    for pattern, (per_product, per_weight) in (spec.sparse_s or {}).items():
        text = f"{1e6 * per_product:.0f} us + {1e9 * per_weight:.2f} ns a weight"
        table.add_row(f"{pattern} product", text, spec.source["sparse_s"])
    return table
