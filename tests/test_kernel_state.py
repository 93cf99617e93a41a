"""What packed weights keep beside their tensors, and what happens when those are replaced: casts, choices, caches, traces."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from nas.kernels import SparseLinear, pack, paths, sparse_linear
from nas.kernels.dispatch import MAX_CHOICES, choose
from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight, csl_order, nm_metadata
from nas.kernels.linear import _operator
from nas.kernels.traced import TensorCache
from tests.kernel_cases import FORMATS, IDS, random

EVERY_FORMAT = pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)


def packed_of(
    text: str,
    stored: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PackedWeight:
    return pack(random(*shape, seed=seed, dtype=torch.float32).to("cpu", dtype), text, None, stored)


# --- state dicts ----------------------------------------------------------------------------------


@EVERY_FORMAT
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.float32, torch.float16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.bfloat16),
    ],
)
def test_values_of_another_dtype_are_cast(
    text: str, stored: str, shape: tuple[int, int], source: torch.dtype, target: torch.dtype
) -> None:
    """Positions stay what they are, also where they are stored beside the values."""
    packed, other = (packed_of(text, stored, shape, d, seed=d.itemsize) for d in (target, source))
    state = other.state_dict()
    packed.load_state_dict(state)
    assert packed.unpack().equal(other.unpack().to(target))
    packed.check()
    assert packed.hints == other.hints
    assert all(state[name].equal(tensor) for name, tensor in other.tensors().items())
    model = torch.nn.Sequential(SparseLinear(packed_of(text, stored, shape, target)))
    model.load_state_dict(torch.nn.Sequential(SparseLinear(other)).state_dict())
    assert model[0].weight.unpack().equal(other.unpack().to(target))


@EVERY_FORMAT
def test_a_part_of_the_tensors_is_checked_with_the_rest(
    text: str, stored: str, shape: tuple[int, int]
) -> None:
    packed = packed_of(text, stored, shape)
    before = packed.unpack().clone()
    for name in packed.names[1:]:
        wrong = packed.tensors()[name].clone()
        wrong.view(-1)[1 if wrong.numel() > 1 else 0] = 2**30 + 3
        with pytest.raises(ValueError, match="damaged|expected"):
            packed.load_state_dict({name: wrong}, strict=False)
    assert packed.unpack().equal(before)
    values = packed.names[0]
    packed.load_state_dict({values: packed.tensors()[values].clone()}, strict=False)
    assert packed.unpack().equal(before)


# --- traces ---------------------------------------------------------------------------------------


@EVERY_FORMAT
def test_a_trace_leaves_nothing_behind(
    text: str, stored: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nm_metadata, csl_order):  # as in a new process
        monkeypatch.setattr(module, "_CACHE", TensorCache())
    packed = packed_of(text, stored, shape)
    for module in (nm_metadata, csl_order):
        monkeypatch.setattr(module, "_CACHE", TensorCache())
    x = random(2, shape[1], seed=1, dtype=torch.float32).cpu()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for path in ("dense", "unpack"):
            sparse_linear(torch.empty(2, shape[1]), packed, path=path)
    expected = x.double() @ packed.unpack().double().T
    for path in paths(packed, 2):
        found = sparse_linear(x, packed, path=path)
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_layer_is_compiled_once_after_it_moved() -> None:
    layer = torch.nn.Sequential(SparseLinear(packed_of("2:4", "nm", (64, 64)))).to(torch.float64)
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled: Any = torch.compile(layer, backend=counter)
    x = torch.ones(2, 64, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            compiled(x)
    assert counter.frame_count == 1


@EVERY_FORMAT
def test_exported_layers_under_autocast(text: str, stored: str, shape: tuple[int, int]) -> None:
    layer = SparseLinear(packed_of(text, stored, shape))
    x = random(2, shape[1], seed=1, dtype=torch.float32).cpu()
    program = torch.export.export(layer, (x,)).module()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = program(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


# --- what is remembered ---------------------------------------------------------------------------


def test_choices_are_bounded() -> None:
    packed = packed_of("2:4", "nm", (16, 32))
    for num_tokens in range(1, MAX_CHOICES + 10):
        choose(packed, num_tokens)
    assert 0 < len(packed.choices) <= MAX_CHOICES


@EVERY_FORMAT
def test_the_operator_keeps_no_weight_alive(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = packed_of(text, stored, shape)
    x = random(2, shape[1], seed=1, dtype=torch.float32).cpu()
    with torch.no_grad():
        _operator(x, packed, Epilogue())
    tensors = [weakref.ref(tensor) for tensor in packed.tensors().values()]
    del packed
    if any(
        tensor() is not None for tensor in tensors
    ):  # a cycle is allowed; collecting takes a second
        gc.collect()
    assert all(tensor() is None for tensor in tensors)


def test_copies_know_their_kind() -> None:
    import copy
    import pickle

    packed = packed_of("2:4", "nm", (16, 32))
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert other.kind == packed.kind
        assert other.to(torch.float16).kind[0] == torch.float16
    assert packed.kind[0] == torch.float32
