"""The supernet of a command: the embedded one, one that was trained before, or one that is trained now."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nas.files import PathLike
from nas.training.recipe import TrainingRecipe
from nas.training.trained import (
    EMBEDDED_CORPUS,
    TrainedSupernet,
    check_supernet,
    fits_embedded,
    reuse_supernet,
    train_supernet,
)
from search_spaces import SearchSpace


class SupernetOptions(Protocol):
    """What ``nas search`` and ``nas profile`` are told about their supernet."""

    @property
    def corpus(self) -> str: ...
    @property
    def out(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def supernet(self) -> Path | None: ...
    @property
    def train_steps(self) -> int: ...
    @property
    def from_scratch(self) -> bool: ...
    @property
    def seed(self) -> int: ...


def check_options(options: SupernetOptions, space: SearchSpace) -> None:
    """Refuse a supernet that does not fit, before any work is done.

    Raises:
        ValueError: if it is missing, damaged, of another space, or asked for beside a new one.
    """
    if options.supernet is None:
        return
    check_supernet(options.supernet, space)
    if options.from_scratch:
        raise ValueError(
            f"expected --supernet or --from-scratch, got both ({options.supernet}); leave one out"
        )


def run_supernet(options: SupernetOptions, space: SearchSpace) -> TrainedSupernet:
    """Load or train the supernet of a run; both commands do the same, so that one may go on with the other's.

    Raises:
        ValueError: if the corpus, the space or a stored file does not fit.
    """
    if options.supernet is not None:
        return reuse_supernet(options.supernet, space, options.corpus, options.out, options.device)
    recipe = run_recipe(
        space,
        options.corpus,
        steps=options.train_steps,
        seed=options.seed,
        from_scratch=options.from_scratch,
    )
    return train_supernet(
        space,
        options.corpus,
        recipe=recipe,
        out=options.out,
        device=options.device,
        from_scratch=options.from_scratch,
    )


def run_recipe(
    space: SearchSpace,
    corpus: PathLike,
    *,
    steps: int = 200,
    seed: int = 0,
    from_scratch: bool = False,
) -> TrainingRecipe | None:
    """How ``nas search`` and ``nas profile`` train, the same for both, so that one may go on with the other's supernet.

    Args:
        space: to train.
        corpus: the text.
        steps: optimizer steps.
        seed: of weights, batches and subnets.
        from_scratch: whether not to start from the embedded supernet.

    Returns:
        The recipe, or None where the embedded supernet is taken as it is.
    """
    embedded = fits_embedded(space) and not from_scratch
    if embedded and str(corpus) == EMBEDDED_CORPUS:
        return None
    return TrainingRecipe(
        steps=steps,
        batch_size=8,
        context=min(256, space.family.context_length),
        learning_rate=1e-3 if embedded else 2e-3,
        size_bias=1.0,
        warmup_steps=min(50, steps // 4),
        checkpoint_steps=25,
        seed=seed,
    )
