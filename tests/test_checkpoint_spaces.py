"""Spaces around published configurations: the largest architecture is the published model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import costs, from_checkpoint

GPT2 = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "vocab_size": 50257,
    "n_positions": 1024,
}
PYTHIA_70M = {
    "model_type": "gpt_neox",
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "rotary_pct": 0.25,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
# Published totals. GPT-2 124 439 808; Pythia-70M 70 426 624; Llama-3-8B 8 030 261 248.
PUBLISHED = [(GPT2, 124_439_808), (PYTHIA_70M, 70_426_624), (LLAMA_3_8B, 8_030_261_248)]


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "params"), PUBLISHED, ids=lambda v: v["model_type"] if isinstance(v, dict) else ""
)
def test_the_largest_architecture_has_the_published_parameters(
    tmp_path: Path, config: dict[str, Any], params: int
) -> None:
    space = from_checkpoint(write(tmp_path, config))
    assert costs(space.largest, space.family).params == params
    assert space.contains(space.largest)
    assert len(space.embed_dims) > 1
    assert len(space.attention_sparsities) > 1
    assert space == from_checkpoint(tmp_path / "config.json")


def test_dense_only(tmp_path: Path) -> None:
    space = from_checkpoint(write(tmp_path, GPT2), sparsity=False)
    assert [str(s) for s in (*space.attention_sparsities, *space.ffn_sparsities)] == [
        "dense",
        "dense",
    ]
    assert space.attention == (True,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a Hugging Face config.json"),
        ("[]", "expected a Hugging Face config.json"),
        ('{"model_type": "bert"}', "expected a model_type in gpt2"),
        ('{"model_type": "gpt2", "n_embd": 8}', "expected the field 'n_head'"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        from_checkpoint(tmp_path)


def test_a_hub_name_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="hf download openai-community/gpt2"):
        from_checkpoint("openai-community/gpt2")
