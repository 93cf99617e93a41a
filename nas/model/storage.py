"""Saving and loading a standalone GPT and a supernet: safetensors and JSON, sparse weights in their stored format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.files import PathLike
from nas.kernels import PackedWeight, from_tensors
from nas.model.checkpoint import CheckpointError, load_info, load_tensors, save_tensors
from nas.model.gpt import GPT, Part, fused_linears
from nas.model.supernet import Supernet
from search_spaces import Architecture, Family, SearchSpace


def save_gpt(model: GPT, path: PathLike, info: Mapping[str, Any] | None = None) -> None:
    """Write a model to ``path`` (JSON) and a safetensors file beside it.

    Args:
        model: from :func:`nas.model.extract`.
        path: of the JSON.
        info: JSON values to keep with it.
    """
    tensors: dict[str, Tensor] = {}
    for name, part in model.parts().items():
        if isinstance(part, PackedWeight):
            tensors |= {f"{name}.{key}": value for key, value in part.tensors().items()}
        else:
            tensors[name] = part
    fields = {"family": model.family.to_json(), "architecture": model.architecture.to_json()}
    save_tensors(Path(path), "gpt", tensors, {**fields, "extra": dict(info or {})})


def load_gpt(path: PathLike, device: torch.device | str = "cpu") -> GPT:
    """Read a model that :func:`save_gpt` wrote; logits are bit-equal.

    Args:
        path: of the JSON, or of the folder that holds ``model.json``.
        device: where to put it.

    Raises:
        CheckpointError: if a file is missing, truncated, altered or foreign.
    """
    path = Path(path) / "model.json" if Path(path).is_dir() else Path(path)
    tensors, info = load_tensors(path, "gpt")
    try:
        family = Family.from_json(info["family"])
        architecture = Architecture.from_json(info["architecture"])
        parts: dict[str, Part] = {}
        sparse: set[str] = set()
        for index in range(architecture.depth):
            for shape in fused_linears(family, architecture, index):
                name = f"layers.{index}.{shape.name}.weight"
                if not shape.sparsity.is_dense:
                    prefix = f"{name}."
                    # The names say which format it is: a file keeps the one it was written in.
                    stored = {
                        k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)
                    }
                    size = (shape.out_features, shape.in_features)
                    parts[name] = from_tensors(shape.sparsity, size, stored)
                    sparse |= {f"{prefix}{key}" for key in stored}
        parts |= {name: tensor for name, tensor in tensors.items() if name not in sparse}
        return GPT(family, architecture, parts).eval().to(device)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"expected a whole model at {path}: {error}; extract it again"
        ) from error


def save_supernet(
    supernet: Supernet, path: PathLike, info: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write a supernet to ``path`` (JSON) and a safetensors file beside it.

    Args:
        supernet: the weights.
        path: of the JSON.
        info: JSON values to keep with it: recipe, tokens, loss curve.
        dtype: of the stored weights; bfloat16 halves the file.
    """
    tensors = {name: p.detach().to(dtype) for name, p in supernet.named_parameters()}
    save_tensors(Path(path), "supernet", tensors, {"space": supernet.space.to_json(), **info})


def load_supernet(
    path: PathLike, device: torch.device | str = "cpu"
) -> tuple[Supernet, dict[str, Any]]:
    """Read a supernet that :func:`save_supernet` wrote, and its ``info``; weights become float32.

    Raises:
        CheckpointError: if a file is missing, truncated, altered or foreign.
    """
    tensors, info = load_tensors(Path(path), "supernet")
    try:
        supernet = Supernet(SearchSpace.from_json(info["space"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"expected a supernet with its space at {path}, got: {error}; train it again"
        ) from error
    expected = dict(supernet.named_parameters())
    if set(tensors) != set(expected) or any(
        tensors[n].shape != p.shape for n, p in expected.items()
    ):
        raise CheckpointError(
            f"expected the weights of space {supernet.space.name!r} in {path}, got others; train it again"
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
    return supernet.to(device), info


def supernet_info(path: PathLike) -> dict[str, Any]:
    """The ``info`` of a stored supernet without reading its weights.

    Raises:
        CheckpointError: if the JSON is missing, damaged or foreign.
    """
    return load_info(Path(path), "supernet")
