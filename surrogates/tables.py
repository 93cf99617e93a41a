"""MeasurementTable: what was measured of many architectures on many devices, in one file that anybody can write.

A table is a ``.npz`` with a JSON document ``meta.json`` and arrays, nothing pickled:

====================  =========  ============================================================================================
array                 shape      meaning
====================  =========  ============================================================================================
``width_n``           (n,)       position of the embedding width among the space's widths
``depth_n``           (n,)       layers
``bias_n``            (n,)       1 with biases, 0 without
``attention_nl``      (n, l)     attention part of each layer, by its position in ``meta["attention_parts"]``; -1 beyond the depth
``ffn_nl``            (n, l)     FFN part of each layer, by its position in ``meta["ffn_parts"]``; -1 beyond the depth
``METRIC@DEVICE``     (n, r)     single measurements, NaN where there are fewer than r; ``METRIC@`` where no device matters
====================  =========  ============================================================================================

``meta``: ``space`` (its JSON), ``workload`` [phase, batch, context], ``dtype``, ``provenance`` (any JSON; ``source`` and ``confidence`` are
what :class:`surrogates.Benchmark` says of every column, ``sources[METRIC@DEVICE]`` may hold those of one). Metrics and units:
``perplexity``, ``accuracy``, ``decode_ms``, ``prefill_ms``, ``energy_j``, ``peak_memory_bytes``. HW-GPT-Bench's own files are read too
(:mod:`surrogates.hw_gpt_bench`).

n architectures, l layers, r repeats.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, SearchSpace, Workload
from surrogates.additive.encoding import ENCODED_ARRAYS, Encoded, Encoder, Part
from surrogates.base import FloatArray
from surrogates.measured import typical_values
from surrogates.storage import read_archive, write_archive

METRICS = (
    *("perplexity", "accuracy", "decode_ms", "prefill_ms"),
    *("energy_j", "peak_memory_bytes"),
)
NO_DEVICE = ""  # of metrics that are the same everywhere
_SCHEMA = 1
_KIND = "measurement-table"
_ABSURD = (
    1000.0  # times more or less than the column's median: another unit, or a counter gone wrong
)
Bad = Literal["refuse", "skip"]
Key = tuple[str, str]


def near(name: str, known: Sequence[str]) -> str:
    """``; did you mean ...?`` where a known name is close."""
    found = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(found)}?" if found else ""


@dataclass(frozen=True, eq=False)
class MeasurementTable:
    """Measurements of n architectures of one space under one workload.

    Args:
        space: the search space.
        workload: what the models were asked to do.
        encoded: the architectures.
        columns: single measurements of shape (n, r) by (metric, device); NaN where there is none.
        dtype: of weights and activations.
        provenance: where the numbers come from, JSON values.
        bad: what to do with a row whose measurement is impossible: ``refuse`` the table, or ``skip`` the row's column and say so in
            ``skipped``.

    Raises:
        ValueError: if a column is unknown, has another length, or holds impossible values; their rows are named.
    """

    space: SearchSpace
    workload: Workload
    encoded: Encoded
    columns: Mapping[Key, FloatArray]
    dtype: str = "float32"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    bad: Bad = "refuse"
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bad not in ("refuse", "skip"):
            raise ValueError(f"expected bad to be 'refuse' or 'skip', got {self.bad!r}")
        if not self.columns:
            raise ValueError(
                "expected a table with one column or more of measurements, got none; "
                f"a column is called METRIC@DEVICE with a metric of {', '.join(METRICS)}"
            )
        columns, said = {}, list(self.skipped)
        for (metric, device), values in self.columns.items():
            if metric not in METRICS:
                raise ValueError(
                    f"expected columns of {', '.join(METRICS)}, got {metric!r}{near(metric, METRICS)}"
                )
            name = f"{metric}@{device}"
            array = np.array(values, dtype=np.float64)
            if array.ndim == 1:
                array = array[:, None]
            if array.ndim != 2 or len(array) != len(self.encoded):
                raise ValueError(
                    f"expected {len(self.encoded)} rows in column {name}, one per architecture, got shape {array.shape}"
                )
            columns[metric, device] = array
            if (
                self.bad == "skip"
            ):  # a bad repeat costs itself, a row without a good one its place in the column
                with np.errstate(invalid="ignore"):
                    wild_nr = np.isinf(array) | (array <= 0)
                no_good_n = np.all(wild_nr | np.isnan(array), axis=1)
                spoiled_n = np.logical_and(np.any(wild_nr, axis=1), ~no_good_n)
                if spoiled_n.any():
                    said.append(
                        f"column {name}: {int(wild_nr[spoiled_n].sum())} repeats of {int(spoiled_n.sum())} rows "
                        f"are not above 0 or infinite (the first in row {int(np.flatnonzero(spoiled_n)[0])}): left out"
                    )
                    array[wild_nr & spoiled_n[:, None]] = np.nan
            wrong_n, why = _impossible(array)
            if wrong_n.any():
                rows = np.flatnonzero(wrong_n)
                shown = ", ".join(str(row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
                text = (
                    f"column {name}: {len(rows)} of {len(array)} rows {why[rows[0]]} (rows {shown})"
                )
                if self.bad == "refuse":
                    raise ValueError(
                        f"expected possible measurements, got {text}; mend the table, or leave those rows out of the "
                        "column with bad='skip'"
                    )
                said.append(f"{text}: left out")
                array[wrong_n] = np.nan
            array.setflags(write=False)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "skipped", tuple(said))

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices with a column, in the order of the columns."""
        return tuple(dict.fromkeys(device for _, device in self.columns if device != NO_DEVICE))

    def key(self, metric: str, device: str | None) -> Key:
        """The column of a metric on a device (or of a metric that needs none).

        Raises:
            ValueError: if the table has no such column; the near names are proposed.
        """
        wanted = (metric, device or NO_DEVICE)
        if (metric, NO_DEVICE) in self.columns:
            return metric, NO_DEVICE
        if wanted in self.columns:
            return wanted
        if device is not None and device not in self.devices:
            raise ValueError(
                f"expected a device in {', '.join(self.devices)}, got {device!r}{near(device, self.devices)}"
            )
        known = sorted({m for m, d in self.columns if d in (NO_DEVICE, device)})
        raise ValueError(
            f"expected a metric in {', '.join(known)} for device {device}, got {metric!r}{near(metric, known)}"
        )

    def repeats(self, metric: str, device: str | None = None) -> FloatArray:
        """Single measurements, shape (n, r); a row of NaN was not measured."""
        return self.columns[self.key(metric, device)]

    def values(self, metric: str, device: str | None = None) -> FloatArray:
        """Trimmed mean of each row's measurements, shape (n,); NaN where there is none."""
        return typical_values(self.repeats(metric, device))

    def measured_rows(self, metric: str, device: str | None = None) -> npt.NDArray[np.int64]:
        """Rows with a measurement."""
        return np.flatnonzero(np.isfinite(self.repeats(metric, device)).any(axis=1))

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        workload: Workload,
        architectures: Sequence[Architecture],
        columns: Mapping[Key, npt.ArrayLike],
        *,
        dtype: str = "float32",
        provenance: Mapping[str, Any] | None = None,
        bad: Bad = "refuse",
    ) -> MeasurementTable:
        """A table of architectures that were measured here.

        Raises:
            ValueError: if an architecture is not in the space, or a column is impossible.
        """
        arrays = {key: np.asarray(values, dtype=np.float64) for key, values in columns.items()}
        encoded = Encoder(space)(architectures)
        return cls(space, workload, encoded, arrays, dtype, dict(provenance or {}), bad)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one file."""
        encoder, encoded = Encoder(self.space), self.encoded
        meta = {
            "space": self.space.to_json(),
            "workload": [self.workload.phase, self.workload.batch, self.workload.context],
            "dtype": self.dtype,
            "provenance": dict(self.provenance),
            "bad": self.bad,
            "attention_parts": [_spelled(part) for part in encoder.attention_parts],
            "ffn_parts": [_spelled(part) for part in encoder.ffn_parts],
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            name: getattr(encoded, name).astype(np.int32) for name in ENCODED_ARRAYS
        }
        arrays |= {
            f"{metric}@{device}": values for (metric, device), values in self.columns.items()
        }
        write_archive(path, _KIND, _SCHEMA, meta, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], bad: Bad | None = None) -> MeasurementTable:
        """Read a table of this project's, or a file of HW-GPT-Bench's.

        Args:
            path: the file.
            bad: ``refuse`` a table with impossible rows, or ``skip`` those; by default as it was when the table was saved.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, foreign, of another version, or holds impossible values; their rows are named.
        """
        from surrogates.hw_gpt_bench import is_hw_gpt_bench, read_hw_gpt_bench

        if not os.path.exists(path):
            raise FileNotFoundError(
                f"expected a table of measurements (.npz, see surrogates/tables.py), got no file {os.fspath(path)}"
            )
        if is_hw_gpt_bench(path):
            return read_hw_gpt_bench(path, bad or "refuse")
        meta, arrays = read_archive(path, _KIND, _SCHEMA)
        try:
            space = SearchSpace.from_json(meta["space"])
            encoder = Encoder(space)
            for name in ("attention_parts", "ffn_parts"):
                if meta[name] != [_spelled(part) for part in getattr(encoder, name)]:
                    raise ValueError(f"its {name} are not those of its space in this version")
            own = {name: arrays.pop(name) for name in ENCODED_ARRAYS}
            encoded = encoder.check(Encoded.from_arrays(own, space.fingerprint))
            columns: dict[Key, FloatArray] = {}
            for name, values in arrays.items():
                metric, at, device = name.partition("@")
                if not at:
                    raise ValueError(f"its array {name!r} is no column METRIC@DEVICE")
                columns[metric, device] = values
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(
                f"expected a {_KIND} of this version in {os.fspath(path)}, got another file ({error})"
            ) from error
        return cls(
            space,
            Workload(*meta["workload"]),
            encoded,
            columns,
            meta["dtype"],
            meta["provenance"],
            bad or meta["bad"],
        )


def _spelled(part: Part) -> str:
    return f"{part.width:g} {part.sparsity} {part.adapter_rank}"


def _impossible(values_nr: FloatArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.object_]]:
    """Rows that no measurement can give, and why."""
    n = len(values_nr)
    why = np.full(n, "", dtype=object)
    missing_n = np.isnan(values_nr).all(axis=1)
    with np.errstate(invalid="ignore"):
        negative_n = np.any(values_nr <= 0, axis=1)
    infinite_n = np.isinf(values_nr).any(axis=1)
    clean_n = ~(missing_n | negative_n | infinite_n)
    absurd_n = np.zeros(n, dtype=np.bool_)
    if clean_n.any():
        typical_n = typical_values(values_nr)
        ratio_n = np.where(clean_n, typical_n, 1.0) / np.median(typical_n[clean_n])
        absurd_n = clean_n & ((ratio_n > _ABSURD) | (ratio_n < 1.0 / _ABSURD))
    why[absurd_n] = f"are {_ABSURD:g} times more or less than the column's median"
    why[infinite_n] = "are infinite"
    why[negative_n] = "are not above 0"
    why[missing_n] = "are NaN (not measured)"
    return missing_n | negative_n | infinite_n | absurd_n, why
