"""Commands that follow one another on a supernet: searching and profiling with one trained before, or as the other would train it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.cli import main
from nas.commands import profiling, run_folder, searching
from nas.pipeline import run
from nas.run_settings import SearchRun, check_same_run, read_run, write_run
from nas.training import run_recipe, train_supernet
from search_spaces import SearchSpace
from tests.trained_cases import RECIPE, SPACE, contents, text_a, trained_on


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return text_a(tmp_path)


@pytest.fixture
def folder(a: Path, tmp_path: Path) -> Path:
    """A finished training on the text ``a``."""
    return trained_on(a, tmp_path / "out")


# --- a supernet that was trained before


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    """The preset ``tiny`` is the small space."""
    for module in ("nas.commands.profiling", "nas.pipeline", "nas.run_settings"):
        monkeypatch.setattr(f"{module}.preset", lambda name: SPACE)
    return SPACE


def test_a_search_goes_on_with_a_trained_supernet_and_resumes_with_no_other(
    folder: Path, a: Path, tmp_path: Path, small_preset: SearchSpace
) -> None:
    config = SearchRun(
        corpus=str(a),
        supernet=folder / "supernet.json",
        out=tmp_path / "run",
        trials=2,
        sampler="random",
        objectives=("perplexity", "weight_bytes"),
        profile_architectures=16,
        perplexity_tokens=100,
        random_seeds=0,
        max_winners=1,
        compile=False,
        threads=1,
    )
    before = contents(folder)
    results = run(config)
    sha256 = json.loads((folder / "supernet.json").read_text())["sha256"]
    assert results["inputs"]["supernet"] == sha256
    assert read_run(config.out)["supernet"] == sha256
    assert not (config.out / "supernet.json").exists()
    assert run_folder.supernet_of(config.out, results).path == (folder / "supernet.json").resolve()
    assert run(config) == results
    with pytest.raises(ValueError, match=r"expected the run that .*'supernet': .*None"):
        check_same_run(replace(config, supernet=None))
    moved = folder.rename(tmp_path / "moved")  # the same supernet in another place
    assert run(replace(config, supernet=moved / "supernet.json")) == results
    other = tmp_path / "other"
    recipe = replace(RECIPE, seed=3)
    train_supernet(SPACE, a, recipe=recipe, out=other, progress=False)
    with pytest.raises(ValueError, match="expected the run that .*'supernet'"):
        run(replace(config, supernet=other / "supernet.json"))
    assert contents(moved) == before


def test_a_run_without_a_given_supernet_is_stored_as_before_there_was_a_choice(
    tmp_path: Path,
) -> None:
    write_run(SearchRun(out=tmp_path))
    assert "supernet" not in read_run(tmp_path)
    assert "supernet_path" not in read_run(tmp_path)
    check_same_run(SearchRun(out=tmp_path))


def test_a_supernet_and_from_scratch_exclude_each_other(
    folder: Path, tmp_path: Path, small_preset: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--supernet", str(folder / "supernet.json"), "--from-scratch"]
    objectives = ["--objectives", "perplexity", "weight_bytes"]
    workload = ["--workloads", "decode_ms[context=8]"]
    for command in (["search", *objectives], ["profile", *workload]):
        assert main([*command, *flags, "--out", str(tmp_path / "new")]) == 2
        assert "expected --supernet or --from-scratch, got both" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# --- commands that follow one another


def test_profile_trains_what_search_trains(
    a: Path, tmp_path: Path, small_preset: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder the search takes over the supernet of the profile; the recipe is the same for both."""
    asked = []

    def note(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["recipe"])
        raise ValueError("expected this far, got there")

    monkeypatch.setattr("nas.training.supernet_options.train_supernet", note)
    flags = ["--corpus", str(a), "--seed", "3", "--train-steps", "7", "--out", str(tmp_path / "x")]
    assert main(["search", "--objectives", "perplexity", "weight_bytes", *flags]) == 2
    assert main(["profile", "--workloads", "decode_ms[context=8]", *flags]) == 2
    assert asked[0] == asked[1]
    assert asked[0] == run_recipe(SPACE, a, steps=7, seed=3)
    assert (asked[0].steps, asked[0].seed) == (7, 3)


def test_the_search_that_a_profile_proposes_uses_its_folder() -> None:
    from nas.cli import Profile

    plain = searching.search_command(profiling.search_options(Profile(out=Path("runs/p"))))
    assert plain == "nas search --out runs/p"
    command = Profile(
        corpus="a b.txt",
        supernet=Path("t/supernet.json"),
        architectures=32,
        workloads=("decode_ms[batch=8, context=64]",),
        out=Path("runs/p"),
    )
    assert searching.search_command(profiling.search_options(command)) == (
        "nas search --corpus 'a b.txt' --supernet t/supernet.json --profile-architectures 32 "
        "--objectives perplexity 'decode_ms[batch=8,context=64]' weight_bytes --out runs/p"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rounds", "0"], "expected rounds of 1 or more"),
        (["--architectures", "5"], "expected architectures of 16 or more"),
        (["--workloads", "decode_ms[context=300]"], "use a shorter context"),
        (["--train-steps", "0"], "expected train_steps of 1 or more"),
        (["--supernet", "none.json"], "found no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_profile_refuses_before_it_trains(
    a: Path, tmp_path: Path, flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    assert main(["profile", "--corpus", str(a), *flags, "--out", str(out)]) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_a_misspelt_run_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "materialize", "report"):
        assert main([command, "--run", str(tmp_path / "typo")]) == 2
        assert "found no results.json" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
