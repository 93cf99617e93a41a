"""nas front: the table, the bounds, the choice, the file, the next commands and the refusals, on made-up results of every shape."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_results import DECODE, sample_cases, sample_results

import nas
from nas.cli import Front, Materialize, Verify, main, parse
from nas.commands.fronts import parse_bounds
from nas.pareto import hypervolume
from nas.run_settings import SearchRun
from search_spaces import Architecture


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Store results as a run's."""

    def store(results: dict[str, Any]) -> Path:
        (tmp_path / "results.json").write_text(json.dumps(results))
        return tmp_path

    return store


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``nas front`` and return what it prints."""

    def show(*words: object) -> str:
        capsys.readouterr()
        assert main(["front", *map(str, words)]) == 0
        return capsys.readouterr().out

    return show


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def check(*words: object) -> str:
        capsys.readouterr()
        assert main(["front", *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("nas: expected ")
        assert len(captured.err.splitlines()) == 1
        assert not captured.out
        return captured.err

    return check


def measured(results: dict[str, Any]) -> dict[str, list[float]]:
    """Key to the objectives of every winner, measured where it was measured, else as the search saw it."""
    found = {}
    for winner in results["winners"]:
        values = winner["measured"] or {n: c["mean"] for n, c in winner["predicted"].items()}
        key = Architecture.from_json(winner["architecture"]).key
        found[key] = [values[o["name"]] for o in results["objectives"]]
    return found


def non_dominated(points: dict[str, list[float]]) -> set[str]:
    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return {k for k, p in points.items() if not any(dominates(q, p) for q in points.values())}


def keys_of_table(text: str) -> list[str]:
    return re.findall(r"^([0-9a-f]{8}) ", text, re.MULTILINE)


CASES = sample_cases()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("searched", [False, True])
def test_results_of_every_shape(
    name: str, searched: bool, stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    results = CASES[name]
    folder = stored(results)
    flags = ["--searched"] if searched else []
    points = measured(results)
    if searched:
        points = {
            Architecture.from_json(t["architecture"]).key: [
                t["values"][o["name"]] for o in results["objectives"]
            ]
            for t in results.get("trials") or []
        }
    if not points:
        assert main(["front", str(folder), *flags]) == 2
        return
    text = shown(folder, *flags)
    expected = non_dominated(points)
    assert sorted(keys_of_table(text)) == sorted(key[:8] for key in expected)
    front = nas.front(folder, searched=searched)
    assert {e.architecture.key for e in front.evaluations} == expected
    for e in front.evaluations:
        assert [e.value(o) for o in front.objectives] == points[e.architecture.key]


def test_measured_and_predicted_are_told_apart(
    stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    results = sample_results(3)
    for winner in results["winners"]:
        winner["searched"] = {n: c["mean"] for n, c in winner["predicted"].items()}
    folder = stored(results)
    front = nas.front(folder)
    by_status: dict[str, set[str]] = {}
    for e in front.evaluations:
        by_status.setdefault(e.provenance["winner"]["status"], set()).add(
            e.provenance["sources"][DECODE]
        )
    assert by_status["verified"] == {"measured"}
    assert by_status["unmeasured"] == {"predicted"}
    text = shown(folder)
    rows = [line for line in text.splitlines() if re.match(r"[0-9a-f]{8} ", line)]
    assert all(("≈" in row) == ("unmeasured" in row) for row in rows)
    assert f"{DECODE} measured or, with ≈, predicted" in text
    searched = nas.front(folder, searched=True)
    sources = searched.evaluations[0].provenance["sources"]
    assert sources == {"perplexity": "measured", DECODE: "predicted", "weight_bytes": "computed"}
    text = shown(folder, "--searched")
    assert f"perplexity measured; {DECODE} predicted; weight_bytes computed" in text


def test_the_picked_ones_are_the_best_choice_and_go_on(
    stored: Callable[..., Path], shown: Callable[..., str], tmp_path: Path
) -> None:
    results = sample_results(2, 12, seed=2)
    folder = stored(results)
    front = nas.front(folder)
    limit = float(np.median(front.values_nm[:, 1]))
    file = tmp_path / "new" / "front.json"
    text = shown(folder, "--pick", 3, "--max", f"decode_ms={limit}", "--knee", "--json", file)
    found = json.loads(file.read_text())
    kept = front.within({DECODE: limit})
    assert [m["key"] for m in found["front"]] == [e.architecture.key for e in kept.evaluations]
    assert found["bounds"] == {"decode_ms": limit}
    assert found["hypervolume"] == kept.hypervolume
    knee = kept.knee.architecture.key
    chosen = {e.architecture.key for e in kept.pick(3).evaluations}
    assert knee not in chosen  # so that it comes on top
    assert set(found["picked"]) == chosen | {knee}
    assert found["knee"] == knee
    rows = [e.value(o) for e in kept.evaluations for o in kept.objectives]
    assert rows == [m["values"][n["name"]] for m in found["front"] for n in found["objectives"]]
    values = [m["values"] for m in found["front"] if m["key"] in found["picked"]]
    volume = hypervolume([[v["perplexity"], v[DECODE]] for v in values], kept.ref_point or ())
    assert found["picked_hypervolume"] == pytest.approx(volume)
    assert found["is_best_choice"]
    assert f"{len(kept)} of {len(front)} on the front keep to decode_ms <= " in text
    marked = {line[:8] for line in text.splitlines() if re.match(r"[0-9a-f]{8} .*★", line)}
    assert marked == {key[:8] for key in found["picked"]}
    assert [line[:8] for line in text.splitlines() if line.endswith("knee")] == [knee[:8]]
    assert f"Written: {file}" in text
    commands = [parse(shlex.split(w)[1:]) for w in re.findall(r"nas (?:mat|ver).*", text)]
    builds = [c for c in commands if isinstance(c, Materialize)]
    assert {c.key for c in builds} == set(found["picked"])
    assert all(c.run == folder for c in builds)
    assert [c.run for c in commands if isinstance(c, Verify)] == [folder]


def test_without_a_choice_the_next_step_is_to_choose(
    stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    text = shown(stored(sample_results(3)))
    [command] = [parse(shlex.split(w)[1:]) for w in re.findall(r"nas front .*", text)]
    assert isinstance(command, Front)
    assert command.pick
    assert "★" not in text


def test_what_was_not_built_is_built_by_the_same_search(
    stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    results = sample_results(3, 1)
    folder = stored(results)
    size = len(nas.front(folder, searched=True))
    text = shown(folder, "--searched", "--pick", size)
    assert f"★ All {size} are picked." in text
    [words] = re.findall(r"with: nas (search .*)", text)
    command = parse(shlex.split(words))
    assert isinstance(command, SearchRun)
    assert command.max_winners == size


def test_more_than_there_are_is_said_aloud(
    stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    folder = stored(sample_results(3))
    size = len(nas.front(folder))
    assert f"★ All {size} are picked, fewer than the 99 asked for." in shown(folder, "--pick", 99)


def test_winners_that_another_dominates_as_measured_are_left_out_aloud(
    stored: Callable[..., Path], shown: Callable[..., str]
) -> None:
    results = sample_results(3, 4)
    best, worse = results["winners"][0]["measured"], results["winners"][1]["measured"]
    worse.update({name: value * 2 for name, value in best.items()})
    size = len(non_dominated(measured(results)))
    assert size < 4
    assert f"{4 - size} of 4 winners are left out" in shown(stored(results))


def test_a_trial_of_a_lower_fidelity_is_on_no_front(stored: Callable[..., Path]) -> None:
    results = sample_results(3)
    plain = nas.front(stored(results), searched=True)
    for trial in results["trials"]:
        trial["fidelity"] = 8192
    cheap = json.loads(json.dumps(results["trials"][0])) | {"fidelity": 1024}
    cheap["values"] = dict.fromkeys(cheap["values"], 1e-3)
    results["trials"].insert(0, cheap)
    assert nas.front(stored(results), searched=True) == plain


def test_infeasible_trials_are_on_no_front(stored: Callable[..., Path]) -> None:
    results = sample_results(3)
    values = sorted(t["values"]["weight_bytes"] for t in results["trials"])
    results["constraints"] = {"weight_bytes": values[len(values) // 2]}
    front = nas.front(stored(results), searched=True)
    assert front.values_nm[:, 2].max() <= values[len(values) // 2]
    results["constraints"] = {"weight_bytes": 1.0}  # nothing keeps to it: as the search itself does
    assert len(nas.front(stored(results), searched=True)) > 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max", "speed=3"], "got 'speed'; did you mean decode_ms?; this front has perplexity"),
        (["--max", "decode_ms"], "expected a bound such as --max"),
        (["--max", "decode_ms=fast"], "got 'decode_ms=fast'"),
        (["--max", "decode_ms=nan"], "expected a bound such as --max"),
        (["--max", "decode_ms=1", "decode_ms=2"], "expected one bound for decode_ms, got two"),
        (["--max", "decode_ms=1e-9"], "got none; the least decode_ms[batch=1,context=128] there"),
        (["--max", "energy_j=3"], "expected one of what this front has"),
        (["--pick", "0"], "expected to pick 1 or more, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused(
    words: list[str],
    expected: str,
    stored: Callable[..., Path],
    refused: Callable[..., str],
) -> None:
    assert expected in refused(stored(sample_results(3)), *words)


def test_a_folder_without_results_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"run: nas search --out {tmp_path}" in refused(tmp_path)
    with pytest.raises(ValueError, match="found no results.json; run: nas search --out"):
        nas.front(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 9}')
    assert "schema" in refused(tmp_path)


def test_results_without_winners_say_what_there_is(
    refused: Callable[..., str], stored: Callable[..., Path]
) -> None:
    assert "--searched" in refused(stored(sample_results(3, 0)))


def test_bounds_are_read_in_both_spellings() -> None:
    assert parse_bounds(["decode_ms=3", "a[batch=1,context=128]<=4e6", " b <= 1 "]) == {
        "decode_ms": 3.0,
        "a[batch=1,context=128]": 4e6,
        "b": 1.0,
    }


def test_the_folder_goes_before_the_bounds(refused: Callable[..., str]) -> None:
    assert "the run folder goes before the options" in refused("--max", "decode_ms=3", "runs/x")
