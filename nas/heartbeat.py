"""Who works on a trial, and whether they still do.

A trial that runs carries the process that works on it and a counter which that process raises every few seconds. Whoever waits watches the
counter by a clock of its own: no two clocks are ever compared, so machines may disagree about the time. A process of the watcher's own
machine is known to be dead at once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

OWNER, BEAT = "nas:worker", "nas:heartbeat"  # user attributes of a trial
HEARTBEAT_S = 15.0
MISSED = 4  # heartbeats in a row, and a process counts as dead
_working: set[str] = set()  # tokens of this process


@dataclass(frozen=True)
class Owner:
    """A process, or one of several loops in it, that works on trials.

    Args:
        token: unlike that of any other.
        machine: equal where process numbers mean the same processes.
        pid: its number there.
        started: when it was started, in the machine's own count; the number may be another's later.
        heartbeat_s: seconds between two of its heartbeats.
    """

    token: str
    machine: str
    pid: int
    started: str
    heartbeat_s: float

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: object) -> Owner | None:
        """What :meth:`to_json` gave; None for anything else."""
        try:
            return cls(**stored)  # type: ignore[arg-type]
        except TypeError:
            return None

    def is_known_dead(self) -> bool:
        """Whether it surely works no more; of another machine nothing is sure."""
        if self.machine != machine():
            return False
        if self.pid == os.getpid():
            return self.token not in _working
        return _started(self.pid) != self.started


@contextlib.contextmanager
def working(heartbeat_s: float = HEARTBEAT_S) -> Iterator[Owner]:
    """Be somebody who works on trials, until the block ends."""
    pid = os.getpid()
    owner = Owner(secrets.token_hex(8), machine(), pid, _started(pid) or "", heartbeat_s)
    _working.add(owner.token)
    try:
        yield owner
    finally:
        _working.discard(owner.token)


@cache
def machine() -> str:
    """Equal for processes that see each other under the same numbers: same boot, same container, same user."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [platform.node(), str(os.getuid()) if hasattr(os, "getuid") else ""]
    try:
        parts += [boot.read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # no Linux
        parts.append(str(int(psutil.boot_time())))
    return ":".join(parts)


def _started(pid: int) -> str | None:
    """When a process began; None if there is none of this number, or only its remains."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        after_name = stat[stat.rindex(b")") + 2 :].split()  # a name may hold spaces and brackets
        return None if after_name[0] in (b"Z", b"X") else after_name[19].decode()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None


class Heartbeat:
    """Raises the counter of a trial every few seconds, from a thread, until the block ends.

    An evaluation shorter than one interval writes nothing. That a heartbeat cannot be written is no reason to stop evaluating: whether
    the trial is still ours is asked when it ends.

    Args:
        storage: of the trial.
        trial_id: of the storage.
        owner: how often.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, owner: Owner) -> None:
        self._storage = getattr(storage, "inner", storage)  # not retried: the next one is as good
        self._trial_id, self._interval_s = trial_id, owner.heartbeat_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        if kind is None:  # the next write is not to overtake this one
            self._thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(self._interval_s):
            count += 1
            with contextlib.suppress(Exception):
                self._storage.set_trial_user_attr(self._trial_id, BEAT, count)
        if count:
            with contextlib.suppress(Exception):  # of this thread
                self._storage.remove_session()


@dataclass
class Watch:
    """Which running trials are abandoned, as far as one process can tell that looks again and again.

    Args:
        clock: seconds that never run backwards.
    """

    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def abandoned(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those whose owner is dead, or whose counter has not moved for ``MISSED`` heartbeats while this process looked.

        A trial without owner counts as abandoned: it gets one while the claim is held, and whoever looks holds the claim.

        Args:
            running: all trials that run now.
        """
        now, before = self.clock(), self._seen
        self._seen = {}
        found = []
        for trial in running:
            owner = Owner.from_json(trial.user_attrs.get(OWNER))
            count = int(trial.user_attrs.get(BEAT, 0))
            seen = before.get(trial._trial_id)
            since = seen[1] if seen is not None and seen[0] == count else now
            self._seen[trial._trial_id] = (count, since)
            if owner is None or owner.is_known_dead() or now - since > MISSED * owner.heartbeat_s:
                found.append(trial)
        return found

    def forget(self) -> None:
        """Begin to watch anew: after an outage nobody could show a heartbeat."""
        self._seen = {}
