"""What a finished run's folder holds: its results, the supernet it searched, and its winners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.deploy.runtime import Runtime
from nas.model.storage import supernet_info
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.run_settings import read_run
from nas.training import TrainedSupernet, embedded_path, load_trained
from search_spaces import Architecture


def results_of(run: Path) -> dict[str, Any]:
    """The checked results of a finished run.

    Raises:
        ValueError: if there are none, or they are damaged, foreign or of another schema.
    """
    path = run / "results.json"
    if not path.exists():
        raise ValueError(
            f"expected a finished run in {run}, found no results.json; run: nas search --out {run}"
        )
    from nas.deploy.report.schema import load

    return load(path)


def supernet_of(run: Path, results: dict[str, Any]) -> TrainedSupernet:
    """The supernet that a run searched, its own, the embedded or a given one, with the very tokens of the run.

    Raises:
        ValueError: if it is not there any more, or the run or its results are damaged.
    """
    config = read_run(run)
    inputs = results.get("inputs") or {}
    wanted, text = inputs.get("supernet"), inputs.get("corpus")
    if not isinstance(text, str):
        raise ValueError(
            f"expected the fingerprint of the text in the results of {run}, got {text!r}; run the same nas search again"
        )
    found = {}
    given = [Path(config["supernet_path"])] if "supernet_path" in config else []
    for path in (run / "supernet.json", embedded_path(), *given):
        if path.exists():
            found[supernet_info(path)["sha256"]] = path
    if wanted not in found:
        raise ValueError(
            f"expected the supernet {wanted} that {run} was searched with, got {list(found)}; "
            f"restore it, or run: nas search --out with another folder"
        )
    return load_trained(found[wanted], config["corpus"], run, config["device"], expected=text)


def winners_of(results: dict[str, Any], key: str | None) -> ParetoFront:
    """The winners of a run, or one winner, as a front whose claims can be verified.

    Args:
        results: of a run.
        key: of one winner, or the beginning of one; None for all.

    Raises:
        ValueError: if no winner has the key, or the results lack what a verification needs.
    """
    missing = {"num_tokens", "runtime"} - set(results.get("provenance") or {})
    if missing or "ref_point" not in results:
        raise ValueError(
            f"expected the results of `nas search`, got some without ref_point or {sorted(missing)}; run it again"
        )
    goals = [Objective.parse(o["name"]) for o in results["objectives"]]
    evaluations = []
    for winner in results["winners"]:
        architecture = Architecture.from_json(winner["architecture"])
        if key is not None and not architecture.key.startswith(key):
            continue
        claims = winner["predicted"]
        try:
            Runtime(**results["provenance"]["runtime"])
            evaluation = Evaluation(
                architecture,
                winner["searched"],
                fidelity=results["provenance"]["num_tokens"],
                provenance={
                    "claims": claims,
                    "runtime": results["provenance"]["runtime"],
                    "device": results["provenance"].get("device"),
                },
            )
        except (
            KeyError,
            TypeError,
        ) as error:  # a field that is missing, unknown or of another type
            raise ValueError(
                f"expected the results of `nas search`, got a provenance or a winner that is not: {error}; run it again"
            ) from error
        evaluations.append(evaluation)
    if not evaluations:
        keys = [Architecture.from_json(w["architecture"]).key for w in results["winners"]]
        raise ValueError(f"expected the key of a winner ({', '.join(keys)}), got {key!r}")
    return ParetoFront(evaluations, goals, results["ref_point"])
