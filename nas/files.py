"""Files that survive a kill: atomic writes, an append-only JSON-lines log, and a lock on a folder.

A write makes a temporary file in the target's own folder, flushes it to the disk and renames it over
the target, so a reader (or a restart) finds the old content or the new content, never a part of one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import psutil
from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

PathLike = str | os.PathLike[str]
_STALE_AFTER_S = 60.0
# (process, thread, folder) of every run_lock that is held: what is called inside it may take it again
_held: set[tuple[int, int, Path]] = set()


class FileWriteError(OSError):
    """A file could not be written (full disk, no permission); what stood there before is whole."""

    def __str__(self) -> str:
        return str(self.strerror)  # without the number that OSError puts before it


class FolderLockedError(ValueError):
    """Another run holds the folder."""


@contextlib.contextmanager
def atomic_writer(path: PathLike, num_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an exception.

    Args:
        path: the file to write or replace; missing parent folders are made.
        num_bytes: size of what will be written, for the error message, where it is known.

    Yields:
        A binary file open for writing and seeking.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        # plain open honors the umask, which the module tempfile (always 0600) does not
        with open(temporary, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise write_error(error, "write", num_bytes, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes_atomic(path: PathLike, content: bytes) -> None:
    """Write bytes so that ``path`` holds the old content or the new, never a part.

    Args:
        path: the file to write or replace.
        content: its new content.

    Raises:
        FileWriteError: names the path and the number of bytes; the old file is untouched.
    """
    with atomic_writer(path, len(content)) as handle:
        handle.write(content)


def write_text_atomic(path: PathLike, text: str) -> None:
    """Write ``text`` as UTF-8; see :func:`write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: PathLike, value: Any) -> None:
    """Write ``value`` as indented strict JSON; see :func:`write_bytes_atomic`.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not know.
        FileWriteError: as for :func:`write_bytes_atomic`.
    """
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_jsonl(path: PathLike, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON-lines log; when the call returns it is on the disk.

    A torn last line, left by a process killed in the middle of an append, is cut off first.

    Args:
        path: the log; made when missing.
        record: a JSON object (strict: no NaN, no infinity).

    Raises:
        ValueError: the record is not strict JSON.
        FileWriteError: the record did not fit on the disk; the log is as before.
    """
    line = json.dumps(dict(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        created = not target.exists()
        with open(target, "a+b", buffering=0) as handle:
            _lock_until_closed(handle)
            end = _repair_tail(handle)
            try:
                if handle.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(end)
                raise
        if created:
            _sync_folder(target.parent)
    except OSError as error:
        raise write_error(error, "append", len(line), target) from error


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
    """Read a JSON-lines log, leaving out at most one torn last line.

    Args:
        path: the log; a missing file holds no records.

    Returns:
        The records in the order of writing.

    Raises:
        ValueError: a line other than a torn last one is not a JSON object; its number is named.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse_record(line)
        if record is None:
            if number == len(lines):  # no newline follows: torn by a kill
                continue
            raise ValueError(
                f"expected a JSON object in line {number} of {os.fspath(path)}, got {line[:60]!r}; "
                "remove that line or restore the file"
            )
        records.append(record)
    return records


def sha256_file(path: PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class FolderLock:
    """Hold a folder for one run; the operating system frees it even after ``kill -9``.

    Use as a context manager, or call :meth:`acquire` and :meth:`release`.

    Args:
        folder: the run folder; made when missing.
        name: file name of the lock inside the folder.
        timeout_s: seconds to wait for another holder; 0 refuses at once, -1 waits for ever.
    """

    def __init__(self, folder: PathLike, *, name: str = ".lock", timeout_s: float = 0.0) -> None:
        self.folder = Path(folder)
        self.timeout_s = timeout_s
        self._holder = self.folder / f"{name}.json"
        # not thread-local: the run that took the lock may free it from another thread
        self._lock = FileLock(self.folder / name, thread_local=False)

    def acquire(self) -> FolderLock:
        """Take the lock.

        Raises:
            FolderLockedError: another run holds it; names its process.
            FileWriteError: the folder cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=self.timeout_s)
        except Timeout:
            raise FolderLockedError(
                f"expected {self.folder} to be free, got a folder held by {self._describe_holder()}; "
                "wait for that run to end, stop it, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise FileWriteError(
                error.errno or 0,
                f"expected a folder that can be written at {self.folder}, got: {error.strerror}; "
                "choose another one with --out",
            ) from error
        holder = {
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": sys.argv,
        }
        try:
            write_json_atomic(self._holder, holder)
        except OSError:
            self._lock.release()
            raise
        return self

    def release(self) -> None:
        """Free the lock; freeing a free lock does nothing."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['pid']} since {holder['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"


@contextlib.contextmanager
def run_lock(folder: PathLike | None, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold a run folder for a block; blocks inside it, of the same thread, may hold it again.

    So a command and the functions it calls all take the lock, each for those who call it alone.
    Of the processes that ``torchrun`` starts the first holds the folder for all.

    Args:
        folder: the run folder, made when missing; None holds nothing.
        timeout_s: as in :class:`FolderLock`.

    Yields:
        Nothing.

    Raises:
        FolderLockedError: another run holds it; names its process.
        FileWriteError: the folder cannot be made or written.
    """
    if folder is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    # with the process: what is held is not held by a fork of it
    key = (os.getpid(), threading.get_ident(), Path(folder).resolve())
    if key in _held:
        yield
        return
    with FolderLock(folder, timeout_s=timeout_s):
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


def _parse_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        return None
    return record if isinstance(record, dict) else None


def _lock_until_closed(handle: BinaryIO) -> None:
    """Keep other appenders out of the log (where the system has no such lock: one writer at a time)."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _repair_tail(handle: BinaryIO) -> int:
    """Make the log end with a newline and return its length in bytes."""
    end = handle.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 4096)
        start -= step
        handle.seek(start)
        tail = handle.read(step) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if tail and _parse_record(tail) is not None:  # whole, only its newline is missing
        handle.write(b"\n")
        return end + 1
    if tail:
        handle.truncate(end - len(tail))
    return end - len(tail)


def _remove_stale(target: Path) -> None:
    """Remove temporary files that killed writers of ``target`` left behind."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        pid = leftover.name.split(".")[-3]
        with contextlib.suppress(OSError):
            old = time.time() - leftover.stat().st_mtime > _STALE_AFTER_S
            if old and pid.isdigit() and not psutil.pid_exists(int(pid)):
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot open or flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_error(error: OSError, verb: str, num_bytes: int | None, target: Path) -> FileWriteError:
    """The error of a file that could not be written: names it, the bytes, the room that is left and the remedy.

    Args:
        error: what the system said.
        verb: ``write`` or ``append``.
        num_bytes: that were to be written, where it is known.
        target: the file.
    """
    size = "" if num_bytes is None else f"{num_bytes} bytes to "
    remedy = "check the folder and its permissions, or choose another with --out"
    with contextlib.suppress(OSError):
        free = psutil.disk_usage(str(target.parent)).free
        remedy = f"{free} bytes are free there: make room, or choose another folder with --out"
    return FileWriteError(
        error.errno or 0,
        f"expected to {verb} {size}{target}, got: {error.strerror or error}; "
        f"what stood there before is whole. Remedy: {remedy}",
    )
