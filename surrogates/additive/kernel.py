"""Prior covariance of an additive surrogate: effects of layers add up, smoothly along the depth and alike at similar widths.

    k(x, x') = c + a B(x).B(x') + e O(x).O(x') + Kw(x, x') [ w + d D D' + b b b' + sum_j t_j F_j(x)^T (S + o) F_j(x') + g (q + q^2 / 2) ]

Kw compares the embedding widths, D is the depth, F_j(x) the j-th descriptor of every layer, S compares positions of layers
(squared-exponential, so that neighbouring layers matter alike; a large scale makes them interchangeable, as for latency), q = G.G'
compares the whole architectures (a quadratic polynomial: interactions), B are analytic counts, and
O what surrogates of other devices say (:mod:`surrogates.additive.transfer`). Every term is finite-dimensional
for each width, so the same prior has an exact weight-space form (:func:`whiten`), in which prediction costs no more than a linear model
(Rasmussen & Williams 2006, sec. 2.1).

n architectures, l layers, j layer descriptors, g whole descriptors, k counts, o other devices, p whitened features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surrogates.additive.descriptors import KINDS, Described
from surrogates.base import FloatArray

_SINGLE = (
    *("constant", "counts", "others", "width", "width scale", "depth", "bias"),
    *("layer scale", "offset", "whole", "whole scale", "noise"),
)
NAMES = (*_SINGLE, *KINDS)
# Prior medians of the hyperparameters, for targets of unit variance: the counts explain what they can, layers are alike, and effects of
# their own are small until the data say otherwise, which is what a target that is mostly noise needs. Deviations are in evidence.py.
_MEDIANS = dict(
    [
        *(("constant", 10.0), ("counts", 1.0), ("others", 1.0), ("width", 0.03)),
        *(("width scale", 1.0), ("depth", 1e-3), ("bias", 1e-3), ("offset", 10.0)),
        *(("whole", 3e-6), ("whole scale", 2.0), ("noise", 0.03), ("heads", 1e-4)),
        *(("heads squared", 1e-5), ("ffn", 1e-4), ("ffn squared", 1e-5)),
        *(("dropped", 1e-2), ("sparsity", 1e-2), ("adapter", 1e-3)),
    ]
)


def starting_point(num_layers: int) -> FloatArray:
    """Logarithms of the prior medians, in the order of ``NAMES``; layers are alike within a quarter of the depth."""
    medians = {**_MEDIANS, "layer scale": max(0.25 * num_layers, 1.0)}
    return np.log([medians[name] for name in NAMES])


def _layers_ll(num_layers: int, scale: float) -> tuple[FloatArray, FloatArray]:
    """Covariance between positions of layers and the squared distance in units of the scale."""
    index = np.arange(num_layers)
    distance_ll = ((index[:, None] - index) / scale) ** 2
    return np.exp(-0.5 * distance_ll), distance_ll


Gradient = Callable[[FloatArray], dict[str, float]]


class Gram:
    """Covariance of n architectures as a function of the hyperparameters, with its derivatives.

    Args:
        x: the architectures.
        kinds: kind of each layer descriptor.
    """

    def __init__(self, x: Described, kinds: tuple[str, ...]) -> None:
        self.x = x
        rows = {
            kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)
        }
        self._rows = {kind: np.ascontiguousarray(x.layers_njl[:, of]) for kind, of in rows.items()}
        self._fixed = {
            "width": (x.log_width_n[:, None] - x.log_width_n) ** 2,
            "depth": np.outer(x.depth_n, x.depth_n),
            "bias": np.outer(x.bias_n, x.bias_n),
            "whole": x.whole_ng @ x.whole_ng.T,
            "counts": x.counts_nk @ x.counts_nk.T,
            "others": x.others_no @ x.others_no.T,
        }
        for kind, rows_nml in self._rows.items():
            sums_nm = rows_nml.sum(axis=2)
            self._fixed[kind] = sums_nm @ sums_nm.T

    def __call__(self, theta: FloatArray) -> tuple[FloatArray, Gradient]:
        """Covariance without noise, shape (n, n), and how a function of it changes with the hyperparameters.

        The second value takes the derivative of any function by the covariance, shape (n, n), symmetric, and gives that by the
        logarithm of each hyperparameter but the noise. Traces are contracted without forming a derivative matrix each.
        """
        fixed = self._fixed
        value = dict(zip(NAMES, np.exp(theta), strict=True))
        n, _, num_layers = self.x.layers_njl.shape
        width_nn = np.exp(-0.5 / value["width scale"] ** 2 * fixed["width"])
        q_nn = fixed["whole"] / value["whole scale"] ** 2
        whole_nn = value["whole"] * (q_nn + 0.5 * q_nn**2)
        inner_nn = value["width"] + whole_nn
        for name in ("depth", "bias"):
            inner_nn += value[name] * fixed[name]
        near_ll, distance_ll = _layers_ll(num_layers, value["layer scale"])
        slope_ll = near_ll * distance_ll
        terms: dict[str, FloatArray] = {}
        for kind, rows_nml in self._rows.items():
            near_nn = (rows_nml @ near_ll).reshape(n, -1) @ rows_nml.reshape(n, -1).T
            terms[kind] = value[kind] * (near_nn + value["offset"] * fixed[kind])
            inner_nn += terms[kind]

        def gradient(half_nn: FloatArray) -> dict[str, float]:
            own_nn = half_nn * width_nn
            found = {
                name: value[name] * float(np.vdot(own_nn, fixed[name]))
                for name in ("depth", "bias")
            }
            found["width"] = value["width"] * float(own_nn.sum())
            found["whole"] = float(np.vdot(own_nn, whole_nn))
            found["whole scale"] = -2.0 * value["whole"] * float(np.vdot(own_nn, q_nn + q_nn**2))
            found["offset"] = found["layer scale"] = 0.0
            for kind, rows_nml in self._rows.items():
                found[kind] = float(np.vdot(own_nn, terms[kind]))
                found["offset"] += (
                    value[kind] * value["offset"] * float(np.vdot(own_nn, fixed[kind]))
                )
                moved = (rows_nml @ slope_ll).reshape(n, -1)
                turned = own_nn @ rows_nml.reshape(n, -1)
                found["layer scale"] += value[kind] * float(np.vdot(turned, moved))
            far = float(np.einsum("ab,ab,ab->", own_nn, inner_nn, fixed["width"]))
            found["width scale"] = far / value["width scale"] ** 2
            found["constant"] = value["constant"] * float(half_nn.sum())
            for name in ("counts", "others"):
                found[name] = value[name] * float(np.vdot(half_nn, fixed[name]))
            return found

        shared_nn = value["counts"] * fixed["counts"] + value["others"] * fixed["others"]
        shared_nn += value["constant"]
        return inner_nn * width_nn + shared_nn, gradient


def _root(matrix: FloatArray) -> FloatArray:
    """A square root U with U U^T equal to a positive semi-definite matrix."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    root: FloatArray = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    return root


def basis(x: Described) -> FloatArray:
    """Features of the part of the prior that a width has to itself: 1, depth, bias, layers, whole, its products; shape (n, b)."""
    n, g = x.whole_ng.shape
    upper = np.triu_indices(g)
    twice = np.where(upper[0] == upper[1], 1.0, math.sqrt(2.0))
    products_nq = x.whole_ng[:, upper[0]] * x.whole_ng[:, upper[1]] * twice
    return np.column_stack(
        [
            np.ones(n),
            x.depth_n,
            x.bias_n,
            x.layers_njl.reshape(n, np.prod(x.layers_njl.shape[1:])),
            x.whole_ng,
            products_nq,
        ]
    )


class Whitening:
    """The weight-space form of the prior: k(x, x') = psi(x).psi(x') with p features whose weights are standard normal.

    Args:
        theta: hyperparameters, logarithms in the order of ``NAMES``.
        kinds: kind of each layer descriptor.
        log_widths_w: logarithms of the space's widths as in ``Described.log_width_n``.
        num_layers: layers of the deepest architecture.
        num_whole: g.
    """

    def __init__(
        self,
        theta: FloatArray,
        kinds: tuple[str, ...],
        log_widths_w: FloatArray,
        num_layers: int,
        num_whole: int,
    ) -> None:
        value = dict(zip(NAMES, np.exp(theta), strict=True))
        near_ll, _ = _layers_ll(num_layers, value["layer scale"])
        layer_root_ll = _root(near_ll + value["offset"])
        linear = math.sqrt(value["whole"]) / value["whole scale"]
        square = math.sqrt(0.5 * value["whole"]) / value["whole scale"] ** 2
        alone = [math.sqrt(value[name]) for name in ("width", "depth", "bias")]
        rest = [linear] * num_whole + [square] * (num_whole * (num_whole + 1) // 2)
        scale_j = np.sqrt(np.array([value[kind] for kind in kinds]))
        blocks = [np.diag(alone), np.kron(np.diag(scale_j), layer_root_ll), np.diag(rest)]
        self.root_bb = np.zeros((sum(map(len, blocks)), sum(map(len, blocks))))
        start = 0
        for block in blocks:
            stop = start + len(block)
            self.root_bb[start:stop, start:stop] = block
            start = stop
        distance_ww = (log_widths_w[:, None] - log_widths_w) ** 2
        self.width_root_ww = _root(np.exp(-0.5 * distance_ww / value["width scale"] ** 2))
        self.constant = math.sqrt(value["constant"])
        self.counts = math.sqrt(value["counts"])
        self.others = math.sqrt(value["others"])

    def __call__(self, x: Described, width_n: npt.NDArray[np.int64]) -> FloatArray:
        """Whitened features, shape (n, p).

        Args:
            x: n architectures.
            width_n: position of each one's width among ``log_widths_w``.
        """
        own_nb = basis(x) @ self.root_bb
        mixed = (self.width_root_ww[width_n][:, :, None] * own_nb[:, None, :]).reshape(len(x), -1)
        constant_n1 = np.full((len(x), 1), self.constant)
        shared = [constant_n1, self.counts * x.counts_nk, self.others * x.others_no]
        return np.hstack([*shared, mixed])

    def fold(self, mean_p: FloatArray, x: Described) -> LinearForm:
        """Weights of the whitened features as weights of the plain ones, for each width.

        Args:
            mean_p: weights of the whitened features.
            x: any architectures; only how many counts and others they have is read.
        """
        k, o = x.counts_nk.shape[1], x.others_no.shape[1]
        own_wb = mean_p[1 + k + o :].reshape(len(self.width_root_ww), -1)
        return LinearForm(
            self.constant * float(mean_p[0]),
            self.counts * mean_p[1 : 1 + k],
            self.others * mean_p[1 + k : 1 + k + o],
            self.width_root_ww @ own_wb @ self.root_bb.T,
        )


@dataclass(frozen=True, eq=False)
class LinearForm:
    """A posterior mean as one linear function for each width.

    Args:
        constant: added to all.
        counts_k: weights of the analytic counts.
        others_o: weights of the other devices' columns.
        own_wb: weights of :func:`basis` for each width.
    """

    constant: float
    counts_k: FloatArray
    others_o: FloatArray
    own_wb: FloatArray

    def __call__(self, x: Described, width_n: npt.NDArray[np.int64]) -> FloatArray:
        """Values of n architectures, shape (n,)."""
        shared_n = self.constant + x.counts_nk @ self.counts_k + x.others_no @ self.others_o
        total_n: FloatArray = shared_n + np.einsum("nb,nb->n", basis(x), self.own_wb[width_n])
        return total_n
