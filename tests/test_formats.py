"""nas.kernels: masks, stored formats and products, against brute force, dense float64 products and damaged tensors."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.kernels import (
    PackedWeight,
    PackedWeightError,
    SparseLinear,
    from_tensors,
    magnitude_mask,
    pack,
    sparse_linear,
)
from nas.kernels.formats import tensor_names
from nas.kernels.formats.nm import pack_bits, unpack_bits
from nas.kernels.patterns import group_rank, group_scores, mask_from_rank
from search_spaces import Sparsity
from tests import reference_gpt
from tests.reference_gpt import groups_of, num_kept

LEVELS = ("0.25", "0.50", "0.75", "0.90")
N_OF_M = ("2:4", "1:4", "2:8", "1:8")
TEXTS = (
    "dense",
    *N_OF_M,
    *(f"unstructured:{level}" for level in LEVELS),
    *(f"block16:{level}" for level in LEVELS),
    *(f"vector32:{level}" for level in LEVELS),
)
SHAPES = {
    "dense": (5, 7),
    "n:m": (6, 24),
    "unstructured": (9, 13),
    "block": (48, 32),
    "vector": (64, 11),
}

# Largest error of y = W x over |W| |x|, by dtype: a sum of K products in that dtype errs by at most about sqrt(K) roundings
# (K is below 64 here), and the sparse paths must not be worse than that. The reference is the dense product in float64.
TOLERANCE = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 1.2e-2}


def shape_of(sparsity: Sparsity) -> tuple[int, int]:
    return SHAPES[sparsity.pattern]


def random_weight(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_mask(sparsity: Sparsity, shape: tuple[int, int], seed: int) -> Tensor:
    """A mask of the pattern with the right counts that has nothing to do with magnitudes."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(shape, dtype=torch.bool)
    for competing in groups_of(sparsity, *shape):
        for i in rng.permutation(len(competing))[: num_kept(sparsity, len(competing))]:
            for row, column in competing[i]:
                mask[row, column] = True
    return mask


def bits(tensor: Tensor) -> Tensor:
    """The bit pattern, so that -0.0, 0.0 and NaN are told apart."""
    return tensor.contiguous().view(
        {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    )


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
    text=st.sampled_from(TEXTS),
    tall=st.integers(1, 3),
    wide=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    is_magnitude=st.booleans(),
)
@settings(max_examples=150)
def test_packing_is_exact_and_as_small_as_stated(
    text: str, tall: int, wide: int, seed: int, dtype: torch.dtype, is_magnitude: bool
) -> None:
    s = Sparsity.parse(text)
    shape = (tall * (s.size or 3), wide * (s.m or (s.size if s.pattern == "block" else 5)))
    weight = random_weight(shape, seed, dtype)
    weight[0, 0] = -0.0
    mask = magnitude_mask(weight, s) if is_magnitude else random_mask(s, shape, seed)
    packed = pack(weight, text, None if is_magnitude else mask)
    kept = torch.where(mask, weight, torch.zeros((), dtype=dtype))
    assert bits(packed.unpack()).equal(bits(kept))
    assert packed.unpack().dtype == dtype
    assert tuple(packed.shape) == shape
    assert packed.nonzeros == int(mask.sum())
    assert packed.stored_bytes == s.stored_bytes(*shape, weight.element_size())
    again = from_tensors(text, shape, {k: v.clone() for k, v in packed.tensors().items()})
    assert bits(again.unpack()).equal(bits(kept))
    assert set(packed.tensors()) == set(tensor_names(s)) == set(packed.state_dict())


@pytest.mark.parametrize("text", TEXTS)
def test_a_packed_weight_shares_no_memory_with_the_weight(text: str) -> None:
    s = Sparsity.parse(text)
    weight = random_weight(shape_of(s), 7)
    packed = pack(weight, s)
    expected = packed.unpack().clone()
    weight.fill_(9.0)
    assert packed.unpack().equal(expected)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
def test_small_numbers_are_packed_into_bits(width: int, numbers: list[int]) -> None:
    numbers = [number % 2**width for number in numbers]
    packed = pack_bits(torch.tensor(numbers, dtype=torch.uint8), width)
    stream = "".join(f"{number:0{width}b}"[::-1] for number in numbers)
    octets = [stream[i : i + 8].ljust(8, "0")[::-1] for i in range(0, len(stream), 8)]
    assert packed.tolist() == [int(octet, 2) for octet in octets]
    assert unpack_bits(packed, width, len(numbers)).tolist() == numbers


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 5, 7, 33])
def test_products_equal_the_dense_one(text: str, dtype: torch.dtype, num_rows: int) -> None:
    s = Sparsity.parse(text)
    shape = shape_of(s)
    packed = pack(random_weight(shape, 8, dtype), s)
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
    y = sparse_linear(x, packed, bias, (a, b))
    assert tuple(y.shape) == (*leading, rows)
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert SparseLinear(packed, bias, (a, b))(x).equal(y)
    without = torch.einsum("mk,...k->...m", packed.unpack().double(), x.double())
    assert torch.allclose(SparseLinear(packed)(x).double(), without, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=f"expected x of {columns} features"):
        sparse_linear(x[..., 1:], packed)


def test_a_packed_weight_moves_and_casts_with_its_module() -> None:
    for text in TEXTS:
        s = Sparsity.parse(text)
        packed = pack(random_weight(shape_of(s), 15), s)
        expected = packed.unpack().to(torch.bfloat16)
        cast = packed.to(torch.bfloat16)
        assert cast.unpack().equal(expected)
        assert cast.stored_bytes == s.stored_bytes(*shape_of(s), 2)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS[1:])
def test_masks_without_the_pattern_are_refused(text: str) -> None:
    s = Sparsity.parse(text)
    weight = random_weight(shape_of(s), 16)
    mask = magnitude_mask(weight, s)
    with pytest.raises(PackedWeightError, match="mask that keeps"):
        pack(weight, s, torch.ones_like(mask))
    with pytest.raises(PackedWeightError, match="bool mask of shape"):
        pack(weight, s, mask[1:])
    with pytest.raises(PackedWeightError, match="bool mask of shape"):
        pack(weight, s, mask.float())
    if s.pattern != "unstructured":  # the right count in the wrong places
        moved = mask.clone()
        row, column = (int(i) for i in moved.nonzero()[0])
        moved[row, column] = False
        free = (~mask).nonzero()
        apart = next((int(r), int(c)) for r, c in free if s.pattern != "n:m" or int(r) != row)
        moved[apart] = True
        with pytest.raises(PackedWeightError, match="expected"):
            pack(weight, s, moved)


def test_weights_that_are_no_floating_point_matrix_are_refused() -> None:
    for weight in (torch.ones(4, 4, dtype=torch.int32), torch.ones(4), torch.ones(2, 4, 4)):
        with pytest.raises(ValueError, match=r"expected|not enough values"):
            pack(weight, "dense")
    with pytest.raises(ValueError, match="divisible by 32"):
        pack(torch.ones(48, 4), "vector32:0.50")


def damage(tensors: dict[str, Tensor], rng: np.random.Generator) -> str:
    """Change one thing about the stored tensors, in place; says what."""
    name = sorted(tensors)[rng.integers(len(tensors))]
    tensor = tensors[name]
    kind = [
        "entry",
        "swap",
        "dtype",
        "shorter",
        "longer",
        "flatten",
        "transpose",
        "missing",
        "extra",
    ][rng.integers(9)]
    flat = tensor.flatten().clone()
    if kind == "entry":
        index = int(rng.integers(len(flat)))
        if flat.is_floating_point():
            flat[index] = float(rng.normal())
        else:
            limits = torch.iinfo(flat.dtype)
            wild = int(rng.integers(limits.min, limits.max, endpoint=True))
            near = int(np.clip(int(flat[index]) + rng.integers(-3, 4), limits.min, limits.max))
            flat[index] = near if rng.uniform() < 0.7 else wild
        tensors[name] = flat.reshape(tensor.shape)
    elif kind == "swap":
        i, j = (int(k) for k in rng.integers(len(flat), size=2))
        flat[[i, j]] = flat[[j, i]]
        tensors[name] = flat.reshape(tensor.shape)
    elif kind == "dtype":
        dtypes = (torch.int64, torch.int32, torch.uint8, torch.float64, torch.bool)
        tensors[name] = tensor.to(dtypes[rng.integers(len(dtypes))])
    elif kind == "shorter":
        tensors[name] = tensor[:-1]
    elif kind == "longer":
        tensors[name] = torch.cat((tensor, tensor[-1:]))
    elif kind == "flatten":
        tensors[name] = flat
    elif kind == "transpose":
        tensors[name] = tensor.reshape(*tensor.shape[::-1])
    elif kind == "missing":
        del tensors[name]
    else:
        tensors["more"] = torch.zeros(1)
    return f"{kind} of {name}"


def is_order(tensors: dict[str, Tensor], s: Sparsity, shape: tuple[int, int]) -> bool:
    """Whether index tensors are those of a valid format, checked entry by entry from the definition."""
    if s.pattern == "dense":
        return True
    if s.pattern == "n:m":
        width = s.m.bit_length() - 1
        stream = "".join(f"{octet:08b}"[::-1] for octet in tensors["positions"].tolist())
        places = [
            int(stream[i : i + width][::-1], 2) for i in range(0, s.nonzeros(*shape) * width, width)
        ]
        groups = [places[i : i + s.n] for i in range(0, len(places), s.n)]
        return all(b > a for group in groups for a, b in itertools.pairwise(group))
    columns = tensors["columns"].tolist()
    if s.pattern == "vector":
        lists, bound = columns, shape[1]
    else:
        starts = tensors["row_starts"].tolist()
        if (
            starts[0] != 0
            or starts[-1] != len(columns)
            or any(b < a for a, b in itertools.pairwise(starts))
        ):
            return False
        lists = [columns[a:b] for a, b in itertools.pairwise(starts)]
        bound = shape[1] // max(s.size, 1)
    inside = all(0 <= c < bound for row in lists for c in row)
    return inside and all(b > a for row in lists for a, b in itertools.pairwise(row))


@pytest.mark.parametrize(
    "text", ["dense", "2:4", "1:8", "unstructured:0.75", "block16:0.50", "vector32:0.75"]
)
def test_damaged_tensors_are_refused_or_harmless(text: str) -> None:
    """Three hundred random damages: each is refused, or what is left is a valid weight of the same shape."""
    s = Sparsity.parse(text)
    shape = shape_of(s)
    whole = pack(random_weight(shape, 17), s)
    x = random_weight((3, shape[1]), 18)
    rng = np.random.default_rng(0)
    seen: Counter[tuple[str, bool]] = Counter()
    for _ in range(300):
        tensors = {k: v.clone() for k, v in whole.tensors().items()}
        what = damage(tensors, rng)
        try:
            packed = from_tensors(s, shape, tensors)
        except PackedWeightError:
            seen[what.split()[0], False] += 1
            continue
        seen[what.split()[0], True] += 1
        assert tuple(packed.unpack().shape) == shape, what
        if packed.unpack().dtype == torch.float32:
            y = packed.multiply(x)
            assert torch.allclose(y, x @ packed.unpack().T, rtol=1e-4, atol=1e-4), what
        assert is_order(tensors, s, shape), what
    for kind in ("missing", "extra", "shorter", "longer"):
        assert seen[kind, False] > 0, kind
        assert seen[kind, True] == 0, kind


@pytest.mark.parametrize("text", ["unstructured:0.75", "block16:0.50", "vector32:0.75"])
@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1, "bound", "repeat"])
def test_wrong_columns_are_refused_before_a_kernel_sees_them(text: str, value: Any) -> None:
    s = Sparsity.parse(text)
    shape = shape_of(s)
    tensors = {k: v.clone() for k, v in pack(random_weight(shape, 19), s).tensors().items()}
    columns = tensors["columns"]
    flat = columns.view(-1)
    if value == "repeat":  # two entries for one place of the first row that has two
        starts = (
            tensors["row_starts"]
            if "row_starts" in tensors
            else torch.tensor([0, columns.shape[-1]])
        )
        first = next(int(a) for a, b in itertools.pairwise(starts) if b - a > 1)
        flat[first + 1] = flat[first]
    else:
        flat[0] = (
            shape[1] // max(s.size if s.pattern == "block" else 1, 1) if value == "bound" else value
        )
    with pytest.raises(PackedWeightError, match="columns"):
        from_tensors(s, shape, tensors)


@pytest.mark.parametrize(
    ("text", "wrong"), [("2:4", (1, 1)), ("2:4", (3, 0)), ("2:8", (7, 7)), ("2:8", (5, 2))]
)
def test_wrong_positions_are_refused(text: str, wrong: tuple[int, int]) -> None:
    s = Sparsity.parse(text)
    shape = shape_of(s)
    tensors = pack(random_weight(shape, 21), s).tensors()
    width = s.m.bit_length() - 1
    places = unpack_bits(tensors["positions"], width, s.nonzeros(*shape))
    places[-2:] = torch.tensor(wrong, dtype=torch.uint8)
    with pytest.raises(PackedWeightError, match="ascending positions"):
        from_tensors(s, shape, tensors | {"positions": pack_bits(places, width)})


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("change", [(1, 0), (0, 1), (-1, 0), (32, 0), (0, 32)])
def test_tensors_of_another_shape_are_refused(text: str, change: tuple[int, int]) -> None:
    """Unless they happen to be those of a weight of that shape: the same kept columns in a wider matrix."""
    s = Sparsity.parse(text)
    rows, columns = shape_of(s)
    packed = pack(random_weight((rows, columns), 20), s)
    other = (rows + change[0], columns + change[1])
    divides = s.pattern != "block" or other[1] % s.size == 0
    is_wider = change[0] == 0 and "columns" in packed.tensors() and divides
    if is_wider and s.num_kept(rows, columns) == s.num_kept(*other):
        assert from_tensors(s, other, packed.tensors()).unpack()[:, :columns].equal(packed.unpack())
        return
    with pytest.raises(PackedWeightError, match="expected"):
        from_tensors(s, other, packed.tensors())


@pytest.mark.parametrize("shape", [(6,), (6, 24, 1), (6.0, 24), (0, 24), (-6, 24), (True, 24)])
def test_what_is_no_shape_is_refused(shape: Any) -> None:
    with pytest.raises(PackedWeightError, match="expected"):
        from_tensors("dense", shape, {"values": torch.ones(6, 24)})


def test_a_packed_weight_error_is_a_value_error() -> None:
    assert issubclass(PackedWeightError, ValueError)
    assert issubclass(PackedWeight, torch.nn.Module)
