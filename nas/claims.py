"""One at a time among all processes of a study, on whatever machines: the claim, from counting the trials to asking for one.

Whoever holds it sees every trial that runs, so that no place is given away twice, every proposal knows the others, and no two trials have
one index. It is freed when its holder dies, and must then be lost for good: a holder that was only cut off, and comes back, learns on
leaving the block that it was not alone, and takes nothing that it did there for done.

- A journal or a SQLite file: a lock file beside it. The kernel (or the file server: NFS of version 4, or 3 with its lock manager) frees it.
- PostgreSQL: an advisory lock of a transaction, which the server frees when the connection breaks.
- Anything else (the gRPC proxy, other databases): tickets, which need no more than Optuna's own storage interface. Tickets are trials of a
  study beside the study; the lowest one that runs holds the claim. Who waits gives up tickets whose owner is dead or shows no heartbeat.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock

from nas.files import PathLike
from nas.heartbeat import OWNER, Heartbeat, Owner, Watch
from nas.journal import StudyStorageError
from nas.storage_url import engine_of, sqlite_file

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy import Connection, Engine

    from nas.retried_storage import Patience

TICKETS = " (claims)"  # what the name of the study of tickets ends with
_SHORTEST_S = 0.005  # pause of the next in a queue of tickets


class ClaimLostError(Exception):
    """Another process may have held the claim at the same time: what was done under it must be taken back."""


class Claim(Protocol):
    """A lock between processes; leaving the block raises :class:`ClaimLostError` if it was not held to the end."""

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def claim_of(
    storage: PathLike | None, name: str, opened: BaseStorage | None, owner: Owner
) -> Claim:
    """The claim of a study, by what its storage can do.

    Args:
        storage: as it was named.
        name: of the study.
        opened: the storage.
        owner: who claims.
    """
    way = way_of(storage)
    if way == "nothing" or opened is None:
        return NoClaim()
    if way == "file":
        path = str(storage) if engine_of(storage) == "journal" else sqlite_file(str(storage))
        return FileClaim(Path(f"{path}.claim"))
    if way == "advisory lock":
        from nas.retried_storage import Patience
        from nas.storage import sql_engine

        return AdvisoryClaim(sql_engine(opened), name, Patience(storage))
    return TicketClaim(opened, name, owner)


def way_of(storage: PathLike | None) -> str:
    """How the processes of a study claim: ``nothing``, ``file``, ``advisory lock`` or ``tickets``; the same for all of them."""
    ways = {"memory": "nothing", "journal": "file", "sqlite": "file", "postgresql": "advisory lock"}
    return ways.get(engine_of(storage), "tickets")


class NoClaim(contextlib.nullcontext[None]):
    """Of a study in memory: nobody else can see it."""


class FileClaim:
    """A lock file.

    Args:
        path: of it.

    Raises:
        StudyStorageError: on entering, if there can be no such lock.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise StudyStorageError(
                f"expected to lock {self._path}, got: {error}; "
                "use a folder that this user may write, on a file system with locks, or another storage"
            ) from error

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class AdvisoryClaim:
    """PostgreSQL's advisory lock, in a transaction of its own: also behind a pool of connections that is shared.

    Args:
        engine: of the database.
        name: of the study.
        patience: with a connection that breaks while it waits.
    """

    def __init__(self, engine: Engine, name: str, patience: Patience) -> None:
        digest = hashlib.sha256(f"nas claim {name}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._engine, self._patience = engine, patience
        self._connection: Connection | None = None

    def __enter__(self) -> None:
        self._connection = self._patience(self._locked)

    def _locked(self) -> Connection:
        from sqlalchemy import text

        connection = self._engine.connect()
        try:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key})
        except BaseException:  # Ctrl-C too
            connection.invalidate()
            connection.close()
            raise
        return connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            connection.execute(text("SELECT 1"))  # an answer on this connection: the lock was held
            connection.commit()
        except SQLAlchemyError as lost:
            with contextlib.suppress(SQLAlchemyError):
                connection.invalidate()
            if error is None:
                raise ClaimLostError(str(lost)) from lost
        finally:
            connection.close()


class TicketClaim:
    """A queue of tickets in the storage itself.

    Args:
        storage: any storage of Optuna's.
        name: of the study.
        owner: who draws tickets.
        longest_s: pause between two looks at a long queue.
    """

    def __init__(
        self, storage: BaseStorage, name: str, owner: Owner, longest_s: float = 1.0
    ) -> None:
        self._storage, self._name, self._owner = storage, f"{name}{TICKETS}", owner
        self._longest_s = longest_s
        self._study_id: int | None = None
        self._ticket = -1
        self._watch = Watch()
        self._heartbeat: Heartbeat | None = None

    def __enter__(self) -> None:
        self._draw()
        try:
            while True:
                began = time.monotonic()
                ahead = self._ahead()
                if not ahead:
                    return
                # Looking costs the server more than it costs us: a slow answer means that it is busy.
                pause_s = max(_SHORTEST_S, 3.0 * (time.monotonic() - began))
                time.sleep(min(self._longest_s, ahead * pause_s))
        except BaseException:
            with contextlib.suppress(Exception):
                self._return("FAIL")
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._return("COMPLETE")
        except UpdateFinishedTrialError as lost:
            if error is None:
                raise ClaimLostError("the ticket was given up by another process") from lost

    def _draw(self) -> None:
        from optuna.trial import TrialState, create_trial

        if self._study_id is None:
            self._study_id = self._study()
        ticket = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: self._owner.to_json()})
        self._ticket = self._storage.create_new_trial(self._study_id, ticket)
        self._heartbeat = Heartbeat(self._storage, self._ticket, self._owner)
        self._heartbeat.__enter__()

    def _return(self, state: str) -> None:
        from optuna.trial import TrialState

        if self._heartbeat is not None:
            self._heartbeat.__exit__(None, None, None)
        values = [0.0] if state == "COMPLETE" else None
        self._storage.set_trial_state_values(self._ticket, TrialState[state], values)

    def _ahead(self) -> int:
        """Tickets that run before ours; the claim is ours where there are none."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        assert self._study_id is not None
        running = self._storage.get_all_trials(
            self._study_id, deepcopy=False, states=(TrialState.RUNNING,)
        )
        mine = next((t.number for t in running if t._trial_id == self._ticket), None)
        if mine is None:  # given up by others: this process slept for long
            self._draw()
            return self._ahead()
        before = [t for t in running if t.number < mine]
        for trial in {
            t.number: t for t in [*self._watch.abandoned(before), *_orphans(running)]
        }.values():
            with contextlib.suppress(UpdateFinishedTrialError):
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return len(before)

    def _study(self) -> int:
        import optuna
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return int(self._storage.create_new_study([StudyDirection.MINIMIZE], self._name))
        except DuplicatedStudyError:
            return int(self._storage.get_study_id_from_name(self._name))
        finally:
            optuna.logging.set_verbosity(verbosity)


def _orphans(tickets: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Tickets whose owner drew another one later: the answer to the first was lost with the connection."""
    last = {str(t.user_attrs.get(OWNER)): t.number for t in tickets}
    return [t for t in tickets if last[str(t.user_attrs.get(OWNER))] != t.number]
