"""What many tests of the command line need: how a command is refused, and a short text to train on."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli import main

Refused = Callable[..., str]


def refusal_of(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail with status 2 and one line that says what was expected and got."""

    def check(*command: str) -> str:
        capsys.readouterr()
        assert main(command) == 2
        messages = [line for line in capsys.readouterr().err.splitlines() if "%|" not in line]
        text = "\n".join(messages).strip()
        assert "Traceback" not in text
        assert text.startswith("nas: expected ")
        assert len(text.splitlines()) == 1
        assert re.search(r"\b(got|found)\b", text)
        return text

    return check


def short_text(factory: pytest.TempPathFactory) -> Path:
    """A short text to train on."""
    source = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    path = factory.mktemp("text") / "notes.txt"
    path.write_text(source[:60_000], encoding="utf-8")
    return path
