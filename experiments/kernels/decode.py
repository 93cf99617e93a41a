"""``python -m experiments.kernels.decode``: tokens per second of a sparse model against the dense model of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from experiments.kernels.checks import check_product
from experiments.kernels.decode_models import MODELS, ModelShape, build, unpacked
from experiments.kernels.door import MissingFormat
from experiments.kernels.shapes import Kind, find_kinds
from experiments.results import ROOT, command_line, result_folder, run, write_csv, write_result
from nas.deploy.measure import step_function
from nas.deploy.runtime import DTYPES, Runtime, check_device, device_name
from nas.deploy.turns import Timing, time_in_turns
from nas.model import GPT
from search_spaces import Workload

COLUMNS = (
    *("model", "sparsity", "batch", "context", "dtype", "layers"),
    *("dense_ms", "dense_p20_ms", "dense_p80_ms", "sparse_ms", "sparse_p20_ms", "sparse_p80_ms"),
    *("dense_tokens_per_s", "sparse_tokens_per_s", "speedup", "dense_bytes", "sparse_bytes", "byte_bound"),
    *("captured", "error"),
)  # fmt: skip


@dataclass(frozen=True)
class Decode:
    """What is timed: one new token of every sequence, at a fixed context.

    Args:
        device: ``cpu`` or ``cuda``.
        models: by name.
        sparsities: of every linear inside the layers, by label.
        batches: sequences of a step.
        context: tokens in the KV cache.
        reduce: divides every size; by default 16 on the CPU, 1 on a GPU.
        depth: layers; by default the model's own.
        dtype: of both models; by default float32 on the CPU, bfloat16 on a GPU.
        repeats: timed steps of each model, in turns; medians are reported.
        graphs: on a GPU, replay every step as a CUDA graph.
        seed: of the weights.
        results: where the result goes, in a folder of the device.
    """

    device: str = "cpu"
    models: tuple[str, ...] = ("opt-13b", "llama-3-8b")
    sparsities: tuple[str, ...] = ("vector64:0.80", "2:4", "csl:0.80")
    batches: tuple[int, ...] = (1, 8, 16, 32)
    context: int = 512
    reduce: int | None = None
    depth: int | None = None
    dtype: str | None = None
    repeats: int = 20
    graphs: bool = True
    seed: int = 0
    results: Path = ROOT

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise ValueError(f"expected a dtype of {tuple(DTYPES)}, got {self.dtype!r}")
        if self.reduce is not None and self.reduce < 1:
            raise ValueError(f"expected reduce of 1 or more, got {self.reduce}")
        if min(self.repeats, self.context, *self.batches) < 1:
            raise ValueError(
                f"expected repeats, context and batches of 1 or more, got {self.repeats}, {self.context}, {self.batches}"
            )

    @property
    def used_dtype(self) -> str:
        """The dtype, or the device's own."""
        return self.dtype or ("bfloat16" if self.device == "cuda" else "float32")

    def shape(self, model: str) -> ModelShape:
        """Sizes of a model as it is timed.

        Raises:
            ValueError: if there is no such model.
        """
        if model not in MODELS:
            raise ValueError(f"expected models among {', '.join(MODELS)}, got {model!r}")
        return MODELS[model].reduced(self.reduce or (16 if self.device == "cpu" else 1))


def main(recipe: Decode) -> None:
    """Check, time, print and write the table."""
    check_device(recipe.device)
    runtime: dict[str, Any] = {"device": recipe.device, "dtype": recipe.used_dtype}
    kinds = find_kinds(recipe.device, recipe.sparsities)
    pairs = [(name, recipe.shape(name), kind) for name in recipe.models for kind in kinds]
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    errors: dict[tuple[str, str], float] = {}
    for name, shape, kind in pairs:  # all of them before the first is timed
        try:
            errors[name, kind.label] = check_model(recipe, shape, kind)
        except MissingFormat as error:
            missing[kind.label] = str(error)
    for name, shape, kind in tqdm(pairs, desc="decode", unit="model"):
        if (name, kind.label) in errors:
            described = {"model": name, "error": errors[name, kind.label]}
            rows += [described | row for row in time_model(recipe, shape, kind)]
    console = Console()
    for label, reason in missing.items():
        console.print(f"{label} left out: {reason}", markup=False)
    if not rows:
        console.print("Nothing was measured, nothing is written")
        return
    folder = result_folder("kernels", recipe.device, recipe.results)
    write_csv(folder / "decode.csv", rows, COLUMNS)
    write_result(
        folder,
        command=command_line("experiments.kernels.decode", recipe),
        seeds=[recipe.seed],
        values={"rows": rows, "missing_formats": missing, "weights": "random"},
        runtime=Runtime(threads=torch.get_num_threads(), **runtime),
        name="decode.json",
    )
    table = Table(
        title=f"Decode on {device_name(recipe.device)}, {recipe.used_dtype}, random weights",
        title_justify="left",
    )
    for column in ("model", "sparsity", "batch", "dense", "sparse tokens/s", "speed-up (bytes)"):
        table.add_column(column)
    for row in rows:
        speeds = (f"{row[f'{which}_tokens_per_s']:.1f}" for which in ("dense", "sparse"))
        gain = f"{row['speedup']:.2f} ({row['byte_bound']:.2f})"
        table.add_row(row["model"], row["sparsity"], str(row["batch"]), *speeds, gain)
    console.print(table)
    console.print(f"Results in {folder}/decode.csv")


def check_model(recipe: Decode, shape: ModelShape, kind: Kind) -> float:
    """Error of the logits of one sparse layer of this width against the same function in float64.

    Raises:
        WrongProduct: if rounding does not explain it; nothing is timed then.
    """
    dtype = DTYPES[recipe.used_dtype]
    sparse = build(shape, kind, 8, dtype, recipe.device, recipe.seed, depth=1)
    tokens = torch.arange(8, device=recipe.device)[None]
    with torch.inference_mode():
        logits = sparse(tokens)[0]
        dense = unpacked(sparse, dtype)(tokens)[0]
        exact = unpacked(sparse, torch.float64)(tokens)[0]
    return check_product(logits, dense, exact, shape.neurons, f"logits with {kind.label}")


def time_model(recipe: Decode, shape: ModelShape, kind: Kind) -> list[dict[str, Any]]:
    """One row per batch: the dense and the sparse model's steps timed in turns."""
    rows = []
    room = recipe.context + 1
    settings = (room, DTYPES[recipe.used_dtype], recipe.device, recipe.seed, recipe.depth)
    dense, sparse = build(shape, None, *settings), build(shape, kind, *settings)
    for batch in recipe.batches:
        steps = {
            "dense": _step(dense, batch, recipe.context),
            "sparse": _step(sparse, batch, recipe.context),
        }
        timings = time_in_turns(
            steps, recipe.device, recipe.repeats, graphs=recipe.graphs, is_cold=False
        )
        dense_bytes, sparse_bytes = dense.weight_bytes(), sparse.weight_bytes()
        rows.append(
            {
                "sparsity": kind.label,
                "batch": batch,
                "context": recipe.context,
                "dtype": recipe.used_dtype,
                "layers": dense.architecture.depth,
                **_columns("dense", timings["dense"], batch),
                **_columns("sparse", timings["sparse"], batch),
                "speedup": timings["dense"].median_us / timings["sparse"].median_us,
                "dense_bytes": dense_bytes,
                "sparse_bytes": sparse_bytes,
                "byte_bound": dense_bytes / sparse_bytes,
                "captured": timings["sparse"].captured and timings["dense"].captured,
            }
        )
    return rows


def _step(model: GPT, batch: int, context: int) -> Callable[[], Tensor]:
    """One decode step; every call finds the cache at the same length, so its captured graph is the same step."""
    return step_function(model, Workload("decode", batch, context))


def _columns(which: str, timing: Timing, batch: int) -> dict[str, float]:
    return {
        f"{which}_ms": timing.median_us / 1e3,
        f"{which}_p20_ms": timing.p20_us / 1e3,
        f"{which}_p80_ms": timing.p80_us / 1e3,
        f"{which}_tokens_per_s": batch / (1e-6 * timing.median_us),
    }


if __name__ == "__main__":
    run(main, Decode, __doc__)
