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
        ('{"model_type": ["gpt2"]}', "expected a model_type in gpt2"),
        ('{"model_type": "gpt2", "n_embd": 8}', "expected the field 'n_head'"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "changed", "activation"),
    [
        (GPT2, {}, "gelu_tanh"),  # the default of the transformers library: gelu_new
        (GPT2, {"activation_function": "gelu_new"}, "gelu_tanh"),
        (GPT2, {"activation_function": "gelu_pytorch_tanh"}, "gelu_tanh"),
        (GPT2, {"activation_function": "gelu"}, "gelu"),
        (PYTHIA_70M, {}, "gelu"),
        (PYTHIA_70M, {"hidden_act": "gelu_fast"}, "gelu_tanh"),
        (LLAMA_3_8B, {}, "swiglu"),
        (LLAMA_3_8B, {"hidden_act": "silu"}, "swiglu"),
    ],
)
def test_the_activation_is_the_checkpoints(
    tmp_path: Path, config: dict[str, Any], changed: dict[str, Any], activation: str
) -> None:
    assert from_checkpoint(write(tmp_path, config | changed)).family.activation == activation


def test_biases_are_the_checkpoints(tmp_path: Path) -> None:
    """A Llama with biases has one for every output of every linear: 4096 + 2 x 1024 + 4096 and 2 x 14336 + 4096 a layer."""
    both = LLAMA_3_8B | {"attention_bias": True, "mlp_bias": True}
    space = from_checkpoint(write(tmp_path, both))
    more = 32 * (4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096)
    assert costs(space.largest, space.family).params == 8_030_261_248 + more


@pytest.mark.parametrize(
    ("config", "changed", "message"),
    [
        (GPT2, {"n_embd": "768"}, "expected n_embd to be a positive integer, got '768'"),
        (GPT2, {"n_head": 0}, "expected n_head to be a positive integer, got 0"),
        (GPT2, {"n_head": None}, "expected n_head to be a positive integer, got None"),
        (GPT2, {"n_inner": "wide"}, "expected n_inner to be a positive integer, got 'wide'"),
        (GPT2, {"n_layer": 12.0}, "expected n_layer to be a positive integer, got 12.0"),
        (GPT2, {"n_head": 7}, "expected n_embd and n_head that divide, got 768 and 7"),
        (GPT2, {"activation_function": "relu"}, "expected activation_function in gelu, .*'relu'"),
        (GPT2, {"tie_word_embeddings": 1}, "expected tied_embeddings to be True or False"),
        (PYTHIA_70M, {"hidden_act": ["gelu"]}, r"expected hidden_act in gelu, .*\['gelu'\]"),
        (PYTHIA_70M, {"attention_bias": False}, "expected attention_bias true.*got False"),
        (PYTHIA_70M, {"rotary_pct": "0.25"}, "expected rotary_fraction in"),
        (LLAMA_3_8B, {"attention_bias": True}, "attention_bias and mlp_bias both true or both"),
        (LLAMA_3_8B, {"hidden_act": "gelu"}, "expected hidden_act silu, got 'gelu'"),
        (LLAMA_3_8B, {"num_key_value_heads": 5}, "that divide, got 32 and 5"),
        (LLAMA_3_8B, {"num_key_value_heads": -8}, "num_key_value_heads to be a positive integer"),
        (LLAMA_3_8B, {"head_dim": 0}, "expected head_dim to be a positive integer, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_field_and_file(
    tmp_path: Path, config: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"built from .*config.json: .*{message}"):
        from_checkpoint(write(tmp_path, config | changed))


def test_a_hub_name_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="hf download openai-community/gpt2"):
        from_checkpoint("openai-community/gpt2")
