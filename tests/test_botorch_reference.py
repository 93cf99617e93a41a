"""The experiment that measures the BoTorch samplers beside BoTorch's own parts: it resumes, and stock is stock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from experiments.botorch_reference import stock
from experiments.botorch_reference.race import Arm, one_suggestion, path_of, race, recorded
from experiments.botorch_reference.stock import Encoding, StockSampler
from experiments.searchers.judged import Box, JudgedProblem
from nas.searchers import make_sampler
from nas.searchers.bayesian_sampler import Acquisition

SPACE = {f"p{i}": CategoricalDistribution((1, 2, 4)) for i in range(5)}


def small_problem() -> JudgedProblem:
    """Two conflicting sums over five choices."""

    def evaluate(params: object) -> np.ndarray:
        x = np.log2(np.array([params[name] for name in SPACE]))  # type: ignore[index]
        return np.array([x.sum() + x[0] * x[1], 10.0 - 2.0 * x[2:].sum() + x[:2].sum()])

    box = Box(np.zeros(2), np.array([14.0, 14.0]), 1.0, "made up")
    return JudgedProblem("small", ("a", "b"), SPACE, evaluate, box, "1")


def test_a_run_in_pieces_equals_one_at_a_stretch(tmp_path: Path) -> None:
    problem = small_problem()
    options = {"n_startup": 4, "effort": 0.2}
    arm = Arm("ours", lambda seed: make_sampler("qlognehvi", seed=seed, **options), ())
    whole = race(arm, problem, 3, 12, tmp_path / "whole.jsonl", lambda _: None)
    path = path_of(tmp_path, arm, problem, 3)
    for trials in (2, 7, 12):
        pieces = race(arm, problem, 3, trials, path, lambda _: None)
        assert len(recorded(path)) == trials
    assert [r["point"] for r in pieces] == [r["point"] for r in whole]
    assert race(arm, problem, 3, 5, path, lambda _: None) == pieces[:5]
    assert one_suggestion(arm, problem, pieces, 3) > 0.0
    other = Arm("ours", arm.make, (Path(__file__),))
    assert path_of(tmp_path, other, problem, 3) != path  # other code is another run


@pytest.mark.parametrize(
    ("acquisition", "encoding"), [("nehvi", "ordinal"), ("nparego", "one-hot")]
)
def test_stock_searches_lists_of_values(
    acquisition: Acquisition, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botorch.acquisition.multi_objective import logei

    monkeypatch.setattr(logei, "_load_attempted", True)  # no C++ is compiled in a test
    monkeypatch.setattr(stock, "NUM_DRAWS", 8)
    monkeypatch.setattr(stock, "_NUM_RESTARTS", 2)
    monkeypatch.setattr(stock, "_RAW_SAMPLES", 16)
    problem = small_problem()
    found = []
    for _ in range(2 if encoding == "ordinal" else 1):
        sampler = StockSampler(seed=0, acquisition=acquisition, encoding=encoding)
        study = optuna.create_study(directions=problem.directions, sampler=sampler)
        for _ in range(13):
            trial = study.ask(dict(SPACE))
            study.tell(trial, problem.evaluate(trial.params).tolist())
        found.append([t.params for t in study.trials])
    assert found[0] == found[-1]  # the seed decides
    shares = problem.box.trajectory(np.array([problem.evaluate(p) for p in found[0]]))
    assert shares[-1] > shares[9]  # ten points are the design


def test_stock_refuses_what_it_cannot_search() -> None:
    with pytest.raises(ValueError, match="expected acquisition"):
        StockSampler(seed=0, encoding="binary")  # type: ignore[arg-type]
    study = optuna.create_study(directions=["minimize"] * 2, sampler=StockSampler(seed=0))
    space = {"x": FloatDistribution(0.0, 1.0)}
    for _ in range(10):
        trial = study.ask(dict(space))
        study.tell(trial, [trial.params["x"], 1.0 - trial.params["x"]])
    with pytest.raises(ValueError, match="lists of values"):
        study.ask(dict(space))
