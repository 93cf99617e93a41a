"""What a trial costs beyond its evaluation, and how many trials a second a storage can give away."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.scale_out.fleet import Task, fleet, load, read_log
from experiments.scale_out.postgres import PostgresServer, free_port
from nas.storage import open_storage
from nas.study_workers import end_with_parent

ENGINES = ("journal", "sqlite", "postgresql", "grpc")


@contextlib.contextmanager
def storage_of(
    engine: str, folder: Path, name: str, server: PostgresServer | None
) -> Iterator[str]:
    """An empty storage of an engine.

    Args:
        engine: one of :data:`ENGINES`; ``grpc`` is a server of ours in front of PostgreSQL.
        folder: for files.
        name: unlike that of any other.
        server: of PostgreSQL, where one is needed.

    Raises:
        ValueError: if there is no such engine, or no server.
    """
    if engine == "journal":
        yield str(folder / f"{name}.journal")
    elif engine == "sqlite":
        yield f"sqlite:///{folder}/{name}.db"
    elif engine in ("postgresql", "grpc") and server is not None:
        url = server.create(name)
        if engine == "postgresql":
            yield url
        else:
            with served(url) as address:
                yield address
    else:
        raise ValueError(
            f"expected one of {', '.join(ENGINES)} and a server for the last two, got {engine!r}"
        )


@contextlib.contextmanager
def served(storage: str, port: int | None = None) -> Iterator[str]:
    """Address of a gRPC server in a process of its own, which is killed when the block ends."""
    port = port or free_port()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(storage, port), daemon=True)
    process.start()
    address = f"grpc://localhost:{port}"
    try:
        open_storage(address, patience_s=60.0)
        yield address
    finally:
        process.kill()
        process.join()


def _serve(storage: str, port: int) -> None:
    from nas.serve import serve

    end_with_parent()
    serve(storage, "localhost", port, lambda: None)


def measure(task: Task, workers: int, timeout_s: float) -> dict[str, Any]:
    """Trials a second when evaluations take no time, so that asking and telling are all there is.

    The time is that from the end of the first evaluation to the end of the last, without start-up.

    Args:
        task: of every process.
        workers: processes.
        timeout_s: for all.

    Returns:
        JSON values: start-up until the first evaluation ended, trials a second, milliseconds a trial (of the study, not of a worker),
        and the evaluation time from which on no worker waits for another.
    """
    with fleet(task) as running:
        began = time.monotonic()
        running.start(workers)
        forked_s = time.monotonic() - began
        begun = running.go()
        running.wait(timeout_s)
    ends = sorted(line["time"] for line in read_log(task.log) if line["what"] == "end")
    states = {t.state.name for t in load(task).get_trials(deepcopy=False)}
    if len(ends) != task.trials or states != {"COMPLETE"}:
        raise RuntimeError(
            f"expected {task.trials} trials, all complete, got {len(ends)}: {states}"
        )
    ms = 1000.0 * (ends[-1] - ends[0]) / (len(ends) - 1)
    return {
        "workers": workers,
        "trials": task.trials,
        "forked_s": round(forked_s, 2),
        "first_trial_s": round(ends[0] - begun, 2),
        "ms_a_trial": round(ms, 2),
        "trials_a_second": round(1000.0 / ms, 2),
        "no_queue_from_evaluations_of_s": round((workers - 1) * ms / 1000.0, 2),
    }


def table(
    task: Task,
    engines: tuple[str, ...],
    workers: tuple[int, ...],
    folder: Path,
    server: PostgresServer | None,
    repeats: int,
    timeout_s: float,
) -> Iterator[dict[str, Any]]:
    """One row for every engine, number of workers and repeat."""
    for engine in engines:
        for number in workers:
            for repeat in range(repeats):
                name = f"{engine}-{number}-{repeat}"
                with storage_of(engine, folder, name, server) as storage:
                    mine = replace(task, storage=storage, log=folder / f"{name}.log")
                    yield {"engine": engine, "repeat": repeat} | measure(mine, number, timeout_s)
