"""What does not fit a sparse product or layer is refused: shapes, dtypes, devices, names, damaged weights, values not to be trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas.kernels import SparseLinear, sparse_linear
from tests.kernel_cases import (
    DEVICE,
    DTYPES,
    FORMATS,
    NEEDS_TRITON,
    packed_of,
    poison_new_buffers,
    random,
)

pytestmark = NEEDS_TRITON


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_buffers(monkeypatch)


def test_values_of_other_formats_are_not_trained() -> None:
    packed = packed_of("block16:0.50", "bsr", (32, 32), DTYPES[0])
    packed.values_tensor.requires_grad_()
    x = random(2, 32, seed=1, dtype=DTYPES[0])
    with pytest.raises(ValueError, match="pack it again"):
        sparse_linear(x, packed).sum().backward()


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
