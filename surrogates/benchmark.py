"""Benchmark: perplexity and hardware cost of any architecture of a space, in milliseconds, offline.

    bench = surrogates.Benchmark("gpt-s")                    # fitted surrogates that ship with the package
    bench = surrogates.Benchmark("gpt-s", table="mine.npz")  # or fitted to a table of measurements
    bench.query(architectures, "a100", ["perplexity", "prefill_ms"])

What HW-GPT-Bench (2405.10299) promises, for any table of :mod:`surrogates.tables`. Costs with a closed form (params, nonzeros,
weight_bytes, flops) are exact; the rest are surrogates, each with its provenance.

n architectures, m metrics.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, SearchSpace, Workload
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoded
from surrogates.additive.exact import METRICS as EXACT
from surrogates.additive.exact import ExactCosts
from surrogates.additive.surrogate import AdditiveSurrogate
from surrogates.base import FloatArray, Prediction
from surrogates.benchmark_names import Names
from surrogates.device_spec import value_bytes
from surrogates.problem import Problem
from surrogates.simulate import Sampler, Simulation, simulate
from surrogates.storage import read_archive, write_archive
from surrogates.tables import Bad, Key, MeasurementTable, near

_KIND, _SCHEMA = "benchmark", 1
_ASSETS = Path(__file__).parent / "assets"
_MAXIMIZED = ("accuracy",)
Architectures = Sequence[Architecture] | Encoded


def shipped_benchmarks() -> tuple[str, ...]:
    """Names of the benchmarks that need no table."""
    return tuple(sorted(path.stem for path in _ASSETS.glob("*.npz")))


class Benchmark:
    """Surrogates of one space by metric and device.

    Args:
        name: of the space; with a table, it must be that of the table's space.
        table: measurements to fit to (a file or a loaded table); None for the surrogates that ship with the package.
        bad: what to do with impossible rows of a table file: ``refuse`` or ``skip``; by default as it was saved.
        seed: of the rows that surrogates are fitted to.
        most_rows: of the table that a surrogate is fitted to: more cost seconds and change the third digit.

    Raises:
        FileNotFoundError: if the table's file does not exist.
        ValueError: if nothing ships under this name, the table is another space's, or it is damaged.
    """

    def __init__(
        self,
        name: str = "gpt-s",
        table: MeasurementTable | str | os.PathLike[str] | None = None,
        *,
        bad: Bad | None = None,
        seed: int = 0,
        most_rows: int = 2000,
    ) -> None:
        self.name, self.seed, self.most_rows = name, seed, most_rows
        self.space: SearchSpace
        self.workload: Workload
        self.dtype: str  # of weights and activations
        self.keys: tuple[Key, ...]  # (metric, device) of every surrogate there is
        self.table: MeasurementTable | None = None
        self._surrogates: dict[Key, AdditiveSurrogate] = {}
        self._provenance: dict[Key, dict[str, Any]] = {}
        self._problems: dict[tuple[str | None, tuple[str, ...]], Problem] = {}
        if table is None:
            self._load(name)
        else:
            loaded = (
                table if isinstance(table, MeasurementTable) else MeasurementTable.load(table, bad)
            )
            if loaded.space.name != name:
                raise ValueError(
                    f"expected a table of space {name!r}, got one of {loaded.space.name!r}; pass that name"
                )
            self.table, self.space, self.workload = loaded, loaded.space, loaded.workload
            self.dtype = loaded.dtype
            self.keys = tuple(loaded.columns)
        self._prepare()

    # --- what there is ---------------------------------------------------------------------------

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices."""
        return self._names.devices

    def metrics(self, device: str | None = None) -> tuple[str, ...]:
        """Metrics known for a device, those that need none and the exact ones included.

        Raises:
            ValueError: if the device is unknown; the near names are proposed.
        """
        return self._names.metrics(device)

    def provenance(self, metric: str, device: str | None = None) -> dict[str, Any]:
        """Where a metric's numbers come from: source, rows, and how good the surrogate is out of fold.

        Raises:
            ValueError: if the metric or the device is unknown.
        """
        name = self._names.metric(metric, device)
        if name in EXACT:
            return {"source": "closed form of search_spaces.costs", "confidence": "exact"}
        key = self._names.key(name, device)
        self.surrogate(name, device)
        return dict(self._provenance[key])

    # --- answers ---------------------------------------------------------------------------------

    def surrogate(self, metric: str, device: str | None = None) -> AdditiveSurrogate:
        """The fitted surrogate of a metric; from a table it is fitted at the first question.

        Raises:
            ValueError: if the metric or the device is unknown, or the metric has a closed form.
        """
        name = self._names.metric(metric, device)
        if name in EXACT:
            raise ValueError(f"expected a metric that is not exact, got {metric}; use query()")
        key = self._names.key(name, device)
        if key not in self._surrogates:
            assert self.table is not None
            rows = self.table.measured_rows(*key)
            rng = np.random.default_rng(self.seed)
            if len(rows) > self.most_rows:
                rows = np.sort(rng.choice(rows, self.most_rows, replace=False))
            fitted = fit_column(self.table, key, rows)
            self._surrogates[key] = fitted
            self._provenance[key] = {
                **_origin(self.table.provenance, key),
                "rows": len(rows),
                **fitted.out_of_fold_quality,
            }
        return self._surrogates[key]

    def predict(
        self, architectures: Architectures, metric: str, device: str | None = None
    ) -> Prediction:
        """Distribution of one measurement of a metric; ``extrapolates_n`` flags architectures far outside the data.

        Raises:
            ValueError: if the metric or device is unknown, the metric is exact, or an architecture is not in the space.
        """
        surrogate = self.surrogate(metric, device)
        return surrogate.predict(self._inputs.encode(architectures))

    def query(
        self,
        architectures: Architectures,
        device: str | None = None,
        metrics: Sequence[str] | str = ("perplexity",),
        noise: int | None = None,
    ) -> dict[str, FloatArray]:
        """Values of architectures, in the order given.

        Args:
            architectures: n subnets of the space.
            device: for the metrics that need one.
            metrics: names as asked, which are the keys of the answer. ``latency``, ``energy`` and ``memory`` are understood.
            noise: None for expected values; a seed for one measurement each, as the device would scatter (never negative); it depends on
                the seed, the metric, the device and the position in ``architectures``.

        Returns:
            An array of shape (n,) for each metric.

        Raises:
            ValueError: if a metric or the device is unknown (the near names are proposed), or an architecture is not in the space.
        """
        asked = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        names = [self._names.metric(metric, device) for metric in asked]
        encoded = self._inputs.encode(architectures)
        x = self._inputs.describe(encoded)
        if noise is not None and (type(noise) is not int or noise < 0):
            raise ValueError(f"expected noise to be None or a seed of 0 or more, got {noise!r}")
        found: dict[str, FloatArray] = {}
        for metric, name in zip(asked, names, strict=True):
            if name in EXACT:
                found[metric] = self._exact(name, encoded)
                continue
            surrogate = self.surrogate(name, device)
            if noise is None:
                found[metric] = surrogate.mean_of(x, encoded.width_n)
            else:  # a stream of its own for each column, whatever else is asked
                column = zlib.crc32("@".join(self._names.key(name, device)).encode())
                rng = np.random.default_rng([noise, column])
                found[metric] = surrogate.predict(encoded).sample(rng)
            beyond_n = surrogate.is_beyond(x, encoded)
            if beyond_n.any():
                warnings.warn(
                    f"{int(beyond_n.sum())} of {len(encoded)} architectures lie far outside the data of {metric} "
                    f"(the first at position {int(np.flatnonzero(beyond_n)[0])}); their values are extrapolated",
                    stacklevel=2,
                )
        return found

    def problem(
        self, device: str | None = None, metrics: Sequence[str] = ("perplexity", "latency")
    ) -> Problem:
        """Metrics on a device as a multi-objective problem, with bounds, reference point and best known front.

        Raises:
            ValueError: if a metric or device is unknown, or a metric is not to be minimized.
        """
        metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        names = tuple(self._names.metric(metric, device) for metric in metrics)
        wrong = [name for name in names if name in _MAXIMIZED]
        if wrong or not names or len(set(names)) != len(names):
            raise ValueError(
                f"expected one or more different metrics that are minimized, got {list(metrics)}"
                + ("; use perplexity in place of accuracy" if wrong else "")
            )
        key = (self._names.device(device), names)
        if key not in self._problems:

            def function(encoded: Encoded) -> FloatArray:
                x = self._inputs.describe(encoded)
                return np.column_stack(
                    [
                        self._exact(name, encoded)
                        if name in EXACT
                        else self.surrogate(name, device).mean_of(x, encoded.width_n)
                        for name in names
                    ]
                )

            title = f"{self.name} on {device}: {', '.join(names)}"
            choices = ChoiceVectors(self._inputs.encoder)
            self._problems[key] = Problem(title, names, choices, function)
        return self._problems[key]

    def simulate(
        self,
        sampler: Sampler,
        budget: int,
        seeds: Iterable[int],
        device: str | None = None,
        metrics: Sequence[str] = ("perplexity", "latency"),
    ) -> Simulation:
        """Run a searcher on :meth:`problem`, by default of the first device; see :func:`surrogates.simulate.simulate`."""
        device = device or next(iter(self.devices), None)
        return simulate(self.problem(device, metrics), sampler, budget, seeds)

    # --- files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], provenance: dict[str, Any] | None = None) -> None:
        """Write every surrogate fitted so far as one file, which :meth:`open` reads.

        Raises:
            ValueError: if none is fitted yet.
        """
        if not self._surrogates:
            raise ValueError("expected fitted surrogates to save, got none; query them first")
        entries: list[dict[str, Any]] = []
        arrays: dict[str, npt.NDArray[Any]] = {}
        for number, (key, surrogate) in enumerate(self._surrogates.items()):
            meta, own = surrogate.to_parts()
            shared = {name: meta.pop(name) for name in ("space", "workload")}
            entries.append({"key": list(key), "meta": meta, "provenance": self._provenance[key]})
            arrays |= {f"{number}/{name}": array for name, array in own.items()}
        document = {"name": self.name, **shared, "entries": entries, "provenance": provenance or {}}
        write_archive(path, _KIND, _SCHEMA, document, arrays)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """A benchmark that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, foreign or of another version.
        """
        found = cls.__new__(cls)
        found.seed, found.table = 0, None
        found._surrogates, found._provenance, found._problems = {}, {}, {}
        found._read(path)
        found._prepare()
        return found

    def _prepare(self) -> None:
        """Names, inputs of the surrogates and the exact costs, the latter two of the dtype that was measured."""
        self._names = Names(self.keys, self.workload.phase)
        workload, dtype = self.workload, self.dtype
        self._inputs = AdditiveSurrogate(self.space, workload, dtype=dtype)
        encoder, size = self._inputs.encoder, value_bytes(dtype)
        self._exact = ExactCosts(encoder, size, workload.phase, workload.context)

    def _load(self, name: str) -> None:
        if name not in shipped_benchmarks():
            raise ValueError(
                f"expected a benchmark in {', '.join(shipped_benchmarks())}, or a table, got {name!r}{near(name, shipped_benchmarks())}"
            )
        self._read(_ASSETS / f"{name}.npz")

    def _read(self, path: str | os.PathLike[str]) -> None:
        document, arrays = read_archive(path, _KIND, _SCHEMA)
        try:
            self.name = document["name"]
            self.provenance_of_file: dict[str, Any] = document["provenance"]
            for number, entry in enumerate(document["entries"]):
                own = {
                    name.partition("/")[2]: array
                    for name, array in arrays.items()
                    if name.startswith(f"{number}/")
                }
                meta = {
                    **entry["meta"],
                    "space": document["space"],
                    "workload": document["workload"],
                }
                metric, device = entry["key"]
                self._surrogates[metric, device] = AdditiveSurrogate.from_parts(meta, own)
                self._provenance[metric, device] = entry["provenance"]
            first = next(iter(self._surrogates.values()))
        except (KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
            raise ValueError(
                f"expected a {_KIND} of this version in {os.fspath(path)}, got another file ({error})"
            ) from error
        self.space, self.workload, self.dtype = first.space, first.workload, first.dtype
        self.keys = tuple(self._surrogates)


def fit_column(table: MeasurementTable, key: Key, rows: npt.NDArray[np.int64]) -> AdditiveSurrogate:
    """A surrogate of one column, fitted to some of its rows."""
    surrogate = AdditiveSurrogate(table.space, table.workload, dtype=table.dtype)
    repeats_nr = table.columns[key][rows]
    singles = repeats_nr if repeats_nr.shape[1] > 1 else None
    return surrogate.fit(table.encoded.take(rows), table.values(*key)[rows], repeats_nr=singles)


def _origin(provenance: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """Source and confidence of a column: its own in ``provenance["sources"]``, else the table's."""
    found = {"source": "a table of measurements", "confidence": "fitted to measurements"}
    own = provenance.get("sources", {}).get("@".join(key), {})
    return {name: own.get(name, provenance.get(name, text)) for name, text in found.items()}
