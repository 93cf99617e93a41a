"""A judge whose log-losses are a formula, and searches of growing fidelity with it; as a program, one study that a test can kill."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_study import OPTIONS, SPACE

from nas.fidelity import Growing, GrowingSearch, LossRecord
from nas.objectives import Evaluation, Objective
from nas.study import StudyResult, run_study
from search_spaces import Architecture, SearchSpace, costs

NAMES = ("perplexity", "weight_bytes")
OBJECTIVES = tuple(Objective.parse(n) for n in NAMES)
WINDOWS, WIDTH = 16, 10  # a full evaluation reads 160 tokens
REF = {"perplexity": 30.0, "weight_bytes": 7e4}
OPTIONS_GROWING = Growing(shares=(1 / 8, 1.0), num_full=3, early=1.0)
THREE = Growing(shares=(1 / 8, 1 / 4, 1.0), num_full=3, early=1.0)
NARROW = {"perplexity": 9.0, "weight_bytes": 7e4}  # beyond what the formula ever gives
IDEAL = {"perplexity": 5.0, "weight_bytes": 0.0}


def window_nats(architecture: Architecture, window: int) -> float:
    """Summed log-loss of one window: falls with size, is harder in some windows, and a little rugged."""
    found = costs(architecture, SPACE.family)
    mean = math.log(5.0 + 100.0 / math.log2(found.nonzeros)) + 0.05 * math.sin(window)
    rugged = (int(architecture.key, 16) // (7 * window + 1)) % 997 / 997 - 0.5
    return WIDTH * (mean + 0.04 * rugged)


def true_perplexity(architecture: Architecture) -> float:
    """On all windows, in one sum."""
    nats = sum(window_nats(architecture, w) for w in range(WINDOWS))
    return math.exp(nats / (WINDOWS * WIDTH))


@dataclass(frozen=True)
class FormulaJudge:
    """Measures by formula; picklable.

    Args:
        calls: file that gets a line for each measurement: architecture and tokens read.
        delay_s: how long one takes.
    """

    calls: Path | None = None
    delay_s: float = 0.0

    @property
    def part_tokens(self) -> tuple[int, ...]:
        return (WIDTH,) * WINDOWS

    def measure(
        self, architecture: Architecture, parts: Sequence[int], earlier: Evaluation | None
    ) -> Evaluation:
        time.sleep(self.delay_s)
        missing = LossRecord.of(earlier).lacks(parts)
        found = {part: (WIDTH, window_nats(architecture, part)) for part in missing}
        record = LossRecord.of(earlier).extended(found)
        if self.calls is not None:
            with self.calls.open("a") as file:
                file.write(f"{architecture.key} {WIDTH * len(missing)}\n")
        perplexity, size = record.perplexity, costs(architecture, SPACE.family).weight_bytes
        values = {"perplexity": perplexity, "weight_bytes": size}
        claim = {"mean": perplexity, "low": perplexity, "high": perplexity, "source": "formula"}
        provenance = {"claims": {"perplexity": claim}} | record.to_provenance()
        return Evaluation(architecture, values, fidelity=record.num_tokens, provenance=provenance)

    def tokens_read(self) -> int:
        assert self.calls is not None
        return sum(int(line.split()[1]) for line in self.calls.read_text().splitlines())


def growing_search(judge: FormulaJudge | None = None, **changed: Any) -> GrowingSearch:
    """Decisions over the formula."""
    fields: dict[str, Any] = {"ref_point": REF, "constraints": {}, "options": OPTIONS_GROWING}
    return GrowingSearch(judge or FormulaJudge(), OBJECTIVES, **fields | changed)


def growing_study(
    sampler: str = "random",
    n_trials: int = 40,
    *,
    judge: FormulaJudge | None = None,
    space: SearchSpace = SPACE,
    constraints: dict[str, float] | None = None,
    growing: Growing = OPTIONS_GROWING,
    **settings: Any,
) -> StudyResult:
    """A study of growing fidelity; every call makes all objects anew, as a new process does."""
    bounds = constraints or {}
    ref = settings.get("ref_point", REF)
    search = growing_search(judge, constraints=bounds, options=growing, ref_point=ref)
    options = {"seed": 3, "ref_point": REF, "ideal": IDEAL, "progress": False}
    options |= OPTIONS.get(sampler, {})
    return run_study(
        "growing",
        space,
        search,
        OBJECTIVES,
        sampler=sampler,
        n_trials=n_trials,
        constraints=bounds,
        **options | settings,
    )


def told(result: StudyResult) -> list[dict[str, Any]]:
    """A study's evaluations in order, to be compared."""
    return [e.to_json() for e in result.evaluations]


def main(storage: str, sampler: str, n_trials: int, calls: str) -> None:
    """Run a study slowly enough to be killed in the middle."""
    judge = FormulaJudge(calls=Path(calls), delay_s=0.02)
    print(json.dumps(told(growing_study(sampler, n_trials, judge=judge, storage=storage))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
