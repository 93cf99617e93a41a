"""The supernet is the plain GPT of every architecture, and keeps no state between two of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas.model import (
    MaskCache,
    Supernet,
    extract,
)
from tests import reference_gpt
from tests.model_checks import assert_close, reference, storages
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import FAMILIES, PATTERNS, SOME_FAMILIES, draws, small_space, uniform

# --- the supernet is the plain GPT ----------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_largest_equals_the_plain_gpt(name: str) -> None:
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space, dtype=torch.float64)
    tokens = random_tokens(space, 2, 6)
    expected = reference(supernet, space.largest, tokens)
    for length in (1, 2, 6):
        logits = supernet(tokens[:, :length], space.largest)
        assert logits.dtype == torch.float64
        assert_close(logits, expected[:, :length], torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_random_subnets_equal_the_plain_gpt_on_cut_weights(name: str) -> None:
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space, seed=1, dtype=torch.float64)
    tokens = random_tokens(space, 1, 6)
    masks = MaskCache()
    for architecture in draws(space, 2, seed=len(name)):
        logits = supernet(tokens, architecture, masks)
        assert_close(logits, reference(supernet, architecture, tokens), torch.float64)


@pytest.mark.parametrize("name", SOME_FAMILIES)
@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_every_pattern_equals_the_plain_gpt_on_masked_weights(name: str, pattern: str) -> None:
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space, seed=2, dtype=torch.float64)
    tokens = random_tokens(space, 1, 6)
    for rank, dim in ((0, 32), (4, 64)):
        architecture = uniform(space, pattern, rank=rank, bias=rank > 0, embed_dim=dim)
        expected = reference(supernet, architecture, tokens)
        assert_close(supernet(tokens, architecture), expected, torch.float64)


@torch.no_grad()
def test_a_layer_may_lose_either_part_or_both() -> None:
    space = small_space(
        depths=(2,), attention_sparsities=("dense",), ffn_sparsities=("dense",), adapter_ranks=(0,)
    )
    supernet = random_supernet(space, dtype=torch.float64)
    tokens = random_tokens(space, 1, 5)
    for architecture in (a for a in space if a.embed_dim == 32 and a.bias):
        if all(
            layer.num_heads in (0, 2) and layer.ffn_ratio in (0, 1) for layer in architecture.layers
        ):
            expected = reference(supernet, architecture, tokens)
            assert_close(supernet(tokens, architecture), expected, torch.float64)


@pytest.mark.parametrize("name", SOME_FAMILIES)
def test_gradients_reach_kept_weights_alone_and_are_those_of_the_masked_weight(name: str) -> None:
    """d loss / d W is the gradient of the plain model where a weight is used and kept, and zero or absent elsewhere."""
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space, dtype=torch.float64)
    architecture = uniform(space, "unstructured:0.70", rank=4)
    tokens = random_tokens(space, 1, 5)
    coefficients = torch.randn(
        1, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    (supernet(tokens, architecture) * coefficients).sum().backward()
    weight = supernet.layers[0].up.weight
    assert weight.grad is not None
    rows, columns = round(architecture.layers[0].ffn_ratio * 32), 32
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    kept = reference_gpt.magnitude_mask(
        weight.detach()[:rows, :columns].numpy(), architecture.layers[0].ffn_sparsity
    )
    mask[:rows, :columns] = torch.from_numpy(kept)
    assert bool((weight.grad[~mask] == 0).all())
    place = tuple(int(i) for i in mask.nonzero()[3])
    step = 1e-6
    outcomes = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight[place] += sign * step
            outcomes.append(float((reference(supernet, architecture, tokens) * coefficients).sum()))
            weight[place] -= sign * step
    slope = (outcomes[0] - outcomes[1]) / (2 * step)
    assert float(weight.grad[place]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


# --- no hidden state ------------------------------------------------------------------------------


@given(order=st.lists(st.integers(0, 7), min_size=4, max_size=20), is_grad=st.booleans())
@settings(max_examples=15)
def test_call_order_does_not_matter(order: list[int], is_grad: bool) -> None:
    """Any interleaving through one shared mask cache gives, bit by bit, what a fresh supernet gives for each architecture alone."""
    space = small_space()
    tokens = random_tokens(space, 1, 6)
    chosen = [space.largest, space.smallest, *draws(space, 6, seed=5)]
    supernet, masks = random_supernet(space), MaskCache()
    with torch.set_grad_enabled(is_grad):
        alone = {index: random_supernet(space)(tokens, chosen[index]) for index in set(order)}
        for index in order:
            assert supernet(tokens, chosen[index], masks).equal(alone[index])


@pytest.mark.parametrize(
    "change", ["optimizer", "fused optimizer", "assignment", "load", "cast", "data"]
)
def test_a_shared_mask_cache_notices_that_weights_changed(change: str) -> None:
    space = small_space()
    supernet, masks = random_supernet(space), MaskCache()
    architecture = uniform(space, "2:4", rank=4)
    tokens = random_tokens(space, 1, 6)
    with torch.no_grad():
        before = supernet(tokens, architecture, masks)
    if "optimizer" in change:
        for parameter in supernet.parameters():
            parameter.grad = torch.ones_like(parameter) * parameter.detach().sign()
        torch.optim.AdamW(supernet.parameters(), lr=0.1, fused="fused" in change).step()
        if (
            "fused" in change
        ):  # which changes the weights without counting it: its user must (as the trainer does)
            torch.autograd.graph.increment_version(list(supernet.parameters()))
    elif change == "assignment":
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.copy_(parameter.flip(0) * 0.5)
    elif change == "load":
        supernet.load_state_dict(random_supernet(space, seed=9).state_dict())
    elif change == "cast":
        supernet.double()
    else:
        for parameter in supernet.parameters():
            parameter.data = parameter.detach().flip(0).clone()
    with torch.no_grad():
        after = supernet(tokens, architecture, masks)
        fresh = supernet(tokens, architecture, MaskCache())
    assert after.equal(fresh)
    assert change == "cast" or not after.equal(before)


@torch.no_grad()
def test_held_masks_stay_until_they_are_cleared() -> None:
    space = small_space()
    supernet, masks = random_supernet(space), MaskCache(hold=True)
    weight, sparsity = supernet.layers[0].up.weight, uniform(space, "2:4").layers[0].ffn_sparsity
    old = masks.mask(weight, 32, 32, sparsity).clone()
    weight.copy_(weight.flip(1))
    assert masks.mask(weight, 32, 32, sparsity).equal(old)
    assert masks.apply(weight, 32, 32, sparsity).equal(weight[:32, :32] * old)
    masks.clear()
    fresh = torch.from_numpy(reference_gpt.magnitude_mask(weight[:32, :32].numpy(), sparsity))
    assert masks.mask(weight, 32, 32, sparsity).equal(fresh)
    assert not fresh.equal(old)


def test_masks_made_without_gradients_serve_training() -> None:
    space = small_space()
    architecture = uniform(space, "block16:0.50", rank=4)
    tokens = random_tokens(space, 1, 6)
    gradients = []
    for is_warm in (False, True):
        supernet, masks = random_supernet(space), MaskCache()
        if is_warm:
            with torch.inference_mode():
                supernet(tokens, architecture, masks)
        supernet(tokens, architecture, masks).square().sum().backward()
        gradients.append({n: p.grad for n, p in supernet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(gradients[0][n].equal(gradients[1][n]) for n in gradients[0])


class Copies(TorchDispatchMode):
    """Sizes of tensors that are written from a weight alone: clones, copies, gathers and products with a mask."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.found = weights, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [a for a in args if isinstance(a, Tensor)]
        is_new = isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in self.weights
        if is_new and read and storages(read) <= self.weights and out.numel() > 1:
            self.found.append(f"{func} {tuple(out.shape)}")
        return out


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_dense_forward_copies_no_weight(name: str) -> None:
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space)
    tokens = random_tokens(space, 2, 6)
    weights = storages(supernet.parameters())
    for architecture in (uniform(space, "dense", embed_dim=32), space.smallest, space.largest):
        with Copies(weights) as copies:
            supernet(tokens, architecture)
        assert copies.found == []
    with Copies(weights) as copies:
        supernet.embedding.clone()
    assert len(copies.found) == 1  # the watcher does see a copy


def test_subnets_are_views_of_the_parameters() -> None:
    space = small_space()
    supernet = random_supernet(space)
    owned = storages(supernet.parameters())
    weights = supernet.subnet(uniform(space, "dense"))
    attention, ffn = weights.layers[0]
    assert attention is not None
    assert ffn is not None
    views = [weights.embedding, weights.positions, weights.final_norm.weight, attention.norm.bias]
    views += [
        attention.o.weight,
        attention.o.bias,
        ffn.up.weight,
        ffn.down.weight,
        weights.unembed.weight,
    ]
    assert storages(views) <= owned
    assert attention.o.weight.shape == (32, 64)


def test_architectures_of_other_spaces_are_refused() -> None:
    space = small_space()
    other = small_space(embed_dims=(32, 96)).largest
    for call in (
        lambda: Supernet(space)(random_tokens(space, 1, 2), other),
        lambda: extract(Supernet(space), other),
    ):
        with pytest.raises(ValueError, match="expected an architecture of space 'small'"):
            call()


def test_initial_weights_are_those_of_gpt2_and_follow_the_seed() -> None:
    space = small_space(embed_dims=(32, 256))
    supernet = Supernet(space, seed=3)
    assert all(
        p.equal(q)
        for p, q in zip(supernet.parameters(), Supernet(space, seed=3).parameters(), strict=True)
    )
    assert not supernet.embedding.equal(Supernet(space, seed=4).embedding)
    for name, parameter in supernet.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all()), name
        elif name.endswith(("bias", "adapter_b")):
            assert bool((parameter == 0).all()), name
        elif not name.endswith("adapter_a"):
            is_residual = name.endswith(("o.weight", "down.weight"))
            expected = 0.02 / math.sqrt(2 * 2) if is_residual else 0.02
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.06), name
