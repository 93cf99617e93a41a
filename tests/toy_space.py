"""A space of a few tiny architectures, and a supernet of it that was never trained."""

from __future__ import annotations

from pathlib import Path

from nas.model import Supernet
from nas.training import TrainedSupernet
from search_spaces import Family, SearchSpace, Sparsity, Workload

DENSE, UNSTRUCTURED = Sparsity.parse("dense"), Sparsity.parse("unstructured:0.80")
SPACE = SearchSpace(
    name="toy",
    family=Family(vocab_size=64, context_length=32, head_dim=8),
    embed_dims=(16, 32),
    depths=(1, 2),
    num_heads=(1, 2),
    ffn_ratios=(1.0, 2.0),
    biases=(False,),
    attention=(False, True),
    ffn=(False, True),
    attention_sparsities=(DENSE,),
    ffn_sparsities=(DENSE, UNSTRUCTURED),
    adapter_ranks=(0,),
)
SHORT = Workload("decode", 1, 16)


def toy_supernet() -> Supernet:
    """Weights as they are drawn."""
    return Supernet(SPACE, 0)


def toy_trained(supernet: Supernet) -> TrainedSupernet:
    """As if it had been trained, without a corpus."""
    return TrainedSupernet(supernet, None, {"sha256": "0" * 64}, Path("toy.json"))  # type: ignore[arg-type]
