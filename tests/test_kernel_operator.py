"""The sparse product as torch sees it: an operator under ``torch.compile``, ``torch.export``, autograd and CUDA graphs; whole models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_spaces import small_space
from torch import library

from nas.kernels import SparseLinear, pack, sparse_linear, use_table
from nas.kernels.dispatch import Choice, choose, processor_name, table_for
from nas.kernels.epilogue import Epilogue
from nas.kernels.operator import sparse_linear_op
from nas.kernels.paths import has_triton
from nas.model import GPT, Supernet, extract
from search_spaces import Architecture, SearchSpace, Sparsity, layer_linears, preset
from surrogates import KernelTable
from surrogates.kernel_table import KernelRow
from tests.kernel_cases import DEVICE, DTYPES, FORMATS, IDS, random

HERE = torch.device(DEVICE)


@pytest.fixture(autouse=True)
def own_table() -> Iterator[None]:
    """No table of this machine decides what is tested; none is left behind."""
    use_table(None, HERE)
    yield
    use_table(None, HERE)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_the_operator_is_what_torch_expects(text: str, stored: str, shape: tuple[int, int]) -> None:
    """Schema, fake kernel, autograd registration and tracing, by torch's own check."""
    dtype = torch.float16 if DEVICE == "cuda" else torch.float32
    packed = pack(random(*shape, seed=0, dtype=dtype), text, format=stored)
    x = random(3, shape[1], seed=1, dtype=dtype).requires_grad_()
    arguments = (
        x, list(packed.tensors().values()), list(packed.hints), text, stored, *shape,
        None, None, None, None, False, None,
    )  # fmt: skip
    library.opcheck(sparse_linear_op, arguments)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_compiled_layers(text: str, stored: str, shape: tuple[int, int]) -> None:
    dtype = torch.float16 if DEVICE == "cuda" else torch.float32
    packed = pack(random(*shape, seed=0, dtype=dtype), text, format=stored)
    layer = SparseLinear(packed, random(shape[0], seed=2, dtype=dtype))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for num_tokens in (1, 4):
        x = random(num_tokens, shape[1], seed=3, dtype=dtype)
        with torch.no_grad():
            assert compiled(x, activation="gelu").equal(layer(x, activation="gelu"))
    x = random(2, shape[1], seed=3, dtype=dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for call, leaf in zip((compiled, layer), inputs, strict=True):
        call(leaf).sum().backward()
    assert inputs[0].grad is not None
    assert inputs[0].grad.equal(inputs[1].grad)


@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_autocast_keeps_the_weights_dtype(text: str, stored: str, shape: tuple[int, int]) -> None:
    """Whatever path is taken, eager and compiled: the numbers are those without autocast of the same input."""
    dtype = torch.float16 if DEVICE == "cuda" else torch.float32
    packed = pack(random(*shape, seed=0, dtype=dtype), text, format=stored)
    layer = SparseLinear(packed)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for num_tokens in (1, 40):  # the format's own product, and the weight rebuilt
        reduced = random(num_tokens, shape[1], seed=3, dtype=torch.bfloat16)
        gate = random(num_tokens, shape[0], seed=4, dtype=torch.bfloat16)
        x = reduced.to(dtype).requires_grad_()
        expected = sparse_linear(x, packed, gate=gate.to(dtype))
        expected.sum().backward()
        leaf = reduced.to(dtype).requires_grad_()
        with torch.autocast(DEVICE, torch.bfloat16):
            sparse_linear(leaf, packed, gate=gate).sum().backward()
            with torch.no_grad():
                found = [call(reduced, None, gate) for call in (layer, compiled)]
        assert all(y.dtype == dtype for y in found)
        for y in found:
            torch.testing.assert_close(y, expected.detach())
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, x.grad)


FEW_WEIGHTS = small_space(
    embed_dims=(96,),
    depths=(3,),
    num_heads=(2, 6),
    ffn_ratios=(2,),
    attention=(True,),
    ffn=(True,),
    attention_sparsities=("2:4", "vector32:0.75"),
    ffn_sparsities=("dense", "block32:0.75", "unstructured:0.90"),
)


def mixed(space: SearchSpace, num_patterns: int = 5) -> Architecture:
    """An architecture whose layers have as many patterns as the space can mix."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        architecture = space.sample(rng)
        found = {
            str(shape.sparsity)
            for layer in architecture.layers
            for shape in layer_linears(
                layer, architecture.embed_dim, architecture.bias, space.family
            )
        }
        if len(found) >= num_patterns:
            return architecture
    raise AssertionError(f"no architecture of {space.name} mixes {num_patterns} patterns")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(preset("tiny")).eval().to(DEVICE)


@pytest.fixture(scope="module")
def model(supernet: Supernet) -> GPT:
    return extract(supernet, mixed(supernet.space))


@pytest.fixture(scope="module")
def tokens(supernet: Supernet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(supernet.space.family.vocab_size, (2, 12), generator=generator).to(DEVICE)


def test_a_mixed_model_compiles(model: GPT, supernet: Supernet, tokens: torch.Tensor) -> None:
    assert sum(isinstance(m, SparseLinear) for m in model.modules()) >= 8
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        expected = supernet(tokens, model.architecture)
        torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(compiled(tokens), expected, atol=1e-4, rtol=1e-3)


def test_a_mixed_model_is_exported_saved_and_loaded(
    model: GPT, supernet: Supernet, tokens: torch.Tensor, tmp_path: Path
) -> None:
    program = torch.export.export(model, (tokens,))
    calls = [n for n in program.graph.nodes if "sparse_gpt_nas" in str(n.target)]
    assert len(calls) == sum(isinstance(m, SparseLinear) for m in model.modules())
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        expected = supernet(tokens, model.architecture)
        torch.testing.assert_close(loaded(tokens), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not has_triton(), reason="needs Triton")
def test_a_mixed_model_through_triton_kernels(supernet: Supernet, tokens: torch.Tensor) -> None:
    """A table that names the kernels sends every sparse layer of a model through them; logits are those of the masked supernet."""
    dtype = DTYPES[0] if DEVICE == "cuda" else torch.float32
    if DEVICE == "cpu":  # every instruction is interpreted: few weights, yet more rows than a tile
        torch.manual_seed(0)
        supernet = Supernet(FEW_WEIGHTS).eval()
        tokens = tokens[:, :3] % FEW_WEIGHTS.family.vocab_size  # six: more than a block of CSR's
    model = extract(supernet, mixed(supernet.space), dtype=dtype)
    if DEVICE == "cpu":
        assert any(m.weight.shape[0] > 128 for m in model.modules() if isinstance(m, SparseLinear))
    name = str(dtype).removeprefix("torch.")
    rows = [
        KernelRow(name, *m.weight.shape, t, str(m.weight.sparsity), m.weight.format, {"triton": 1.0, "unpack": 2.0})
        for m in model.modules()
        if isinstance(m, SparseLinear)
        for t in (1, 2, 4, 6, 24)
    ]  # fmt: skip
    use_table(KernelTable(processor_name(HERE), rows))
    layers = [m for m in model.modules() if isinstance(m, SparseLinear)]
    assert all(choose(m.weight, n) == Choice("triton") for m in layers for n in (2, 4, 6, 24))
    with torch.no_grad():
        expected = supernet(tokens, model.architecture)
        tolerance = (
            {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
        )
        torch.testing.assert_close(model(tokens).float(), expected, **tolerance)
        cache = model.make_cache(2)
        model(tokens[:, :-1], cache)
        last = model(tokens[:, -1:], cache)[:, 0].float()
        torch.testing.assert_close(last, expected[:, -1], **tolerance)


def test_models_keep_no_dense_copies(supernet: Supernet, tokens: torch.Tensor) -> None:
    """Where a table says that the dense product is faster, a lone weight keeps a copy, a model does not."""
    model = extract(supernet, mixed(supernet.space))
    layer = next(m for m in model.modules() if isinstance(m, SparseLinear))
    rows = [
        KernelRow("float32", *layer.weight.shape, 1, str(layer.weight.sparsity), layer.weight.format, {"dense": 1.0, "unpack": 2.0})
    ]  # fmt: skip
    use_table(KernelTable(processor_name(HERE), rows))
    assert choose(layer.weight, 1) == Choice("unpack")
    alone = pack(layer.weight.unpack(), layer.weight.sparsity)
    assert choose(alone, 1) == Choice("dense")
    x = random(1, layer.weight.shape[1], seed=1)
    assert sparse_linear(x, alone).equal(torch.nn.functional.linear(x, alone.unpack()))
    assert alone._copy is not None
    use_table(None, HERE)
    assert choose(alone, 1) != Choice("dense")  # an earlier choice is forgotten with its table
    assert alone.to(torch.float64)._copy is None


@pytest.mark.gpu
@pytest.mark.parametrize(("text", "stored", "shape"), FORMATS, ids=IDS)
def test_cuda_graphs(text: str, stored: str, shape: tuple[int, int]) -> None:
    packed = pack(random(*shape, seed=0, dtype=torch.bfloat16), text, format=stored)
    x = random(4, shape[1], seed=1, dtype=torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            sparse_linear(x, packed, path="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        y = sparse_linear(x, packed, path="triton")
    fresh = random(4, shape[1], seed=2, dtype=torch.bfloat16)
    x.copy_(fresh)
    graph.replay()
    assert y.equal(sparse_linear(fresh, packed, path="triton"))


# --- dispatch -------------------------------------------------------------------------------------


def row_of(**changes: object) -> KernelRow:
    fields = {"dtype": "float32", "out_features": 16, "in_features": 32, "tokens": 1, "sparsity": "2:4", "format": "nm"}  # fmt: skip
    return KernelRow(**fields | {"us": {"triton": 1.0}} | changes)  # type: ignore[arg-type]


def test_tables_are_of_a_device() -> None:
    table = KernelTable(processor_name(HERE), [row_of()])
    use_table(table)
    assert table_for(HERE) is table
    use_table(None, DEVICE)
    assert table_for(HERE) is None
    use_table(table, DEVICE)
    assert table_for(HERE) is table
    with pytest.raises(ValueError, match="expected a table of"):
        use_table(KernelTable("another", [row_of()]), DEVICE)
    with pytest.raises(ValueError, match=r"KernelTable\.load"):
        use_table("table.json", DEVICE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        {"block_k": 7},
        "abc",
        {"block_k": 32, "num_warps": 4, "num_stages": 4, "block_m": 0},
        {"block_k": 32, "num_warps": 4, "num_stages": 4, "block_m": 128, "split": -1},
        {"block_k": 32, "num_warps": 4, "num_stages": 4, "block_m": 128, "split": 70000},
        {"block_k": 32, "num_warps": 4, "num_stages": 4, "block_m": 128, "kernel": "foo"},
    ],
)
def test_tables_name_known_tiles_only(config: object) -> None:
    table = KernelTable(processor_name(HERE), [row_of(), row_of(config=config)])
    with pytest.raises(ValueError, match="row 1: expected a tile configuration"):
        use_table(table)


@pytest.mark.skipif(not has_triton(), reason="needs Triton")
def test_a_kernel_proves_itself_or_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.kernels import dispatch

    dtype = DTYPES[0]
    for text, stored, _ in FORMATS if DEVICE == "cuda" else FORMATS[1::4]:
        found = dispatch.proven_config(
            dispatch._representative(Sparsity.parse(text)), stored, dtype, HERE
        )
        assert found is not None, text
    dispatch.proven_config.cache_clear()
    run_path = dispatch.run_path
    monkeypatch.setattr(dispatch, "run_path", lambda *args: 1.01 * run_path(*args))
    with pytest.warns(UserWarning, match="is wrong on"):
        assert dispatch.proven_config("2:4", "nm", dtype, HERE) is None
    dispatch.proven_config.cache_clear()


@pytest.mark.skipif(not has_triton(), reason="needs Triton")
def test_where_a_tile_does_not_fit_another_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    from nas.kernels import dispatch
    from nas.kernels.triton.configs import tile_configs

    packed = pack(random(128, 512, seed=0, dtype=DTYPES[0]), "2:4")
    x = random(3, 512, seed=1, dtype=DTYPES[0])
    run_path = dispatch.run_path
    fitting: list[object] = [tile_configs(packed.sparsity, "nm")[1]]

    def small_card(
        path: str, weight: object, x: object, epilogue: object, config: object = None
    ) -> object:
        if path == "triton" and config not in fitting:
            raise OutOfResources(200_000, 101_376, "shared memory")
        return run_path(path, weight, x, epilogue, config)  # type: ignore[arg-type]

    monkeypatch.setattr(dispatch, "run_path", small_card)
    exact = x.double() @ packed.unpack().double().T
    y = dispatch.run_triton(packed, x, Epilogue(), None)
    torch.testing.assert_close(y.double(), exact, atol=0.1, rtol=1e-2)
    assert choose(packed, 3) == Choice("triton", fitting[0])  # type: ignore[arg-type]
    fitting.clear()
    with pytest.warns(UserWarning, match="no tile of"):
        y = dispatch.run_triton(packed, x, Epilogue(), None)
    torch.testing.assert_close(y.double(), exact, atol=0.1, rtol=1e-2)
    assert choose(packed, 3) == Choice("unpack")


def test_layers_of_several_levels_compile_one_after_another() -> None:
    torch._dynamo.reset()
    dtype = torch.float16 if DEVICE == "cuda" else torch.float32
    for text in ("vector32:0.50", "vector32:0.75", "unstructured:0.50", "unstructured:0.60"):
        layer = SparseLinear(pack(random(64, 96, seed=0, dtype=dtype), text))
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = random(3, 96, seed=1, dtype=dtype)
        with torch.no_grad():
            assert compiled(x).equal(layer(x))


def test_a_model_is_exported_for_any_length(model: GPT, tokens: torch.Tensor) -> None:
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(model, (tokens,), dynamic_shapes=({1: length},)).module()
    with torch.no_grad():
        for number in (2, 5, 12):
            torch.testing.assert_close(
                program(tokens[:, :number]), model(tokens[:, :number]), atol=1e-5, rtol=1e-4
            )
