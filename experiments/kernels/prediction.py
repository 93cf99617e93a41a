"""The bound of a sparse product's speed-up: what its bytes, its instructions and its tile in shared memory leave of a card.

While memory delivers a dense weight's two bytes, a multiprocessor issues so many instructions. A sparse product reads fewer bytes but
must decode them in the same slots, so

    speed-up <= min(byte ratio, 0.75 slots / instructions, shared-memory cap, POPC cap)

with instructions counted statically in the compiled kernel: without stalls, bank conflicts or latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.kernels.cards import POPC, SHARED_BYTES, VALUE_BYTES, Card
from experiments.kernels.shapes import Kind

ISSUE_SHARE = 0.75  # of the slots that code with loads and barriers fills, at best
# A weight is written into shared memory once and read from there once.
TILE_BYTES = 2 * VALUE_BYTES
REFERENCE_SHAPE = (28672, 7168)


@dataclass(frozen=True)
class Prediction:
    """Caps of the speed-up over a dense product.

    Args:
        byte_ratio: dense bytes over stored bytes.
        issue_cap: from the instructions.
        shared_cap: from the tile that passes through shared memory.
        popc_cap: from population counts; infinite without.
    """

    byte_ratio: float
    issue_cap: float
    shared_cap: float
    popc_cap: float

    @property
    def caps(self) -> dict[str, float]:
        """All by name."""
        return {
            "bytes": self.byte_ratio,
            "issue": self.issue_cap,
            "shared memory": self.shared_cap,
            "POPC": self.popc_cap,
        }

    @property
    def speedup(self) -> float:
        """The least of the caps."""
        return min(self.caps.values())

    @property
    def limit(self) -> str:
        """Which one that is."""
        return min(self.caps, key=self.caps.__getitem__)


def predict(card: Card, row: Mapping[str, Any]) -> Prediction:
    """The caps of one counted kernel on one card.

    Args:
        card: where.
        row: of the static table: ``kernel``, ``sparsity``, ``instructions_per_weight`` and ``pop_c_per_weight``. Kernels of blocks and
            column vectors see stored weights only, and their counts are per stored weight; all others are per weight of the dense
            matrix. ``per`` (``stored`` or ``dense``) says otherwise.
    """
    kind = kind_of(row)
    is_stored = row.get("per", _counted_per(kind)) == "stored"
    share = 1.0 - kind.sparsity.level if is_stored else 1.0
    instructions = float(row["instructions_per_weight"]) * share
    popc = float(row.get("pop_c_per_weight", 0.0)) * share
    tile_bytes = float(row.get("shared_bytes_per_weight", TILE_BYTES)) * share
    rate = card.weights_per_clock
    return Prediction(
        byte_ratio(kind),
        ISSUE_SHARE * card.slots / instructions,
        SHARED_BYTES / tile_bytes / rate if tile_bytes else float("inf"),
        POPC / popc / rate if popc else float("inf"),
    )


def byte_ratio(kind: Kind, shape: tuple[int, int] = REFERENCE_SHAPE) -> float:
    """Dense bytes over stored bytes, of two-byte values."""
    stored = kind.sparsity.stored_bytes(*shape, VALUE_BYTES, kind.format)
    return VALUE_BYTES * shape[0] * shape[1] / stored


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Sparsity and format of a counted kernel: an unstructured one's format is the first word of its name."""
    label = str(row["sparsity"])
    if label.startswith("unstructured:"):
        name = str(row.get("format") or str(row["kernel"]).split()[0])
        label = label.replace("unstructured", name)
    return Kind.parse(label)


def _counted_per(kind: Kind) -> str:
    return "stored" if kind.sparsity.pattern in ("block", "vector") else "dense"
