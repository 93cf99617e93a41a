"""Where every bit of a stored weight is: N:M metadata, the order of CSL items and bitmaps, against loops over single weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas.kernels import pack
from nas.kernels import patterns as patterns_module
from nas.kernels.chunks import row_chunks
from nas.kernels.formats import BitmapWeight, CslWeight, NmWeight
from nas.kernels.patterns import group_rank, magnitude_mask, mask_from_rank
from search_spaces import Sparsity
from tests import reference_formats
from tests.small_weights import CASES, N_OF_M, bits, random_mask, random_weight, shape_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@given(
    text=st.sampled_from(N_OF_M),
    rows=st.integers(1, 4),
    groups=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=60)
def test_n_of_m_metadata_and_values(
    text: str, rows: int, groups: int, seed: int, dtype: torch.dtype
) -> None:
    s = Sparsity.parse(text)
    shape = (rows, groups * s.m)
    mask, weight = random_mask(s, shape, seed), random_weight(shape, seed, dtype)
    packed = pack(weight, s, mask)
    assert isinstance(packed, NmWeight)
    expected = reference_formats.nm_metadata(mask.numpy(), s.n, s.m)
    assert packed.metadata.tolist() == expected
    assert tuple(packed.values.shape) == (rows, s.n, groups)
    for row in range(rows):
        for group in range(groups):
            kept = [c for c in range(group * s.m, (group + 1) * s.m) if mask[row, c]]
            for slot, column in enumerate(kept):
                assert packed.values[row, slot, group] == weight[row, column]


def test_one_shift_brings_a_group_to_the_tops_of_bytes() -> None:
    """What the layout is for: shifted by its own distance, a word has a group's bits at the tops of its bytes."""
    for text in N_OF_M:
        s = Sparsity.parse(text)
        planes = {"1:4": 2, "2:4": 4, "1:8": 4, "2:8": 8}[text]
        per_word = 32 // planes
        mask = random_mask(s, (3, 32 * s.m), seed=1)
        words = pack(torch.ones(3, 32 * s.m), s, mask).tensors()["metadata"]
        for row in range(3):
            for number in range(32):
                word, i = int(words[row, number // per_word]), number % per_word
                group = mask[row, number * s.m : (number + 1) * s.m]
                place = int(group.nonzero()[0, 0])
                for j in range(planes):
                    distance = {2: 7 - i % 8, 4: 7 - i, 8: 7 - i - 4 * (j // 4)}[planes]
                    byte = {2: 2 * (i // 8) + j, 4: j, 8: j % 4}[planes]
                    top = (word << distance) >> (8 * byte + 7) & 1
                    assert bool(top) == (bool(group[j]) if s.n == 2 else bool(place >> j & 1))


@given(
    rows=st.one_of(st.integers(1, 300), st.sampled_from([127, 128, 129, 256])),
    columns=st.one_of(st.integers(1, 200), st.sampled_from([63, 64, 65, 128])),
    level=st.sampled_from([0.02, 0.3, 0.5, 0.8, 0.97]),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=40, deadline=None)
def test_items_are_dealt_to_banks(
    rows: int, columns: int, level: float, seed: int, dtype: torch.dtype
) -> None:
    s = Sparsity("unstructured", level)
    mask, weight = (
        random_mask(s, (rows, columns), seed),
        random_weight((rows, columns), seed, dtype),
    )
    packed = pack(weight, s, mask, "csl")
    check_items(packed, weight, mask)


@pytest.mark.parametrize("kind", ["one bank", "two banks", "a column", "a row", "a corner"])
def test_items_of_uneven_banks_are_dealt(kind: str) -> None:
    """Masks that fill few banks: the rounds become short, and 32 neighbours span several of them."""
    shape = (200, 100)
    row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    bank = (row % 128 * 72 + column % 64) // 2 % 32
    mask = {
        "one bank": bank == 5,
        "two banks": (bank == 5) | ((bank == 9) & (row % 3 == 0)) | (row == 17),
        "a column": column == 70,
        "a row": row == 130,
        "a corner": (row >= 190) & (column >= 90),
    }[kind]
    number = int(mask.sum())
    s = Sparsity("unstructured", 1 - number / mask.numel())
    assert s.nonzeros(*shape) == number
    weight = random_weight(shape, 3, torch.bfloat16)
    check_items(pack(weight, s, mask, "csl"), weight, mask)


def check_items(packed: object, weight: Tensor, mask: Tensor) -> None:
    """Offsets in the order of the twin, the values at their places, and as many banks in 32 neighbours as can be."""
    assert isinstance(packed, CslWeight)
    tiles = reference_formats.csl_tiles(mask.numpy())
    starts = packed.starts.tolist()
    assert starts == np.cumsum([0, *map(len, tiles)]).tolist()
    assert packed.offsets.dtype.itemsize == weight.dtype.itemsize
    assert packed.offsets.tolist() == [offset for tile in tiles for offset in tile]
    across = -(-weight.shape[1] // 64)
    for index, tile in enumerate(tiles):
        places = [
            (index // across * 128 + o // 144, index % across * 64 + o // 2 % 72) for o in tile
        ]
        at = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
        values = packed.values[starts[index] : starts[index + 1]]
        assert bits(values).equal(bits(weight[at[:, 0], at[:, 1]]))
        banks = [o // 4 % 32 for o in tile]
        for first in range(0, len(tile) - 31, 32):
            left = len(set(banks[first:]))  # banks that still have items
            assert len(set(banks[first : first + 32])) == min(32, left)


@given(
    rows=st.integers(1, 20),
    columns=st.one_of(st.integers(1, 100), st.sampled_from([31, 32, 33, 64])),
    level=st.sampled_from([0.02, 0.5, 0.8, 0.97]),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=60)
def test_records_and_values_of_a_bitmap(
    rows: int, columns: int, level: float, seed: int, dtype: torch.dtype
) -> None:
    s = Sparsity("unstructured", level)
    mask = random_mask(s, (rows, columns), seed)
    weight = random_weight((rows, columns), seed, dtype)
    packed = pack(weight, s, mask, "bitmap")
    assert isinstance(packed, BitmapWeight)
    assert packed.tiles.tolist() == reference_formats.bitmap(mask.numpy())
    places = [
        (row, column)
        for top in range(0, rows, 8)
        for left in range(0, columns, 32)
        for row in range(top, min(top + 8, rows))
        for column in range(left, min(left + 32, columns))
        if mask[row, column]
    ]
    at = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    assert bits(packed.values).equal(bits(weight[at[:, 0], at[:, 1]]))


# --- nothing is asked of the device ---------------------------------------------------------------

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim"}


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the CPU wait for a GPU, and what a CUDA graph cannot hold."""

    def __enter__(self) -> Any:
        self.patch = pytest.MonkeyPatch()
        for name in ("tolist", "numpy", "__array__"):  # they pass by the dispatcher
            self.patch.setattr(Tensor, name, _refused)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        is_counted = name == "repeat_interleave" and kwargs.get("output_size") is None
        by_mask = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        waits = name in WAITING or is_counted or by_mask
        assert not waits, f"{func} waits for a GPU"
        return func(*args, **kwargs)


def _refused(*_: Any) -> Any:
    raise AssertionError("a list of numbers waits for a GPU")


@pytest.mark.parametrize(("text", "format"), CASES)
def test_a_weight_is_rebuilt_without_asking_the_device(text: str, format: str) -> None:
    s = Sparsity.parse(text)
    shape = (300, 200) if s.pattern == "unstructured" else shape_of(s)
    weight = random_weight(shape, 5, torch.float32)
    packed = pack(weight, s, None, format)
    expected = packed.unpack()
    with NoQuestions():
        found = packed.unpack()
        if format in ("nm", "vector"):
            packed.values_gradient(torch.ones(3, shape[0]), torch.ones(3, shape[1]))
    assert found.equal(expected)


def test_questions_are_noticed() -> None:
    mask = torch.ones(3, dtype=torch.bool)
    asked = (lambda: mask.sum().item(), lambda: mask[mask], mask.nonzero, lambda: mask.tolist())
    for ask in asked:
        with NoQuestions(), pytest.raises(AssertionError, match="waits"):
            ask()


# --- matrices of several pieces -------------------------------------------------------------------


def test_pieces_cover_the_rows_in_order() -> None:
    for rows, columns, step in ((1, 1, 1), (10, 2**22, 1), (300, 2**20, 128), (7, 2**24, 4)):
        pieces = list(row_chunks(rows, columns, step))
        assert [r for piece in pieces for r in range(piece.start, piece.stop)] == list(range(rows))
        assert all(piece.start % step == 0 for piece in pieces)
        assert all((p.stop - p.start) * columns <= max(2**23, step * columns) for p in pieces)


@pytest.mark.parametrize("format", ["csr", "csl", "bitmap", "2:4", "1:8", "2:8"])
def test_a_matrix_is_packed_in_pieces_as_in_one(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = format if ":" in format else "unstructured:0.60"
    name = None if ":" in format else format
    weight = random_weight((300, 136), 4, torch.bfloat16).mul(8).round()  # ties everywhere
    whole = pack(weight, text, None, name)
    monkeypatch.setattr("nas.kernels.chunks.CHUNK_WEIGHTS", 1000)
    pieces = pack(weight, text, None, name)
    for key, tensor in whole.tensors().items():
        assert pieces.tensors()[key].equal(tensor), key
    assert pieces.unpack().equal(whole.unpack())
    pieces.check()


@pytest.mark.gpu
@pytest.mark.parametrize(("text", "format"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_gpu_packs_what_the_cpu_packs(text: str, format: str, dtype: torch.dtype) -> None:
    s = Sparsity.parse(text)
    shape = (300, 200) if s.pattern == "unstructured" else shape_of(s)
    weight = random_weight(shape, 5, dtype).mul(4).round()  # ties too
    expected, packed = pack(weight, s, None, format), pack(weight.cuda(), s, None, format)
    for name, tensor in expected.tensors().items():
        assert bits(packed.tensors()[name].cpu()).equal(bits(tensor)), name
    assert packed.unpack().cpu().equal(expected.unpack())
    moved = expected.to("cuda", torch.float64)
    moved.check()
    assert moved.unpack().cpu().equal(weight.double() * (packed.unpack().cpu() != 0))


@given(
    level=st.floats(0.01, 0.99),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["random", "rounded", "nan", "infinite", "tiny"]),
    size=st.sampled_from([50, 10**6]),
)
def test_selected_masks_are_those_of_ranks(level: float, seed: int, kind: str, size: int) -> None:
    """Selection by counting keeps what sorting would keep: ties, infinities, subnormal squares and NaN included."""
    weight = random_weight((9, 31), seed)
    change = torch.rand(9, 31, generator=torch.Generator().manual_seed(seed)) < 0.4
    if kind == "rounded":
        weight = weight.round()
    elif kind == "tiny":
        weight *= 1e-21
    elif kind != "random":
        weight[change] = float("nan") if kind == "nan" else float("inf")
    s = Sparsity("unstructured", level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.kernels.chunks.CHUNK_WEIGHTS", size)
        mask = patterns_module.magnitude_mask(weight, s)
    assert mask.equal(mask_from_rank(group_rank(weight, s), s, (9, 31)))


def test_every_tie_goes_to_the_lower_index() -> None:
    for level in (0.1, 0.5, 0.9):
        s = Sparsity("unstructured", level)
        mask = magnitude_mask(torch.full((6, 10), -2.0), s).flatten()
        number = s.nonzeros(6, 10)
        assert bool(mask[:number].all())
        assert not bool(mask[number:].any())
