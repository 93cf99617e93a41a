"""Command line: parses, calls the API, prints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Train:
    """Train the supernet of a space on a text.

    Args:
        space: preset (``nas spaces`` lists them).
        corpus: ``stdlib``, a file, a folder, a parquet file, or ``hf:<dataset>[:config]``.
        out: folder of tokens, checkpoints and the result; the same command goes on where it stopped.
        device: ``cpu`` or ``cuda``.
        recipe: ``embedded`` repeats the recipe of the supernet that ships with the project;
            ``default`` takes the options below.
        steps: optimizer steps.
        batch_size: sequences per step.
        learning_rate: peak of AdamW's.
        seed: of weights, batches and subnets.
    """

    space: str = "tiny"
    corpus: str = "stdlib"
    out: Path = Path("runs/train")
    device: str = "cpu"
    recipe: str = "default"
    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Profile:
    """Measure models of a space on this device and fit the latency surrogate.

    Args:
        space: preset.
        corpus: the supernet's text.
        out: folder of ``profile.jsonl`` and ``machine.json``; the same command goes on where it stopped.
        device: ``cpu`` or ``cuda``.
        workloads: latencies to measure, and energies (``energy_j[...]``) where the device counts them.
        architectures: models to measure.
        rounds: measurements of each.
        threads: of one operator on the CPU.
        supernet: JSON of a supernet of this space and text, trained before (``nas train``); by default the
            embedded one, or one that is trained in ``out``.
        train_steps: training steps of a supernet that is not the embedded one, as of ``nas search``.
        from_scratch: train without the embedded supernet as the start.
        kernels: table of ``nas tune`` that sparse products and the surrogate go by; by default the one that
            ships for this processor, if any.
        seed: of the draw and of the training.
    """

    space: str = "tiny"
    corpus: str = "stdlib"
    out: Path = Path("runs/profile")
    device: str = "cpu"
    workloads: tuple[str, ...] = ("decode_ms[batch=1,context=128]",)
    architectures: int = 64
    rounds: int = 4
    threads: int | None = None
    supernet: Path | None = None
    train_steps: int = 200
    from_scratch: bool = False
    kernels: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Tune:
    """Measure every way to multiply with a space's weights on this device: the table that dispatch and the surrogate read.

    Args:
        space: preset.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and inputs; by default float32 on the CPU and bfloat16 on a GPU.
        tokens: rows of the inputs: sequences of a decode step, tokens of a prefill.
        sparsities: tried on every shape they divide; by default those of the space's own linears.
        threads: of one operator on the CPU; by default all cores.
        out: JSON file of the table, by default ``runs/tune/<processor>.json``; the same command goes on
            where it stopped, and other dtypes, tokens or sparsities join the table.
    """

    space: str = "tiny"
    device: str = "cpu"
    dtype: str | None = None
    tokens: tuple[int, ...] = (1,)
    sparsities: tuple[str, ...] = ()
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Front:
    """Show the front of a finished run, narrow it by bounds, and pick the few to build.

    Args:
        run: folder of ``nas search``.
        max: largest accepted values, such as ``"decode_ms=3"`` or ``"decode_ms[batch=1,context=128]=3"``.
        pick: how many to choose: those that together dominate the most (hypervolume).
        knee: pick the knee too: where giving up a little of one objective stops gaining much of the others.
        searched: all architectures that the search saw, with its predictions, not the winners as measured.
        json: file to write the front and the choice to.
    """

    run: tyro.conf.Positional[Path] = Path("runs/default")
    max: tuple[str, ...] = ()
    pick: int | None = None
    knee: bool = False
    searched: bool = False
    json: Path | None = None


@dataclass(frozen=True)
class Materialize:
    """Build models out of a finished run: all its winners, or one.

    Args:
        run: folder of ``nas search``.
        key: of one winner (sixteen digits, or their beginning); all winners by default.
        out: folder for the models; by default the run's.
    """

    run: Path = Path("runs/default")
    key: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Verify:
    """Measure the winners of a run again, and redraw its report.

    Args:
        run: folder of ``nas search``.
        rounds: measurements of each latency.
        compile: whether the dense baseline may use ``torch.compile``.
    """

    run: Path = Path("runs/default")
    rounds: int = 3
    compile: bool = True


@dataclass(frozen=True)
class Report:
    """Redraw ``report.html`` and ``front.png`` from ``results.json``, and print the table.

    Args:
        run: folder of ``nas search``.
    """

    run: Path = Path("runs/default")


@dataclass(frozen=True)
class Join:
    """Work from this machine on the search of a run that another machine has started.

    Args:
        run: folder of ``nas search``, on a disk that the machines share, or a copy made when its profile was done.
        storage: of its study, as seen from here; by default what the run was started with, or its journal.
        workers: processes of this machine.
        out: folder of this machine, for the tokens of the text.
    """

    run: Path = Path("runs/default")
    storage: str | None = None
    workers: int = 1
    out: Path = Path("runs/joined")


@dataclass(frozen=True)
class Serve:
    """Serve the storage of studies to other machines: ``nas search --storage grpc://host:port``.

    Args:
        storage: a database URL, or a journal file.
        host: name or address to listen on; whoever can reach it can read and write the studies.
        port: to listen on.
    """

    storage: str
    host: str = "localhost"
    port: int = 13000


@dataclass(frozen=True)
class Spaces:
    """List the preset search spaces."""


@dataclass(frozen=True)
class Doctor:
    """Say what this machine can do and what is missing."""


def parse(arguments: Sequence[str]) -> Any:
    """Read a command line.

    Args:
        arguments: without the program name.

    Returns:
        A ``SearchRun``, or one of the commands above.

    Raises:
        SystemExit: with 2 if a command or a flag is unknown or has no valid value, with 0 after ``--help``.
    """
    # This takes seconds: here, Ctrl-C is answered already.
    from nas.run_settings import SearchRun

    command: Any = (
        Annotated[
            SearchRun,
            tyro.conf.subcommand(
                "search", description="Text to verified Pareto front, in one folder."
            ),
        ]
        | Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Profile, tyro.conf.subcommand("profile")]
        | Annotated[Tune, tyro.conf.subcommand("tune")]
        | Annotated[Front, tyro.conf.subcommand("front")]
        | Annotated[Materialize, tyro.conf.subcommand("materialize")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Join, tyro.conf.subcommand("join")]
        | Annotated[Serve, tyro.conf.subcommand("serve")]
        | Annotated[Spaces, tyro.conf.subcommand("spaces")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    )
    return tyro.cli(
        command,
        prog="nas",
        args=list(arguments),
        description="Find sparse GPT architectures that no other dominates, build them, and verify them on the device.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program name; those of the process by default.

    Returns:
        Exit status: 0 done, 2 wrong input or a full disk, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        print(
            "\nInterrupted: nothing finished is lost; the same command goes on from here.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and not message.startswith("expected "):  # not one of ours
            message = f"expected to read and write files, got: {message}; the same command goes on once that is mended"
        print(f"nas: {message}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: Sequence[str]) -> None:
    command = parse(arguments)
    from nas import commands
    from nas.run_settings import SearchRun
    from nas.storage_url import hide_passwords

    actions: dict[type, Callable[[Any], None]] = {
        SearchRun: lambda c: commands.search_run(
            c, shlex.join(["nas", *map(hide_passwords, arguments)])
        ),
        Train: commands.train,
        Profile: commands.profile_device,
        Tune: lambda c: commands.tune_device(c, shlex.join(["nas", *arguments])),
        Front: commands.front_run,
        Materialize: commands.materialize_run,
        Verify: commands.verify_run,
        Report: commands.report_run,
        Join: commands.join_search,
        Serve: commands.serve_storage,
        Spaces: lambda _: commands.spaces(),
        Doctor: lambda _: commands.doctor(),
    }
    actions[type(command)](command)


if __name__ == "__main__":
    sys.exit(main())
