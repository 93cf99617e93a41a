"""The house's layers: who may import whom, what importing may do, and how long ``import nas`` may reach."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = (
    "search_spaces",
    "surrogates",
    "nas",
    "experiments",
)  # left may be imported by right, nothing else
LEAVES = ("files", "objectives", "pareto", "data", "kernels")
# What each part of nas may import of nas; single files that are not named here (study, search, cli) may import every part.
INSIDE = {
    "files": set(),
    "kernels": set(),
    "data": {"files"},
    "objectives": {"files"},
    "plot_style": set(),
    "pareto": {"files", "objectives", "plot_style"},
    "model": {"files", "kernels"},
    "training": {"files", "kernels", "data", "model"},
    "searchers": {"files", "objectives", "pareto"},
    "fidelity": {"objectives", "pareto", "constraints"},
    "deploy": {
        *("files", "kernels", "objectives", "pareto", "data", "model", "training", "plot_style"),
    },
    "commands": {
        *("files", "objectives", "pareto", "model", "training", "deploy"),
        *("cli", "join", "pipeline", "run_front", "run_settings", "serve", "storage_url"),
    },
}
BAYESIAN = (
    *("nas/searchers/bayesian.py", "nas/searchers/gaussian_process.py"),
    "experiments/botorch_reference/stock.py",  # what ours is measured against is made of BoTorch only
    *(
        "surrogates/learned.py",
        "surrogates/mean.py",
        "surrogates/posterior.py",
        "surrogates/regression.py",
    ),
)


def modules(*roots: str) -> list[Path]:
    return sorted(
        path.relative_to(REPOSITORY)
        for root in roots
        for path in (REPOSITORY / root).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, with the names taken from it, and whether that happens as the file is imported."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    later: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing:
            later |= set(ast.walk(node))
    package = list(path.with_suffix("").parts)
    package = package[:-1]  # of a module and of a package's __init__ alike: the folder
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in later
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name, node not in later
            for alias in node.names:
                yield f"{name}.{alias.name}", node not in later
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            is_constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
            if called in ("__import__", "importlib.import_module", "import_module") and is_constant:
                yield str(node.args[0].value), False  # type: ignore[attr-defined]


@functools.cache
def targets(path: Path) -> set[str]:
    return {name for name, _ in imports(path)}


def part_of(path: Path) -> str:
    """``nas/model/gpt.py`` is of the part ``model``, ``nas/study.py`` of ``study``."""
    return path.parts[1].removesuffix(".py")


def test_the_parser_sees_every_form_of_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import a.b as c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def later():\n    import i\n    importlib.import_module('j.k')\n"
        "if TYPE_CHECKING:\n    from m import n\ntry:\n    import o\nexcept ImportError:\n    pass\n"
    )
    folder = tmp_path / "nas" / "x"
    folder.mkdir(parents=True)
    (folder / "y.py").write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    found = set(imports(Path("nas/x/y.py")))
    now = {"a.b", "d", "d.e", "nas.x", "nas.x.f", "nas.g", "nas.g.h", "o"}
    assert found == {(name, True) for name in now} | {(n, False) for n in ("i", "j.k", "m", "m.n")}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    files = modules(package)
    assert files
    for path in files:
        for name in targets(path):
            root = name.split(".")[0]
            assert root in allowed or root not in (*PACKAGES, "tests"), f"{path} imports {name}"


def test_search_spaces_uses_numpy_and_the_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "search_spaces"}
    for path in modules("search_spaces"):
        assert {name.split(".")[0] for name in targets(path)} <= allowed, path


def test_surrogates_know_no_model_and_run_no_kernel() -> None:
    allowed = {
        "numpy",
        "scipy",
        "torch",
        "botorch",
        "gpytorch",
        "linear_operator",
        "threadpoolctl",
        "optuna",  # simulated searches
        "search_spaces",
        "surrogates",
    }
    for path in modules("surrogates"):
        assert {name.split(".")[0] for name in targets(path)} <= allowed | set(
            sys.stdlib_module_names
        ), path


def test_the_parts_of_nas_import_one_way() -> None:
    for path in modules("nas"):
        part = part_of(path)
        if part not in INSIDE:
            continue
        for name in targets(path):
            root, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if (
                root == "nas"
                and other
                and (REPOSITORY / "nas" / other).exists()
                | (REPOSITORY / f"nas/{other}.py").exists()
            ):
                assert other == part or other in INSIDE[part], f"{path} imports nas.{rest}"


def test_leaves_searchers_and_the_study_know_no_model() -> None:
    for path in modules("nas"):
        if part_of(path) in (*LEAVES, "searchers", "study"):
            for name in targets(path):
                for heavy in ("nas.model", "nas.training", "nas.deploy"):
                    assert not f"{name}.".startswith(f"{heavy}."), f"{path} imports {name}"


def test_every_part_of_nas_is_judged() -> None:
    """A new folder of nas must be given its place in the table above."""
    folders = {path.parts[1] for path in modules("nas") if len(path.parts) > 2}
    assert folders <= set(INSIDE)
    assert set(INSIDE) <= {part_of(path) for path in modules("nas")}


def test_triton_stays_in_the_kernels() -> None:
    for path in modules(*PACKAGES):
        if path.parts[:2] != ("nas", "kernels"):
            assert not {n for n in targets(path) if n.split(".")[0] == "triton"}, path


def test_botorch_stays_with_the_bayesian_parts() -> None:
    found = {
        path.as_posix()
        for path in modules(*PACKAGES)
        for name in targets(path)
        if name.split(".")[0] in ("botorch", "gpytorch", "linear_operator")
    }
    assert found <= set(BAYESIAN)
    assert found  # the search is still there to be found


def test_tests_are_imported_by_nobody() -> None:
    for path in modules(*PACKAGES):
        assert not {
            n for n in targets(path) if n.split(".")[0] in ("tests", "pytest", "hypothesis")
        }, path


def run(code: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_import_nas_is_light() -> None:
    heavy = [
        "botorch",
        "gpytorch",
        "optuna",
        "matplotlib",
        "plotly",
        "triton",
        "pandas",
        "datasets",
        "pyarrow",
        "tyro",
    ]
    code = (
        f"import json, sys\nimport nas\nprint(json.dumps({{n: n in sys.modules for n in {heavy}}}))"
    )
    found = run(code)
    assert not [name for name, is_loaded in found.items() if is_loaded]


def test_search_spaces_loads_no_torch() -> None:
    assert run(
        "import json, sys, search_spaces\nprint(json.dumps({'torch': 'torch' in sys.modules}))"
    ) == {"torch": False}


STATE = """
import importlib, json, logging, os, random, signal, sys, warnings
import numpy as np
import torch

def state():
    return [
        torch.initial_seed(), torch.get_rng_state().sum().item(), np.random.get_state()[1].tolist(), str(random.getstate()),
        torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(), str(np.geterr()),
        sorted(os.environ.items()), os.getcwd(), logging.getLogger().level, len(logging.getLogger().handlers),
        str(signal.getsignal(signal.SIGINT)), sys.getrecursionlimit(), sorted(os.listdir(".")),
        torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32, torch.multiprocessing.get_start_method(True),
    ]

%s
names = %s
before, filters = state(), len(warnings.filters)
for name in names:
    importlib.import_module(name)
after = state()
changed = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
print(json.dumps({"changed": changed, "filters": len(warnings.filters) - filters, "cuda": torch.cuda.is_initialized()}))
"""


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_importing_every_module_changes_nothing_global(tmp_path: Path) -> None:
    """No seed, thread count, default dtype, environment, signal handler, logging or warning setting of ours is touched by an import.

    Libraries that the modules need are imported before: what those do is theirs.
    """
    names = [module_name(p) for p in modules(*PACKAGES) if p.stem != "__main__"]
    roots = {n.split(".")[0] for p in modules(*PACKAGES) for n, is_now in imports(p) if is_now}
    libraries = sorted({n for p in modules(*PACKAGES) for n, is_now in imports(p) if is_now})
    ours = {*PACKAGES, "__future__"}
    first = "".join(
        f"try:\n    import {name}\nexcept ImportError:\n    pass\n"
        for name in libraries
        if name.split(".")[0] in roots - ours and name.isidentifier() | ("." in name)
    )
    path = tmp_path / "state.py"
    path.write_text(STATE % (first, names))
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": str(REPOSITORY),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"changed": [], "filters": 0, "cuda": False}
