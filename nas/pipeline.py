"""The whole run in one folder: train or load, profile, search, materialize, verify, report; every stage resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nas.constraints import parse_constraints
from nas.deploy.materialize import materialize
from nas.deploy.measure import check_workload
from nas.deploy.profile import DEFAULT_WORKLOAD, MIN_ARCHITECTURES, DeviceProfile, profile
from nas.deploy.runtime import check_device
from nas.deploy.verify import verify
from nas.files import FolderLock, write_json_atomic
from nas.objectives import Objective
from nas.search_study import DEFAULT_OBJECTIVES, DEFAULT_SAMPLER, search
from nas.searchers import samplers
from nas.study import StudyResult
from nas.training import TrainedSupernet, TrainingRecipe, train_supernet
from search_spaces import Workload, preset


@dataclass(frozen=True)
class SearchRun:
    """One run of ``nas search``.

    Args:
        space: preset to search (``nas spaces`` lists them).
        corpus: ``stdlib``, a file, a folder, a parquet file, or ``hf:<dataset>[:config]``.
        device: ``cpu`` or ``cuda``.
        trials: architectures the search evaluates.
        sampler: random, nsga2, nsga3, tpe, gp, qlognehvi or qlognparego.
        seed: of profile, search and random search.
        objectives: two to four; latency names its workload: ``decode_ms[batch=1,context=128]``.
        constraints: largest allowed values of objectives, each like ``"weight_bytes<=4e6"``.
        out: folder of the run; the same command goes on where it stopped.
        workers: processes on the study.
        storage: Optuna storage URL; by default a journal file in ``out``.
        threads: of one operator on the CPU; by default whichever of one and all cores is faster.
        train_steps: training steps of a supernet that is not the embedded one.
        from_scratch: train without the embedded supernet as the start.
        profile_architectures: models measured for the latency surrogate.
        perplexity_tokens: held-out tokens a perplexity is measured on.
        random_seeds: random searches at the same budget, for comparison.
        max_winners: most models to build and verify.
        compile: whether the dense baseline may use ``torch.compile``.
    """

    space: str = "tiny"
    corpus: str = "stdlib"
    device: str = "cpu"
    trials: int = 80
    sampler: str = DEFAULT_SAMPLER
    seed: int = 0
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    constraints: tuple[str, ...] = ()
    out: Path = Path("runs/default")
    workers: int = 1
    storage: str | None = None
    threads: int | None = None
    train_steps: int = 200
    from_scratch: bool = False
    profile_architectures: int = 64
    perplexity_tokens: int = 8192
    random_seeds: int = 5
    max_winners: int = 12
    compile: bool = True

    def check(self) -> None:
        """Refuse wrong values before any work is done.

        Raises:
            ValueError: naming the field, what was expected and the remedy.
        """
        space = preset(self.space)
        check_device(self.device)
        goals = [Objective.parse(o) for o in self.objectives]
        if not 2 <= len(goals) <= 4 or len(set(goals)) != len(goals):
            raise ValueError(
                f"expected two to four different objectives, got {list(self.objectives)}"
            )
        for goal in goals:
            check_workload(space.family, goal.workload)
        if foreign := sorted(parse_constraints(self.constraints).keys() - {str(o) for o in goals}):
            raise ValueError(
                f"expected constraints on the objectives {[str(o) for o in goals]}, got {foreign}; "
                "add them to --objectives"
            )
        if self.sampler not in samplers():
            from nas.searchers import make_sampler

            make_sampler(self.sampler, seed=0)  # refuses and proposes near names
        least = {"trials": 1, "workers": 1, "train_steps": 1, "threads": 1}
        least["profile_architectures"] = MIN_ARCHITECTURES
        least |= {"perplexity_tokens": 1, "random_seeds": 0, "max_winners": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"expected {name} of {low} or more, got {value}; raise it")


# A finished folder may go on with more trials, winners or workers; everything else decides what its numbers mean.
_MAY_CHANGE = ("out", "trials", "workers", "max_winners", "compile", "random_seeds")
_DRAWN = ("report.html", "front.png")


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
    from nas.deploy.report import View, print_report, render

    console = console or Console()
    config.check()
    with FolderLock(config.out):
        _same_run(config)
        stages = _Stages(console)
        supernet = stages("supernet", lambda: _supernet(config))
        # Only now: a corpus that cannot be read must not claim the folder. Training itself refuses another run's checkpoint.
        write_json_atomic(config.out / "run.json", _json(config))
        inputs = {
            "config": _json(config),
            "supernet": supernet.info["sha256"],
            "corpus": supernet.corpus.fingerprint,
        }
        results = _finished(config.out, inputs)
        is_finished = results is not None
        if results is None:
            results = _compute(config, supernet, stages)
            results |= {"command": command, "inputs": inputs}
            write_json_atomic(config.out / "results.json", results)
        else:
            console.print("Nothing changed since this run finished: showing its results.")
        if not is_finished or not all((config.out / name).exists() for name in _DRAWN):
            render(results, config.out)
        print_report(View(results), console)
        _next_steps(config.out, console)
    return results


def _compute(config: SearchRun, supernet: TrainedSupernet, stages: _Stages) -> dict[str, Any]:
    goals = [Objective.parse(o) for o in config.objectives]
    workloads = list(
        dict.fromkeys(
            o.workload for o in goals if o.metric in ("decode_ms", "prefill_ms") and o.workload
        )
    )
    device = stages("profile", lambda: _profile(config, supernet, workloads or [DEFAULT_WORKLOAD]))
    study = stages(
        "search", lambda: _search(config, supernet, device, config.sampler, config.seed, "search")
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
    report = stages(
        "verify",
        lambda: verify(
            materialize(study.front, supernet, max_winners=config.max_winners, out=config.out),
            config.device,
            compile=config.compile,
            out=config.out,
        ),
    )
    results: dict[str, Any] = report.results
    results["provenance"] |= {
        "seed": config.seed,
        "corpus": supernet.corpus.name,
        "space": config.space,
        "cardinality": str(supernet.space.cardinality),
        "sampler": config.sampler,
        "trials": len(study.evaluations),
        "threads": device.runtime.threads,
        "dtype": device.runtime.dtype,
        "wall_s": stages.wall_s,
        "supernet": {"sha256": supernet.info["sha256"], "tokens": supernet.info.get("tokens")},
        "date": results["provenance"]["date"],
    }
    names = [str(o) for o in goals]
    ideal = dict(zip(names, study.ideal, strict=True)) if study.ideal is not None else {}
    results |= {
        "constraints": dict(study.constraints),
        "ref_point": dict(zip(names, study.ref_point, strict=True)),
        "ideal": ideal,
        "surrogate": {
            _metric(w): scores | {"interval_level": 0.9}
            for w, scores in zip(device.surrogates, device.quality.values(), strict=True)
        },
        "hypervolume": study.hypervolume_trace[-1],
        "hypervolume_trace": study.hypervolume_trace,
        "trials": [
            {"number": i, "architecture": e.architecture.to_json(), "values": dict(e.values)}
            for i, e in enumerate(study.evaluations)
        ],
    }
    if randoms:
        results["random_search"] = _random_results(randoms)
    return results


def _metric(workload: Workload) -> str:
    return f"{workload.phase}_ms[batch={workload.batch},context={workload.context}]"


def _random_results(studies: list[StudyResult]) -> dict[str, Any]:
    traces = np.array([s.hypervolume_trace for s in studies])
    finals = traces[:, -1]
    best = studies[int(np.argsort(finals)[len(finals) // 2])]
    return {
        "hypervolume": float(finals.mean()),
        "std": float(finals.std(ddof=1)) if len(finals) > 1 else 0.0,
        "hypervolumes": finals.tolist(),
        "trace_mean": traces.mean(axis=0).tolist(),
        "trace_std": (traces.std(axis=0, ddof=1) if len(finals) > 1 else 0 * traces[0]).tolist(),
        "front": [
            {"architecture": e.architecture.to_json(), "values": dict(e.values)}
            for e in best.front.evaluations
        ],
    }


def _supernet(config: SearchRun) -> TrainedSupernet:
    space = preset(config.space)
    from nas.training.trained import EMBEDDED_CORPUS, fits_embedded

    embedded = fits_embedded(space) and not config.from_scratch
    recipe = None
    if not (embedded and config.corpus == EMBEDDED_CORPUS):
        steps = config.train_steps
        recipe = TrainingRecipe(
            steps=steps,
            batch_size=8,
            context=min(256, space.family.context_length),
            learning_rate=1e-3 if embedded else 2e-3,
            size_bias=1.0,
            warmup_steps=min(50, steps // 4),
            checkpoint_steps=25,
            seed=config.seed,
        )
    return train_supernet(
        space,
        config.corpus,
        recipe=recipe,
        out=config.out,
        device=config.device,
        from_scratch=config.from_scratch,
    )


def _profile(
    config: SearchRun, supernet: TrainedSupernet, workloads: list[Workload]
) -> DeviceProfile:
    return profile(
        supernet,
        device=config.device,
        workloads=workloads,
        num_architectures=config.profile_architectures,
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


def _json(config: SearchRun) -> dict[str, Any]:
    values = asdict(config)
    values.pop("out")
    values["objectives"] = [str(Objective.parse(o)) for o in config.objectives]
    values["constraints"] = parse_constraints(config.constraints)
    stored: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return stored


def read_run(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a run: the fields of its :class:`SearchRun`, without ``out``.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = folder / "run.json"
    expected = {field.name for field in fields(SearchRun)} - {"out"}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"expected a run of `nas search` in {folder}, found no run.json; run: nas search --out {folder}"
        ) from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(
            f"expected {path} to be JSON, got {error}; use another --out, or delete the folder"
        ) from error
    if not isinstance(stored, dict) or set(stored) != expected or not _is_count(stored["trials"]):
        raise ValueError(
            f"expected the fields of a run in {path}, got {str(stored)[:80]}; use another --out, or delete the folder"
        )
    return stored


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _same_run(config: SearchRun) -> None:
    mine = _json(config)
    if (config.out / "run.json").exists():
        stored = read_run(config.out)
        changed = [k for k in mine if k not in _MAY_CHANGE and stored.get(k) != mine[k]]
        if changed:
            old = {k: stored.get(k) for k in changed}
            new = {k: mine[k] for k in changed}
            raise ValueError(
                f"expected the run that {config.out} holds ({old}), got {new}; use another --out, or delete the folder"
            )
        if stored["trials"] > mine["trials"]:
            raise ValueError(
                f"expected trials of {stored['trials']} or more (the study in {config.out} has them), got {mine['trials']}; "
                "use another --out"
            )


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
