"""An Optuna journal file that survives kill -9."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from nas.files import write_error

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


_BEGINNING = b'{"op_code":'  # of every record that Optuna writes
_CREATE_STUDY = 0


class StudyStorageError(ValueError):
    """A study's storage cannot be reached, is damaged, or belongs to something else."""


class _KernelLock:
    """Optuna's journal lock over ``filelock``: the kernel frees it when its holder is killed.

    Optuna holds it while it appends, so whoever gets it next cuts off what a killed writer (or a full disk) left of a line: a line
    appended to that would be lost, and the journal with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        _cut_torn_line(self._path)
        return True

    def release(self) -> None:
        """Let the next one in."""
        self._lock.release()


def _journal_file(path: Path) -> Any:
    """Optuna's journal file, flushed to the disk when a trial ends instead of at each of its parameters.

    A trial of 44 choices is about 50 records, and a flush takes from a fraction of a millisecond to ten. A killed process loses nothing
    either way (the kernel has the bytes); if the power fails, what may be lost was not finished.
    """
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._storage import JournalOperation

    durable = (JournalOperation.CREATE_STUDY, JournalOperation.SET_TRIAL_STATE_VALUES)
    lock = _KernelLock(path)

    class JournalFile(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
            lock.acquire()
            try:
                with path.open("ab") as file:
                    file.write(lines)
                    file.flush()
                    if any(log["op_code"] in durable for log in logs):
                        os.fsync(file.fileno())
            except (
                OSError
            ) as error:  # what was written of a line is cut off by the next holder of the lock
                raise write_error(error, "append", len(lines), path) from error
            finally:
                lock.release()

    return JournalFile(str(path), lock_obj=lock)  # type: ignore[arg-type]


def open_journal(path: Path) -> BaseStorage:
    """The storage of a journal file, mended if a writer was killed; made with its folder where there is none.

    Raises:
        StudyStorageError: if the journal is damaged in its middle, or it cannot be read and written.
    """
    from optuna.storages import JournalStorage

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            repair_journal(path)
        with path.open("ab"):  # now, and not after the first evaluation
            pass
        return JournalStorage(_journal_file(path))
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise StudyStorageError(
            f"expected a journal that can be read, written and locked at {path}, got: {error}; "
            "use a folder that this user may write, or another storage"
        ) from error


def repair_journal(path: Path) -> int:
    """Cut off the line that a killed writer left unfinished; Optuna refuses a journal in which another line follows it.

    Args:
        path: of the journal; nothing happens if it does not exist.

    Returns:
        Bytes removed.

    Raises:
        StudyStorageError: if a line before the last is no record, or the last is not the beginning of one: that is damage or a
            foreign file, not a kill.
    """
    if not path.exists():
        return 0
    *whole, tail = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        if not _is_record(line, is_first=number == 1):
            raise _not_a_journal(path, number, line)
    begun = tail.rstrip(b"\0")  # a machine that lost power may have zeros there
    if begun and not (begun.startswith(_BEGINNING) or _BEGINNING.startswith(begun)):
        raise _not_a_journal(path, len(whole) + 1, tail)  # a foreign file: not ours to cut
    return _cut_torn_line(path)


def _is_record(line: bytes, is_first: bool) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    if not isinstance(record, dict) or not {"op_code", "worker_id"} <= set(record):
        return False
    return not is_first or record["op_code"] == _CREATE_STUDY  # else its beginning is missing


def _not_a_journal(path: Path, number: int, line: bytes) -> StudyStorageError:
    return StudyStorageError(
        f"expected line {number} of {path} to be an Optuna journal record, got {line[:40]!r}; "
        "restore the file, delete it to start the study again, or use another storage"
    )


def _cut_torn_line(path: Path, step: int = 4096) -> int:
    """Truncate a file after its last newline; bytes removed."""
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and b"\n" not in tail:
            start = max(0, end - step)
            file.seek(start)
            tail, end = file.read(end - start), start
        whole = end + tail.rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)
    return size - whole
