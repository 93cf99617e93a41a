"""One .npz file of arrays plus one JSON document: how a fitted surrogate is kept. Nothing is unpickled.

Its way of replacing a file in one step serves kernel tables as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_META = "meta.json"


def write_archive(
    path: str | os.PathLike[str],
    kind: str,
    schema: int,
    meta: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Write arrays and a JSON document as one file, in one step: a reader sees the old file or the new.

    Args:
        path: the file, conventionally ``*.npz``.
        kind: what the file is, checked by :func:`read_archive`.
        schema: version of the layout, checked by :func:`read_archive`.
        meta: JSON values (no NaN).
        arrays: numeric or boolean arrays by name.
    """
    text = json.dumps({"kind": kind, "schema": schema, **meta}, allow_nan=False)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{_META: np.frombuffer(text.encode(), dtype=np.uint8)}, **arrays)  # type: ignore[arg-type]
    replace_file(path, buffer.getvalue())


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file in one step, its folder made when missing: a kill or a full disk leaves the old one whole."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_archive(
    path: str | os.PathLike[str], kind: str, schema: int
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Inverse of :func:`write_archive`; every byte is checked against the archive's checksums.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, damaged, of another kind or another schema.
    """
    name = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop(_META).tobytes().decode())
        found = (meta.pop("kind"), meta.pop("schema"))
    except FileNotFoundError:
        raise
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"expected a {kind} saved by this package in {name}, got a damaged or foreign file ({error}); fit and save it again"
        ) from error
    if found != (kind, schema):
        raise ValueError(
            f"expected {kind} of schema {schema} in {name}, got {found[0]!r} of schema {found[1]!r}; fit and save it again"
        )
    return meta, arrays
