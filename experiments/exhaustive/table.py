"""The whole truth about a small space: every objective of every architecture, kept in one file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from experiments.results import digest
from nas.deploy.device_profile import DeviceProfile
from nas.evaluation import Evaluator
from nas.files import atomic_writer
from nas.objectives import Evaluation, Objective
from nas.training import TrainedSupernet
from search_spaces import Architecture, SearchSpace, Sparsity, preset

OBJECTIVES = ("perplexity", "decode_ms[batch=1,context=128]", "weight_bytes")
_CHUNK = 64


@functools.cache  # asked for by every evaluation; a space checks every layer that it allows
def small_space() -> SearchSpace:
    """1728 subnets of the tiny supernet: three layers, each with three attentions and four FFNs to choose from."""
    tiny = preset("tiny")
    return SearchSpace(
        name="tiny-1728",
        family=tiny.family,
        embed_dims=(256,),
        depths=(3,),
        num_heads=(4,),
        ffn_ratios=(4,),
        attention=(False, True),
        ffn=(False, True),
        attention_sparsities=(Sparsity.parse("dense"), Sparsity.parse("vector32:0.75")),
        ffn_sparsities=tuple(
            Sparsity.parse(t) for t in ("dense", "vector32:0.75", "unstructured:0.90")
        ),
    )


def evaluate_table(
    supernet: TrainedSupernet, device: DeviceProfile, num_tokens: int, path: Path
) -> tuple[list[Architecture], npt.NDArray[np.float64]]:
    """Objectives of every architecture of :func:`small_space`, in its order; a killed run goes on from ``path``.

    A table made with another supernet, text, number of tokens or profile is made again.

    Returns:
        n architectures and their values ``[n, 3]``.
    """
    architectures = list(small_space())
    values = np.full((len(architectures), len(OBJECTIVES)), np.nan)
    identity = digest(
        {
            "space": small_space().fingerprint,
            "supernet": supernet.info["sha256"],
            "corpus": supernet.corpus.fingerprint,
            "num_tokens": num_tokens,
            "profile": device.fingerprint,
            "objectives": OBJECTIVES,
        }
    )
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["identity"]) == identity and stored["values"].shape == values.shape:
                values = stored["values"].copy()
    evaluator = Evaluator(
        supernet, device, tuple(Objective.parse(o) for o in OBJECTIVES), num_tokens
    )
    missing = [i for i in range(len(values)) if np.isnan(values[i, 0])]
    with tqdm(
        total=len(values), initial=len(values) - len(missing), desc="table", unit="architecture"
    ) as bar:
        for chunk in _chunks(missing):
            for i in chunk:
                evaluation = evaluator(architectures[i])
                values[i] = [evaluation.value(o) for o in OBJECTIVES]
                bar.update()
            with atomic_writer(path) as file:
                np.savez(file, values=values, identity=np.array(identity))
    return architectures, values


def _chunks(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]


class Lookup:
    """An evaluator that reads the table.

    Args:
        architectures: of the table.
        values: ``[n, 3]``.
    """

    def __init__(
        self, architectures: Sequence[Architecture], values: npt.NDArray[np.float64]
    ) -> None:
        self._rows = {a: i for i, a in enumerate(architectures)}
        self._values = values

    def __call__(self, architecture: Architecture) -> Evaluation:
        """The stored objectives of an architecture."""
        row = self.row(architecture)
        return Evaluation(architecture, dict(zip(OBJECTIVES, row.tolist(), strict=True)))

    def row(self, architecture: Architecture) -> npt.NDArray[np.float64]:
        """The same as numbers in the order of ``OBJECTIVES``; a sampler asks for thousands."""
        found: npt.NDArray[np.float64] = self._values[self._rows[architecture]]
        return found
