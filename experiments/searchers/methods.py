"""Methods as data: a name, a sampler, its options. Add a line to compare a variant; ``auto`` with other options is an ablation."""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

import nas.searchers
from nas.searchers import make_sampler, samplers

OURS = "auto"
_OF_OPTUNA = ("random", "nsga2", "nsga3", "tpe", "gp")
_LIBRARY = {"TPESampler": TPESampler, "NSGAIISampler": NSGAIISampler}


@dataclass(frozen=True)
class Method:
    """A searcher as it is run.

    Args:
        name: in tables and files.
        sampler: name that :func:`nas.searchers.make_sampler` knows, or ``optuna:CLASS`` for Optuna's class as Optuna makes it.
        options: further arguments; JSON values.
        is_slow: seconds a suggestion: fewer seeds, and on most problems fewer evaluations.
        about: for the tables.
    """

    name: str
    sampler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_slow: bool = False
    about: str = ""

    @property
    def is_ablation(self) -> bool:
        """Whether it is a variant of ours."""
        return self.sampler == OURS and self.name != OURS

    @property
    def exists(self) -> bool:
        """Whether this version of the package has the sampler."""
        return self.sampler.startswith("optuna:") or self.sampler in samplers()

    def make(self, seed: int) -> BaseSampler:
        """A fresh sampler.

        Raises:
            ValueError: if the sampler or an option is unknown.
        """
        kind, _, name = self.sampler.partition(":")
        if kind != "optuna":
            return make_sampler(self.sampler, seed=seed, **self.options)
        if name not in _LIBRARY:
            raise ValueError(f"expected a sampler of Optuna in {', '.join(_LIBRARY)}, got {name!r}")
        sampler: BaseSampler = _LIBRARY[name](seed=seed, **self.options)
        return sampler

    @property
    def code(self) -> str:
        """What made its proposals: Optuna's version, or 12 hexadecimal digits of the searchers' source, docstrings and all."""
        if self.sampler in _OF_OPTUNA or ":" in self.sampler:
            return f"optuna {optuna.__version__}"
        return _digest_of_searchers()


@functools.cache
def _digest_of_searchers() -> str:
    """Read once a process: a file that is edited later is not what this process runs."""
    found = hashlib.sha256()
    folder = Path(nas.searchers.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


METHODS = (
    Method(OURS, OURS, about="the default"),
    Method("random", "random"),
    Method("nsga2", "nsga2", about="population 20"),
    Method("nsga3", "nsga3", about="population 20"),
    Method("tpe", "tpe", about="multivariate"),
    Method("gp", "gp", is_slow=True, about="Optuna's GPSampler"),
    Method("qlognehvi", "qlognehvi", is_slow=True, about="BoTorch"),
    Method("qlognparego", "qlognparego", is_slow=True, about="BoTorch"),
    Method("tpe-optuna", "optuna:TPESampler", about="as Optuna makes it"),
    Method("nsga2-optuna", "optuna:NSGAIISampler", about="as Optuna makes it: population 50"),
)
# Variants of ours, one option changed at a time; run by name or by ``--methods ablations``.
ABLATIONS = tuple(
    Method(f"auto without {part}", OURS, {"without": [part]}, about=about)
    for part, about in (
        ("families", "every parameter for itself"),
        ("products", "no pairwise products: additive plus a smooth remainder"),
        ("remainder", "additive plus pairwise products"),
        ("counter", "layers beyond the depth matter like any other"),
        ("logarithm", "values as they are"),
        ("leaning", "a Sobol design to begin with"),
    )
) + (
    Method("auto additive", OURS, {"without": ["products", "remainder"]}, about="additive alone"),
    Method(
        "auto Matern",
        OURS,
        {"without": ["families", "products", "counter"]},
        about="linear plus a Matern remainder",
    ),
    Method(
        "auto quick",
        OURS,
        {"population": 60, "generations": 3},
        about="a seventh of the inner search",
    ),
)


def select(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name; ``all`` is every one that exists here but the ablations, ``others`` all but ours, ``ablations`` the variants.

    Raises:
        ValueError: if a name is unknown (the near ones are proposed), or the package lacks its sampler.
    """
    known = {method.name: method for method in (*METHODS, *ABLATIONS)}
    groups = {
        "all": [m for m in METHODS if m.exists],
        "others": [m for m in METHODS if m.exists and m.name != OURS],
        "ablations": [known[OURS], *ABLATIONS],
    }
    found: list[Method] = []
    for name in names:
        if name not in known and name not in groups:
            near = difflib.get_close_matches(name, [*known, *groups], n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"expected a method in {', '.join([*known, *groups])}, got {name!r}{hint}"
            )
        found += groups.get(name, [known[name]] if name in known else [])
    for method in found:
        if not method.exists:
            raise ValueError(
                f"expected a sampler in {', '.join(samplers())}, got {method.sampler!r} of method {method.name!r}"
            )
    return tuple({method.name: method for method in found}.values())
