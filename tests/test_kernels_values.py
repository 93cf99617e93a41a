"""Every sparse kernel against ``reference.py`` in float64, through the one door: every shape, tile, epilogue and number of tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels import pack, paths, sparse_linear
from nas.kernels.epilogue import ACTIVATIONS, Epilogue
from nas.kernels.triton.configs import TileConfig, tile_configs
from search_spaces import Sparsity
from tests.kernel_cases import (
    DEVICE,
    DTYPES,
    FORMATS,
    HAS_GPU,
    IDS,
    NEEDS_TRITON,
    assert_close,
    packed_of,
    poison_new_buffers,
    random,
)

pytestmark = NEEDS_TRITON


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_buffers(monkeypatch)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 3, 17, 63])
def test_products(
    text: str, stored: str, shape: tuple[int, int], dtype: torch.dtype, num_tokens: int
) -> None:
    packed = packed_of(text, stored, shape, dtype)
    x = random(num_tokens, shape[1], seed=1, dtype=dtype)
    assert "triton" in paths(packed, num_tokens)
    assert_close(sparse_linear(x, packed, path="triton"), packed, x, Epilogue())


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whatever_follows_the_product(
    text: str, stored: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Every activation with and without bias, adapter (after and inside the activation) and gate; of the second dtype every other one."""
    rows, columns = shape
    packed = packed_of(text, stored, shape, dtype)
    x = random(5, columns, seed=1, dtype=dtype)
    bias = random(rows, seed=2, dtype=dtype)
    gate = random(5, rows, seed=3, dtype=dtype)
    a = random(7, columns, seed=4, dtype=dtype) / columns**0.5
    b = random(rows, 7, seed=5, dtype=dtype)
    every = itertools.product((None, *ACTIVATIONS), (None, "after", "first"), (False, True))
    for number, (activation, adapter, has_bias) in enumerate(every):
        if dtype != DTYPES[0] and (number + number // 2) % 2 and not HAS_GPU:
            continue  # alternates between with and without bias
        epilogue = Epilogue(
            bias if has_bias else None,
            activation,
            None if adapter is None else (a, b),
            adapter == "first",
            gate if has_bias and activation in (None, "silu") else None,
        )
        y = sparse_linear(
            x,
            packed,
            epilogue.bias,
            activation,
            epilogue.adapter,
            adapter_first=epilogue.adapter_first,
            gate=epilogue.gate,
            path="triton",
        )
        assert_close(y, packed, x, epilogue)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_every_tile_and_split(text: str, stored: str, shape: tuple[int, int]) -> None:
    """All configurations dispatch may choose, and more programs than there are columns to share."""
    from nas.kernels.triton.launch import triton_product

    packed = packed_of(text, stored, shape, torch.float16)
    x = random(9, shape[1], seed=1, dtype=torch.float16)
    bias = random(shape[0], seed=2, dtype=torch.float16)
    for config in tile_configs(packed.sparsity, stored, has_assembly=HAS_GPU):
        for split in (1, 2, 5):
            cut = TileConfig(**config.to_json() | {"split": split})
            epilogue = Epilogue(bias, "silu")
            assert_close(triton_product(packed, x, epilogue, cut), packed, x, epilogue)


def special_mask(text: str, shape: tuple[int, int], kind: str) -> Tensor:
    """Masks with whole rows and columns empty, where the pattern leaves a choice."""
    s = Sparsity.parse(text)
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    scores += {"first": -10.0 * row - 10.0 * column, "last": 10.0 * row + 10.0 * column}[kind]
    from nas.kernels.patterns import group_scores, mask_from_rank

    sums = group_scores(scores.exp(), s)
    order = sums.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return mask_from_rank(rank.int(), s, shape)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
@pytest.mark.parametrize("kind", ["first", "last"])
def test_empty_rows_and_columns(text: str, stored: str, shape: tuple[int, int], kind: str) -> None:
    mask = special_mask(text, shape, kind).to(DEVICE)
    packed = pack(random(*shape, seed=0, dtype=torch.float16), text, mask, stored)
    x = random(4, shape[1], seed=1, dtype=torch.float16)
    assert_close(sparse_linear(x, packed, path="triton"), packed, x, Epilogue())


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_all_zero_weights(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = pack(torch.zeros(shape, dtype=torch.float16, device=DEVICE), text, format=stored)
    x = random(3, shape[1], seed=1, dtype=torch.float16)
    bias = random(shape[0], seed=2, dtype=torch.float16)
    y = sparse_linear(x, packed, bias, path="triton")
    assert y.equal(bias.expand(3, -1))


@pytest.mark.parametrize(
    ("text", "stored", "shape"),
    [
        ("unstructured:0.0001", "csl", (131, 70)),
        ("unstructured:0.0001", "bitmap", (40, 70)),
        ("unstructured:0.0001", "csr", (40, 70)),
        ("block16:0.01", "bsr", (32, 48)),
        ("vector32:0.01", "vector", (64, 40)),
        ("unstructured:0.9999", "csl", (200, 130)),
        ("unstructured:0.9999", "bitmap", (200, 130)),
        ("unstructured:0.9999", "csr", (200, 130)),
        ("block16:0.99", "bsr", (64, 64)),
    ],
)
def test_nearly_all_and_nearly_none_kept(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = packed_of(text, stored, shape, torch.float16)
    x = random(6, shape[1], seed=1, dtype=torch.float16)
    assert_close(sparse_linear(x, packed, path="triton"), packed, x, Epilogue())


def test_many_tokens() -> None:
    for text, stored, shape in FORMATS[::3]:
        packed = packed_of(text, stored, shape, torch.float16)
        x = random(150, shape[1], seed=1, dtype=torch.float16)
        assert_close(sparse_linear(x, packed, path="triton"), packed, x, Epilogue())


def test_more_tokens_than_one_launch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.kernels.triton import launch

    monkeypatch.setattr(launch, "MAX_TOKENS", 20)
    for text, stored, shape in FORMATS[::4]:
        packed = packed_of(text, stored, shape, torch.float16)
        x = random(45, shape[1], seed=1, dtype=torch.float16)
        gate = random(45, shape[0], seed=2, dtype=torch.float16)
        y = sparse_linear(x, packed, gate=gate, path="triton")
        assert_close(y, packed, x, Epilogue(gate=gate))


def test_the_same_bits_every_time() -> None:
    for text, stored, shape in FORMATS:
        packed = packed_of(text, stored, shape, torch.float16)
        x = random(5, shape[1], seed=1, dtype=torch.float16)
        first = sparse_linear(x, packed, path="triton")
        assert sparse_linear(x, packed, path="triton").equal(first)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_no_tokens(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = packed_of(text, stored, shape, DTYPES[0])
    for leading in ((0,), (3, 0)):
        y = sparse_linear(random(*leading, shape[1], seed=1, dtype=DTYPES[0]), packed)
        assert tuple(y.shape) == (*leading, shape[0])
        forced = sparse_linear(
            random(*leading, shape[1], seed=1, dtype=DTYPES[0]), packed, path="triton"
        )
        assert tuple(forced.shape) == (*leading, shape[0])


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_strided_input(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = packed_of(text, stored, shape, DTYPES[0])
    wide = random(5, 2 * shape[1], seed=1, dtype=DTYPES[0])
    tall = random(shape[1], 5, seed=1, dtype=DTYPES[0])
    for x in (wide[:, ::2], tall.T, wide[:1, : shape[1]].expand(4, -1)):
        y = sparse_linear(x, packed, path="triton")
        assert_close(y, packed, x.contiguous(), Epilogue())


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS[::3], ids=IDS[::3])
def test_strided_bias_adapter_and_gate(text: str, stored: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    packed = packed_of(text, stored, shape, DTYPES[0])
    x = random(4, columns, seed=1, dtype=DTYPES[0])
    wide = random(2 * rows, seed=2, dtype=DTYPES[0])[::2]
    a = random(columns, 3, seed=4, dtype=DTYPES[0]).T / columns**0.5
    b = random(3, rows, seed=5, dtype=DTYPES[0]).T
    gate = random(rows, 4, seed=6, dtype=DTYPES[0]).T
    for bias in (wide, wide[:1].expand(rows)):
        epilogue = Epilogue(bias, "relu", (a, b), True, gate)
        y = sparse_linear(
            x, packed, bias, "relu", (a, b), adapter_first=True, gate=gate, path="triton"
        )
        assert_close(y, packed, x, epilogue)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_an_adapter_of_higher_rank(text: str, stored: str, shape: tuple[int, int]) -> None:
    """Several steps of 16 ranks, the last one cut."""
    rows, columns = shape
    packed = packed_of(text, stored, shape, DTYPES[0])
    x = random(3, columns, seed=1, dtype=DTYPES[0])
    a = random(43, columns, seed=2, dtype=DTYPES[0]) / columns**0.5
    b = random(rows, 43, seed=3, dtype=DTYPES[0]) / 7
    for first in (False, True):
        epilogue = Epilogue(None, "gelu", (a, b), first)
        y = sparse_linear(x, packed, None, "gelu", (a, b), adapter_first=first, path="triton")
        assert_close(y, packed, x, epilogue)
