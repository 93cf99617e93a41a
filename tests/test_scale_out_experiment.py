"""The experiment on scale-out: what it counts as a fault, how it simulates parallelism, and that it reports what it found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from experiments.scale_out import __main__ as experiment
from experiments.scale_out import lost
from experiments.scale_out.fleet import Task, join, load
from experiments.scale_out.killing import at_once, count
from experiments.scale_out.lost import one_search
from experiments.scale_out.overhead import measure
from experiments.scale_out.report import write_report
from nas.files import write_json_atomic


def task(tmp_path: Path, trials: int) -> Task:
    return Task(str(tmp_path / "study.journal"), trials, tmp_path / "log")


def test_two_at_once_are_found_and_the_dead_are_not_counted() -> None:
    def line(pid: int, what: str, when: float) -> dict[str, Any]:
        return {"pid": pid, "key": "a", "what": what, "time": when}

    apart = [line(1, "begin", 0.0), line(1, "end", 1.0), line(2, "begin", 1.5), line(2, "end", 2.0)]
    assert at_once(apart, {}) == []
    together = [*apart[:1], line(2, "begin", 0.5), line(1, "end", 1.0), line(2, "end", 2.0)]
    assert at_once(together, {}) == ["a"]
    died = [line(1, "begin", 0.0), line(2, "begin", 1.5), line(2, "end", 2.0)]
    assert at_once(died, {1: 1.0}) == []
    assert at_once(died, {1: 1.7}) == at_once(died, {}) == ["a"]


def test_a_study_without_kills_is_counted_without_faults(tmp_path: Path) -> None:
    mine = task(tmp_path, 6)
    join(mine)
    assert count(mine, {})["faults"] == []
    stored = load(mine)
    stored.ask()
    assert count(replace(mine, trials=5), {})["faults"]


@pytest.mark.slow
def test_the_overhead_of_a_journal(tmp_path: Path) -> None:
    mine = task(tmp_path, 12)
    row = measure(mine, 2, 120.0)
    assert (row["workers"], row["trials"]) == (2, 12)
    assert row["trials_a_second"] == pytest.approx(1000.0 / row["ms_a_trial"], rel=0.05)


class FakeProblem:
    """Two integers, two objectives, and a hypervolume that counts what was seen."""

    metrics = ("a", "b")
    best_hypervolume = 2.0

    def __init__(self) -> None:
        self.asked_with: list[int] = []

    def distributions(self) -> dict[str, Any]:
        return {"x": optuna.distributions.CategoricalDistribution(tuple(range(50)))}

    def codes(self, params: dict[str, Any]) -> Any:
        return np.array([[params["x"]]])

    def __call__(self, codes_nd: Any) -> Any:
        return np.array([[float(codes_nd[0, 0]), -float(codes_nd[0, 0])]])

    def trajectory(self, values_bm: Any) -> Any:
        return np.arange(1.0, len(values_bm) + 1.0)


@pytest.mark.parametrize("running", [1, 4])
def test_a_sampler_is_asked_with_others_still_running(
    running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watching(optuna.samplers.RandomSampler):
        def before_trial(self, study: Any, trial: Any) -> None:
            found = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            seen.append(len(found))

    monkeypatch.setattr(lost, "make_sampler", lambda name, seed: Watching(seed=seed))
    share = one_search(FakeProblem(), "random", running, 10, 0)  # type: ignore[arg-type]
    assert share == [0.5 * i for i in range(1, 11)]
    assert seen == [*range(1, running), *[running] * (11 - running)]


def test_the_report_is_made_of_the_results_that_are_there(tmp_path: Path) -> None:
    row = {"trials": 400, "kills": 24, "given_up_and_made_again": 5, "faults": [], "wall_s": 9.5}
    values = {"workers": 8, "space": "gpt-s", "engines": {"journal": row}}
    write_json_atomic(tmp_path / "kill.json", {"values": values})
    text = write_report(tmp_path).read_text()
    assert "| journal | 400 | 24 | 5 | none | 9.5 |" in text
    assert "Overhead" not in text
    values["engines"]["sqlite"] = row | {"faults": ["indices are not 0, 1, 2, ..."]}  # type: ignore[index]
    write_json_atomic(tmp_path / "kill.json", {"values": values})
    assert "indices are not 0" in write_report(tmp_path).read_text()


def test_the_experiment_refuses_parts_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="expected parts among kill, overhead, parallelism"):
        experiment.main(experiment.Recipe(parts=("kills",)))


def test_a_part_is_run_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeBenchmark:
        def __init__(self, space: str) -> None:
            assert space == "gpt-s"

        def problem(self, device: str, metrics: tuple[str, ...]) -> FakeProblem:
            return FakeProblem()

    monkeypatch.setattr(experiment, "Benchmark", FakeBenchmark)
    monkeypatch.setattr(experiment, "result_folder", lambda name: tmp_path)
    recipe = experiment.Recipe(
        parts=("parallelism",),
        samplers=("random",),
        running=(1, 3),
        searches=2,
        budget=4,
        out=tmp_path / "out",
    )
    experiment.main(recipe)
    assert "| random | 3 | 200.0 +- 0.0 | 0.0 +- 0.0 |" in (tmp_path / "README.md").read_text()
    kept = (tmp_path / "out" / "searches.jsonl").read_bytes()
    experiment.main(recipe)
    assert (tmp_path / "out" / "searches.jsonl").read_bytes() == kept  # none was made again
