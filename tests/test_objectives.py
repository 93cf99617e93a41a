"""Objectives are spelled in one way, and an Evaluation holds measurements only."""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas.deploy.energy as energy_module
from nas.deploy.energy import check_energy
from nas.deploy.energy_counters import find_counter
from nas.objectives import Evaluation, Objective, metrics
from nas.run_settings import SearchRun
from search_spaces import Architecture, LayerConfig, Workload
from surrogates import Prediction

ARCHITECTURE = Architecture(128, (LayerConfig(2, 1.0), LayerConfig(4, 2.0)))
PREDICTION = Prediction(*(np.ones(1) for _ in range(4)))


@pytest.mark.parametrize(
    ("text", "canonical", "unit", "phase"),
    [
        ("perplexity", "perplexity", "", None),
        (" weight_bytes ", "weight_bytes", "bytes", None),
        ("decode_ms", "decode_ms[batch=1,context=128]", "ms", "decode"),
        ("decode_ms[]", "decode_ms[batch=1,context=128]", "ms", "decode"),
        ("decode_ms[batch=8]", "decode_ms[batch=8,context=128]", "ms", "decode"),
        ("prefill_ms[context=512, batch=8]", "prefill_ms[batch=8,context=512]", "ms", "prefill"),
        ("peak_memory_bytes", "peak_memory_bytes[batch=1,context=128]", "bytes", "decode"),
        ("energy_j[context=64]", "energy_j[batch=1,context=64]", "J", "decode"),
    ],
)
def test_parse(text: str, canonical: str, unit: str, phase: str | None) -> None:
    objective = Objective.parse(text)
    assert str(objective) == canonical
    assert objective.unit == unit
    assert objective.direction == "minimize"
    assert (objective.workload.phase if objective.workload else None) == phase
    assert Objective.parse(canonical) == objective
    assert len({Objective.parse(canonical), objective}) == 1


@given(st.sampled_from(metrics()), st.integers(1, 10**6), st.integers(1, 10**6))
def test_spelling_and_json_round_trip(metric: str, batch: int, context: int) -> None:
    phase = Objective.parse(metric).workload
    workload = Workload(phase.phase, batch, context) if phase else None
    objective = Objective(metric, workload)
    assert Objective.parse(str(objective)) == objective
    stored = json.loads(json.dumps(objective.to_json()))
    assert stored == {"name": str(objective), "unit": objective.unit, "direction": "minimize"}
    assert Objective.from_json(stored) == objective


@pytest.mark.parametrize("wrong", ["energy", "power", "energy_joule", "nrg_j"])
def test_what_energy_is_called_leads_to_its_name(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected a metric in perplexity.*did you mean energy_j"):
        Objective.parse(wrong)


def test_energy_is_refused_before_anything_is_trained_where_nothing_counts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = functools.partial(find_counter, powercap=tmp_path / "absent")
    monkeypatch.setattr(energy_module, "find_counter", absent)
    with pytest.raises(ValueError, match=r"got energy_j: .*absent.*; use decode_ms"):
        SearchRun(objectives=("perplexity", "energy_j")).check()
    check_energy(Objective.parse("decode_ms"), "cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("perplexty", "did you mean perplexity"),
        ("decode_s", "did you mean decode_ms"),
        ("weight_byte", "did you mean weight_bytes"),
        ("latency", r"did you mean decode_ms\?$"),
        ("Latency_ms[batch=1]", r"did you mean decode_ms\?$"),
        ("latncy", "did you mean decode_ms"),
        ("ppl", r"did you mean perplexity\?$"),
        ("memory", r"did you mean peak_memory_bytes\?$"),
        ("", "expected an objective such as"),
        ("decode_ms[batch=1", "expected an objective such as"),
        ("perplexity[batch=1]", "without brackets"),
        ("decode_ms[bach=1]", "did you mean batch"),
        ("decode_ms[batch]", r"expected decode_ms\[batch=B,context=C\]"),
        ("decode_ms[batch=1,batch=2]", r"expected decode_ms\[batch=B,context=C\]"),
        ("decode_ms[batch=0]", "positive integer"),
        ("decode_ms[batch=-3]", "positive integer"),
        ("decode_ms[batch=1.5]", "whole numbers"),
        ("decode_ms[context=many]", "whole numbers"),
    ],
)
def test_misspellings_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective.parse(text)


def test_objective_and_workload_must_fit() -> None:
    with pytest.raises(ValueError, match="decode workload"):
        Objective("decode_ms")
    with pytest.raises(ValueError, match="prefill workload"):
        Objective("prefill_ms", Workload("decode"))
    with pytest.raises(ValueError, match="no workload"):
        Objective("params", Workload("decode"))
    with pytest.raises(ValueError, match="expected an objective such as"):
        Objective.parse(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "decode_ms", "unit": "s", "direction": "minimize"},
        {"name": "decode_ms", "unit": "ms", "direction": "maximize"},
        {"name": "decode_ms", "unit": "ms"},
        "decode_ms",
    ],
)
def test_contradicting_json_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Objective.from_json(fields)


def evaluation(**values: Any) -> Evaluation:
    return Evaluation(
        ARCHITECTURE, {"perplexity": 12.5, **values}, 4096, 3, {"device": "cpu", "threads": [2]}
    )


def test_evaluation_keeps_exact_values_under_one_spelling() -> None:
    big = 2**53 + 1  # not a float64
    found = evaluation(decode_ms=np.float32(1.5), weight_bytes=np.int64(big))
    assert dict(found.values) == {
        "perplexity": 12.5,
        "decode_ms[batch=1,context=128]": 1.5,
        "weight_bytes": big,
    }
    assert found.value("decode_ms") == found.value("decode_ms[context=128,batch=1]") == 1.5
    assert found.value(Objective.parse("weight_bytes")) == big
    assert type(found.value("decode_ms")) is float


def test_evaluation_json_round_trip() -> None:
    found = evaluation(decode_ms=0.1 + 0.2)
    again = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert hash(again) == hash(found)
    assert copy.deepcopy(found) == found


def test_evaluation_is_frozen() -> None:
    provenance = {"device": "cpu"}
    values = {"perplexity": 2.0}
    found = Evaluation(ARCHITECTURE, values, provenance=provenance)
    values["perplexity"] = 1.0
    provenance["device"] = "gpu"
    assert found.value("perplexity") == 2.0
    assert found.provenance["device"] == "cpu"
    with pytest.raises(TypeError):
        found.values["perplexity"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.seed = 1  # type: ignore[misc]


def test_a_prediction_is_not_an_evaluation() -> None:
    with pytest.raises(TypeError, match="Prediction"):
        evaluation(decode_ms=PREDICTION)
    with pytest.raises(TypeError, match="Prediction"):
        Evaluation(ARCHITECTURE, PREDICTION)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["1.0", None, True, np.ones(2), [1.0], 1j])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a number for decode_ms"):
        evaluation(decode_ms=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), -1e-9])
def test_impossible_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        evaluation(decode_ms=value)


def test_other_bad_evaluations() -> None:
    with pytest.raises(ValueError, match="did you mean perplexity"):
        Evaluation(ARCHITECTURE, {"perplxity": 1.0})
    with pytest.raises(ValueError, match="twice"):
        Evaluation(ARCHITECTURE, {"decode_ms": 1.0, "decode_ms[batch=1]": 1.0})
    with pytest.raises(ValueError, match="none"):
        Evaluation(ARCHITECTURE, {})
    with pytest.raises(TypeError, match="Architecture"):
        Evaluation("d128", {"perplexity": 1.0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed"):
        Evaluation(ARCHITECTURE, {"perplexity": 1.0}, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="JSON"):
        Evaluation(ARCHITECTURE, {"perplexity": 1.0}, provenance={"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        Evaluation(ARCHITECTURE, {"perplexity": 1.0}, provenance={"x": math.nan})
    with pytest.raises(ValueError, match="only perplexity"):
        Evaluation(ARCHITECTURE, {"perplexity": 1.0}).value("params")
    stored = Evaluation(ARCHITECTURE, {"perplexity": 1.0}).to_json()
    with pytest.raises(ValueError, match="expected an evaluation with"):
        Evaluation.from_json({k: v for k, v in stored.items() if k != "seed"})
