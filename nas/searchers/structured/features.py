"""Parameters as columns of numbers, and what their names and values tell about the structure of a space.

Architecture spaces are wide but repetitive: ``layer0.num_heads``, ``layer1.num_heads``, ... are one decision taken many times. Parameters
whose names differ in numbers only, over the same values, form a *family*; a model can then learn what the family does as a whole
from few trials, and what sets its members apart from many.  An integer parameter whose greatest value is the number of members of
the families (``depth``) may be a *counter*: member i is active where the counter exceeds i. Whether it is, the data decide
(nas/searchers/structured/belief.py).

n points, d parameters, p columns, g families, s columns summed over their family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.searchers.parameters import Parameter, ParameterSpace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_MAX_CONTRASTS = (
    8  # values of an ordered grid that each get a column; more are described by polynomials
)
_DEGREE = 4
# Families of alike parameters, pairwise products, the smooth remainder, the counter that switches members off, the choice between a
# value and its logarithm, first points whose families lean to one side.
PARTS = ("families", "products", "remainder", "counter", "logarithm", "leaning")


@dataclass(frozen=True, eq=False)
class Columns:
    """Features of n points.

    Args:
        own_np: columns of every parameter, scaled so that a family has variance of order one.
        shared_ns: the same, summed over the members of each family.
    """

    own_np: FloatArray
    shared_ns: FloatArray

    def __len__(self) -> int:
        return len(self.own_np)


@dataclass(frozen=True, eq=False)
class Gate:
    """A counter and what it switches off.

    Args:
        counter: parameter whose value is the number of active members.
        counts_k: its values.
        position_d: place of every parameter in its family, from 0; -1 for those that the counter does not reach.
    """

    counter: int
    counts_k: FloatArray
    position_d: IntArray

    def active(self, X_nd: FloatArray) -> npt.NDArray[np.bool_]:
        """Which parameters matter at each point, shape (n, d)."""
        count_n = self.counts_k[X_nd[:, self.counter].astype(np.int64)]
        return np.asarray(self.position_d[None, :] < count_n[:, None])


class FeatureMap:
    """Maps points of a space to columns.

    Args:
        space: the parameters.
        num_extra: continuous columns that callers append to the points, in [0, 1] (objectives known exactly, predictions from
            other studies); each is described like a continuous parameter.
        without: parts of the model to do without (see :data:`PARTS`): what an ablation takes away.
    """

    def __init__(
        self, space: ParameterSpace, num_extra: int = 0, without: frozenset[str] = frozenset()
    ) -> None:
        self.space = space
        self.num_extra = num_extra
        self.without = without
        parameters = space.parameters
        names = [p.name for p in parameters] + [f"\0{i}" for i in range(num_extra)]
        stems = [
            (re.sub(r"\d+", "#", p.name), str(p.distribution)) if p.size != 1 else (p.name, "")
            for p in parameters
        ] + [(name, "") for name in names[len(parameters) :]]
        if "families" in without:
            stems = [(name, "") for name in names]
        families = list(dict.fromkeys(stems))
        self.family_d = np.array([families.index(stem) for stem in stems])
        self.members_g = np.bincount(self.family_d, minlength=len(families))
        self._tables = [_table(p) for p in parameters]
        widths = [_DEGREE if t is None else t.shape[1] for t in self._tables]
        widths += [_DEGREE] * num_extra
        self.parameter_p = np.repeat(np.arange(len(widths)), widths)
        self.family_p = self.family_d[self.parameter_p]
        self.family_s, self._sum_ps = self._sums(widths)
        self._scale_p = 1.0 / np.sqrt(self.members_g[self.family_p])
        self.gate = None
        if "counter" not in without:
            self.gate = _gate(parameters, self.family_d, self.members_g)

    @property
    def num_families(self) -> int:
        """Number of families; a parameter unlike any other is one."""
        return len(self.members_g)

    @property
    def num_parameters(self) -> int:
        """Parameters and extra columns."""
        return len(self.family_d)

    def __call__(
        self, X_nd: FloatArray, gated: bool = False, extra_ne: FloatArray | None = None
    ) -> Columns:
        """Features of points.

        Args:
            X_nd: points of the space.
            gated: whether the columns of inactive parameters are zero.
            extra_ne: the extra columns.
        """
        blocks = [
            _polynomials(X_nd[:, i] / max(parameter.size - 1, 1))
            if table is None
            else table[X_nd[:, i].astype(np.int64)]
            for i, (parameter, table) in enumerate(
                zip(self.space.parameters, self._tables, strict=True)
            )
        ]
        if extra_ne is not None:
            blocks += [_polynomials(column) for column in extra_ne.T]
        F = np.concatenate(blocks, axis=1) * self._scale_p
        if gated and self.gate is not None:
            active_nd = np.ones((len(X_nd), self.num_parameters), dtype=np.bool_)
            active_nd[:, : X_nd.shape[1]] = self.gate.active(X_nd)
            F = F * active_nd[:, self.parameter_p]
        return Columns(F, F @ self._sum_ps)

    def _sums(self, widths: list[int]) -> tuple[IntArray, FloatArray]:
        """Family of each summed column, and the matrix that sums."""
        width_g = np.zeros(self.num_families, dtype=np.int64)
        width_g[self.family_d] = widths
        start_g = np.concatenate([[0], np.cumsum(width_g)[:-1]])
        S = np.zeros((len(self.parameter_p), int(width_g.sum())))
        order_p = np.concatenate([np.arange(w) for w in widths]) if widths else np.zeros(0, int)
        S[np.arange(len(S)), start_g[self.family_p] + order_p] = 1.0
        return np.repeat(np.arange(self.num_families), width_g), S


def _table(parameter: Parameter) -> FloatArray | None:
    """Columns of every value of a grid: orthonormal contrasts; None where polynomials of the position take their place.

    Of ordered values the columns are polynomials of the rank, the r-th with weight 1 / r: smooth effects are likelier. Of unordered
    ones, any orthonormal basis of the contrasts treats all values alike.
    """
    if parameter.values is None or (parameter.ordered and parameter.size > _MAX_CONTRASTS):
        return None
    k = parameter.size
    ranks = np.linspace(-1.0, 1.0, k)
    if parameter.ordered:
        Q, _ = np.linalg.qr(np.vander(ranks, k, increasing=True))
        columns = Q[:, 1:] * np.sqrt(k) * np.sign(Q[-1:, 1:]) / np.arange(1, k)
    else:
        Q, _ = np.linalg.qr(np.concatenate([np.ones((k, 1)), np.eye(k)[:, :-1]], axis=1))
        columns = Q[:, 1:] * np.sqrt(k)
    return np.asarray(columns.reshape(k, k - 1))


def _polynomials(position_n: FloatArray) -> FloatArray:
    """Legendre polynomials of a position in [0, 1], of unit variance over uniform positions, the r-th with weight 1 / r."""
    columns = np.polynomial.legendre.legvander(2.0 * position_n - 1.0, _DEGREE)[:, 1:]
    order = np.arange(1, _DEGREE + 1)
    return np.asarray(columns * np.sqrt(2 * order + 1) / order)


def _gate(
    parameters: tuple[Parameter, ...], family_d: IntArray, members_g: IntArray
) -> Gate | None:
    """The counter of a space, if one parameter looks like it; of several, one without gaps (``depth`` 4, 5, 6 before ``heads`` 2, 4, 6)."""
    number_of: dict[int, int] = {}
    for i, parameter in enumerate(parameters):
        numbers = re.findall(r"\d+", parameter.name)
        if len(numbers) >= 1 and members_g[family_d[i]] > 1:
            number_of[i] = int(numbers[0])
    if not number_of:
        return None
    first, last = min(number_of.values()), max(number_of.values())
    length = last - first + 1
    if first > 1 or length < 2:
        return None
    candidates: list[tuple[bool, float, int, FloatArray]] = []
    for i, parameter in enumerate(parameters):
        if i in number_of or parameter.values is None or not parameter.ordered:
            continue
        if any(isinstance(v, (bool, str)) for v in parameter.values) or parameter.size < 2:
            continue
        counts = np.array(parameter.values, dtype=np.float64)
        if counts.max() == length and counts.min() >= 0:
            has_gaps = bool(np.ptp(counts) != parameter.size - 1)
            candidates.append((has_gaps, -float(counts.min()), i, counts))
    if not candidates:
        return None
    _, _, i, counts = min(candidates, key=lambda candidate: candidate[:3])
    position = np.full(len(parameters), -1, dtype=np.int64)
    for j, number in number_of.items():
        position[j] = number - first
    return Gate(i, counts, position)
