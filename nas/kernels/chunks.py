"""Rows of a matrix in pieces: what is computed for every weight then needs little memory beside the matrix."""

from __future__ import annotations

from collections.abc import Iterator

# Weights at a time: a temporary of eight bytes a weight takes 64 MiB, whatever the matrix.
CHUNK_WEIGHTS = 2**23


def row_chunks(rows: int, columns: int, step: int = 1) -> Iterator[slice]:
    """Slices of whole rows that cover a matrix, each of about :data:`CHUNK_WEIGHTS` weights and a multiple of ``step`` rows."""
    size = step * max(1, CHUNK_WEIGHTS // (step * columns))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))
