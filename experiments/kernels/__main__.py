"""``python -m experiments.kernels``: check every format against the dense product, then time both in turns."""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from experiments.results import command_line, result_folder, write_result
from nas.deploy.runtime import DTYPES, Runtime, check_device
from nas.files import write_text_atomic
from nas.kernels import PackedWeight, pack, sparse_linear

SPARSITIES = (
    "2:4",
    "2:8",
    "unstructured:0.50",
    "unstructured:0.80",
    "unstructured:0.90",
    "block32:0.75",
    "block32:0.90",
    "vector32:0.75",
    "vector64:0.90",
)
SHAPES = {
    "cpu": ((256, 256), (1024, 256), (256, 1024), (3072, 768), (768, 3072)),
    "cuda": ((4096, 4096), (16384, 4096), (4096, 16384)),
}


@dataclass(frozen=True)
class Bench:
    """What is timed.

    Args:
        device: ``cpu`` or ``cuda``.
        rows: rows of input (tokens) of a product.
        repeats: timed pairs per case; medians are reported.
        seed: of weights and inputs.
    """

    device: str = "cpu"
    rows: tuple[int, ...] = (1, 4, 64)
    repeats: int = 40
    seed: int = 0


def main(bench: Bench) -> None:
    """Check, time, print and write the table."""
    check_device(bench.device)
    dtypes = ("float32",) if bench.device == "cpu" else ("float16", "bfloat16")
    runtime = Runtime(
        bench.device, "float32" if bench.device == "cpu" else "float16", torch.get_num_threads()
    )
    cases = [
        (d, s, p, n)
        for d in dtypes
        for s in SHAPES[bench.device]
        for p in SPARSITIES
        for n in bench.rows
    ]
    generator = torch.Generator().manual_seed(bench.seed)
    rows = []
    for dtype, (out_features, in_features), sparsity, number in tqdm(
        cases, desc="bench", unit="case"
    ):
        weight = torch.randn(out_features, in_features, generator=generator).to(
            bench.device, DTYPES[dtype]
        )
        x = torch.randn(number, in_features, generator=generator).to(bench.device, DTYPES[dtype])
        packed = pack(weight, sparsity)
        error = check(packed, x)
        dense_us, sparse_us = time_pair(
            partial(torch.nn.functional.linear, x, weight),
            partial(sparse_linear, x, packed),
            bench.device,
            bench.repeats,
        )
        rows.append(
            {
                "dtype": dtype,
                "out_features": out_features,
                "in_features": in_features,
                "sparsity": sparsity,
                "rows": number,
                "dense_us": round(dense_us, 2),
                "sparse_us": round(sparse_us, 2),
                "speedup": round(dense_us / sparse_us, 3),
                "byte_ratio": round(
                    packed.stored_bytes / (weight.numel() * weight.element_size()), 4
                ),
                "error": error,
            }
        )
    folder = result_folder("kernels", bench.device)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(folder / "kernels.csv", text.getvalue())
    command = command_line("experiments.kernels", bench)
    best = max(rows, key=lambda r: float(str(r["speedup"])))
    write_result(
        folder,
        command=command,
        seeds=[bench.seed],
        values={"best": best, "cases": len(rows)},
        runtime=runtime,
    )
    table = Table(title=f"Sparse against dense products, {runtime}", title_justify="left")
    for column in ("shape", "sparsity", "rows", "dense µs", "sparse µs", "speed-up", "bytes"):
        table.add_column(column)
    for row in rows:
        shape = f"{row['out_features']}x{row['in_features']} {row['dtype']}"
        table.add_row(
            shape,
            *(
                str(row[k])
                for k in ("sparsity", "rows", "dense_us", "sparse_us", "speedup", "byte_ratio")
            ),
        )
    console = Console()
    console.print(table)
    console.print(f"Results in {folder}/kernels.csv")


def check(packed: PackedWeight, x: Tensor) -> float:
    """Relative error to the product in float64; refuses one above twice the dense product's own.

    Raises:
        RuntimeError: if the sparse product is wrong; nothing is timed then.
    """
    exact = x.double() @ packed.unpack().double().T
    scale = float(exact.abs().max())
    error = float((sparse_linear(x, packed).double() - exact).abs().max()) / scale
    dense = (
        float((torch.nn.functional.linear(x, packed.unpack()).double() - exact).abs().max()) / scale
    )
    floor = (
        4 * torch.finfo(x.dtype).eps
    )  # sums in another order; the dense product is sometimes luckily exact
    if error > 2.0 * dense + floor:
        raise RuntimeError(
            f"expected an error of at most {2 * dense + floor:.1e} for {packed}, got {error:.1e}"
        )
    return error


def time_pair(
    dense: Callable[[], Tensor], sparse: Callable[[], Tensor], device: str, repeats: int
) -> tuple[float, float]:
    """Median microseconds of two calls timed in turns, so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for number in range(repeats + 5):
            for call, kept in zip((dense, sparse), times, strict=True):
                if device == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                if device == "cuda":
                    torch.cuda.synchronize()
                if number >= 5:
                    kept.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
