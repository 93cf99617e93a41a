"""``nas search``, and the search that another command proposes as the next step."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from nas.run_settings import SearchRun


def search_run(config: SearchRun, command: str) -> None:
    """``nas search``."""
    from nas.pipeline import run

    run(config, command=command)


def search_command(options: dict[str, Any]) -> str:
    """The ``nas search`` with these options, those left out that it takes by itself.

    Args:
        options: value by the name of a flag, without its dashes.
    """
    defaults = {field.name.replace("_", "-"): field.default for field in fields(SearchRun)}
    words = ["nas", "search"]
    for name, value in options.items():
        values = tuple(value) if isinstance(value, list) else value
        if values == defaults[name] and name != "out":
            continue
        words.append(f"--{name}")
        if value is not True:
            words += map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)
