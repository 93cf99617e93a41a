"""The judge of a search: what one architecture scores on every objective.

Perplexity is measured on the supernet, sizes and FLOPs are computed exactly, peak memory is measured
on the extracted model, and latency and energy are the means of the profile's surrogates, marked as such:
they become measured values only in verification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.deploy.device_profile import DeviceProfile
from nas.deploy.energy import check_energy
from nas.deploy.measure import measure_peak_memory
from nas.deploy.runtime import device_name
from nas.model import extract
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.training import TrainedSupernet
from search_spaces import Architecture, Family, SearchSpace, costs, decode_flops

KnownFn = Callable[[list[dict[str, Any]]], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
# Half again as much is as bad as a winner may be: with twice, a search spends itself on tiny models nobody deploys.
WORST_PERPLEXITY = 1.5
_COUNTED = ("params", "nonzeros", "weight_bytes", "flops")
_PREDICTED = ("decode_ms", "prefill_ms", "energy_j")


@dataclass
class Evaluator:
    """Scores architectures on the objectives of a search.

    Args:
        supernet: gives the perplexity.
        profile: gives latency and energy, and the dtype whose bytes count.
        objectives: what to score.
        num_tokens: held-out tokens the perplexity is to be measured on; :attr:`fidelity` is how many it is.

    Raises:
        ValueError: if an objective cannot be scored on this device, its workload was not profiled or was
            with models of another family, or ``num_tokens`` is below 1.
    """

    supernet: TrainedSupernet
    profile: DeviceProfile
    objectives: tuple[Objective, ...]
    num_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ValueError(
                f"expected num_tokens of 1 or more, got {self.num_tokens}; 8192 is the default"
            )
        family = self.supernet.space.family
        for objective in self.objectives:
            if objective.metric == "energy_j" and objective.workload not in self.profile.energy:
                check_energy(objective, self.profile.runtime.device)
            if objective.metric == "peak_memory_bytes":
                self._check_here(objective)
            if objective.metric not in _PREDICTED or objective.workload is None:
                continue
            surrogate = self.profile.surrogate(objective)  # refuses one that was not profiled
            differing = differences(family, surrogate.family)
            if differing:  # its features would be counted for other models
                raise ValueError(
                    f"expected a profile of models of the supernet's family, got another for {objective}: {differing}; "
                    "profile this supernet: nas.profile(supernet)"
                )

    def _check_here(self, objective: Objective) -> None:
        """Refuse to measure here and file it under another device."""
        here, there = device_name(self.profile.runtime.device), self.profile.device_name
        if there not in (None, here):
            raise ValueError(
                f"expected a profile of this device ({here}), got one of {there}: {objective} is measured during the search; "
                "leave it out, or profile this device"
            )

    @cached_property
    def fidelity(self) -> int:
        """Held-out tokens a perplexity is measured on: whole windows of the text, as many as it holds."""
        windows, width = self.supernet.validation(self.num_tokens).shape
        return windows * (width - 1)

    def __call__(self, architecture: Architecture, perplexity: float | None = None) -> Evaluation:
        """Evaluation of one architecture; deterministic given the supernet and the profile's records.

        Args:
            architecture: to score.
            perplexity: of the supernet, where it is known; measured by default.
        """
        claims = {str(o): self._score(o, architecture, perplexity) for o in self.objectives}
        return Evaluation(
            architecture,
            {name: claim["mean"] for name, claim in claims.items()},
            fidelity=self.fidelity,
            provenance={
                "claims": claims,
                "runtime": self.profile.runtime.to_json(),
                "device": self.profile.device_name,
            },
        )

    def _score(
        self, objective: Objective, architecture: Architecture, perplexity: float | None
    ) -> dict[str, Any]:
        """A claim that verification can check: value, interval and source."""
        if objective.metric == "perplexity":
            if perplexity is None:
                perplexity = self.supernet.perplexities([architecture], self.num_tokens)[0]
            return exact_claim(perplexity, "supernet")
        if objective.metric in _COUNTED:
            value = counted(objective, architecture, self.supernet.space, self.profile)
            return exact_claim(value, "computed")
        if objective.metric == "peak_memory_bytes":
            assert objective.workload is not None
            runtime = self.profile.runtime
            model = extract(self.supernet.model, architecture, dtype=runtime.torch_dtype)
            model = model.to(runtime.device)  # the supernet may be on another
            value = measure_peak_memory(model, objective.workload, runtime)
            return exact_claim(value, "measured")
        assert objective.workload is not None
        prediction = self.profile.surrogate(objective).predict([architecture])
        return prediction.to_json(0) | {"source": "surrogate"}

    def known(self, space: SearchSpace) -> dict[int, KnownFn]:
        """Objectives a model-based sampler need not learn: index to (mean, standard deviation) of a list of params.

        Computed ones have a standard deviation of 0; latency carries the surrogate's.

        Args:
            space: that is searched, whose params they are: the supernet's or a part of it.
        """
        found: dict[int, KnownFn] = {}
        for index, objective in enumerate(self.objectives):
            if objective.metric in _COUNTED:
                found[index] = _Counted(objective, space, self.profile)
            elif objective.metric in _PREDICTED and objective.workload is not None:
                found[index] = _Predicted(objective, space, self.profile)
        return found


def claim_again(front: ParetoFront, profile: DeviceProfile) -> ParetoFront:
    """The same front, its latencies claimed anew from a profile with later records; what the search saw stays its value.

    A device is not the same an hour later, and of many predictions a search picks the hopeful ones.
    A round of the profile taken after the search widens and moves the intervals by what has changed.

    Args:
        front: of a search.
        profile: of the same device and runtime.
    """
    found = []
    for evaluation in front.evaluations:
        claims = dict(evaluation.provenance["claims"])
        for objective in front.objectives:
            if objective.metric in _PREDICTED and objective.workload is not None:
                prediction = profile.surrogate(objective).predict([evaluation.architecture])
                claims[str(objective)] = prediction.to_json(0) | {"source": "surrogate"}
        provenance = dict(evaluation.provenance) | {"claims": claims}
        found.append(replace(evaluation, provenance=provenance))
    return ParetoFront(found, front.objectives, front.ref_point)


def differences(expected: Family, got: Family) -> str:
    """Fields in which two families differ, each with both values; empty if they are equal."""
    mine, other = expected.to_json(), got.to_json()
    return ", ".join(f"{k} {mine[k]} (got {other[k]})" for k in mine if mine[k] != other[k])


def exact_claim(value: int | float, source: str) -> dict[str, Any]:
    """A claim without an interval."""
    return {"mean": value, "low": value, "high": value, "source": source}


def counted(
    objective: Objective, architecture: Architecture, space: SearchSpace, profile: DeviceProfile
) -> int:
    """A metric in closed form; ``flops`` are those of one decoded token at the objective's context, whatever its batch."""
    if objective.metric == "flops":
        assert objective.workload is not None
        return decode_flops(architecture, space.family, objective.workload.context)
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
    objective: Objective
    space: SearchSpace
    profile: DeviceProfile

    def __call__(
        self, params: Sequence[Mapping[str, Any]]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        prediction = self.profile.surrogate(self.objective).predict(
            [self.space.from_params(p) for p in params]
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
