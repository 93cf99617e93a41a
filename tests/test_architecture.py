"""LayerConfig, Architecture, Family and Workload: what they are, what they refuse, how they are spelled."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    Sparsity,
    Workload,
)
from tests.search_space_cases import ONE, SPACE, SPACES, architectures
from tests.small_spaces import GPT2

REPOSITORY = Path(__file__).resolve().parents[1]


# --- LayerConfig, Architecture, Family, Workload --------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"num_heads": 0},
        {"num_heads": -1},
        {"num_heads": 2.0},
        {"num_heads": "2"},
        {"num_heads": True},
        {"num_heads": None},
        {"ffn_ratio": 0},
        {"ffn_ratio": -1.0},
        {"ffn_ratio": math.nan},
        {"ffn_ratio": math.inf},
        {"ffn_ratio": "2"},
        {"ffn_ratio": None},
        {"attention": False},
        {"ffn": False},
        {"attention": "False", "num_heads": 2},
        {"attention": 1},
        {"ffn": None},
        {"num_heads": 0, "attention": False, "attention_sparsity": "2:4"},
        {"ffn_ratio": 0, "ffn": False, "ffn_sparsity": "2:4"},
        {"attention_sparsity": "3:4"},
        {"ffn_sparsity": None},
        {"ffn_sparsity": 0.5},
        {"adapter_rank": 4},
        {"adapter_rank": -1, "ffn_sparsity": "2:4"},
        {"adapter_rank": True, "ffn_sparsity": "2:4"},
        {"adapter_rank": 4.0, "ffn_sparsity": "2:4"},
    ],
)
def test_an_invalid_layer_cannot_be_constructed(fields: dict[str, Any]) -> None:
    whole = {"num_heads": 2, "ffn_ratio": 2.0}
    LayerConfig(**whole)
    with pytest.raises(ValueError, match="expected"):
        LayerConfig(**(whole | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"embed_dim": 0},
        {"embed_dim": -32},
        {"embed_dim": 32.0},
        {"embed_dim": True},
        {"embed_dim": "32"},
        {"bias": "False"},
        {"bias": 0},
        {"layers": ()},
        {"layers": None},
        {"layers": "ab"},
        {"layers": (1,)},
        {"layers": (LayerConfig(2, 2), None)},
        {"layers": (LayerConfig(2, 0.3),)},
        {"layers": (LayerConfig(2, 1e308),)},
    ],
)
def test_an_invalid_architecture_cannot_be_constructed(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"embed_dim": 32, "layers": (LayerConfig(2, 2),)}
    Architecture(**whole)
    with pytest.raises(ValueError, match="expected"):
        Architecture(**(whole | fields))


def test_an_architecture_is_frozen() -> None:
    architecture = ONE.largest
    with pytest.raises(AttributeError):
        architecture.embed_dim = 64  # type: ignore[misc]
    with pytest.raises(AttributeError):
        architecture.layers[0].num_heads = 8  # type: ignore[misc]


def test_make_ignores_what_is_inactive() -> None:
    s = Sparsity.parse("2:4")
    assert LayerConfig.make(4, 2.0, attention=False, attention_sparsity=s) == LayerConfig(
        0, 2.0, attention=False
    )
    assert LayerConfig.make(4, 2.0, ffn=False, ffn_sparsity=s) == LayerConfig(4, 0.0, ffn=False)
    assert LayerConfig.make(4, 2.0, adapter_rank=8) == LayerConfig(4, 2.0)
    both = LayerConfig.make(
        4, 2.0, attention=False, attention_sparsity=s, ffn_sparsity=s, adapter_rank=8
    )
    assert both.adapter_rank == 8
    assert both == LayerConfig(0, 2.0, attention=False, ffn_sparsity=s, adapter_rank=8)


@given(st.sampled_from(sorted(SPACES)), st.data())
def test_an_architecture_survives_json(name: str, data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACES[name]))
    text = json.dumps(architecture.to_json())
    loaded = Architecture.from_json(json.loads(text))
    assert loaded == architecture
    assert hash(loaded) == hash(architecture)
    assert loaded.key == architecture.key
    assert json.dumps(loaded.to_json()) == text


def test_equal_architectures_have_one_key_however_they_are_written() -> None:
    a = Architecture(32, (LayerConfig(2, 2), LayerConfig(0, 1.0, attention=False)))
    b = Architecture(32, [LayerConfig(2, 2.0), LayerConfig(0, 1, False)])  # type: ignore[arg-type]
    zero = LayerConfig(2, -0.0, ffn=False)
    assert a == b
    assert a.key == b.key
    assert Architecture(32, (zero,)).key == Architecture(32, (LayerConfig(2, 0, ffn=False),)).key


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.pop("bias"),
        lambda f: f.update(extra=1),
        lambda f: f.update(embed_dim="32"),
        lambda f: f.update(bias="False"),
        lambda f: f.update(layers={}),
        lambda f: f.update(layers=3),
        lambda f: f.update(layers=None),
        lambda f: f["layers"].append(None),
        lambda f: f["layers"][0].pop("ffn"),
        lambda f: f["layers"][0].update(attention="False"),
        lambda f: f["layers"][0].update(attention_sparsity=["2:4"]),
        lambda f: f["layers"][0].update(num_heads=None),
        lambda f: f["layers"][0].update(ffn_ratio=None),
    ],
)
def test_damaged_architecture_json_is_refused(damage: Any) -> None:
    fields = ONE.largest.to_json()
    damage(fields)
    with pytest.raises(ValueError, match="expected"):
        Architecture.from_json(fields)


@pytest.mark.parametrize("value", [None, 3, "d32 h2/f2", []])
def test_json_that_is_no_architecture_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected an architecture"):
        Architecture.from_json(value)


def test_keys_and_fingerprints_are_equal_in_another_process() -> None:
    rng = np.random.default_rng(0)
    found = [SPACE.sample(rng) for _ in range(50)]
    code = (
        "import json, sys\n"
        "from search_spaces import Architecture, SearchSpace\n"
        "read = json.load(sys.stdin)\n"
        "keys = [Architecture.from_json(a).key for a in read['architectures']]\n"
        "print(json.dumps([keys, SearchSpace.from_json(read['space']).fingerprint, hash('salt')]))\n"
    )
    text = json.dumps({"architectures": [a.to_json() for a in found], "space": SPACE.to_json()})
    salts = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=text,
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        keys, fingerprint, salt = json.loads(run.stdout)
        salts.add(salt)
        assert keys == [a.key for a in found]
        assert fingerprint == SPACE.fingerprint
    assert len(salts) == 2  # the two processes did hash differently


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": 0},
        {"context_length": -1},
        {"head_dim": 1.5},
        {"norm": "batchnorm"},
        {"activation": "relu"},
        {"positions": "alibi"},
        {"residual": "none"},
        {"queries_per_kv_head": 0},
        {"rotary_fraction": 0.0},
        {"rotary_fraction": 1.5},
        {"rotary_fraction": "1"},
        {"positions": "rotary", "head_dim": 3},
        {"positions": "rotary", "rotary_fraction": 0.01},
        {"tied_embeddings": "False"},
    ],
)
def test_an_invalid_family_cannot_be_constructed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(GPT2, **fields)


def test_a_family_survives_json_and_refuses_another() -> None:
    assert Family.from_json(json.loads(json.dumps(GPT2.to_json()))) == GPT2
    assert replace(GPT2, rotary_fraction=1).to_json() == GPT2.to_json()
    for value in (None, 5, {"vocab_size": 4}, GPT2.to_json() | {"extra": 1}):
        with pytest.raises(ValueError, match="expected"):
            Family.from_json(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_heads divisible by queries_per_kv_head=2"):
        replace(GPT2, queries_per_kv_head=2).kv_heads(3)


@pytest.mark.parametrize(
    ("phase", "fields"),
    [
        ("train", {}),
        ("decode", {"batch": "0"}),
        ("decode", {"batch": "-1"}),
        ("decode", {"context": "1.5"}),
        ("decode", {"context": "many"}),
        ("prefill", {"ctx": "128"}),
    ],
)
def test_an_unknown_workload_is_refused(phase: str, fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Workload.parse(phase, fields)


def test_a_workload_counts_the_tokens_of_a_pass() -> None:
    assert Workload.parse("decode", {"batch": "8", "context": "512"}).num_tokens == 8
    assert Workload.parse("prefill", {"batch": "8", "context": "512"}).num_tokens == 4096
    assert Workload.parse("decode", {}) == Workload("decode", 1, 128)
