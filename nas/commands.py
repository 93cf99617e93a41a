"""What each command of the command line does; :mod:`nas.cli` only parses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nas.deploy.runtime import available_threads, check_device, device_name, versions
from nas.deploy.verify import verify
from nas.files import FolderLock, write_json_atomic
from nas.model import CheckpointError
from nas.model.storage import supernet_info
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.pipeline import read_run
from nas.training import (
    TrainedSupernet,
    TrainingRecipe,
    embedded_path,
    load_trained,
    train_supernet,
)
from search_spaces import Architecture, costs, preset, presets

if TYPE_CHECKING:
    from nas.cli import Materialize, Profile, Report, Train, Verify
    from nas.pipeline import SearchRun


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
    console = Console()
    tokens, steps = sum(s.tokens for s in stages), sum(s.steps for s in stages)
    console.print(f"{tokens:,} tokens in {steps} steps; checkpoints in {command.out}")
    with FolderLock(command.out):
        supernet = train_supernet(
            space,
            command.corpus,
            recipe=stages,
            out=command.out,
            device=command.device,
            from_scratch=True,
        )
        largest, smallest = supernet.perplexities([space.largest, space.smallest], 8192)
    console.print(f"Perplexity: largest subnet {largest:.2f}, smallest {smallest:.2f}")
    console.print(
        f"Supernet in {supernet.path}\nNext: nas.load_trained('{supernet.path}', '{command.corpus}', '{command.out}')"
    )


def profile_device(command: Profile) -> None:
    """``nas profile``."""
    from nas.deploy.profile import profile

    workloads = [Objective.parse(text).workload for text in command.workloads]
    if any(workload is None for workload in workloads):
        raise ValueError(
            f"expected workloads such as decode_ms[batch=1,context=128], got {list(command.workloads)}"
        )
    space = preset(command.space)
    check_device(command.device)
    console = Console()
    with FolderLock(command.out):
        supernet = train_supernet(space, command.corpus, out=command.out, device=command.device)
        found = profile(
            supernet,
            device=command.device,
            workloads=[w for w in workloads if w is not None],
            num_architectures=command.architectures,
            rounds=command.rounds,
            threads=command.threads,
            seed=command.seed,
            out=command.out,
        )
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
    for workload, scores in found.quality.items():
        table.add_row(
            workload,
            str(scores["num_architectures"]),
            str(scores["num_records"]),
            f"{scores['kendall_tau']:.3f}",
            f"{100 * scores['mape']:.1f} %",
            f"{100 * scores['coverage']:.0f} %",
        )
    console.print(table)
    console.print(f"Records in {command.out}/profile.jsonl\nNext: nas search --out runs/mine")


def materialize_run(command: Materialize) -> None:
    """``nas materialize``."""
    from nas.deploy.materialize import materialize

    results = _results(command.run)
    front = _front(results, command.key)
    with FolderLock(command.run):
        supernet = _supernet(command.run, results)
        winners = materialize(
            front, supernet, max_winners=len(front), out=command.out or command.run
        )
    console = Console()
    for winner in winners:
        console.print(f"{winner.folder}: {winner.architecture}", soft_wrap=True)
    console.print("Next: nas.load_gpt(folder), then model.generate(tokens, num_new)")


def verify_run(command: Verify) -> None:
    """``nas verify``: fresh measurements replace the run's earlier ones."""
    from nas.deploy.materialize import materialize
    from nas.deploy.report import View, print_report, render

    with FolderLock(command.run):
        results = _results(command.run)
        supernet = _supernet(command.run, results)
        front = _front(results, None)
        winners = materialize(front, supernet, max_winners=len(front), out=command.run)
        (command.run / "verify.jsonl").unlink(missing_ok=True)
        report = verify(
            winners,
            winners.runtime.device,
            rounds=command.rounds,
            compile=command.compile,
            out=command.run,
        )
        results |= {name: report.results[name] for name in ("baseline", "winners")}
        results["provenance"] |= report.results["provenance"]
        write_json_atomic(command.run / "results.json", results)
        render(results, command.run)
    print_report(View(results), Console())


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
    """The supernet that a run searched: its own, or the embedded one."""
    config = read_run(run)
    wanted = (results.get("inputs") or {}).get("supernet")
    found = {}
    for path in (run / "supernet.json", embedded_path()):
        if path.exists():
            found[supernet_info(path)["sha256"]] = path
    if wanted not in found:
        raise ValueError(
            f"expected the supernet {wanted} that {run} was searched with, got {list(found)}; "
            f"restore it, or run: nas search --out with another folder"
        )
    return load_trained(found[wanted], config["corpus"], run, config["device"])


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
        evaluations.append(
            Evaluation(
                architecture,
                {name: claim["mean"] for name, claim in claims.items()},
                fidelity=results["provenance"]["num_tokens"],
                provenance={"claims": claims, "runtime": results["provenance"]["runtime"]},
            )
        )
    if not evaluations:
        keys = [Architecture.from_json(w["architecture"]).key for w in results["winners"]]
        raise ValueError(f"expected the key of a winner ({', '.join(keys)}), got {key!r}")
    return ParetoFront(evaluations, goals, results["ref_point"])
