"""nas.model: supernet, extraction, KV cache and checkpoints, against the GPT of tests/reference_gpt.py."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas.kernels import PackedWeight, pack
from nas.model import (
    GPT,
    CheckpointError,
    KVCache,
    MaskCache,
    Supernet,
    extract,
    load_gpt,
    load_supernet,
    perplexity,
    save_gpt,
    save_supernet,
    supernet_info,
    supernet_perplexities,
)
from nas.model.checkpoint import load_tensors, save_tensors
from search_spaces import Architecture
from tests import reference_gpt
from tests.small_models import arrays, random_supernet, random_tokens
from tests.small_spaces import FAMILIES, GPT2, PATTERNS, SOME_FAMILIES, draws, small_space, uniform

# Largest difference of logits, which are of the order of one here. float64: rounding of some hundred operations. float32 sums in another
# order (a fused qkv, a CSR product): 1e-5 allows about a hundred roundings. bfloat16 has eight bits of mantissa: 2**-8 a rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.15}


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max()
    limit = TOLERANCE[dtype] * max(1.0, float(expected.double().abs().max()))
    assert float(difference) <= limit, f"{float(difference):.3g} > {limit:.3g}"


def reference(supernet: Supernet, architecture: Architecture, tokens: Tensor) -> Tensor:
    family = supernet.space.family
    weights = reference_gpt.cut(arrays(supernet), family, architecture)
    return torch.from_numpy(reference_gpt.logits(family, architecture, weights, tokens.numpy()))


def storages(tensors: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


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


# --- extraction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_extraction_keeps_the_logits(name: str) -> None:
    space = small_space(FAMILIES[name])
    supernet, masks = random_supernet(space), MaskCache()
    tokens = random_tokens(space, 2, 5)
    chosen = [space.largest, space.smallest, *draws(space, 3, seed=len(name))]
    chosen += [uniform(space, p, rank=4 * (i % 2), bias=i % 2 == 0) for i, p in enumerate(PATTERNS)]
    for architecture in chosen:
        expected = supernet(tokens, architecture, masks)
        model = extract(supernet, architecture, masks=masks)
        assert not model.training
        assert_close(model(tokens), expected, torch.float32)
        # One row, as in decoding: the sparse products.
        assert_close(model(tokens[:1, :1]), expected[:1, :1], torch.float32)


@pytest.mark.parametrize("name", SOME_FAMILIES)
@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_extraction_in_bfloat16_keeps_the_logits_to_its_precision(name: str, pattern: str) -> None:
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space)
    tokens = random_tokens(space, 2, 5)
    architecture = uniform(space, pattern, rank=4)
    model = extract(supernet, architecture, dtype=torch.bfloat16)
    assert {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} == {
        torch.bfloat16
    }
    assert_close(model(tokens), supernet(tokens, architecture), torch.bfloat16)


@pytest.mark.parametrize("name", SOME_FAMILIES)
def test_an_extracted_model_shares_no_memory(name: str) -> None:
    """Neither storage nor value: changing the supernet afterwards changes nothing, for the largest adapter too."""
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space)
    tokens = random_tokens(space, 1, 5)
    largest = [uniform(space, p, rank=4, embed_dim=64) for p in PATTERNS]
    models = [extract(supernet, a) for a in (space.largest, *largest, *draws(space, 3, seed=0))]
    owned = storages(supernet.parameters())
    with torch.no_grad():
        expected = [model(tokens) for model in models]
        for model in models:
            tensors = [*model.parameters(), *model.buffers()]
            assert not storages(tensors) & owned
            for tensor in tensors:  # nor does it drag a larger storage along
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        for parameter in supernet.parameters():
            parameter.fill_(7.0)
        for model, logits in zip(models, expected, strict=True):
            assert model(tokens).equal(logits)


def test_sparse_weights_are_stored_sparse() -> None:
    space = small_space()
    for pattern in PATTERNS[1:]:
        model = extract(random_supernet(space), uniform(space, pattern))
        packed = [m for m in model.modules() if isinstance(m, PackedWeight)]
        assert len(packed) == 2 * 6  # q, k, v, o, up, down of two layers
        assert {str(m.sparsity) for m in packed} == {pattern}
        shapes = {tuple(m.shape) for m in packed}
        assert all(
            tuple(p.shape) not in shapes
            for n, p in model.named_parameters()
            if n.startswith("layers")
        )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_copy_of_a_model_stands_alone(pattern: str) -> None:
    """A deep copy, also one made after a forward pass of one token, reads its own tensors."""
    space = small_space()
    model = extract(random_supernet(space), uniform(space, pattern, rank=4))
    tokens = random_tokens(space, 1, 1)
    with torch.no_grad():
        expected = model(tokens)
        twin = copy.deepcopy(model)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
        assert twin(tokens).equal(expected)
        for parameter in twin.parameters():
            parameter.zero_()
        assert bool((twin(tokens) == 0).all())


def test_a_model_casts_and_moves() -> None:
    space = small_space()
    supernet = random_supernet(space)
    architecture = uniform(space, "unstructured:0.70", rank=4)
    tokens = random_tokens(space, 1, 4)
    with torch.no_grad():
        model = extract(supernet, architecture)
        single = model(tokens)
        double = model.double()(tokens)
        assert double.dtype == torch.float64
        assert_close(double, single, torch.float32)
        assert extract(supernet, architecture, dtype=torch.float64)(tokens).dtype == torch.float64


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "packed"])
def test_a_model_refuses_other_parts(damage: str) -> None:
    space = small_space()
    model = extract(random_supernet(space), space.largest)
    parts = dict(model.parts())
    if damage == "missing":
        del parts["layers.0.up.weight"]
    elif damage == "extra":
        parts["layers.9.up.weight"] = torch.ones(2, 2)
    elif damage == "shape":
        parts["layers.0.up.weight"] = torch.ones(2, 2)
    else:
        parts["layers.0.attention_norm.weight"] = torch.ones(65)
    with pytest.raises(ValueError, match="expected"):
        GPT(GPT2, space.largest, parts)


# --- KV cache and generation ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_decoding_with_a_cache_equals_the_whole_forward(name: str) -> None:
    """Token by token, in chunks, and as a prompt with single tokens after it."""
    space = small_space(FAMILIES[name])
    supernet = random_supernet(space)
    tokens = random_tokens(space, 2, 12)
    for architecture in (space.largest, uniform(space, "unstructured:0.70", rank=4)):
        model = extract(supernet, architecture)
        whole = model(tokens)
        for chunks in ([1] * 12, [2, 2, 8], [3, 5, 4], [9, 1, 1, 1]):
            cache = model.make_cache(2, 12)
            parts = [model(piece, cache) for piece in tokens.split(chunks, dim=1)]
            assert cache.length == 12
            assert_close(torch.cat(parts, dim=1), whole, torch.float32)


@torch.no_grad()
def test_a_cache_can_be_wound_back() -> None:
    space = small_space()
    model = extract(random_supernet(space), space.largest)
    tokens = random_tokens(space, 1, 8)
    cache = model.make_cache(1, 8)
    first = model(tokens, cache)
    cache.length = 3
    assert_close(model(tokens[:, 3:], cache), first[:, 3:], torch.float32)


@torch.no_grad()
def test_context_and_cache_overflow_are_refused() -> None:
    space = small_space()  # 24 tokens of context
    supernet = random_supernet(space)
    model = extract(supernet, space.largest)
    model(random_tokens(space, 1, 24))
    for forward in (model, lambda tokens: supernet(tokens, space.smallest)):
        with pytest.raises(
            ValueError, match="expected at most 24 tokens of context, got 0 cached and 25 new"
        ):
            forward(random_tokens(space, 1, 25))
    cache = model.make_cache(1)
    model(random_tokens(space, 1, 20), cache)
    with pytest.raises(ValueError, match="20 cached and 5 new"):
        model(random_tokens(space, 1, 5), cache)
    assert cache.length == 20
    short = model.make_cache(1, 4)
    with pytest.raises(ValueError, match="room for 5 tokens"):
        model(random_tokens(space, 1, 5), short)
    with pytest.raises(ValueError, match="expected 2 sequences"):
        model(random_tokens(space, 1, 3), model.make_cache(2, 4))
    with pytest.raises(ValueError, match="expected at most 24 tokens"):
        model.generate(random_tokens(space, 1, 20), 5)
    with pytest.raises(ValueError, match="one token or more"):
        model.generate(random_tokens(space, 1, 0), 5)
    with pytest.raises(ValueError, match="top_k of 1 or more"):
        model.generate(random_tokens(space, 1, 2), 5, top_k=0)
    empty = KVCache([0, 1], 1, 4, 16)
    with pytest.raises(ValueError, match="expected a cache with room"):
        empty.extend(0, torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 1, 16))


def test_greedy_generation_takes_the_most_likely_token_each_time() -> None:
    space = small_space(FAMILIES[SOME_FAMILIES[1]])
    model = extract(random_supernet(space), uniform(space, "2:4", rank=4))
    prompt = random_tokens(space, 2, 3)
    expected = prompt
    with torch.no_grad():
        for _ in range(10):
            expected = torch.cat((expected, model(expected)[:, -1:].argmax(dim=-1)), dim=1)
    assert model.generate(prompt, 10, temperature=0).equal(expected)
    assert model.generate(prompt, 10, top_k=1).equal(expected)
    assert model.generate(prompt, 0).equal(prompt)


def test_generation_follows_the_seed_alone() -> None:
    space = small_space()
    model = extract(random_supernet(space), space.largest)
    prompt = random_tokens(space, 2, 3)
    torch.manual_seed(0)
    first = model.generate(prompt, 15, seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert model.generate(prompt, 15, seed=5).equal(first)
    assert torch.get_rng_state().equal(before)
    assert not model.generate(prompt, 15, seed=6).equal(first)
    assert first[:, :3].equal(prompt)


def test_drawn_tokens_follow_the_softmax() -> None:
    """Frequencies of 4000 first tokens against softmax(logits / temperature) over the best k."""
    space = small_space()
    model = extract(random_supernet(space), space.smallest)
    prompt = random_tokens(space, 1, 2)
    drawn = model.generate(prompt.expand(4000, -1), 1, temperature=1.5, top_k=5, seed=0)[:, -1]
    with torch.no_grad():
        best, ids = model(prompt)[0, -1].double().topk(5)
    expected = torch.softmax(best / 1.5, dim=0)
    assert set(drawn.tolist()) <= set(ids.tolist())
    for token, share in zip(ids, expected, strict=True):
        error = math.sqrt(float(share * (1 - share)) / 4000)
        assert float((drawn == token).double().mean()) == pytest.approx(
            float(share), abs=4.5 * error
        )


# --- perplexity -----------------------------------------------------------------------------------


@torch.no_grad()
def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    space = small_space()
    supernet = random_supernet(space)
    windows = random_tokens(space, 7, 10)
    chosen = [space.largest, *draws(space, 4, seed=3)]
    found = supernet_perplexities(supernet, chosen, windows, batch_size=3)
    for architecture, value in zip(chosen, found, strict=True):
        logits = reference(supernet, architecture, windows[:, :-1]).numpy()
        losses = []
        for row, targets in zip(logits, windows[:, 1:].tolist(), strict=True):
            for scores, target in zip(row, targets, strict=True):
                losses.append(math.log(math.fsum(np.exp(scores - scores[target]))))
        assert value == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-5)
        model = extract(supernet, architecture)
        assert perplexity(model, windows, batch_size=16) == pytest.approx(value, rel=1e-5)


def test_perplexity_refuses_nothing_and_nonsense() -> None:
    def broken(tokens: Tensor) -> Tensor:
        return torch.full((*tokens.shape, 64), math.nan)

    windows = random_tokens(small_space(), 2, 5)
    with pytest.raises(ValueError, match="expected a finite loss"):
        perplexity(broken, windows)
    for wrong in (windows[:0], windows[:, :1], windows[0]):
        with pytest.raises(ValueError, match="expected windows"):
            perplexity(broken, wrong)


# --- checkpoints ----------------------------------------------------------------------------------


def saved_models(folder: Path) -> list[tuple[Path, GPT]]:
    saved = []
    for name in SOME_FAMILIES:
        space = small_space(FAMILIES[name])
        supernet = random_supernet(space)
        for pattern in PATTERNS:
            path = folder / name / pattern.replace(":", "-") / "model.json"
            model = extract(
                supernet,
                uniform(space, pattern, rank=4),
                dtype=torch.bfloat16 if "g2" in name else torch.float32,
            )
            save_gpt(model, path, {"note": pattern})
            saved.append((path, model))
    return saved


@torch.no_grad()
def test_models_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    for path, model in saved_models(tmp_path):
        tokens = torch.arange(6)[None]
        loaded = load_gpt(path)
        assert loaded.architecture == model.architecture
        assert loaded.family == model.family
        assert loaded(tokens).equal(model(tokens))
        assert load_gpt(path.parent)(tokens).equal(model(tokens))
        mine, theirs = dict(model.state_dict()), dict(loaded.state_dict())
        assert mine.keys() == theirs.keys()
        assert all(mine[n].dtype == theirs[n].dtype and mine[n].equal(theirs[n]) for n in mine)
        on_disk = sum(f.stat().st_size for f in path.parent.glob("*.safetensors"))
        assert (
            on_disk - model.weight_bytes() < 10_000
        )  # stored sparse: names and shapes come on top, nothing else


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", ["csr", "csl", "bitmap", "nm"])
def test_a_model_of_any_format_is_read_back(
    format: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Also one of unstructured weights in bfloat16 as CSR, which older versions stored."""
    space = small_space()
    pattern = "2:4" if format == "nm" else "unstructured:0.70"
    model = extract(random_supernet(space), uniform(space, pattern, rank=4), dtype=dtype)
    default = {"2:4": "nm"}.get(pattern, "csl" if dtype.itemsize == 2 else "csr")
    parts = model.parts()
    assert {p.format for p in parts.values() if isinstance(p, PackedWeight)} == {default}
    for name, part in parts.items():
        if isinstance(part, PackedWeight):
            dense = part.unpack()
            parts[name] = pack(dense, part.sparsity, dense != 0, format)
    tokens = random_tokens(space, 1, 4)
    save_gpt(GPT(model.family, model.architecture, parts), tmp_path / "model.json")
    loaded = load_gpt(tmp_path / "model.json")
    found = [p for p in loaded.parts().values() if isinstance(p, PackedWeight)]
    assert {p.format for p in found} == {format}
    assert_close(loaded(tokens), model(tokens), dtype)
    for name, part in loaded.parts().items():
        mine = model.parts()[name]
        if isinstance(part, PackedWeight):
            assert isinstance(mine, PackedWeight)
            assert part.unpack().equal(mine.unpack())
    assert_close(loaded.to(torch.float64)(tokens), model.to(torch.float64)(tokens), torch.float64)


def test_a_model_of_the_older_n_of_m_layout_is_refused_with_a_remedy(tmp_path: Path) -> None:
    space = small_space()
    save_gpt(extract(random_supernet(space), uniform(space, "2:4")), tmp_path / "model.json")
    tensors, info = load_tensors(tmp_path / "model.json", "gpt")
    old = {
        name.replace("metadata", "positions"): torch.zeros(8, dtype=torch.uint8)
        if name.endswith("metadata")
        else tensor.flatten()
        for name, tensor in tensors.items()
    }
    save_tensors(tmp_path / "model.json", "gpt", old, info)
    with pytest.raises(CheckpointError, match=r"expected the tensors .*metadata.*extract"):
        load_gpt(tmp_path / "model.json")


def test_a_supernet_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    for name in SOME_FAMILIES:
        supernet = random_supernet(small_space(FAMILIES[name]))
        path = tmp_path / f"{name}.json"
        save_supernet(supernet, path, {"tokens": 123, "loss_curve": [[1, 2.5, 3.0]]})
        loaded, info = load_supernet(path)
        assert loaded.space == supernet.space
        assert info["tokens"] == 123
        assert supernet_info(path) == info
        assert all(
            p.equal(q) for p, q in zip(supernet.parameters(), loaded.parameters(), strict=True)
        )
        save_supernet(supernet, path, {}, dtype=torch.bfloat16)
        half, _ = load_supernet(path)
        pairs = zip(supernet.parameters(), half.parameters(), strict=True)
        assert all(
            q.dtype == torch.float32 and q.equal(p.to(torch.bfloat16).float()) for p, q in pairs
        )
        assert len(list(tmp_path.glob(f"{name}-*.safetensors"))) == 1  # the first file is gone


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["gpt", "supernet"])
def test_every_flipped_bit_and_truncation_is_refused(kind: str, tmp_path: Path) -> None:
    """A hundred random bits of the tensors' file and of the JSON each, and every kind of cut."""
    space = small_space(replace(GPT2, positions="rotary"), depths=(1,), embed_dims=(32,))
    supernet = random_supernet(space)
    path = tmp_path / "stored.json"
    if kind == "gpt":
        save_gpt(extract(supernet, uniform(space, "2:4", rank=4)), path)
    else:
        save_supernet(supernet, path, {"tokens": 5, "recipe": {"seed": 0, "learning_rate": 1e-3}})
    load = load_gpt if kind == "gpt" else load_supernet
    load(path)
    (tensors,) = tmp_path.glob("*.safetensors")
    rng = np.random.default_rng(0)
    for file in (path, tensors):
        whole = file.read_bytes()
        for _ in range(100):
            flip(file, int(rng.integers(len(whole))), int(rng.integers(8)))
            if file == path and _same_json(file.read_bytes(), whole):
                continue  # a space became a tab: nothing was lost
            with pytest.raises(CheckpointError, match="expected"):
                load(path)
            file.write_bytes(whole)
        for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 2):
            file.write_bytes(whole[:size])
            with pytest.raises(CheckpointError, match="expected"):
                load(path)
        file.write_bytes(whole)
    load(path)


def _same_json(changed: bytes, whole: bytes) -> bool:
    try:
        return bool(json.loads(changed) == json.loads(whole))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{}",
        b"\xff\xfe",
        b'{"format": "other", "version": 1}',
        b'{"format": "sparse-gpt-nas"}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt"}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "../x.safetensors", "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "..", "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": 3, "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "x.safetensors", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 99, "kind": "gpt", "file": "x.safetensors", "sha256": "", "info": {}}',
        b'{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}',
        b"[" * 100_000,
    ],
)
def test_foreign_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected"):
        load_gpt(path)
    with pytest.raises(CheckpointError, match="expected"):
        load_supernet(path)


def test_missing_and_mistaken_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path)
    space = small_space()
    supernet = random_supernet(space)
    save_supernet(supernet, tmp_path / "supernet.json", {})
    save_gpt(extract(supernet, space.largest), tmp_path / "gpt.json")
    with pytest.raises(CheckpointError, match="expected a gpt .* got a supernet"):
        load_gpt(tmp_path / "supernet.json")
    with pytest.raises(CheckpointError, match="expected a supernet .* got a gpt"):
        load_supernet(tmp_path / "gpt.json")
    with pytest.raises(CheckpointError, match="expected"):
        load_gpt(next(tmp_path.glob("gpt-*.safetensors")))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path / "gpt.json")


def test_whole_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    """Hashes that fit do not make tensors a model: names, shapes, indices and space are checked as well."""
    space = small_space()
    model = extract(random_supernet(space), uniform(space, "unstructured:0.70"))
    save_gpt(model, tmp_path / "model.json")
    tensors, info = load_tensors(tmp_path / "model.json", "gpt")
    columns = next(name for name in tensors if name.endswith("columns"))
    weight = next(name for name in tensors if name.endswith("norm.weight"))
    for name, change in (
        (columns, tensors[columns] + 1000),
        (columns, tensors[columns].flip(0)),
        (columns, tensors[columns].long()),
        (weight, tensors[weight][1:]),
        ("another", torch.ones(1)),
    ):
        save_tensors(tmp_path / "model.json", "gpt", tensors | {name: change}, info)
        with pytest.raises(CheckpointError, match="expected a whole model"):
            load_gpt(tmp_path / "model.json")
    for fields in (
        info | {"architecture": space.largest.to_json()},
        info | {"architecture": None},
        info | {"family": {}},
        {},
    ):
        save_tensors(tmp_path / "model.json", "gpt", tensors, fields)
        with pytest.raises(CheckpointError, match="expected a whole model"):
            load_gpt(tmp_path / "model.json")
    stored = {"embedding": torch.ones(2, 2)}
    for fields in ({"space": space.to_json()}, {"space": {}}, {}, {"space": None}):
        save_tensors(tmp_path / "supernet.json", "supernet", stored, fields)
        with pytest.raises(CheckpointError, match="expected"):
            load_supernet(tmp_path / "supernet.json")


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pickle was used")

    for module, names in ((pickle, ("loads", "load", "dumps", "dump")), (torch, ("load", "save"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    space = small_space()
    supernet = random_supernet(space)
    save_supernet(supernet, tmp_path / "supernet.json", {"tokens": 1})
    save_gpt(extract(supernet, space.smallest), tmp_path / "gpt.json")
    load_supernet(tmp_path / "supernet.json")
    load_gpt(tmp_path / "gpt.json")
    monkeypatch.undo()
    bomb = pickle.dumps(Bomb())
    (tmp_path / "gpt.json").write_bytes(bomb)
    with pytest.raises(CheckpointError):
        load_gpt(tmp_path / "gpt.json")


def test_a_killed_writer_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before any of its writes, a save leaves what was there, whole."""
    space = small_space()
    path = tmp_path / "supernet.json"
    first, second = random_supernet(space, seed=1), random_supernet(space, seed=2)
    save_supernet(first, path, {"number": 1})
    import nas.model.checkpoint as module

    for name in ("write_bytes_atomic", "write_json_atomic"):

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            save_supernet(second, path, {"number": 2})
        monkeypatch.undo()
        loaded, info = load_supernet(path)
        assert info["number"] == 1
        assert loaded.embedding.equal(first.embedding)
    save_supernet(second, path, {"number": 2})
    assert load_supernet(path)[0].embedding.equal(second.embedding)


def test_a_space_of_dense_weights_has_no_adapters() -> None:
    space = small_space(
        attention_sparsities=("dense",), ffn_sparsities=("dense",), adapter_ranks=(0,)
    )
    names = [name for name, _ in Supernet(space).named_parameters()]
    assert not any("adapter" in name for name in names)
    assert any("adapter" in name for name, _ in Supernet(small_space()).named_parameters())
