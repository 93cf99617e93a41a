"""Where results are kept, and what every result says about itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.deploy.runtime import Runtime, available_threads, device_name, provenance
from nas.files import write_json_atomic

ROOT = Path(__file__).parent / "results"


def device_slug(device: str = "cpu") -> str:
    """Folder name of a device: ``intel-xeon-2-cores``, ``nvidia-h200``."""
    name = re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", device_name(device).lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or device
    return f"{slug}-{available_threads()}-cores" if device == "cpu" else slug


def result_folder(experiment: str, device: str = "cpu") -> Path:
    """``experiments/results/<device>/<experiment>``, made if absent."""
    folder = ROOT / device_slug(device) / experiment
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_result(
    folder: Path,
    *,
    command: str,
    seeds: Sequence[int],
    values: Mapping[str, Any],
    runtime: Runtime | None = None,
) -> Path:
    """Write ``result.json`` with command, seeds, device, versions and date beside the values."""
    runtime = runtime or Runtime("cpu", "float32", available_threads())
    path = folder / "result.json"
    write_json_atomic(
        path,
        {"command": command, "seeds": list(seeds), **provenance(runtime), "values": dict(values)},
    )
    return path
