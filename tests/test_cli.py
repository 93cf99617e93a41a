"""The command line: every command on a small run, every wrong input with one clear line and status 2, Ctrl-C with 130."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import DECODE, arguments, begun_run, copy_of_run, finished_run, load_results

from nas.cli import main
from nas.deploy.report import validate
from nas.evaluation import Evaluator
from nas.files import FolderLock, append_jsonl, read_jsonl
from nas.model import load_gpt
from nas.training import TrainingRecipe, train_supernet
from search_spaces import Architecture, preset, presets

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


@pytest.fixture
def begun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return begun_run(tmp_path_factory, tmp_path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail with status 2 and one line that says what was expected and got."""

    def check(*command: str) -> str:
        capsys.readouterr()
        assert main(command) == 2
        messages = [line for line in capsys.readouterr().err.splitlines() if "%|" not in line]
        text = "\n".join(messages).strip()
        assert "Traceback" not in text
        assert text.startswith("nas: expected ")
        assert len(text.splitlines()) == 1
        assert re.search(r"\b(got|found)\b", text)
        return text

    return check


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text to train on."""
    source = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("text") / "notes.txt"
    path.write_text(source[:60_000], encoding="utf-8")
    return path


# --- commands


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


# --- wrong folders


def test_a_file_in_the_place_of_the_folder_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "choose another one with --out" in refused("search", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_two_runs_on_one_folder_are_refused(refused: Refused, copy: Path) -> None:
    with FolderLock(copy):
        for command in (
            arguments(copy),
            ["profile", "--out", str(copy)],
            ["train", "--out", str(copy)],
            ["verify", "--run", str(copy)],
            ["materialize", "--run", str(copy)],
        ):
            message = refused(*command)
            assert f"process {os.getpid()}" in message
            assert "choose another folder" in message
    assert main(arguments(copy)) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"trials": 5}', '"run"', "\x00"])
def test_a_damaged_run_json_is_refused(refused: Refused, copy: Path, content: str) -> None:
    (copy / "run.json").write_text(content)
    for command in (arguments(copy), ["verify", "--run", str(copy)]):
        message = refused(*command)
        assert "run.json" in message
        assert "use another --out, or delete the folder" in message


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_damaged_results_are_refused_where_nothing_else_can_give_them(
    refused: Refused, copy: Path, content: str
) -> None:
    (copy / "results.json").write_text(content)
    for command in ("report", "verify", "materialize"):
        assert "results" in refused(command, "--run", str(copy))


def _damage_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = line + "\n"
    path.write_text("".join(lines))


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}'])
def test_a_damaged_profile_is_refused_with_its_line(
    refused: Refused, begun: Path, line: str
) -> None:
    _damage_line(begun / "profile.jsonl", 2, line)
    message = refused(*arguments(begun))
    assert "line 2 of" in message
    assert "profile.jsonl" in message
    assert "remove that line" in message


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"op_code": 99}', '{"op_code": 5}', "{}"])
def test_a_damaged_journal_is_refused(refused: Refused, copy: Path, line: str) -> None:
    (copy / "results.json").unlink()
    _damage_line(copy / "search.journal", 3, line)
    assert "search.journal" in refused(*arguments(copy))


def test_a_journal_cut_in_its_last_line_goes_on(copy: Path) -> None:
    results = load_results(copy)
    (copy / "results.json").unlink()
    journal = (copy / "search.journal").read_bytes()
    (copy / "search.journal").write_bytes(journal[:-7])  # the last trial was not told
    assert main(arguments(copy)) == 0
    assert load_results(copy)["trials"] == results["trials"]


def test_a_damaged_verification_is_refused(refused: Refused, copy: Path) -> None:
    (copy / "results.json").unlink()
    _damage_line(copy / "verify.jsonl", 4, "{}")
    assert "expected a measurement in line 4 of" in refused(*arguments(copy))


# --- damaged supernets


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a supernet that ``nas search --train-steps 2`` takes for its own."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = TrainingRecipe(
        steps=2, batch_size=8, context=256, learning_rate=1e-3, warmup_steps=0, checkpoint_steps=25
    )
    train_supernet(preset("tiny"), text, recipe=recipe, out=folder, progress=False)
    return folder


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("supernet-*.safetensors", _truncate),
        ("supernet-*.safetensors", _flip_a_bit),
        ("supernet-*.safetensors", Path.unlink),
        ("supernet.json", _truncate),
        ("supernet.json", _flip_a_bit),
    ],
)
def test_a_damaged_supernet_is_refused(
    refused: Refused,
    trained: Path,
    text: Path,
    tmp_path: Path,
    pattern: str,
    damage: Callable[[Path], None],
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    [path] = out.glob(pattern)
    damage(path)
    before = {p.name: p.read_bytes() for p in out.glob("supernet*")}
    message = refused(*arguments(out, corpus=text, train_steps=2))
    assert "supernet" in message
    assert {p.name: p.read_bytes() for p in out.glob("supernet*")} == before


def test_a_foreign_supernet_is_refused_and_kept(
    refused: Refused, trained: Path, text: Path, tmp_path: Path, run: Path
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    before = (out / "supernet.json").read_bytes()
    message = refused(*arguments(out, corpus=text, train_steps=3))
    assert "got one that differs in recipe" in message
    assert "use another output folder, or delete it" in message
    assert (out / "supernet.json").read_bytes() == before
    [winner, *_] = (run / "winners").iterdir()
    shutil.copy(winner / "model.json", out / "supernet.json")
    message = refused(*arguments(out, corpus=text, train_steps=2))
    assert "expected a supernet at" in message
    assert "got a gpt" in message


def test_a_run_without_its_supernet_is_refused(refused: Refused, copy: Path) -> None:
    results = load_results(copy)
    results["inputs"]["supernet"] = "0" * 64
    (copy / "results.json").write_text(json.dumps(results))
    for command in ("verify", "materialize"):
        assert "expected the supernet 000" in refused(command, "--run", str(copy))


# --- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small file system: not root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(disk: Path, leave: int) -> None:
    """Leave so many bytes free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - leave)))


def test_a_full_disk_is_named_and_the_run_goes_on(
    refused: Refused, small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The disk is full while tokens are made, then in a journal's line, then while models are stored; nothing finished is lost."""
    out = small_disk / "run"
    _fill(small_disk, 1_000_000)
    assert "make room" in refused(*arguments(out, sampler="random"))
    (small_disk / "filler").unlink()
    shutil.rmtree(out)
    shutil.copytree(begun_run(tmp_path_factory, small_disk), out)
    shutil.rmtree(small_disk / "begun")
    profile = (out / "profile.jsonl").read_bytes()
    _fill(small_disk, 28_000)
    message = _fails_on_disk(arguments(out, sampler="random"))
    assert "No space left" in message
    torn = (out / "search.journal").read_bytes()
    whole = torn[: torn.rfind(b"\n") + 1]
    assert whole
    (small_disk / "filler").unlink()
    _fill(small_disk, 1_000_000)
    assert "make room" in refused(*arguments(out, sampler="random"))
    assert (out / "search.journal").read_bytes().startswith(whole)
    (small_disk / "filler").unlink()
    assert main(arguments(out, sampler="random")) == 0
    assert (out / "profile.jsonl").read_bytes() == profile
    assert (out / "search.journal").read_bytes().startswith(whole)
    assert len(load_results(out)["trials"]) == 5


def _fails_on_disk(command: list[str]) -> str:
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main(command) == 2
    [line] = [text for text in errors.getvalue().splitlines() if text.startswith("nas: ")]
    return line


def test_a_failed_write_says_what_where_and_what_to_do(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on machines where nothing can be mounted: the system refuses to flush."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refused("train", "--corpus", "stdlib", "--out", str(tmp_path / "out"))
    assert "No space left on device" in message
    assert "make room" in message
    with pytest.raises(OSError, match="expected to append"):
        append_jsonl(tmp_path / "log.jsonl", {"a": 1})


# --- Ctrl-C


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    # A shell's background job ignores Ctrl-C, and so would the processes that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "nas", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before the moment came"
        time.sleep(0.02)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = (copy / "search.journal").read_bytes()

    def press(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "_score", press)
        assert main(arguments(copy, trials=6)) == 130
    assert "Interrupted: nothing finished is lost" in capsys.readouterr().err
    assert main(arguments(copy, trials=6)) == 0
    assert (copy / "search.journal").read_bytes().startswith(journal)
    assert len(load_results(copy)["trials"]) == 6


def test_ctrl_c_reaches_all_workers(begun: Path, tmp_path: Path) -> None:
    """The signal goes to the whole group, as a terminal sends it."""
    log = tmp_path / "log"
    journal = begun / "search.journal"
    process = _start(arguments(begun, trials=200, sampler="random", workers=2), log)
    _wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 80, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    shown = log.read_text()
    assert "Interrupted: nothing finished is lost" in shown
    assert "Traceback" not in shown


def test_ctrl_c_while_the_program_loads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = _start(["spaces"], log)
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        process.kill()
        process.wait()
        pytest.skip("no /proc to see how far the program has come")
    _wait_for(lambda: "libtorch_cpu" in maps.read_text(), process)  # torch is being imported
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in log.read_text()
