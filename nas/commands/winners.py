"""``nas materialize`` and ``nas verify``: the winners of a finished run, built again or measured again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nas.commands.run_folder import results_of, supernet_of, winners_of
from nas.deploy.kernels_in_use import read_kernels, use_kernels
from nas.deploy.verify import check_rounds, verify
from nas.files import run_lock
from nas.run_settings import read_run

if TYPE_CHECKING:
    from nas.cli import Materialize, Verify


def materialize_run(command: Materialize) -> None:
    """``nas materialize``."""
    from nas.deploy.materialize import materialize

    results = results_of(command.run)
    front = winners_of(results, command.key)
    with run_lock(command.run):
        supernet = supernet_of(command.run, results)
        winners = materialize(
            front, supernet, max_winners=len(front), out=command.out or command.run
        )
    console = Console()
    for winner in winners:
        console.print(f"{winner.folder}: {winner.architecture}", soft_wrap=True)
    console.print("Next: nas.load_gpt(folder), then model.generate(tokens, num_new)")


def verify_run(command: Verify) -> None:
    """``nas verify``: fresh measurements replace the run's earlier ones, once they are whole."""
    from nas.deploy.materialize import materialize
    from nas.deploy.report import View, print_report, publish

    check_rounds(command.rounds)
    results_of(command.run)  # a misspelt folder is refused before the lock makes it
    with run_lock(command.run), _kernels_of(command.run):
        results = results_of(command.run)
        supernet = supernet_of(command.run, results)
        front = winners_of(results, None)
        winners = materialize(front, supernet, max_winners=len(front), out=command.run)
        report = verify(
            winners,
            winners.runtime.device,
            rounds=command.rounds,
            compile=command.compile,
            out=command.run,
            newer_than=_attempt(results),
        )
        results |= {name: report.results[name] for name in ("baseline", "winners")}
        results["provenance"] |= report.results["provenance"]
        publish(results, command.run)
    print_report(View(results), Console())


@contextlib.contextmanager
def _kernels_of(run: Path) -> Iterator[None]:
    """Dispatch by the kernel table that a run was given, if any."""
    config = read_run(run)
    path = Path(config["kernels_path"]) if "kernels_path" in config else None
    if path is not None:
        found = read_kernels(path, config["device"]).fingerprint
        if found != config["kernels"]:
            raise ValueError(
                f"expected the kernel table {config['kernels']} that {run} was searched with in {path}, got {found}; "
                "restore it, or run: nas search --out with another folder"
            )
    with use_kernels(path, config["device"]):
        yield


def _attempt(results: dict[str, Any]) -> int:
    """Number of the verification whose measurements the results show."""
    attempt = results["provenance"].get("attempt")
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        raise ValueError(
            f"expected the results of `nas search` with the number of their verification, got {attempt!r} as "
            "provenance.attempt; delete results.json and run nas search again"
        )
    return attempt
