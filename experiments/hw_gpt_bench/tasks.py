"""Tasks: independent pieces of an experiment, in processes, each kept when done so that a killed run goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nas.deploy.runtime import available_threads
from nas.files import append_jsonl, read_jsonl

Task = dict[str, Any]


def run_tasks(
    function: Callable[[Task], Any], tasks: Sequence[Task], log: Path, settings: str, title: str
) -> list[Any]:
    """Results of all tasks, in their order; those that the log holds under the same settings are not repeated.

    Args:
        function: module-level function of one task; its result must be JSON.
        tasks: JSON values.
        log: JSON lines of finished tasks.
        settings: digest of everything else that results depend on.
        title: of the progress bar.
    """
    kept = read_jsonl(log) if log.exists() else []
    done = {entry["task"]: entry["result"] for entry in kept if entry["settings"] == settings}
    names = [json.dumps(task, sort_keys=True) for task in tasks]
    left = [task for task, name in zip(tasks, names, strict=True) if name not in done]
    if left:
        log.parent.mkdir(parents=True, exist_ok=True)
        # one thread each: the matrices are small, and threads of several processes wait for each other
        with (
            _one_thread(),
            ProcessPoolExecutor(
                min(available_threads(), len(left)), multiprocessing.get_context("spawn")
            ) as pool,
        ):
            futures = {pool.submit(function, task): task for task in left}
            for future in tqdm(as_completed(futures), title, total=len(left), unit="task"):
                name = json.dumps(futures[future], sort_keys=True)
                done[name] = future.result()
                append_jsonl(log, {"settings": settings, "task": name, "result": done[name]})
    return [done[name] for name in names]


class _one_thread:
    """Environment of new processes: one BLAS thread each."""

    _names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._names}
        os.environ.update(dict.fromkeys(self._names, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
