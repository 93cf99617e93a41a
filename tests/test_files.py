"""nas.files: what is on the disk after kills, full disks and second runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nas.files import (
    FileWriteError,
    FolderLock,
    FolderLockedError,
    append_jsonl,
    read_jsonl,
    run_lock,
    sha256_file,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = 4_000_000

WRITER = """
import sys
from nas.files import write_bytes_atomic
print("ready", flush=True)
while True:
    for letter in (b"A", b"B"):
        write_bytes_atomic(sys.argv[1], letter * int(sys.argv[2]))
"""

HOLDER = """
import sys, time
from nas.files import FolderLock
with FolderLock(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""

APPENDER = """
import sys
from nas.files import append_jsonl
for number in range(int(sys.argv[3])):
    append_jsonl(sys.argv[1], {"writer": sys.argv[2], "number": number, "text": "x" * 300})
"""

# The kernel refuses to let a file grow past RLIMIT_FSIZE: a full disk without filling one.
FULL_DISK = """
import resource, sys
from nas.files import FileWriteError, append_jsonl, write_bytes_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    if sys.argv[2] == "write":
        write_bytes_atomic(sys.argv[1], b"new" * 100_000)
    else:
        append_jsonl(sys.argv[1], {"text": "x" * 100_000})
except FileWriteError as error:
    print(error)
else:
    print("no error")
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.tmp"))  # pathlib counts hidden files in


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"A" * SIZE)
    moments = random.Random(0)
    for _ in range(10):
        process = start(WRITER, path, SIZE)
        wait_until_ready(process)
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.wait()
        assert path.read_bytes() in (b"A" * SIZE, b"B" * SIZE)


def test_leftovers_of_killed_writers_go_with_a_later_write(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = tmp_path / f".model[1].bin.{gone.pid}.0123abcd.tmp"
    alive = tmp_path / f".model[1].bin.{os.getpid()}.0123abcd.tmp"
    for leftover in (dead, alive):
        leftover.write_bytes(b"part")
        os.utime(leftover, (time.time() - 3600,) * 2)
    write_bytes_atomic(tmp_path / "model[1].bin", b"whole")
    assert temporary_files(tmp_path) == [alive]
    assert (tmp_path / "model[1].bin").read_bytes() == b"whole"


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    message = start(FULL_DISK, path, "write").communicate()[0]
    assert str(path) in message
    assert "300000 bytes" in message
    assert path.read_bytes() == b"old"
    assert temporary_files(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "profile.jsonl"
    append_jsonl(path, {"number": 0})
    before = path.read_bytes()
    message = start(FULL_DISK, path, "append").communicate()[0]
    assert str(path) in message
    assert "100012 bytes" in message  # {"text":"..."} and a newline: 100 000 + 12
    assert path.read_bytes() == before


def test_parent_folders_are_made_and_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a" / "b" / "c.txt", "héllo\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"h\xc3\xa9llo\n"
    with pytest.raises(FileWriteError, match=r"expected to write 2 bytes to .*/a"):
        write_bytes_atomic(tmp_path / "a", b"no")
    assert temporary_files(tmp_path) == []


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "written", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_strict(tmp_path: Path) -> None:
    value = {"name": "décode_ms", "values": [1, 2.5, None, True]}
    write_json_atomic(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "x.json", {"perplexity": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(tmp_path / "x.jsonl", {"perplexity": float("inf")})
    assert json.loads((tmp_path / "x.json").read_text()) == value
    assert not (tmp_path / "x.jsonl").exists()


def test_a_log_torn_at_any_byte_is_repaired_by_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"number": 0, "name": "ä"}, {"number": 1}, {"number": 2, "name": "größe"}]
    for record in records:
        append_jsonl(path, record)
    whole = path.read_bytes()
    start_of_last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(start_of_last, len(whole) + 1):
        path.write_bytes(whole[:length])
        # the last record is there once its closing brace is
        kept = records if length >= len(whole) - 1 else records[:2]
        assert read_jsonl(path) == kept
        append_jsonl(path, {"number": 3})
        assert read_jsonl(path) == [*kept, {"number": 3}]
        assert path.read_bytes().endswith(b'\n{"number":3}\n')


def test_a_torn_line_longer_than_the_buffer_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"number": 0})
    with path.open("ab") as log:
        log.write(b'{"text": "' + b"x" * 20_000)
    append_jsonl(path, {"number": 1})
    assert path.read_bytes() == b'{"number":0}\n{"number":1}\n'


@pytest.mark.parametrize("damaged", [b"{oops}\n", b"[1]\n", b"\xff\xfe\n"])
def test_a_damaged_line_is_named(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"number":0}\n' + damaged + b'{"number":2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl"):
        read_jsonl(path)
    path.write_bytes(b'{"number":0}\n' + damaged)  # ends with a newline: damaged, not torn
    with pytest.raises(ValueError, match="line 2"):
        read_jsonl(path)


def test_a_missing_log_has_no_records(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_two_processes_may_append_to_one_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    processes = [start(APPENDER, path, name, 60) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    records = read_jsonl(path)
    for name in "ab":
        assert [r["number"] for r in records if r["writer"] == name] == list(range(60))


def test_a_second_run_on_one_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    process = start(HOLDER, tmp_path)
    wait_until_ready(process)
    try:
        with pytest.raises(FolderLockedError, match=rf"process {process.pid} .*--out"):
            FolderLock(tmp_path).acquire()
    finally:
        process.kill()
        process.wait()
    with FolderLock(tmp_path):  # kill -9 freed it
        pass


def test_a_second_lock_in_the_same_process_is_refused_until_the_first_is_released(
    tmp_path: Path,
) -> None:
    first = FolderLock(tmp_path / "run").acquire()
    with pytest.raises(FolderLockedError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path / "run").acquire()
    first.release()
    first.release()
    FolderLock(tmp_path / "run").acquire().release()


def test_a_run_holds_its_folder_again_inside_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def other() -> None:
        with pytest.raises(FolderLockedError), run_lock(tmp_path):
            pass
        refused.append(True)

    def in_another_thread() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with run_lock(tmp_path):
        with run_lock(tmp_path / "." / ""), run_lock(tmp_path / "inner"):
            in_another_thread()
        in_another_thread()  # the inner block has not freed it
        with pytest.raises(FolderLockedError):
            FolderLock(tmp_path).acquire()
        assert len(refused) == 2
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    with FolderLock(tmp_path):  # free after each
        with pytest.raises(FolderLockedError), run_lock(tmp_path):
            pass
        with run_lock(None):
            pass
        monkeypatch.setenv("RANK", "1")  # of torchrun: the first process holds it for all
        with run_lock(tmp_path), run_lock(tmp_path / "new"):
            pass
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pid = os.fork()
        if pid == 0:
            try:
                with run_lock(tmp_path):
                    os._exit(1)
            except FolderLockedError:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_folder_that_is_a_file_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(FileWriteError, match="expected a folder"):
        FolderLock(tmp_path / "run").acquire()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected
    content = random.Random(0).randbytes(3_000_000)
    (tmp_path / "large").write_bytes(content)
    assert sha256_file(tmp_path / "large") == hashlib.sha256(content).hexdigest()
