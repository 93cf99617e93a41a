"""Presets: ``tiny`` for two CPU cores, and HW-GPT-Bench's S, M, L and wide spaces (2405.10299), with or without sparsity."""

from __future__ import annotations

import difflib

from search_spaces.family import Family
from search_spaces.space import SearchSpace
from search_spaces.sparsity import DENSE, Sparsity

# The block of HW-GPT-Bench's supernets: GPT-NeoX with half-rotary heads of 64 features (its configs/config_train).
_NEOX = Family(
    vocab_size=50254,
    context_length=1024,
    head_dim=64,
    positions="rotary",
    rotary_fraction=0.5,
    residual="parallel",
)
_TINY = Family(vocab_size=2048, context_length=256, head_dim=64, activation="gelu_tanh")

DEFAULT_SPARSITIES = tuple(
    Sparsity.parse(text)
    for text in (
        "dense",
        "2:4",
        "unstructured:0.50",
        "unstructured:0.80",
        "vector64:0.75",
        "block32:0.75",
    )
)
_TINY_ATTENTION = tuple(
    Sparsity.parse(t) for t in ("dense", "2:4", "unstructured:0.80", "vector32:0.75")
)
_TINY_FFN = tuple(
    Sparsity.parse(t)
    for t in (
        "dense",
        "2:4",
        "unstructured:0.80",
        "unstructured:0.90",
        "vector32:0.75",
        "block32:0.75",
    )
)

#          embed_dims          depths         num_heads    ffn_ratios
_HW_GPT: dict[str, tuple[tuple[int, ...], ...]] = {
    "gpt-s": ((192, 384, 768), (10, 11, 12), (4, 8, 12), (2, 3, 4)),
    "gpt-m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16), (2, 3, 4)),
    "gpt-l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20), (2, 3, 4)),
    "gpt-s-wide": ((192, 384, 768), (3, 6, 12), (4, 8, 12), (1, 2, 4)),
    "gpt-m-wide": ((256, 512, 1024), (6, 12, 24), (4, 8, 16), (1, 2, 4)),
    "gpt-l-wide": ((320, 640, 1280), (9, 18, 36), (5, 10, 20), (1, 2, 4)),
}


def presets() -> tuple[str, ...]:
    """Names that :func:`preset` knows."""
    return ("tiny", *_HW_GPT)


def preset(name: str, sparsity: bool | None = None) -> SearchSpace:
    """A ready search space.

    Args:
        name: one of :func:`presets`.
        sparsity: whether layers may choose sparsity, adapters, and to drop attention or FFN. By
            default yes for ``tiny`` and no for the HW-GPT-Bench spaces, which then are exactly
            those of the paper.

    Raises:
        ValueError: if the name is unknown; the nearest names are proposed.
    """
    if name not in presets():
        near = difflib.get_close_matches(name, presets(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"expected a preset in {', '.join(presets())}, got {name!r}{hint}")
    sparse = name == "tiny" if sparsity is None else sparsity
    optional = (False, True) if sparse else (True,)
    if name == "tiny":
        return SearchSpace(
            name="tiny" if sparse else "tiny-dense",
            family=_TINY,
            embed_dims=(128, 192, 256),
            depths=(2, 3, 4, 5, 6, 7, 8),
            num_heads=(1, 2, 4),
            ffn_ratios=(1, 2, 4),
            attention=optional,
            ffn=optional,
            attention_sparsities=_TINY_ATTENTION if sparse else (DENSE,),
            ffn_sparsities=_TINY_FFN if sparse else (DENSE,),
            adapter_ranks=(0, 8) if sparse else (0,),
        )
    embed_dims, depths, num_heads, ffn_ratios = _HW_GPT[name]
    return SearchSpace(
        name=f"{name}-sparse" if sparse else name,
        family=_NEOX,
        embed_dims=embed_dims,
        depths=depths,
        num_heads=num_heads,
        ffn_ratios=tuple(float(ratio) for ratio in ffn_ratios),
        biases=(False, True),
        attention=optional,
        ffn=optional,
        attention_sparsities=DEFAULT_SPARSITIES if sparse else (DENSE,),
        ffn_sparsities=DEFAULT_SPARSITIES if sparse else (DENSE,),
        adapter_ranks=(0, 16) if sparse else (0,),
    )
