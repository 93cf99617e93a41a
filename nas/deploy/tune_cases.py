"""What ``nas tune`` measures: the linears of a space's architectures, each with every sparsity it may have."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from search_spaces import DENSE, LayerConfig, LinearShape, SearchSpace, Sparsity, fused_linears
from search_spaces.formats import default_format

Shape = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One product to measure.

    Args:
        dtype: of weight and input.
        out_features: M.
        in_features: K.
        tokens: rows of the input.
        sparsity: short string.
        format: the one the sparsity is stored in by default.
    """

    dtype: str
    out_features: int
    in_features: int
    tokens: int
    sparsity: str
    format: str


def tune_cases(
    what: SearchSpace | Iterable[Shape],
    dtype: str,
    value_bytes: int,
    tokens: Sequence[int],
    sparsities: Sequence[Sparsity | str] | None,
) -> list[Case]:
    """Every different product, small matrices first, the dense one of each shape among them.

    Args:
        what: a space, or shapes ``(out_features, in_features)``.
        dtype: of weights and inputs.
        value_bytes: bytes of one weight in that dtype.
        tokens: rows of the inputs.
        sparsities: tried on every shape they divide; by default those of the space's own linears.

    Raises:
        ValueError: if tokens are not positive, a sparsity is misspelt or divides no shape, or shapes
            come without sparsities.
    """
    if not tokens or min(tokens) < 1:
        raise ValueError(f"expected tokens of 1 or more, got {list(tokens)}; name at least one")
    if isinstance(what, SearchSpace):
        pairs = {((s.out_features, s.in_features), s.sparsity) for s in _linears(what)}
    else:
        pairs = {((int(rows), int(columns)), DENSE) for rows, columns in what}
        if sparsities is None:
            raise ValueError(
                "expected sparsities beside the shapes, got none; name them, or pass a space"
            )
    if not pairs or any(min(shape) < 1 for shape, _ in pairs):
        raise ValueError(f"expected shapes (out_features, in_features) above 0, got {what!r:.80}")
    shapes = sorted({shape for shape, _ in pairs}, key=lambda s: (s[0] * s[1], s))
    if sparsities is not None:
        wanted = [Sparsity.parse(s) if isinstance(s, str) else s for s in sparsities]
        pairs = {(shape, s) for shape in shapes for s in wanted if _divides(s, shape)}
        if left_out := [str(s) for s in wanted if not any(s == other for _, other in pairs)]:
            raise ValueError(
                f"expected sparsities that divide one of the shapes {shapes[:6]}, got {left_out}; leave them out"
            )
    pairs |= {(shape, DENSE) for shape in shapes}
    ordered = sorted(pairs, key=lambda pair: (shapes.index(pair[0]), pair[1]))
    return [
        Case(dtype, *shape, count, str(sparsity), default_format(sparsity, value_bytes))
        for shape, sparsity in ordered
        for count in sorted(set(tokens))
    ]


def _linears(space: SearchSpace) -> Iterator[LinearShape]:
    """Linears of every layer that the space allows, as a built model runs them."""
    for dim, heads, sparsity in itertools.product(
        space.embed_dims, space.num_heads, space.attention_sparsities
    ):
        layer = LayerConfig.make(heads, 0, True, False, attention_sparsity=sparsity)
        yield from fused_linears(layer, dim, False, space.family)
    for dim, ratio, sparsity in itertools.product(
        space.embed_dims, space.ffn_ratios, space.ffn_sparsities
    ):
        layer = LayerConfig.make(0, ratio, False, True, ffn_sparsity=sparsity)
        yield from fused_linears(layer, dim, False, space.family)


def _divides(sparsity: Sparsity, shape: Shape) -> bool:
    try:
        sparsity.check_shape(*shape)
    except ValueError:
        return False
    return True
