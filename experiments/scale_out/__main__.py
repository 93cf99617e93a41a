"""``python -m experiments.scale_out``: kill -9 of workers, overhead of every storage, hypervolume lost by parallelism."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tqdm import tqdm

from experiments.results import command_line, digest, result_folder, run, write_result
from experiments.scale_out.fleet import SPACE, Task
from experiments.scale_out.killing import kill_and_count
from experiments.scale_out.lost import one_search
from experiments.scale_out.overhead import storage_of, table
from experiments.scale_out.postgres import PostgresServer, started_postgres
from experiments.scale_out.report import write_report
from nas.deploy.runtime import available_threads
from nas.files import append_jsonl, read_jsonl
from surrogates import Benchmark

_PARTS = ("kill", "overhead", "parallelism")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Recipe:
    """What is measured.

    Args:
        parts: of the experiment: ``kill``, ``overhead``, ``parallelism``; the results of the others stay as they are.
        kill_engines: storages whose studies are killed.
        kill_trials: of each of these studies.
        kill_workers: that run at any time, each on a machine of its own as far as the others can tell.
        kills: of random workers at random moments.
        kill_seconds: of an evaluation there.
        engines: storages whose overhead is measured; ``grpc`` is ``nas serve`` in front of PostgreSQL.
        workers: processes.
        trials: of each study there.
        repeats: of each.
        samplers: whose loss by parallelism is simulated, by name.
        running: trials at work at any time there.
        searches: seeds of each sampler.
        budget: trials of each of these searches.
        device: of HW-GPT-Bench.
        seed: of moments and victims.
        out: working folder; searches that are there are not made again.
    """

    parts: tuple[str, ...] = _PARTS
    kill_engines: tuple[str, ...] = ("postgresql", "journal", "grpc")
    kill_trials: int = 400
    kill_workers: int = 8
    kills: int = 24
    kill_seconds: float = 1.0
    engines: tuple[str, ...] = ("journal", "sqlite", "postgresql", "grpc")
    workers: tuple[int, ...] = (1, 8, 32)
    trials: int = 96
    repeats: int = 1
    samplers: tuple[str, ...] = ("random", "nsga2", "tpe", "auto")
    running: tuple[int, ...] = (1, 8, 32)
    searches: int = 10
    budget: int = 100
    device: str = "a100"
    seed: int = 0
    out: Path = Path("runs/scale_out")


def main(recipe: Recipe) -> None:
    """Run the parts and write a result file for each."""
    if unknown := sorted({*recipe.parts} - {*_PARTS}):
        raise ValueError(f"expected parts among {', '.join(_PARTS)}, got {', '.join(unknown)}")
    # Servers and workers end with the experiment: also when it is told to, not only by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    folder = result_folder("scale_out")
    recipe.out.mkdir(parents=True, exist_ok=True)
    command = command_line("experiments.scale_out", recipe)
    needs_server = {"postgresql", "grpc"} & {*recipe.engines, *recipe.kill_engines}
    with _server(bool(needs_server) and recipe.parts != ("parallelism",)) as server:
        for part in recipe.parts:
            console.print(f"[bold]{part}[/bold]")
            values = {"kill": _kill, "overhead": _overhead, "parallelism": _parallelism}[part](
                recipe, server, console
            )
            path = write_result(
                folder,
                command=command,
                seeds=_seeds(recipe, part),
                values=values,
                name=f"{part}.json",
            )
            console.print(f"Result in {path}", soft_wrap=True, highlight=False)
    readme = write_report(folder)
    console.print(f"Next: read {readme}, which says what the figures mean", soft_wrap=True)


def _seeds(recipe: Recipe, part: str) -> list[int]:
    return list(range(recipe.searches)) if part == "parallelism" else [recipe.seed]


@contextlib.contextmanager
def _server(is_needed: bool) -> Iterator[PostgresServer | None]:
    if not is_needed:
        yield None
        return
    with started_postgres() as server:  # with its defaults: what is committed is on the disk
        yield server


def _fresh(recipe: Recipe, name: str) -> Path:
    folder = recipe.out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _kill(recipe: Recipe, server: PostgresServer | None, console: Console) -> dict[str, Any]:
    folder = _fresh(recipe, "kill")
    rows = {}
    for engine in recipe.kill_engines:
        with storage_of(engine, folder, f"kill-{engine}", server) as storage:
            task = Task(
                storage,
                recipe.kill_trials,
                folder / f"{engine}.log",
                seed=recipe.seed,
                delay_s=recipe.kill_seconds,
                heartbeat_s=1.0,
                machine="machine",
            )
            rows[engine] = kill_and_count(
                task,
                workers=recipe.kill_workers,
                kills=recipe.kills,
                seed=recipe.seed,
                timeout_s=_TIMEOUT_S,
            )
        console.print(engine, rows[engine])
    return {"space": SPACE, "sampler": "random", "workers": recipe.kill_workers, "engines": rows}


def _overhead(recipe: Recipe, server: PostgresServer | None, console: Console) -> dict[str, Any]:
    folder = _fresh(recipe, "overhead")
    task = Task("", recipe.trials, folder / "log", seed=recipe.seed, heartbeat_s=15.0)
    rows, before = [], os.getloadavg()[0]
    for row in table(
        task, recipe.engines, recipe.workers, folder, server, recipe.repeats, _TIMEOUT_S
    ):
        console.print(row)
        rows.append(row)
    load = f"{before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    values = {"space": SPACE, "sampler": "random", "evaluation_s": 0.0, "rows": rows}
    return values | {"load": load, "cores": available_threads()}


def _parallelism(recipe: Recipe, server: PostgresServer | None, console: Console) -> dict[str, Any]:
    problem = Benchmark("gpt-s").problem(recipe.device, ("perplexity", "latency"))
    path = recipe.out / "searches.jsonl"
    setting = digest({"budget": recipe.budget, "device": recipe.device, "searches": 1})
    done = {
        (r["sampler"], r["running"], r["seed"]): r["share"]
        for r in read_jsonl(path)
        if r.get("setting") == setting
    }
    cases = [
        (sampler, running, seed)
        for seed in range(recipe.searches)
        for sampler in recipe.samplers
        for running in recipe.running
    ]
    for case in tqdm(cases, desc="searches"):
        if case not in done:
            sampler, running, seed = case
            done[case] = one_search(problem, sampler, running, recipe.budget, seed)
            record = {"sampler": sampler, "running": running, "seed": seed, "share": done[case]}
            append_jsonl(path, record | {"setting": setting})
    rows = []
    for sampler in recipe.samplers:
        alone = np.array([done[sampler, recipe.running[0], s][-1] for s in range(recipe.searches)])
        for running in recipe.running:
            share = np.array([done[sampler, running, s][-1] for s in range(recipe.searches)])
            lost = 100.0 * (alone - share)
            rows.append(
                {
                    "sampler": sampler,
                    "running": running,
                    "share_percent": round(100.0 * float(share.mean()), 2),
                    "std": round(100.0 * float(share.std(ddof=1)), 2) if len(share) > 1 else None,
                    "lost_points": round(float(lost.mean()), 2),
                    "lost_standard_error": round(float(lost.std(ddof=1) / np.sqrt(len(lost))), 2)
                    if len(lost) > 1
                    else None,
                }
            )
            console.print(rows[-1])
    return {
        "problem": f"gpt-s, perplexity x {recipe.device} latency",
        "budget": recipe.budget,
        "rows": rows,
    }


if __name__ == "__main__":
    run(main, Recipe, __doc__)
