"""nas.kernels: masks, stored formats and products, against brute force and dense float64 products."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.kernels import (
    SparseLinear,
    from_tensors,
    magnitude_mask,
    pack,
    sparse_linear,
)
from nas.kernels.patterns import group_rank, group_scores, mask_from_rank
from search_spaces import Sparsity
from search_spaces.formats import default_format
from tests import reference_gpt
from tests.reference_gpt import groups_of
from tests.small_weights import (
    CASES,
    N_OF_M,
    SHAPES,
    TEXTS,
    bits,
    random_mask,
    random_weight,
    shape_of,
)

# Largest error of y = W x over |W| |x|, by dtype: a sum of K products in that dtype errs by at most about sqrt(K) roundings
# (K is below 64 here), and the sparse paths must not be worse than that. The reference is the dense product in float64.
TOLERANCE = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 1.2e-2}


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["random", "constant", "zero", "rounded"])
def test_masks_equal_brute_force(text: str, kind: str) -> None:
    """The largest groups are kept, exactly as many as the level says, the first in reading order among equals."""
    s = Sparsity.parse(text)
    weight = random_weight(shape_of(s), seed=1)
    weight = {
        "random": weight,
        "constant": torch.full_like(weight, -0.5),
        "zero": torch.zeros_like(weight),
        "rounded": weight.round(),
    }[kind]
    mask = magnitude_mask(weight, s)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == s.nonzeros(*weight.shape)
    assert np.array_equal(mask.numpy(), reference_gpt.magnitude_mask(weight.numpy(), s))


@pytest.mark.parametrize("text", N_OF_M)
def test_n_of_m_keeps_exactly_n_in_every_m(text: str) -> None:
    s = Sparsity.parse(text)
    for weight in (random_weight((8, 48), 3), torch.ones(8, 48), random_weight((8, 48), 4).round()):
        groups = magnitude_mask(weight, s).reshape(8, -1, s.m)
        assert groups.sum(dim=2).eq(s.n).all()


@given(
    pattern=st.sampled_from(["unstructured", "block16", "vector32"]),
    levels=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
    seed=st.integers(0, 1000),
    is_rounded=st.booleans(),
)
def test_masks_are_nested_in_the_level(
    pattern: str, levels: tuple[float, float], seed: int, is_rounded: bool
) -> None:
    """A weight kept at the higher level of zeros is kept at the lower one, ties included."""
    low, high = (Sparsity.parse(f"{pattern}:{level:.4f}") for level in sorted(levels))
    weight = random_weight(SHAPES[low.pattern], seed)
    weight = weight.round() if is_rounded else weight
    few, many = magnitude_mask(weight, high), magnitude_mask(weight, low)
    assert not bool((few & ~many).any())


@pytest.mark.parametrize(("few", "many"), [("1:4", "2:4"), ("1:8", "2:8")])
def test_n_of_m_masks_are_nested(few: str, many: str) -> None:
    weight = random_weight((6, 24), 5).mul(2).round()
    assert not bool(
        (
            magnitude_mask(weight, Sparsity.parse(few))
            & ~magnitude_mask(weight, Sparsity.parse(many))
        ).any()
    )


@pytest.mark.parametrize("text", TEXTS[1:])
def test_ranks_are_a_permutation_that_does_not_depend_on_the_level(text: str) -> None:
    s = Sparsity.parse(text)
    weight = random_weight(shape_of(s), 2).round()
    rank = group_rank(weight, s)
    sets, groups = rank.shape
    assert (sets, groups) == (len(groups_of(s, *weight.shape)), s.num_groups(*weight.shape))
    assert rank.sort(dim=1).values.equal(
        torch.arange(groups, dtype=torch.int32).expand(sets, groups)
    )
    assert mask_from_rank(rank, s, (weight.shape[0], weight.shape[1])).equal(
        magnitude_mask(weight, s)
    )
    scores = group_scores(weight.square(), s)
    brute = [
        [math.fsum(float(weight[index]) ** 2 for index in group) for group in competing]
        for competing in groups_of(s, *weight.shape)
    ]
    assert torch.allclose(scores.double(), torch.tensor(brute, dtype=torch.float64), rtol=1e-6)


def test_a_mask_is_the_same_from_every_layout_and_does_not_change_the_weight() -> None:
    weight = random_weight((32, 48), 6)
    before = weight.clone()
    for text in ("2:4", "block16:0.50", "vector32:0.75", "unstructured:0.70"):
        s = Sparsity.parse(text)
        assert magnitude_mask(weight.T.contiguous().T, s).equal(magnitude_mask(weight, s))
        wide = torch.cat((weight, weight), dim=1)
        assert magnitude_mask(wide[:, :48], s).equal(magnitude_mask(weight, s))
    assert weight.equal(before)


# --- formats --------------------------------------------------------------------------------------


@given(
    case=st.sampled_from(CASES),
    tall=st.integers(1, 3),
    wide=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    is_magnitude=st.booleans(),
)
@settings(max_examples=200)
def test_packing_is_exact_and_as_small_as_stated(
    case: tuple[str, str],
    tall: int,
    wide: int,
    seed: int,
    dtype: torch.dtype,
    is_magnitude: bool,
) -> None:
    text, format = case
    s = Sparsity.parse(text)
    shape = (tall * (s.size or 3), wide * (s.m or (s.size if s.pattern == "block" else 5)))
    if s.pattern == "unstructured":  # over the edges of tiles and segments
        shape = (tall * 53 + seed % 7, wide * 45 + seed % 11)
    weight = random_weight(shape, seed, dtype)
    weight[0, 0] = -0.0
    mask = magnitude_mask(weight, s) if is_magnitude else random_mask(s, shape, seed)
    packed = pack(weight, text, None if is_magnitude else mask, format)
    kept = torch.where(mask, weight, torch.zeros((), dtype=dtype))
    assert packed.format == format
    assert bits(packed.unpack()).equal(bits(kept))
    assert packed.unpack().dtype == dtype
    assert tuple(packed.shape) == shape
    assert packed.nonzeros == int(mask.sum())
    assert packed.stored_bytes == s.stored_bytes(*shape, weight.element_size(), format)
    stored = safetensors.torch.load(safetensors.torch.save(packed.tensors()))
    again = from_tensors(text, shape, stored)
    assert type(again) is type(packed)
    assert bits(again.unpack()).equal(bits(kept))
    assert set(packed.tensors()) == set(packed.names) == set(packed.state_dict())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_default_format_depends_on_the_bytes_of_a_value(text: str, dtype: torch.dtype) -> None:
    s = Sparsity.parse(text)
    packed = pack(random_weight(shape_of(s), 6, dtype), s)
    assert packed.format == default_format(s, dtype.itemsize)
    assert packed.stored_bytes == s.stored_bytes(*shape_of(s), dtype.itemsize)
    if s.pattern == "unstructured":
        assert packed.format == ("csl" if dtype.itemsize == 2 else "csr")


@pytest.mark.parametrize(("text", "format"), CASES)
def test_a_packed_weight_shares_no_memory_with_the_weight(text: str, format: str) -> None:
    s = Sparsity.parse(text)
    weight = random_weight(shape_of(s), 7)
    packed = pack(weight, s, None, format)
    expected = packed.unpack().clone()
    weight.fill_(9.0)
    assert packed.unpack().equal(expected)


@pytest.mark.parametrize(("text", "format"), CASES)
def test_a_weight_and_mask_of_any_strides_are_packed(text: str, format: str) -> None:
    s = Sparsity.parse(text)
    rows, columns = shape_of(s)
    weight, mask = random_weight((rows, columns), 5), random_mask(s, (rows, columns), 5)
    expected = pack(weight, s, mask, format).tensors()
    wide = torch.cat((mask[:, :1], mask, mask), dim=1)[:, 1 : columns + 1]
    for w, m in ((weight.T.contiguous().T, mask.T.contiguous().T), (weight, wide)):
        found = pack(w, s, m, format).tensors()
        assert all(found[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("text", "format"), CASES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 5, 7, 33])
def test_products_equal_the_dense_one(
    text: str, format: str, dtype: torch.dtype, num_rows: int
) -> None:
    s = Sparsity.parse(text)
    shape = shape_of(s)
    packed = pack(random_weight(shape, 8, dtype), s, None, format)
    x = random_weight((num_rows, shape[1]), 9, dtype)
    y = packed.multiply(x)
    dense = packed.unpack().double()
    assert y.dtype == dtype
    assert tuple(y.shape) == (num_rows, shape[0])
    error = (y.double() - x.double() @ dense.T).abs()
    scale = x.double().abs() @ dense.abs().T
    assert bool((error <= TOLERANCE[dtype] * scale + 1e-30).all())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (1, 1), (4, 2, 3)])
def test_sparse_linear_adds_bias_and_adapter(text: str, leading: tuple[int, ...]) -> None:
    s = Sparsity.parse(text)
    rows, columns = shape_of(s)
    packed = pack(random_weight((rows, columns), 10), s)
    bias, a, b = (
        random_weight((1, rows), 11)[0],
        random_weight((3, columns), 12),
        random_weight((rows, 3), 13),
    )
    x = random_weight((math.prod(leading), columns), 14).reshape(*leading, columns)
    whole = packed.unpack().double() + b.double() @ a.double()
    expected = torch.einsum("mk,...k->...m", whole, x.double()) + bias.double()
    y = sparse_linear(x, packed, bias, adapter=(a, b))
    assert tuple(y.shape) == (*leading, rows)
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert SparseLinear(packed, bias, adapter=(a, b))(x).equal(y)
    without = torch.einsum("mk,...k->...m", packed.unpack().double(), x.double())
    assert torch.allclose(SparseLinear(packed)(x).double(), without, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=f"expected x of {columns} features"):
        sparse_linear(x[..., 1:], packed)


@pytest.mark.parametrize(("text", "format"), CASES)
def test_a_packed_weight_moves_and_casts_with_its_module(text: str, format: str) -> None:
    """Any float dtype to any other, there and back; indices stay as they are."""
    s = Sparsity.parse(text)
    packed = pack(random_weight(shape_of(s), 15), s, None, format)
    expected = packed.unpack()
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        expected = expected.to(dtype)
        packed = copy.deepcopy(packed).to("cpu").to(dtype)
        assert bits(packed.unpack()).equal(bits(expected))
        assert packed.stored_bytes == s.stored_bytes(*shape_of(s), dtype.itemsize, format)
        packed.check()
