"""Files of HW-GPT-Bench (Sukthanker et al., 2405.10299): raw measurements of GPT-S, M and L on 13 devices, and its closed forms.

====================  =========  ============================================================================================
array                 shape      meaning
====================  =========  ============================================================================================
``arch``              (n, 3+2l)  embedding width, layers, bias (0/1), l FFN ratios, l heads; -1 beyond the depth
``ppl``, ``acc``      (n,)       OpenWebText perplexity and next-token accuracy under the trained supernet
``lat_DEVICE``        (n, r)     latency of one forward pass in ms; batch 8, 4, 1 for S, M, L, 1024 tokens
``en_GPU``            (n, r)     energy of one forward pass in mWh (labelled Wh by the authors: 15 ms would take 80 kW)
``encpu_CPU``         (n, 2)     mean and standard deviation of the energy in Wh
``mem_DEVICE``        (n,)       memory in MB (10^6 bytes)
====================  =========  ============================================================================================

Hardware was profiled with a gated three-matrix FFN, perplexity with a two-matrix one, so the two describe different models; the closed
forms below say which.

n architectures, l layers, r repeats.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces import SearchSpace, Workload, preset, presets
from surrogates.additive.encoding import ABSENT, Encoded, Encoder, IntArray
from surrogates.base import FloatArray
from surrogates.tables import NO_DEVICE, Bad, Key, MeasurementTable

DEVICES = (
    *("a100", "a40", "h100", "rtx2080", "rtx3080", "a6000", "v100", "P100"),
    *("cpu_xeon_silver", "cpu_xeon_gold", "cpu_amd_7502", "cpu_amd_7513", "cpu_amd_7452"),
)
JOULES_PER_WH = 3600.0
JOULES_PER_MWH = 3.6
_BATCH = {"gpt-s": 8, "gpt-m": 4, "gpt-l": 1}  # derived exactly from the published FLOP counts
_CONTEXT = 1024
_VOCABULARY = 50254
_HEAD_DIM = 64
_IGNORED = ("params_raw", "flops_raw")  # closed forms below equal them


def is_hw_gpt_bench(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the layout above; a damaged one does not."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if name != "meta.json"]
            return "meta.json" not in archive.files and any(
                name == "arch" or _key(name) is not None for name in names
            )
    except FileNotFoundError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
    ):
        return False


def read_hw_gpt_bench(path: str | os.PathLike[str], bad: Bad = "refuse") -> MeasurementTable:
    """Read such a file.

    Raises:
        ValueError: if an array is damaged or missing, an architecture is in none of the spaces, or a value is impossible; rows are named.
    """
    name = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"expected a whole HW-GPT-Bench file in {name}, got a damaged one ({error})"
        ) from error
    if "arch" not in arrays:
        raise ValueError(
            f"expected a HW-GPT-Bench file with an array arch in {name}, got {sorted(arrays)}"
        )
    arch = arrays.pop("arch")
    if arch.dtype.kind == "f" and np.array_equal(arch, np.round(arch)):
        arch = arch.astype(np.int64)
    if (
        arch.ndim != 2
        or arch.dtype.kind not in "iu"
        or len(arch) == 0
        or arch.shape[1] < 5
        or arch.shape[1] % 2 == 0
    ):
        raise ValueError(
            f"expected arch of whole numbers with 3 + 2 l columns in {name}, got {arch.dtype} of shape {arch.shape}"
        )
    arch_nc = arch.astype(np.int64)
    space = _space_of(arch_nc, name)
    encoded = encode_table(arch_nc, space)
    columns: dict[Key, FloatArray] = {}
    ignored: list[str] = []
    for array, values in arrays.items():
        key = _key(array)
        if key is None:
            if array not in _IGNORED:
                ignored.append(f"array {array}: no column of this layout, ignored")
            continue
        if values.dtype.kind not in "fiu":
            raise ValueError(f"expected numbers in {array} of {name}, got {values.dtype}")
        found = np.asarray(values, dtype=np.float64)
        if array.startswith("encpu_"):
            if found.ndim != 2 or found.shape[1] != 2:
                raise ValueError(
                    f"expected mean and deviation in {array} of {name}, got shape {found.shape}"
                )
            found = found[:, :1]
        if array.startswith("en"):
            found = found * (JOULES_PER_WH if array.startswith("encpu_") else JOULES_PER_MWH)
        elif array.startswith("mem_"):
            found = found * 1e6
        columns[key] = found
    workload = Workload("prefill", _BATCH.get(space.name, 1), _CONTEXT)
    source = {
        "source": "HW-GPT-Bench (2405.10299)",
        "model": "perplexity: two-matrix FFN; costs: gated FFN",
    }
    said = tuple(ignored)
    return MeasurementTable(space, workload, encoded, columns, "float32", source, bad, said)


def _key(array: str) -> Key | None:
    if array in ("ppl", "acc"):
        return {"ppl": "perplexity", "acc": "accuracy"}[array], NO_DEVICE
    for prefix, metric in (
        ("lat_", "prefill_ms"),
        ("encpu_", "energy_j"),
        ("en_", "energy_j"),
        ("mem_", "peak_memory_bytes"),
    ):
        if array.startswith(prefix) and array != prefix:
            return metric, array.removeprefix(prefix)
    return None


def _space_of(arch_nc: IntArray, name: str) -> SearchSpace:
    """The space of HW-GPT-Bench that every row is in."""
    num_layers = (arch_nc.shape[1] - 3) // 2
    best: tuple[int, IntArray] | None = None
    for preset_name in presets():
        space = preset(preset_name) if preset_name.startswith("gpt-") else None
        if space is None or space.depths[-1] != num_layers:
            continue
        wrong = _outside(arch_nc, space)
        if not len(wrong):
            return space
        if best is None or len(wrong) < len(best[1]):
            best = (num_layers, wrong)
    if best is None:
        raise ValueError(
            f"expected architectures of 12, 24 or 36 layers at most in {name}, got columns for {num_layers}"
        )
    shown = ", ".join(str(row) for row in best[1][:5])
    raise ValueError(
        f"expected architectures of a space of HW-GPT-Bench in {name}, got {len(best[1])} outside it (rows {shown})"
    )


def _split(arch_nc: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Width, depth, bias, ratios and heads."""
    num_layers = (arch_nc.shape[1] - 3) // 2
    ratios, heads = arch_nc[:, 3 : 3 + num_layers], arch_nc[:, 3 + num_layers :]
    return arch_nc[:, 0], arch_nc[:, 1], arch_nc[:, 2], ratios, heads


def _outside(arch_nc: IntArray, space: SearchSpace) -> IntArray:
    """Rows that are no architecture of the space."""
    width, depth, bias, ratios, heads = _split(arch_nc)
    present = np.arange(ratios.shape[1]) < depth[:, None]
    ok = np.isin(width, space.embed_dims) & np.isin(depth, space.depths) & np.isin(bias, (0, 1))
    for values, allowed in ((ratios, space.ffn_ratios), (heads, space.num_heads)):
        ok &= np.where(present, np.isin(values, allowed), values == ABSENT).all(axis=1)
    return np.flatnonzero(~ok)


def encode_table(arch_nc: npt.ArrayLike, space: SearchSpace) -> Encoded:
    """Rows of ``arch`` as encoded architectures.

    Args:
        arch_nc: as in the file, shape (n, 3 + 2 l).
        space: a dense space of HW-GPT-Bench.

    Raises:
        ValueError: if a row is outside the space; it is named.
    """
    rows = np.asarray(arch_nc, dtype=np.int64)
    if rows.ndim != 2 or rows.shape[1] != 3 + 2 * space.depths[-1]:
        raise ValueError(
            f"expected {3 + 2 * space.depths[-1]} columns for space {space.name!r}, got shape {rows.shape}"
        )
    wrong = _outside(rows, space)
    if len(wrong):
        raise ValueError(
            f"expected architectures of space {space.name!r}, got {rows[wrong[0]].tolist()} in row {wrong[0]}"
        )
    encoder = Encoder(space)
    width, depth, bias, ratios, heads = _split(rows)

    def number(values: IntArray, parts: tuple[Any, ...]) -> IntArray:
        by_value = {int(part.width): i for i, part in enumerate(parts)} | {ABSENT: ABSENT}
        lookup = np.full(max(by_value) + 2, ABSENT, dtype=np.int64)
        for value, i in by_value.items():
            lookup[value + 1] = i
        found: IntArray = lookup[values + 1]
        return found

    return Encoded(
        np.searchsorted(space.embed_dims, width).astype(np.int64),
        depth,
        bias,
        number(heads, encoder.attention_parts),
        number(ratios, encoder.ffn_parts),
        space.fingerprint,
    )


def table_rows(encoded: Encoded, space: SearchSpace) -> IntArray:
    """Inverse of :func:`encode_table`."""
    encoder = Encoder(space)

    def values(numbers: IntArray, parts: tuple[Any, ...]) -> IntArray:
        lookup = np.array([*(int(part.width) for part in parts), ABSENT], dtype=np.int64)
        found: IntArray = lookup[numbers]
        return found

    return np.column_stack(
        [
            np.array(space.embed_dims)[encoded.width_n],
            encoded.depth_n,
            encoded.bias_n,
            values(encoded.ffn_nl, encoder.ffn_parts),
            values(encoded.attention_nl, encoder.attention_parts),
        ]
    ).astype(np.int64)


def _sums(arch_nc: npt.ArrayLike) -> Mapping[str, IntArray]:
    width, depth, bias, ratios, heads = _split(np.asarray(arch_nc, dtype=np.int64))
    ratios, heads = np.maximum(ratios, 0).sum(axis=1), np.maximum(heads, 0).sum(axis=1)
    return {"E": width, "L": depth, "b": bias, "M": ratios, "H": heads}


def profiled_params(arch_nc: npt.ArrayLike) -> IntArray:
    """Parameters of the models whose latency, energy and memory were measured: gated FFN, untied output layer.

    ``2 V E + 2 E + 256 H E + 3 E^2 M + 4 E L + b (192 H + 2 L E + 2 E M)``, H and M the sums of heads and ratios over the layers.
    """
    s = _sums(arch_nc)
    E, L, b, M, H = s["E"], s["L"], s["b"], s["M"], s["H"]
    weights = 2 * _VOCABULARY * E + 2 * E + 4 * _HEAD_DIM * H * E + 3 * E**2 * M + 4 * E * L
    total: IntArray = weights + b * (3 * _HEAD_DIM * H + 2 * L * E + 2 * E * M)
    return total


def trained_params(arch_nc: npt.ArrayLike) -> IntArray:
    """Parameters of the models whose perplexity was measured, output layer counted apart: two-matrix FFN."""
    s = _sums(arch_nc)
    E, L, b, M, H = s["E"], s["L"], s["b"], s["M"], s["H"]
    weights = 2 * _VOCABULARY * E + 2 * E + 4 * _HEAD_DIM * H * E + 2 * E**2 * M + 4 * E * L
    total: IntArray = weights + b * (3 * _HEAD_DIM * H + 2 * L * E + E * M)
    return total


def profiled_flops(arch_nc: npt.ArrayLike, batch: int = 8) -> IntArray:
    """FLOPs of one profiled forward pass of ``batch`` x 1024 tokens; attention scores are not counted."""
    s = _sums(arch_nc)
    E, M, H = s["E"], s["M"], s["H"]
    per_token = _VOCABULARY * E + 4 * _HEAD_DIM * H * E + 3 * E**2 * M
    total: IntArray = 2 * batch * _CONTEXT * per_token
    return total
