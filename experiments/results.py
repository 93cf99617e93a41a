"""Where results are kept, and what every result says about itself."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from rich.console import Console

from nas.deploy.runtime import Runtime, available_threads, device_name, provenance
from nas.files import write_json_atomic, write_text_atomic

ROOT = Path(__file__).parent / "results"

Recipe = TypeVar("Recipe")


def device_slug(device: str = "cpu") -> str:
    """Folder name of a device: ``intel-xeon-2-cores``, ``nvidia-h200``."""
    name = re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", device_name(device).lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or device
    return f"{slug}-{available_threads()}-cores" if device == "cpu" else slug


def run(main: Callable[[Recipe], Any], recipe: type[Recipe], description: str | None) -> None:
    """Run an experiment with the settings of the command line; a wrong one is a line to read, not a traceback."""
    try:
        main(tyro.cli(recipe, description=description))
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(2)


def result_folder(experiment: str, device: str = "cpu", results: Path = ROOT) -> Path:
    """``<results>/<device>/<experiment>``, made if absent."""
    folder = results / device_slug(device) / experiment
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command_line(module: str, recipe: Any) -> str:
    """The command that repeats an experiment, every setting spelled out but its folders.

    Args:
        module: what ``python -m`` runs.
        recipe: frozen dataclass of settings, as the command line parses it; a None is left to its default.
    """
    words = ["python", "-m", module]
    for name, value in ((f.name, getattr(recipe, f.name)) for f in fields(recipe)):
        if name in ("out", "results") or value is None:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{option}", *map(str, values)]
    return shlex.join(words)


def digest(values: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of JSON values: what a kept record was made with, so that no other setting takes it for its own."""
    text = json.dumps(dict(values), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_result(
    folder: Path,
    *,
    command: str,
    seeds: Sequence[int],
    values: Mapping[str, Any],
    runtime: Runtime | None = None,
    name: str = "result.json",
) -> Path:
    """Write command, seeds, device, versions and date beside the values.

    Args:
        folder: of the experiment.
        command: that repeats it.
        seeds: that it used.
        values: the result, JSON values.
        runtime: what the values were made with; by default the CPU with the threads PyTorch has now.
        name: of the file.

    Returns:
        The path of the file.
    """
    runtime = runtime or Runtime("cpu", "float32", torch.get_num_threads())
    path = folder / name
    write_json_atomic(
        path,
        {"command": command, "seeds": list(seeds), **provenance(runtime), "values": dict(values)},
    )
    return path


def write_csv(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write rows under their columns.

    Args:
        path: of the file.
        rows: values by column; a cell that a row does not have stays empty.
        columns: their order; by default that in which the rows name them.

    Raises:
        ValueError: if a row has a value of a column that is not listed.
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
