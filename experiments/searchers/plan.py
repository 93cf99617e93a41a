"""The plan: which runs, in which order. The most telling comparisons come first, so that a run of hours can be read at any time.

Optuna's GPSampler and the BoTorch samplers take seconds a suggestion: they get fewer seeds and, on most problems, 100 evaluations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.searchers.methods import Method
from experiments.searchers.problems import NET_SEEDS, select


@dataclass(frozen=True)
class Stage:
    """Some problems, with so many seeds.

    Args:
        problems: groups, names or patterns.
        seeds: of methods that take milliseconds.
        slow_seeds: of those that take seconds; 0 leaves them out.
        budget: evaluations of a run.
        slow_budget: of a run of a slow method.
        slow: which of the slow methods, by sampler; None for all.
    """

    problems: tuple[str, ...]
    seeds: int = 20
    slow_seeds: int = 5
    budget: int = 200
    slow_budget: int = 100
    slow: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Task:
    """One run.

    Args:
        problem: its name.
        method: the searcher.
        seed: of the searcher, and of the noise where there is any.
        budget: evaluations.
    """

    problem: str
    method: Method
    seed: int
    budget: int


_OPTUNA, _BOTORCH = ("gp",), ("qlognehvi", "qlognparego")
_NETS = tuple(f"nonlinear/*-{seed}" for seed in NET_SEEDS)
_THREE = tuple(f"gpt-s/{d}/perplexity+latency+energy" for d in ("a100", "rtx2080", "cpu_xeon_gold"))
STAGES = (
    Stage(("a100",), slow_seeds=0),
    Stage((*_NETS, "devices"), seeds=5, slow_seeds=0),
    Stage(("a100",), slow_seeds=3),
    Stage(
        ("noisy", "constrained", *_THREE, "functions", "sparse", "scales"), seeds=5, slow_seeds=0
    ),
    Stage(("nonlinear/*/relu3x64-0",), seeds=5, slow_seeds=2),
    Stage(("devices",), seeds=5, slow_seeds=3, slow=_OPTUNA),
    Stage(("devices",), seeds=5, slow_seeds=3, slow=_BOTORCH),
    Stage(("devices", *_NETS), slow_seeds=0),
    Stage(("noisy", "constrained", *_THREE), seeds=10, slow_seeds=3),
    Stage(("functions", "sparse", "scales"), seeds=10, slow_seeds=2),
    Stage(("devices", "a100"), slow_seeds=5),
    Stage(_NETS, slow_seeds=3),
    Stage(("noisy", "constrained", "functions", "sparse", "scales"), slow_seeds=0),
    Stage(("memory", "energy", "three"), slow_seeds=0),
    Stage(("a100",), slow_seeds=5, slow_budget=200),
)
QUICK = (
    Stage(
        (
            "gpt-s/a100/perplexity+latency",
            "gpt-s/a100/perplexity+latency/noisy",
            "gpt-s/a100/perplexity+latency/memory<=median",
            "zdt/pairs",
        ),
        seeds=3,
        slow_seeds=0,
        budget=30,
    ),
)


def tasks(
    stages: Sequence[Stage],
    methods: Sequence[Method],
    problems: Sequence[str] | None = None,
    seeds: int | None = None,
    budget: int | None = None,
) -> list[Task]:
    """Runs in order, each once: stage by stage, and in a stage seed by seed, so that a part of it compares like with like.

    Args:
        stages: the plan.
        methods: to run.
        problems: groups, names or patterns to keep; those that no stage has come last, as in a stage of their own. None for all.
        seeds: overrides the stages' numbers, for slow methods too.
        budget: at most so many evaluations.

    Raises:
        ValueError: if a pattern means no problem.
    """
    wanted = None if problems is None else select(problems)
    if wanted is not None:
        planned = {name for stage in stages for name in select(stage.problems)}
        rest = tuple(name for name in wanted if name not in planned)
        stages = [*stages, Stage(rest)] if rest else stages
    if seeds is not None:
        stages = [replace(stage, seeds=seeds, slow_seeds=seeds) for stage in stages]
    found: list[Task] = []
    longest: dict[tuple[str, str, int], int] = {}
    for stage in stages:
        names = [n for n in select(stage.problems) if wanted is None or n in wanted]
        for seed in range(max(stage.seeds, stage.slow_seeds)):
            for name, method in itertools.product(names, methods):
                if seed >= (stage.slow_seeds if method.is_slow else stage.seeds):
                    continue
                if method.is_slow and stage.slow is not None and method.sampler not in stage.slow:
                    continue
                most = stage.slow_budget if method.is_slow else stage.budget
                task = Task(name, method, seed, min(most, budget or most))
                key = (name, method.name, seed)
                if task.budget > longest.get(key, 0):  # a short run now may be a long one later
                    longest[key] = task.budget
                    found.append(task)
    return found
