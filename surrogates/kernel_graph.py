"""A GPT as a graph of kernels and the tensors between them, in the order of execution: what fusion and pipelining rearrange.

The kernels do the arithmetic of :func:`surrogates.operators.operators` and read the same weights (tests hold the sums equal), but
attention is three kernels (scores, softmax, weighted sum) whose score matrix is a tensor, as it is where kernels run one by one.
The backward pass is written by a tape: every forward kernel leaves what its gradient needs; where a tensor has several consumers, the
later gradient kernel adds to what the earlier one left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from search_spaces import Architecture, Family, LayerConfig, LinearShape, Workload, layer_linears
from search_spaces.costs import WeightGradient, check_weight_gradient
from surrogates.device_spec import value_bytes
from surrogates.operators import Operator, linear_operators
from surrogates.training import backward_operators, update_bytes


@dataclass(frozen=True)
class Tensor:
    """What one kernel hands to another, or to memory.

    Args:
        name: unique in a graph.
        num_bytes: of all of it.
        rows: tokens it is about, which arrive tile by tile.
        held_rows: rows a consumer must have at once (the keys of a whole sequence); 0 if a tile is enough.
    """

    name: str
    num_bytes: int
    rows: int
    held_rows: int = 0

    def buffer_bytes(self, tile_rows: int, is_internal: bool = True) -> int:
        """Bytes on chip while tiles of so many rows pass, twice: one is filled while the other is read."""
        held = max(tile_rows, self.held_rows if is_internal else 0)
        return 2 * -(-self.num_bytes * min(self.rows, held) // self.rows)


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Args:
        name: with its layer, for example ``"3.up"``.
        op: its kind, FLOPs and weights (in the gradient of a weight: that gradient).
        inputs: tensors read, beside the weights.
        outputs: tensors written.
    """

    name: str
    op: Operator
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes it moves when it runs alone."""
        return self.op.weight_bytes + sum(t.num_bytes for t in (*self.inputs, *self.outputs))

    @property
    def is_matrix(self) -> bool:
        """Whether it multiplies with, or sums up, a weight matrix, which stays in place while tokens pass."""
        return self.op.weight_bytes > 0 and self.op.flops > 0

    @property
    def intensity(self) -> float:
        """FLOPs per byte when it runs alone: its operational intensity."""
        return self.op.flops / self.num_bytes


def kernel_graph(
    architecture: Architecture,
    family: Family,
    workload: Workload,
    dtype: str = "bfloat16",
    weight_gradient: WeightGradient = "sparse",
    *,
    causal: bool = True,
) -> tuple[Kernel, ...]:
    """Every kernel of a forward pass or a training step, in an order that can be executed.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        workload: decode, prefill or training.
        dtype: of weights, activations and gradients.
        weight_gradient: of sparse weights in training: ``sparse`` or ``dense``.
        causal: compute and store only the scores that a causal mask leaves; otherwise all of them, half in vain, as kernels do that
            do not know of the mask.

    Raises:
        ValueError: if a sparsity does not divide a matrix, or the dtype or the weight gradient is unknown.
    """
    check_weight_gradient(weight_gradient)
    build = _Builder(family, workload, value_bytes(dtype), architecture, weight_gradient, causal)
    x = build.embed()
    for index, layer in enumerate(architecture.layers):
        x = build.layer(index, layer, x)
    build.head(x)
    if workload.phase == "training":
        build.backward()
    return tuple(build.kernels)


@dataclass
class _Builder:
    family: Family
    workload: Workload
    itemsize: int
    architecture: Architecture
    weight_gradient: WeightGradient
    causal: bool
    kernels: list[Kernel] = field(default_factory=list)
    tape: list[Callable[[], None]] = field(default_factory=list)
    grads: dict[str, Tensor] = field(default_factory=dict)
    updates: list[Kernel] = field(default_factory=list)
    kept: int = 0  # numbers of the part under construction, for the optimizer

    @property
    def rows(self) -> int:
        return self.workload.num_tokens

    @property
    def norm_params(self) -> int:
        return self.architecture.embed_dim * (2 if self.family.norm == "layernorm" else 1)

    def tensor(self, name: str, features: int, *, is_held: bool = False) -> Tensor:
        held = self.workload.context if is_held and self.workload.phase != "decode" else 0
        return Tensor(name, self.rows * features * self.itemsize, self.rows, held)

    def add(
        self, name: str, op: Operator, inputs: tuple[Tensor, ...], *outputs: Tensor
    ) -> Tensor | None:
        self.kernels.append(Kernel(name, op, inputs, outputs))
        return outputs[0] if outputs else None

    def gradient(self, name: str, op: Operator, of: Tensor, *inputs: Tensor) -> None:
        """A kernel that computes the gradient of a tensor, on top of what it has already."""
        before = self.grads.get(of.name)
        after = replace(of, name=f"{of.name}.grad{'' if before is None else '+' + name}")
        self.add(name, op, inputs if before is None else (*inputs, before), after)
        self.grads[of.name] = after

    # ---- kernels, each with what its gradient does

    def elementwise(
        self, name: str, inputs: tuple[Tensor, ...], output: Tensor, weights: int = 0
    ) -> Tensor:
        op = Operator("elementwise", 1, weight_bytes=weights * self.itemsize)
        self.kept += weights
        self.add(name, op, inputs, output)

        def backward() -> None:
            back = replace(op, weight_bytes=2 * op.weight_bytes)
            for tensor in inputs:
                needed = (*inputs, self.grads[output.name])
                self.gradient(f"{name}.d{tensor.name}", back, tensor, *needed)
                back = Operator("elementwise", 1)

        self.tape.append(backward)
        return output

    def sum(self, name: str, x: Tensor, y: Tensor, features: int) -> Tensor:
        """A residual sum: its gradient is handed on to both as it is; a kernel adds it where another gradient is there already."""
        out = self.tensor(name, features)
        self.add(name, Operator("elementwise", 1), (x, y), out)

        def backward() -> None:
            for tensor in (x, y):
                handed = self.grads[out.name]
                if tensor.name in self.grads:
                    self.gradient(f"{name}.d", Operator("elementwise", 1), tensor, handed)
                else:
                    self.grads[tensor.name] = handed

        self.tape.append(backward)
        return out

    def linear(self, name: str, shape: LinearShape, x: Tensor, *, is_held: bool = False) -> Tensor:
        y = self.tensor(name, shape.out_features, is_held=is_held)
        main, *rest = linear_operators(shape, self.rows, self.itemsize)
        bias = sum(op.flops for op in rest if op.kind == "bias")
        adapter = next((op for op in rest if op.kind == "adapter"), None)
        self.kept += shape.macs + (shape.out_features if shape.bias else 0)
        return self.product(name, main, x, y, bias, adapter)

    def product(
        self,
        name: str,
        main: Operator,
        x: Tensor,
        y: Tensor,
        bias: int = 0,
        adapter: Operator | None = None,
    ) -> Tensor:
        extra = bias // self.rows * self.itemsize  # a bias is added as the result is written
        op = replace(main, flops=main.flops + bias, weight_bytes=main.weight_bytes + extra)
        bare = y if adapter is None else replace(y, name=f"{name}.bare")
        self.add(name, op, (x,), bare)
        if adapter is not None:
            self.add(f"{name}.adapter", adapter, (x, bare), y)

        def backward() -> None:
            dy = self.grads[y.name]
            of_input, of_weight = backward_operators(
                main, self.rows, self.itemsize, self.weight_gradient
            )
            self.gradient(f"{name}.dx", of_input, x, dy)
            with_bias = replace(
                of_weight, flops=of_weight.flops + bias, weight_bytes=of_weight.weight_bytes + extra
            )
            self.add(f"{name}.dw", with_bias, (x, dy))
            if adapter is not None:
                (back,) = backward_operators(
                    adapter, self.rows, self.itemsize, self.weight_gradient
                )
                self.gradient(f"{name}.adapter.d", back, x, x, dy)

        self.tape.append(backward)
        return y

    def end_part(self, name: str) -> None:
        """The optimizer's update of a part. It waits for all gradients (their norm is clipped), so it is fused with nothing."""
        op = Operator("optimizer", 1, weight_bytes=update_bytes(self.kept, self.itemsize))
        self.updates.append(Kernel(f"{name}.update", op, (), ()))
        self.kept = 0

    # ---- parts

    def embed(self) -> Tensor:
        width = self.architecture.embed_dim
        table = self.tensor("table", width)
        if self.family.positions == "learned":
            positions = self.tensor("positions", width)
            return self.elementwise("embed", (table, positions), self.tensor("x", width))
        return self.elementwise("embed", (table,), self.tensor("x", width))

    def head(self, x: Tensor) -> None:
        width, vocabulary = self.architecture.embed_dim, self.family.vocab_size
        h = self.elementwise("norm", (x,), self.tensor("h", width), self.norm_params)
        weights = vocabulary * width
        logits = self.tensor("logits", vocabulary)
        main = Operator("unembed", 1, 2 * self.rows * weights, weights * self.itemsize)
        self.product("unembed", main, h, logits)
        if self.workload.phase == "training":
            gradient = replace(logits, name="logits.grad")
            self.add("loss", Operator("elementwise", 1), (logits,), gradient)
            self.grads["logits"] = gradient
        tables = vocabulary * (1 if self.family.tied_embeddings else 2)
        tables += self.family.context_length if self.family.positions == "learned" else 0
        self.kept += tables * width
        self.end_part("model")

    def layer(self, index: int, config: LayerConfig, x: Tensor) -> Tensor:
        width, family = self.architecture.embed_dim, self.family
        shapes = {s.name: s for s in layer_linears(config, width, self.architecture.bias, family)}
        out = x
        if config.attention:
            out = self.sum(f"{index}.sum1", x, self.attention(index, config, x, shapes), width)
        if config.ffn:
            read = x if family.residual == "parallel" else out
            out = self.sum(f"{index}.sum2", out, self.ffn(index, read, shapes), width)
        return out

    def ffn(self, index: int, x: Tensor, shapes: dict[str, LinearShape]) -> Tensor:
        width, neurons = self.architecture.embed_dim, shapes["up"].out_features
        n = self.elementwise(
            f"{index}.norm2", (x,), self.tensor(f"{index}.n2", width), self.norm_params
        )
        names = ("gate", "up") if "gate" in shapes else ("up",)
        wide = tuple(self.linear(f"{index}.{name}", shapes[name], n) for name in names)
        act = self.elementwise(f"{index}.act", wide, self.tensor(f"{index}.a", neurons))
        y = self.linear(f"{index}.down", shapes["down"], act)
        self.end_part(f"{index}.ffn")
        return y

    def attention(
        self, index: int, config: LayerConfig, x: Tensor, shapes: dict[str, LinearShape]
    ) -> Tensor:
        family, width = self.family, self.architecture.embed_dim
        queries = config.num_heads * family.head_dim
        keys = family.kv_heads(config.num_heads) * family.head_dim
        n = self.elementwise(
            f"{index}.norm1", (x,), self.tensor(f"{index}.n1", width), self.norm_params
        )
        q = self.linear(f"{index}.q", shapes["q"], n)
        k = self.linear(f"{index}.k", shapes["k"], n, is_held=True)
        v = self.linear(f"{index}.v", shapes["v"], n, is_held=True)
        if family.positions == "rotary":
            q = self.elementwise(f"{index}.rotate_q", (q,), self.tensor(f"{index}.qr", queries))
            rotated = self.tensor(f"{index}.kr", keys, is_held=True)
            k = self.elementwise(f"{index}.rotate_k", (k,), rotated)
        o = self.mix(index, config.num_heads, q, k, v, queries, keys)
        y = self.linear(f"{index}.o", shapes["o"], o)
        self.end_part(f"{index}.attention")
        return y

    def mix(
        self, index: int, heads: int, q: Tensor, k: Tensor, v: Tensor, queries: int, keys: int
    ) -> Tensor:
        """Scores, softmax and weighted sum over pairs of tokens."""
        batch, context = self.workload.batch, self.workload.context
        is_decode = self.workload.phase == "decode"
        attended = context * (context + 1) // 2 if self.causal else context**2
        pairs = batch * (context + 1 if is_decode else attended)
        s, p = (
            Tensor(f"{index}.{name}", heads * pairs * self.itemsize, self.rows)
            for name in ("scores", "probs")
        )
        o = self.tensor(f"{index}.mixed", queries)
        product = Operator("attention", 1, 2 * pairs * queries)
        ks: tuple[Tensor, ...] = (k,)
        vs: tuple[Tensor, ...] = (v,)
        if is_decode:  # what the cache holds is read; the new key and value join it
            held = batch * context * keys * self.itemsize
            ks += (Tensor(f"{index}.k_cache", held, self.rows),)
            vs += (Tensor(f"{index}.v_cache", held, self.rows),)
            new = [replace(t, name=f"{t.name}.cached") for t in (k, v)]
            self.add(f"{index}.append", Operator("elementwise", 2), (k, v), *new)
        self.add(f"{index}.scores", product, (q, *ks), s)
        self.add(f"{index}.softmax", Operator("elementwise", 1), (s,), p)
        self.add(f"{index}.mix", product, (p, *vs), o)

        def backward() -> None:
            do = self.grads[o.name]
            self.gradient(f"{index}.dprobs", product, p, do, v)
            self.gradient(f"{index}.dv", product, v, p, do)
            soft = Operator("elementwise", 1)
            self.gradient(f"{index}.dscores", soft, s, p, self.grads[p.name])
            ds = self.grads[s.name]
            self.gradient(f"{index}.dq", product, q, ds, k)
            self.gradient(f"{index}.dk", product, k, ds, q)

        self.tape.append(backward)
        return o

    def backward(self) -> None:
        for step in reversed(self.tape):
            step()
        self.kernels += self.updates
