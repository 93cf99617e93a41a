"""The judgement's test functions are the published ones, and know their fronts."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from experiments.searchers import functions
from tests.searchers_cases import every


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
