"""The experiment that times suggestions: its studies, its table, and what it refuses. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.sampler_speed.__main__ import Recipe, check, growth, main
from experiments.sampler_speed.studies import TwoSums, space, study_of
from nas.pareto import non_dominated_mask


def test_studies_hold_what_a_search_would_have_told() -> None:
    function = TwoSums(0)
    study = study_of(function, 1, 60)
    assert len(space()) == 27
    assert len({str(t.params) for t in study.trials}) == 60
    for trial in study.trials[:5]:
        assert trial.values == pytest.approx(function(trial.params))
        assert min(trial.values) > 0.0
    shorter = study_of(function, 1, 40)
    assert [t.params for t in shorter.trials] == [t.params for t in study.trials[:40]]
    told = np.array([t.values for t in study.trials])
    uniform = function.of_ranks(np.random.default_rng(0).integers(3, size=(60, 27)))
    # most of them dominate what uniform draws find
    both = non_dominated_mask(np.concatenate([told, uniform]))
    assert both[:60].sum() > 5 * max(both[60:].sum(), 1)


def test_both_objectives_add_up_over_the_choices() -> None:
    function = TwoSums(2)
    base = np.ones((1, 27), dtype=np.int64)
    one, two, both = base.copy(), base.copy(), base.copy()
    one[0, 3], two[0, 8] = 0, 2
    both[0, [3, 8]] = 0, 2
    start, *changed = (function.of_ranks(r)[0] for r in (base, one, two, both))
    assert changed[2] - start == pytest.approx(changed[0] + changed[1] - 2.0 * start)
    assert changed[0][0] > start[0]
    assert changed[0][1] < start[1]


def test_a_quick_run_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(("auto", "nsga2"), (12, 14), suggestions=2, results=tmp_path)
    main(recipe)
    (path,) = tmp_path.glob("*/sampler_speed/result.json")
    found = json.loads(path.read_text())
    assert found["command"].startswith("python -m experiments.sampler_speed --samplers auto nsga2")
    rows = found["values"]["rows"]
    lengths = [(r["sampler"], r["trials"]) for r in rows]
    assert lengths == [("auto", 12), ("auto", 14), ("nsga2", 12), ("nsga2", 14)]
    assert all(0.0 < r["seconds"] <= r["slowest"] for r in rows)
    assert found["values"]["growth_500_to_5000"] == {}
    assert "Result:" in capsys.readouterr().out


def test_growth_is_a_ratio() -> None:
    rows = [
        {"sampler": name, "trials": n, "seconds": s}
        for name, n, s in (("auto", 500, 0.1), ("auto", 5000, 0.25), ("gp", 500, 1.0))
    ]
    assert growth(rows) == {"auto": 2.5}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(("auto", "none")),
        Recipe(trials=()),
        Recipe(trials=(5, 3)),
        Recipe(trials=(0,)),
        Recipe(suggestions=0),
    ],
)
def test_what_cannot_be_timed_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="expected"):
        check(recipe)
