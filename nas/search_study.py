"""The search: one study over a space's choices, judged by the supernet, the profile and closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.constraints import check_constraints
from nas.deploy.profile import DeviceProfile
from nas.evaluation import Evaluator, reference_point
from nas.files import PathLike
from nas.initial_design import initial_design
from nas.objectives import Objective
from nas.study import StudyResult, run_study
from nas.training import TrainedSupernet
from search_spaces import SearchSpace

DEFAULT_OBJECTIVES = ("perplexity", "decode_ms[batch=1,context=128]", "weight_bytes")
DEFAULT_SAMPLER = "qlognehvi"
_MODEL_BASED = ("gp", "qlognehvi", "qlognparego")


def search(
    space: SearchSpace,
    objectives: Sequence[Objective | str] = DEFAULT_OBJECTIVES,
    *,
    supernet: TrainedSupernet,
    device: DeviceProfile,
    n_trials: int = 100,
    sampler: str = DEFAULT_SAMPLER,
    seed: int = 0,
    num_tokens: int = 8192,
    storage: PathLike | None = None,
    workers: int = 1,
    name: str = "search",
    constraints: Mapping[str, float] | None = None,
    progress: bool = True,
) -> StudyResult:
    """Find the architectures of a space that no other evaluated one dominates.

    Args:
        space: to search; its architectures must be subnets of the supernet.
        objectives: two to four, all minimized.
        supernet: gives the perplexity.
        device: profile that gives the latency.
        n_trials: architectures to evaluate; a study that has fewer goes on.
        sampler: one of ``nas.searchers.samplers()``.
        seed: of the sampler; the same seed and records give the same study.
        num_tokens: held-out tokens a perplexity is measured on.
        storage: journal file or Optuna storage URL of a study that can be resumed; None keeps it in
            memory.
        workers: processes on the same study; needs a storage.
        name: of the study in its storage.
        constraints: largest allowed values of some of the objectives: ``{"weight_bytes": 4e6}``.
        progress: whether to show hypervolume and the time left.

    Returns:
        The evaluations in order, their front, and the hypervolume after every trial; infeasible
        architectures are on no front and add no hypervolume.

    Raises:
        ValueError: if an objective, a constraint, the sampler or the stored study does not fit.
    """
    goals = tuple(Objective.parse(o) if isinstance(o, str) else o for o in objectives)
    if not 2 <= len(goals) <= 4 or len(set(goals)) != len(goals):
        raise ValueError(
            f"expected two to four different objectives, got {[str(o) for o in goals]}"
        )
    bounds = check_constraints(constraints or {})
    if foreign := sorted(bounds.keys() - {str(o) for o in goals}):
        raise ValueError(
            f"expected constraints on the objectives {[str(o) for o in goals]}, got {foreign}; add them to the objectives"
        )
    if n_trials < 1:
        raise ValueError(f"expected n_trials of 1 or more, got {n_trials}")
    evaluator = Evaluator(supernet, device, goals, num_tokens)
    ref_point, ideal = reference_point(evaluator)
    fingerprint = {
        "space": space.fingerprint,
        "objectives": [str(o) for o in goals],
        "supernet": supernet.info["sha256"],
        "corpus": supernet.corpus.fingerprint,
        "num_tokens": num_tokens,
        "profile": device.fingerprint,  # not ref_point: its last digits depend on the number of threads
    }
    warm_start = [space.to_params(a) for a in initial_design(space)]
    return run_study(
        name,
        space,
        evaluator,
        goals,
        sampler=sampler,
        n_trials=n_trials,
        seed=seed,
        storage=storage,
        workers=workers,
        known=evaluator.known(),
        ref_point=ref_point,
        ideal=ideal,
        warm_start=warm_start if sampler in _MODEL_BASED else (),
        constraints=bounds,
        fingerprint=fingerprint,
        progress=progress,
    )
