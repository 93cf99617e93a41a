"""``experiments.fidelity``: tokens to a hypervolume, counted by hand; its table and plot from two small studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from growing_cases import growing_study

import experiments.fidelity.__main__ as module
from experiments.fidelity.__main__ import Recipe, compare, main
from experiments.fidelity.savings import Curve, Saving, mean_curve, prediction_errors
from nas.fidelity import Growing
from nas.study import StudyResult


def test_tokens_to_a_target() -> None:
    full = Curve((100, 200, 300, 400), (0.1, 0.2, 0.3, 0.3))
    growing = Curve((100, 110, 120, 210), (0.1, 0.1, 0.1, 0.31))
    assert full.tokens_to(0.3) == 300
    assert full.tokens_to(0.31) is None
    assert growing.at([0, 99, 100, 209, 210, 999]).tolist() == [0.0, 0.0, 0.1, 0.1, 0.31, 0.31]
    saving = Saving.of(7, full, growing)
    assert (saving.share, saving.strict_share) == (210 / 400, 210 / 300)
    assert saving.to_json()["growing_tokens"] == 210
    missed = Saving.of(7, Curve((100,), (0.5,)), growing)
    assert (missed.share, missed.strict_share, missed.growing_hypervolume) == (None, None, 0.31)


def test_the_mean_of_curves_is_taken_at_equal_tokens() -> None:
    first, second = Curve((10, 20, 30), (0.1, 0.2, 0.3)), Curve((10, 15), (0.3, 0.5))
    mean = mean_curve([first, second])
    assert mean.tokens == (10, 15)
    assert mean.hypervolume == pytest.approx((0.2, 0.3))


@pytest.fixture(scope="module")
def pair() -> tuple[StudyResult, StudyResult]:
    full = growing_study("nsga2", 12, growing=Growing(shares=(1.0,)))
    return full, growing_study("nsga2", 40)


def test_errors_are_those_of_promoted_architectures(
    pair: tuple[StudyResult, StudyResult],
) -> None:
    errors, covered = prediction_errors(pair[1])
    expected = []
    for evaluation in pair[1].evaluations:
        later = [e for e in pair[1].full_evaluations if e.architecture == evaluation.architecture]
        if evaluation.fidelity != 160 and later:
            claim = evaluation.provenance["claims"]["perplexity"]
            true = later[0].value("perplexity")
            expected.append((claim["mean"] / true - 1.0, claim["low"] <= true <= claim["high"]))
    assert len(expected) > 2
    assert errors.tolist() == [e for e, _ in expected]
    assert covered == [c for _, c in expected]
    assert prediction_errors(pair[0])[1] == []


def test_a_comparison_says_where_a_seed_did_not_get_there(
    pair: tuple[StudyResult, StudyResult],
) -> None:
    found = compare([0, 1], [pair, pair])
    assert found["share"]["mean"] == found["savings"][0]["share"] < 1.0
    assert found["share"]["std"] == 0.0
    assert found["of_means"]["share"] == found["share"]["mean"]  # of two equal seeds
    assert found["tokens_growing_of_full"]["mean"] == sum(pair[1].tokens) / sum(pair[0].tokens)
    assert found["curves"][0]["growing"]["hypervolume"] == pair[1].hypervolume_trace
    never = compare([0, 1], [pair, pair[::-1]])["share"]
    assert (never["reached"], never["of"], never["values"][1]) == (1, 2, None)
    json.dumps(found, allow_nan=False)


def test_the_experiment_writes_its_result_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Anything:
        space = fingerprint = None
        info: ClassVar[dict[str, Any]] = {"sha256": "0" * 64}

        class runtime:
            @staticmethod
            def to_json() -> dict[str, Any]:
                return {}

    def search(space: object, **settings: Any) -> StudyResult:
        growing = settings["fidelity"]
        options = Growing(shares=(1.0,)) if growing == "full" else Growing(growing.shares, 3, early=1.0)  # fmt: skip
        return growing_study("random", settings["n_trials"], growing=options, seed=settings["seed"])

    monkeypatch.setattr(module, "search", search)
    monkeypatch.setattr(module, "train_supernet", lambda *_, **__: Anything())
    monkeypatch.setattr(module, "profile", lambda *_, **__: Anything())
    monkeypatch.setattr(module, "result_folder", lambda name: tmp_path)
    main(Recipe("random", seeds=2, first_seed=0, trials=8, growing_trials=30, shares=(0.125, 1.0)))
    result = json.loads((tmp_path / "random-8192.json").read_text())
    assert result["command"].startswith("python -m experiments.fidelity --sampler random --seeds 2")
    assert [s["seed"] for s in result["values"]["savings"]] == [0, 1]
    assert (tmp_path / "random-8192.png").stat().st_size > 5000
    said = capsys.readouterr().out
    assert "seed 1: share of the tokens" in said
    assert "nas search --fidelity growing" in said
    assert np.isfinite(result["values"]["hypervolume_full"]["mean"])
