"""How a winner is used: a Python snippet and shell commands with this run's real paths."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas.deploy.report.view import View, Winner


def _use(view: View, out_dir: Path) -> dict[str, str]:
    best = view.fastest or view.smallest or (view.verified or view.winners or [None])[0]
    if best is None:
        return {
            "text": "This run ended without a winner. More trials, a longer profile, or a weaker reference point may find one.",
            "python": "import nas\n\nhelp(nas.search)",
            "shell": "nas search --help",
        }
    path = out_dir.resolve() / "winners" / str(best.number)
    state = "" if best.status == "verified" else f" Mind that {best.name} is not verified."
    return {
        "text": f"Every winner lies in its own folder as safetensors and JSON; {best.name} is loaded like this.{state}",
        "python": f"import nas\n\nmodel = nas.load({str(path)!r})\nprint(model.generate_text('def read('))",
        "shell": f"nas verify {shlex.quote(str(path))}\nnas report {shlex.quote(str(out_dir.resolve()))}",
    }
