"""Which architectures the benchmark is made of, and their perplexity under the supernet, each kept as soon as it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from experiments.results import digest
from nas.deploy.profile import profile_architectures
from nas.files import append_jsonl, read_jsonl
from nas.training import TrainedSupernet
from nas.training.sandwich import draw_subnet
from search_spaces import Architecture, SearchSpace


def draw(space: SearchSpace, number: int, profiled: int, seed: int) -> list[Architecture]:
    """Distinct architectures: those that ``nas profile`` measures, then draws that a search visits and uniform ones in turn.

    Uniform draws alone would hardly hold a nearly whole subnet, draws of a search alone hardly one with every part sparse: a benchmark is
    asked about both.

    Args:
        space: where to draw from.
        number: of architectures, at least those profiled.
        profiled: how many of them are those of a profile.
        seed: of both draws.

    Raises:
        ValueError: if fewer are asked for than are profiled, or the space holds fewer.
    """
    if not profiled <= number <= space.cardinality:
        raise ValueError(
            f"expected between {profiled} (those profiled) and {space.cardinality} (the space) architectures, got {number}"
        )
    found = dict.fromkeys(profile_architectures(space, profiled, seed))
    rng = np.random.default_rng((seed, 11))
    while len(found) < number:
        found[draw_subnet(space, rng, size_bias=1.0)] = None
        found[space.sample(rng)] = None
    return list(found)[:number]


def perplexities(
    supernet: TrainedSupernet, architectures: list[Architecture], num_tokens: int, log: Path
) -> npt.NDArray[np.float64]:
    """Perplexity of every architecture on the same held-out tokens, shape (n,); a killed run goes on from the log.

    Records of another supernet, text or number of tokens are left alone and not used.

    Args:
        supernet: the weights.
        architectures: n subnets of its space.
        num_tokens: held-out tokens.
        log: JSON lines.
    """
    settings = digest(
        {
            "supernet": supernet.info["sha256"],
            "corpus": supernet.corpus.fingerprint,
            "num_tokens": num_tokens,
        }
    )
    records = [r for r in read_jsonl(log) if r["settings"] == settings]
    known: dict[str, float] = {r["key"]: r["perplexity"] for r in records}
    missing = [a for a in architectures if a.key not in known]
    for architecture in tqdm(missing, "perplexity", unit="architecture"):
        known[architecture.key] = supernet.perplexities([architecture], num_tokens)[0]
        record = {"key": architecture.key, "architecture": architecture.to_json()}
        value = {"perplexity": known[architecture.key], "num_tokens": num_tokens}
        append_jsonl(log, record | value | {"settings": settings})
    return np.array([known[a.key] for a in architectures])
