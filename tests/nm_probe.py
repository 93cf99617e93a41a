"""A kernel that only decodes N:M: what :mod:`nas.kernels.triton.nm` multiplies, stored instead."""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.nm import align, decode


@triton.jit
def decode_kernel(
    values, metadata, planes, NUM_GROUPS, NUM_WORDS,
    n: tl.constexpr, m: tl.constexpr, PLANES: tl.constexpr, BM: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """``planes [m, BM, G]`` of values ``[BM, n, G]`` and metadata ``[BM, W]``; one program."""
    row = tl.arange(0, BM)[:, None]
    group = tl.arange(0, G)
    v0 = tl.load(values + row * n * NUM_GROUPS + group[None, :])
    v1 = tl.load(values + row * n * NUM_GROUPS + NUM_GROUPS + group[None, :]) if n == 2 else v0
    word = tl.load(metadata + row * NUM_WORDS + group[None, :] // (32 // PLANES))
    found = decode(v0, v1, align(word, group, PLANES), n, m, PLANES, True)
    for j in tl.static_range(m):
        tl.store(planes + (j * BM + row) * NUM_GROUPS + group[None, :], found[j])
