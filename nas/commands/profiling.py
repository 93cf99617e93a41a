"""``nas profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nas.commands.searching import search_command
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.energy_counters import find_counter
from nas.deploy.kernels_in_use import use_kernels
from nas.deploy.machine import machine_of
from nas.deploy.machine_table import machine_table
from nas.deploy.profile import MIN_ARCHITECTURES
from nas.deploy.profile_table import how_to_read, write_tables
from nas.deploy.runtime import check_device, device_name
from nas.deploy.workloads import (
    LATENCIES,
    check_memory,
    check_workload,
    parse_workloads,
    split_energy,
)
from nas.files import run_lock
from nas.objectives import Objective
from nas.training import check_options, run_supernet
from search_spaces import preset

if TYPE_CHECKING:
    from nas.cli import Profile


def profile_device(command: Profile) -> None:
    """``nas profile``."""
    from nas.deploy.profile import profile

    space = preset(command.space)
    check_device(command.device)
    # Before a training that may take hours: what the profile itself would refuse after it.
    least = {
        "rounds": 1,
        "architectures": MIN_ARCHITECTURES,
        "train_steps": 1,
        "threads": 1,
        "seed": 0,
    }
    for name, low in least.items():
        value = getattr(command, name)
        if value is not None and value < low:
            raise ValueError(f"expected {name} of {low} or more, got {value}; raise it")
    timed, energies = split_energy(command.workloads)
    if energies:
        find_counter(command.device)
    for workload in [*(parse_workloads(timed) if timed else []), *energies]:
        check_workload(space.family, workload)
        check_memory(space, workload, command.device)
    check_options(command, space)
    console = Console()
    with run_lock(command.out), use_kernels(command.kernels, command.device):
        supernet = run_supernet(command, space)
        found = profile(
            supernet,
            device=command.device,
            workloads=command.workloads,
            num_architectures=command.architectures,
            rounds=command.rounds,
            threads=command.threads,
            seed=command.seed,
            out=command.out,
        )
        machine = machine_of(command.out, found.runtime)
        tables = write_tables(found, supernet.space, command.out)
    table = Table(title=f"{device_name(command.device)}, {found.runtime}", title_justify="left")
    for column in (
        "workload",
        "models",
        "records",
        "Kendall tau",
        "MAPE",
        "coverage of 90 % interval",
    ):
        table.add_column(column)
    for name, scores in (*found.quality.items(), *_energy_rows(found)):
        table.add_row(
            name,
            str(scores["num_architectures"]),
            str(scores["num_records"]),
            f"{scores['kendall_tau']:.3f}",
            f"{100 * scores['mape']:.1f} %",
            f"{100 * scores['coverage']:.0f} %",
        )
    console.print(table)
    console.print(machine_table(machine))
    console.print(
        f"Records in {command.out}/profile.jsonl, machine in {command.out}/machine.json\n"
        f"{how_to_read(supernet.space, tables)}\nNext: {search_command(search_options(command))}",
        soft_wrap=True,
        highlight=False,
    )


def _energy_rows(found: DeviceProfile) -> list[tuple[str, dict[str, float]]]:
    return [(f"energy of {name}", found.energy_quality[name]) for name in map(str, found.energy)]


def search_options(command: Profile) -> dict[str, Any]:
    """What a search has to be told to go on with the records and the supernet of a profile."""
    measured = (*LATENCIES, "energy_j")
    asked = [text for text in command.workloads if Objective.parse(text).metric in measured]
    return {
        "space": command.space,
        "corpus": command.corpus,
        "device": command.device,
        "supernet": command.supernet,
        "train-steps": command.train_steps,
        "from-scratch": command.from_scratch,
        "profile-architectures": command.architectures,
        "kernels": command.kernels,
        "threads": command.threads,
        "seed": command.seed,
        "objectives": ["perplexity", *map(str, map(Objective.parse, asked[:2])), "weight_bytes"],
        "out": command.out,
    }
