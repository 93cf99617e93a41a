"""``python -m experiments.kernels.packing``: seconds to pack, check and unpack a matrix as large as a layer of OPT-66B, per format."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from experiments.results import ROOT, command_line, result_folder, run, write_result
from nas.deploy.runtime import DTYPES, Runtime, check_device
from nas.kernels import magnitude_mask, pack
from search_spaces import Sparsity

Found = TypeVar("Found")

CASES = (
    ("unstructured:0.80", "csl"),
    ("unstructured:0.50", "bitmap"),
    ("unstructured:0.80", "csr"),
    ("2:4", "nm"),
    ("1:4", "nm"),
    ("2:8", "nm"),
    ("1:8", "nm"),
    ("block32:0.75", "bsr"),
    ("vector64:0.75", "vector"),
)


@dataclass(frozen=True)
class Packing:
    """What is packed.

    Args:
        device: ``cpu`` or ``cuda``.
        rows: of the matrix (out features).
        columns: of the matrix (in features).
        dtype: of the weights.
        seed: of the weights.
        results: where the result goes, in a folder of the device.
    """

    device: str = "cpu"
    rows: int = 9216
    columns: int = 36864
    dtype: str = "bfloat16"
    seed: int = 0
    results: Path = ROOT

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"expected a dtype of {tuple(DTYPES)}, got {self.dtype!r}")


def main(packing: Packing) -> None:
    """Time mask, pack (its check included) and unpack of every format; an inexact round trip is an error."""
    check_device(packing.device)
    generator = torch.Generator().manual_seed(packing.seed)
    weight = torch.randn(packing.rows, packing.columns, generator=generator)
    weight = weight.to(packing.device, DTYPES[packing.dtype])
    rows = []
    for text, stored in tqdm(CASES, desc="packing", unit="format"):
        find = partial(magnitude_mask, weight, Sparsity.parse(text))
        mask, mask_s = timed(find, packing.device)
        packed, pack_s = timed(partial(pack, weight, text, mask, stored), packing.device)
        dense, unpack_s = timed(packed.unpack, packing.device)
        if not dense.equal(weight * mask):
            raise RuntimeError(f"expected {stored} of {text} to unpack exactly, got another matrix")
        rows.append(
            {
                "sparsity": text,
                "format": stored,
                "mask_s": round(mask_s, 2),
                "pack_s": round(pack_s, 2),
                "unpack_s": round(unpack_s, 2),
                "byte_ratio": round(
                    packed.stored_bytes / (weight.numel() * weight.element_size()), 4
                ),
            }
        )
        del mask, packed, dense
    folder = result_folder("packing", packing.device, packing.results)
    runtime = Runtime(packing.device, packing.dtype, torch.get_num_threads())
    write_result(
        folder,
        command=command_line("experiments.kernels.packing", packing),
        seeds=[packing.seed],
        values={"rows": rows},
        runtime=runtime,
    )
    title = f"Seconds for a {packing.rows} x {packing.columns} {packing.dtype} matrix"
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    console.print(table)
    console.print(f"Results in {folder}/result.json")


def timed(call: Callable[[], Found], device: str) -> tuple[Found, float]:
    """What a call returns, and its seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    run(main, Packing, __doc__)
