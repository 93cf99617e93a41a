"""The whole run in one folder: train or load, profile, search, materialize, verify, report; every stage resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from nas.constraints import parse_constraints
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.kernels_in_use import use_kernels
from nas.deploy.materialize import materialize
from nas.deploy.profile import ROUNDS, profile
from nas.deploy.verify import verify
from nas.deploy.workloads import energy_workloads, latency_workloads
from nas.evaluation import claim_again
from nas.files import run_lock
from nas.objectives import Objective
from nas.run_results import run_results
from nas.run_settings import SearchRun, check_same_run, write_run
from nas.search_study import search
from nas.study import StudyResult
from nas.training import TrainedSupernet, run_supernet
from search_spaces import Workload, preset


def run(
    config: SearchRun, *, command: str = "nas search", console: Console | None = None
) -> dict[str, Any]:
    """Do everything and write ``results.json``, ``report.html``, ``front.png`` and the winners to ``config.out``.

    Args:
        config: what to do.
        command: how it was asked for, kept in the results.
        console: where to print; standard output by default.

    Returns:
        The results, schema 1.

    Raises:
        ValueError: if a value is wrong, the folder belongs to another run, or another run is using it.
    """
    from nas.deploy.report import View, print_report, publish, render, report_paths

    console = console or Console()
    config.check()
    with run_lock(config.out), use_kernels(config.kernels, config.device):
        check_same_run(config)
        stages = _Stages(console)
        supernet = stages("supernet", lambda: run_supernet(config, preset(config.space)))
        # Only now: a corpus that cannot be read must not claim the folder. Training itself refuses another run's checkpoint.
        write_run(config)
        inputs = {
            "config": config.to_json(),
            "supernet": supernet.info["sha256"],
            "corpus": supernet.corpus.fingerprint,
        }
        results = _finished(config.out, inputs)
        if results is None:
            results = _compute(config, supernet, stages)
            results |= {"command": command, "inputs": inputs}
            publish(results, config.out)
        else:
            console.print("Nothing changed since this run finished: showing its results.")
            drawn = report_paths(config.out)
            if not (drawn.html.exists() and drawn.png.exists()):
                render(results, config.out)
        print_report(View(results), console)
        _next_steps(config.out, console)
    return results


def _compute(config: SearchRun, supernet: TrainedSupernet, stages: _Stages) -> dict[str, Any]:
    goals = [Objective.parse(o) for o in config.objectives]
    workloads: list[Workload | str] = list(latency_workloads(goals, supernet.space.family))
    workloads += [str(Objective("energy_j", w)) for w in energy_workloads(goals)]
    device = stages("profile", lambda: _profile(config, supernet, workloads))
    study = stages(
        "search", lambda: _search(config, supernet, device, config.sampler, config.seed, "search")
    )
    if study.full_fidelity is not None:
        stages.console.print(
            f"Perplexities read {sum(study.tokens):,} tokens, {sum(study.tokens) / study.tokens_all_full:.0%} of those that full "
            f"evaluations of the {len({e.architecture for e in study.evaluations})} architectures would have."
        )
    if not study.num_feasible:
        stages.console.print(
            f"None of {len(study.evaluations)} architectures keeps to {', '.join(config.constraints)}: the winners are the best "
            "without it. Raise the bound, or --trials.",
            style="yellow",
            markup=False,  # decode_ms[batch=1] is no markup
        )
    randoms = stages(
        "random search",
        lambda: [
            _search(config, supernet, device, "random", 1000 + config.seed + i, f"random-{i}")
            for i in range(config.random_seeds)
        ],
    )
    # One more round, minutes after the others: the device may have drifted, and the claims have to hold now.
    later = stages("profile again", lambda: _profile(config, supernet, workloads, ROUNDS + 1))
    front = claim_again(study.front, later)
    report = stages(
        "verify",
        lambda: verify(
            materialize(front, supernet, max_winners=config.max_winners, out=config.out),
            config.device,
            compile=config.compile,
            out=config.out,
        ),
    )
    return run_results(
        config,
        supernet=supernet,
        device=later,
        study=study,
        randoms=randoms,
        verification=report.results,
        wall_s=stages.wall_s,
    )


def _profile(
    config: SearchRun,
    supernet: TrainedSupernet,
    workloads: list[Workload | str],
    rounds: int = ROUNDS,
) -> DeviceProfile:
    return profile(
        supernet,
        device=config.device,
        workloads=workloads,
        num_architectures=config.profile_architectures,
        rounds=rounds,
        threads=config.threads,
        seed=config.seed,
        out=config.out,
    )


def _search(
    config: SearchRun,
    supernet: TrainedSupernet,
    device: DeviceProfile,
    sampler: str,
    seed: int,
    name: str,
) -> StudyResult:
    is_main = name == "search"
    return search(
        supernet.space,
        config.objectives,
        supernet=supernet,
        device=device,
        n_trials=config.trials,
        sampler=sampler,
        seed=seed,
        num_tokens=config.perplexity_tokens,
        fidelity=config.fidelity if is_main else "full",
        storage=(config.storage if is_main else None) or config.out / f"{name}.journal",
        workers=config.workers if is_main else 1,
        name=name,
        constraints=parse_constraints(config.constraints),
    )


class _Stages:
    """Runs the stages of a run one after another, says what is being done and keeps how long it took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.wall_s: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        self.console.print(f"[bold]{name}[/bold]")
        value = work()
        self.wall_s[name] = round(time.perf_counter() - start, 2)
        return value


def _finished(out: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    from nas.deploy.report import ResultsError, load

    try:
        results = load(out)
    except (FileNotFoundError, ResultsError):
        return None  # never written, or damaged: everything it held is made again from the stages' records
    return results if results.get("inputs") == inputs else None


def _next_steps(out: Path, console: Console) -> None:
    console.print(
        f"\nResults in {out}: report.html (open in a browser), front.png, results.json, winners/"
    )
    console.print(
        f"Next: nas verify --run {out} (measure the winners again), or nas.load_gpt('{out}/winners/<key>')",
        soft_wrap=True,
    )
