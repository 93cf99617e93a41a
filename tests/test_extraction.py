"""Extraction: a subnet on its own is the masked supernet, with weights of its own."""

from __future__ import annotations

import copy

import pytest
import torch

from nas.kernels import PackedWeight
from nas.model import (
    GPT,
    MaskCache,
    extract,
)
from tests.model_checks import assert_close, storages
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import (
    FAMILIES,
    GPT2,
    PATTERNS,
    SOME_FAMILIES,
    draws,
    patterns_of,
    small_space,
    uniform,
)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_extraction_keeps_the_logits(name: str) -> None:
    space = small_space(FAMILIES[name])
    supernet, masks = random_supernet(space), MaskCache()
    tokens = random_tokens(space, 2, 5)
    chosen = [space.largest, space.smallest, *draws(space, 2, seed=len(name))]
    chosen += [
        uniform(space, p, rank=4 * (i % 2), bias=i % 2 == 0)
        for i, p in enumerate(patterns_of(name))
    ]
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
