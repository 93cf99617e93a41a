"""Constraints from their spelling to the study, layer by layer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_supernet
from small_study import SPACE, Formula, scores

import nas.pipeline as pipeline_module
import nas.search_study as search_module
from nas.cli import main, parse
from nas.constraints import check_constraints, feasible_mask, parse_constraints
from nas.deploy.profile import DeviceProfile
from nas.deploy.runtime import Runtime
from nas.objectives import Evaluation, Objective
from nas.run_settings import SearchRun
from nas.study import StudyResult
from search_spaces import SearchSpace

DECODE = "decode_ms[batch=1,context=128]"


@given(bound=st.floats(allow_nan=False, allow_infinity=False))
def test_a_bound_is_read_as_python_reads_it(bound: float) -> None:
    assert parse_constraints([f"weight_bytes<={bound!r}"]) == {"weight_bytes": bound}


def test_spaces_do_not_matter_and_names_get_their_one_spelling() -> None:
    read = parse_constraints([" weight_bytes <= 4e6 ", "decode_ms[context=128]<=1.5", "params<=7"])
    assert read == {"weight_bytes": 4e6, DECODE: 1.5, "params": 7.0}
    assert parse_constraints([]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight_bytes", "expected a constraint such as"),
        ("weight_bytes<4e6", "expected a constraint such as"),
        ("weight_bytes>=4e6", "expected a constraint such as"),
        ("weight_bytes<=", "expected a constraint such as"),
        ("weight_bytes<=4MB", "expected a constraint such as"),
        ("weight_bytes<=nan", "expected a constraint such as"),
        ("weight_bytes<=1<=2", "expected a constraint such as"),
        ("weight_bytes<=inf", "expected a finite bound for weight_bytes"),
        ("weight_byte<=1", "did you mean weight_bytes"),
        ("<=1", "expected an objective"),
        ("perplexity[batch=1]<=1", "without brackets"),
    ],
)
def test_what_is_no_constraint_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_constraints([text])


def test_two_bounds_of_one_objective_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one bound"):
        parse_constraints(["decode_ms<=1", f"{DECODE}<=2"])
    with pytest.raises(ValueError, match="expected one bound"):
        check_constraints({"decode_ms": 1, DECODE: 2})


def test_a_value_on_its_bound_is_feasible() -> None:
    values = [{"params": 3, "weight_bytes": w} for w in (9.5, 10, 10.5)]
    evaluations = [Evaluation(SPACE.largest, v) for v in values]
    assert feasible_mask(evaluations, {"weight_bytes": 10.0, "params": 3}).tolist() == [1, 1, 0]
    assert feasible_mask(evaluations, {"params": 2}).tolist() == [0, 0, 0]
    assert feasible_mask(evaluations, {}).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="expected an evaluation of flops"):
        feasible_mask(evaluations, {"flops": 1e9})


# --- nas.search


class _Evaluator(Formula):
    """Stands for the evaluator of a supernet."""

    fidelity = 8192

    def known(self, space: SearchSpace) -> dict[int, Any]:
        return {}


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``nas.search`` with a formula in place of supernet and profile."""
    names = ("perplexity", "weight_bytes")
    monkeypatch.setattr(search_module, "Evaluator", lambda *_: _Evaluator(names=names))
    ideal, dense = dict.fromkeys(names, 0.0), scores(SPACE.largest)
    ref_point = {n: 2.0 * dense[n] for n in names}
    monkeypatch.setattr(search_module, "reference_point", lambda _: (ref_point, ideal))
    supernet = made_up_supernet(SPACE)

    def call(**settings: Any) -> StudyResult:
        return search_module.search(
            SPACE,
            names,
            supernet=supernet,
            device=DeviceProfile(Runtime(), {}, {}, []),
            sampler="random",
            n_trials=10,
            progress=False,
            **settings,
        )

    return call


def test_search_keeps_to_its_constraints(search: Any) -> None:
    values = sorted(e.values["weight_bytes"] for e in search().evaluations)
    bound = float(values[4])
    found = search(constraints={"weight_bytes": bound})
    assert found.num_feasible == 5
    assert all(e.values["weight_bytes"] <= bound for e in found.front.evaluations)
    assert found.constraints == {"weight_bytes": bound}


def test_a_stored_search_has_its_constraints(search: Any, tmp_path: Path) -> None:
    storage = tmp_path / "study.journal"
    search(storage=storage, constraints={"weight_bytes": 5e4})
    for other in (None, {"weight_bytes": 6e4}):
        with pytest.raises(ValueError, match="differs in constraints"):
            search(storage=storage, constraints=other)


def test_search_refuses_a_constraint_on_what_it_does_not_score(search: Any) -> None:
    with pytest.raises(ValueError, match=r"got \['params'\]; add them to the objectives"):
        search(constraints={"params": 1e6})


# --- nas search


def test_the_command_line_hands_constraints_to_every_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = parse(
        ["search", "--constraints", "weight_bytes<=4e6", "decode_ms<=2", "--out", str(tmp_path)]
    )
    assert isinstance(config, SearchRun)
    assert config.constraints == ("weight_bytes<=4e6", "decode_ms<=2")
    config.check()
    asked: list[Any] = []
    monkeypatch.setattr(pipeline_module, "search", lambda *_, **s: asked.append(s["constraints"]))
    supernet: Any = SimpleNamespace(space=SPACE)
    for name in (
        "search",
        "random-0",
    ):  # the comparison is with random search under the same bounds
        pipeline_module._search(config, supernet, SimpleNamespace(), "random", 0, name)  # type: ignore[arg-type]
    assert asked == [{"weight_bytes": 4e6, DECODE: 2.0}] * 2


def test_a_folder_belongs_to_its_constraints_in_any_spelling(tmp_path: Path) -> None:
    stored = SearchRun(out=tmp_path, constraints=("decode_ms<=2",)).to_json()
    assert stored == SearchRun(constraints=(f"{DECODE} <= 2.0",)).to_json()
    assert stored != SearchRun(constraints=("decode_ms<=3",)).to_json()
    assert stored != SearchRun().to_json()


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("weight_bytes<=4MB", "expected a constraint such as"),
        ("params<=1e6", "add them to --objectives"),
    ],
)
def test_the_command_line_refuses_wrong_constraints(
    constraint: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["search", "--out", str(out), "--constraints", constraint]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_objectives_and_constraints_are_parsed_alike() -> None:
    assert str(Objective.parse("decode_ms")) in parse_constraints(["decode_ms<=1"])
