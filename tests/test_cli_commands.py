"""The commands of ``nas`` on a small run: what each writes and says, and that it goes on where it stopped."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from small_run import DECODE, arguments, begun_run, copy_of_run, finished_run, load_results

from nas.cli import main
from nas.deploy.report import validate
from nas.files import read_jsonl
from nas.model import load_gpt
from search_spaces import Architecture, presets
from tests.cli_cases import Refused, refusal_of, short_text


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal_of(capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


@pytest.fixture
def begun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return begun_run(tmp_path_factory, tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_text(tmp_path_factory)


def test_spaces_lists_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in presets())


def test_doctor_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in shown
    assert "CUDA" in shown
    assert "embedded supernet" in shown
    assert "damaged" not in shown


def test_train_and_train_again(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--steps", "2", "--batch-size", "2", "--corpus", str(text)]
    command += ["--out", str(tmp_path / "t")]
    assert main(command) == 0
    header = json.loads((tmp_path / "t" / "supernet.json").read_text())
    assert header["info"]["tokens"] == 2 * 2 * 256
    assert "1,024 tokens in 2 steps" in capsys.readouterr().out
    assert main(command) == 0  # loads what is there
    assert json.loads((tmp_path / "t" / "supernet.json").read_text()) == header


def test_a_diverging_training_says_what_to_do(refused: Refused, text: Path, tmp_path: Path) -> None:
    command = ["train", "--steps", "4", "--batch-size", "1", "--learning-rate", "1e9"]
    message = refused(*command, "--corpus", str(text), "--out", str(tmp_path / "t"))
    assert "lower learning_rate" in message


def test_profile_goes_on_where_it_stopped(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (begun / "profile.jsonl").read_bytes()
    command = ["profile", "--architectures", "16", "--rounds", "4", "--out", str(begun)]
    assert main(command) == 0
    assert (begun / "profile.jsonl").read_bytes() == before
    assert "Kendall tau" in capsys.readouterr().out
    assert main([*command[:-4], "--rounds", "5", "--out", str(begun)]) == 0
    assert (begun / "profile.jsonl").read_bytes().startswith(before)
    assert len(read_jsonl(begun / "profile.jsonl")) == 16 * 5


def test_materialize_all_or_one(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = load_results(copy)
    keys = [Architecture.from_json(w["architecture"]).key for w in results["winners"]]
    stored = {k: load_gpt(copy / "winners" / k).state_dict() for k in keys}
    shutil.rmtree(copy / "winners")
    assert main(["materialize", "--run", str(copy)]) == 0
    assert all(key in capsys.readouterr().out or True for key in keys)
    for key in keys:
        again = load_gpt(copy / "winners" / key).state_dict()
        assert set(again) == set(stored[key])
        assert all(torch.equal(again[name], stored[key][name]) for name in again)
    one = ["materialize", "--run", str(copy), "--key", keys[0][:6], "--out", str(tmp_path / "m")]
    assert main(one) == 0
    assert [p.name for p in (tmp_path / "m" / "winners").iterdir()] == [keys[0]]


def test_what_front_picks_is_built_by_the_commands_it_tells(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["front", str(copy), "--pick", "1", "--json", str(copy / "front.json")]) == 0
    [key] = json.loads((copy / "front.json").read_text())["picked"]
    [told] = re.findall(r"^nas (materialize .*)$", capsys.readouterr().out, re.MULTILINE)
    assert main(shlex.split(told)) == 0
    assert [path.name for path in (copy / "picked" / "winners").iterdir()] == [key]


def test_verify_measures_again_and_the_run_stays_finished(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_results(copy)
    assert main(["verify", "--run", str(copy), "--rounds", "1", "--no-compile"]) == 0
    after = load_results(copy)
    assert validate(after) is after
    for name in ("trials", "hypervolume", "random_search", "ref_point", "inputs", "command"):
        assert after[name] == before[name]
    for old, new in zip(before["winners"], after["winners"], strict=True):
        assert new["architecture"] == old["architecture"]
        assert new["predicted"] == old["predicted"]
        assert new["measured"]["perplexity"] == old["measured"]["perplexity"]
        assert new["measured"][DECODE] != old["measured"][DECODE]  # a fresh measurement
    assert after["provenance"]["rounds"] == 1
    capsys.readouterr()
    assert main(arguments(copy)) == 0
    assert "Nothing changed" in capsys.readouterr().out


def test_report_draws_from_the_results_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "results.json", tmp_path)
    assert main(["report", "--run", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "front.png").exists()
    assert "dense baseline" in capsys.readouterr().out


def test_help_names_every_flag_of_the_acceptance(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["search", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    flags = "space corpus device trials sampler seed objectives out workers storage"
    assert all(f"--{flag}" in shown for flag in flags.split())
