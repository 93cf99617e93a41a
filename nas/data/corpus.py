"""From a text to two token arrays, made once and cached beside the run."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm

from nas.data.sources import CorpusError, Source, open_source
from nas.data.split import Piece, cut, unit_hash, validation_sizes
from nas.data.tokenizer import (
    end_of_text_id,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
    whole_text_tokenizer,
)
from nas.files import FolderLock, PathLike, atomic_writer, sha256_file, write_json_atomic

#: Fewer tokens than this are no text to learn from.
MIN_TOKENS = 2_000
_FORMAT = 1  # raise when the split, the tokenizer's recipe or the layout of the cache changes
_MAX_TOKENIZER_BYTES = 32 << 20  # a larger text gives the tokenizer a sample of this size
_CHUNK_CHARS = 1 << 20
_LOCK_WAIT_S = 3600.0
PARTS = ("train", "validation")
Tokens = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tokenized text with its fixed split.

    Args:
        name: the specification, such as ``stdlib``.
        tokenizer: the byte-level BPE (or the one given) that made the tokens.
        train_tokens: [N] uint16 (uint32 from 65 537 tokens of vocabulary on), memory-mapped, read-only.
        validation_tokens: [M] held-out tokens, likewise.
        fingerprint: 16 hexadecimal digits; equal fingerprints mean equal token arrays.
        tokenizer_fingerprint: the same for the tokenizer alone.
        num_bytes: size of the whole text in UTF-8.
        validation_bytes: size of the held-out part.
    """

    name: str
    tokenizer: Tokenizer
    train_tokens: Tokens
    validation_tokens: Tokens
    fingerprint: str
    tokenizer_fingerprint: str
    num_bytes: int
    validation_bytes: int

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id the tokenizer can give."""
        return _vocab_size(self.tokenizer)


def load_corpus(
    spec: PathLike,
    *,
    vocab_size: int = 4096,
    tokenizer: Tokenizer | PathLike | None = None,
    cache_dir: PathLike,
    seed: int = 0,
    expected: str | None = None,
    replace: bool = True,
) -> Corpus:
    """Read, split and tokenize a text, or take the result from ``cache_dir`` when the text is unchanged.

    The cache is ``tokenizer.json`` and ``tokens/{train,validation}.npy`` with ``tokens/corpus.json``,
    which is written last and names the hash of each: a killed or damaged cache is made again.
    Processes that share a cache wait for one another.

    Args:
        spec: ``stdlib``, a text file, a ``.parquet`` file (column ``text``), a folder, or ``hf:<dataset>[:config]``.
        vocab_size: tokens the model has room for; a trained tokenizer has at most as many.
        tokenizer: one to use, or a path to its ``tokenizer.json``; by default one is trained on the training part.
        cache_dir: folder of the cache, usually the run folder.
        seed: salt of the split. Perplexities are comparable only between runs with the same one.
        expected: fingerprint the corpus must have; another is refused before anything is written.
        replace: whether the tokens of another text or tokenizer in ``cache_dir`` may be replaced; False where
            something there was made with them.

    Returns:
        The corpus, at least 2 000 tokens.

    Raises:
        CorpusError: the text is missing, empty, binary, too short or not the one that is expected, or the tokenizer
            does not fit ``vocab_size``.
        FileWriteError: the cache could not be written.
    """
    source = open_source(spec)
    given: Tokenizer | None = None
    if isinstance(tokenizer, Tokenizer):
        given = whole_text_tokenizer(tokenizer)
    elif tokenizer is not None:
        given = load_tokenizer(tokenizer)
    if given is not None and _vocab_size(given) > vocab_size:
        raise CorpusError(
            f"expected a tokenizer with at most vocab_size = {vocab_size} tokens, got {_vocab_size(given)}; "
            "pass its own vocab_size, or none to train one that fits"
        )
    num_bytes, digest = _digest(source)
    inputs = {
        "format": _FORMAT,
        "text_sha256": digest,
        "whole_documents": source.whole_documents,
        "vocab_size": vocab_size,
        "tokenizer": None if given is None else tokenizer_fingerprint(given),
        "seed": seed,
    }
    cache = Path(cache_dir)
    with FolderLock(cache / "tokens", timeout_s=_LOCK_WAIT_S):
        if _is_cached(cache, inputs):
            found = _open_cache(source.name, cache)
            _check_expected(source.name, found.fingerprint, expected)
            return found
        if not replace:
            _refuse_other_inputs(source.name, cache, inputs)
        _build(source, num_bytes, given, inputs, cache, expected)
        return _open_cache(source.name, cache)


def cached_corpus(spec: PathLike, cache_dir: PathLike, fingerprint: str) -> Corpus | None:
    """Take the tokens of ``cache_dir`` without a look at the text, which may be gone or another by now.

    Args:
        spec: the text they were made from, for the name.
        cache_dir: as given to :func:`load_corpus`.
        fingerprint: of the corpus that is wanted.

    Returns:
        The corpus, or None if the cache is missing, damaged or another.
    """
    cache = Path(cache_dir)
    if not (cache / "tokens").is_dir():
        return None
    with FolderLock(cache / "tokens", timeout_s=_LOCK_WAIT_S):
        if not _is_cached(cache, None):
            return None
        found = _open_cache(os.fspath(spec), cache)
    return found if found.fingerprint == fingerprint else None


def _digest(source: Source) -> tuple[int, str]:
    """Return the size of a text in bytes and a hash of its documents, names included."""
    total, digest = 0, hashlib.sha256()
    for document in source.documents():
        content = document.text.encode()
        total += len(content)
        digest.update(os.fsencode(f"{document.name}\0{len(content)}\0"))
        digest.update(content)
    if total == 0:
        raise CorpusError(
            f"expected text in {source.name}, got nothing; the corpus is empty, pass another"
        )
    return total, digest.hexdigest()


def _build(
    source: Source,
    num_bytes: int,
    given: Tokenizer | None,
    inputs: dict[str, Any],
    cache: Path,
    expected: str | None,
) -> None:
    held_out = validation_sizes(source, num_bytes, salt=inputs["seed"])
    tokenizer = given
    if tokenizer is None:
        texts = _tokenizer_texts(source, num_bytes, held_out)
        tokenizer = train_tokenizer(texts, inputs["vocab_size"])
    parts = _encode(tokenizer, source, num_bytes, held_out)
    num_tokens = {part: len(tokens) for part, tokens in parts.items()}
    if sum(num_tokens.values()) < MIN_TOKENS or min(num_tokens.values()) == 0:
        raise CorpusError(
            f"expected at least {MIN_TOKENS} tokens in {source.name}, "
            f"got {num_tokens} from {num_bytes} bytes; pass a longer text"
        )
    tokenizer_id = tokenizer_fingerprint(tokenizer)
    sha256 = {part: _sha256_npy(tokens) for part, tokens in parts.items()}
    _check_expected(source.name, _fingerprint(sha256, tokenizer_id), expected)
    save_tokenizer(tokenizer, cache / "tokenizer.json")
    for part, tokens in parts.items():
        with atomic_writer(_array_path(cache, part), tokens.nbytes) as handle:
            np.save(handle, tokens, allow_pickle=False)
    record = {
        "inputs": inputs,
        "tokenizer_fingerprint": tokenizer_id,
        "num_bytes": num_bytes,
        "validation_bytes": sum(held_out.values()),
        "num_tokens": num_tokens,
        "sha256": sha256,
    }
    write_json_atomic(cache / "tokens" / "corpus.json", record)


def _tokenizer_texts(source: Source, num_bytes: int, held_out: Container[str]) -> Iterator[str]:
    """Yield the training text, or an even sample of it when it is large."""
    share = _MAX_TOKENIZER_BYTES / num_bytes
    for piece in cut(source, num_bytes):
        if piece.name not in held_out and unit_hash(f"tokenizer:{piece.name}", 0) < share:
            yield piece.text


def _encode(
    tokenizer: Tokenizer, source: Source, num_bytes: int, held_out: Mapping[str, int]
) -> dict[str, Tokens]:
    """Tokenize both parts; the token between documents also stands wherever the split leaves a gap."""
    separator = end_of_text_id(tokenizer)
    dtype: npt.DTypeLike = np.uint16 if _vocab_size(tokenizer) <= 1 << 16 else np.uint32
    train: list[Tokens] = []
    validation: dict[str, Tokens] = {}
    gap: Tokens = np.array([separator], dtype=dtype)
    # the bar shows itself only on a terminal, and only when this takes longer than two seconds
    with tqdm(
        total=num_bytes, desc="tokenize", unit="B", unit_scale=True, delay=2.0, disable=None
    ) as bar:
        for chunk in _chunks(cut(source, num_bytes)):
            encodings = tokenizer.encode_batch_fast(
                [piece.text for piece in chunk], add_special_tokens=False
            )
            for piece, encoding in zip(chunk, encodings, strict=True):
                tokens: Tokens = np.array(encoding.ids, dtype=dtype)
                if piece.name in held_out:
                    validation[piece.name] = np.concatenate([tokens, gap])
                    if train and train[-1] is not gap:
                        train.append(gap)
                else:
                    train += [tokens, gap] if piece.ends_document else [tokens]
                bar.update(piece.num_bytes)
    return {
        "train": np.concatenate(train) if train else gap[:0],
        "validation": np.concatenate([validation[name] for name in held_out] or [gap[:0]]),
    }


def _chunks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    chunk: list[Piece] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece.text)
        if size >= _CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _is_cached(cache: Path, inputs: dict[str, Any] | None) -> bool:
    """Tell whether every file of the cache is whole and made from these inputs (None: from any)."""
    try:
        record = json.loads((cache / "tokens" / "corpus.json").read_text())
        tokenizer = load_tokenizer(cache / "tokenizer.json")
        return (
            (inputs is None or _are_made_from(record, inputs))
            and record["tokenizer_fingerprint"] == tokenizer_fingerprint(tokenizer)
            and all(
                record["sha256"][part] == sha256_file(_array_path(cache, part)) for part in PARTS
            )
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _are_made_from(record: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether a cache's record tells of these inputs; a tokenizer trained on the text may also be given by itself."""
    same_tokenizer = inputs["tokenizer"] in (
        record["inputs"]["tokenizer"],
        record["tokenizer_fingerprint"],
    )
    return same_tokenizer and {**record["inputs"], "tokenizer": None} == {
        **inputs,
        "tokenizer": None,
    }


def _refuse_other_inputs(name: str, cache: Path, inputs: Mapping[str, Any]) -> None:
    """Refuse to replace tokens that are known to be those of another text or tokenizer."""
    try:
        record = json.loads((cache / "tokens" / "corpus.json").read_text())
        if _are_made_from(record, inputs):
            return  # only damaged
        changed = [
            word
            for field, word in (("text_sha256", "text"), ("tokenizer", "tokenizer"))
            if record["inputs"][field] != inputs[field]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no telling what they were; what was made with them has its own record of them
    raise CorpusError(
        f"expected the text and tokenizer that {cache} was made with, got {name} "
        f"(other {' and '.join(changed) or 'settings'}); use another output folder"
    )


def _check_expected(name: str, fingerprint: str, expected: str | None) -> None:
    if expected is not None and fingerprint != expected:
        raise CorpusError(
            f"expected the text with fingerprint {expected}, got {name} with {fingerprint}; "
            "restore the text (and the tokenizer), or use another output folder"
        )


def _sha256_npy(tokens: Tokens) -> str:
    """Hash of the file that ``np.save`` makes of an array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(tokens))
    digest = hashlib.sha256(file.getvalue())
    digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()


def _fingerprint(sha256: Mapping[str, str], tokenizer: str) -> str:
    identity = "".join(sha256[part] for part in PARTS) + tokenizer
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _open_cache(name: str, cache: Path) -> Corpus:
    record = json.loads((cache / "tokens" / "corpus.json").read_text())
    arrays = {
        part: np.load(_array_path(cache, part), mmap_mode="r", allow_pickle=False) for part in PARTS
    }
    return Corpus(
        name=name,
        tokenizer=load_tokenizer(cache / "tokenizer.json"),
        train_tokens=arrays["train"],
        validation_tokens=arrays["validation"],
        fingerprint=_fingerprint(record["sha256"], record["tokenizer_fingerprint"]),
        tokenizer_fingerprint=record["tokenizer_fingerprint"],
        num_bytes=record["num_bytes"],
        validation_bytes=record["validation_bytes"],
    )


def _array_path(cache: Path, part: str) -> Path:
    return cache / "tokens" / f"{part}.npy"


def _vocab_size(tokenizer: Tokenizer) -> int:
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1
