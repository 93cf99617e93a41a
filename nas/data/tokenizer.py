"""Byte-level BPE: every text has an encoding and comes back whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nas.data.sources import CorpusError
from nas.files import PathLike, write_text_atomic

END_OF_TEXT = "<|endoftext|>"
#: Names other checkpoints give to the token between documents.
_END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
_MIN_VOCAB_SIZE = 257  # every byte and END_OF_TEXT


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2).

    Args:
        texts: training text.
        vocab_size: tokens in the vocabulary at most; a short text yields fewer.

    Returns:
        A tokenizer with ``decode(encode(text)) == text`` and :data:`END_OF_TEXT` as token 0.

    Raises:
        CorpusError: ``vocab_size`` does not hold all bytes.
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise CorpusError(
            f"expected vocab_size >= {_MIN_VOCAB_SIZE} (256 bytes and {END_OF_TEXT}), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_paragraphs(texts), trainer=trainer)
    return whole_text_tokenizer(tokenizer)


def load_tokenizer(path: PathLike) -> Tokenizer:
    """Read a ``tokenizer.json``, ready for whole texts (see :func:`whole_text_tokenizer`).

    Raises:
        CorpusError: missing, or not a tokenizer.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
        return whole_text_tokenizer(Tokenizer.from_str(content))
    except Exception as error:  # tokenizers raises bare Exception
        raise CorpusError(
            f"expected a tokenizer.json at {os.fspath(path)}, got: {error}; "
            "pass a file written by the package 'tokenizers', or none to train one"
        ) from error


def whole_text_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer without truncation or padding; the name of a special token in a text is plain text to it."""
    copy = Tokenizer.from_str(tokenizer.to_str(pretty=False))
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def save_tokenizer(tokenizer: Tokenizer, path: PathLike) -> None:
    """Write a tokenizer atomically as ``tokenizer.json``."""
    write_text_atomic(path, tokenizer.to_str(pretty=False))


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Return 16 hexadecimal digits that are equal exactly when two tokenizers encode alike (same settings)."""
    settings = json.dumps(json.loads(tokenizer.to_str(pretty=False)), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token between documents.

    Raises:
        CorpusError: the tokenizer has none under any usual name.
    """
    for name in _END_OF_TEXT_NAMES:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    raise CorpusError(
        f"expected a token between documents named one of {_END_OF_TEXT_NAMES}, got none in the tokenizer; "
        f"add one with tokenizer.add_special_tokens([{END_OF_TEXT!r}])"
    )


def _paragraphs(texts: Iterable[str], size: int = 1 << 16) -> Iterator[str]:
    """Cut long texts so that the trainer can spread them over threads and never holds one whole."""
    for text in texts:
        for start in range(0, len(text), size):
            yield text[start : start + size]
