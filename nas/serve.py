"""A server in front of a storage, for many machines that cannot all connect to the database: Optuna's gRPC proxy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nas.journal import StudyStorageError
from nas.storage import open_plain
from nas.storage_url import engine_of, shown

_THREADS = 16


def serve(storage: str, host: str, port: int, on_ready: Callable[[], None]) -> None:
    """Answer the processes of studies until this one is stopped.

    It holds nothing that is not in the storage: stopped and started again, those who were cut off go on. Whoever can reach the port can
    read and write every study, so it belongs on a network that is trusted.

    Args:
        storage: what is served: a database URL, or a journal file.
        host: name or address to listen on.
        port: to listen on.
        on_ready: called when it listens.

    Raises:
        StudyStorageError: if the storage cannot be opened or is none to serve, or the port is taken.
        ValueError: if the port is out of range.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, got {port}")
    if engine_of(storage) in ("memory", "grpc"):
        raise StudyStorageError(
            f"expected a database or a journal file to serve, got {shown(storage)}; for example postgresql://user@host/database"
        )
    import optuna
    from optuna.storages._grpc.server import make_server

    backend = open_plain(storage)
    try:
        server = make_server(backend, host, port, ThreadPoolExecutor(max_workers=_THREADS))
    except ImportError as error:
        raise StudyStorageError(
            f"expected the package grpcio, got: {error}; pip install 'sparse-gpt-nas[grpc]'"
        ) from error
    except RuntimeError as error:  # grpc cannot bind
        raise StudyStorageError(
            f"expected to listen on {host}:{port}, got: {error}; use another --port, or stop what uses it"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # this process does nothing else
    server.start()
    try:
        on_ready()
        server.wait_for_termination()
    finally:
        server.stop(grace=1.0)
