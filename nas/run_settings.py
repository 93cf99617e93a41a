"""What ``nas search`` was asked to do: its settings, their check, and the ``run.json`` that keeps them in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nas.constraints import parse_constraints
from nas.deploy.energy import check_energy
from nas.deploy.kernels_in_use import read_kernels
from nas.deploy.profile import MIN_ARCHITECTURES
from nas.deploy.runtime import check_device
from nas.deploy.workloads import check_objective
from nas.files import write_json_atomic
from nas.model.storage import supernet_info
from nas.objectives import Objective
from nas.search_study import DEFAULT_OBJECTIVES, DEFAULT_SAMPLER, parse_fidelity
from nas.searchers import samplers
from nas.storage import open_storage
from nas.storage_url import shown
from nas.training import check_options
from search_spaces import preset

# A finished folder may go on with more trials, winners or workers; everything else decides what its numbers mean.
_MAY_CHANGE = ("out", "trials", "workers", "max_winners", "compile", "random_seeds")

_GROWN = "fidelity"  # absent from the settings where it is full, as in the folders of runs from before there was a choice
_GIVEN = ("supernet", "kernels")  # files; absent from the settings where none was given


@dataclass(frozen=True)
class SearchRun:
    """One run of ``nas search``.

    Args:
        space: preset to search (``nas spaces`` lists them).
        corpus: ``stdlib``, a file, a folder, a parquet file, or ``hf:<dataset>[:config]``.
        device: ``cpu`` or ``cuda``.
        trials: architectures the search evaluates.
        sampler: auto, random, nsga2, nsga3, tpe, gp, qlognehvi or qlognparego.
        seed: of profile, search and random search.
        objectives: two to four; latency names its workload: ``decode_ms[batch=1,context=128]``.
        constraints: largest allowed values of objectives, each like ``"weight_bytes<=4e6"``.
        out: folder of the run; the same command goes on where it stopped.
        workers: processes of this machine on the study.
        storage: of the study: ``postgresql://user@host/database``, ``grpc://host:port`` of ``nas serve``, another Optuna
            storage URL, or a journal file; by default a journal file in ``out``.
        threads: of one operator on the CPU; by default whichever of one and all cores is faster.
        supernet: JSON of a supernet of this space and text, trained before (``nas train``); by default the
            embedded one, or one that is trained in ``out``.
        train_steps: training steps of a supernet that is not the embedded one.
        from_scratch: train without the embedded supernet as the start.
        profile_architectures: models measured for the latency surrogate.
        kernels: table of ``nas tune`` that sparse products and the latency surrogate go by; by default the
            one that ships for this processor, if any.
        perplexity_tokens: held-out tokens a perplexity is measured on.
        fidelity: full: every trial measures on all of them. growing: most trials measure a new architecture on a sixteenth, the others
            a promising one on more, at last on all; several times the trials then cost the same tokens.
        random_seeds: random searches of as many trials, each at full fidelity, for comparison.
        max_winners: most models to build and verify.
        compile: whether the dense baseline may use ``torch.compile``.
    """

    space: str = "tiny"
    corpus: str = "stdlib"
    device: str = "cpu"
    trials: int = 140
    sampler: str = DEFAULT_SAMPLER
    seed: int = 0
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    constraints: tuple[str, ...] = ()
    out: Path = Path("runs/default")
    workers: int = 1
    storage: str | None = None
    threads: int | None = None
    supernet: Path | None = None
    train_steps: int = 200
    from_scratch: bool = False
    profile_architectures: int = 64
    kernels: Path | None = None
    perplexity_tokens: int = 8192
    fidelity: str = "full"
    random_seeds: int = 5
    max_winners: int = 16
    compile: bool = True

    def check(self) -> None:
        """Refuse wrong values before any work is done.

        Raises:
            ValueError: naming the field, what was expected and the remedy.
        """
        space = preset(self.space)
        check_device(self.device)
        goals = [Objective.parse(o) for o in self.objectives]
        if not 2 <= len(goals) <= 4 or len(set(goals)) != len(goals):
            raise ValueError(
                f"expected two to four different objectives, got {list(self.objectives)}"
            )
        for goal in goals:
            check_energy(goal, self.device)
            check_objective(space, goal, self.device)
        check_options(self, space)
        if self.kernels is not None:
            read_kernels(self.kernels, self.device)
        if foreign := sorted(parse_constraints(self.constraints).keys() - {str(o) for o in goals}):
            raise ValueError(
                f"expected constraints on the objectives {[str(o) for o in goals]}, got {foreign}; "
                "add them to --objectives"
            )
        if parse_fidelity(self.fidelity) and Objective("perplexity") not in goals:
            raise ValueError(
                f"expected perplexity among the objectives of a search with growing fidelity, got {list(self.objectives)}; "
                "add it, or leave out --fidelity"
            )
        if self.sampler not in samplers():
            from nas.searchers import make_sampler

            make_sampler(self.sampler, seed=0)  # refuses and proposes near names
        if self.storage is not None:  # now, and not after the profile
            open_storage(self.storage)
        least = {"trials": 1, "workers": 1, "train_steps": 1, "threads": 1}
        least["profile_architectures"] = MIN_ARCHITECTURES
        least |= {"perplexity_tokens": 1, "random_seeds": 0, "max_winners": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"expected {name} of {low} or more, got {value}; raise it")

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values, without ``out``; objectives and constraints in their one spelling.

        A supernet or a kernel table that was asked for is named by its hash: it is the same one wherever it lies.
        """
        values = asdict(self)
        values.pop("out")
        if self.storage is not None:
            values["storage"] = shown(self.storage)
        if self.supernet is None:
            values.pop(
                "supernet"
            )  # absent as in the folders of runs from before there was a choice
        else:
            values["supernet"] = supernet_info(self.supernet)["sha256"]
        if self.fidelity == "full":
            values.pop(_GROWN)
        values.pop("kernels")
        if self.kernels is not None:
            values["kernels"] = read_kernels(self.kernels, self.device).fingerprint
        values["objectives"] = [str(Objective.parse(o)) for o in self.objectives]
        values["constraints"] = parse_constraints(self.constraints)
        stored: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return stored


def write_run(config: SearchRun) -> None:
    """Claim ``config.out``: write ``run.json``, with where a supernet or a kernel table that was asked for lies."""
    given = {name: getattr(config, name) for name in _GIVEN}
    where = {f"{name}_path": str(path.resolve()) for name, path in given.items() if path}
    write_json_atomic(config.out / "run.json", config.to_json() | where)


def read_run(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a run: the fields of its :class:`SearchRun`, without ``out``.

    A run that was given a supernet has its hash as ``supernet``, and ``supernet_path``; so with kernels.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = folder / "run.json"
    expected = {field.name for field in fields(SearchRun)} - {"out", _GROWN, *_GIVEN}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"expected a run of `nas search` in {folder}, found no run.json; run: nas search --out {folder}"
        ) from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(
            f"expected {path} to be JSON, got {error}; use another --out, or delete the folder"
        ) from error
    is_run = isinstance(stored, dict)
    for name in _GIVEN if is_run else ():
        expected |= {name, f"{name}_path"} if name in stored else set()
    expected |= {_GROWN} & set(stored) if is_run else set()
    is_run = is_run and set(stored) == expected
    if not is_run or not _is_count(stored["trials"]):
        raise ValueError(
            f"expected the fields of a run in {path}, got {str(stored)[:80]}; use another --out, or delete the folder"
        )
    found: dict[str, Any] = stored
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_same_run(config: SearchRun) -> None:
    """Refuse a folder that holds another run, or this one with more trials.

    Raises:
        ValueError: naming the settings that differ.
    """
    mine = config.to_json()
    if (config.out / "run.json").exists():
        stored = read_run(config.out)
        absent = (_GROWN, *_GIVEN)
        names = [*mine, *(name for name in absent if name in stored and name not in mine)]
        changed = [k for k in names if k not in _MAY_CHANGE and stored.get(k) != mine.get(k)]
        if changed:
            old = {k: stored.get(k) for k in changed}
            new = {k: mine.get(k) for k in changed}
            raise ValueError(
                f"expected the run that {config.out} holds ({old}), got {new}; use another --out, or delete the folder"
            )
        if stored["trials"] > mine["trials"]:
            raise ValueError(
                f"expected trials of {stored['trials']} or more (the study in {config.out} has them), got {mine['trials']}; "
                "use another --out"
            )
