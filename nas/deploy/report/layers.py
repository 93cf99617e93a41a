"""The per-layer pictures of report.html: every architecture as bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas.deploy.report.table import STATES
from nas.deploy.report.units import Metric
from nas.deploy.report.view import View
from search_spaces import Architecture, LayerConfig, Sparsity

PATTERNS = {  # css class, letter, name
    "dense": ("dense", "D", "dense"),
    "n:m": ("nm", "N", "N:M, N kept of M in a row"),
    "unstructured": ("unstructured", "U", "unstructured"),
    "block": ("block", "B", "block"),
    "vector": ("vector", "V", "column vector"),
}


@dataclass(frozen=True)
class Part:
    """Attention or FFN of one layer, as a bar."""

    dropped: bool = True
    share: float = 0.0
    width: str = ""
    sparsity: str = ""
    css: str = ""
    letter: str = ""
    adapter: int = 0


def cards(view: View) -> list[dict[str, Any]]:
    """What the template's cards show: the dense baseline first, then every winner."""
    architectures = [view.baseline_architecture, *(w.architecture for w in view.winners)]
    heads = max(layer.num_heads for a in architectures for layer in a.layers) or 1
    neurons = max(a.ffn_dim(i) for a in architectures for i in range(a.depth)) or 1
    depth, width = max(a.depth for a in architectures), max(a.embed_dim for a in architectures)

    def card(architecture: Architecture, name: str, **fields: Any) -> dict[str, Any]:
        layers = [
            _parts(layer, architecture.ffn_dim(i), heads, neurons)
            for i, layer in enumerate(architecture.layers)
        ]
        shape = f"{architecture.depth} of {depth} layers, width {architecture.embed_dim} of {width}"
        alt = f"Layers of {name}: " + "; ".join(
            f"{i}: attention {_part_text(a)}, FFN {_part_text(f)}"
            for i, (a, f) in enumerate(layers, 1)
        )
        return {
            "name": name,
            "layers": layers,
            "shape": shape,
            "alt": alt,
            "label": str(architecture),
        } | fields

    found = [
        card(
            view.baseline_architecture,
            "dense baseline",
            id="baseline",
            status="baseline",
            state="",
            facts=", ".join(_facts(view.baseline, view)),
            checks=[],
        )
    ]
    for winner in view.winners:
        values = winner.measured or {name: c.mean for name, c in winner.predicted.items()}
        facts = _facts(values, view, "" if winner.measured else "≈ ")
        found.append(
            card(
                winner.architecture,
                winner.name,
                id=winner.anchor,
                status=winner.status,
                state=STATES[winner.status],
                facts=", ".join(facts) + ("" if winner.measured else " (predicted)"),
                label=winner.label,
                checks=[
                    {"passed": c.passed, "label": Metric(c.name, c.unit).label, "text": c.text}
                    for c in winner.checks
                ],
            )
        )
    return found


def _facts(values: dict[str, float], view: View, sign: str = "") -> list[str]:
    facts = []
    for metric in view.metrics[:3]:
        if metric.name in values:
            text = metric.format(values[metric.name])
            facts.append(
                f"perplexity {sign}{text}" if metric.base == "perplexity" else f"{sign}{text}"
            )
    return facts


def _parts(layer: LayerConfig, neurons: int, max_heads: int, max_neurons: int) -> tuple[Part, Part]:
    def part(is_kept: bool, size: int, largest: int, unit: str, sparsity: Sparsity) -> Part:
        if not is_kept:
            return Part()
        css, letter, _ = PATTERNS[sparsity.pattern]
        adapter = 0 if sparsity.is_dense else layer.adapter_rank
        width = f"{size} {unit}"
        return Part(
            False, round(100 * size / largest, 2), width, str(sparsity), css, letter, adapter
        )

    heads = "head" if layer.num_heads == 1 else "heads"
    return (
        part(layer.attention, layer.num_heads, max_heads, heads, layer.attention_sparsity),
        part(layer.ffn, neurons, max_neurons, "neurons", layer.ffn_sparsity),
    )


def _part_text(part: Part) -> str:
    if part.dropped:
        return "dropped"
    return f"{part.width} {part.sparsity}" + (
        f" with adapter rank {part.adapter}" if part.adapter else ""
    )
