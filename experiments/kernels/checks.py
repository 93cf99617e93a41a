"""Correctness before speed: every product against float64, on odd numbers of rows and with every epilogue."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from experiments.kernels.door import MissingFormat, multiply, pack_kind, path_names
from experiments.kernels.shapes import Kind
from nas.deploy.runtime import DTYPES
from nas.files import append_jsonl, read_jsonl
from nas.kernels.errors import allowed_error, relative_error

ODD_ROWS = (1, 3, 17, 63)
# Not a whole number of the large tiles, and divisible by every pattern.
CHECK_SHAPE = (384, 320)
ADAPTER_RANK = 8
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}
_CHUNK_ROWS = 4096


class WrongProduct(RuntimeError):
    """A product is further from the exact one than rounding explains; nothing is timed then."""


def exact_product(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` in float64, some rows of W at a time: a copy of a large W in float64 is four times as large."""
    x64 = x.double()
    parts = [x64 @ rows.double().T for rows in weight.split(_CHUNK_ROWS)]
    return torch.cat(parts, dim=1)


def check_product(y: Tensor, dense: Tensor, exact: Tensor, terms: int, what: str) -> float:
    """Relative error of a product.

    Args:
        y: the product, ``[N, M]``.
        dense: the dense product in the same dtype.
        exact: in float64.
        terms: summed for one value, K.
        what: for the message.

    Raises:
        WrongProduct: if the error is larger than :func:`allowed_error`.
    """
    error = relative_error(y, exact)
    limit = allowed_error(relative_error(dense, exact), y.dtype, terms)
    if not error <= limit:
        raise WrongProduct(
            f"expected {what} within {limit:.1e} of the product in float64, got {error:.1e}; nothing is timed"
        )
    return error


def check_kinds(
    kinds: Iterable[Kind],
    dtypes: Sequence[str],
    device: str,
    *,
    thorough: bool = True,
    seed: int = 0,
    log: Path | None = None,
    setting: str = "",
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Check one level of every pattern, in every dtype, on every path.

    Args:
        kinds: whose patterns are checked.
        dtypes: of weights and inputs.
        device: ``cpu`` or ``cuda``.
        thorough: every epilogue on its own, instead of one product with bias, adapter and activation. On a GPU each is a kernel to be
            compiled, which takes minutes in all.
        seed: of weights and inputs.
        log: JSON lines of what passed; a run with the same setting does not check it again.
        setting: digest of what a verdict depends on.

    Returns:
        The largest error by pattern, dtype and path; and, by pattern, why a format is not there.

    Raises:
        WrongProduct: at the first wrong product.
    """
    passed: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    records = [] if log is None else [r for r in read_jsonl(log) if r.get("setting") == setting]
    done = {(r["pattern"], r["dtype"]): r for r in records if r["thorough"] or not thorough}
    by_pattern = {kind.pattern: kind for kind in kinds}
    for kind, dtype in tqdm(
        list(itertools.product(by_pattern.values(), dtypes)), desc="check", unit="format"
    ):
        record = done.get((kind.pattern, dtype))
        if record is None:
            try:
                errors = _check_kind(kind, DTYPES[dtype], device, thorough, seed)
            except MissingFormat as error:
                missing[kind.pattern] = str(error)
                continue
            verdict = {"pattern": kind.pattern, "dtype": dtype, "thorough": thorough}
            record = {"setting": setting, **verdict, "errors": errors}
            if log is not None:
                append_jsonl(log, record)
        passed.append({name: value for name, value in record.items() if name != "setting"})
    return passed, missing


def _check_kind(
    kind: Kind, dtype: torch.dtype, device: str, thorough: bool, seed: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])
        return values.to(device, dtype)

    out_features, in_features = CHECK_SHAPE
    packed = pack_kind(draw(out_features, in_features), kind)
    weight = packed.unpack()
    worst: dict[str, float] = {}
    for rows, epilogue in _variants(draw, thorough):
        x = draw(rows, in_features) * math.sqrt(in_features)
        exact = _reference(x.double(), weight.double(), epilogue)
        dense = _reference(x, weight, epilogue)
        for path in path_names(packed, rows):
            y = multiply(x, packed, path, **epilogue)
            what = f"{kind.label} in {dtype} on path {path!r}, N={rows}, {sorted(epilogue)}"
            worst[path] = max(
                worst.get(path, 0.0), check_product(y, dense, exact, in_features, what)
            )
    return worst


def _variants(draw: Callable[..., Tensor], thorough: bool) -> Iterable[tuple[int, dict[str, Any]]]:
    """Rows and epilogue of every product that is checked."""
    out_features, in_features = CHECK_SHAPE
    bias, gate = draw(out_features), draw(17, out_features)
    adapter = (draw(ADAPTER_RANK, in_features), draw(out_features, ADAPTER_RANK))
    both = {"bias": bias, "adapter": adapter, "activation": "gelu"}
    found: list[tuple[int, dict[str, Any]]] = [(rows, {}) for rows in ODD_ROWS]
    found += [(17, both)]
    if not thorough:
        return found
    found += [(rows, {"bias": bias}) for rows in ODD_ROWS]
    found += [(17, {"bias": bias, "activation": name}) for name in ACTIVATIONS]
    found += [(17, {"adapter": adapter}), (3, {"bias": bias, "adapter": adapter})]
    found += [(17, {**both, "adapter_first": True})]
    return [*found, (17, {"gate": gate}), (17, {"bias": bias, "adapter": adapter, "gate": gate})]


def _reference(x: Tensor, weight: Tensor, epilogue: dict[str, Any]) -> Tensor:
    """``act(W x + b) * silu(gate) + B A x``, or with ``B A x`` inside the activation, in the dtype of x."""

    def cast(name: str) -> Tensor | None:
        tensor: Tensor | None = epilogue.get(name)
        return None if tensor is None else tensor.to(x.dtype)

    y, low_rank = F.linear(x, weight, cast("bias")), None
    if "adapter" in epilogue:
        a, b = (tensor.to(x.dtype) for tensor in epilogue["adapter"])
        low_rank = F.linear(F.linear(x, a), b)
    is_first = bool(epilogue.get("adapter_first"))
    if low_rank is not None and is_first:
        y = y + low_rank
    if epilogue.get("activation"):
        y = ACTIVATIONS[epilogue["activation"]](y)
    gate = cast("gate")
    if gate is not None:
        y = y * F.silu(gate)
    return y if low_rank is None or is_first else y + low_rank
