"""What each command of the command line does; :mod:`nas.cli` only parses."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nas.deploy.device_profile import DeviceProfile
from nas.deploy.energy_counters import find_counter
from nas.deploy.kernels_in_use import read_kernels, use_kernels
from nas.deploy.machine import machine_of
from nas.deploy.machine_table import machine_table
from nas.deploy.profile import MIN_ARCHITECTURES
from nas.deploy.profile_table import how_to_read, write_tables
from nas.deploy.runtime import Runtime, available_threads, check_device, device_name, versions
from nas.deploy.verify import check_rounds, verify
from nas.deploy.workloads import (
    LATENCIES,
    check_memory,
    check_workload,
    parse_workloads,
    split_energy,
)
from nas.files import run_lock
from nas.model import CheckpointError
from nas.model.storage import supernet_info
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.run_settings import SearchRun, read_run
from nas.training import (
    TrainedSupernet,
    TrainingRecipe,
    check_options,
    embedded_path,
    load_trained,
    run_supernet,
    train_supernet,
)
from nas.training.distributed import is_first_process
from search_spaces import Architecture, costs, preset, presets
from surrogates.kernel_table import slug

if TYPE_CHECKING:
    from nas.cli import Materialize, Profile, Report, Train, Tune, Verify


def search_run(config: SearchRun, command: str) -> None:
    """``nas search``."""
    from nas.pipeline import run

    run(config, command=command)


def train(command: Train) -> None:
    """``nas train``."""
    if command.recipe not in ("default", "embedded"):
        raise ValueError(f"expected recipe 'default' or 'embedded', got {command.recipe!r}")
    space = preset(command.space)
    check_device(command.device)
    if command.recipe == "embedded":
        stages = [TrainingRecipe.from_json(r) for r in supernet_info(embedded_path())["recipes"]]
    else:
        stages = [
            TrainingRecipe(
                steps=command.steps,
                batch_size=command.batch_size,
                context=min(256, space.family.context_length),
                learning_rate=command.learning_rate,
                warmup_steps=min(200, command.steps // 4),
                seed=command.seed,
            )
        ]
    # Under torchrun every process trains and the first speaks.
    console = Console(quiet=not is_first_process())
    tokens, steps = sum(s.tokens for s in stages), sum(s.steps for s in stages)
    console.print(f"{tokens:,} tokens in {steps} steps; checkpoints in {command.out}")
    with run_lock(command.out):
        supernet = train_supernet(
            space,
            command.corpus,
            recipe=stages,
            out=command.out,
            device=command.device,
            from_scratch=True,
        )
        if is_first_process():
            largest, smallest = supernet.perplexities([space.largest, space.smallest], 8192)
            console.print(f"Perplexity: largest subnet {largest:.2f}, smallest {smallest:.2f}")
    options = {"supernet": supernet.path, "space": command.space, "corpus": command.corpus}
    options |= {"device": command.device, "out": "runs/mine"}
    console.print(
        f"Supernet in {supernet.path}\nNext: {_search_command(options)}\n"
        f"or: nas.load_trained('{supernet.path}', '{command.corpus}', '{command.out}')",
        soft_wrap=True,
        highlight=False,
    )


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
        f"{how_to_read(supernet.space, tables)}\nNext: {_search_command(_search_options(command))}",
        soft_wrap=True,
        highlight=False,
    )


def _energy_rows(found: DeviceProfile) -> list[tuple[str, dict[str, float]]]:
    return [(f"energy of {name}", found.energy_quality[name]) for name in map(str, found.energy)]


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
        f"as the dense one\nNext: {_search_command(options)}\n"
        f"To ship it: copy it to nas/kernels/tables/{slug(table.device)}.json",
        soft_wrap=True,
        highlight=False,
    )


def default_table(device: str) -> Path:
    """Where ``nas tune`` writes the table of this machine's processor."""
    check_device(device)
    return Path("runs/tune") / f"{slug(device_name(device))}.json"


def _search_options(command: Profile) -> dict[str, Any]:
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


def _search_command(options: dict[str, Any]) -> str:
    """The ``nas search`` with these options, those left out that it takes by itself."""
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


def materialize_run(command: Materialize) -> None:
    """``nas materialize``."""
    from nas.deploy.materialize import materialize

    results = _results(command.run)
    front = _front(results, command.key)
    with run_lock(command.run):
        supernet = _supernet(command.run, results)
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
    _results(command.run)  # a misspelt folder is refused before the lock makes it
    with run_lock(command.run), _kernels_of(command.run):
        results = _results(command.run)
        supernet = _supernet(command.run, results)
        front = _front(results, None)
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


def report_run(command: Report) -> None:
    """``nas report``."""
    from nas.deploy.report import View, print_report, render

    results = _results(command.run)
    paths = render(results, command.run)
    console = Console()
    print_report(View(results), console)
    console.print(f"Drawn: {paths.html}, {paths.png}")


def spaces() -> None:
    """``nas spaces``."""
    # Without a frame the rows fit into 80 columns.
    table = Table(title="Search spaces", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("preset", "architectures", "parameters", "embed", "layers", "heads", "FFN"):
        table.add_column(column, no_wrap=True)
    for name in presets():
        space = preset(name)
        low, high = (costs(a, space.family).params / 1e6 for a in (space.smallest, space.largest))
        table.add_row(
            name,
            f"{space.cardinality:.1e}",
            f"{low:.1f}-{high:.1f} M",
            *(
                " ".join(f"{v:g}" for v in values)
                for values in (space.embed_dims, space.depths, space.num_heads, space.ffn_ratios)
            ),
        )
    console = Console()
    console.print(table)
    console.print(
        "Layers of tiny also choose sparsity and adapters; the others are those of HW-GPT-Bench, and "
        "search_spaces.preset(name, sparsity=True) adds these choices.",
        highlight=False,
    )
    console.print("Next: nas search --space tiny --out runs/mine")


def doctor() -> None:
    """``nas doctor``."""
    import importlib.util

    import torch

    console = Console()
    table = Table(title="This machine", title_justify="left", show_header=False)
    table.add_row("processor", f"{device_name('cpu')}, {available_threads()} cores")
    table.add_row("versions", ", ".join(f"{k} {v}" for k, v in versions().items()))
    if torch.cuda.is_available():
        table.add_row("CUDA", device_name("cuda"))
    else:
        table.add_row("CUDA", "not found: --device cpu only")
    table.add_row(
        "compiled dense baseline",
        "yes"
        if shutil.which("c++") or shutil.which("g++")
        else "no C++ compiler: the dense baseline runs eager only; install g++",
    )
    from nas.training.precision import faster_dtype

    table.add_row(
        "training arithmetic", str(faster_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    )
    for module, purpose in (
        ("triton", "GPU kernels (extra gpu)"),
        ("datasets", "hf: corpora (extra hf)"),
        ("pynvml", "GPU energy (extra gpu)"),
        ("optuna_dashboard", "live study page (extra dashboard)"),
    ):
        found = importlib.util.find_spec(module) is not None
        table.add_row(
            purpose,
            "yes" if found else f"no: pip install {module.replace('pynvml', 'nvidia-ml-py')}",
        )
    try:
        info = supernet_info(embedded_path())
        table.add_row(
            "embedded supernet", f"{info['tokens']:,} training tokens, sha256 {info['sha256'][:12]}"
        )
    except CheckpointError as error:
        table.add_row("embedded supernet", f"damaged: {error}")
    console.print(table)
    console.print("Next: nas search --out runs/mine")


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    if not path.exists():
        raise ValueError(
            f"expected a finished run in {run}, found no results.json; run: nas search --out {run}"
        )
    from nas.deploy.report.schema import load

    return load(path)


def _supernet(run: Path, results: dict[str, Any]) -> TrainedSupernet:
    """The supernet that a run searched, its own, the embedded or a given one, with the very tokens of the run."""
    config = read_run(run)
    inputs = results.get("inputs") or {}
    wanted, text = inputs.get("supernet"), inputs.get("corpus")
    if not isinstance(text, str):
        raise ValueError(
            f"expected the fingerprint of the text in the results of {run}, got {text!r}; run the same nas search again"
        )
    found = {}
    given = [Path(config["supernet_path"])] if "supernet_path" in config else []
    for path in (run / "supernet.json", embedded_path(), *given):
        if path.exists():
            found[supernet_info(path)["sha256"]] = path
    if wanted not in found:
        raise ValueError(
            f"expected the supernet {wanted} that {run} was searched with, got {list(found)}; "
            f"restore it, or run: nas search --out with another folder"
        )
    return load_trained(found[wanted], config["corpus"], run, config["device"], expected=text)


def _front(results: dict[str, Any], key: str | None) -> ParetoFront:
    """The winners of a run, or one winner, as a front whose claims can be verified."""
    missing = {"num_tokens", "runtime"} - set(results.get("provenance") or {})
    if missing or "ref_point" not in results:
        raise ValueError(
            f"expected the results of `nas search`, got some without ref_point or {sorted(missing)}; run it again"
        )
    goals = [Objective.parse(o["name"]) for o in results["objectives"]]
    evaluations = []
    for winner in results["winners"]:
        architecture = Architecture.from_json(winner["architecture"])
        if key is not None and not architecture.key.startswith(key):
            continue
        claims = winner["predicted"]
        try:
            Runtime(**results["provenance"]["runtime"])
            evaluation = Evaluation(
                architecture,
                winner["searched"],
                fidelity=results["provenance"]["num_tokens"],
                provenance={
                    "claims": claims,
                    "runtime": results["provenance"]["runtime"],
                    "device": results["provenance"].get("device"),
                },
            )
        except (
            KeyError,
            TypeError,
        ) as error:  # a field that is missing, unknown or of another type
            raise ValueError(
                f"expected the results of `nas search`, got a provenance or a winner that is not: {error}; run it again"
            ) from error
        evaluations.append(evaluation)
    if not evaluations:
        keys = [Architecture.from_json(w["architecture"]).key for w in results["winners"]]
        raise ValueError(f"expected the key of a winner ({', '.join(keys)}), got {key!r}")
    return ParetoFront(evaluations, goals, results["ref_point"])
