"""The tokenizer, given or trained, and the batches and validation windows that are cut from its tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from nas.data import (
    END_OF_TEXT,
    CorpusError,
    TokenBatches,
    load_corpus,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
    validation_batch,
)
from tests.prose import PROSE, written_prose


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_prose(tmp_path_factory)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([PROSE], 512)


# --- tokenizer


@given(text=st.text() | st.just(f"a {END_OF_TEXT} b") | st.text("az \n\t\r\0é漢🙂"))
def test_every_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.token_to_id(END_OF_TEXT) not in ids  # its name in a text is plain text


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(train_tokenizer([PROSE], 400)) != tokenizer_fingerprint(tokenizer)
    text = f"the quick {END_OF_TEXT} fox"
    assert again.encode(text).ids == tokenizer.encode(text).ids
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"expected a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    tokenizer = train_tokenizer(
        ["abababab"], 258
    )  # room for one merge: ab (4 times), not ba (3 times)
    assert tokenizer.encode("abc").tokens == ["ab", "c"]


def test_tokenizers_that_do_not_fit(prose: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="vocab_size >= 257.*got 256"):
        load_corpus(prose, vocab_size=256, cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="at most vocab_size = 300 tokens, got 512"):
        load_corpus(prose, vocab_size=300, tokenizer=tokenizer, cache_dir=tmp_path)
    words = Tokenizer(models.WordLevel({"the": 0, "?": 1}, unk_token="?"))
    with pytest.raises(CorpusError, match="token between documents"):
        load_corpus(prose, tokenizer=words, cache_dir=tmp_path)


def test_a_given_tokenizer_is_used_whole(prose: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    limited = Tokenizer.from_str(tokenizer.to_str())
    limited.enable_truncation(16)  # as checkpoints ship them
    limited.enable_padding(length=16)
    corpora = [
        load_corpus(prose, vocab_size=512, tokenizer=t, cache_dir=tmp_path / str(i))
        for i, t in enumerate((tokenizer, limited, None))
    ]
    assert limited.truncation is not None  # the caller's own is not changed
    assert corpora[0].fingerprint == corpora[1].fingerprint
    assert corpora[0].tokenizer_fingerprint == tokenizer_fingerprint(tokenizer)
    # trained on the training part alone, not on the whole text as the fixture was
    assert corpora[2].tokenizer_fingerprint != corpora[0].tokenizer_fingerprint
    path = tmp_path / "2" / "tokenizer.json"
    again = load_corpus(prose, vocab_size=512, tokenizer=path, cache_dir=tmp_path / "3")
    assert again.fingerprint == corpora[2].fingerprint


# --- batches


def test_a_batch_is_a_pure_function_of_seed_step_and_rank() -> None:
    tokens = np.arange(10_000, dtype=np.uint16)
    batches = TokenBatches(tokens, 32, 4, seed=7)
    late = TokenBatches(tokens, 32, 4, seed=7).batch(41)  # a resumed run
    for step in range(41):
        batches.batch(step)
    assert torch.equal(batches.batch(41), late)
    assert late.dtype == torch.int64
    assert late.shape == (4, 33)
    # the tokens count up, so a window is right when it counts up from its first token
    assert torch.equal(late, late[:, :1] + torch.arange(33))
    assert not torch.equal(late, batches.batch(42))
    assert not torch.equal(late, TokenBatches(tokens, 32, 4, seed=8).batch(41))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_batch_of_one_process(world_size: int) -> None:
    tokens = np.arange(60_000, dtype=np.uint16)
    one = TokenBatches(tokens, 16, 5 * world_size, seed=0)
    each = TokenBatches(tokens, 16, 5, seed=0)
    for step in range(20):
        shares = [each.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat(shares), one.batch(step))


def test_every_window_is_drawn_and_none_beyond_the_end() -> None:
    tokens = np.arange(12, dtype=np.uint32)
    batches = TokenBatches(tokens, 4, 8, seed=0)
    starts = {int(row[0]) for step in range(40) for row in batches.batch(step)}
    assert starts == set(range(8))  # the last window is tokens 7 to 11


@pytest.mark.parametrize(
    ("length", "context", "num_tokens", "num_windows"),
    [(100, 9, 45, 5), (100, 9, 46, 5), (100, 9, 1, 1), (100, 9, 10_000, 11), (10, 9, 9, 1)],
)
def test_validation_windows_predict_each_token_once(
    length: int, context: int, num_tokens: int, num_windows: int
) -> None:
    tokens = 1000 + np.arange(length, dtype=np.uint16)
    windows = validation_batch(tokens, context, num_tokens)
    assert windows.shape == (num_windows, context + 1)
    assert windows.dtype == torch.int64
    inputs, targets = windows[:, :-1].flatten(), windows[:, 1:].flatten()
    assert (
        targets.tolist() == (inputs + 1).tolist()
    )  # the tokens count upwards: each follows its input
    starts = windows[:, 0].tolist()
    assert starts[0] == int(tokens[0])
    assert len(set(targets.tolist())) == num_windows * context  # no token is predicted twice
    gaps = np.diff(starts)
    assert len(gaps) == 0 or (gaps.min() >= context and gaps.max() - gaps.min() <= context)


def test_too_few_tokens_for_the_context() -> None:
    tokens = np.arange(128, dtype=np.uint16)
    with pytest.raises(ValueError, match=r"context \+ 1 = 129 tokens, got 128.*shorter context"):
        TokenBatches(tokens, 128, 1, 0)
    with pytest.raises(ValueError, match=r"context \+ 1 = 129 tokens, got 128"):
        validation_batch(tokens, 128, 128)
    with pytest.raises(ValueError, match="context >= 1, got 0"):
        validation_batch(tokens, 0, 128)
    with pytest.raises(ValueError, match="batch_size >= 1, got 0"):
        TokenBatches(tokens, 16, 0, 0)
    with pytest.raises(ValueError, match="rank < world_size, got rank 2 of 2"):
        TokenBatches(tokens, 16, 1, 0).batch(0, 2, 2)
