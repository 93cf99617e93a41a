"""A full disk ends with one clear line, Ctrl-C with status 130: nothing finished is lost, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_run import arguments, begun_run, copy_of_run, load_results

from nas.cli import main
from nas.evaluation import Evaluator
from nas.files import append_jsonl
from tests.cli_cases import Refused, refusal_of


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal_of(capsys)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


@pytest.fixture
def begun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return begun_run(tmp_path_factory, tmp_path)


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
