"""The judge of a search whose fidelity grows: perplexity on parts of the held-out text, each read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nas.evaluation import Evaluator, exact_claim
from nas.fidelity import LossRecord
from nas.objectives import Evaluation
from search_spaces import Architecture

PERPLEXITY = "perplexity"
MAX_PARTS = 32


@dataclass
class NestedEvaluator:
    """Measures perplexity on parts of the evaluator's held-out windows, everything else once.

    A part is a run of neighboring windows, at most 32 of them make the text. Losses add up: on all parts the perplexity is the
    evaluator's own, but for the rounding of sums.

    Args:
        evaluator: whose objectives and tokens these are.
    """

    evaluator: Evaluator

    @cached_property
    def _windows(self) -> list[list[int]]:
        """Window indices of each part."""
        count = len(self.evaluator.supernet.validation(self.evaluator.num_tokens))
        parts = np.array_split(np.arange(count), min(count, MAX_PARTS))
        return [part.tolist() for part in parts]

    @cached_property
    def part_tokens(self) -> tuple[int, ...]:
        """Predicted tokens of each part."""
        context = self.evaluator.supernet.space.family.context_length
        return tuple(len(windows) * context for windows in self._windows)

    def measure(
        self, architecture: Architecture, parts: Sequence[int], earlier: Evaluation | None = None
    ) -> Evaluation:
        """The evaluation on some parts.

        Args:
            architecture: to score.
            parts: indices of the text's parts.
            earlier: an evaluation of the same architecture: the parts it has read are not read again, and count.

        Returns:
            Perplexity *measured on these tokens*, and all other objectives; its provenance keeps the sums of log-losses.

        Raises:
            ValueError: if there is no such part, or the losses are not finite.
        """
        if not parts or not {*parts} <= {*range(len(self.part_tokens))}:
            raise ValueError(
                f"expected parts between 0 and {len(self.part_tokens) - 1}, got {list(parts)}"
            )
        record = LossRecord.of(earlier)
        windows = self.evaluator.supernet.validation(self.evaluator.num_tokens)
        missing = record.lacks(parts)
        sums = self.evaluator.supernet.log_losses(
            architecture, [windows[self._windows[part]] for part in missing]
        )
        tokens = [self.part_tokens[part] for part in missing]
        record = record.extended(dict(zip(missing, zip(tokens, sums, strict=True), strict=True)))
        perplexity = record.perplexity
        if earlier is None:
            found = self.evaluator(architecture, perplexity)
        else:  # sizes, latency and memory stay what they are
            values = dict(earlier.values) | {PERPLEXITY: perplexity}
            claim = exact_claim(perplexity, "supernet")
            claims = dict(earlier.provenance["claims"]) | {PERPLEXITY: claim}
            provenance = dict(earlier.provenance) | {"claims": claims}
            found = replace(earlier, values=values, provenance=provenance)
        provenance = dict(found.provenance) | record.to_provenance()
        return replace(found, fidelity=record.num_tokens, provenance=provenance)
