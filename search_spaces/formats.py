"""Stored bytes of every format of a sparse weight matrix, in closed form.

They depend on the shape, the level and the bytes of a value alone, never on which weights are kept. With nnz kept weights of v
bytes in a matrix ``[M, K]`` (out, in features):

======  ============  =================================================================================
format  pattern       bytes
======  ============  =================================================================================
dense   dense         v M K
csr     unstructured  v nnz + 4 nnz (columns) + 4 (M + 1) (row starts)
csl     unstructured  2 v nnz (value and offset) + 4 (tiles + 1) (starts); tiles of 128 x 64
bitmap  unstructured  v nnz + 44 ceil(M / 8) ceil(K / 32) (a tile's bits, its start and those of its rows)
bsr     block         v nnz + 4 blocks (columns) + 4 (M / B + 1) (row starts)
vector  vector        v nnz + 4 nnz / V (columns)
nm      N:M           v nnz + 4 M ceil(K / m P / 32) (metadata), P bits a group of m columns
======  ============  =================================================================================
"""

from __future__ import annotations

from search_spaces.sparsity import Sparsity

INDEX_BYTES = 4  # starts, columns, bits and metadata are int32 in every format
CSL_TILE = (128, 64)  # rows and columns of a tile
BITMAP_TILE = (8, 32)  # rows and columns of a tile
BITMAP_RECORD = (
    11  # words of a tile: the bits of 8 rows, its start, the starts of its rows in it (8 bytes)
)

# Bits of a group of m columns. One kept weight: its position. Two: which columns are kept. 1:8 has a bit to spare, so that
# whole groups fill a 32-bit word.
NM_PLANES = {(1, 4): 2, (2, 4): 4, (1, 8): 4, (2, 8): 8}

_FORMATS = {
    "dense": ("dense",),
    "unstructured": ("csr", "csl", "bitmap"),
    "block": ("bsr",),
    "vector": ("vector",),
    "n:m": ("nm",),
}


def formats_of(sparsity: Sparsity) -> tuple[str, ...]:
    """Names of the formats that can store a sparsity."""
    return _FORMATS[sparsity.pattern]


def default_format(sparsity: Sparsity, value_bytes: int) -> str:
    """Format that a sparsity is stored in when none is asked for.

    Args:
        sparsity: pattern and level.
        value_bytes: bytes of one weight. Unstructured weights of two bytes run on tensor cores (CSL),
            wider ones on the CPU (CSR, which MKL multiplies with).
    """
    if sparsity.pattern == "unstructured":
        return "csl" if value_bytes == 2 else "csr"
    return _FORMATS[sparsity.pattern][0]


def check_format(sparsity: Sparsity, value_bytes: int, format: str | None = None) -> str:
    """The format asked for, or the default one.

    Raises:
        ValueError: if the format cannot store the sparsity, naming those that can.
    """
    if format is None:
        return default_format(sparsity, value_bytes)
    if format not in formats_of(sparsity):
        raise ValueError(
            f"expected a format of {sparsity}, one of {formats_of(sparsity)}, got {format!r}"
        )
    if format == "csl" and value_bytes < 2:
        raise ValueError(
            f"expected values of 2, 4 or 8 bytes for 'csl' (an offset takes as many), got {value_bytes}; use 'csr' or 'bitmap'"
        )
    return format


def stored_bytes(
    sparsity: Sparsity,
    out_features: int,
    in_features: int,
    value_bytes: int,
    format: str | None = None,
) -> int:
    """Exact bytes of a stored weight matrix.

    Args:
        sparsity: pattern and level.
        out_features: rows of the matrix.
        in_features: columns of the matrix.
        value_bytes: bytes of one weight (4 for float32, 2 for bfloat16).
        format: one of :func:`formats_of`; the default one when not given.

    Raises:
        ValueError: if the pattern does not divide the matrix, or the format cannot store it.
    """
    format = check_format(sparsity, value_bytes, format)
    nonzeros = sparsity.nonzeros(out_features, in_features)
    values = nonzeros * value_bytes
    if format == "csr":
        return values + (nonzeros + out_features + 1) * INDEX_BYTES
    if format == "csl":
        return 2 * values + (num_tiles(out_features, in_features) + 1) * INDEX_BYTES
    if format == "bitmap":
        tiles = num_tiles(out_features, in_features, BITMAP_TILE)
        return values + tiles * BITMAP_RECORD * INDEX_BYTES
    if format == "bsr":
        blocks = nonzeros // sparsity.size**2
        return values + (blocks + out_features // sparsity.size + 1) * INDEX_BYTES
    if format == "vector":
        return values + nonzeros // sparsity.size * INDEX_BYTES
    if format == "nm":
        return values + out_features * nm_words(sparsity, in_features) * INDEX_BYTES
    return values


def num_tiles(out_features: int, in_features: int, tile: tuple[int, int] = CSL_TILE) -> int:
    """Tiles of a format; the last ones may be cut by the matrix's edge."""
    return -(-out_features // tile[0]) * -(-in_features // tile[1])


def nm_words(sparsity: Sparsity, in_features: int) -> int:
    """32-bit words of N:M metadata in one row."""
    groups = in_features // sparsity.m
    return -(-groups * NM_PLANES[sparsity.n, sparsity.m] // 32)
