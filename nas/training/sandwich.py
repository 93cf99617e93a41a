"""Which subnets a training step visits: the sandwich rule over architectures and sparsities."""

from __future__ import annotations

import numpy as np

from search_spaces import Architecture, SearchSpace

_SIZES = ("embed_dim", "depth", "num_heads", "ffn_ratio")
_KINDS = (
    ("embed_dim",),
    ("depth",),
    ("num_heads",),
    ("ffn_ratio",),
    ("attention", "ffn"),
    ("attention_sparsity", "ffn_sparsity"),
)


def sandwich(
    space: SearchSpace,
    num_random: int,
    seed: int,
    step: int,
    size_bias: float = 0.0,
    whole_share: float = 0.0,
) -> list[Architecture]:
    """Largest, smallest and random subnets of one step (Yu & Huang, 1903.05134, sec. 3.1).

    A pure function of its arguments: every process of a parallel run, and a resumed run, draws the
    same.

    Args:
        space: where to draw from.
        num_random: random subnets.
        seed: of the run.
        step: of the run.
        size_bias: of :func:`draw_subnet`.
        whole_share: of :func:`draw_subnet`.

    Returns:
        The largest first: it is the teacher of the others.
    """
    rng = np.random.default_rng((seed, step))
    return [
        space.largest,
        space.smallest,
        *(draw_subnet(space, rng, size_bias, whole_share) for _ in range(num_random)),
    ]


def draw_subnet(
    space: SearchSpace,
    rng: np.random.Generator,
    size_bias: float = 0.0,
    whole_share: float = 0.0,
) -> Architecture:
    """Draw a subnet with its own probabilities of keeping a part and of being sparse.

    Independent uniform choices would nearly always drop half of the parts and make most weights
    sparse; a search front holds subnets from almost whole and dense to almost empty. So each draw
    first picks how much it keeps and how sparse it is.

    Args:
        space: where to draw from.
        rng: moved on.
        size_bias: in [0, 1]; above 0 each draw also picks a probability, uniform up to it, with which
            a width or depth takes its largest value, so that nearly whole subnets are drawn as well.
        whole_share: in [0, 1]; how often each kind of choice (width, depth, heads, FFN width, kept parts,
            density) is left at its largest in the whole subnet. What a front holds is mostly cut in one or two
            kinds, deeply; independent draws hardly ever give such a subnet.
    """
    keep, sparse = rng.uniform(0.4, 1.0), rng.uniform(0.0, 1.0)
    params = {c.name: c.values[rng.integers(len(c.values))] for c in space.choices}
    for choice in space.choices:
        slot = choice.name.rpartition(".")[2]
        if slot in ("attention", "ffn"):
            params[choice.name] = bool(rng.uniform() < keep)
        elif slot in ("attention_sparsity", "ffn_sparsity") and rng.uniform() > sparse:
            params[choice.name] = "dense" if "dense" in choice.values else choice.values[0]
    if size_bias > 0:
        largest = rng.uniform(0.0, size_bias)
        for choice in space.choices:
            if choice.name.rpartition(".")[2] in _SIZES and rng.uniform() < largest:
                params[choice.name] = choice.values[-1]
    if whole_share > 0:
        largest_params = space.to_params(space.largest)
        whole = {slot for kind in _KINDS if rng.uniform() < whole_share for slot in kind}
        for choice in space.choices:
            if choice.name.rpartition(".")[2] in whole:
                params[choice.name] = largest_params[choice.name]
    return space.from_params(params)
