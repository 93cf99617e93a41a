"""Wrong flags and wrong texts: one clear line and status 2, and no folder is made or claimed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import finished_run, load_results

from nas.cli import main
from search_spaces import Architecture
from tests.cli_cases import Refused, refusal_of


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal_of(capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


# --- wrong flags


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--space", "tinny"], "got 'tinny'; did you mean tiny?"),
        (["--sampler", "nsga4"], "got 'nsga4'; did you mean nsga"),
        (["--objectives", "perplexity", "decode_mss"], "got 'decode_mss'; did you mean decode_ms"),
        (["--objectives", "perplexity", "decode_ms[batches=1]"], "did you mean batch?"),
        (["--objectives", "perplexity", "decode_ms[batch=0]"], "expected batch to be a positive"),
        (["--objectives", "perplexity", "decode_ms[batch=x]"], "expected whole numbers"),
        (["--objectives", "perplexity", "decode_ms[context=256]"], "use a shorter context"),
        (["--objectives", "perplexity", "decode_ms[batch=1000000000]"], "bytes of free memory"),
        (["--objectives", "perplexity", "params[batch=1]"], "expected params without brackets"),
        (["--objectives", "perplexity"], "expected two to four different objectives"),
        (["--objectives", "perplexity", "perplexity"], "two to four different objectives"),
        (["--device", "tpu"], "expected device 'cpu' or 'cuda', got 'tpu'"),
        (["--trials", "0"], "expected trials of 1 or more, got 0"),
        (["--workers", "0"], "expected workers of 1 or more"),
        (["--threads", "0"], "expected threads of 1 or more"),
        (["--seed", "-1"], "expected seed of 0 or more"),
        (["--train-steps", "0"], "expected train_steps of 1 or more"),
        (["--profile-architectures", "15"], "expected profile_architectures of 16 or more"),
        (["--perplexity-tokens", "0"], "expected perplexity_tokens of 1 or more"),
        (["--random-seeds", "-1"], "expected random_seeds of 0 or more"),
        (["--max-winners", "0"], "expected max_winners of 1 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_refused_before_a_folder_is_made(
    refused: Refused, tmp_path: Path, flags: list[str], expected: str
) -> None:
    assert expected in refused("search", *flags, "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--trials", "many"],
        ["search", "--no-such-flag"],
        ["serach"],
        [],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "--space", "huge"], "expected a preset in"),
        (["train", "--recipe", "mine"], "expected recipe 'default' or 'embedded'"),
        (["train", "--steps", "0"], "expected steps of 1 or more"),
        (["train", "--learning-rate", "0"], "expected learning_rate above 0"),
        (["train", "--device", "tpu"], "expected device"),
        (["profile", "--space", "huge"], "expected a preset in"),
        (["profile", "--device", "tpu"], "expected device"),
        (["profile", "--workloads", "perplexity"], "expected workloads such as"),
        (["profile", "--workloads", "speed"], "expected a metric in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_commands_refuse_wrong_values(
    refused: Refused, tmp_path: Path, command: list[str], expected: str
) -> None:
    assert expected in refused(*command, "--out", str(tmp_path / "new"))


@pytest.mark.parametrize("command", ["materialize", "verify", "report"])
def test_commands_on_a_run_need_one(refused: Refused, tmp_path: Path, command: str) -> None:
    message = refused(command, "--run", str(tmp_path))
    assert "found no results.json; run: nas search --out" in message


def test_an_unknown_winner_is_refused_with_the_known_ones(refused: Refused, run: Path) -> None:
    message = refused("materialize", "--run", str(run), "--key", "zzz")
    for winner in load_results(run)["winners"]:
        assert Architecture.from_json(winner["architecture"]).key in message


# --- wrong texts


def _folder_without_text(path: Path) -> None:
    path.mkdir()
    (path / "table.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("missing.txt", lambda path: None, "nothing is at"),
        ("empty.txt", lambda path: path.write_bytes(b""), "got nothing; the corpus is empty"),
        (
            "binary.txt",
            lambda path: path.write_bytes(os.urandom(64) + b"\0" * 99),
            "got binary data",
        ),
        (
            "latin.txt",
            lambda path: path.write_bytes(b"caf\xe9 " * 9999),
            "convert the file to UTF-8",
        ),
        (
            "short.txt",
            lambda path: path.write_text("Too short. " * 20),
            "expected at least 2000 tokens",
        ),
        ("folder", _folder_without_text, "expected a folder with text"),
        ("bad.parquet", lambda path: path.write_bytes(b"PAR1" * 9), "expected a parquet file"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_wrong_texts_are_refused_and_do_not_claim_the_folder(
    refused: Refused,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Any],
    expected: str,
) -> None:
    make(tmp_path / name)
    out = tmp_path / "out"
    assert expected in refused("search", "--corpus", str(tmp_path / name), "--out", str(out))
    assert not (out / "run.json").exists()  # the corrected command may use the folder
    assert "nothing is at" in refused("search", "--corpus", "other.txt", "--out", str(out))
