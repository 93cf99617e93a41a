"""Every command and example of the README, and every notebook, is executed; what is marked ``not run`` is checked as far as it goes."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small_run import lend_tokens

from nas.cli import parse
from nas.run_settings import SearchRun
from tests.quick_timing import PRELUDE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
_FENCE = re.compile(
    r"(?:<!-- *not run:(?P<reason>.*?)-->\s*?\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
#: The examples are executed with fewer models, trials and rounds.
_SHORTER = {
    'nas.profile(supernet, device="cpu")': 'nas.profile(supernet, device="cpu", num_architectures=16, rounds=2)',
    "n_trials=30": "n_trials=6, num_tokens=1024",
    'nas.verify(winners, device="cpu")': 'nas.verify(winners, device="cpu", rounds=1, compile=False)',
}


#: And so are the cells of notebooks.
_SHORTER_CELLS = {
    "num_architectures=20, rounds=3": "num_architectures=16, rounds=2",
    "n_trials=16": "n_trials=8",
    "num_tokens=4096": "num_tokens=1024",
    "max_winners=5": "max_winners=2",
    "nas.verify(winners, compile=False": "nas.verify(winners, rounds=1, compile=False",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, its line, and why it is not run (None: it is)."""

    language: str
    code: str
    line: int
    reason: str | None

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of every command of a shell block."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def _blocks(text: str) -> list[Block]:
    return [
        Block(m["language"], m["code"], text[: m.start("code")].count("\n"), m["reason"])
        for m in _FENCE.finditer(text)
    ]


BLOCKS = _blocks(README.read_text(encoding="utf-8")) if README.exists() else []
SHELL = [block for block in BLOCKS if block.language in ("bash", "sh", "shell", "console")]
COMMANDS = [words for block in SHELL for words in block.commands]
MARKED = [block for block in BLOCKS if block.reason is not None]


def _named(block: Block) -> str:
    return f"line {block.line}"


def test_blocks_are_found_with_their_marks() -> None:
    text = "a\n<!-- not run: slow -->\n```bash\nmake x  # y\n```\n```python\n1\n```\n"
    marked, plain = _blocks(text)
    assert (marked.language, marked.reason, list(marked.commands)) == (
        "bash",
        " slow ",
        [["make", "x"]],
    )
    assert (plain.language, plain.reason, plain.code, plain.line) == ("python", None, "1\n", 6)


def test_the_readme_shows_an_example_and_commands() -> None:
    assert any(block.language == "python" and block.reason is None for block in BLOCKS)
    assert any(words[0] == "nas" for words in COMMANDS)
    assert ["make", "search"] in COMMANDS
    fences = README.read_text(encoding="utf-8").count("```")
    assert fences == 2 * len(BLOCKS)  # none is missed for want of a language
    assert all(block.reason and block.reason.strip() for block in MARKED)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_exists(words: list[str]) -> None:
    if words[0] == "nas":
        command = parse(words[1:])
        if isinstance(command, SearchRun):
            replace(command, storage=None).check()  # which is opened, and is not here
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in words[1:]:
            name, is_variable, _ = word.partition("=")
            pattern = rf"^{name} *\?=" if is_variable else rf"^{name}:"
            assert re.search(pattern, makefile, re.MULTILINE) or name == "PY", word
    elif words[:2] == ["python", "-m"]:
        package = importlib.util.find_spec(words[2])
        assert package is not None
        if package.submodule_search_locations:
            assert importlib.util.find_spec(f"{words[2]}.__main__") is not None
    else:
        assert shutil.which(words[0]), f"no program {words[0]}"


def _environment(folder: Path) -> dict[str, str]:
    """``nas`` and ``python`` are those under test, also where nothing is installed."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("nas", "-m nas "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def _succeeds(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("block", [b for b in SHELL if b.reason is None], ids=_named)
def test_shell_blocks_run(block: Block, tmp_path: Path) -> None:
    lines = [words for words in block.commands if words[0] != "make"]
    script = "\n".join(shlex.join(words) for words in lines)
    _succeeds(["bash", "-euo", "pipefail", "-c", script], tmp_path)


PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", [b for b in PYTHON if b.reason is not None], ids=_named)
def test_python_blocks_that_are_not_run_name_what_exists(block: Block) -> None:
    import nas

    compile(block.code, f"README line {block.line}", "exec")
    for name in re.findall(r"\bnas\.(\w+)", block.code):
        assert hasattr(nas, name), name


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in PYTHON if b.reason is None], ids=_named)
def test_python_blocks_run(
    block: Block, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code = block.code
    for long, short in _SHORTER.items():
        code = code.replace(long, short)
    lend_tokens(tmp_path_factory, tmp_path / "runs" / "supernet-tiny-stdlib")
    if "nas." in code:
        code = PRELUDE + code
    _succeeds([sys.executable, "-c", code], tmp_path)
    if 'save("report.html")' in code:
        assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_there_is_a_notebook() -> None:
    assert "quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(
    path: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev (nbformat)")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra dev (nbclient)")
    pytest.importorskip("ipykernel", reason="needs the extra dev (ipykernel)")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for long, short in _SHORTER_CELLS.items():
        assert any(long in cell.source for cell in cells), long
        for cell in cells:
            cell.source = cell.source.replace(long, short)
    cells[0].source = PRELUDE + cells[0].source
    lend_tokens(tmp_path_factory, tmp_path / "runs" / path.stem)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=_environment(tmp_path))  # raises if a cell does
    assert all(cell.execution_count for cell in cells)
    outputs: list[Any] = [output for cell in cells for output in cell.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 2
    assert (tmp_path / "runs" / path.stem / "report.html").exists()
