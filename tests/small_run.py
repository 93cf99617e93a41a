"""One finished small run of ``nas search``, made once per test session; tests copy its folder before they change it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from nas.cli import main
from nas.deploy.device_profile import DeviceProfile, fit_profile
from nas.deploy.runtime import Runtime
from nas.files import read_jsonl
from nas.training import TrainedSupernet, train_supernet
from search_spaces import preset
from search_spaces.workload import Workload

DECODE = "decode_ms[batch=1,context=128]"
OPTIONS = {
    "trials": 5,
    "profile-architectures": 16,
    "perplexity-tokens": 1024,
    "random-seeds": 2,
    "max-winners": 3,
    "sampler": "qlognehvi",
    "seed": 0,
    "threads": 1,  # tests run side by side: threads that wait for each other would take seven times as long
}


def arguments(out: Path, **changed: Any) -> list[str]:
    """The command line of the small run, with other options where given (``max_winners=2``)."""
    options = OPTIONS | {name.replace("_", "-"): value for name, value in changed.items()}
    flags = ["search", "--no-compile", "--out", str(out)]
    for name, value in options.items():
        values = list(map(str, value)) if isinstance(value, (list, tuple)) else [str(value)]
        flags += [f"--{name}", *values]
    return flags


def finished_run(factory: pytest.TempPathFactory) -> Path:
    """Folder of the small run; read it, do not write to it."""
    base = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # all workers share one
        base = base.parent
    folder = base / "small-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "front.png").exists():
            assert main(arguments(folder)) == 0
    return folder


def copy_of_run(factory: pytest.TempPathFactory, target: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(finished_run(factory), target / "run")


def lend_tokens(factory: pytest.TempPathFactory, folder: Path) -> Path:
    """Give a run folder the standard library as the small run tokenized it: seconds that need not be spent again."""
    run = finished_run(factory)
    shutil.copytree(run / "tokens", folder / "tokens")
    shutil.copy(run / "tokenizer.json", folder)
    return run


def begun_run(factory: pytest.TempPathFactory, target: Path, *, profile: bool = True) -> Path:
    """A new run folder that has tokens and, if wanted, the small run's latency records, so that neither is made again."""
    folder = target / "begun"
    run = lend_tokens(factory, folder)
    if profile:
        shutil.copy(run / "profile.jsonl", folder)
    return folder


def load_results(folder: Path) -> dict[str, Any]:
    """``results.json``, read without the code under test."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def load_supernet_of(folder: Path) -> TrainedSupernet:
    """The embedded supernet with the run's tokens."""
    return train_supernet(preset("tiny"), out=folder, progress=False)


def load_profile_of(folder: Path) -> DeviceProfile:
    """Surrogates fitted to the run's records."""
    records = read_jsonl(folder / "profile.jsonl")
    runtime = Runtime(**records[0]["runtime"])
    return fit_profile(preset("tiny"), records, runtime, [Workload("decode", 1, 128)])
