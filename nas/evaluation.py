"""The judge of a search: what one architecture scores on every objective.

Perplexity is measured on the supernet, sizes and FLOPs are computed exactly, peak memory is measured
on the extracted model, and latency is the mean of the profile's surrogate, marked as such: it becomes
a measured value only in verification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.deploy.measure import measure_peak_memory
from nas.deploy.profile import DEFAULT_WORKLOAD, DeviceProfile
from nas.model import extract
from nas.objectives import Evaluation, Objective
from nas.training import TrainedSupernet
from search_spaces import Architecture, SearchSpace, Workload, costs, decode_flops

KnownFn = Callable[[list[dict[str, Any]]], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
# Half again as much is as bad as a winner may be: with twice, a search spends itself on tiny models nobody deploys.
WORST_PERPLEXITY = 1.5
_COUNTED = ("params", "nonzeros", "weight_bytes", "flops")
_PREDICTED = ("decode_ms", "prefill_ms")


@dataclass
class Evaluator:
    """Scores architectures on the objectives of a search.

    Args:
        supernet: gives the perplexity.
        profile: gives the latency, and the dtype whose bytes count.
        objectives: what to score.
        num_tokens: held-out tokens the perplexity is measured on.

    Raises:
        ValueError: if an objective cannot be scored on this device, or its workload was not profiled.
    """

    supernet: TrainedSupernet
    profile: DeviceProfile
    objectives: tuple[Objective, ...]
    num_tokens: int = 8192

    def __post_init__(self) -> None:
        for objective in self.objectives:
            if objective.metric == "energy_j":
                raise ValueError(
                    "expected objectives this device can measure, got energy_j: no energy counter is read yet; "
                    "use decode_ms, weight_bytes or flops"
                )
            if objective.metric in _PREDICTED and objective.workload is not None:
                self.profile.predict(objective.workload, [])

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Evaluation of one architecture; deterministic given the supernet and the profile's records."""
        claims = {str(o): self._score(o, architecture) for o in self.objectives}
        return Evaluation(
            architecture,
            {name: claim["mean"] for name, claim in claims.items()},
            fidelity=self.num_tokens,
            provenance={"claims": claims, "runtime": self.profile.runtime.to_json()},
        )

    def _score(self, objective: Objective, architecture: Architecture) -> dict[str, Any]:
        """A claim that verification can check: value, interval and source."""
        if objective.metric == "perplexity":
            value = self.supernet.perplexities([architecture], self.num_tokens)[0]
            return _exactly(value, "supernet")
        if objective.metric in _COUNTED:
            value = counted(objective, architecture, self.supernet.space, self.profile)
            return _exactly(value, "computed")
        if objective.metric == "peak_memory_bytes":
            dtype = self.profile.runtime.torch_dtype
            model = extract(self.supernet.model, architecture, dtype=dtype)
            workload = objective.workload or DEFAULT_WORKLOAD
            value = measure_peak_memory(model, workload, self.profile.runtime)
            return _exactly(value, "measured")
        assert objective.workload is not None
        prediction = self.profile.predict(objective.workload, [architecture])
        return prediction.to_json(0) | {"source": "surrogate"}

    def known(self) -> dict[int, KnownFn]:
        """Objectives a model-based sampler need not learn: index to (mean, standard deviation) of a list of params.

        Computed ones have a standard deviation of 0; latency carries the surrogate's.
        """
        found: dict[int, KnownFn] = {}
        for index, objective in enumerate(self.objectives):
            if objective.metric in _COUNTED:
                found[index] = _Counted(objective, self.supernet.space, self.profile)
            elif objective.metric in _PREDICTED and objective.workload is not None:
                found[index] = _Predicted(objective.workload, self.supernet.space, self.profile)
        return found


def _exactly(value: int | float, source: str) -> dict[str, Any]:
    return {"mean": value, "low": value, "high": value, "source": source}


def counted(
    objective: Objective, architecture: Architecture, space: SearchSpace, profile: DeviceProfile
) -> int:
    """A metric in closed form; ``flops`` are those of one decoded token at the default context."""
    if objective.metric == "flops":
        workload = objective.workload or DEFAULT_WORKLOAD
        return decode_flops(architecture, space.family, workload.context)
    found: int = getattr(
        costs(architecture, space.family, profile.runtime.value_bytes), objective.metric
    )
    return found


@dataclass(frozen=True)
class _Counted:
    objective: Objective
    space: SearchSpace
    profile: DeviceProfile

    def __call__(
        self, params: Sequence[Mapping[str, Any]]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        architectures = [self.space.from_params(p) for p in params]
        mean = [counted(self.objective, a, self.space, self.profile) for a in architectures]
        return np.array(mean, dtype=np.float64), np.zeros(len(mean))


@dataclass(frozen=True)
class _Predicted:
    workload: Workload
    space: SearchSpace
    profile: DeviceProfile

    def __call__(
        self, params: Sequence[Mapping[str, Any]]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        prediction = self.profile.predict(
            self.workload, [self.space.from_params(p) for p in params]
        )
        # The study is told the surrogate's mean, so the mean is what a new trial will score: the spread is what the device may add.
        return np.asarray(prediction.mean_n), np.asarray(prediction.std_n)


def reference_point(evaluator: Evaluator) -> tuple[dict[str, float], dict[str, float]]:
    """Worst values that still count, and the ideal, of every objective, from the dense largest architecture.

    A subnet counts if it costs no more than the dense model, at no more than 1.5 times its
    perplexity. The ideal is 90 % of the dense perplexity at no cost.
    """
    dense = evaluator(evaluator.supernet.space.largest)
    ref_point, ideal = {}, {}
    for objective in evaluator.objectives:
        value = dense.value(objective)
        is_perplexity = objective.metric == "perplexity"
        ref_point[str(objective)] = WORST_PERPLEXITY * value if is_perplexity else 1.001 * value
        ideal[str(objective)] = 0.9 * value if is_perplexity else 0.0
    return ref_point, ideal
