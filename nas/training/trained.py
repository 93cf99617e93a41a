"""A trained supernet with its text: what profiling, searching and verifying start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data import (
    Corpus,
    cached_corpus,
    load_corpus,
    load_tokenizer,
    tokenizer_fingerprint,
    validation_batch,
)
from nas.data.sources import CorpusError, open_source
from nas.files import PathLike, run_lock
from nas.model import MaskCache, Supernet, load_supernet, save_supernet, supernet_perplexities
from nas.model.checkpoint import CheckpointError
from nas.model.evaluate import subnet_forward, total_log_loss
from nas.model.storage import supernet_info
from nas.training.distributed import Processes
from nas.training.recipe import TrainingRecipe
from nas.training.trainer import train
from search_spaces import Architecture, SearchSpace

EMBEDDED_SPACE, EMBEDDED_CORPUS = "tiny", "stdlib"
# Another process that only loads what a folder holds is done in seconds; one that trains is not waited for.
_LOCK_WAIT_S = 30.0


@dataclass
class TrainedSupernet:
    """A supernet, the corpus whose tokenizer it speaks, and where it came from.

    Args:
        model: the weights.
        corpus: tokens to judge it on.
        info: recipe, training tokens, loss curve and hashes, as stored.
        path: where the supernet is stored.
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

    def log_losses(self, architecture: Architecture, parts: Sequence[Tensor]) -> list[float]:
        """Summed next-token cross-entropy of a subnet on each of several sets of windows ``[N, T + 1]``, in nats; masks are kept.

        Each set is read by itself: its sum does not depend on what else is asked for.
        """
        forward = subnet_forward(self.model, architecture, self._masks)
        return [total_log_loss(forward, tokens_NT) for tokens_NT in parts]


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

    The folder is held while this works, and a text or a supernet of another run that stands there is
    refused before anything is written. Under ``torchrun`` every process calls this; the first writes.

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
        ValueError: if the corpus, the space or a stored file does not fit, or another run holds the folder.
    """
    if not isinstance(space, SearchSpace):
        raise ValueError(
            f"expected a SearchSpace, got {space!r:.60}; pass search_spaces.preset({str(space)!r:.40})"
        )
    open_source(corpus)  # refuses a misspelt text before a folder is made for it
    name = Path(corpus).name if str(corpus) != EMBEDDED_CORPUS else EMBEDDED_CORPUS
    folder = Path(out) if out is not None else Path("runs") / f"supernet-{space.name}-{name}"
    processes = Processes(torch.device(device))
    with run_lock(folder, timeout_s=_LOCK_WAIT_S):
        return _train(space, corpus, recipe, folder, device, from_scratch, progress, processes)


def _train(
    space: SearchSpace,
    corpus: PathLike,
    recipe: TrainingRecipe | Sequence[TrainingRecipe] | None,
    folder: Path,
    device: str,
    from_scratch: bool,
    progress: bool,
    processes: Processes,
) -> TrainedSupernet:
    """:func:`train_supernet` in a folder that is held."""
    is_embedded_space = not from_scratch and fits_embedded(space)
    path = folder / "supernet.json"
    takes_embedded = is_embedded_space and str(corpus) == EMBEDDED_CORPUS and recipe is None
    if takes_embedded and path.exists():
        raise CheckpointError(
            f"expected a folder for the embedded supernet, got {folder} with another one at {path}; "
            f"search it with --supernet {path}, load it with nas.load_trained, or use another output folder"
        )
    expected = supernet_info(path).get("corpus") if path.exists() else None
    if not processes.is_first:
        processes.wait()  # until the first has made the tokens
    text = load_corpus(
        corpus,
        vocab_size=space.family.vocab_size,
        tokenizer=embedded_tokenizer() if is_embedded_space else None,
        cache_dir=folder,
        expected=expected,
        replace=not _is_used(folder),
    )
    validation_batch(
        text.validation_tokens, space.family.context_length, 1
    )  # refuses now, not after the training
    if processes.is_first:
        processes.wait()
    if takes_embedded:
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
    if processes.is_first:
        if path.exists():  # the lock may not reach there: a network folder, another machine
            raise CheckpointError(
                f"expected no supernet at {path}, got one that another process has stored meanwhile; "
                "it is kept: delete it to store this one from its checkpoints, or use another output folder"
            )
        save_supernet(model, path, info)
    processes.wait()
    return TrainedSupernet(model, text, supernet_info(path), path)


def load_trained(
    path: PathLike,
    corpus: PathLike,
    cache_dir: PathLike,
    device: str = "cpu",
    *,
    expected: str | None = None,
) -> TrainedSupernet:
    """Load a stored supernet with a text in the supernet's own tokens.

    The text is taken from ``cache_dir``, or tokenized into it if it is not there.

    Args:
        path: of the supernet's JSON; its ``tokenizer.json`` lies beside it, unless it is the embedded one.
        corpus: the text, as given to :func:`train_supernet`.
        cache_dir: folder of the tokens.
        device: where to put the weights.
        expected: fingerprint of the corpus that is wanted; tokens in ``cache_dir`` that have it are taken without a
            look at the text. None takes any text.

    Returns:
        The supernet on ``device``.

    Raises:
        CheckpointError: the supernet is missing, damaged or foreign, or its tokenizer is not beside it.
        CorpusError: the text is not the expected one, or not the one that ``cache_dir`` was made with.
    """
    path = Path(path)
    model, info = load_supernet(path, device)
    text = None if expected is None else cached_corpus(corpus, cache_dir, expected)
    if text is None or text.tokenizer_fingerprint != info.get("tokenizer"):
        cache = Path(cache_dir)
        text = load_corpus(
            corpus,
            vocab_size=model.space.family.vocab_size,
            tokenizer=_tokenizer_of(path, info),
            cache_dir=cache,
            expected=expected,
            # a verified run knows its text by the fingerprint; any other tokens of a supernet stay
            replace=expected is not None or not (cache / "supernet.json").exists(),
        )
    return TrainedSupernet(model, text, info, path)


def reuse_supernet(
    path: PathLike, space: SearchSpace, corpus: PathLike, cache_dir: PathLike, device: str = "cpu"
) -> TrainedSupernet:
    """Load a supernet that was trained before for a run on the space and text it was trained for.

    Args:
        path: of the supernet's JSON, as ``nas train`` wrote it.
        space: that the run is about.
        corpus: its text.
        cache_dir: the run's folder; the text is tokenized into it.
        device: where to put the weights.

    Returns:
        The supernet on ``device``.

    Raises:
        CheckpointError: the supernet is missing, damaged or of another space.
        CorpusError: the text is not the one the supernet was trained on.
    """
    path = Path(path)
    info = check_supernet(path, space)
    with run_lock(cache_dir, timeout_s=_LOCK_WAIT_S):
        text = load_corpus(
            corpus,
            vocab_size=space.family.vocab_size,
            tokenizer=_tokenizer_of(path, info),
            cache_dir=cache_dir,
            expected=info["corpus"],
            replace=not _is_used(Path(cache_dir)),
        )
        model, info = load_supernet(path, device)
    return TrainedSupernet(model, text, info, path)


def check_supernet(path: PathLike, space: SearchSpace) -> dict[str, Any]:
    """The ``info`` of a stored supernet that a run of this space may use.

    Raises:
        CheckpointError: it is missing, damaged, of another space or does not name its text.
    """
    info = supernet_info(path)
    stored = SearchSpace.from_json(info["space"])
    if stored.fingerprint != space.fingerprint:
        raise CheckpointError(
            f"expected a supernet of space {space.name!r} at {path}, got one of {stored.name!r} "
            f"({stored.fingerprint}, not {space.fingerprint}); pass its own space"
        )
    if not isinstance(info.get("corpus"), str):
        raise CheckpointError(
            f"expected a supernet that names its text at {path}, got {sorted(info)}; train it with: nas train"
        )
    return info


def _is_used(folder: Path) -> bool:
    """Whether hours of work may stand in a folder that are worth nothing without its tokens and tokenizer."""
    names = ("supernet.json", "run.json")
    return any((folder / name).exists() for name in names) or any(folder.glob("training-*.json"))


def _tokenizer_of(path: Path, info: dict[str, Any]) -> Path:
    """The tokenizer a stored supernet speaks.

    Raises:
        CheckpointError: it is missing, damaged or another.
    """
    is_embedded = path.resolve() == embedded_path().resolve()
    tokenizer = embedded_tokenizer() if is_embedded else path.with_name("tokenizer.json")
    try:
        found = tokenizer_fingerprint(load_tokenizer(tokenizer))
    except CorpusError as error:
        raise CheckpointError(
            f"expected the tokenizer of {path} at {tokenizer}, got none: {error}; "
            "repeat the command that trained the supernet, it makes the tokenizer again"
        ) from error
    if found != info.get("tokenizer"):
        raise CheckpointError(
            f"expected the tokenizer {info.get('tokenizer')} of {path} at {tokenizer}, got {found}; "
            "put the supernet's own tokenizer.json there"
        )
    return tokenizer


def fits_embedded(space: SearchSpace) -> bool:
    """Whether the embedded supernet was trained for this space."""
    if not embedded_path().exists():
        return False
    stored = dict(supernet_info(embedded_path())["space"])
    return SearchSpace.from_json(stored).fingerprint == space.fingerprint
