"""``nas spaces`` and ``nas doctor``: what can be searched, and what this machine can do."""

from __future__ import annotations

import shutil

from rich.console import Console
from rich.table import Table

from nas.deploy.runtime import available_threads, device_name, versions
from nas.model import CheckpointError
from nas.model.storage import supernet_info
from nas.training import embedded_path
from search_spaces import costs, preset, presets


def spaces() -> None:
    """``nas spaces``."""
    # Without a frame the rows fit into 80 columns.
    table = Table(title="Search spaces", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("preset", "architectures", "parameters", "embed", "layers", "heads", "FFN"):
        table.add_column(column, no_wrap=True)
    for name in presets():
        space = preset(name)
        low, high = (costs(a, space.family).params / 1e6 for a in (space.smallest, space.largest))
        table.add_row(
            name,
            f"{space.cardinality:.1e}",
            f"{low:.1f}-{high:.1f} M",
            *(
                " ".join(f"{v:g}" for v in values)
                for values in (space.embed_dims, space.depths, space.num_heads, space.ffn_ratios)
            ),
        )
    console = Console()
    console.print(table)
    console.print(
        "Layers of tiny also choose sparsity and adapters; the others are those of HW-GPT-Bench, and "
        "search_spaces.preset(name, sparsity=True) adds these choices.",
        highlight=False,
    )
    console.print("Next: nas search --space tiny --out runs/mine")


def doctor() -> None:
    """``nas doctor``."""
    import importlib.util

    import torch

    console = Console()
    table = Table(title="This machine", title_justify="left", show_header=False)
    table.add_row("processor", f"{device_name('cpu')}, {available_threads()} cores")
    table.add_row("versions", ", ".join(f"{k} {v}" for k, v in versions().items()))
    if torch.cuda.is_available():
        table.add_row("CUDA", device_name("cuda"))
    else:
        table.add_row("CUDA", "not found: --device cpu only")
    table.add_row(
        "compiled dense baseline",
        "yes"
        if shutil.which("c++") or shutil.which("g++")
        else "no C++ compiler: the dense baseline runs eager only; install g++",
    )
    from nas.training.precision import faster_dtype

    table.add_row(
        "training arithmetic", str(faster_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    )
    for module, purpose in (
        ("triton", "GPU kernels (extra gpu)"),
        ("datasets", "hf: corpora (extra hf)"),
        ("pynvml", "GPU energy (extra gpu)"),
        ("optuna_dashboard", "live study page (extra dashboard)"),
    ):
        found = importlib.util.find_spec(module) is not None
        table.add_row(
            purpose,
            "yes" if found else f"no: pip install {module.replace('pynvml', 'nvidia-ml-py')}",
        )
    try:
        info = supernet_info(embedded_path())
        table.add_row(
            "embedded supernet", f"{info['tokens']:,} training tokens, sha256 {info['sha256'][:12]}"
        )
    except CheckpointError as error:
        table.add_row("embedded supernet", f"damaged: {error}")
    console.print(table)
    console.print("Next: nas search --out runs/mine")
