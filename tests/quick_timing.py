"""Fewer repeats of every timed call: tests need times of models, and none judges them.

:func:`shorten` is for programs that a test starts; the tests themselves get it by a fixture of ``conftest.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from nas.deploy import measure

_REAL = measure.time_calls
# The first lines of a program that is to be quick; ``tests`` lies beside ``nas``.
PRELUDE = "from tests.quick_timing import shorten\nshorten()\n"


def few_calls(
    call: Callable[[], Any], device: str, *, min_repeats: int, min_seconds: float, warmup: int
) -> measure.Timing:
    """``measure.time_calls`` with three repeats at most, however short they are."""
    return _REAL(
        call, device, min_repeats=min(min_repeats, 3), min_seconds=0.0, warmup=min(warmup, 1)
    )


def shorten() -> None:
    """For the rest of this process."""
    measure.time_calls = few_calls


if __name__ == "__main__":  # ``nas``, but quick
    from nas.cli import main

    shorten()
    sys.exit(main(sys.argv[1:]))
