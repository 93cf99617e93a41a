"""Bad input of the stored formats: masks without the pattern, damaged tensors, wrong shapes and formats are refused, aloud."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.kernels import PackedWeight, PackedWeightError, from_tensors, magnitude_mask, pack
from search_spaces import Sparsity
from search_spaces.formats import formats_of
from tests import reference_formats
from tests.small_weights import CASES, TEXTS, random_weight, shape_of

# Every format, the CSL items of both widths, and shapes of several words, tiles and segments.
DAMAGED = [
    ("dense", "dense", torch.float32, (5, 7)),
    ("2:4", "nm", torch.float32, (6, 36)),
    ("2:8", "nm", torch.bfloat16, (6, 40)),
    ("1:4", "nm", torch.float32, (6, 72)),
    ("1:8", "nm", torch.float32, (6, 72)),
    ("unstructured:0.75", "csr", torch.float32, (9, 13)),
    ("unstructured:0.75", "csl", torch.float32, (130, 70)),
    ("unstructured:0.75", "csl", torch.bfloat16, (130, 70)),
    ("unstructured:0.75", "bitmap", torch.float32, (5, 140)),
    ("block16:0.50", "bsr", torch.float32, (48, 32)),
    ("vector32:0.75", "vector", torch.float32, (64, 11)),
]


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
        "bits",
        "swap",
        "dtype",
        "shorter",
        "longer",
        "flatten",
        "transpose",
        "missing",
        "extra",
    ][rng.integers(10)]
    flat = tensor.flatten().clone()
    if kind == "bits":  # of a float as of an integer: items hold both
        as_integers = {2: torch.int16, 4: torch.int32}[flat.element_size()]
        words = flat.view(as_integers)
        _change_integer(words, int(rng.integers(len(words))), rng)
        tensors[name] = flat.reshape(tensor.shape)
    elif kind == "entry":
        index = int(rng.integers(len(flat)))
        if flat.is_floating_point():
            flat[index] = float(rng.normal())
        else:
            _change_integer(flat, index, rng)
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


def _change_integer(flat: Tensor, index: int, rng: np.random.Generator) -> None:
    """A small change, one flipped bit, or any number at all."""
    limits = torch.iinfo(flat.dtype)
    old = int(flat[index])
    near = int(np.clip(old + rng.integers(-3, 4), limits.min, limits.max))
    flipped = (old - limits.min ^ 1 << int(rng.integers(limits.bits))) + limits.min
    wild = int(rng.integers(limits.min, limits.max, endpoint=True))
    flat[index] = (near, flipped, wild)[rng.choice(3, p=(0.5, 0.3, 0.2))]


def is_order(tensors: dict[str, Tensor], format: str, s: Sparsity, shape: tuple[int, int]) -> bool:
    """Whether index tensors are those of a valid format, checked entry by entry from the definition."""
    if format == "nm":
        return are_groups(tensors["metadata"].tolist(), s, shape[1] // s.m)
    if format == "csl":
        return are_items(tensors["items"], tensors["starts"].tolist(), shape)
    if format == "bitmap":
        tiles = np.array(tensors["tiles"].tolist())
        bits = tiles[:, :, :8, None] >> np.arange(32) & 1
        mask = bits.transpose(0, 2, 1, 3).reshape(len(tiles) * 8, -1).astype(np.bool_)
        inside = mask[: shape[0], : shape[1]]
        right = reference_formats.bitmap(inside) == tensors["tiles"].tolist()
        return right and int(mask.sum()) == len(tensors["values"])
    if format == "dense":
        return True
    columns = tensors["columns"].tolist()
    if format == "vector":
        lists, bound = columns, shape[1]
    else:
        starts = tensors["row_starts"].tolist()
        if not are_starts(starts, len(columns)):
            return False
        lists = [columns[a:b] for a, b in itertools.pairwise(starts)]
        bound = shape[1] // max(s.size, 1)
    inside = all(0 <= c < bound for row in lists for c in row)
    return inside and all(b > a for row in lists for a, b in itertools.pairwise(row))


def are_starts(starts: list[int], number: int) -> bool:
    rise = all(b >= a for a, b in itertools.pairwise(starts))
    return starts[0] == 0 and starts[-1] == number and rise


def are_groups(metadata: list[list[int]], s: Sparsity, groups: int) -> bool:
    """Whether N:M metadata is that of some mask: every group's planes read one by one, and written again."""
    planes = {(1, 4): 2, (2, 4): 4, (1, 8): 4, (2, 8): 8}[s.n, s.m]
    mask = np.zeros((len(metadata), groups * s.m), dtype=np.bool_)
    for row, words in enumerate(metadata):
        for group in range(groups):
            word, i = words[group * planes // 32], group % (32 // planes)
            places = {
                2: [16 * (i // 8) + 8 * j + i % 8 for j in range(2)],
                4: [8 * j + i for j in range(4)],
                8: [8 * (j % 4) + 4 * (j // 4) + i for j in range(8)],
            }[planes]
            code = [j for j, place in enumerate(places) if word >> place & 1]
            kept = code if s.n == 2 else [sum(1 << j for j in code)]
            if len(kept) != s.n or max(kept) >= s.m:
                return False
            mask[row, [group * s.m + j for j in kept]] = True
    return reference_formats.nm_metadata(mask, s.n, s.m) == metadata


def are_items(items: Tensor, starts: list[int], shape: tuple[int, int]) -> bool:
    """Whether every item is inside its tile and the matrix, and alone at its place."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[items.element_size()]
    offsets = items.view(width)[:, 1].tolist()
    across = -(-shape[1] // 64)
    if len(starts) != -(-shape[0] // 128) * across + 1 or not are_starts(starts, len(offsets)):
        return False
    taken = set()
    for tile, (first, last) in enumerate(itertools.pairwise(starts)):
        for offset in offsets[first:last]:
            if offset % 2:
                return False
            row, column = divmod(offset // 2, 72)
            place = (tile // across * 128 + row, tile % across * 64 + column)
            inside = 0 <= row < 128 and column < 64 and place[0] < shape[0] and place[1] < shape[1]
            if not inside or place in taken:
                return False
            taken.add(place)
    return True


@pytest.mark.parametrize(("text", "format", "dtype", "shape"), DAMAGED, ids=str)
def test_damaged_tensors_are_refused_or_harmless(
    text: str, format: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """A thousand random damages: each is refused, or what is left is a valid weight of the same shape."""
    s = Sparsity.parse(text)
    whole = pack(random_weight(shape, 17, dtype), s, None, format)
    assert is_order(whole.tensors(), format, s, shape)
    x = random_weight((3, shape[1]), 18)
    rng = np.random.default_rng(0)
    seen: Counter[tuple[str, bool]] = Counter()
    for _ in range(1000):
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
        assert is_order(tensors, format, s, shape), what
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
    ("name", "index", "change"),
    [
        ("items", (0, 1), 128 * 144),  # below the tile
        ("items", (0, 1), -1),
        ("items", (0, 1), 128),  # in the padding of a row
        ("items", (-1, 1), 2 * 144),  # the last tile is cut after two rows
        ("items", (-1, 1), 12),  # and after six columns
        ("items", (0, 1), "repeat"),
        ("starts", (0,), 1),
        ("starts", (1,), -1),
        ("starts", (1,), 2**31 - 1),
        ("starts", (4,), 0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_wrong_items_are_refused(
    name: str, index: tuple[int, ...], change: Any, dtype: torch.dtype
) -> None:
    s, shape = Sparsity.parse("unstructured:0.50"), (130, 70)
    packed = pack(random_weight(shape, 22, dtype), s, None, "csl")
    tensors = {k: v.clone() for k, v in packed.tensors().items()}
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    numbers = tensors[name].view(width) if name == "items" else tensors[name]
    numbers[index] = numbers[1, 1] if change == "repeat" else change
    with pytest.raises(PackedWeightError, match="the file is damaged"):
        from_tensors(s, shape, tensors)


@pytest.mark.parametrize(
    ("text", "bit", "message"),
    [
        ("2:4", 0, "two kept columns"),
        ("2:8", 5, "two kept columns"),
        ("1:8", 24, "positions below 8"),  # plane 3 of the first group
        ("2:4", 35, "beyond the 9 groups"),  # the second word has one group
        ("2:4", 44, "beyond the 9 groups"),
        ("1:4", 63, "beyond the 18 groups"),
        ("1:8", 63, "beyond the 9 groups"),
    ],
)
def test_wrong_metadata_is_refused(text: str, bit: int, message: str) -> None:
    s = Sparsity.parse(text)
    shape = (3, {"2:8": 40}.get(text, 36 if text == "2:4" else 72))
    tensors = {k: v.clone() for k, v in pack(random_weight(shape, 21), s).tensors().items()}
    octets = tensors["metadata"][1].view(torch.uint8)
    octets[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PackedWeightError, match=message):
        from_tensors(s, shape, tensors)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("column 140", "outside"),
        ("row 5", "outside"),
        ("no bits", "starts"),
        ("start", "starts"),
        ("row start", "starts"),
    ],
)
def test_a_wrong_bitmap_is_refused(kind: str, message: str) -> None:
    s, shape = Sparsity.parse("unstructured:0.50"), (5, 140)
    packed = pack(random_weight(shape, 22), s, None, "bitmap")
    tensors = {k: v.clone() for k, v in packed.tensors().items()}
    tiles = tensors["tiles"][0]
    if kind == "column 140":  # bit 12 of the last tile; as many bits as before
        word = int(tiles[4, 2])
        tiles[4, 2] = (word & (word - 1)) | 1 << 12
    elif kind == "row 5":  # the last row's word one row further down, with the row's first value
        tiles[4, 5], tiles[4, 4] = tiles[4, 4].clone(), 0
        first = int(tiles[4, 10]) & 0xFF
        tiles[4, 10] = (int(tiles[4, 10]) & ~0xFF00) | first << 8
    elif kind == "no bits":
        tiles[0, 1] = 0
    elif kind == "start":
        tiles[1, 8] += 1
    else:
        tiles[0, 9] ^= 1 << 8
    with pytest.raises(PackedWeightError, match=message):
        from_tensors(s, shape, tensors)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("format", ["dense", "csr", "csl", "bitmap", "bsr", "vector", "nm", "coo"])
def test_formats_that_do_not_store_a_sparsity_are_refused(text: str, format: str) -> None:
    s = Sparsity.parse(text)
    if format in formats_of(s):
        assert pack(random_weight(shape_of(s), 1), s, format=format).format == format
        return
    with pytest.raises(ValueError, match=f"expected a format of .*{formats_of(s)[0]}.*{format}"):
        pack(random_weight(shape_of(s), 1), s, format=format)


def test_tensors_of_an_older_layout_are_refused_with_a_remedy() -> None:
    """N:M once kept its positions value by value."""
    old = {"values": torch.ones(72), "positions": torch.zeros(18, dtype=torch.uint8)}
    with pytest.raises(PackedWeightError, match=r"metadata.*positions.*extract the model again"):
        from_tensors("2:4", (6, 24), old)


@pytest.mark.parametrize(("text", "format"), CASES)
@pytest.mark.parametrize("change", [(1, 0), (0, 1), (-1, 0), (32, 0), (0, 32)])
def test_tensors_of_another_shape_are_refused(
    text: str, format: str, change: tuple[int, int]
) -> None:
    """Unless they happen to be those of a weight of that shape: the same kept columns in a wider matrix."""
    s = Sparsity.parse(text)
    rows, columns = shape_of(s)
    packed = pack(random_weight((rows, columns), 20), s, None, format)
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
