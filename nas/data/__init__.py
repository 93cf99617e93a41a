"""Corpora, tokenizers and batches; a leaf: it knows no model."""

from nas.data.batches import TokenBatches, validation_batch
from nas.data.corpus import MIN_TOKENS, Corpus, cached_corpus, load_corpus
from nas.data.sources import CorpusError
from nas.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

__all__ = [
    "END_OF_TEXT",
    "MIN_TOKENS",
    "Corpus",
    "CorpusError",
    "TokenBatches",
    "cached_corpus",
    "load_corpus",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_fingerprint",
    "train_tokenizer",
    "validation_batch",
]
