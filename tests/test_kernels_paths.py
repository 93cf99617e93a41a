"""Every path of a product agrees with the reference, sees new tensors, and gives the reference's gradients or refuses to."""

from __future__ import annotations

import pytest
import torch

from nas.kernels import SparseLinear, paths, sparse_linear
from nas.kernels.epilogue import Epilogue
from tests.kernel_cases import (
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
