"""Tuning: measure every way to multiply on this device, and keep the times as the table that dispatch and profile read."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from nas import kernels
from nas.deploy import turns
from nas.deploy.runtime import (
    Runtime,
    available_threads,
    check_device,
    device_name,
    provenance,
    versions,
)
from nas.deploy.tune_cases import Case, Shape, tune_cases
from nas.deploy.turns import Call, time_in_turns
from nas.files import PathLike, append_jsonl, read_jsonl, run_lock
from nas.kernels import PackedWeight, pack
from nas.kernels.epilogue import Epilogue
from nas.kernels.errors import allowed_error, relative_error
from nas.kernels.paths import is_interpreted, paths, run_path
from nas.kernels.reference import reference_linear
from search_spaces import SearchSpace, Sparsity, formats
from surrogates import KernelRow, KernelTable

DEFAULT_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def tune(
    what: SearchSpace | Iterable[Shape],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    tokens: Sequence[int] = (1,),
    sparsities: Sequence[Sparsity | str] | None = None,
    threads: int | None = None,
    out: PathLike | None = None,
    command: str = "nas.tune",
    progress: bool = True,
) -> KernelTable:
    """Measure the products of a space's linears by every path, the dense product beside them.

    With ``out`` every row is on disk before the next is taken, in a log beside the table: a killed
    tuning goes on where it stopped, and further dtypes, tokens or sparsities join the same table.
    :func:`nas.kernels.use_table` makes dispatch and :func:`nas.profile` read it.

    Args:
        what: a space, or shapes ``(out_features, in_features)``.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and inputs; by default float32 on the CPU and bfloat16 on a GPU.
        tokens: rows of the inputs: sequences of a decode step, tokens of a prefill.
        sparsities: tried on every shape they divide; by default those of the space's own linears.
        threads: of one operator on the CPU; by default all cores.
        out: JSON file of the table; None keeps nothing.
        command: how it was asked for, kept in the table.
        progress: whether to show a progress bar.

    Returns:
        The table; with ``out`` it also holds what the log had of the same device, versions, threads and kernels.

    Raises:
        ValueError: if the device is absent, a value is wrong, the log is damaged, or another run uses the folder.
    """
    check_device(device)
    runtime = Runtime(device, dtype or DEFAULT_DTYPES[device], threads or available_threads())
    cases = tune_cases(what, runtime.dtype, runtime.value_bytes, tokens, sparsities)
    target = None if out is None else Path(out)
    if target is not None and (target.suffix != ".json" or target.is_dir()):
        raise ValueError(f"expected the path of a JSON file such as table.json, got {out}")
    log = None if target is None else target.with_suffix(".jsonl")
    setting = _setting(runtime)
    with run_lock(None if target is None else target.parent):
        rows = _read_rows(log, setting)
        todo = [case for case in cases if case not in rows]
        with runtime.active():
            for case in tqdm(todo, desc="tune", unit="product", disable=not progress):
                row = _measure(case, runtime)
                if row is None:
                    continue
                rows[case] = row
                if log is not None:
                    append_jsonl(log, {"setting": setting, **asdict(row)})
        about = provenance(runtime) | {"command": command, "threads": runtime.threads}
        ordered = tuple(
            rows[case] for case in sorted(rows, key=lambda c: tuple(asdict(c).values()))
        )
        table = KernelTable(device_name(device), ordered, about)
        if target is not None:
            table.save(target)
    return table


def _measure(case: Case, runtime: Runtime) -> KernelRow | None:
    """Check and time the paths of a case; None if none is right."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(runtime.device, runtime.torch_dtype)

    # So scaled, products neither overflow nor vanish.
    weight = draw(case.out_features, case.in_features) * case.in_features**-0.5
    x_NK = draw(case.tokens, case.in_features)
    packed = pack(weight, case.sparsity, format=case.format)
    exact = reference_linear(packed, x_NK)
    dense = relative_error(F.linear(x_NK, packed.unpack()), exact)
    limit = allowed_error(dense, x_NK.dtype, case.in_features)
    calls: dict[str, Call] = {}
    for name, call in _calls(packed, weight, x_NK).items():
        try:
            error = relative_error(call(), exact)
        except Exception as problem:  # a kernel that does not run here is left to others
            reason = (str(problem).splitlines() or [""])[0][:160]
            _warn(case, name, f"does not run ({type(problem).__name__}: {reason})")
            continue
        if error <= limit:
            calls[name] = call
        else:
            _warn(case, name, f"is wrong (error {error:.1e}, {limit:.1e} allowed)")
    if not calls:
        return None
    us: dict[str, float] = {}
    config = None
    for name, timing in time_in_turns(calls, runtime.device).items():
        path, _, words = name.partition(" ")
        if path not in us or timing.median_us < us[path]:
            us[path] = round(timing.median_us, 3)
            config = json.loads(words) if words else config
    return KernelRow(**asdict(case), us=us, config=config)


def _calls(packed: PackedWeight, weight: Tensor, x_NK: Tensor) -> dict[str, Any]:
    """Every path by name; a Triton one for each tile configuration, with that as JSON behind the name."""
    if packed.format == "dense":
        return {"dense": functools.partial(F.linear, x_NK, weight)}
    found: dict[str, Any] = {}
    for path in paths(packed, x_NK.shape[0]):
        run = functools.partial(run_path, path, packed, x_NK, Epilogue())
        if path != "triton":
            found[path] = run
            continue
        if is_interpreted():  # there to check values: its times say nothing of the kernel
            continue
        from nas.kernels.triton.configs import tile_configs

        is_gpu = x_NK.is_cuda and x_NK.element_size() == 2
        for config in tile_configs(packed.sparsity, packed.format, has_assembly=is_gpu):
            found[f"triton {json.dumps(config.to_json())}"] = functools.partial(run, config)
    return found


def _warn(case: Case, name: str, problem: str) -> None:
    warnings.warn(
        f"path {name!r} of {case.sparsity} {case.out_features} x {case.in_features}, {case.tokens} tokens, {problem}; "
        "it stays out of the table",
        stacklevel=3,
    )


def _setting(runtime: Runtime) -> str:
    """Digest of what a time depends on beside the case: changed kernels are measured again."""
    files = sorted(Path(kernels.__file__).parent.rglob("*.py"))
    files += [Path(str(module.__file__)) for module in (formats, turns)]
    sources = [path.read_bytes() for path in files] + [Path(__file__).read_bytes()]
    parts: list[Any] = [device_name(runtime.device), versions()]
    parts.append(runtime.threads if runtime.device == "cpu" else None)
    parts.append(hashlib.sha256(b"".join(sources)).hexdigest())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read_rows(log: Path | None, setting: str) -> dict[Case, KernelRow]:
    """Rows of earlier calls with the same setting, by case.

    Raises:
        ValueError: naming the first line that is damaged.
    """
    found: dict[Case, KernelRow] = {}
    for number, record in enumerate([] if log is None else read_jsonl(log), start=1):
        if record.get("setting") != setting:
            continue
        try:
            row = KernelRow(**{name: value for name, value in record.items() if name != "setting"})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"expected a measured product in line {number} of {log}, got {json.dumps(record)[:80]} ({error}); "
                "remove that line or delete the file"
            ) from error
        found[Case(*(getattr(row, field.name) for field in fields(Case)))] = row
    return found
