"""Peak memory of a forward pass, in closed form: stored weights, KV cache, and the most that activations and rebuilt weights hold at once.

The pass is walked operator by operator as the model runs it, and what is alive at each is added up: the residual stream, the input that a
product reads, its output, and, where a sparse weight has no product of its own, the dense weight rebuilt beside its indices.
Not in it: scratch memory inside library calls, and the allocator's rounding.

R rows (tokens that pass through at once), D embedding features, Q query and K key features, F neurons, V vocabulary, all of one layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces import Architecture, Family, LinearShape, Workload, costs, fused_linears
from search_spaces.formats import default_format
from surrogates.devices import value_bytes

_INDEX = 8  # torch indexes with int64
_CHUNK = 2**23  # weights whose indices are made at a time
_NATIVE_ROWS = 4  # tokens up to which CSR and BSR have products of their own, in float32 on a CPU


def peak_memory_bytes(
    architecture: Architecture,
    family: Family,
    workload: Workload,
    dtype: str = "float32",
    *,
    has_kernels: bool = False,
) -> int:
    """Most bytes held at once in a decode step or a prefill.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        workload: decode or prefill.
        dtype: of weights and activations.
        has_kernels: whether GPU kernels read the stored weights, so that none is rebuilt.

    Returns:
        Bytes: of stored weights, of the KV cache, and of the workspace (:func:`workspace_bytes`).

    Raises:
        ValueError: if the workload is training, or the dtype is unknown.
    """
    known = costs(architecture, family, value_bytes(dtype))
    tokens = workload.context + (workload.phase == "decode")
    cache = workload.batch * tokens * known.kv_bytes_per_token
    workspace = workspace_bytes(architecture, family, workload, dtype, has_kernels=has_kernels)
    return known.weight_bytes + cache + workspace


def workspace_bytes(
    architecture: Architecture,
    family: Family,
    workload: Workload,
    dtype: str = "float32",
    *,
    has_kernels: bool = False,
) -> int:
    """Most bytes of activations and rebuilt weights at once; arguments as of :func:`peak_memory_bytes`."""
    workload.check_inference()
    itemsize, rows = value_bytes(dtype), workload.num_tokens
    stream = rows * architecture.embed_dim * itemsize
    is_parallel = family.residual == "parallel"
    most = 2 * stream  # lookups
    last = architecture.layers[-1]
    for layer in dict.fromkeys(architecture.layers):
        shapes = fused_linears(layer, architecture.embed_dim, architecture.bias, family)
        by_name = {s.name: s for s in shapes}
        if layer.attention:
            inside = _attention(
                by_name, family, layer.num_heads, rows, itemsize, stream, has_kernels
            )
            most = max(most, 3 * stream, *inside)
        if layer.ffn:
            # A parallel FFN reads the layer's input, which stays beside the sum with the attention.
            base = stream if is_parallel and layer.attention else 0
            inside = _ffn(by_name, rows, itemsize, stream, has_kernels)
            most = max(most, *(base + alive for alive in (3 * stream, *inside)))
    base = stream if is_parallel and (last.attention or last.ffn) else 0
    most = max(most, base + 2 * stream + rows * family.vocab_size * itemsize)
    if family.positions == "rotary":  # cosines and sines, made once
        tokens = 1 if workload.phase == "decode" else workload.context
        most += 2 * tokens * family.rotary_dim * itemsize
    return most


def _attention(
    shapes: dict[str, LinearShape],
    family: Family,
    heads: int,
    rows: int,
    itemsize: int,
    stream: int,
    has_kernels: bool,
) -> Iterator[int]:
    queries = rows * heads * family.head_dim * itemsize
    keys = rows * family.kv_heads(heads) * family.head_dim * itemsize

    def product(name: str) -> int:
        return product_bytes(shapes[name], rows, itemsize, has_kernels)

    if "qkv" in shapes:
        yield 2 * stream + product("qkv")
        held = queries + 2 * keys  # one tensor, alive as long as the queries are
    else:
        yield 2 * stream + max(product("q"), queries + product("k"), queries + keys + product("v"))
        held = queries  # keys and values went into the cache
    if family.positions == "rotary":
        yield stream + queries + 2 * keys + max(3 * queries, queries + 3 * keys)
        held = queries  # the turned ones
    yield stream + held + queries + product("o")


def _ffn(
    shapes: dict[str, LinearShape], rows: int, itemsize: int, stream: int, has_kernels: bool
) -> Iterator[int]:
    neurons = rows * shapes["up"].out_features * itemsize
    before = 0
    if "gate" in shapes:
        yield 2 * stream + product_bytes(shapes["gate"], rows, itemsize, has_kernels)
        before = neurons
        yield 2 * stream + 3 * neurons
    follows = 2 if "gate" in shapes else 1  # a sparse up-projection takes its activation with it
    up = product_bytes(shapes["up"], rows, itemsize, has_kernels, follows)
    yield 2 * stream + before + up
    yield 2 * stream + 2 * neurons  # before and after the activation
    yield 2 * stream + neurons + product_bytes(shapes["down"], rows, itemsize, has_kernels)


def product_bytes(
    shape: LinearShape, rows: int, itemsize: int, has_kernels: bool = False, follows: int = 0
) -> int:
    """Most bytes of a product beside its input and its stored weight: output, epilogue, and the weight rebuilt.

    Args:
        shape: of the linear.
        rows: of the input.
        itemsize: bytes of a number.
        has_kernels: whether GPU kernels read the stored weight.
        follows: outputs made of the product in the same call: 1 with an activation, 2 with a gate.
    """
    out = rows * shape.out_features * itemsize
    if shape.sparsity.is_dense or has_kernels:
        return out
    # Each part of the epilogue is a tensor of its own: product, bias added, the adapter's part, its sum, what follows.
    outputs = 1 + shape.bias + 2 * (shape.adapter_rank > 0) + follows
    return max(outputs * out, _sparse(shape, rows, itemsize, out))


def _sparse(shape: LinearShape, rows: int, itemsize: int, out: int) -> int:
    """Bytes of the product by the path that is taken without a GPU kernel and without a table."""
    sparsity = shape.sparsity
    weights, nonzeros = shape.out_features * shape.in_features, shape.nonzeros
    dense = weights * itemsize
    stored = default_format(sparsity, itemsize)
    part = min(1.0, _CHUNK / weights)  # of the weights, whose indices exist at once
    again = 0 if rows == 1 else out  # transposed, then laid out
    if stored == "vector":
        panels, kept = shape.out_features // sparsity.size, nonzeros // shape.out_features
        if rows * kept <= sparsity.size * shape.in_features:
            return rows * panels * kept * itemsize + out + again
        return max(2 * dense + _INDEX * panels * kept, dense + out)
    if stored in ("csr", "bsr") and itemsize == 4 and rows <= _NATIVE_ROWS:
        return out + again
    if stored == "bsr":
        return max(2 * dense, dense + out)
    if stored == "nm":
        indices = int(part * (4 * weights // sparsity.m + _INDEX * nonzeros))
        indices += 256 * sparsity.n * _INDEX  # the columns that each code keeps
    elif stored == "csr":
        indices = 2 * _INDEX * nonzeros
    else:  # csl: number, tile, corner, offset and row of every item
        indices = int(min(1.0, _CHUNK / nonzeros) * 4 * _INDEX * nonzeros)
    return dense + max(indices, out)
