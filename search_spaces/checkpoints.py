"""A search space around a checkpoint: the family and the largest sizes come from its ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from search_spaces.architecture import LayerConfig
from search_spaces.family import Activation, Family
from search_spaces.presets import DEFAULT_SPARSITIES
from search_spaces.shapes import layer_linears
from search_spaces.space import SearchSpace
from search_spaces.sparsity import DENSE, Sparsity

_SHARES = (0.5, 0.75, 1.0)
# As the transformers library spells them; all but the first are the tanh approximation.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def from_checkpoint(path: str | Path, sparsity: bool = True) -> SearchSpace:
    """Subnets of a Hugging Face checkpoint: half, three quarters and all of its width, depth, heads and FFN neurons.

    Args:
        path: folder of the checkpoint, or its ``config.json``; types gpt2, gpt_neox, llama and mistral.
        sparsity: whether layers may choose sparsity, adapters, and to drop attention or FFN.

    Returns:
        A space whose largest architecture has the checkpoint's own sizes, activation and biases.

    Raises:
        ValueError: if the file is missing or damaged, a size is no positive integer, or the model type, its activation or its
            biases have no counterpart here.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(
            f"expected a checkpoint folder or its config.json, found nothing at {path}; of a hub model download it first: "
            f"hf download {path} --local-dir DIR"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected a Hugging Face config.json with a model_type, got {file}: {error!r}"
        ) from error
    if not isinstance(kind, str) or kind not in _READERS:
        raise ValueError(f"expected a model_type in {', '.join(_READERS)}, got {kind!r} in {file}")
    try:
        family, dim, depth, heads, neurons, bias = _READERS[kind](config)
    except KeyError as error:
        raise ValueError(f"expected the field {error} in {file}, found none") from error
    except ValueError as error:
        raise ValueError(f"expected a model that can be built from {file}: {error}") from error
    group = family.queries_per_kv_head
    heads_offered = _shares(heads, step=group)
    ratios = tuple(part / dim for part in _shares(neurons, step=64 if neurons % 64 == 0 else 1))
    dims = tuple(
        d
        for d in _shares(dim, step=64 if dim % 64 == 0 else 1)
        if all((r * d).is_integer() for r in ratios)
    )
    patterns = DEFAULT_SPARSITIES if sparsity else (DENSE,)
    optional = (False, True) if sparsity else (True,)

    def fitting(attention: bool) -> tuple[Sparsity, ...]:
        return tuple(
            s for s in patterns if _divides(s, family, dims, heads_offered, ratios, attention)
        )

    return SearchSpace(
        name=file.parent.name or kind,
        family=family,
        embed_dims=dims,
        depths=_shares(depth),
        num_heads=heads_offered,
        ffn_ratios=ratios,
        biases=(bias,),
        attention=optional,
        ffn=optional,
        attention_sparsities=fitting(True),
        ffn_sparsities=fitting(False),
        adapter_ranks=(0, 16) if sparsity else (0,),
    )


_Sizes = tuple[Family, int, int, int, int, bool]


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A field that counts something; ``default`` where it is absent or null.

    Raises:
        KeyError: if it is absent and has no default.
        ValueError: if it is no positive integer.
    """
    value = config[name] if default is None else config.get(name)
    value = default if value is None and default is not None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
    return value


def _quotient(whole: int, parts: int, names: str) -> int:
    if whole % parts:
        raise ValueError(f"expected {names} that divide, got {whole} and {parts}")
    return whole // parts


def _activation(config: dict[str, Any], name: str, default: str) -> Activation:
    value = config.get(name, default)
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise ValueError(f"expected {name} in {', '.join(_ACTIVATIONS)}, got {value!r}")
    return _ACTIVATIONS[value]


def _gpt2(c: dict[str, Any]) -> _Sizes:
    dim, heads = _size(c, "n_embd"), _size(c, "n_head")
    family = Family(
        vocab_size=_size(c, "vocab_size"),
        context_length=_size(c, "n_positions"),
        head_dim=_quotient(dim, heads, "n_embd and n_head"),
        activation=_activation(c, "activation_function", "gelu_new"),
        tied_embeddings=c.get("tie_word_embeddings", True),
    )
    return family, dim, _size(c, "n_layer"), heads, _size(c, "n_inner", 4 * dim), True


def _gpt_neox(c: dict[str, Any]) -> _Sizes:
    dim, heads = _size(c, "hidden_size"), _size(c, "num_attention_heads")
    if c.get("attention_bias", True) is not True:  # its FFN has biases whatever its attention has
        raise ValueError(
            f"expected attention_bias true: a layer has biases everywhere or nowhere, got {c['attention_bias']!r}"
        )
    family = Family(
        vocab_size=_size(c, "vocab_size"),
        context_length=_size(c, "max_position_embeddings"),
        head_dim=_quotient(dim, heads, "hidden_size and num_attention_heads"),
        activation=_activation(c, "hidden_act", "gelu"),
        positions="rotary",
        rotary_fraction=c.get("rotary_pct", 0.25),
        residual="parallel" if c.get("use_parallel_residual", True) else "sequential",
        tied_embeddings=c.get("tie_word_embeddings", False),
    )
    return family, dim, _size(c, "num_hidden_layers"), heads, _size(c, "intermediate_size"), True


def _llama(c: dict[str, Any]) -> _Sizes:
    dim, heads = _size(c, "hidden_size"), _size(c, "num_attention_heads")
    head_dim = c.get("head_dim")
    if head_dim is None:
        head_dim = _quotient(dim, heads, "hidden_size and num_attention_heads")
    kv_heads = _size(c, "num_key_value_heads", heads)
    if (gated := c.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"expected hidden_act silu, got {gated!r}")
    biases = {name: c.get(name, False) for name in ("attention_bias", "mlp_bias")}
    if biases["attention_bias"] is not biases["mlp_bias"]:
        raise ValueError(
            f"expected attention_bias and mlp_bias both true or both false: a layer has biases everywhere or nowhere, got {biases}"
        )
    family = Family(
        vocab_size=_size(c, "vocab_size"),
        context_length=_size(c, "max_position_embeddings"),
        head_dim=head_dim,
        norm="rmsnorm",
        activation="swiglu",
        positions="rotary",
        queries_per_kv_head=_quotient(
            heads, kv_heads, "num_attention_heads and num_key_value_heads"
        ),
        tied_embeddings=c.get("tie_word_embeddings", False),
    )
    neurons = _size(c, "intermediate_size")
    return family, dim, _size(c, "num_hidden_layers"), heads, neurons, bool(biases["mlp_bias"])


_READERS: dict[str, Callable[[dict[str, Any]], _Sizes]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _llama,
}


def _shares(whole: int, step: int = 1) -> tuple[int, ...]:
    """Half, three quarters and all, rounded down to multiples of ``step`` and each once."""
    return tuple(
        sorted({max(step, int(share * whole) // step * step) for share in _SHARES} | {whole})
    )


def _divides(
    sparsity: Sparsity,
    family: Family,
    dims: Iterable[int],
    heads: Iterable[int],
    ratios: Iterable[float],
    attention: bool,
) -> bool:
    configs = (
        [LayerConfig(h, 0.0, ffn=False, attention_sparsity=sparsity) for h in heads]
        if attention
        else [LayerConfig(0, r, attention=False, ffn_sparsity=sparsity) for r in ratios]
    )
    try:
        for dim in dims:
            for config in configs:
                layer_linears(config, dim, False, family)
    except ValueError:
        return False
    return True
