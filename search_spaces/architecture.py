"""Architecture: one point of a search space, as a frozen, validated, hashable value."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from search_spaces.sparsity import DENSE, Sparsity

_LAYER_FIELDS = (
    "num_heads",
    "ffn_ratio",
    "attention",
    "ffn",
    "attention_sparsity",
    "ffn_sparsity",
    "adapter_rank",
)


@dataclass(frozen=True)
class LayerConfig:
    """One transformer layer.

    A part that is dropped carries no description: its width is 0 and its sparsity ``dense``, and a
    low-rank adapter exists only beside a sparse weight, so two configs are equal exactly when they
    are the same network.

    Args:
        num_heads: attention heads; 0 when ``attention`` is False.
        ffn_ratio: FFN neurons per embedding feature; 0 when ``ffn`` is False.
        attention: whether the attention part is kept.
        ffn: whether the FFN part is kept.
        attention_sparsity: sparsity of the q, k, v and output weights.
        ffn_sparsity: sparsity of the gate, up and down weights.
        adapter_rank: rank of the low-rank adapter beside every sparse weight (SLoPe, 2405.16325,
            sec. 3.2); 0 for none.

    Raises:
        ValueError: if the fields contradict each other.
    """

    num_heads: int
    ffn_ratio: float
    attention: bool = True
    ffn: bool = True
    attention_sparsity: Sparsity = DENSE
    ffn_sparsity: Sparsity = DENSE
    adapter_rank: int = 0

    def __post_init__(self) -> None:
        for name in ("attention", "ffn"):
            # "False" is truthy: a known fault of string configs.
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"expected {name} to be True or False, got {getattr(self, name)!r}"
                )
        for name in ("num_heads", "adapter_rank"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"expected {name} to be an integer of 0 or more, got {value!r}")
        ratio = self.ffn_ratio
        if (
            not isinstance(ratio, int | float)
            or isinstance(ratio, bool)
            or not math.isfinite(ratio)
        ):
            raise ValueError(f"expected ffn_ratio to be a finite number, got {ratio!r}")
        # One zero, not two: -0.0 has another JSON.
        object.__setattr__(self, "ffn_ratio", float(ratio) + 0.0)
        for name in ("attention_sparsity", "ffn_sparsity"):
            object.__setattr__(self, name, _sparsity(getattr(self, name)))
        for part, width, name, sparsity in (
            (self.attention, self.num_heads, "num_heads", self.attention_sparsity),
            (self.ffn, self.ffn_ratio, "ffn_ratio", self.ffn_sparsity),
        ):
            if part and not width > 0:
                raise ValueError(f"expected {name} above 0 for a part that is kept, got {width}")
            if not part and (width != 0 or not sparsity.is_dense):
                raise ValueError(
                    f"expected {name}=0 and dense sparsity for a part that is dropped, got {width} and "
                    f"{sparsity}; LayerConfig.make() fills these in"
                )
        if self.adapter_rank and self.attention_sparsity.is_dense and self.ffn_sparsity.is_dense:
            raise ValueError(
                f"expected adapter_rank=0 in a layer without sparse weights, got {self.adapter_rank}; "
                "LayerConfig.make() fills this in"
            )

    @classmethod
    def make(
        cls,
        num_heads: int,
        ffn_ratio: float,
        attention: bool = True,
        ffn: bool = True,
        attention_sparsity: Sparsity = DENSE,
        ffn_sparsity: Sparsity = DENSE,
        adapter_rank: int = 0,
    ) -> LayerConfig:
        """Build from choices, of which the inactive ones (of dropped parts, of adapters beside dense weights) are ignored."""
        attention_sparsity = _sparsity(attention_sparsity) if attention else DENSE
        ffn_sparsity = _sparsity(ffn_sparsity) if ffn else DENSE
        is_sparse = not (attention_sparsity.is_dense and ffn_sparsity.is_dense)
        return cls(
            num_heads if attention else 0,
            ffn_ratio if ffn else 0.0,
            attention,
            ffn,
            attention_sparsity,
            ffn_sparsity,
            adapter_rank if is_sparse else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values; sparsities in their short string form."""
        values = {name: getattr(self, name) for name in _LAYER_FIELDS}
        return {k: str(v) if isinstance(v, Sparsity) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> LayerConfig:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing, unknown or invalid.
        """
        if not isinstance(fields, dict) or set(fields) != set(_LAYER_FIELDS):
            raise ValueError(f"expected the layer fields {list(_LAYER_FIELDS)}, got {fields!r}")
        return cls(**fields)

    def __str__(self) -> str:
        attention = f"h{self.num_heads}" if self.attention else "-"
        ffn = f"f{self.ffn_ratio:g}" if self.ffn else "-"
        if not self.attention_sparsity.is_dense:
            attention += f"[{self.attention_sparsity}]"
        if not self.ffn_sparsity.is_dense:
            ffn += f"[{self.ffn_sparsity}]"
        adapter = f"+r{self.adapter_rank}" if self.adapter_rank else ""
        return f"{attention}/{ffn}{adapter}"


@dataclass(frozen=True)
class Architecture:
    """One subnet: embedding width, and a configuration for every layer.

    Args:
        embed_dim: features of the residual stream.
        layers: one :class:`LayerConfig` per layer, first layer first.
        bias: whether linear layers have biases.

    Raises:
        ValueError: if a field is outside its domain.
    """

    embed_dim: int
    layers: tuple[LayerConfig, ...] = field(default_factory=tuple)
    bias: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.embed_dim, int) or isinstance(self.embed_dim, bool):
            raise ValueError(f"expected embed_dim to be an integer, got {self.embed_dim!r}")
        if self.embed_dim < 1:
            raise ValueError(f"expected embed_dim of 1 or more, got {self.embed_dim}")
        if not isinstance(self.bias, bool):
            raise ValueError(f"expected bias to be True or False, got {self.bias!r}")
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        is_sequence = isinstance(self.layers, tuple) and len(self.layers) > 0
        if not is_sequence or not all(isinstance(layer, LayerConfig) for layer in self.layers):
            raise ValueError(f"expected one LayerConfig or more, got {self.layers!r}")
        for index, layer in enumerate(self.layers):
            neurons = layer.ffn_ratio * self.embed_dim
            if not neurons.is_integer():
                raise ValueError(
                    f"expected a whole number of FFN neurons in layer {index}, got ffn_ratio "
                    f"{layer.ffn_ratio:g} x embed_dim {self.embed_dim} = {neurons:g}"
                )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def ffn_dim(self, layer: int) -> int:
        """FFN neurons of a layer; 0 when it has none."""
        return int(self.layers[layer].ffn_ratio * self.embed_dim)

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "embed_dim": self.embed_dim,
            "bias": self.bias,
            "layers": [layer.to_json() for layer in self.layers],
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Architecture:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing, unknown or invalid.
        """
        if not isinstance(fields, dict) or set(fields) != {"embed_dim", "bias", "layers"}:
            raise ValueError(
                f"expected an architecture with embed_dim, bias and layers, got {fields!r}"
            )
        if not isinstance(fields["layers"], list):
            raise ValueError(f"expected a list of layers, got {fields['layers']!r}")
        layers = tuple(LayerConfig.from_json(layer) for layer in fields["layers"])
        return cls(fields["embed_dim"], layers, fields["bias"])

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this architecture, equal in every process and Python version."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        bias = " bias" if self.bias else ""
        return f"d{self.embed_dim}{bias} " + " ".join(str(layer) for layer in self.layers)


def _sparsity(value: Sparsity | str) -> Sparsity:
    return value if isinstance(value, Sparsity) else Sparsity.parse(value)
