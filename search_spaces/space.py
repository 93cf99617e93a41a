"""SearchSpace: every architecture that may be built, with sampling, encoding, neighbors, mutation and exact counting.

A space is a static list of *choices* (slots). Slots that a draw does not use (layers beyond the depth, the width of a dropped
part, an adapter beside dense weights) are *inactive*: decoding ignores them and encoding writes their first value, so that two
points decode to equal architectures exactly when they name the same network.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.architecture import Architecture, LayerConfig
from search_spaces.choices import (
    GLOBAL_SLOTS,
    LAYER_SLOTS,
    Choice,
    Value,
    active_values,
    check_types,
)
from search_spaces.family import Family
from search_spaces.shapes import layer_linears
from search_spaces.sparsity import DENSE, Sparsity


@dataclass(frozen=True)
class SearchSpace:
    """A product of global and per-layer choices.

    Args:
        name: how reports call the space.
        family: what all its architectures share.
        embed_dims: widths of the residual stream.
        depths: numbers of layers; the first ones of the supernet are used.
        num_heads: attention heads, per layer.
        ffn_ratios: FFN neurons per embedding feature, per layer.
        biases: whether linear layers have biases.
        attention: whether a layer keeps its attention, per layer.
        ffn: whether a layer keeps its FFN, per layer.
        attention_sparsities: of the attention weights, per layer.
        ffn_sparsities: of the FFN weights, per layer.
        adapter_ranks: rank of the adapters beside sparse weights, per layer.

    Raises:
        ValueError: if a choice is empty, repeats a value, or allows an architecture that cannot be
            built.
    """

    name: str
    family: Family
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    ffn_ratios: tuple[float, ...]
    biases: tuple[bool, ...] = (False,)
    attention: tuple[bool, ...] = (True,)
    ffn: tuple[bool, ...] = (True,)
    attention_sparsities: tuple[Sparsity, ...] = (DENSE,)
    ffn_sparsities: tuple[Sparsity, ...] = (DENSE,)
    adapter_ranks: tuple[int, ...] = (0,)
    _values: dict[str, tuple[Value, ...]] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        for name in (*GLOBAL_SLOTS.values(), *LAYER_SLOTS.values()):
            check_types(name, getattr(self, name))
            values = tuple(
                Sparsity.parse(value)
                if name.endswith("sparsities") and isinstance(value, str)
                else value
                for value in getattr(self, name)
            )
            if not values:
                raise ValueError(
                    f"expected one value or more for {name} in space {self.name!r}, got none"
                )
            if len(set(values)) != len(values):
                raise ValueError(
                    f"expected distinct values for {name} in space {self.name!r}, got {values}"
                )
            if name == "ffn_ratios":
                values = tuple(float(value) for value in getattr(self, name))
            if not name.endswith("sparsities"):
                values = tuple(sorted(values))
            object.__setattr__(self, name, values)
        object.__setattr__(
            self,
            "_values",
            {
                slot: tuple(str(v) if isinstance(v, Sparsity) else v for v in getattr(self, name))
                for slot, name in (GLOBAL_SLOTS | LAYER_SLOTS).items()
            },
        )
        if self.depths[0] < 1:
            raise ValueError(f"expected depths of 1 or more, got {self.depths}")
        for config in self._layer_options():  # every combination must be buildable at every width
            for embed_dim in self.embed_dims:
                Architecture(embed_dim, (config,))
                layer_linears(config, embed_dim, False, self.family)

    # --- the slots -------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The static slots with more than one value: global ones first, then layer by layer."""
        slots = [Choice(name, self._values[name]) for name in GLOBAL_SLOTS]
        for layer in range(self.depths[-1]):
            slots += [Choice(f"layer{layer}.{name}", self._values[name]) for name in LAYER_SLOTS]
        return tuple(slot for slot in slots if len(slot.values) > 1)

    @property
    def dim(self) -> int:
        """Number of choices, which is the length of an encoding."""
        return len(self.choices)

    def to_params(self, architecture: Architecture) -> dict[str, Value]:
        """Values of the slots, in their JSON form; inactive ones hold their first value.

        Raises:
            ValueError: if the architecture is not in the space.
        """
        self._check(architecture)
        active = active_values(architecture)
        return {c.name: active.get(c.name, c.values[0]) for c in self.choices}

    def from_params(self, params: Mapping[str, Value]) -> Architecture:
        """Architecture of a value for every slot.

        Args:
            params: slot name to value, as from :meth:`to_params` or an Optuna trial.

        Raises:
            ValueError: if a slot is missing or unknown, or a value is not one of its choices.
        """
        names = {choice.name for choice in self.choices}
        if set(params) != names:
            raise ValueError(
                f"expected the {self.dim} choices of space {self.name!r}; missing {sorted(names - set(params))[:5]}, "
                f"unknown {sorted(set(params) - names)[:5]}"
            )
        known: dict[str, Value] = {}
        for choice in self.choices:
            if params[choice.name] not in choice.values:
                raise ValueError(
                    f"expected {choice.name} in {choice.values}, got {params[choice.name]!r}"
                )
            # The space's own value: 1 equals True and a NumPy integer equals an int, but they are not the same JSON.
            known[choice.name] = choice.values[choice.values.index(params[choice.name])]

        def value(name: str, slot: str) -> Any:
            return known.get(name, self._values[slot][0])

        layers = []
        for index in range(int(value("depth", "depth"))):
            fields = tuple(value(f"layer{index}.{name}", name) for name in LAYER_SLOTS)
            if (
                fields not in self._made
            ):  # a space has few different layers and its architectures many
                named = dict(zip(LAYER_SLOTS, fields, strict=True))
                for name in ("attention_sparsity", "ffn_sparsity"):
                    named[name] = Sparsity.parse(named[name])
                self._made[fields] = LayerConfig.make(**named)
            layers.append(self._made[fields])
        return Architecture(
            int(value("embed_dim", "embed_dim")), tuple(layers), bool(value("bias", "bias"))
        )

    def to_optuna(self) -> dict[str, tuple[Value, ...]]:
        """Slot name to its values: ``{n: CategoricalDistribution(v) for n, v in space.to_optuna().items()}``.

        The slots are static (they do not depend on each other), because a model-based sampler sees
        only parameters that every trial has.
        """
        return {choice.name: choice.values for choice in self.choices}

    # --- points ----------------------------------------------------------------------------------

    def encode(self, architecture: Architecture) -> npt.NDArray[np.float64]:
        """Point X_d in [0, 1]: value i of n sits in the middle of the i-th of n equal bins.

        Raises:
            ValueError: if the architecture is not in the space.
        """
        params = self.to_params(architecture)
        return np.array(
            [(c.values.index(params[c.name]) + 0.5) / len(c.values) for c in self.choices]
        )

    def decode(self, point: npt.ArrayLike) -> Architecture:
        """Architecture of any point of the unit cube; equal bins, so that uniform points give uniform choices.

        Args:
            point: X_d, ``dim`` numbers in [0, 1].

        Raises:
            ValueError: if the length is wrong or a coordinate is outside [0, 1].
        """
        x = np.asarray(point, dtype=np.float64)
        if x.shape != (self.dim,) or not np.all((x >= 0.0) & (x <= 1.0)):
            raise ValueError(f"expected {self.dim} coordinates in [0, 1], got shape {x.shape} {x}")
        return self.from_params(
            {
                c.name: c.values[min(int(x_i * len(c.values)), len(c.values) - 1)]
                for c, x_i in zip(self.choices, x, strict=True)
            }
        )

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly and independently (as Optuna's random sampler does)."""
        return self.from_params(
            {c.name: c.values[rng.integers(len(c.values))] for c in self.choices}
        )

    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """The architectures whose encodings differ from this one's in one coordinate: distinct, and neighbors of each other.

        A slot that becomes active starts at its first value, so it must hold its first value before
        it can become inactive: a layer, for example, is left out only once all its choices are at
        their first values.
        """
        params = self.to_params(architecture)
        found = []
        for choice in self.choices:
            for value in choice.values:
                changed = params | {choice.name: value}
                neighbor = self.from_params(changed)
                if value != params[choice.name] and self.to_params(neighbor) == changed:
                    found.append(neighbor)
        return found

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Give one active choice, drawn uniformly, another value; the architecture itself in a space of one.

        Slots that become active are drawn, so that every mutation can be undone by one mutation.
        """
        self._check(architecture)
        active = active_values(architecture)
        changeable = [choice for choice in self.choices if choice.name in active]
        if not changeable:
            return architecture
        choice = changeable[rng.integers(len(changeable))]
        others = [value for value in choice.values if value != active[choice.name]]
        drawn = {c.name: c.values[rng.integers(len(c.values))] for c in self.choices}
        kept = {c.name: active[c.name] for c in changeable}
        return self.from_params(drawn | kept | {choice.name: others[rng.integers(len(others))]})

    def contains(self, architecture: Architecture) -> bool:
        """Whether every choice of the architecture is offered by the space."""
        try:
            self._check(architecture)
        except ValueError:
            return False
        return True

    # --- the whole -------------------------------------------------------------------------------

    @cached_property
    def cardinality(self) -> int:
        """Exact number of distinct architectures (not of points: inactive choices do not multiply)."""
        per_layer = sum(1 for _ in self._layer_options())
        stacks = sum(int(per_layer**depth) for depth in self.depths)
        return len(self.embed_dims) * len(self.biases) * stacks

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture once; only for spaces small enough to be listed."""
        options = list(self._layer_options())
        for embed_dim, bias, depth in itertools.product(self.embed_dims, self.biases, self.depths):
            for layers in itertools.product(options, repeat=depth):
                yield Architecture(embed_dim, layers, bias)

    @property
    def largest(self) -> Architecture:
        """Every width and depth at its maximum and as dense as the space allows: what a supernet stores."""
        layer = LayerConfig.make(
            self.num_heads[-1],
            self.ffn_ratios[-1],
            self.attention[-1],
            self.ffn[-1],
            min(self.attention_sparsities, key=_zeros),
            min(self.ffn_sparsities, key=_zeros),
            self.adapter_ranks[-1],
        )
        return Architecture(self.embed_dims[-1], (layer,) * self.depths[-1], self.biases[-1])

    @property
    def smallest(self) -> Architecture:
        """Narrowest and shallowest with both parts kept where the space allows, as dense: the other end of the sandwich."""
        layer = LayerConfig.make(
            self.num_heads[0],
            self.ffn_ratios[0],
            self.attention[-1],
            self.ffn[-1],
            min(self.attention_sparsities, key=_zeros),
            min(self.ffn_sparsities, key=_zeros),
            self.adapter_ranks[0],
        )
        return Architecture(self.embed_dims[0], (layer,) * self.depths[0], self.biases[0])

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the space, its name left out: equal spaces have equal fingerprints."""
        fields = {k: v for k, v in self.to_json().items() if k != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        fields: dict[str, Any] = {"name": self.name, "family": self.family.to_json()}
        for slot, name in (GLOBAL_SLOTS | LAYER_SLOTS).items():
            fields[name] = list(self._values[slot])
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SearchSpace:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing, unknown or invalid.
        """
        expected = {"name", "family", *GLOBAL_SLOTS.values(), *LAYER_SLOTS.values()}
        if not isinstance(fields, dict) or set(fields) != expected:
            raise ValueError(
                f"expected a search space with the fields {sorted(expected)}, got {fields!r}"
            )
        values = {k: v for k, v in fields.items() if k not in ("name", "family")}
        if not isinstance(fields["name"], str) or not all(
            isinstance(v, list) for v in values.values()
        ):
            raise ValueError(
                f"expected a name and lists of values for a search space, got {fields!r}"
            )
        lists = {k: tuple(v) for k, v in values.items()}
        return cls(name=fields["name"], family=Family.from_json(fields["family"]), **lists)

    def _layer_options(self) -> Iterator[LayerConfig]:
        """Every distinct configuration of one layer."""
        attention = [
            (True, heads, sparsity)
            for heads, sparsity in itertools.product(self.num_heads, self.attention_sparsities)
            if True in self.attention
        ] + ([(False, 0, DENSE)] if False in self.attention else [])
        ffn = [
            (True, ratio, sparsity)
            for ratio, sparsity in itertools.product(self.ffn_ratios, self.ffn_sparsities)
            if True in self.ffn
        ] + ([(False, 0.0, DENSE)] if False in self.ffn else [])
        for (keep_a, heads, sparse_a), (keep_f, ratio, sparse_f) in itertools.product(
            attention, ffn
        ):
            is_dense = sparse_a.is_dense and sparse_f.is_dense
            for rank in (0,) if is_dense else self.adapter_ranks:
                yield LayerConfig(heads, ratio, keep_a, keep_f, sparse_a, sparse_f, rank)

    def _check(self, architecture: Architecture) -> None:
        options = self._layer_set
        for name, value, allowed in (
            ("embed_dim", architecture.embed_dim, self.embed_dims),
            ("depth", architecture.depth, self.depths),
            ("bias", architecture.bias, self.biases),
        ):
            if value not in allowed:
                raise ValueError(
                    f"expected {name} in {allowed} for space {self.name!r}, got {value}"
                )
        for index, layer in enumerate(architecture.layers):
            if layer not in options:
                raise ValueError(
                    f"expected layer {index} to be one of space {self.name!r}'s, got {layer}"
                )

    @cached_property
    def _made(self) -> dict[tuple[Value, ...], LayerConfig]:
        """Layers that :meth:`from_params` has made, by the values of their slots."""
        return {}

    @cached_property
    def _layer_set(self) -> frozenset[LayerConfig]:
        return frozenset(self._layer_options())


def _zeros(sparsity: Sparsity) -> float:
    return sparsity.level
