"""What every process of a study must know, and the study in its storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.claims import NoClaim, claim_of, way_of
from nas.fidelity import GrowingSearch
from nas.files import PathLike
from nas.heartbeat import HEARTBEAT_S, Owner
from nas.journal import StudyStorageError
from nas.objectives import Evaluation
from nas.storage import open_storage, quiet
from nas.storage_url import is_url, shown
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from nas.claims import Claim

Evaluate = Callable[[Architecture], Evaluation]
FINGERPRINT, WAY = "nas:fingerprint", "nas:claims"


@dataclass(frozen=True)
class StudyPlan:
    """All that a process must know to work on a study; picklable when ``evaluate`` is.

    Args:
        name: of the study in its storage.
        storage: journal file, storage URL, or None for memory.
        identity: JSON values that say what the trials mean.
        space: whose static choices are the parameters.
        evaluate: scores an architecture; or decides at which fidelity each is scored.
        names: of the objectives.
        constraints: objective name to the largest allowed value.
        sampler: keyword arguments of ``make_sampler``, and its ``name``.
        n_trials: finished trials to reach.
        heartbeat_s: seconds between two heartbeats of a process that evaluates.
    """

    name: str
    storage: PathLike | None
    identity: Mapping[str, Any]
    space: SearchSpace
    evaluate: Evaluate | GrowingSearch
    names: tuple[str, ...]
    constraints: Mapping[str, float]
    sampler: Mapping[str, Any]
    n_trials: int
    heartbeat_s: float = HEARTBEAT_S

    def slots(self) -> dict[str, BaseDistribution]:
        """The choices of the space as Optuna's distributions."""
        from optuna.distributions import CategoricalDistribution

        return {n: CategoricalDistribution(v) for n, v in self.space.to_optuna().items()}

    def excess(self, told: Mapping[str, float]) -> dict[str, float]:
        """How far each constraint is exceeded, as a share of its bound; zero or less where it is kept."""
        bounds = self.constraints.items()
        return {name: (told[name] - bound) / (abs(bound) or 1.0) for name, bound in bounds}

    def make_sampler(self) -> optuna.samplers.BaseSampler:
        """A new sampler.

        Raises:
            ValueError: if its name or an option is unknown or wrong.
        """
        from nas.searchers import make_sampler, model_samplers

        options = dict(self.sampler)
        if options["name"] in model_samplers():
            options = {"search_space": self.slots(), "canonical": _Canonical(self.space)} | options
        with quiet():
            return make_sampler(**options)

    def claim(self, study: optuna.Study, owner: Owner) -> Claim:
        """The lock between all processes of this study, on whatever machines."""
        return claim_of(self.storage, self.name, study._storage, owner)


def open_study(
    plan: StudyPlan, owner: Owner | None = None, patience_s: float = 0.0
) -> optuna.Study:
    """Open or create the study of a plan.

    Args:
        plan: of the study.
        owner: who claims while the study is created; None where it exists already.
        patience_s: seconds to wait for a server that cannot be reached.

    Raises:
        StudyStorageError: if the storage cannot be opened, or holds something else under this name.
    """
    import optuna

    storage = open_storage(plan.storage, patience_s)
    creating: Claim = NoClaim()
    if owner is not None:  # two that create it at once would both write what it means
        creating = claim_of(plan.storage, plan.name, storage, owner)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with creating:
            study = optuna.create_study(
                storage=storage,
                study_name=plan.name,
                directions=["minimize"] * len(plan.names),
                load_if_exists=True,
            )
            _check_identity(study, plan)
    except (KeyError, AssertionError) as error:
        raise StudyStorageError(
            f"expected an Optuna study in {shown(plan.storage)}, got something else: {error!r}; use another storage"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    return study


def _check_identity(study: optuna.Study, plan: StudyPlan) -> None:
    """Refuse a study that means something else; say what it means where it is new."""
    from optuna.study import StudyDirection

    identity = dict(plan.identity)
    stored = study.user_attrs.get(FINGERPRINT)
    remedy = "use another name or output folder"
    if is_url(plan.storage):  # the output folder does not choose the study of a database
        remedy = "use another database, or another name in it"
    where = shown(plan.storage)
    is_new = stored is None and not study.get_trials(deepcopy=False)
    if not is_new and stored != identity:
        old = stored if isinstance(stored, dict) else {}
        differing = sorted(k for k in {*identity, *old} if identity.get(k) != old.get(k))
        raise StudyStorageError(
            f"expected study {plan.name!r} in {where} to be this one, but it differs in {', '.join(differing)}: "
            f"it has { {k: old.get(k) for k in differing} }, got { {k: identity.get(k) for k in differing} }; "
            f"{remedy}"
        )
    if study.directions != [StudyDirection.MINIMIZE] * len(plan.names):
        found = [direction.name.lower() for direction in study.directions]
        raise StudyStorageError(
            f"expected study {plan.name!r} in {where} to minimize {len(plan.names)} objectives, got {found}; {remedy}"
        )
    way = way_of(plan.storage)
    if study.user_attrs.get(WAY, way) != way:
        raise StudyStorageError(
            f"expected study {plan.name!r} to be reached as before (claims by {study.user_attrs[WAY]}), got {where} "
            f"(claims by {way}); processes that claim in two ways would not see each other: use the same storage for all"
        )
    if WAY not in study.user_attrs:
        study.set_user_attr(WAY, way)
    if is_new:
        study.set_user_attr(FINGERPRINT, identity)


@dataclass
class _Canonical:
    """Parameters of an architecture in the one spelling of its space: inactive choices at their first value."""

    space: SearchSpace

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        return dict(self.space.to_params(self.space.from_params(params)))
