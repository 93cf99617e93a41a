"""The door of ``nas.kernels`` as the harness uses it: kinds in their formats, and every path of a product by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from experiments.kernels.shapes import Kind
from nas.kernels import PackedWeight, pack, sparse_linear
from nas.kernels.dispatch import choose
from nas.kernels.paths import is_interpreted, paths

#: The path that dispatch chooses.
DEFAULT = "default"


class MissingFormat(ValueError):
    """The weight cannot be stored in the format."""


def pack_kind(weight: Tensor, kind: Kind, mask: Tensor | None = None) -> PackedWeight:
    """Store a weight in a kind's format.

    Raises:
        MissingFormat: if the format does not take it; the message says why.
    """
    try:
        return pack(weight, kind.sparsity, mask, format=kind.format)
    except ValueError as error:
        if kind.format is None:
            raise
        raise MissingFormat(str(error)) from error


def path_names(packed: PackedWeight, rows: int) -> tuple[str, ...]:
    """Paths that can multiply ``rows`` rows with a packed weight, the door's own choice first; an interpreter is no path."""
    found = paths(packed, rows)
    return (DEFAULT, *(path for path in found if path != "triton" or not is_interpreted()))


def is_dense_path(packed: PackedWeight, rows: int, path: str) -> bool:
    """Whether a path multiplies with a dense copy that it keeps: a fallback, and no win of sparsity's."""
    return (choose(packed, rows).path if path == DEFAULT else path) == "dense"


def multiply(x: Tensor, packed: PackedWeight, path: str = DEFAULT, **epilogue: Any) -> Tensor:
    """``sparse_linear`` on a path.

    Args:
        x: ``[N, K]``.
        packed: ``[M, K]``.
        path: of :func:`path_names`.
        epilogue: bias, activation and so on.
    """
    return sparse_linear(x, packed, path=None if path == DEFAULT else path, **epilogue)


def describe(error: Exception) -> str:
    """What kept a path from running, in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
