"""The judgement of the searchers: problems whose best front is known, runs that survive kills, tests by the book."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from rich.console import Console
from scipy import stats
from small_benchmark import small_table, truths

from experiments.hw_gpt_bench import data
from experiments.searchers import __main__ as command
from experiments.searchers import (
    best_known,
    claims,
    collect,
    functions,
    judges,
    methods,
    plan,
    problems,
)
from experiments.searchers.collect import Runs, pair_rows, second_rows, share_rows
from experiments.searchers.judged import Box, JudgedProblem
from experiments.searchers.loop import run_once
from experiments.searchers.methods import METHODS, Method
from experiments.searchers.progress import Progress
from experiments.searchers.run_plan import run_plan
from experiments.searchers.scales import Scale
from experiments.searchers.statistics import holm, mean_of, paired
from nas.files import read_jsonl
from nas.pareto import non_dominated_mask
from search_spaces import Architecture, SearchSpace, Workload, preset
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.counts import layer_of
from surrogates.additive.encoding import ABSENT, Encoded, Encoder
from surrogates.base import FloatArray
from surrogates.benchmark import Benchmark
from surrogates.problem import Problem
from surrogates.roofline import latencies_ms
from surrogates.tables import MeasurementTable
from tests.small_spaces import GPT2

REPOSITORY = Path(__file__).parents[1]
RANDOM, NSGA2 = methods.select(["random", "nsga2"])


def every(distributions: Any) -> list[dict[str, Any]]:
    """All parameters of a small grid."""
    values = [
        d.choices
        if isinstance(d, optuna.distributions.CategoricalDistribution)
        else range(d.low, d.high + 1)
        for d in distributions.values()
    ]
    return [dict(zip(distributions, point, strict=True)) for point in itertools.product(*values)]


# --- test functions ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_dtlz2_is_botorchs(num_objectives: int) -> None:
    from botorch.test_functions.multi_objective import DTLZ2

    x = np.random.default_rng(0).random((50, 6))
    theirs = DTLZ2(6, num_objectives).double()(torch.tensor(x)).numpy()
    assert functions.dtlz2(x, num_objectives) == pytest.approx(theirs)


def test_branin_currin_is_botorchs() -> None:
    from botorch.test_functions.multi_objective import BraninCurrin

    x = np.random.default_rng(0).random((50, 2))
    x[0, 1] = 0.0  # the exponential's limit
    theirs = BraninCurrin(negate=False).double()
    assert functions.branin_currin(x)[1:] == pytest.approx(theirs(torch.tensor(x[1:])).numpy())
    assert np.isfinite(functions.branin_currin(x)).all()
    mixed, steps = functions.branin_currin_steps(mixed=True), functions.branin_currin_steps()
    real = float(theirs._max_hv) / (18.0 * 6.0)
    assert (
        steps.box.best < mixed.box.best < real < 1.01 * mixed.box.best
    )  # BoTorch's is of two real numbers


def test_the_quarter_circle_has_botorchs_hypervolume() -> None:
    from botorch.test_functions.multi_objective import DTLZ2

    assert functions.dtlz2_mixed().box.best * 1.1**2 == pytest.approx(DTLZ2(6, 2)._max_hv)


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_dtlz2_on_steps_knows_its_front(num_objectives: int) -> None:
    made = functions.dtlz2_steps(num_objectives, dim=num_objectives + 1, steps=5)
    values = np.array([made.evaluate(params) for params in every(made.distributions)])
    assert made.box.share(values) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ValueError, match="odd number of steps"):
        functions.dtlz2_steps(2, steps=8)


def test_zdt_of_pairs_knows_its_front_and_hides_it_from_additive_models() -> None:
    made = functions.zdt_pairs(num_position=2, num_pairs=2, levels=3)
    points = every(made.distributions)
    values = np.array([made.evaluate(params) for params in points])
    assert made.box.share(values) == pytest.approx(1.0, abs=1e-12)
    for name in ("left0", "right1"):  # at any f1, each letter alone has the same mean
        for first in np.unique(values[:, 0]):
            rows = values[:, 0] == first
            letters = np.array([p[name] for p in points])
            means = [values[rows & (letters == letter), 1].mean() for letter in "abc"]
            assert means == pytest.approx([means[0]] * 3)


def test_mixed_dtlz2_has_every_kind_of_parameter_and_reaches_its_front() -> None:
    made = functions.dtlz2_mixed()
    kinds = Counter(type(d).__name__ for d in made.distributions.values())
    assert kinds == {"FloatDistribution": 3, "IntDistribution": 2, "CategoricalDistribution": 3}
    best = {"x0": 0.3, "x1": 0.5, "x2": 0.5, "x3": 4, "x4": 4}
    letters = itertools.product(*(made.distributions[f"x{i}"].choices for i in (5, 6, 7)))
    radii = [
        np.hypot(*made.evaluate(best | dict(zip(("x5", "x6", "x7"), chosen, strict=True))))
        for chosen in letters
    ]
    assert min(radii) == pytest.approx(1.0)


# --- shares --------------------------------------------------------------------------------------


def line(name: str = "line", **changed: Any) -> JudgedProblem:
    """f1 + f2 = 1 in ten steps; best hypervolume by hand."""
    distributions = {"x": optuna.distributions.IntDistribution(0, 9)}

    def evaluate(params: Any) -> FloatArray:
        return np.array([params["x"] / 9.0, 1.0 - params["x"] / 9.0])

    box = Box(np.zeros(2), np.ones(2), sum(1 - x / 9 for x in range(1, 9)) / 9, "enumeration")
    return JudgedProblem(name, ("f1", "f2"), distributions, evaluate, box, "1", **changed)


def test_shares_of_a_line_by_hand() -> None:
    box = line().box
    values = np.array([[i / 9, 1 - i / 9] for i in range(10)])
    assert box.share(values) == pytest.approx(1.0)
    assert box.share(values[:0]) == 0.0
    rng = np.random.default_rng(0)
    values = rng.random((40, 2)) * 1.2
    feasible = rng.random(40) < 0.7
    slow = [box.share(values[: i + 1][feasible[: i + 1]]) for i in range(40)]
    assert box.trajectory(values, feasible) == pytest.approx(slow)
    assert box.trajectory(values) == pytest.approx([box.share(values[: i + 1]) for i in range(40)])


def test_with_noise_the_told_front_is_judged_by_its_true_values() -> None:
    noisy = line(noise=lambda params, seed: np.zeros(2))
    true = np.array([[0.5, 0.5], [0.9, 0.9], [0.2, 0.8]])
    told = np.array([[0.5, 0.5], [0.4, 0.4], [0.9, 0.1]])  # the second looks best and is worst
    everything, picked = noisy.shares(told, true, np.array([True, True, True]))
    assert everything == pytest.approx(noisy.box.trajectory(true))
    share = noisy.box.share
    assert picked == pytest.approx([share(true[:1]), share(true[1:2]), share(true[1:])])
    plain = line()
    everything, same = plain.shares(true, true, np.array([True, False, True]))
    assert everything == pytest.approx(same)
    assert everything[1] == everything[0]


# --- best known fronts ---------------------------------------------------------------------------


def small_problem() -> Problem:
    """All 270 architectures of a small space; two invented metrics with interactions."""
    space = SearchSpace(
        name="small",
        family=GPT2,
        embed_dims=(64, 128),
        depths=(2, 3),
        num_heads=(1, 2, 3),
        ffn_ratios=(1, 2, 4),
    )
    choices = ChoiceVectors(Encoder(space))
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 3, 3)), rng.random((2, 3, 3))

    def function(encoded: Encoded) -> FloatArray:
        w = encoded.width_n
        size = (1.0 + w) * (1.0 + encoded.ffn_nl[:, 0]) * encoded.depth_n
        a, f = encoded.attention_nl, encoded.ffn_nl
        return np.column_stack(
            [size + first[w, a[:, 0], f[:, 1]], 50.0 / size + second[w, a[:, 1], f[:, 0]]]
        )

    return Problem("small", ("one", "two"), choices, function)


@pytest.mark.parametrize("is_constrained", [False, True])
def test_the_searched_front_is_the_whole_truth_of_a_small_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_constrained: bool
) -> None:
    problem = small_problem()
    grid = np.array(list(itertools.product(*(range(size) for size in problem.sizes_d))))
    values = problem(grid)

    def feasible(encoded: Encoded) -> Any:
        return problem.function(encoded)[:, 0] <= np.median(values[:, 0])

    mask = feasible(problem.choices.decode(grid)) if is_constrained else np.ones(len(grid), bool)
    monkeypatch.setattr(best_known, "_CHILDREN", 500)
    limit = feasible if is_constrained else None
    box = best_known.searched_box(problem, tmp_path, "v1", limit)
    assert box.share(values[mask]) == pytest.approx(1.0, abs=1e-9)
    if is_constrained:
        assert box.share(values) > 1.05
    # read, not searched again
    monkeypatch.setattr(best_known, "_refined", lambda *_: pytest.fail("searched again"))
    again = best_known.searched_box(problem, tmp_path, "v1", limit)
    assert (again.best, again.source) == (box.best, box.source)
    assert np.array_equal(again.ref_point_m, box.ref_point_m)


def test_a_large_front_is_thinned_without_losing_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((4000, 3))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    values = 1.0 - values  # all non-dominated
    codes = np.arange(4000)[:, None]
    monkeypatch.setattr(best_known, "_MOST", 1000)
    kept, found = best_known._kept(codes, values)
    assert 300 <= len(found) <= 1000
    assert np.array_equal(values[kept[:, 0]], found)
    assert non_dominated_mask(found).all()
    assert set(values.argmin(axis=0)) <= set(kept[:, 0])


# --- judges --------------------------------------------------------------------------------------


def test_a_net_judge_is_trained_once_and_is_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = small_table(240)
    file = tmp_path / "table.npz"
    table.save(file)
    monkeypatch.setitem(judges.NETS, "tanh2x64", judges.NetRecipe((16, 16), "tanh", 200))
    before = torch.random.get_rng_state()
    judge, content = judges.net_judge(file, "slow chip", "tanh2x64", 0, tmp_path / "j", table)
    assert torch.equal(before, torch.random.get_rng_state())
    assert judge.tau > 0.6  # 48 rows held out of a nearly additive truth
    assert judge.train_tau > judge.tau - 0.1
    X_nf = judges.one_hot(table.encoded, Encoder(table.space))
    net = torch.nn.Sequential()
    for i, (matrix, offset) in enumerate(judge.weights):
        layer = torch.nn.Linear(*matrix.shape).double()
        layer.weight.data, layer.bias.data = torch.tensor(matrix.T), torch.tensor(offset)
        net.extend([layer] if i + 1 == len(judge.weights) else [layer, torch.nn.Tanh()])
    out = net(torch.tensor(X_nf)).detach().numpy()[:, 0]
    assert judge(X_nf) == pytest.approx(np.exp(judge.mean + judge.std * out))
    _, other_content = judges.net_judge(file, "slow chip", "tanh2x64", 1, tmp_path / "j", table)
    assert other_content != content
    monkeypatch.setattr(judges, "_train", lambda *_: pytest.fail("trained again"))
    again, same = judges.net_judge(file, "slow chip", "tanh2x64", 0, tmp_path / "j", table)
    assert same == content
    assert again.tau == judge.tau
    assert np.load(next((tmp_path / "j").iterdir()), allow_pickle=False)
    with pytest.raises(ValueError, match="expected a net in"):
        judges.net_judge(file, "slow chip", "big", 0, tmp_path, table)
    with pytest.raises(ValueError, match="expected a device in"):
        judges.net_judge(file, "slow chop", "tanh2x64", 0, tmp_path, table)


def test_one_hot_says_each_choice_once_and_nothing_of_absent_layers() -> None:
    encoder = Encoder(preset("gpt-s"))
    choices = ChoiceVectors(encoder)
    encoded = choices.decode(choices.sample(200, np.random.default_rng(0)))
    X_nf = judges.one_hot(encoded, encoder)
    assert X_nf.shape == (200, 3 + 3 + 1 + 12 * 6)
    assert np.array_equal(X_nf.sum(axis=1), 2 + encoded.bias_n + 2 * encoded.depth_n)
    assert len(np.unique(X_nf, axis=0)) == len(np.unique(encoded.keys()))


def slow_scale(scale: Scale, architecture: Architecture) -> tuple[float, float]:
    """Perplexity and latency of one architecture, layer by layer."""
    encoder = scale.encoder
    one = encoder([architecture])
    attention_la, ffn_lf, pairs = scale._effects
    factor, floor, exponent = scale._law
    from search_spaces import costs

    params = costs(architecture, encoder.space.family, 4).params
    a, f = (x[0][x[0] != ABSENT] for x in (one.attention_nl, one.ffn_nl))
    effect = sum(attention_la[i, a[i]] + ffn_lf[i, f[i]] for i in range(len(a)))
    effect += sum(pairs[i, a[i], f[i + 1]] for i in range(len(a) - 1))
    perplexity = (floor + factor * params**-exponent) * math.exp(effect)

    def time_of(layers: tuple[Any, ...]) -> float:
        asked = Architecture(architecture.embed_dim, layers, architecture.bias)
        return float(latencies_ms([asked], encoder.space.family, scale.device, scale._workload)[0])

    empty = layer_of(replace(encoder.ffn_parts[0], width=0.0), False)
    rest = time_of((empty,))
    rows = math.ceil(scale._workload.batch * 1024 / 128)

    def part_ms(part: Any, is_attention: bool) -> float:
        features = 3 * part.width * 64 if is_attention else part.width * architecture.embed_dim
        tiles = rows * math.ceil(features / 128)
        return (
            (time_of((layer_of(part, is_attention),)) - rest) * math.ceil(tiles / 108) * 108 / tiles
        )

    attention = [part_ms(p, True) for p in encoder.attention_parts]
    ffn = [part_ms(p, False) for p in encoder.ffn_parts]
    total = rest + sum(attention[i] + ffn[j] for i, j in zip(a, f, strict=True))
    changes = sum((a[i], f[i]) != (a[i - 1], f[i - 1]) for i in range(1, len(a)))
    both = []  # a mean layer, with and without biases
    for bias in (False, True):
        biased = replace(architecture, bias=bias)
        if bias == architecture.bias:
            both.append(np.mean(attention) + np.mean(ffn))
        else:
            both.append(slow_mean_layer(scale, biased))
    return perplexity, total + 0.02 * float(np.mean(both)) * changes


def slow_mean_layer(scale: Scale, architecture: Architecture) -> float:
    """Mean time of an attention part plus that of an FFN part, in whole waves."""
    w = scale.encoder.space.embed_dims.index(architecture.embed_dim)
    _, attention, ffn = scale._times
    b = int(architecture.bias)
    return float(attention[w, b].mean() + ffn[w, b].mean())


@pytest.mark.parametrize("space", ["gpt-m", "gpt-l"])
def test_synthetic_judges_are_their_sums_layer_by_layer(space: str) -> None:
    encoder = Encoder(preset(space))
    scale, choices = Scale(encoder), ChoiceVectors(encoder)
    encoded = choices.decode(choices.sample(5, np.random.default_rng(0)))
    fast = scale(encoded)
    slow = [slow_scale(scale, a) for a in encoder.decode(encoded)]
    assert fast == pytest.approx(np.array(slow), rel=1e-9)
    assert np.array_equal(scale(encoded), Scale(encoder)(encoded))
    values = scale(choices.decode(choices.sample(2000, np.random.default_rng(1))))
    assert -0.97 < np.corrcoef(values.T)[0, 1] < -0.8  # the two objectives oppose each other


# --- problems ------------------------------------------------------------------------------------


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


# --- methods and plan ----------------------------------------------------------------------------


def test_methods_make_samplers_and_refuse_unknown_names() -> None:
    for method in METHODS:
        if method.exists:
            assert isinstance(method.make(3), optuna.samplers.BaseSampler)
            assert method.code == method.code
    default = next(m for m in METHODS if m.name == "tpe-optuna").make(0)
    assert type(default) is optuna.samplers.TPESampler
    assert "auto" not in {m.name for m in methods.select(["others"])}
    with pytest.raises(ValueError, match="did you mean nsga2"):
        methods.select(["nsga22"])
    with pytest.raises(ValueError, match="expected a sampler of Optuna"):
        Method("x", "optuna:Nothing").make(0)
    assert not Method("x", "nothing").exists
    with pytest.raises(ValueError, match="expected a sampler in"):
        Method("x", "nothing").make(0)


def test_the_plan_runs_each_once_and_the_longer_later() -> None:
    slow = replace(RANDOM, name="slow", sampler="gp", is_slow=True)
    stages = [
        plan.Stage(("a100",), seeds=3, slow_seeds=1, budget=50, slow_budget=20),
        plan.Stage(("a100", "zdt/pairs"), seeds=2, slow_seeds=2, budget=50, slow_budget=30),
        plan.Stage(("zdt/pairs",), seeds=1, slow_seeds=5, slow=("other",)),
    ]
    found = plan.tasks(stages, [RANDOM, slow])
    assert [(t.problem[:3], t.method.name, t.seed, t.budget) for t in found] == [
        ("gpt", "random", 0, 50),
        ("gpt", "slow", 0, 20),
        ("gpt", "random", 1, 50),
        ("gpt", "random", 2, 50),
        ("gpt", "slow", 0, 30),
        ("zdt", "random", 0, 50),
        ("zdt", "slow", 0, 30),
        ("gpt", "slow", 1, 30),
        ("zdt", "random", 1, 50),
        ("zdt", "slow", 1, 30),
        ("zdt", "random", 0, 200),
    ]
    own = plan.tasks(stages, [RANDOM], ["dtlz2-2/steps", "zdt/pairs"], seeds=1, budget=10)
    assert [(t.problem, t.seed, t.budget) for t in own] == [
        ("zdt/pairs", 0, 10),
        ("dtlz2-2/steps", 0, 10),
    ]
    usual = plan.tasks(plan.STAGES, METHODS)
    assert {t.problem for t in usual} == set(problems.names())
    most = {(t.problem, t.seed) for t in usual if t.method.name == "auto"}
    assert all((name, 19) in most for name in problems.GROUPS["devices"])


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_is_what_the_sampler_was_told_and_repeats_by_seed() -> None:
    zdt = problems.problem("zdt/pairs")
    found = run_once(zdt, NSGA2, 3, 30)
    values = np.array(found["values"])
    assert values.shape == (30, 2)
    assert len(found["seconds"]) == 30
    assert found["share"] == pytest.approx(zdt.box.trajectory(values), abs=1e-5)
    again = run_once(zdt, NSGA2, 3, 40)
    assert again["share"][:30] == found["share"]
    assert run_once(zdt, NSGA2, 4, 30)["values"] != found["values"]


class _Recorder(optuna.samplers.RandomSampler):
    """Keeps what it is told."""

    told: list[Any]

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self.told.append(
            (list(values), dict(study._storage.get_trial(trial._trial_id).constraints))
        )


def test_noise_is_told_and_constraints_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _Recorder(seed=0)
    recorder.told = []
    monkeypatch.setattr(Method, "make", lambda self, seed: recorder)
    judged = line(
        noise=lambda params, seed: np.array([seed, params["x"]], dtype=float),
        constraint=lambda params: params["x"] - 4.5,
    )
    found = run_once(judged, RANDOM, 2, 12)
    x = [round(9 * first) for first, _ in found["values"]]
    assert [values for values, _ in recorder.told] == [[2_000_006 + i, x[i]] for i in range(12)]
    assert [list(c.values()) for _, c in recorder.told] == [[value - 4.5] for value in x]
    assert found["feasible"] == [int(value < 4.5) for value in x]
    assert found["repeats"] == 12 - len(set(x))
    assert len(found["picked"]) == 12


def test_a_run_ends_where_the_space_is_exhausted() -> None:
    method = Method("qlognparego", "qlognparego", {"n_startup": 20, "num_draws": 2})
    found = run_once(line(), method, 0, 15)
    assert len(found["share"]) == 10
    assert found["share"][-1] == pytest.approx(1.0, abs=1e-5)
    assert found["repeats"] == 0
    runs = Runs("line", {"a": {0: {**found, "budget": 15}}}, False)
    assert runs.at("a", 15) == {0: found["share"][-1]}


def test_finished_runs_are_found_by_setting_seed_and_length(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    found = {"share": [0.1, 0.2], "seconds": [0.0, 0.0], "repeats": 0}
    progress.add("a/b<=c", "v", RANDOM, 0, 2, found)
    assert progress.has("a/b<=c")
    assert not progress.has("a/b")
    kept = progress.find("a/b<=c", "v", RANDOM, 0, 1, True)
    assert kept is not None
    assert kept["share"] == [0.1, 0.2]
    assert progress.find("a/b<=c", "v", RANDOM, 0, 3, False) is None
    assert progress.find("a/b<=c", "v", RANDOM, 1, 2, False) is None
    assert progress.find("a/b<=c", "other", RANDOM, 0, 2, False) is None
    assert progress.find("a/b<=c", "v", replace(RANDOM, options={"x": 1}), 0, 2, False) is None
    with (tmp_path / "a_b_c.jsonl").open("a") as file:
        file.write('{"problem": "a/b<')  # torn by a kill
    progress.add("a/b<=c", "v", RANDOM, 0, 3, {**found, "share": [0.1, 0.2, 0.3]})
    latest = Progress(tmp_path).latest("a/b<=c", "v", [RANDOM, NSGA2])
    assert [(n, list(r), r[0]["budget"]) for n, r in latest.items()] == [("random", [0], 3)]


def test_runs_of_other_code_count_unless_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Method("ours", "qlognparego")
    progress = Progress(tmp_path)
    progress.add("p", "v", ours, 0, 1, {"share": [0.1]})
    monkeypatch.setattr(methods, "_digest_of_searchers", lambda: "changed")
    assert progress.find("p", "v", ours, 0, 1, fresh=False) is not None
    assert progress.find("p", "v", ours, 0, 1, fresh=True) is None


def test_killed_and_run_again_it_has_every_run_once(tmp_path: Path) -> None:
    words = [
        "--problems",
        "zdt/pairs",
        "--methods",
        "random",
        "nsga2",
        "--seeds",
        "12",
        "--budget",
        "60",
    ]
    asked = [
        sys.executable,
        "-m",
        "experiments.searchers",
        *words,
        "--no-report",
        "--out",
        str(tmp_path),
    ]
    log = tmp_path / "progress" / "zdt_pairs.jsonl"
    process = subprocess.Popen(
        asked, cwd=REPOSITORY, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 3):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(read_jsonl(log))
    assert 3 <= before < 24
    recipe = command.Recipe(
        methods=("random", "nsga2"),
        problems=("zdt/pairs",),
        seeds=12,
        budget=60,
        report=False,
        out=tmp_path,
    )
    command.main(recipe)
    records = read_jsonl(log)
    assert Counter((r["method"], r["seed"]) for r in records) == Counter(
        itertools.product(("random", "nsga2"), range(12))
    )
    again = run_once(problems.problem("zdt/pairs", tmp_path), NSGA2, 0, 60)
    assert (
        next(r for r in records if (r["method"], r["seed"]) == ("nsga2", 0))["share"]
        == again["share"]
    )


def test_without_the_table_the_nets_are_left_out_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(problems, "find_table", lambda: None)
    problems.problem.cache_clear()
    asked = plan.tasks(
        [plan.Stage(("nonlinear/rtx2080/relu3x64-0", "zdt/pairs"), 1, 0, 5)], [RANDOM]
    )
    progress = Progress(tmp_path / "progress")
    run_plan(asked, progress, (), tmp_path, None, Console(width=300))
    said = capsys.readouterr().out
    assert "left out: problem 'nonlinear/rtx2080/relu3x64-0'" in said
    assert "1 runs made now" in said
    assert progress.has("zdt/pairs")
    assert not progress.has("nonlinear/rtx2080/relu3x64-0")


# --- tables --------------------------------------------------------------------------------------


def test_means_tests_and_corrections_are_those_of_the_books() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1.0, 12), rng.normal(0.0, 1.0, 12)
    low, high = stats.t.interval(0.95, 11, a.mean(), stats.sem(a))
    mean = mean_of(a)
    assert (mean.mean - mean.half_width, mean.mean + mean.half_width) == pytest.approx((low, high))
    assert (mean.num, mean_of([0.5]).half_width) == (12, 0.0)
    test = paired(dict(enumerate(a)), {**dict(enumerate(b)), 99: 1.0})
    assert test.num == 12
    assert test.p_t == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b, alternative="greater").pvalue)
    assert (test.wins, test.losses) == ((a > b).sum(), (a < b).sum())
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p_t == 1.0
    assert paired({0: 1.0}, {0: 0.0}).p_t == 1.0  # one seed says nothing
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p_t == 0.0
    with pytest.raises(ValueError, match="common seed"):
        paired({0: 1.0}, {1: 1.0})
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def made_up_runs(name: str, gains: dict[str, float], seeds: int = 6, noisy: bool = False) -> Runs:
    """Every method gains steadily; the first seeds are a little better."""
    found: dict[str, dict[int, Any]] = {}
    for method, gain in gains.items():
        found[method] = {}
        for seed in range(seeds):
            share = [min(1.0, 0.8 + gain * i / 200 + 0.001 * (seed % 3)) for i in range(200)]
            seconds = [0.001 * i for i in range(200)]
            record = {"share": share, "seconds": seconds, "repeats": 1, "budget": 200, "code": "x"}
            found[method][seed] = record | ({"picked": [s - 0.01 for s in share]} if noisy else {})
    return Runs(name, found, noisy)


def test_ours_is_compared_with_each_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Method("variant", "auto", {"x": 1})
    monkeypatch.setattr(collect, "ABLATIONS", (variant,))
    devices = [
        made_up_runs("one", {"auto": 0.15, "random": 0.05, "gp": 0.1, "variant": 0.2}),
        made_up_runs("two", {"auto": 0.15, "random": 0.05, "gp": 0.1501}),
        made_up_runs("three", {"auto": 0.15, "random": 0.05}),
    ]
    rows = pair_rows(devices, 100)
    assert [(r["problem"], r["other"], r["wins"]) for r in rows] == [
        *(("one", "random", 6), ("two", "random", 6), ("three", "random", 6)),
        *(("one", "gp", 6), ("two", "gp", 0)),
    ]
    for row in rows:
        family = [r["p_t"] for r in rows if r["other"] == row["other"]]
        position = [r["problem"] for r in rows if r["other"] == row["other"]].index(row["problem"])
        assert row["p_t_holm"] == pytest.approx(holm(family)[position])
    table = claims.device_table(devices, rows)
    assert (table["of"], table["ahead"], table["t"], table["t_holm"]) == (2, 1, 1, 1)
    assert (table["wilcoxon"], table["wilcoxon_holm"]) == (1, 1)
    assert table["shortfall"] == pytest.approx(0.0001 * 99 / 200, abs=1e-5)


def test_rows_of_shares_and_seconds() -> None:
    runs = made_up_runs("p", {"auto": 0.1}, noisy=True)
    rows = share_rows(runs)
    assert [(r["judged"], r["evaluations"]) for r in rows] == [
        (judged, point)
        for judged in ("all evaluated", "told front")
        for point in (25, 50, 100, 200)
    ]
    assert rows[2]["share"] == pytest.approx(0.8 + 0.1 * 99 / 200 + 0.001, abs=1e-5)
    assert rows[6]["share"] == pytest.approx(rows[2]["share"] - 0.01, abs=1e-5)
    (row,) = second_rows(runs)
    assert [row[f"at_{point}"] for point in (25, 50, 100)] == pytest.approx([0.024, 0.049, 0.099])
    assert row["median"] == pytest.approx(0.0995)


def test_claims_are_held_to_their_targets() -> None:
    a100 = problems.GROUPS["a100"][0]
    good = made_up_runs(a100, {"auto": 0.4, "random": 0.0})
    poor = made_up_runs(f"{a100}/noisy", {"auto": 0.3}, noisy=True)
    rows = {row["claim"]: row for row in claims.claims({a100: good, f"{a100}/noisy": poor})}
    at = {point: rows[f"S on A100, {point} evaluations"]["met"] for point in (50, 100, 200)}
    assert at == {50: "no", 100: "yes", 200: "yes"}  # 0.899, 0.999, 1
    assert rows["S on A100, a suggestion at trial 100"]["met"] == "no"  # 99 ms
    assert rows[f"{a100}/noisy: lost to noise at 100"]["met"] == "no"  # 6 points
    assert (
        rows["above every other searcher, p < 0.05, 100 evaluations"]["met"] == "no"
    )  # one device


def test_the_command_writes_tables_plots_and_the_result(tmp_path: Path) -> None:
    stage = plan.Stage(("zdt/pairs", "dtlz2-3/steps"), seeds=2, budget=26, slow_seeds=0)
    recipe = command.Recipe(
        methods=("random", "nsga2"),
        problems=stage.problems,
        seeds=2,
        budget=26,
        out=tmp_path,
        results=tmp_path / "results",
    )
    command.main(recipe)
    (folder,) = (tmp_path / "results").glob("*/searchers")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "result.json",
        "shares.csv",
        "seconds.csv",
        "pairs.csv",
        "tables.md",
        "convergence-zdt_pairs.png",
    }
    text = (folder / "tables.md").read_text()
    assert "## zdt/pairs" in text
    assert "Group functions" in text
    assert (folder / "shares.csv").read_text().count("\n") == 1 + 2 * 2
    with pytest.raises(ValueError, match="expected finished runs"):
        command.main(replace(recipe, search=False, out=tmp_path / "nothing"))
    with pytest.raises(ValueError, match="expected seeds of 1 or more"):
        command.main(replace(recipe, seeds=0))


def test_runs_above_the_best_known_or_of_other_code_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.searchers.report import write_report

    zdt = problems.problem("zdt/pairs", tmp_path)
    progress = Progress(tmp_path / "progress")
    record = {"share": [0.5, 1.01], "seconds": [0.1, 0.1], "repeats": 0}
    progress.add("zdt/pairs", zdt.version, replace(RANDOM, sampler="random"), 0, 2, record)
    record_file = tmp_path / "progress" / "zdt_pairs.jsonl"
    record_file.write_text(record_file.read_text().replace("optuna", "older optuna"))
    write_report(progress, ["zdt/pairs"], tmp_path, None, tmp_path / "out", Console(width=200))
    said = capsys.readouterr().out
    assert "random found more than the best known front of zdt/pairs" in said
    assert "1 of 1 runs of random were made by other code" in said
