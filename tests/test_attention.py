"""Blockwise attention for training against torch's own attention, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nas.model.attention import MAX_TOKENS, blockwise_causal_attention, fits_blockwise


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Laid out as the transformer does: heads are views into the features.
    made = [torch.randn(shape, generator=generator).transpose(1, 2).to(dtype) for _ in range(3)]
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("num", [2, 3, 7, 64, 129])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_torch(
    num: int, dtype: torch.dtype, tolerance: float
) -> None:
    ours = _inputs((2, num, 3, 16), dtype)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    grad = torch.randn(2, 3, num, 16, generator=torch.Generator().manual_seed(1)).double()
    found = blockwise_causal_attention(*ours)
    expected = F.scaled_dot_product_attention(*theirs, is_causal=True)
    found.backward(grad.to(dtype))
    expected.backward(grad)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        scale = other.grad.abs().max()
        torch.testing.assert_close(
            mine.grad.double() / scale, other.grad / scale, rtol=tolerance, atol=tolerance
        )


def test_gradients_pass_finite_differences() -> None:
    inputs = _inputs((1, 5, 2, 4), torch.float64)
    assert torch.autograd.gradcheck(blockwise_causal_attention, inputs)


def test_no_token_sees_the_future() -> None:
    q, k, v = (x.detach() for x in _inputs((1, 8, 1, 4), torch.float64))
    before = blockwise_causal_attention(q, k, v)
    k2, v2 = k.clone(), v.clone()
    k2[:, :, 5:] += 100.0
    v2[:, :, 5:] -= 100.0
    after = blockwise_causal_attention(q, k2, v2)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


def test_autocast_does_not_change_the_arithmetic() -> None:
    inputs = _inputs((2, 16, 2, 8), torch.bfloat16)
    plain = blockwise_causal_attention(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(blockwise_causal_attention(*inputs), plain)


@pytest.mark.parametrize(
    ("dtype", "num", "kv_heads", "train", "expected"),
    [
        (torch.bfloat16, 64, 4, True, True),
        (torch.float32, 64, 4, True, False),
        (torch.bfloat16, 1, 4, True, False),
        (torch.bfloat16, MAX_TOKENS + 1, 4, True, False),
        (torch.bfloat16, 64, 2, True, False),
        (torch.bfloat16, 64, 4, False, False),
    ],
)
def test_only_short_training_sequences_in_bfloat16_use_it(
    dtype: torch.dtype, num: int, kv_heads: int, train: bool, expected: bool
) -> None:
    q = torch.zeros(1, 4, num, 8, dtype=dtype, requires_grad=train)
    assert fits_blockwise(q, kv_heads) is expected
