"""Where studies are kept: memory, a journal file, PostgreSQL, a gRPC server in front of either, or any other Optuna database."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from nas.files import PathLike
from nas.journal import StudyStorageError, open_journal
from nas.storage_url import (
    engine_of,
    host_and_port,
    scrubbed,
    shown,
    sqlite_file,
    with_driver,
)

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import Engine

_CONNECT_S = 10
_CALL_S = 60.0
# A process that dies closes its connection; of a machine that dies the server hears after half a minute, and frees its locks.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_SERVER = " ".join(
    f"-c {setting}"
    for setting in (
        "tcp_keepalives_idle=15",
        "tcp_keepalives_interval=5",
        "tcp_keepalives_count=3",
        "idle_in_transaction_session_timeout=0",  # a claim is held while a sampler thinks
    )
)
#: Key of the PostgreSQL advisory lock under which Optuna's tables are made: of two that make them at once, one would fail.
_MAKING_TABLES = 0x6E61735F7461


def open_storage(storage: PathLike | None, patience_s: float = 0.0) -> BaseStorage | None:
    """A storage for ``optuna.create_study``.

    Args:
        storage: path of a journal file; ``postgresql://user@host/database``, ``sqlite:///study.db`` or another Optuna storage URL;
            ``grpc://host:port`` of ``nas serve``; or None for memory.
        patience_s: seconds to wait for a server that cannot be reached yet. What is opened waits longer (``RetriedStorage``).

    Raises:
        StudyStorageError: if it cannot be reached, opened or written, wants other credentials, or was made by another version; the
            password of a URL is in no message.
    """
    if storage is None:
        return None
    from nas.retried_storage import Patience, RetriedStorage

    opened = Patience(storage, patience_s)(lambda: open_plain(storage, trialwise=True))
    return RetriedStorage(opened, Patience(storage))


def open_plain(storage: PathLike, trialwise: bool = False) -> BaseStorage:
    """As :func:`open_storage`, without the patience: an operation whose connection breaks raises what the library raises.

    Args:
        storage: as there.
        trialwise: whether a database may keep the parameters of a trial back until the trial is asked for: only in the process that asks.
    """
    engine = engine_of(storage)
    if engine == "journal":
        return open_journal(Path(storage))
    if engine == "grpc":
        return _open_grpc(str(storage))
    try:
        if engine == "postgresql":
            return _open_postgresql(with_driver(str(storage)), trialwise)
        file = Path(sqlite_file(str(storage)) or "") if engine == "sqlite" else None
        if file is None or not file.parent.is_dir():
            return _database(str(storage), trialwise)
        with FileLock(f"{file}.lock"):  # of two that make the tables at once, one would fail
            return _database(str(storage), trialwise)
    except Exception as error:
        raise _refusal(str(storage), error) from error


def sql_engine(storage: BaseStorage) -> Engine:
    """SQLAlchemy's engine under an opened database, with its pool of connections."""
    inner: Any = storage
    for name in ("inner", "_backend"):  # RetriedStorage, Optuna's cache
        inner = getattr(inner, name, inner)
    engine: Engine = inner.engine
    return engine


def _database(
    url: str, trialwise: bool, engine_kwargs: dict[str, Any] | None = None
) -> BaseStorage:
    from optuna.storages import get_storage

    from nas.sql_storage import TrialwiseStorage

    return get_storage(TrialwiseStorage(url, engine_kwargs, keeps=trialwise))


def _open_postgresql(url: str, trialwise: bool) -> BaseStorage:
    from sqlalchemy import create_engine, make_url, text

    from nas.sql_storage import UNHURRIED

    address = make_url(url)
    arguments: dict[str, Any] = {}
    if address.get_driver_name() in ("psycopg", "psycopg2"):
        arguments = {"connect_timeout": _CONNECT_S, **_KEEPALIVE, "application_name": "nas"}
        arguments["options"] = f"{_SERVER} {UNHURRIED}"
        # What the URL says goes first.
        arguments = {k: v for k, v in arguments.items() if k not in address.query}
    # Two connections a process: one holds the claim while the other asks; then one is idle while the other shows a heartbeat.
    size = 2 if trialwise else 16  # a server in front of the database answers many at once
    settings: dict[str, Any] = {"connect_args": arguments, "pool_size": size, "max_overflow": 2}
    engine = create_engine(url, connect_args=arguments, pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MAKING_TABLES})"))
            return _database(url, trialwise, settings)
    finally:
        engine.dispose()


def _open_grpc(url: str) -> BaseStorage:
    try:
        host, port = host_and_port(url)
    except ValueError as error:
        raise StudyStorageError(str(error)) from None
    try:
        import grpc
    except ImportError as error:
        raise StudyStorageError(
            f"expected the package grpcio for {shown(url)}, got: {error}; pip install 'sparse-gpt-nas[grpc]'"
        ) from error
    from optuna.storages import GrpcStorageProxy

    class Proxy(GrpcStorageProxy):
        """Optuna's proxy with a deadline on each call: a server that is cut off never answers, and never refuses either."""

        def _setup(self) -> None:
            super()._setup()
            from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
            from optuna.storages._grpc.client import GrpcClientCache

            stub: Any = StorageServiceStub
            self._stub = stub(grpc.intercept_channel(self._channel, _deadline(grpc)))
            self._cache = GrpcClientCache(self._stub)

    with quiet():
        proxy = Proxy(host=host, port=port)
    try:
        proxy.wait_server_ready(timeout=_CONNECT_S)
        proxy.get_all_studies()
    except Exception as error:
        proxy.close()
        raise StudyStorageError(
            f"expected a storage server at {url}, got: {type(error).__name__} {scrubbed(str(error), url)[:300]}; "
            f"start one there: nas serve --storage postgresql://... --host {host} --port {port}"
        ) from error
    return proxy


def _deadline(grpc: Any) -> Any:
    import collections

    names = ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")

    class Details(collections.namedtuple("Details", names), grpc.ClientCallDetails):  # type: ignore[misc]
        pass

    class Deadline(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            found = {name: getattr(details, name, None) for name in names}
            return continuation(Details(**found | {"timeout": _CALL_S}), request)

    return Deadline()


def _refusal(url: str, error: Exception) -> StudyStorageError:
    """Why a database cannot be used, and what to do about it."""
    from sqlalchemy.exc import OperationalError

    from nas.retried_storage import causes, root_of

    message = " ".join(scrubbed(str(root_of(error)), url).split())
    text = message.lower()
    where = shown(url)
    database = url.partition("://")[2].partition("/")[2].partition("?")[0]
    if any(isinstance(cause, ImportError) for cause in causes(error)):
        wanted = f"expected the driver of {where}, got: {message}"
        remedy = "pip install 'sparse-gpt-nas[postgres]' for postgresql://; sqlite:///study.db needs nothing"
    elif isinstance(error, RuntimeError) and "no longer compatible" in text:
        wanted = f"expected tables of this version of Optuna in {where}, got: {message}"
        remedy = (
            "use another database, or the version of Optuna that made them; nothing was changed"
        )
    elif "authentication failed" in text or "no password" in text or "pg_hba.conf" in text:
        wanted = f"expected {where} to let this user in, got: {message}"
        remedy = "mend user and password: in the URL, in PGPASSWORD, or in ~/.pgpass"
    elif 'role "' in text and "does not exist" in text:
        wanted = f"expected {where} to know this user, got: {message}"
        remedy = "name another user in the URL, or make this one: createuser NAME"
    elif 'database "' in text and "does not exist" in text:
        wanted = f"expected the database of {where} to exist, got: {message}"
        remedy = f"make it: createdb {database}"
    elif "permission denied" in text or "read-only" in text or "readonly" in text:
        wanted = f"expected that tables may be made and written in {where}, got: {message}"
        remedy = "let the owner of the database say: GRANT CREATE ON SCHEMA public TO <user>, or use another storage"
    elif engine_of(url) != "sqlite" and any(isinstance(c, OperationalError) for c in causes(error)):
        wanted = f"expected a database server at {where}, got: {message}"
        remedy = "start it, or mend host and port; it must accept connections from this machine"
    else:
        wanted = f"expected an Optuna storage URL that can be opened, got {where!r}: {message}"
        remedy = "sqlite:///study.db needs nothing, postgresql:// the extra postgres, grpc:// the extra grpc"
    return StudyStorageError(f"{wanted}; {remedy}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's warnings that a part of it is experimental, and that a categorical choice is no number."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        warnings.simplefilter("ignore", category=ExperimentalWarning)
        yield
