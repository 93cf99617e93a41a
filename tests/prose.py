"""A text of two thousand different lines, for the tests of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

PROSE = "".join(
    f"{i}: the quick brown fox number {i * i} jumps over lazy dog {i % 7}.\n" for i in range(2_000)
)


def written_prose(factory: pytest.TempPathFactory) -> Path:
    path = factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE)
    return path
