"""The GPT written out from its definitions, one token, one head and one pair of features at a time.

The oracle of the model tests: slow, in float64, and without a line of the package's models, kernels or masks. It reads a supernet's
weights by name and cuts and masks them itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, Family, Sparsity

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]
Index = tuple[int, int]


@functools.cache
def groups_of(sparsity: Sparsity, rows: int, columns: int) -> list[list[list[Index]]]:
    """Sets of groups of (row, column): within a set groups compete; the weights of a group are kept or dropped together."""
    size = sparsity.size
    if sparsity.pattern == "n:m":
        return [
            [[(row, start + i)] for i in range(sparsity.m)]
            for row in range(rows)
            for start in range(0, columns, sparsity.m)
        ]
    if sparsity.pattern == "vector":
        return [
            [[(top + i, column) for i in range(size)] for column in range(columns)]
            for top in range(0, rows, size)
        ]
    if sparsity.pattern == "block":
        blocks = [
            [(top + i, left + j) for i in range(size) for j in range(size)]
            for top in range(0, rows, size)
            for left in range(0, columns, size)
        ]
        return [blocks]
    return [[[(row, column)] for row in range(rows) for column in range(columns)]]


def num_kept(sparsity: Sparsity, num_groups: int) -> int:
    """Groups a set keeps: its level of zeros rounded to a whole number (halves up), at least one group kept."""
    if sparsity.pattern == "n:m":
        return sparsity.n
    zeros = math.floor(Fraction(repr(sparsity.level)) * num_groups + Fraction(1, 2))
    return max(1, num_groups - zeros)


def magnitude_mask(weight: npt.ArrayLike, sparsity: Sparsity) -> npt.NDArray[np.bool_]:
    """Keep in every set the groups of largest sum of squares; of equals the first in reading order."""
    w = np.asarray(weight, dtype=np.float64)
    squares = (w * w).tolist()
    mask = np.zeros(w.shape, dtype=np.bool_)
    for competing in groups_of(sparsity, *w.shape):
        scores = [math.fsum(squares[i][j] for i, j in group) for group in competing]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        for i in order[: num_kept(sparsity, len(competing))]:
            for index in competing[i]:
                mask[index] = True
    return mask


def cut(stored: Weights, family: Family, architecture: Architecture) -> dict[str, Array]:
    """Weights of a subnet from a supernet's: leading rows and columns, zeros where its sparsity drops them.

    Args:
        stored: the supernet's parameters by name.
        family: of the supernet.
        architecture: which subnet.
    """
    dim = architecture.embed_dim
    found: dict[str, Array] = {"embedding": stored["embedding"][:, :dim]}
    if family.positions == "learned":
        found["positions"] = stored["positions"][:, :dim]
    if not family.tied_embeddings:
        found["unembed"] = stored["unembed"][:, :dim]
    norms = ["final_norm"]
    for layer, config in enumerate(architecture.layers):
        queries = config.num_heads * family.head_dim
        keys = config.num_heads // family.queries_per_kv_head * family.head_dim
        neurons = round(config.ffn_ratio * dim)
        shapes: dict[str, tuple[int, int, Sparsity]] = {}
        if config.attention:
            norms.append(f"layers.{layer}.attention_norm")
            for name, rows in (("q", queries), ("k", keys), ("v", keys)):
                shapes[name] = (rows, dim, config.attention_sparsity)
            shapes["o"] = (dim, queries, config.attention_sparsity)
        if config.ffn:
            norms.append(f"layers.{layer}.ffn_norm")
            shapes["up"] = (neurons, dim, config.ffn_sparsity)
            shapes["down"] = (dim, neurons, config.ffn_sparsity)
            if family.activation == "swiglu":
                shapes["gate"] = (neurons, dim, config.ffn_sparsity)
        for short, (rows, columns, sparsity) in shapes.items():
            name = f"layers.{layer}.{short}"
            weight = stored[f"{name}.weight"][:rows, :columns]
            if not sparsity.is_dense:
                weight = np.where(magnitude_mask(weight, sparsity), weight, 0.0)
                if config.adapter_rank:
                    a = stored[f"{name}.adapter_a"][: config.adapter_rank, :columns]
                    b = stored[f"{name}.adapter_b"][:rows, : config.adapter_rank]
                    weight = weight + b @ a
            found[f"{name}.weight"] = weight
            if architecture.bias:
                found[f"{name}.bias"] = stored[f"{name}.bias"][:rows]
    for name in norms:
        found[f"{name}.weight"] = stored[f"{name}.weight"][:dim]
        if family.norm == "layernorm":
            found[f"{name}.bias"] = stored[f"{name}.bias"][:dim]
    return found


def logits(
    family: Family, architecture: Architecture, weights: Weights, tokens: npt.NDArray[np.int64]
) -> Array:
    """Logits ``[B, T, V]`` of tokens ``[B, T]``, with the weights of :func:`cut`."""
    return np.stack([_sequence(family, architecture, weights, row) for row in tokens])


def _sequence(
    family: Family, architecture: Architecture, weights: Weights, tokens: npt.NDArray[np.int64]
) -> Array:
    x = np.stack([weights["embedding"][token] for token in tokens])
    if family.positions == "learned":
        x = x + np.stack([weights["positions"][t] for t in range(len(tokens))])
    for layer, config in enumerate(architecture.layers):
        name = f"layers.{layer}"
        before = x
        if config.attention:
            read = _norm(family, weights, f"{name}.attention_norm", x)
            x = x + _attention(family, config.num_heads, weights, name, read)
        if config.ffn:
            source = before if family.residual == "parallel" else x
            x = x + _ffn(family, weights, name, _norm(family, weights, f"{name}.ffn_norm", source))
    x = _norm(family, weights, "final_norm", x)
    return x @ weights["embedding" if family.tied_embeddings else "unembed"].T


def _linear(weights: Weights, name: str, x: Array) -> Array:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _norm(family: Family, weights: Weights, name: str, x: Array) -> Array:
    rows = []
    for row in x:
        if family.norm == "rmsnorm":  # Zhang & Sennrich, 1910.07467, eq. 4
            rows.append(row / math.sqrt(float(np.mean(row**2)) + 1e-5) * weights[f"{name}.weight"])
        else:  # Ba et al., 1607.06450, eq. 3
            centered = row - np.mean(row)
            scaled = centered / math.sqrt(float(np.mean(centered**2)) + 1e-5)
            rows.append(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])
    return np.stack(rows)


def _attention(family: Family, num_heads: int, weights: Weights, name: str, x: Array) -> Array:
    size = family.head_dim
    q, k, v = (_linear(weights, f"{name}.{part}", x) for part in "qkv")
    joined = np.zeros((len(x), num_heads * size))
    for head in range(num_heads):
        shared = head // family.queries_per_kv_head
        mine = slice(head * size, (head + 1) * size)
        theirs = slice(shared * size, (shared + 1) * size)
        queries, keys, values = q[:, mine], k[:, theirs], v[:, theirs]
        if family.positions == "rotary":
            queries, keys = _rotate(family, queries), _rotate(family, keys)
        for t in range(len(x)):
            scores = [float(queries[t] @ keys[s]) / math.sqrt(size) for s in range(t + 1)]
            powers = [math.exp(score - max(scores)) for score in scores]
            for s in range(t + 1):
                joined[t, mine] += powers[s] / math.fsum(powers) * values[s]
    return _linear(weights, f"{name}.o", joined)


def _rotate(family: Family, x: Array) -> Array:
    """Su et al., 2104.09864, eq. 34, as a product of complex numbers; feature i pairs with i + R/2 (GPT-NeoX)."""
    turned = x.copy()
    rotary_dim = int(family.head_dim * family.rotary_fraction)
    half = rotary_dim // 2
    for t in range(len(x)):
        for i in range(half):
            angle = t * 10000.0 ** (-2.0 * i / rotary_dim)
            number = complex(x[t, i], x[t, i + half]) * complex(math.cos(angle), math.sin(angle))
            turned[t, i], turned[t, i + half] = number.real, number.imag
    return turned


def _ffn(family: Family, weights: Weights, name: str, x: Array) -> Array:
    up = _linear(weights, f"{name}.up", x)
    if family.activation == "swiglu":  # Shazeer, 2002.05202, eq. 5
        gate = _linear(weights, f"{name}.gate", x)
        hidden = gate / (1.0 + np.exp(-gate)) * up
    elif family.activation == "gelu_tanh":  # the same paper's approximation, which GPT-2 uses
        hidden = up * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (up + 0.044715 * up**3)))
    else:  # Hendrycks & Gimpel, 1606.08415, with the error function itself
        hidden = up * 0.5 * (1.0 + np.vectorize(math.erf)(up / math.sqrt(2.0)))
    return _linear(weights, f"{name}.down", hidden)
