"""Train and validation parts, decided by hashes of names alone: no random state, no dependence on order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from nas.data.sources import Source

VALIDATION_SHARE = 0.05
_MIN_VALIDATION_BYTES = 16 * 1024  # a short text gives a larger share, up to a quarter
_MIN_PIECE, _MAX_PIECE, _NUM_PIECES = 1024, 65536, 200


@dataclass(frozen=True)
class Piece:
    """A stretch of one document, the unit of the split.

    Args:
        name: document name and number of the piece.
        text: its text.
        ends_document: True for the last piece of its document.
    """

    name: str
    text: str
    ends_document: bool

    @property
    def num_bytes(self) -> int:
        """Size in UTF-8."""
        return len(self.text.encode())


def unit_hash(name: str, salt: int) -> float:
    """Map a name to [0, 1), evenly, by SHA-256 (equal on every machine)."""
    digest = hashlib.sha256(os.fsencode(f"{salt}:{name}")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def cut(source: Source, total_bytes: int) -> Iterator[Piece]:
    """Cut documents at line ends into about 200 pieces or more, so that even one file has both parts.

    Args:
        source: the documents; with ``whole_documents`` none is cut.
        total_bytes: size of the whole text.
    """
    size = min(_MAX_PIECE, max(_MIN_PIECE, total_bytes // _NUM_PIECES))
    for document in source.documents():
        if source.whole_documents:
            if document.text:
                yield Piece(document.name, document.text, True)
            continue
        start, number = 0, 0
        while start < len(document.text):
            line_end = document.text.find("\n", start + size, start + 2 * size)
            end = line_end + 1 if line_end >= 0 else min(start + size, len(document.text))
            ends = end == len(document.text)
            yield Piece(f"{document.name}#{number}", document.text[start:end], ends)
            start, number = end, number + 1


def validation_sizes(source: Source, total_bytes: int, *, salt: int) -> dict[str, int]:
    """Choose the held-out pieces, about 5 % of the text.

    Whole documents (``stdlib``) are held out when their hash is below 5 %, so a file has the same part in every Python
    version. Cut text is held out in the order of the hash until its share is reached, so neither part is empty.

    Args:
        source: the documents.
        total_bytes: size of the whole text.
        salt: changes which pieces are chosen.

    Returns:
        Held-out name -> bytes, in the order of the hash: any first stretch of the validation text
        is a random sample of it.
    """
    sizes = {piece.name: piece.num_bytes for piece in cut(source, total_bytes)}
    order = sorted(sizes, key=lambda name: (unit_hash(name, salt), name))
    if source.whole_documents:
        return {name: sizes[name] for name in order if unit_hash(name, salt) < VALIDATION_SHARE}
    wanted = max(VALIDATION_SHARE * total_bytes, min(0.25 * total_bytes, _MIN_VALIDATION_BYTES))
    chosen: dict[str, int] = {}
    held_out = 0
    for name in order[:-1]:  # training keeps at least one piece
        if held_out >= wanted:
            break
        chosen[name] = sizes[name]
        held_out += sizes[name]
    return chosen
