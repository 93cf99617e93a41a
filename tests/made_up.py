"""A supernet with a text and a device profile that nobody trained or measured: whatever needs one of each, within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small_models import random_supernet

from nas.data import Corpus
from nas.deploy.device_profile import DeviceProfile, fit_profile
from nas.deploy.runtime import Runtime, device_name
from nas.training import TrainedSupernet
from search_spaces import SearchSpace, Workload, costs


def made_up_corpus(space: SearchSpace, held_out: int = 500) -> Corpus:
    """Random tokens, ``held_out`` of them to judge on."""
    tokens = np.random.default_rng(3).integers(0, space.family.vocab_size, 1500 + held_out)
    tokens = tokens.astype(np.uint16)
    tokenizer: Any = None
    return Corpus(
        "made up", tokenizer, tokens[:1500], tokens[1500:], "f" * 16, "t" * 16, 2000, held_out
    )


def made_up_supernet(space: SearchSpace, held_out: int = 500) -> TrainedSupernet:
    """Random weights with :func:`made_up_corpus`."""
    info = {"sha256": "5" * 64}
    corpus = made_up_corpus(space, held_out)
    return TrainedSupernet(random_supernet(space), corpus, info, Path("none"))


def made_up_profile(space: SearchSpace, workload: Workload, number: int = 16) -> DeviceProfile:
    """A device that takes 1 ms and another for every 10 000 stored bytes, give or take 2 %."""
    rng, runtime = np.random.default_rng(7), Runtime()
    found = dict.fromkeys([space.largest, space.smallest])
    while len(found) < number:
        found[space.sample(rng)] = None
    records = [
        {
            "key": a.key,
            "architecture": a.to_json(),
            "workload": str(workload),
            "round": i,
            "median_ms": (1.0 + costs(a, space.family).weight_bytes / 1e4)
            * rng.uniform(0.99, 1.01),
            "runtime": runtime.to_json(),
            "dense_paths_ms": {},
            "device": device_name("cpu"),
            "space": space.fingerprint,
        }
        for i in range(2)
        for a in found
    ]
    return fit_profile(space, records, runtime, [workload])
