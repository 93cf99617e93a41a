"""How every picture of the project looks: inks, font, quiet axes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE = "#17202b", "#55606f", "#dde3e9"
FONT = "DejaVu Sans"  # ships with matplotlib, so the picture is the same everywhere


def quiet_axes(axes: Axes, size: int) -> None:
    """A grid behind the data, ticks of ``size`` points, and spines at the left and the bottom only."""
    axes.grid(True, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size, colors=MUTED, labelfontfamily=FONT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Silence matplotlib's notes on its font cache and configuration folder, which nobody who looks at a picture can use."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
