"""``nas tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nas.commands.searching import search_command
from nas.deploy.runtime import check_device, device_name
from search_spaces import preset
from surrogates.kernel_table import slug

if TYPE_CHECKING:
    from nas.cli import Tune


def tune_device(command: Tune, words: str) -> None:
    """``nas tune``."""
    from nas.deploy.tune import tune

    out = command.out or default_table(command.device)
    table = tune(
        preset(command.space),
        device=command.device,
        dtype=command.dtype,
        tokens=command.tokens,
        sparsities=command.sparsities or None,
        threads=command.threads,
        out=out,
        command=words,
    )
    sparse = [row for row in table.rows if row.format != "dense"]
    stored = sum(row.us_without_copy <= row.us["dense"] for row in sparse if "dense" in row.us)
    options = {"space": command.space, "device": command.device, "kernels": out, "out": "runs/mine"}
    Console().print(
        f"{len(table.rows)} products of {table.device} in {out}; in {stored} of {len(sparse)} sparse ones the stored weight is as fast "
        f"as the dense one\nNext: {search_command(options)}\n"
        f"To ship it: copy it to nas/kernels/tables/{slug(table.device)}.json",
        soft_wrap=True,
        highlight=False,
    )


def default_table(device: str) -> Path:
    """Where ``nas tune`` writes the table of this machine's processor."""
    check_device(device)
    return Path("runs/tune") / f"{slug(device_name(device))}.json"
