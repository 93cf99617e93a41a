"""Measure cases one by one into a log that a killed run goes on from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from experiments.kernels.baselines import library_calls
from experiments.kernels.cases import Bench, Case
from experiments.kernels.checks import WrongProduct, check_product, exact_product
from experiments.kernels.door import (
    MissingFormat,
    describe,
    is_dense_path,
    multiply,
    path_names,
)
from experiments.kernels.weights import Packed, RandomWeight
from nas import kernels
from nas.deploy import turns
from nas.deploy.runtime import device_name, versions
from nas.deploy.turns import Call, copy_bandwidth, time_in_turns
from nas.files import append_jsonl, read_jsonl
from nas.kernels import PackedWeight

# What a timing depends on beside the kernels.
_HARNESS = ("baselines.py", "door.py", "measure.py", "weights.py")


@dataclass
class Outcome:
    """What a run has.

    Args:
        records: one per measured case, in the order of the cases.
        left_out: keys of cases there was no time for.
        missing: pattern to why its format is not there.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def setting_of(bench: Bench) -> dict[str, Any]:
    """What decides a record beside its case; a record made with another setting is not taken for this run's."""
    return {
        "device": device_name(bench.device),
        "versions": versions(),
        "threads": torch.get_num_threads() if bench.device == "cpu" else None,
        "repeats": bench.repeats,
        "graphs": bench.graphs and bench.device == "cuda",
        "seed": bench.seed,
        "sources": _sources_digest(),
    }


def measure(
    bench: Bench, cases: Sequence[Case], log: Path, setting: str, deadline: float | None
) -> Outcome:
    """Measure the cases that the log does not hold.

    Args:
        bench: how.
        cases: in the order they are wanted.
        log: JSON lines, one per case.
        setting: digest of :func:`setting_of`.
        deadline: of ``time.monotonic()``, after which no case is begun.

    Raises:
        WrongProduct: if a product is wrong; its case is not in the log.
    """
    done = {r["key"]: r for r in read_jsonl(log) if r.get("setting") == setting}
    outcome = Outcome()
    copy_bytes_per_s = 0.0
    weights: RandomWeight | None = None
    packed: Packed | None = None
    for case in tqdm(cases, desc="bench", unit="case"):
        if case.key in done or case.kind.pattern in outcome.missing:
            continue
        if deadline is not None and time.monotonic() > deadline:
            outcome.left_out.append(case.key)
            continue
        copy_bytes_per_s = copy_bytes_per_s or copy_bandwidth(bench.device)
        if weights is None or weights.of != (case.dtype, case.shape):
            weights = packed = None  # freed before the next are made
            weights = RandomWeight(case.dtype, case.shape, bench.device, bench.seed)
        if packed is None or packed.kind != case.kind:
            packed = None
            try:
                packed = weights.pack(case.kind)
            except MissingFormat as error:
                outcome.missing[case.kind.pattern] = str(error)
                continue
        record = {
            "setting": setting,
            "key": case.key,
            **_measure_case(case, weights, packed, bench),
            "copy_gbps": copy_bytes_per_s / 1e9,
        }
        append_jsonl(log, record)
        done[case.key] = record
    outcome.records = [done[case.key] for case in cases if case.key in done]
    return outcome


def _measure_case(
    case: Case, weights: RandomWeight, stored: Packed, bench: Bench
) -> dict[str, Any]:
    """Check the products of a case, then time all of its paths in turns."""
    x = weights.draw(f"x {case.rows}", case.rows, case.shape.in_features)
    packed, unpacked = stored.weight, stored.unpacked
    with torch.inference_mode():
        exact, dense = exact_product(x, unpacked), F.linear(x, unpacked)
        sparse, unavailable, errors = _sparse_calls(case, x, packed, dense, exact)
        library, absent = library_calls(unpacked, case.kind, x)
        for name in list(library):
            try:
                errors[name] = check_product(
                    _product(library[name]), dense, exact, x.shape[1], name
                )
            except WrongProduct as error:  # not ours to mend; not to be compared with either
                del library[name]
                absent[name] = str(error)
        del exact, dense
    copies = [p for p in sparse if is_dense_path(packed, case.rows, p)]
    kinds = {
        "dense": weights.dense.calls(x),
        "library": library,
        "dense copy": {name: sparse[name] for name in copies},
        "sparse": {name: call for name, call in sparse.items() if name not in copies},
    }
    calls = {name: call for group in kinds.values() for name, call in group.items()}
    timings = time_in_turns(calls, bench.device, bench.repeats, graphs=bench.graphs)
    value_bytes = x.element_size()
    return {
        "dtype": case.dtype,
        "model": case.shape.model,
        "layer": case.shape.layer,
        "out_features": case.shape.out_features,
        "in_features": case.shape.in_features,
        "pattern": case.kind.pattern,
        "sparsity": case.kind.label,
        "level": case.kind.sparsity.level,
        "rows": case.rows,
        "stored_bytes": packed.stored_bytes,
        "dense_bytes": case.shape.size * value_bytes,
        "moved_bytes": value_bytes * case.rows * (case.shape.in_features + case.shape.out_features),
        "paths": [
            {"path": name, "kind": group, "error": errors.get(name), **asdict(timings[name])}
            for group, members in kinds.items()
            for name in members
        ],
        "unavailable": {**unavailable, **absent},
    }


def _sparse_calls(
    case: Case, x: Tensor, packed: PackedWeight, dense: Tensor, exact: Tensor
) -> tuple[dict[str, Call], dict[str, str], dict[str, float]]:
    """Calls of our paths that run, why others do not, and the error of each."""
    calls: dict[str, Call] = {}
    unavailable: dict[str, str] = {}
    errors: dict[str, float] = {}
    for path in path_names(packed, case.rows):
        call: Callable[[], Tensor] = partial(multiply, x, packed, path)
        try:
            y = call()
        except (
            Exception
        ) as error:  # too many resources for this card, say: told, and the next path is tried
            unavailable[path] = describe(error)
            continue
        what = f"{case.key} on path {path!r}"
        errors[path] = check_product(y, dense, exact, x.shape[1], what)
        calls[path] = call
    return calls, unavailable, errors


def _product(call: Call) -> Tensor:
    y = call()
    assert isinstance(y, Tensor)
    return y


def _sources_digest() -> str:
    """Of the kernels and of this harness: a changed kernel is measured again."""
    files = sorted(Path(kernels.__file__).parent.rglob("*.py"))
    files += [Path(turns.__file__), *(Path(__file__).with_name(name) for name in _HARNESS)]
    content = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()[:16]
