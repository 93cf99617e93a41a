"""Runs of the arms, a line on the disk for each told trial; what a killed run goes on from.

m objectives.
"""

from __future__ import annotations

import functools
import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

import nas.searchers
from experiments.botorch_reference.stock import StockSampler
from experiments.results import digest
from experiments.searchers.judged import JudgedProblem
from nas.files import append_jsonl, read_jsonl
from nas.searchers import make_sampler
from nas.searchers.indexed import INDEX_KEY
from nas.searchers.parameters import ParameterSpace

Record = dict[str, Any]
Notify = Callable[[Record], None]
# What a proposal of qlognehvi and qlognparego is made by, in nas/searchers.
_OURS = (
    *("bayesian.py", "bayesian_sampler.py", "boxes.py", "candidates.py", "gaussian_process.py"),
    *("map_fit.py", "model_fits.py", "rungs.py", "staircases.py"),
)


@dataclass(frozen=True)
class Arm:
    """One of what is compared.

    Args:
        name: in tables and files.
        make: seed to sampler.
        sources: files whose content decides the proposals.
    """

    name: str
    make: Callable[[int], BaseSampler] = field(repr=False)
    sources: tuple[Path, ...] = field(repr=False)

    @functools.cached_property
    def code(self) -> str:
        """12 hexadecimal digits of the sources, read once a process: a file edited later is not what runs."""
        found = hashlib.sha256()
        for path in self.sources:
            found.update(path.read_bytes())
        return found.hexdigest()[:12]


def _stock(name: str, acquisition: Any, encoding: Any) -> Arm:
    file = Path(__file__).with_name("stock.py")
    return Arm(
        name,
        lambda seed: StockSampler(seed=seed, acquisition=acquisition, encoding=encoding),
        (file,),
    )


def _ours(name: str) -> Arm:
    folder = Path(nas.searchers.__file__).parent
    return Arm(name, lambda seed: make_sampler(name, seed=seed), tuple(folder / f for f in _OURS))


ARMS = (
    _ours("qlognehvi"),
    _ours("qlognparego"),
    _stock("stock qlognehvi, ordinal", "nehvi", "ordinal"),
    _stock("stock qlognparego, ordinal", "nparego", "ordinal"),
    _stock("stock qlognehvi, one-hot", "nehvi", "one-hot"),
    _stock("stock qlognparego, one-hot", "nparego", "one-hot"),
)


def path_of(folder: Path, arm: Arm, problem: JudgedProblem, seed: int) -> Path:
    """File of a run's told trials."""
    name = arm.name.replace(",", "").replace(" ", "-")
    setting = digest({"arm": arm.name, "code": arm.code, "problem": problem.version})
    return folder / f"{name}-{seed}-{setting[:8]}.jsonl"


def recorded(path: Path) -> list[Record]:
    """Told trials of a run; none if it has not begun."""
    return read_jsonl(path) if path.exists() else []


def race(
    arm: Arm, problem: JudgedProblem, seed: int, trials: int, path: Path, notify: Notify
) -> list[Record]:
    """Go on with a run until it has so many told trials.

    Args:
        arm: who proposes.
        problem: what to search; true values are told.
        seed: of the sampler.
        trials: told trials.
        path: file of the told trials; made if absent.
        notify: called with each new record.

    Returns:
        The records: ``point`` (indices of the values), ``values`` and ``seconds`` of ask and tell, processor time.
    """
    records = recorded(path)[:trials]
    study = study_of(problem, arm.make(seed), records)
    space = ParameterSpace(problem.distributions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(len(records), trials):
            begin = time.process_time()
            trial = study.ask(dict(problem.distributions))
            asked = time.process_time() - begin
            values = problem.evaluate(trial.params).tolist()
            begin = time.process_time()
            study.tell(trial, values)
            record = {
                "index": index,
                "point": [int(x) for x in space.point(trial.params)],
                "values": values,
                "seconds": round(asked + time.process_time() - begin, 4),
            }
            append_jsonl(path, record)
            records.append(record)
            notify(record)
    return records


def study_of(
    problem: JudgedProblem, sampler: BaseSampler, records: Sequence[Record]
) -> optuna.Study:
    """A study that has been told these trials."""
    space = ParameterSpace(problem.distributions)
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    for record in records:
        params = space.params(np.array(record["point"], dtype=np.float64))
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=params,
                distributions=dict(problem.distributions),
                values=record["values"],
                system_attrs={INDEX_KEY: record["index"]},
            )
        )
    return study


def one_suggestion(arm: Arm, problem: JudgedProblem, records: Sequence[Record], seed: int) -> float:
    """Processor seconds of one proposal after these trials, of a sampler that has just started."""
    study = study_of(problem, arm.make(seed), records)
    begin = time.process_time()
    study.ask(dict(problem.distributions))
    return time.process_time() - begin
