"""KV cache, generation and perplexity, against the plain GPT over whole sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.model import (
    KVCache,
    extract,
    perplexity,
    supernet_perplexities,
)
from tests.model_checks import assert_close, reference
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import FAMILIES, SOME_FAMILIES, draws, small_space, uniform

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
