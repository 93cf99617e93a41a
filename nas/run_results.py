"""What a run of ``nas search`` found, as the JSON of its ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.deploy.device_profile import DeviceProfile
from nas.objectives import Objective
from nas.run_settings import SearchRun
from nas.study import StudyResult
from nas.training import TrainedSupernet
from search_spaces import Workload


def run_results(
    config: SearchRun,
    *,
    supernet: TrainedSupernet,
    device: DeviceProfile,
    study: StudyResult,
    randoms: Sequence[StudyResult],
    verification: Mapping[str, Any],
    wall_s: Mapping[str, float],
) -> dict[str, Any]:
    """Baseline and winners as verified, the trials of the search, and where all of it comes from.

    Args:
        config: what was asked for.
        supernet: that was searched.
        device: the profile.
        study: the search.
        randoms: random searches of as many trials, each at full fidelity.
        verification: results of :func:`nas.verify`.
        wall_s: stage to the seconds it took.

    Returns:
        Results of schema 1.
    """
    goals = [Objective.parse(o) for o in config.objectives]
    results = dict(verification)
    results["provenance"] = verification["provenance"] | {
        "seed": config.seed,
        "corpus": supernet.corpus.name,
        "space": config.space,
        "cardinality": str(supernet.space.cardinality),
        "sampler": config.sampler,
        "trials": len(study.evaluations),
        "threads": device.runtime.threads,
        "dtype": device.runtime.dtype,
        "wall_s": dict(wall_s),
        "supernet": {"sha256": supernet.info["sha256"], "tokens": supernet.info.get("tokens")},
    }
    names = [str(o) for o in goals]
    ideal = dict(zip(names, study.ideal, strict=True)) if study.ideal is not None else {}
    results |= {
        "constraints": dict(study.constraints),
        "ref_point": dict(zip(names, study.ref_point, strict=True)),
        "ideal": ideal,
        "surrogate": {
            _metric(w): scores | {"interval_level": 0.9}
            for w, scores in zip(device.surrogates, device.quality.values(), strict=True)
        }
        | {
            str(Objective("energy_j", w)): scores | {"interval_level": 0.9}
            for w, scores in zip(device.energy, device.energy_quality.values(), strict=True)
        },
        "hypervolume": study.hypervolume_trace[-1],
        "hypervolume_trace": study.hypervolume_trace,
        "trials": _trials(study),
    }
    if study.full_fidelity is not None:
        results["tokens"] = {"paid": sum(study.tokens), "all_full": study.tokens_all_full}
    if randoms:
        results["random_search"] = _random_results(randoms)
    return results


def _trials(study: StudyResult) -> list[dict[str, Any]]:
    """Architecture and values of every trial; where fidelity grew its tokens too, and predicted full perplexities of those on few."""
    rows = []
    for i, evaluation in enumerate(study.evaluations):
        values = dict(evaluation.values)
        row = {"number": i, "architecture": evaluation.architecture.to_json(), "values": values}
        if study.full_fidelity is not None:
            row["fidelity"] = evaluation.fidelity
            if evaluation.fidelity != study.full_fidelity:
                values["perplexity"] = evaluation.provenance["claims"]["perplexity"]["mean"]
        rows.append(row)
    return rows


def _metric(workload: Workload) -> str:
    return f"{workload.phase}_ms[batch={workload.batch},context={workload.context}]"


def _random_results(studies: Sequence[StudyResult]) -> dict[str, Any]:
    traces = np.array([s.hypervolume_trace for s in studies])
    finals = traces[:, -1]
    best = studies[int(np.argsort(finals)[len(finals) // 2])]
    return {
        "hypervolume": float(finals.mean()),
        "std": float(finals.std(ddof=1)) if len(finals) > 1 else 0.0,
        "hypervolumes": finals.tolist(),
        "trace_mean": traces.mean(axis=0).tolist(),
        "trace_std": (traces.std(axis=0, ddof=1) if len(finals) > 1 else 0 * traces[0]).tolist(),
        "front": [
            {"architecture": e.architecture.to_json(), "values": dict(e.values)}
            for e in best.front.evaluations
        ],
    }
