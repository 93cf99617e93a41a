"""How a winner is used: a Python snippet and shell commands with this run's real paths."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas.deploy.report.view import View, Winner

_PYTHON = """\
import nas
import torch
from tokenizers import Tokenizer

folder = {folder!r}
model = nas.load_gpt(folder)  # sparse weights stay sparse
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
prompt = torch.tensor([tokenizer.encode("def read(").ids])
text = model.generate(prompt, num_new=64)
print(tokenizer.decode(text[0].tolist()))"""
_SHELL = """\
# measure the winners again on this machine, and redraw this page
nas verify --run {run}
# build this one again from the supernet
nas materialize --run {run} --key {key}
# redraw this page and front.png from results.json
nas report --run {run}"""


def usage(view: View, out_dir: Path) -> dict[str, str]:
    """Texts that load the best winner.

    Args:
        view: the report's content.
        out_dir: the run folder.

    Returns:
        ``text``, ``python`` and ``shell``.
    """
    run = out_dir.resolve()
    best = view.fastest or view.smallest or next(iter([*view.verified, *view.winners]), None)
    if best is None:
        return {
            "text": "This run ended without a winner. More trials, or more measured models for the surrogate, may find one.",
            "python": "import nas\n\nhelp(nas.search)",
            "shell": "nas search --help",
        }
    warning = "" if best.status == "verified" else f" Mind that {best.name} is not verified."
    return {
        "text": f"Every winner lies in its own folder, as safetensors and JSON. This is {best.name}.{warning}",
        "python": _PYTHON.format(folder=str(_folder(best, run))),
        "shell": _SHELL.format(run=shlex.quote(str(run)), key=best.architecture.key),
    }


def _folder(winner: Winner, run: Path) -> Path:
    own = run / "winners" / winner.architecture.key
    if winner.folder and not own.is_dir():  # stored elsewhere, or the report alone was moved
        return Path(winner.folder).resolve()
    return own
