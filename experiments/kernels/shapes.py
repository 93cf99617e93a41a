"""What is multiplied: the weight shapes of published models, and the sparsity patterns with their levels and formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces import Sparsity

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Shape:
    """One weight ``[M, K]`` of a model.

    Args:
        model: it belongs to.
        layer: which linear; ``qkv`` and ``gate_up`` are stored as one matrix, as serving engines do.
        out_features: M.
        in_features: K.
    """

    model: str
    layer: str
    out_features: int
    in_features: int

    @property
    def name(self) -> str:
        """``opt-30b.up``."""
        return f"{self.model}.{self.layer}"

    @property
    def size(self) -> int:
        """Weights."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Kind:
    """A sparsity in the format it is stored in.

    Args:
        pattern: the harness's name: ``vector64``, ``2:4``, or a format of unstructured weights, ``csl``.
        sparsity: as ``search_spaces`` spells it.
        format: for ``nas.kernels.pack``; None takes the pattern's own.
    """

    pattern: str
    sparsity: Sparsity
    format: str | None = None

    @property
    def label(self) -> str:
        """``vector64:0.80``, ``2:4``, ``csl:0.80``."""
        text = str(self.sparsity)
        return text.replace("unstructured", self.pattern) if self.format else text

    @classmethod
    def parse(cls, label: str) -> Kind:
        """Read a label.

        Raises:
            ValueError: if it is not the label of a sparsity.
        """
        name, _, level = label.partition(":")
        if name in _FORMATS:
            return cls(name, Sparsity.parse(f"unstructured:{level}"), format=name)
        sparsity = Sparsity.parse(label)
        return cls(label if sparsity.pattern == "n:m" else name, sparsity)

    def fits(self, shape: Shape) -> bool:
        """Whether the pattern divides the matrix."""
        try:
            self.sparsity.check_shape(shape.out_features, shape.in_features)
        except ValueError:
            return False
        return True


def _opt(model: str, dim: int) -> tuple[Shape, ...]:
    return (
        Shape(model, "qkv", 3 * dim, dim),
        Shape(model, "o", dim, dim),
        Shape(model, "up", 4 * dim, dim),
        Shape(model, "down", dim, 4 * dim),
    )


# The twelve matrices of Flash-LLM's kernel benchmark (2309.10285), then two models with gated FFNs and grouped queries.
OPT_SHAPES = _opt("opt-30b", 7168) + _opt("opt-66b", 9216) + _opt("opt-175b", 12288)
SHAPES = {
    "cuda": (
        *OPT_SHAPES,
        Shape("llama-3-8b", "qkv", 6144, 4096),
        Shape("llama-3-8b", "o", 4096, 4096),
        Shape("llama-3-8b", "gate_up", 28672, 4096),
        Shape("llama-3-8b", "down", 4096, 14336),
        Shape("qwen-2.5-7b", "qkv", 4608, 3584),
        Shape("qwen-2.5-7b", "o", 3584, 3584),
        Shape("qwen-2.5-7b", "gate_up", 37888, 3584),
        Shape("qwen-2.5-7b", "down", 3584, 18944),
    ),
    "cpu": (
        Shape("tiny", "o", 256, 256),
        Shape("tiny", "up", 1024, 256),
        Shape("tiny", "down", 256, 1024),
        Shape("gpt2", "up", 3072, 768),
        Shape("gpt2", "down", 768, 3072),
    ),
}
QUICK_SHAPES = {
    "cuda": ("opt-175b.up", "opt-66b.up", "opt-30b.up", "llama-3-8b.gate_up"),
    "cpu": ("tiny.up", "gpt2.down"),
}
ROWS = {"cuda": (1, 8, 16, 32, 64), "cpu": (1, 4, 16, 64)}
QUICK_ROWS = {"cuda": (8, 16, 32), "cpu": (1, 16)}
QUICK_LEVELS = {"cuda": (0.5, 0.7, 0.8, 0.9), "cpu": (0.8,)}
_CPU_LEVELS = (0.5, 0.8, 0.9)
_STRUCTURED = ("vector64", "vector128", "block32", "block64")
_N_OF_M = ("2:4", "1:4", "2:8", "1:8")
_FORMATS = ("csl", "bitmap", "csr")
# CSR is the CPU's own format of unstructured weights
_UNSTRUCTURED = {"cuda": ("csl", "bitmap"), "cpu": ("csl", "bitmap", "csr")}


def kinds(device: str, quick: bool = False) -> tuple[Kind, ...]:
    """Every pattern at every level that is measured on a device."""
    if quick:
        levels = QUICK_LEVELS[device]
    else:
        levels = LEVELS if device == "cuda" else _CPU_LEVELS
    labels = [f"{name}:{level:.2f}" for name in _STRUCTURED for level in levels]
    labels += _N_OF_M
    labels += [f"{name}:{level:.2f}" for name in _UNSTRUCTURED[device] for level in levels]
    return tuple(Kind.parse(label) for label in labels)


def find_kinds(device: str, words: Sequence[str], quick: bool = False) -> list[Kind]:
    """Kinds by label (``csl:0.75``: exactly that one) or by pattern (``csl``: at every level that is measured).

    Raises:
        ValueError: if a word is neither.
    """
    every = kinds(device, quick)
    found: list[Kind] = []
    for word in words:
        members = [kind for kind in every if kind.pattern == word]
        found += members or [Kind.parse(word)]
    return list(dict.fromkeys(found))
