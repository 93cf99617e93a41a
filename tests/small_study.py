"""Studies whose evaluator is a formula; as a program, one study that a test can kill."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_spaces import small_space

from nas.objectives import Evaluation, Objective
from nas.study import StudyResult, run_study
from search_spaces import Architecture, SearchSpace, costs

SPACE = small_space(
    ffn_ratios=(1, 2, 4),
    attention=(True,),
    attention_sparsities=("dense", "2:4"),
    ffn_sparsities=("dense", "2:4", "1:4"),
    adapter_ranks=(0,),
)
FEW = small_space(  # twelve architectures: proposals repeat
    depths=(1,),
    biases=(False,),
    attention=(True,),
    ffn=(True,),
    ffn_ratios=(1, 2, 4),
    attention_sparsities=("dense",),
    ffn_sparsities=("dense",),
    adapter_ranks=(0,),
)
NAMES = ("perplexity", "weight_bytes")
# Small starts and generations: the part of each sampler that looks at the trials begins within a few of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "nsga2": {"population_size": 4},
    "nsga3": {"population_size": 4},
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "qlognehvi": {"n_startup": 4, "effort": 0.1, "num_draws": 8},
    "qlognparego": {"n_startup": 4, "effort": 0.1, "num_draws": 8},
}


def scores(architecture: Architecture) -> dict[str, float]:
    """What every evaluator here returns: bytes and parameters exactly, and a rugged perplexity that falls with size."""
    found = costs(architecture, SPACE.family)
    rugged = int(architecture.key, 16) % 997 / 997
    return {
        "perplexity": 5.0 + 100.0 / math.log2(found.nonzeros) + rugged,
        "weight_bytes": found.weight_bytes,
        "params": found.params,
    }


@dataclass(frozen=True)
class Formula:
    """An evaluator that writes its calls to a file.

    Args:
        calls: file that gets one line for each call, before it is answered.
        names: of the objectives.
        delay_s: how long a call takes.
        fail_at: number of the call that raises, counted over all processes; -1 for none.
        kill_at: number of the call that kills its process.
    """

    calls: Path | None = None
    names: Sequence[str] = NAMES
    delay_s: float = 0.0
    fail_at: int = -1
    kill_at: int = -1

    def __call__(self, architecture: Architecture) -> Evaluation:
        if self.calls is not None:
            with self.calls.open("a") as file:
                file.write(f"{os.getpid()} {architecture.key}\n")
            number = len(self.calls.read_text().splitlines()) - 1
            if number == self.fail_at:
                raise ArithmeticError(f"call {number} fails as it was told to")
            if number == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.delay_s)
        values = scores(architecture)
        return Evaluation(architecture, {n: values[n] for n in self.names})


def study(
    sampler: str = "random",
    n_trials: int = 8,
    *,
    space: SearchSpace = SPACE,
    names: Sequence[str] = NAMES,
    name: str = "small",
    evaluate: Any = None,
    **settings: Any,
) -> StudyResult:
    """A study of ``SPACE`` by formula; every call makes all objects anew, as a new process does."""
    return run_study(
        name,
        space,
        evaluate or Formula(names=names),
        [Objective.parse(n) for n in names],
        sampler=sampler,
        n_trials=n_trials,
        progress=False,
        **OPTIONS.get(sampler, {}) | settings,
    )


def told(result: StudyResult) -> list[tuple[str, dict[str, float]]]:
    """Architectures and values of a study in order, to be compared."""
    return [(e.architecture.key, dict(e.values)) for e in result.evaluations]


def main(storage: str, sampler: str, n_trials: int, workers: int, calls: str) -> None:
    """Run a study slowly enough to be killed in the middle."""
    print("ready", flush=True)
    evaluate = Formula(Path(calls), delay_s=0.05)
    result = study(sampler, n_trials, evaluate=evaluate, storage=storage, workers=workers, seed=3)
    print(json.dumps(told(result)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
