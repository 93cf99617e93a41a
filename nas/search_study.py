"""The search: one study over a space's choices, judged by the supernet, the profile and closed forms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields

from nas.constraints import check_constraints
from nas.deploy.device_profile import DeviceProfile
from nas.evaluation import Evaluator, differences, reference_point
from nas.fidelity import Growing, GrowingSearch
from nas.files import PathLike
from nas.initial_design import initial_design
from nas.nested_evaluation import NestedEvaluator
from nas.objectives import Objective
from nas.searchers import DEFAULT, model_samplers
from nas.study import StudyResult, run_study
from nas.training import TrainedSupernet
from search_spaces import SearchSpace

DEFAULT_OBJECTIVES = ("perplexity", "decode_ms[batch=1,context=128]", "weight_bytes")
DEFAULT_SAMPLER = DEFAULT
FIDELITIES = ("full", "growing")
_MODEL_BASED = ("gp", *model_samplers())
_CHOICES = tuple(f.name for f in fields(SearchSpace) if f.init and f.name not in ("name", "family"))


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
    fidelity: str | Growing = "full",
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
        fidelity: ``full``: every trial measures on all tokens. ``growing`` (or a :class:`nas.fidelity.Growing`): a trial measures a new
            architecture on a sixteenth of them, or one that is promising on more, at last on all; the front holds full evaluations alone.
            Several times the trials then cost the same tokens.
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
        ValueError: if an objective, a constraint, the sampler, the profile or the stored study does not fit, or the
            space is no part of the supernet's.
    """
    _check_kinds(space, objectives, supernet, device)
    _check_part(space, supernet.space)
    goals = tuple(o if isinstance(o, Objective) else Objective.parse(o) for o in objectives)
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
    growing = parse_fidelity(fidelity)
    if growing is not None and Objective("perplexity") not in goals:
        raise ValueError(
            f"expected perplexity among the objectives of a search with growing fidelity, got {[str(o) for o in goals]}; "
            "no other depends on tokens: leave fidelity at 'full'"
        )
    evaluator = Evaluator(supernet, device, goals, num_tokens)
    context = space.family.context_length
    if evaluator.fidelity < num_tokens // context * context:
        warnings.warn(
            f"expected {num_tokens} held-out tokens, got {evaluator.fidelity}: {supernet.corpus.name} has no more; "
            "perplexities are measured on these",
            stacklevel=2,
        )
    ref_point, ideal = reference_point(evaluator)
    fingerprint = {
        "space": space.fingerprint,
        "objectives": [str(o) for o in goals],
        "supernet": supernet.info["sha256"],
        "corpus": supernet.corpus.fingerprint,
        "num_tokens": evaluator.fidelity,
        "profile": device.fingerprint,  # not ref_point: its last digits depend on the number of threads
    }
    judge: Evaluator | GrowingSearch = evaluator
    if growing is not None:
        fingerprint["fidelity"] = growing.to_json()
        nested = NestedEvaluator(evaluator)
        judge = GrowingSearch(nested, goals, ref_point, bounds, growing)
    warm_start = [space.to_params(a) for a in initial_design(space)]
    return run_study(
        name,
        space,
        judge,
        goals,
        sampler=sampler,
        n_trials=n_trials,
        seed=seed,
        storage=storage,
        workers=workers,
        known=evaluator.known(space),
        ref_point=ref_point,
        ideal=ideal,
        warm_start=warm_start if sampler in _MODEL_BASED else (),
        constraints=bounds,
        fingerprint=fingerprint,
        progress=progress,
    )


def parse_fidelity(fidelity: str | Growing) -> Growing | None:
    """How fidelity grows; None where it does not.

    Raises:
        ValueError: if it is neither ``full``, ``growing`` nor a :class:`nas.fidelity.Growing`.
    """
    if isinstance(fidelity, Growing):
        return fidelity
    if fidelity not in FIDELITIES:
        raise ValueError(f"expected fidelity in {', '.join(FIDELITIES)}, got {fidelity!r}")
    return Growing() if fidelity == "growing" else None


def _check_kinds(space: object, objectives: object, supernet: object, device: object) -> None:
    """Refuse arguments of another kind: each would fail far from here, about something else."""
    for name, value, kind, remedy in (
        ("space", space, SearchSpace, "pass search_spaces.preset('tiny')"),
        ("supernet", supernet, TrainedSupernet, "pass what nas.train_supernet(space) returned"),
        ("device", device, DeviceProfile, "pass what nas.profile(supernet, device='cpu') returned"),
    ):
        if not isinstance(value, kind):
            raise ValueError(
                f"expected {name} to be a {kind.__name__}, got {value!r:.80}; {remedy}"
            )
    if isinstance(objectives, str) or not isinstance(objectives, Sequence):
        raise ValueError(
            f"expected a list of two to four objectives, got {objectives!r:.80}; pass {list(DEFAULT_OBJECTIVES)}"
        )


def _check_part(space: SearchSpace, whole: SearchSpace) -> None:
    """Refuse a space whose architectures are not all subnets of the supernet's."""
    if differing := differences(whole.family, space.family):
        raise ValueError(
            f"expected a space of the supernet's family, got another: {differing}; train a supernet of this space"
        )
    for choice in _CHOICES:
        offered = getattr(whole, choice)
        if foreign := [value for value in getattr(space, choice) if value not in offered]:
            raise ValueError(
                f"expected {choice} of the supernet ({', '.join(map(str, offered))}), got {', '.join(map(str, foreign))}; "
                "leave them out, or train a supernet of this space"
            )
