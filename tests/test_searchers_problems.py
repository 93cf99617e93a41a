"""Every problem of the plan: what it answers, its constraint, and its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from small_benchmark import small_table, truths

from experiments.hw_gpt_bench import data
from experiments.searchers import judges, problems
from experiments.searchers.judged import Box, JudgedProblem
from search_spaces import Workload, preset
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoder
from surrogates.benchmark import Benchmark
from surrogates.tables import MeasurementTable
from tests.searchers_cases import every


@pytest.fixture
def any_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for best known fronts."""
    monkeypatch.setattr(
        problems, "searched_box", lambda problem, *_: Box(np.zeros(2), np.ones(2), 1.0, "made up")
    )
    problems.problem.cache_clear()


def draw(problem: JudgedProblem, seed: int = 0) -> dict[str, Any]:
    study = optuna.create_study(
        directions=problem.directions, sampler=optuna.samplers.RandomSampler(seed=seed)
    )
    return study.ask(dict(problem.distributions)).params


def test_problems_of_the_benchmark_are_its_answers(any_box: None) -> None:
    bench, space = Benchmark("gpt-s"), preset("gpt-s")
    plain = problems.problem("gpt-s/v100/perplexity+latency")
    params = draw(plain)
    architecture = space.from_params(params)
    asked = ("perplexity", "latency")
    values = bench.query([architecture], "v100", asked)
    assert plain.evaluate(params).tolist() == pytest.approx([values[m][0] for m in asked])
    assert np.array_equal(plain.told(params, 7), plain.evaluate(params))
    noisy = problems.problem("gpt-s/v100/perplexity+latency/noisy")
    told = bench.query([architecture], "v100", asked, noise=7)
    assert noisy.told(params, 7).tolist() == pytest.approx([told[m][0] for m in asked])
    assert not np.array_equal(noisy.told(params, 8), noisy.told(params, 7))
    assert np.array_equal(noisy.evaluate(params), plain.evaluate(params))
    assert len({plain.version, noisy.version}) == 2


def test_a_constraint_holds_for_half_of_the_space(
    any_box: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []
    box = Box(np.zeros(2), np.ones(2), 1.0, "made up")
    monkeypatch.setattr(problems, "searched_box", lambda *asked: masks.append(asked[3]) or box)
    limited = problems.problem("gpt-s/v100/perplexity+energy/latency<=median")
    assert limited.constraint is not None
    excess = np.array([limited.constraint(draw(limited, seed)) for seed in range(100)])
    assert 30 <= (excess <= 0).sum() <= 70
    bench = Benchmark("gpt-s")
    rows = [preset("gpt-s").from_params(draw(limited, seed)) for seed in range(100)]
    latency = bench.query(rows, "v100", ["latency"])["latency"]
    assert latency[excess <= 0].max() < latency[excess > 0].min()
    # the best known front is of the same points
    assert np.array_equal(masks[0](Encoder(preset("gpt-s"))(rows)), excess <= 0)


def test_every_problem_of_the_plan_can_be_made(any_box: None) -> None:
    names = problems.names()
    assert len(names) == len(set(names)) > 60
    for name in names:
        if name.startswith("nonlinear/"):  # its table is not in the repository
            continue
        if name.startswith("gpt-s/") and "/a100/" not in name and "/P100/" not in name:
            continue
        problem = problems.problem(name)
        values = problem.evaluate(draw(problem))
        assert problem.name == name
        assert values.shape == (len(problem.objectives),)
        assert np.isfinite(values).all(), name
    dims = {
        n: len(problems.problem(f"synthetic/{n}/a100").distributions) for n in ("gpt-m", "gpt-l")
    }
    assert dims == {"gpt-m": 51, "gpt-l": 75}


def test_the_small_space_knows_all_of_itself() -> None:
    small = problems.problem("exhaustive/small")
    params = every(small.distributions)
    distinct = {tuple(small.evaluate(p).tolist()) for p in params[::400]}
    assert small.box.share(np.array(list(distinct))) <= 1.0
    bench = Benchmark("tiny")
    architecture = problems.small_space().from_params(params[123])
    found = bench.query([architecture], bench.devices[0], ["perplexity", "weight_bytes"])
    value_m = small.evaluate(params[123])
    assert value_m[[0, 2]].tolist() == pytest.approx(
        [found["perplexity"][0], found["weight_bytes"][0]]
    )


def test_non_linear_problems_need_the_table_and_use_it(
    tmp_path: Path, any_box: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "find_table", lambda: None)
    with pytest.raises(ValueError, match="expected HW-GPT-Bench's measurements"):
        problems.problem("nonlinear/rtx2080/tanh2x64-0", tmp_path)
    file = tmp_path / "table.npz"
    small_table(240).save(file)
    monkeypatch.setitem(judges.NETS, "tanh2x64", judges.NetRecipe((8,), "tanh", 5))
    made = problems.problem("nonlinear/fast/tanh2x64-0", tmp_path, file)
    params = draw(made)
    encoder = Encoder(preset("gpt-s"))
    judge, _ = judges.net_judge(
        file, "fast", "tanh2x64", 0, tmp_path / "judges", data.load_table(str(file))
    )
    encoded = encoder([preset("gpt-s").from_params(params)])
    assert made.evaluate(params)[1] == pytest.approx(judge(judges.one_hot(encoded, encoder))[0])
    tau = problems.judge_quality("nonlinear/fast/tanh2x64-0", tmp_path, file)
    assert tau == (judge.tau, judge.train_tau)


def test_tables_of_other_spaces_beside_that_of_s_are_used(tmp_path: Path, any_box: None) -> None:
    space = preset("gpt-m")
    choices = ChoiceVectors(Encoder(space))
    encoded = choices.decode(choices.sample(80, np.random.default_rng(0)))
    columns = {key: value for key, value in truths(encoded, space).items() if key[1] != "slow chip"}
    table = MeasurementTable(space, Workload("prefill", 8, 1024), encoded, columns)
    table.save(tmp_path / "gpt-m.npz")
    made = problems.problem("gpt-m/fast/perplexity+energy", tmp_path, tmp_path / "gpt-s.npz")
    params = draw(made)
    asked = ["perplexity", "energy"]
    found = Benchmark("gpt-m", table).query([space.from_params(params)], "fast", asked)
    assert made.evaluate(params).tolist() == pytest.approx([found[name][0] for name in asked])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zdt/pears", "did you mean zdt/pairs"),
        ("gpt-s/a101/perplexity+latency", "expected a device in"),
        ("gpt-s/a100/perplexity+latincy", "expected a metric in"),
        ("gpt-s/a100/perplexity+latency/loud", "expected noisy or METRIC<=median"),
        ("gpt-s/a100/perplexity+latency/memory<=mean", "expected noisy or METRIC<=median"),
        ("synthetic/gpt-s/a100", "expected a space in"),
        ("nonlinear/rtx2080/tanh2x64", "expected a net and a seed"),
        ("gpt-l/a100/perplexity+latency", "synthetic/gpt-l/a100 needs none"),
        ("gpt-s/a100", "expected"),
        ("nothing", "expected a problem"),
    ],
)
def test_a_wrong_problem_is_named(name: str, said: str, any_box: None, tmp_path: Path) -> None:
    small_table(60).save(tmp_path / "table.npz")
    with pytest.raises(ValueError, match=said):
        problems.problem(name, tmp_path, tmp_path / "table.npz")


def test_problems_are_selected_by_group_pattern_or_name() -> None:
    assert problems.select(["devices"]) == problems.GROUPS["devices"]
    assert len(problems.select(["gpt-s/*/perplexity+latency"])) == 13
    assert problems.select(["a100", "devices"])[0] == "gpt-s/a100/perplexity+latency"
    assert problems.select(["gpt-s/a100/perplexity+params"]) == ("gpt-s/a100/perplexity+params",)
    with pytest.raises(ValueError, match="did you mean devices"):
        problems.select(["device"])
