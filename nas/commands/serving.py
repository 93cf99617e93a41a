"""``nas serve`` and ``nas join``: one study on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nas.storage_url import engine_of, shown, sqlite_file

if TYPE_CHECKING:
    from nas.cli import Join, Serve


def serve_storage(command: Serve) -> None:
    """``nas serve``."""
    from nas.serve import serve

    address = f"grpc://{command.host}:{command.port}"
    kept, engine = str(command.storage), engine_of(command.storage)
    file = {"journal": kept, "sqlite": sqlite_file(kept)}.get(engine)
    # a mistyped path looks like success otherwise
    made = " (new: there was no such file)" if file and not Path(file).exists() else ""

    def ready() -> None:
        Console().print(
            f"Serving {shown(command.storage)}{made} at {address}, until Ctrl-C; nothing is kept here\n"
            f"Next: nas search --storage {address} --out RUN, and on other machines: nas join --run RUN --storage {address}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    serve(command.storage, command.host, command.port, ready)


def join_search(command: Join) -> None:
    """``nas join``."""
    from nas.join import join_run

    if command.workers < 1:
        raise ValueError(f"expected workers of 1 or more, got {command.workers}; raise it")
    study = join_run(command.run, out=command.out, storage=command.storage, workers=command.workers)
    Console().print(
        f"The study has its {len(study.evaluations)} trials (hypervolume {study.hypervolume_trace[-1]:.4f}).\n"
        f"Next, where {command.run} was started: its winners are being built and verified; then nas front {command.run}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
