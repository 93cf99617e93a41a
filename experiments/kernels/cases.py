"""What one run measures: its settings, and the cases they select, the most telling first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.kernels.shapes import (
    QUICK_ROWS,
    QUICK_SHAPES,
    ROWS,
    SHAPES,
    Kind,
    Shape,
    find_kinds,
    kinds,
)
from experiments.results import ROOT
from nas.deploy.runtime import DTYPES

# If time runs out, the levels that pruned language models use are there.
_LEVELS_FIRST = (0.8, 0.7, 0.9, 0.5, 0.6)


@dataclass(frozen=True)
class Bench:
    """What is timed.

    Args:
        device: ``cpu`` (small shapes, about a minute) or ``cuda``.
        quick: fewer shapes, levels, rows and checks.
        shapes: only these, by name (``opt-30b.up``) or model (``opt-30b``).
        sparsities: only these, by label (``csl:0.75``) or pattern (``csl``, at the levels of this run).
        rows: rows of input (tokens) N of a product; by default those of the device.
        dtypes: of weights and inputs; by default float32 on the CPU, float16 on a GPU.
        repeats: timed calls of every path of a case; medians are reported.
        graphs: on a GPU, replay every call as a CUDA graph, so that no launch of Python's is timed.
        minutes: after which no new case is begun; what is left out is named. Unlimited by default.
        seed: of weights and inputs.
        out: working folder; a killed run goes on from it.
        results: where the table and the plots go, in a folder of the device.
    """

    device: str = "cpu"
    quick: bool = False
    shapes: tuple[str, ...] | None = None
    sparsities: tuple[str, ...] | None = None
    rows: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    repeats: int = 20
    graphs: bool = True
    minutes: float | None = None
    seed: int = 0
    out: Path = Path("runs/kernels")
    results: Path = ROOT

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"expected repeats of 1 or more, got {self.repeats}")
        if self.minutes is not None and not self.minutes >= 0:
            raise ValueError(f"expected minutes of 0 or more, got {self.minutes:g}")

    @property
    def chosen_dtypes(self) -> tuple[str, ...]:
        """Dtypes whose products are timed."""
        return self.dtypes or (("float16",) if self.device == "cuda" else ("float32",))

    @property
    def checked_dtypes(self) -> tuple[str, ...]:
        """Dtypes whose products are checked: those of the device, timed or not, unless in haste."""
        if self.quick:
            return self.chosen_dtypes
        usual = ("float16", "bfloat16") if self.device == "cuda" else ("float32", "bfloat16")
        return tuple(dict.fromkeys((*self.chosen_dtypes, *usual)))


@dataclass(frozen=True)
class Case:
    """One product: ``x [N, K]`` with a sparse ``W [M, K]``.

    Args:
        dtype: of both.
        shape: of the weight.
        kind: sparsity and format.
        rows: N.
    """

    dtype: str
    shape: Shape
    kind: Kind
    rows: int

    @property
    def key(self) -> str:
        """Names the case in the log."""
        return f"{self.dtype} {self.shape.name} {self.kind.label} N={self.rows}"


def select_cases(bench: Bench) -> list[Case]:
    """The cases of a run in the order of importance: N of 8 to 32 first, then the largest weights, then the usual levels.

    Raises:
        ValueError: if a filter names nothing that is there.
    """
    shapes = _chosen_shapes(bench)
    if bench.sparsities:
        wanted = find_kinds(bench.device, bench.sparsities, bench.quick)
    else:
        wanted = list(kinds(bench.device, bench.quick))
    rows = bench.rows or (QUICK_ROWS if bench.quick else ROWS)[bench.device]
    if any(n < 1 for n in rows):
        raise ValueError(f"expected rows of 1 or more, got {rows}")
    unknown = [name for name in bench.chosen_dtypes if name not in DTYPES]
    if unknown:
        raise ValueError(f"expected dtypes in {tuple(DTYPES)}, got {unknown}")
    cases = [
        Case(dtype, shape, kind, n)
        for dtype in bench.chosen_dtypes
        for shape in shapes
        for kind in wanted
        if kind.fits(shape)
        for n in rows
    ]
    return sorted(cases, key=lambda case: _importance(case, bench.chosen_dtypes, wanted))


def _importance(case: Case, dtypes: Sequence[str], wanted: Sequence[Kind]) -> tuple[object, ...]:
    level = case.kind.sparsity.level
    return (
        not 8 <= case.rows <= 32,
        dtypes.index(case.dtype),
        -case.shape.size,
        case.shape.name,
        _LEVELS_FIRST.index(level) if level in _LEVELS_FIRST else 0,
        wanted.index(case.kind),
        case.rows,
    )


def _chosen_shapes(bench: Bench) -> list[Shape]:
    shapes = SHAPES[bench.device]
    if bench.shapes:
        names = {s.name for s in shapes} | {s.model for s in shapes}
        missing = [word for word in bench.shapes if word not in names]
        if missing:
            raise ValueError(f"expected shapes among {', '.join(sorted(names))}; got {missing}")
        return [s for s in shapes if s.name in bench.shapes or s.model in bench.shapes]
    return [s for s in shapes if not bench.quick or s.name in QUICK_SHAPES[bench.device]]
