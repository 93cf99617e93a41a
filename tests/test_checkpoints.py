"""Checkpoints: models and supernets on disk, damaged files and other people's weights."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.kernels import PackedWeight, pack
from nas.model import (
    GPT,
    CheckpointError,
    Supernet,
    extract,
    load_gpt,
    load_supernet,
    save_gpt,
    save_supernet,
    supernet_info,
)
from nas.model.checkpoint import load_tensors, save_tensors
from tests.model_checks import assert_close
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import FAMILIES, GPT2, PATTERNS, SOME_FAMILIES, small_space, uniform


def saved_models(folder: Path) -> list[tuple[Path, GPT]]:
    saved = []
    for name in SOME_FAMILIES:
        space = small_space(FAMILIES[name])
        supernet = random_supernet(space)
        for pattern in PATTERNS:
            path = folder / name / pattern.replace(":", "-") / "model.json"
            model = extract(
                supernet,
                uniform(space, pattern, rank=4),
                dtype=torch.bfloat16 if "g2" in name else torch.float32,
            )
            save_gpt(model, path, {"note": pattern})
            saved.append((path, model))
    return saved


@torch.no_grad()
def test_models_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    for path, model in saved_models(tmp_path):
        tokens = torch.arange(6)[None]
        loaded = load_gpt(path)
        assert loaded.architecture == model.architecture
        assert loaded.family == model.family
        assert loaded(tokens).equal(model(tokens))
        assert load_gpt(path.parent)(tokens).equal(model(tokens))
        mine, theirs = dict(model.state_dict()), dict(loaded.state_dict())
        assert mine.keys() == theirs.keys()
        assert all(mine[n].dtype == theirs[n].dtype and mine[n].equal(theirs[n]) for n in mine)
        on_disk = sum(f.stat().st_size for f in path.parent.glob("*.safetensors"))
        assert (
            on_disk - model.weight_bytes() < 10_000
        )  # stored sparse: names and shapes come on top, nothing else


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", ["csr", "csl", "bitmap", "nm"])
def test_a_model_of_any_format_is_read_back(
    format: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Also one of unstructured weights in bfloat16 as CSR, which older versions stored."""
    space = small_space()
    pattern = "2:4" if format == "nm" else "unstructured:0.70"
    model = extract(random_supernet(space), uniform(space, pattern, rank=4), dtype=dtype)
    default = {"2:4": "nm"}.get(pattern, "csl" if dtype.itemsize == 2 else "csr")
    parts = model.parts()
    assert {p.format for p in parts.values() if isinstance(p, PackedWeight)} == {default}
    for name, part in parts.items():
        if isinstance(part, PackedWeight):
            dense = part.unpack()
            parts[name] = pack(dense, part.sparsity, dense != 0, format)
    tokens = random_tokens(space, 1, 4)
    save_gpt(GPT(model.family, model.architecture, parts), tmp_path / "model.json")
    loaded = load_gpt(tmp_path / "model.json")
    found = [p for p in loaded.parts().values() if isinstance(p, PackedWeight)]
    assert {p.format for p in found} == {format}
    assert_close(loaded(tokens), model(tokens), dtype)
    for name, part in loaded.parts().items():
        mine = model.parts()[name]
        if isinstance(part, PackedWeight):
            assert isinstance(mine, PackedWeight)
            assert part.unpack().equal(mine.unpack())
    assert_close(loaded.to(torch.float64)(tokens), model.to(torch.float64)(tokens), torch.float64)


def test_a_model_of_the_older_n_of_m_layout_is_refused_with_a_remedy(tmp_path: Path) -> None:
    space = small_space()
    save_gpt(extract(random_supernet(space), uniform(space, "2:4")), tmp_path / "model.json")
    tensors, info = load_tensors(tmp_path / "model.json", "gpt")
    old = {
        name.replace("metadata", "positions"): torch.zeros(8, dtype=torch.uint8)
        if name.endswith("metadata")
        else tensor.flatten()
        for name, tensor in tensors.items()
    }
    save_tensors(tmp_path / "model.json", "gpt", old, info)
    with pytest.raises(CheckpointError, match=r"expected the tensors .*metadata.*extract"):
        load_gpt(tmp_path / "model.json")


def test_a_supernet_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    for name in SOME_FAMILIES:
        supernet = random_supernet(small_space(FAMILIES[name]))
        path = tmp_path / f"{name}.json"
        save_supernet(supernet, path, {"tokens": 123, "loss_curve": [[1, 2.5, 3.0]]})
        loaded, info = load_supernet(path)
        assert loaded.space == supernet.space
        assert info["tokens"] == 123
        assert supernet_info(path) == info
        assert all(
            p.equal(q) for p, q in zip(supernet.parameters(), loaded.parameters(), strict=True)
        )
        save_supernet(supernet, path, {}, dtype=torch.bfloat16)
        half, _ = load_supernet(path)
        pairs = zip(supernet.parameters(), half.parameters(), strict=True)
        assert all(
            q.dtype == torch.float32 and q.equal(p.to(torch.bfloat16).float()) for p, q in pairs
        )
        assert len(list(tmp_path.glob(f"{name}-*.safetensors"))) == 1  # the first file is gone


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["gpt", "supernet"])
def test_every_flipped_bit_and_truncation_is_refused(kind: str, tmp_path: Path) -> None:
    """A hundred random bits of the tensors' file and of the JSON each, and every kind of cut."""
    space = small_space(replace(GPT2, positions="rotary"), depths=(1,), embed_dims=(32,))
    supernet = random_supernet(space)
    path = tmp_path / "stored.json"
    if kind == "gpt":
        save_gpt(extract(supernet, uniform(space, "2:4", rank=4)), path)
    else:
        save_supernet(supernet, path, {"tokens": 5, "recipe": {"seed": 0, "learning_rate": 1e-3}})
    load = load_gpt if kind == "gpt" else load_supernet
    load(path)
    (tensors,) = tmp_path.glob("*.safetensors")
    rng = np.random.default_rng(0)
    for file in (path, tensors):
        whole = file.read_bytes()
        for _ in range(100):
            flip(file, int(rng.integers(len(whole))), int(rng.integers(8)))
            if file == path and _same_json(file.read_bytes(), whole):
                continue  # a space became a tab: nothing was lost
            with pytest.raises(CheckpointError, match="expected"):
                load(path)
            file.write_bytes(whole)
        for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 2):
            file.write_bytes(whole[:size])
            with pytest.raises(CheckpointError, match="expected"):
                load(path)
        file.write_bytes(whole)
    load(path)


def _same_json(changed: bytes, whole: bytes) -> bool:
    try:
        return bool(json.loads(changed) == json.loads(whole))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{}",
        b"\xff\xfe",
        b'{"format": "other", "version": 1}',
        b'{"format": "sparse-gpt-nas"}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt"}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "../x.safetensors", "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "..", "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": 3, "sha256": "", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 1, "kind": "gpt", "file": "x.safetensors", "info": {}}',
        b'{"format": "sparse-gpt-nas", "version": 99, "kind": "gpt", "file": "x.safetensors", "sha256": "", "info": {}}',
        b'{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}',
        b"[" * 100_000,
    ],
)
def test_foreign_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected"):
        load_gpt(path)
    with pytest.raises(CheckpointError, match="expected"):
        load_supernet(path)


def test_missing_and_mistaken_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path)
    space = small_space()
    supernet = random_supernet(space)
    save_supernet(supernet, tmp_path / "supernet.json", {})
    save_gpt(extract(supernet, space.largest), tmp_path / "gpt.json")
    with pytest.raises(CheckpointError, match="expected a gpt .* got a supernet"):
        load_gpt(tmp_path / "supernet.json")
    with pytest.raises(CheckpointError, match="expected a supernet .* got a gpt"):
        load_supernet(tmp_path / "gpt.json")
    with pytest.raises(CheckpointError, match="expected"):
        load_gpt(next(tmp_path.glob("gpt-*.safetensors")))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match="found no such file"):
        load_gpt(tmp_path / "gpt.json")


def test_whole_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    """Hashes that fit do not make tensors a model: names, shapes, indices and space are checked as well."""
    space = small_space()
    model = extract(random_supernet(space), uniform(space, "unstructured:0.70"))
    save_gpt(model, tmp_path / "model.json")
    tensors, info = load_tensors(tmp_path / "model.json", "gpt")
    columns = next(name for name in tensors if name.endswith("columns"))
    weight = next(name for name in tensors if name.endswith("norm.weight"))
    for name, change in (
        (columns, tensors[columns] + 1000),
        (columns, tensors[columns].flip(0)),
        (columns, tensors[columns].long()),
        (weight, tensors[weight][1:]),
        ("another", torch.ones(1)),
    ):
        save_tensors(tmp_path / "model.json", "gpt", tensors | {name: change}, info)
        with pytest.raises(CheckpointError, match="expected a whole model"):
            load_gpt(tmp_path / "model.json")
    for fields in (
        info | {"architecture": space.largest.to_json()},
        info | {"architecture": None},
        info | {"family": {}},
        {},
    ):
        save_tensors(tmp_path / "model.json", "gpt", tensors, fields)
        with pytest.raises(CheckpointError, match="expected a whole model"):
            load_gpt(tmp_path / "model.json")
    stored = {"embedding": torch.ones(2, 2)}
    for fields in ({"space": space.to_json()}, {"space": {}}, {}, {"space": None}):
        save_tensors(tmp_path / "supernet.json", "supernet", stored, fields)
        with pytest.raises(CheckpointError, match="expected"):
            load_supernet(tmp_path / "supernet.json")


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pickle was used")

    for module, names in ((pickle, ("loads", "load", "dumps", "dump")), (torch, ("load", "save"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    space = small_space()
    supernet = random_supernet(space)
    save_supernet(supernet, tmp_path / "supernet.json", {"tokens": 1})
    save_gpt(extract(supernet, space.smallest), tmp_path / "gpt.json")
    load_supernet(tmp_path / "supernet.json")
    load_gpt(tmp_path / "gpt.json")
    monkeypatch.undo()
    bomb = pickle.dumps(Bomb())
    (tmp_path / "gpt.json").write_bytes(bomb)
    with pytest.raises(CheckpointError):
        load_gpt(tmp_path / "gpt.json")


def test_a_killed_writer_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before any of its writes, a save leaves what was there, whole."""
    space = small_space()
    path = tmp_path / "supernet.json"
    first, second = random_supernet(space, seed=1), random_supernet(space, seed=2)
    save_supernet(first, path, {"number": 1})
    import nas.model.checkpoint as module

    for name in ("write_bytes_atomic", "write_json_atomic"):

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            save_supernet(second, path, {"number": 2})
        monkeypatch.undo()
        loaded, info = load_supernet(path)
        assert info["number"] == 1
        assert loaded.embedding.equal(first.embedding)
    save_supernet(second, path, {"number": 2})
    assert load_supernet(path)[0].embedding.equal(second.embedding)


def test_a_space_of_dense_weights_has_no_adapters() -> None:
    space = small_space(
        attention_sparsities=("dense",), ffn_sparsities=("dense",), adapter_ranks=(0,)
    )
    names = [name for name, _ in Supernet(space).named_parameters()]
    assert not any("adapter" in name for name in names)
    assert any("adapter" in name for name, _ in Supernet(small_space()).named_parameters())
