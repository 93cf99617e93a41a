"""Convergence over seeds: the interval against a textbook's table, and a figure that says what it shows."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

from nas.pareto import convergence, convergence_figure


def test_the_mean_has_students_interval() -> None:
    trace = np.array([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]])
    found = convergence(trace)
    half = 4.302653 / math.sqrt(3)  # t(0.975) of two degrees of freedom, standard deviation 1
    assert found.middle_b.tolist() == [2.0, 4.0]
    np.testing.assert_allclose(found.high_b, [2.0 + half, 4.0], rtol=1e-6)
    np.testing.assert_allclose(found.low_b, [2.0 - half, 4.0], rtol=1e-6)
    assert (found.num_runs, found.spread) == (3, "mean")


def test_the_median_has_quartiles() -> None:
    found = convergence(np.array([[5.0], [1.0], [2.0], [4.0], [3.0]]), "median")
    assert [float(v[0]) for v in (found.low_b, found.middle_b, found.high_b)] == [2.0, 3.0, 4.0]


def test_one_run_has_no_spread() -> None:
    found = convergence([0.1, 0.2])
    assert found.num_runs == 1
    assert found.low_b.tolist() == found.high_b.tolist() == [0.1, 0.2]


def test_wrong_traces_are_refused() -> None:
    for trace in ([], [[]], [[math.nan]], [[[1.0]]]):
        with pytest.raises(ValueError, match="expected finite traces"):
            convergence(trace)
    with pytest.raises(ValueError, match="'mean' or 'median', got 'std'"):
        convergence([1.0], "std")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one method or more"):
        convergence_figure({})


def test_the_figure_names_every_method_and_its_spread() -> None:
    rng = np.random.default_rng(0)
    traces = {
        name: np.maximum.accumulate(rng.random((seeds, length)), axis=1)
        for name, seeds, length in (("ours", 4, 30), ("tpe", 2, 20), ("alone", 1, 30))
    }
    figure = convergence_figure(traces, title="A problem", goal=0.9)
    [axes] = figure.axes
    assert [line.get_label() for line in axes.get_lines()][:3] == list(traces)
    assert (
        len({(line.get_color(), str(line.get_linestyle())) for line in axes.get_lines()[:3]}) == 3
    )
    assert len(axes.collections) == 2  # the run that is alone has no band
    texts = " | ".join(t.get_text() for t in [*figure.texts, *axes.texts])
    assert "A problem" in texts
    assert "95 % interval of the mean (Student's t) over 1 to 4 seeds" in texts
    for name, trace in traces.items():
        assert f"{name}  {trace[:, -1].mean():.3f}, n={len(trace)}" in texts
        [line] = [line for line in axes.get_lines() if line.get_label() == name]
        np.testing.assert_array_equal(line.get_ydata(), trace.mean(axis=0))
    ends = sorted(t.xyann[1] for t in axes.texts if "n=" in t.get_text())
    low, high = axes.get_ylim()
    assert min(np.diff(ends)) > 0.03 * (high - low)  # names do not cover one another
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert len(buffer.getvalue()) > 10_000


def test_the_figure_of_medians_says_so() -> None:
    figure = convergence_figure({"a": np.ones((3, 5)), "b": np.ones((3, 5))}, spread="median")
    assert "median and quartiles over 3 seeds" in [t.get_text() for t in figure.texts]
    assert all("n=" not in t.get_text() for t in figure.axes[0].texts)
