"""Inputs: what the additive model is told about architectures of a space, from their numbers to whitened features.

n architectures, p whitened features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces import Architecture, SearchSpace, Workload
from surrogates.additive.counts import Counts
from surrogates.additive.descriptors import Described, Descriptors
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.additive.kernel import Whitening, starting_point
from surrogates.additive.transfer import Others
from surrogates.base import FloatArray


class Inputs:
    """Architectures of one space as the kernel sees them.

    Args:
        space: the search space.
        workload: whose operator counts are told.
        dtype: of weights and activations.
        others: what is known of other devices, told beside the counts.
    """

    def __init__(
        self, space: SearchSpace, workload: Workload, dtype: str, others: Others | None = None
    ) -> None:
        self.space, self.workload, self.dtype, self.others = space, workload, dtype, others
        self.encoder = Encoder(space)
        self._descriptors = Descriptors(self.encoder)
        self._counts = Counts(self.encoder, workload, dtype)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each layer descriptor."""
        return self._descriptors.kinds

    def encode(self, architectures: Sequence[Architecture] | Encoded) -> Encoded:
        """Architectures as arrays.

        Raises:
            ValueError: if one is not in the space.
        """
        if isinstance(architectures, Encoded):
            return self.encoder.check(architectures)
        return self.encoder(architectures)

    def describe(self, encoded: Encoded) -> Described:
        """Inputs of the kernel."""
        others_no = None if self.others is None else self.others.columns(encoded)
        return self._descriptors(encoded, self._counts(encoded), others_no)

    def prior(self) -> FloatArray:
        """Medians of the hyperparameters' prior, as logarithms: the kernel's own, or what other devices say."""
        if self.others is None:
            return starting_point(self.space.depths[-1])
        return self.others.prior()

    def whitening(self, theta: FloatArray) -> Whitening:
        """The prior's weight-space form under hyperparameters (logarithms in the order of ``kernel.NAMES``)."""
        log_width_w = np.log2(np.array(self.space.embed_dims, dtype=np.float64))
        log_width_w = log_width_w - 0.5 * (log_width_w.min() + log_width_w.max())
        num_whole = len(self.kinds) + 2
        return Whitening(theta, self.kinds, log_width_w, self.space.depths[-1], num_whole)

    def features(self, whitening: Whitening, encoded: Encoded) -> FloatArray:
        """Whitened features of n architectures, shape (n, p)."""
        return whitening(self.describe(encoded), encoded.width_n)
