"""BoTorch 0.18's own parts, put together as its multi-objective tutorials do: what the samplers of this package are measured against.

A SingleTaskGP per objective under the default priors, fitted from nothing at every proposal; qLogNoisyExpectedHypervolumeImprovement or
qLogNParEGO on 128 quasi-random draws with a pruned baseline; optimize_acqf_mixed_alternating from the tutorials' 10 restarts of 512 raw
points. The start is ten points of a scrambled Sobol sequence; the reference point is the one that every sampler of this package
takes by default: the worst values of that start and a tenth of their range.

n told points, d parameters, m objectives.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.parego import qLogNParEGO
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.models.transforms.input import NumericToCategoricalEncoding
from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.mlls import SumMarginalLogLikelihood
from torch import Tensor
from torch.nn.functional import one_hot

from nas.searchers.bayesian_sampler import Acquisition
from nas.searchers.candidates import Candidates
from nas.searchers.history import History
from nas.searchers.indexed import seed_of
from nas.searchers.model_sampler import ModelSampler
from nas.searchers.parameters import FloatArray, ParameterSpace

Encoding = Literal["ordinal", "one-hot"]
NUM_DRAWS = 128
_NUM_RESTARTS, _RAW_SAMPLES = 10, 512


class StockSampler(ModelSampler):
    """BoTorch's models, acquisition functions and optimizer, for spaces whose parameters all are lists of values.

    Like every sampler of this package its proposal depends on the seed, the trial's index and the finished trials only. Unlike them it may
    propose a point again, as BoTorch's optimizer does.

    Args:
        seed: of the whole study.
        acquisition: ``nehvi`` or ``nparego``.
        encoding: ``ordinal`` (ranks of the values in [0, 1], moves to the next value) or ``one-hot`` (moves to any other value).

    Raises:
        ValueError: if an option is unknown.
    """

    def __init__(
        self, *, seed: int, acquisition: Acquisition = "nehvi", encoding: Encoding = "ordinal"
    ) -> None:
        super().__init__(seed=seed)
        if acquisition not in ("nehvi", "nparego") or encoding not in ("ordinal", "one-hot"):
            raise ValueError(
                f"expected acquisition 'nehvi' or 'nparego' and encoding 'ordinal' or 'one-hot', got {acquisition!r} and {encoding!r}"
            )
        self.acquisition = acquisition
        self.encoding = encoding

    def design(self, space: ParameterSpace, n: int) -> FloatArray:
        """A scrambled Sobol design."""
        return space.design(seed_of(self.seed, 2**31), n)

    def propose(
        self, space: ParameterSpace, history: History, candidates: Candidates
    ) -> FloatArray | None:
        """What BoTorch's optimizer found, seen before or not."""
        seed = int(candidates.rng.integers(2**31))
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.device("cpu"),
        ):
            warnings.simplefilter("ignore")  # of fits that BoTorch tries again
            torch.manual_seed(seed)
            return self._propose(space, history, seed)

    def _propose(self, space: ParameterSpace, history: History, seed: int) -> FloatArray:
        sizes = [p.size for p in space.parameters]
        if not all(sizes):
            raise ValueError("expected parameters that are lists of values, got a continuous one")
        # ranks in [0, 1], or whole numbers that the model turns into 0 and 1
        top = np.maximum(np.array(sizes) - 1, 1) if self.encoding == "ordinal" else np.ones(1)
        X = torch.from_numpy(history.X_nd / top)
        Y = torch.from_numpy(-history.Y_nm)  # BoTorch maximizes
        model = self._model(X, Y, sizes)
        sampler = SobolQMCNormalSampler(torch.Size([NUM_DRAWS]), seed=seed)
        acquisition: Any
        if self.acquisition == "nehvi":
            acquisition = qLogNoisyExpectedHypervolumeImprovement(
                model, (-history.ref_point_m).tolist(), X, sampler=sampler, prune_baseline=True
            )
        else:
            acquisition = qLogNParEGO(model, X, sampler=sampler, prune_baseline=True)
        values = {
            i: [float(v) for v in np.arange(size) / np.broadcast_to(top, len(sizes))[i]]
            for i, size in enumerate(sizes)
        }
        bounds = torch.tensor([[v[0] for v in values.values()], [v[-1] for v in values.values()]])
        is_ordinal = self.encoding == "ordinal"
        found, _ = optimize_acqf_mixed_alternating(
            acquisition,
            bounds.to(X),
            discrete_dims=values if is_ordinal else None,
            cat_dims=None if is_ordinal else values,
            q=1,
            num_restarts=_NUM_RESTARTS,
            raw_samples=_RAW_SAMPLES,
        )
        point: FloatArray = np.round(found[0].detach().numpy() * top)
        return point

    def _model(self, X: Tensor, Y: Tensor, sizes: Sequence[int]) -> ModelListGP:
        def single(j: int) -> SingleTaskGP:
            transform = None
            if self.encoding == "one-hot":
                transform = NumericToCategoricalEncoding(
                    dim=len(sizes),
                    categorical_features=dict(enumerate(sizes)),
                    encoders={
                        i: functools.partial(one_hot, num_classes=size)
                        for i, size in enumerate(sizes)
                    },
                )
            return SingleTaskGP(X, Y[:, j : j + 1], input_transform=transform)

        model = ModelListGP(*[single(j) for j in range(Y.shape[1])])
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        return model
