"""Every sparse kernel against ``reference.py`` in float64, through the one door: on a GPU, or without one under Triton's interpreter.

The contract: an error at most twice that of plain PyTorch in the same dtype, whatever the shape, the tokens and what follows the product;
no element of the output left unwritten; gradients of the reference.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.kernels import PackedWeight, SparseLinear, pack, paths, sparse_linear
from nas.kernels.epilogue import ACTIVATIONS, Epilogue
from nas.kernels.paths import has_triton
from nas.kernels.reference import reference_linear
from nas.kernels.triton.configs import TileConfig, tile_configs
from search_spaces import Sparsity

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
# The interpreter's tl.dot is wrong in bfloat16; on a GPU the kernels are for 16-bit weights.
DTYPES = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16, torch.float32)
pytestmark = pytest.mark.skipif(not has_triton(), reason="needs Triton")

# (sparsity, format, a small shape that the tiles do not divide, as far as the pattern allows it)
FORMATS = (
    ("vector32:0.70", "vector", (96, 75)),
    ("vector64:0.50", "vector", (64, 203)),
    ("vector128:0.90", "vector", (128, 330)),
    ("block16:0.60", "bsr", (48, 80)),
    ("block32:0.75", "bsr", (96, 160)),
    ("block64:0.50", "bsr", (128, 192)),
    ("2:4", "nm", (70, 148)),
    ("1:4", "nm", (131, 76)),
    ("2:8", "nm", (65, 136)),
    ("1:8", "nm", (33, 264)),
    ("unstructured:0.70", "csl", (131, 150)),
    ("unstructured:0.50", "bitmap", (71, 150)),
    ("unstructured:0.90", "csr", (22, 1301)),
)
IDS = [f"{text}-{stored}" for text, stored, _ in FORMATS]


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE, dtype)


def packed_of(
    text: str, stored: str, shape: tuple[int, int], dtype: torch.dtype, seed: int = 0
) -> PackedWeight:
    return pack(random(*shape, seed=seed, dtype=dtype), text, format=stored)


def assert_close(y: Tensor, packed: PackedWeight, x: Tensor, epilogue: Epilogue) -> None:
    """The contract: at most twice the error of the dense product and plain torch in the same dtype."""
    exact = reference_linear(packed, x, epilogue)
    plain = epilogue(torch.nn.functional.linear(x, packed.unpack()), x)
    assert y.dtype == x.dtype
    assert y.shape == exact.shape
    error, allowed = (y.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    # Another order of the sum; plain torch is sometimes exact by luck.
    floor = 4 * torch.finfo(x.dtype).eps * exact.abs().max()
    assert float(error) <= 2 * float(allowed) + float(floor)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill starts as NaN."""
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        made = new_empty(tensor, *args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-1)

    monkeypatch.setattr(Tensor, "new_empty", poisoned)


# --- values ---------------------------------------------------------------------------------------


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


# --- every path, gradients ------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_every_path_agrees(text: str, stored: str, shape: tuple[int, int]) -> None:
    dtype = torch.float16 if HAS_GPU else torch.float32
    packed = packed_of(text, stored, shape, dtype)
    bias = random(shape[0], seed=2, dtype=dtype)
    for num_tokens in (1, 5):
        x = random(num_tokens, shape[1], seed=1, dtype=dtype)
        epilogue = Epilogue(bias, "gelu")
        for path in paths(packed, num_tokens):
            y = sparse_linear(x, packed, bias, "gelu", path=path)
            assert_close(y, packed, x, epilogue)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_gradients(text: str, stored: str, shape: tuple[int, int], activation: str | None) -> None:
    """Of the input for every format, of bias and adapter, and of the values of N:M and column vectors."""
    rows, columns = shape
    dtype = torch.float16 if HAS_GPU else torch.float32
    packed = packed_of(text, stored, shape, dtype)
    leaves = [
        random(2, 3, columns, seed=1, dtype=dtype),
        random(rows, seed=2, dtype=dtype),
        random(4, columns, seed=3, dtype=dtype) / columns**0.5,
        random(rows, 4, seed=4, dtype=dtype),
    ]
    x, bias, a, b = (leaf.requires_grad_() for leaf in leaves)
    trains_values = stored in ("nm", "vector")
    if trains_values:
        packed.values_tensor.requires_grad_()
    weight = packed.unpack().detach().double().requires_grad_()
    mask = weight.detach() != 0
    y = sparse_linear(x, packed, bias, activation, (a, b), adapter_first=True)
    upstream = random(2, 3, rows, seed=5, dtype=dtype)
    y.backward(upstream)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z = exact[0] @ weight.T + exact[1] + exact[0] @ exact[2].T @ exact[3].T
    (torch.nn.functional.gelu(z) if activation else z).backward(upstream.double())
    tolerance = 3e-2 if HAS_GPU else 1e-4
    for found, wanted in zip((x, bias, a, b), exact, strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        error = (found.grad.double() - wanted.grad).abs().max()
        assert float(error) <= tolerance * float(wanted.grad.abs().max())
    if trains_values:
        assert packed.values_tensor.grad is not None
        tensors = packed.tensors() | {"values": packed.values_tensor.grad}
        gradient = packed.holding(list(tensors.values()))
        wanted_grad = torch.where(mask, weight.grad, 0.0)
        error = (gradient.unpack().double() - wanted_grad).abs().max()
        assert float(error) <= tolerance * float(wanted_grad.abs().max())


def test_values_of_other_formats_are_not_trained() -> None:
    packed = packed_of("block16:0.50", "bsr", (32, 32), DTYPES[0])
    packed.values_tensor.requires_grad_()
    x = random(2, 32, seed=1, dtype=DTYPES[0])
    with pytest.raises(ValueError, match="pack it again"):
        sparse_linear(x, packed).sum().backward()


# --- bad input ------------------------------------------------------------------------------------


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


def test_what_does_not_fit_is_refused() -> None:
    packed = packed_of("2:4", "nm", (16, 32), DTYPES[0])
    x = random(3, 32, seed=1, dtype=DTYPES[0])
    good = {
        "a": random(2, 32, seed=1, dtype=DTYPES[0]),
        "b": random(16, 2, seed=1, dtype=DTYPES[0]),
    }
    with pytest.raises(ValueError, match="expected x of 32 features, got shape"):
        sparse_linear(x[:, 1:], packed)
    with pytest.raises(ValueError, match="expected x of 32 features, got shape"):
        sparse_linear(torch.tensor(1.0), packed)
    with pytest.raises(ValueError, match="expected x in the weight's .*convert"):
        sparse_linear(x.double(), packed)
    with pytest.raises(ValueError, match="expected x on the weight's .*move"):
        sparse_linear(x.to("meta"), packed)
    with pytest.raises(ValueError, match=r"expected bias of shape \(16,\)"):
        sparse_linear(x, packed, x[0])
    with pytest.raises(ValueError, match="expected bias in the weight's"):
        sparse_linear(x, packed, torch.zeros(16, dtype=torch.float64, device=DEVICE))
    with pytest.raises(ValueError, match=r"expected gate of shape \(3, 16\)"):
        sparse_linear(x, packed, gate=x)
    with pytest.raises(ValueError, match=r"expected adapter A of shape \(2, 32\)"):
        sparse_linear(x, packed, adapter=(good["a"][:, 1:], good["b"]))
    with pytest.raises(ValueError, match=r"expected adapter B of shape \(16, 2\)"):
        sparse_linear(x, packed, adapter=(good["a"], good["b"][:, 1:]))
    scalar = torch.tensor(1.0, dtype=DTYPES[0], device=DEVICE)
    with pytest.raises(ValueError, match="expected adapter A of shape"):
        sparse_linear(x, packed, adapter=(scalar, scalar))
    for name, given in {"x": [1.0], "bias": [1.0], "gate": [1.0]}.items():
        keywords: dict[str, Any] = {"x": x} | {name: given}
        with pytest.raises(ValueError, match=f"expected {name} as a tensor, got list"):
            sparse_linear(weight=packed, **keywords)
    with pytest.raises(ValueError, match="expected x as a tensor, got NoneType"):
        sparse_linear(None, packed)  # type: ignore[arg-type]
    with torch.autocast(DEVICE, torch.bfloat16), pytest.raises(ValueError, match="as a tensor"):
        sparse_linear([1.0], packed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected an activation of"):
        sparse_linear(x, packed, activation="tanh")
    with pytest.raises(ValueError, match="expected one of the paths"):
        sparse_linear(x, packed, path="native")


def test_a_layer_refuses_what_does_not_fit() -> None:
    """What a layer keeps is judged when it is made, what it is given at every call."""
    packed = packed_of("2:4", "nm", (16, 32), DTYPES[0])
    x = random(3, 32, seed=1, dtype=DTYPES[0])
    layer = SparseLinear(packed, random(16, seed=2, dtype=DTYPES[0]))
    for wrong, message in (
        (x[:, 1:], "expected x of 32 features"),
        (torch.tensor(1.0), "expected x of 32 features"),
        (x.double(), "convert one of them"),
        (x.to("meta"), "move one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(wrong)
    with pytest.raises(ValueError, match="expected x as a tensor, got NoneType"):
        layer(None)
    with pytest.raises(ValueError, match="expected an activation of"):
        layer(x, activation="tanh")
    with pytest.raises(ValueError, match=r"expected gate of shape \(3, 16\)"):
        layer(x, gate=x)
    with pytest.raises(ValueError, match=r"expected bias of shape \(16,\)"):
        SparseLinear(packed, x[0])
    with pytest.raises(ValueError, match=r"expected adapter B of shape \(16, 2\)"):
        SparseLinear(packed, None, (x[:2], x[:, :2]))


# --- what once went wrong -------------------------------------------------------------------------


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


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
@pytest.mark.parametrize("how", ["load", "assign", "functional", "in place"])
def test_new_tensors_are_seen_by_every_path(
    text: str, stored: str, shape: tuple[int, int], how: str
) -> None:
    """Nothing computed from the stored tensors outlives them: dense copies, MKL's matrices, hints."""
    dtype = torch.float16 if HAS_GPU else torch.float32
    first, second = (packed_of(text, stored, shape, dtype, seed) for seed in (0, 1))
    x = random(1, shape[1], seed=2, dtype=dtype)
    for path in paths(first, 1):
        sparse_linear(x, first, path=path)
    if how == "functional":
        layer = SparseLinear(first)
        state = {f"weight.{name}": tensor for name, tensor in second.tensors().items()}
        assert_close(torch.func.functional_call(layer, state, (x,)), second, x, Epilogue())
        return
    if how == "in place":
        with torch.no_grad():
            for name, tensor in first.tensors().items():
                tensor.copy_(second.tensors()[name])
        first.hints = second.hints
    else:
        first.load_state_dict(second.state_dict(), assign=how == "assign")
    assert first.hints == second.hints
    for path in paths(first, 1):
        assert_close(sparse_linear(x, first, path=path), second, x, Epilogue())


def test_damaged_state_dicts_are_refused() -> None:
    for text, stored, shape in FORMATS:
        packed = packed_of(text, stored, shape, torch.float16)
        before = packed.unpack().clone()
        state = {name: tensor.clone() for name, tensor in packed.state_dict().items()}
        name = next(n for n in reversed(packed.names) if n != "values")
        flat = state[name].view(torch.int16 if name == "items" else torch.int32).flatten()
        flat[:] = 1_000_000 if name != "items" else -3
        state[name] = flat.view(state[name].dtype).reshape(state[name].shape)
        with pytest.raises(ValueError, match="damaged|expected"):
            packed.load_state_dict(state)
        assert packed.unpack().equal(before)


def test_gradients_are_not_dropped_by_a_forced_path() -> None:
    packed = packed_of("2:4", "nm", (16, 32), DTYPES[0])
    x = random(3, 32, seed=1, dtype=DTYPES[0]).requires_grad_()
    with pytest.raises(ValueError, match="expected no gradient of a forced path"):
        sparse_linear(x, packed, path="triton")


def test_gathered_inputs_stay_smaller_than_the_weight() -> None:
    packed = packed_of("vector32:0.50", "vector", (128, 64), torch.float32)
    assert "native" in paths(packed, 64)
    assert "native" not in paths(packed, 65)


def test_outputs_are_contiguous() -> None:
    for text, stored, shape in FORMATS:
        packed = packed_of(text, stored, shape, DTYPES[1])
        for num_tokens in (1, 3, 5):
            x = random(num_tokens, shape[1], seed=1, dtype=DTYPES[1])
            for path in (None, *paths(packed, num_tokens)):
                assert sparse_linear(x, packed, path=path).is_contiguous()
