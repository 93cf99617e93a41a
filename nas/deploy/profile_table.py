"""The records of a profile as measurement tables, so that a device joins ``surrogates.Benchmark`` by one file.

n architectures, r rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.deploy.device_profile import DeviceProfile, rounds_of
from nas.deploy.runtime import versions
from nas.files import PathLike
from search_spaces import Architecture, SearchSpace, Workload
from surrogates.base import FloatArray
from surrogates.kernel_table import slug
from surrogates.tables import Key, MeasurementTable


def measurement_tables(
    found: DeviceProfile, space: SearchSpace
) -> dict[Workload, MeasurementTable]:
    """A table for each workload of a profile: single rounds of ``decode_ms`` or ``prefill_ms``, and of ``energy_j`` where measured.

    The device is called as the processor names itself, in lower case with hyphens. An architecture that was measured for one metric only
    has NaN for the other, and the table says so in ``skipped``.

    Args:
        found: the profile.
        space: whose architectures it measured.

    Raises:
        ValueError: if an architecture of the records is not in the space.
    """
    device = slug(found.device_name or found.runtime.device)
    tables = {}
    for workload in dict.fromkeys([*found.surrogates, *found.energy]):
        measured: dict[Key, tuple[list[Architecture], FloatArray]] = {}
        for metric, records, field in (
            (f"{workload.phase}_ms", found.records, "median_ms"),
            ("energy_j", found.energy_records, "joules"),
        ):
            rows = rounds_of(records, workload, found.runtime, field)
            if rows[0]:
                measured[metric, device] = rows
        architectures = list(dict.fromkeys(a for own, _ in measured.values() for a in own))
        position = {a: i for i, a in enumerate(architectures)}
        columns: dict[Key, FloatArray] = {}
        for key, (own, repeats_nr) in measured.items():
            columns[key] = np.full((len(architectures), repeats_nr.shape[1]), np.nan)
            columns[key][[position[a] for a in own]] = repeats_nr
        tables[workload] = MeasurementTable.of(
            space,
            workload,
            architectures,
            columns,
            dtype=found.runtime.dtype,
            provenance=_provenance(found),
            bad="skip",
        )
    return tables


def write_tables(found: DeviceProfile, space: SearchSpace, out: PathLike) -> list[Path]:
    """Write ``table.npz`` to a folder, or ``table-<workload>.npz`` where there are several workloads.

    Args:
        found: the profile.
        space: whose architectures it measured.
        out: folder.

    Returns:
        The paths of the files.
    """
    tables = measurement_tables(found, space)
    paths = []
    for workload, table in tables.items():
        name = "table.npz" if len(tables) == 1 else f"table-{slug(str(workload))}.npz"
        table.save(Path(out) / name)
        paths.append(Path(out) / name)
    return paths


def how_to_read(space: SearchSpace, paths: Sequence[Path]) -> str:
    """Where the tables are, and the call that reads them."""
    listed = ", ".join(map(str, paths))
    return (
        f"Measurements of this device in {listed}; "
        f'surrogates.Benchmark("{space.name}", table="{paths[0]}", bad="skip") reads '
        + ("it" if len(paths) == 1 else "each")
    )


def _provenance(found: DeviceProfile) -> dict[str, Any]:
    """Where the numbers come from, as the records say it."""
    last = found.records[-1]
    return {
        "source": f"measured models on {found.device_name}, {found.runtime}",
        "confidence": "fitted to measurements of materialized models",
        "runtime": found.runtime.to_json(),
        "date": last.get("date"),
        "versions": last.get("versions", versions()),
        "profile": found.fingerprint,
    }
