"""Materialization: turn the architectures of a front into standalone models that store their sparse weights sparse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.tokenizer import save_tokenizer
from nas.deploy.runtime import Runtime
from nas.files import PathLike
from nas.model import GPT, MaskCache, extract, save_gpt
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.training import TrainedSupernet
from search_spaces import Architecture


@dataclass(frozen=True)
class Winner:
    """One materialized architecture and what the search claimed of it.

    Args:
        evaluation: the search's, with its claims.
        model: the standalone model, on the CPU, in the dtype the claims are for.
        folder: where it is stored; None when it is not.
    """

    evaluation: Evaluation
    model: GPT
    folder: Path | None

    @property
    def architecture(self) -> Architecture:
        """What was built."""
        return self.evaluation.architecture

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        """Objective to its predicted mean, low, high and source."""
        claims: dict[str, dict[str, Any]] = self.evaluation.provenance["claims"]
        return claims


@dataclass(frozen=True)
class Winners:
    """Materialized members of a front, with what verification needs to judge them.

    Args:
        models: one per architecture.
        supernet: they were extracted from.
        objectives: of the search.
        runtime: the claims are for.
        num_tokens: held-out tokens the claimed perplexities were measured on.
        device_name: of the processor the claims are for; None where they do not say.
    """

    models: tuple[Winner, ...]
    supernet: TrainedSupernet
    objectives: tuple[Objective, ...]
    runtime: Runtime
    num_tokens: int
    device_name: str | None = None

    def __iter__(self) -> Iterator[Winner]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, index: int) -> Winner:
        return self.models[index]


def materialize(
    front: ParetoFront,
    supernet: TrainedSupernet,
    *,
    max_winners: int = 16,
    out: PathLike | None = None,
) -> Winners:
    """Extract the members of a front into standalone models.

    Args:
        front: of a search.
        supernet: it was searched with.
        max_winners: most models to build; of a larger front, those that together span the most
            hypervolume.
        out: folder that receives one ``winners/<key>/model.json`` (and safetensors) each; None
            stores nothing.

    Returns:
        The winners, fastest claim first where latency is an objective.

    Raises:
        ValueError: if the front is empty or does not come from a search of this project, or
            ``max_winners`` is below 1.
    """
    if not isinstance(front, ParetoFront):
        raise ValueError(
            f"expected the front of a search, got {type(front).__name__}; pass study.front"
        )
    if not isinstance(supernet, TrainedSupernet):
        raise ValueError(
            f"expected the trained supernet of the search, got {type(supernet).__name__}"
        )
    if max_winners < 1:
        raise ValueError(f"expected max_winners of 1 or more, got {max_winners}")
    if not len(front):
        raise ValueError(
            "expected a front with one architecture or more, got an empty one; run more trials"
        )
    chosen = select(front, max_winners)
    if any("claims" not in e.provenance for e in chosen):
        raise ValueError(
            "expected evaluations of nas.search, got others; they hold no claims to verify"
        )
    runtime = Runtime(**chosen[0].provenance["runtime"])
    masks = MaskCache()
    winners = []
    for evaluation in chosen:
        model = extract(
            supernet.model, evaluation.architecture, dtype=runtime.torch_dtype, masks=masks
        )
        folder = None
        if out is not None:
            folder = Path(out) / "winners" / evaluation.architecture.key
            save_gpt(
                model,
                folder / "model.json",
                {"claims": evaluation.to_json()["provenance"]["claims"]},
            )
            save_tokenizer(supernet.corpus.tokenizer, folder / "tokenizer.json")
        winners.append(Winner(evaluation, model, folder))
    num_tokens = chosen[0].fidelity or 8192
    device = chosen[0].provenance.get("device")
    return Winners(tuple(winners), supernet, front.objectives, runtime, num_tokens, device)


def select(front: ParetoFront, number: int) -> list[Evaluation]:
    """The ``number`` members that together span the most hypervolume, in order of the latency, if there is one.

    Members beyond the reference point add none and come last. See :func:`nas.pareto.select_subset`.
    """
    metrics = [o.metric for o in front.objectives]
    column = next((metrics.index(m) for m in ("decode_ms", "prefill_ms") if m in metrics), 0)
    rows = sorted(front.select(number).rows, key=lambda i: float(front.values_nm[i, column]))
    return [front.evaluations[i] for i in rows]
