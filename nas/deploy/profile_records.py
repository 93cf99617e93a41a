"""Latency records: the lines of ``profile.jsonl``, made and read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from nas.deploy.measure import Timing
from nas.deploy.runtime import Runtime, provenance
from nas.files import read_jsonl
from search_spaces import Architecture, Workload


def read_records(path: Path | None) -> list[dict[str, Any]]:
    """Records of earlier runs, each whole.

    Raises:
        ValueError: naming the first line that is damaged.
    """
    records = [] if path is None else read_jsonl(path)
    for number, record in enumerate(records, start=1):
        try:
            ms, fields = record["median_ms"], set(record["runtime"])
            is_whole = (
                {"device", "space", "dense_paths_ms"} <= set(record)
                and fields == set(Runtime.__dataclass_fields__)
                and isinstance(record["round"], int)
                and isinstance(record["workload"], str)
                and Architecture.from_json(record["architecture"]).key == record["key"]
                and 0.0 < ms < math.inf
            )
        except (KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"expected a latency record in line {number} of {path}, got {json.dumps(record)[:80]}; "
                "remove that line or restore the file"
            )
    return records


def latency_record(
    architecture: Architecture,
    workload: Workload,
    number: int,
    timing: Timing,
    runtime: Runtime,
    paths: dict[str, Any],
) -> dict[str, Any]:
    """One measurement with everything it depends on.

    Args:
        architecture: of the model.
        workload: that was timed.
        number: of the round.
        timing: what it took.
        runtime: how it was executed.
        paths: what the dense paths took when the runtime was chosen.
    """
    return {
        "key": architecture.key,
        "architecture": architecture.to_json(),
        "workload": str(workload),
        "round": number,
        "median_ms": timing.median_ms,
        "p20_ms": timing.p20_ms,
        "p80_ms": timing.p80_ms,
        "repeats": timing.repeats,
        "dense_paths_ms": paths,
        **provenance(runtime),
    }
