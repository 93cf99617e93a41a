"""Tensors on disk: one safetensors file and the JSON beside it that names, describes and guards it.

The JSON holds the file's name and SHA-256 and is replaced last, so a reader sees the old pair or the new one, whenever the writer
was killed. It also holds the SHA-256 of its own ``info``, so that a flipped bit in either file is noticed.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from nas.files import write_bytes_atomic, write_json_atomic

_FORMAT, _VERSION = "sparse-gpt-nas", 1
_FIELDS = frozenset({"format", "version", "kind", "file", "sha256", "info", "info_sha256"})


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or not ours."""


def save_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]
) -> None:
    """Write ``path`` (JSON) and a safetensors file named after the content.

    Args:
        path: of the JSON; the tensors go beside it as ``<stem>-<hash>.safetensors``.
        kind: what the file is, for example ``"supernet"``; a reader that wants another kind refuses it.
        tensors: name to tensor.
        info: JSON values to keep beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file = path.with_name(f"{path.stem}-{digest[:12]}.safetensors")
    write_bytes_atomic(file, content)
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": kind,
        "file": file.name,
        "sha256": digest,
    }
    write_json_atomic(path, header | {"info_sha256": _digest(info), "info": dict(info)})
    for old in path.parent.glob(f"{glob.escape(path.stem)}-*.safetensors"):
        if old != file and len(old.stem) == len(path.stem) + 13:
            old.unlink(missing_ok=True)


def load_info(path: Path, kind: str) -> dict[str, Any]:
    """The ``info`` of a checkpoint with the tensors' ``sha256``, without reading them.

    Raises:
        CheckpointError: if the JSON is missing, damaged or of another kind.
    """
    header = _header(path, kind)
    return {**header["info"], "sha256": header["sha256"]}


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and ``info`` of a checkpoint.

    Raises:
        CheckpointError: if a file is missing, truncated, altered or foreign.
    """
    header = _header(path, kind)
    file = path.with_name(str(header["file"]))
    if not file.exists():
        raise CheckpointError(
            f"expected the tensors of {path} in {file}, found no such file; restore it or delete {path}"
        )
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != header["sha256"]:
        raise CheckpointError(
            f"expected {file} with sha256 {str(header['sha256'])[:12]}..., got {digest[:12]}...: it is truncated or altered; "
            f"restore it from a copy, or delete {path} to start again"
        )
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"expected a safetensors file, got {file}: {error}") from error
    return tensors, {**header["info"], "sha256": header["sha256"]}


def _header(path: Path, kind: str) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"expected a {kind} at {path}, found no such file; check the path")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"expected a {kind} at {path}, got {type(error).__name__}: {error}; it is damaged"
        ) from error
    is_ours = isinstance(header, dict) and header.get("format") == _FORMAT
    if not is_ours or header.get("version") != _VERSION:
        raise CheckpointError(
            f"expected {path} to be a checkpoint JSON of {_FORMAT} (version {_VERSION}), got something else; it is foreign or damaged"
        )
    if header.get("kind") != kind:
        raise CheckpointError(
            f"expected a {kind} at {path}, got a {header.get('kind')}; pass the right file"
        )
    file, info = header.get("file"), header.get("info")
    is_name = isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")
    is_whole = (
        set(header) in (_FIELDS, _FIELDS - {"info_sha256"}) and is_name and isinstance(info, dict)
    )
    # The first files were written without a digest.
    if not is_whole or header.get("info_sha256") not in (None, _digest(info)):
        raise CheckpointError(
            f"expected the fields of {path} as they were written, got altered ones; restore it from a copy"
        )
    return dict(header)


def _digest(info: Mapping[str, Any]) -> str:
    fields = json.loads(json.dumps(dict(info)))  # tuples and number keys become JSON's own
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
