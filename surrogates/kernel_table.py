"""KernelTable: microseconds of sparse products measured on one device, read by kernel dispatch and by the latency surrogate.

A row is one (dtype, out_features, in_features, tokens, sparsity, format) with the fastest time of every path that was tried. The file is
JSON with provenance: ``{"schema", "device", "provenance", "rows"}``, where a row has the fields of :class:`KernelRow`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from search_spaces import Sparsity
from search_spaces.formats import check_format
from surrogates.devices import value_bytes
from surrogates.storage import replace_file

SCHEMA = 1
PATHS = ("dense", "unpack", "native", "triton")  # nas.kernels.paths says what they are
_NEAR = 1.0 + 1e-9  # doublings: a factor of two


@dataclass(frozen=True)
class KernelRow:
    """One measured product.

    Args:
        dtype: of weight and input.
        out_features: M.
        in_features: K.
        tokens: rows of the input.
        sparsity: short string; ``dense`` for the dense product itself.
        format: the stored format.
        us: median microseconds by path (``dense``, ``unpack``, ``native``, ``triton``).
        config: tile configuration of the fastest Triton run; None where Triton was not tried.
    """

    dtype: str
    out_features: int
    in_features: int
    tokens: int
    sparsity: str
    format: str
    us: Mapping[str, float]
    config: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        sparsity = Sparsity.parse(self.sparsity)
        sizes = (self.out_features, self.in_features, self.tokens)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"expected positive whole sizes, got {sizes}")
        sparsity.check_shape(self.out_features, self.in_features)
        check_format(sparsity, value_bytes(self.dtype), self.format)
        times = self.us.values()
        if not self.us or not all(
            type(t) in (int, float) and math.isfinite(t) and t > 0 for t in times
        ):
            raise ValueError(f"expected positive microseconds by path, got {dict(self.us)}")
        if set(self.us) - set(PATHS):
            raise ValueError(f"expected paths of {PATHS}, got {sorted(self.us)}")

    @property
    def is_copy_only(self) -> bool:
        """Whether the only time of a sparse weight is that of its dense copy."""
        return self.format != "dense" and set(self.us) == {"dense"}

    @property
    def us_without_copy(self) -> float:
        """Microseconds of the fastest path that keeps no dense copy of a sparse weight."""
        is_dense = self.format == "dense"
        return min(t for path, t in self.us.items() if is_dense or path != "dense")


@dataclass(frozen=True)
class BestPath:
    """The fastest allowed path of the nearest measured product."""

    path: str
    us: float
    config: Mapping[str, int] | None


@dataclass(frozen=True, eq=False)
class KernelTable:
    """Measured products of one device.

    Args:
        device: model name of the processor.
        rows: what was measured.
        provenance: date, command, versions, threads.
    """

    device: str
    rows: Sequence[KernelRow]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def best(
        self,
        dtype: str,
        shape: tuple[int, int],
        tokens: int,
        sparsity: str,
        stored: str,
        allowed: Collection[str],
    ) -> BestPath | None:
        """The fastest allowed path of the nearest measured product, None where nothing near enough was measured.

        Near: the same dtype, pattern and format; each dimension within a factor of two, tokens within a factor of two, the level within
        0.1. Distances are logarithmic, so that of two sizes the nearer by ratio is taken.
        """
        found = self._nearest(dtype, shape, tokens, sparsity, stored)
        times = {} if found is None else {p: t for p, t in found.us.items() if p in allowed}
        if found is None or not times:
            return None
        path = min(times, key=lambda name: (times[name], name))
        return BestPath(path, times[path], found.config if path == "triton" else None)

    def product_us(
        self, dtype: str, shape: tuple[int, int], tokens: int, sparsity: str, stored: str
    ) -> float | None:
        """Microseconds of a product by the fastest path that keeps no dense copy: what a model of stored bytes runs.

        Exact where it was measured. Elsewhere the time of the nearest measured product of the same dtype, pattern and format, however
        far in size and level, times the ratio of the stored bytes; None where no such product has tokens within a factor of two.
        """
        key = (dtype, shape, tokens, sparsity, stored)
        if key not in self._products:
            self._products[key] = self._product_us(*key)
        return self._products[key]

    def _product_us(
        self, dtype: str, shape: tuple[int, int], tokens: int, sparsity: str, stored: str
    ) -> float | None:
        found = self._nearest(dtype, shape, tokens, sparsity, stored, math.inf, needs_stored=True)
        if found is None:
            return None

        def num_bytes(text: str, rows: int, columns: int) -> int:
            return Sparsity.parse(text).stored_bytes(rows, columns, value_bytes(dtype), stored)

        measured = num_bytes(found.sparsity, found.out_features, found.in_features)
        return found.us_without_copy * num_bytes(sparsity, *shape) / measured

    def has_tokens(self, dtype: str, tokens: int) -> bool:
        """Whether dense products of this dtype were measured with tokens within a factor of two."""
        dense = self._by_pattern.get((dtype, "dense", "dense", 0, 0, 0), ())
        return any(abs(math.log2(row.tokens / tokens)) <= _NEAR for row in dense)

    def part(self, dtype: str, tokens: int) -> KernelTable:
        """The rows that :meth:`product_us` reads for this dtype and number of tokens."""
        rows = [
            row
            for row in self.rows
            if row.dtype == dtype and abs(math.log2(row.tokens / tokens)) <= _NEAR
        ]
        return KernelTable(self.device, tuple(rows), self.provenance)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal ones mean the same device and times."""
        content = {name: self.to_json()[name] for name in ("device", "rows")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _nearest(
        self,
        dtype: str,
        shape: tuple[int, int],
        tokens: int,
        sparsity: str,
        stored: str,
        limit: float = 1.0,
        needs_stored: bool = False,
    ) -> KernelRow | None:
        """The row of least distance whose sizes and level are within a limit, and whose tokens within a factor of two."""
        asked = Sparsity.parse(sparsity)
        key = (dtype, stored, asked.pattern, asked.size, asked.n, asked.m)
        nearest, least = None, math.inf
        for row in self._by_pattern.get(key, ()):
            gaps = (
                abs(math.log2(row.out_features / shape[0])),
                abs(math.log2(row.in_features / shape[1])),
                abs(math.log2(row.tokens / tokens)),
                10.0 * abs(Sparsity.parse(row.sparsity).level - asked.level),
            )
            is_near = gaps[2] <= _NEAR and max(gaps) <= limit + 1e-9
            if is_near and sum(gaps) < least and not (needs_stored and row.is_copy_only):
                nearest, least = row, sum(gaps)
        return nearest

    @functools.cached_property
    def _products(self) -> dict[tuple[Any, ...], float | None]:
        return {}

    @functools.cached_property
    def _by_pattern(self) -> dict[tuple[Any, ...], list[KernelRow]]:
        found: dict[tuple[Any, ...], list[KernelRow]] = {}
        for row in self.rows:
            s = Sparsity.parse(row.sparsity)
            found.setdefault((row.dtype, row.format, s.pattern, s.size, s.n, s.m), []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        rows = [asdict(row) for row in self.rows]
        return {
            "schema": SCHEMA,
            "device": self.device,
            "provenance": dict(self.provenance),
            "rows": rows,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, one row a line, in one step: a reader sees the old file or the new."""
        content = self.to_json()
        rows = ",\n".join(json.dumps(row, allow_nan=False) for row in content.pop("rows"))
        head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
        replace_file(path, f'{head},\n "rows": [\n{rows}\n]}}\n'.encode())

    @classmethod
    def from_json(cls, data: Any) -> KernelTable:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if it is no such content; row numbers (from 0) are named.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"expected a kernel table of schema {SCHEMA}, got {str(data)[:60]}")
        if not {"device", "rows", "provenance"} <= set(data) or not isinstance(data["rows"], list):
            raise ValueError(f"expected a device, rows and a provenance, got {sorted(data)}")
        rows = []
        for number, fields in enumerate(data["rows"]):
            try:
                rows.append(KernelRow(**fields))
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"row {number}: {error}") from error
        return cls(str(data["device"]), tuple(rows), dict(data["provenance"]))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KernelTable:
        """Read a table.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, foreign or of another version; row numbers are named.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected a kernel table of this version in {os.fspath(path)}, got another file ({error}); make it with nas tune"
            ) from error


def slug(device: str) -> str:
    """A device's name as a file name: ``NVIDIA H200`` is ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
