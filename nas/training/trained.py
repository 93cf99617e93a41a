"""A trained supernet with its text: what profiling, searching and verifying start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.data import Corpus, load_corpus, validation_batch
from nas.files import PathLike
from nas.model import MaskCache, Supernet, load_supernet, save_supernet, supernet_perplexities
from nas.model.checkpoint import CheckpointError
from nas.model.storage import supernet_info
from nas.training.recipe import TrainingRecipe
from nas.training.trainer import train
from search_spaces import Architecture, SearchSpace

EMBEDDED_SPACE, EMBEDDED_CORPUS = "tiny", "stdlib"


@dataclass
class TrainedSupernet:
    """A supernet, the corpus whose tokenizer it speaks, and where it came from.

    Args:
        model: the weights.
        corpus: tokens to judge it on.
        info: recipe, training tokens, loss curve and hashes, as stored.
        path: of the stored supernet; worker processes load it from there.
    """

    model: Supernet
    corpus: Corpus
    info: dict[str, Any]
    path: Path
    _masks: MaskCache = field(default_factory=MaskCache, repr=False)

    @property
    def space(self) -> SearchSpace:
        """Of the supernet."""
        return self.model.space

    def validation(self, num_tokens: int) -> Tensor:
        """Held-out windows ``[N, T + 1]`` that predict about ``num_tokens`` tokens, the same at every call."""
        context = self.space.family.context_length
        tokens = validation_batch(self.corpus.validation_tokens, context, num_tokens)
        return tokens.to(self.model.embedding.device)

    def perplexities(self, architectures: Sequence[Architecture], num_tokens: int) -> list[float]:
        """Perplexity of subnets on the held-out windows, in order; masks are kept for later calls."""
        tokens = self.validation(num_tokens)
        return supernet_perplexities(self.model, architectures, tokens, masks=self._masks)


def embedded_path() -> Path:
    """The supernet that ships with the project: space ``tiny``, trained on ``stdlib``."""
    return Path(str(resources.files("nas"))) / "assets" / "tiny-stdlib.json"


def embedded_tokenizer() -> Path:
    """The tokenizer that the embedded supernet speaks."""
    return embedded_path().with_name("tiny-stdlib-tokenizer.json")


def train_supernet(
    space: SearchSpace,
    corpus: PathLike = EMBEDDED_CORPUS,
    *,
    recipe: TrainingRecipe | Sequence[TrainingRecipe] | None = None,
    out: PathLike | None = None,
    device: str = "cpu",
    from_scratch: bool = False,
    progress: bool = True,
) -> TrainedSupernet:
    """A trained supernet of a space: the embedded one where it fits, else trained here, resumed and cached in ``out``.

    The embedded supernet is used as it is for its own space and text. On another text it is the
    starting point, with its tokenizer, unless ``from_scratch`` or another space asks for weights
    and a tokenizer of their own.

    Args:
        space: what to train.
        corpus: ``stdlib``, a file, a folder, a parquet file, or ``hf:<dataset>[:config]``.
        recipe: how to train, several for stages one after another; None takes the embedded supernet
            untouched if it fits, and the default recipe otherwise.
        out: folder of tokens, checkpoints and the result; by default
            ``runs/supernet-<space>-<corpus>``.
        device: ``cpu`` or ``cuda``.
        from_scratch: do not start from the embedded supernet.
        progress: whether to show a progress bar.

    Returns:
        The trained supernet on ``device``.

    Raises:
        ValueError: if the corpus, the space or a stored file does not fit.
    """
    is_embedded_space = not from_scratch and fits_embedded(space)
    name = Path(corpus).name if str(corpus) != EMBEDDED_CORPUS else EMBEDDED_CORPUS
    folder = Path(out) if out is not None else Path("runs") / f"supernet-{space.name}-{name}"
    tokenizer = embedded_tokenizer() if is_embedded_space else None
    text = load_corpus(
        corpus, vocab_size=space.family.vocab_size, tokenizer=tokenizer, cache_dir=folder
    )
    validation_batch(
        text.validation_tokens, space.family.context_length, 1
    )  # refuses now, not after the training
    if is_embedded_space and str(corpus) == EMBEDDED_CORPUS and recipe is None:
        model, info = load_supernet(embedded_path(), device)
        return TrainedSupernet(model, text, info, embedded_path())
    recipe = recipe or TrainingRecipe(context=min(256, space.family.context_length))
    stages = [recipe] if isinstance(recipe, TrainingRecipe) else list(recipe)
    start = supernet_info(embedded_path()).get("sha256") if is_embedded_space else None
    identity = {
        "recipes": [stage.to_json() for stage in stages],
        "corpus": text.fingerprint,
        "tokenizer": text.tokenizer_fingerprint,
        "start": start,
    }
    path = folder / "supernet.json"
    if path.exists():
        info = supernet_info(path)
        wanted = identity | {"space": space.to_json()}
        differing = [name for name, value in wanted.items() if info.get(name) != value]
        if differing:  # hours of training may stand there
            raise CheckpointError(
                f"expected the supernet of this run at {path}, got one that differs in {', '.join(differing)}; "
                "use another output folder, or delete it to train again"
            )
        model, info = load_supernet(path, device)
        return TrainedSupernet(model, text, info, path)
    if is_embedded_space:
        model = load_supernet(embedded_path())[0]
    else:
        model = Supernet(space, stages[0].seed)
    model = model.to(device)
    curve, before = [], 0
    for number, stage in enumerate(stages):
        checkpoint = folder / f"training-{number}.json"
        found = train(
            model,
            text.train_tokens,
            stage,
            checkpoint=checkpoint,
            start_from=start,
            progress=progress,
        )
        curve += [(before + step, largest, others) for step, largest, others in found]
        before += stage.steps
    info = identity | {
        "corpus_name": text.name,
        "tokens": sum(stage.tokens for stage in stages),
        "loss_curve": curve,
    }
    save_supernet(model, path, info)
    return TrainedSupernet(model, text, supernet_info(path), path)


def load_trained(
    path: PathLike, corpus: PathLike, cache_dir: PathLike, device: str = "cpu"
) -> TrainedSupernet:
    """Load a stored supernet with a corpus already tokenized in ``cache_dir``.

    Args:
        path: of the supernet's JSON.
        corpus: the text, as given to :func:`train_supernet`.
        cache_dir: where its tokens are.
        device: where to put the weights.
    """
    model, info = load_supernet(path, device)
    embedded = Path(path) == embedded_path() or info.get("start") is not None
    text = load_corpus(
        corpus,
        vocab_size=model.space.family.vocab_size,
        tokenizer=embedded_tokenizer() if embedded else None,
        cache_dir=cache_dir,
    )
    return TrainedSupernet(model, text, info, Path(path))


def fits_embedded(space: SearchSpace) -> bool:
    """Whether the embedded supernet was trained for this space."""
    if not embedded_path().exists():
        return False
    stored = dict(supernet_info(embedded_path())["space"])
    return SearchSpace.from_json(stored).fingerprint == space.fingerprint
