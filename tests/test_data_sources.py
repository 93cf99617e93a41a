"""Where texts come from and how they are split: files, folders, tables and the hub, against independent reconstructions."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nas.data import END_OF_TEXT, Corpus, CorpusError, TokenBatches, load_corpus
from tests.prose import PROSE, written_prose

REPOSITORY = Path(__file__).resolve().parents[1]
WIKITEXT = REPOSITORY / ".." / "shared" / "data" / "wikitext-2"

needs_wikitext = pytest.mark.skipif(
    not WIKITEXT.is_dir(), reason="the second corpus ../shared/data/wikitext-2 is absent"
)


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_prose(tmp_path_factory)


def documents(corpus: Corpus, tokens: Any) -> list[str]:
    """Decode a token array and cut it at the separator."""
    text = corpus.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    assert text.endswith(END_OF_TEXT)
    return text.split(END_OF_TEXT)[:-1]


def test_stdlib_is_split_by_the_hash_of_each_file(tmp_path: Path) -> None:
    corpus = load_corpus("stdlib", vocab_size=1024, cache_dir=tmp_path)
    root = Path(os.__file__).parent
    skipped = re.compile(
        r"(^|/)(test|tests|idle_test|site-packages|dist-packages|__pycache__|\.[^/]*)/"
    )
    held_out, rest, num_bytes = Counter[bytes](), Counter[bytes](), 0
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if skipped.search(name) or name.startswith(("config-", "_sysconfigdata")):
            continue
        content = path.read_bytes().replace(b"\r\n", b"\n")
        num_bytes += len(content)
        fraction = int(hashlib.sha256(f"0:{name}".encode()).hexdigest()[:16], 16) / 2**64
        if content:
            (held_out if fraction < 0.05 else rest)[content] += 1
    decode = {"train": corpus.train_tokens, "validation": corpus.validation_tokens}
    texts = {k: Counter(t.encode() for t in documents(corpus, v)) for k, v in decode.items()}
    # a file that declares another encoding than UTF-8 is equal only after decoding
    assert sum((texts["validation"] - held_out).values()) == 0
    assert sum((held_out - texts["validation"]).values()) == 0
    assert sum((texts["train"] - rest).values()) <= 2
    assert sum((rest - texts["train"]).values()) <= 2
    assert corpus.num_bytes == pytest.approx(num_bytes, rel=1e-3)
    assert 0.03 < corpus.validation_bytes / corpus.num_bytes < 0.12
    assert corpus.train_tokens.dtype == np.uint16
    assert int(corpus.train_tokens.max()) < 1024


def test_one_file_is_cut_at_line_ends_into_two_parts(prose: Path, tmp_path: Path) -> None:
    corpus = load_corpus(prose, vocab_size=512, cache_dir=tmp_path)
    parts = {
        name: [line for text in documents(corpus, tokens) for line in text.splitlines()]
        for name, tokens in (("t", corpus.train_tokens), ("v", corpus.validation_tokens))
    }
    assert Counter(parts["t"] + parts["v"]) == Counter(PROSE.splitlines())
    assert parts["t"] == sorted(parts["t"], key=PROSE.splitlines().index)  # in reading order
    assert not set(parts["t"]) & set(parts["v"])
    held_out = sum(len(line) + 1 for line in parts["v"])
    assert corpus.validation_bytes == held_out
    # a text of this size holds out 16 KiB, by whole pieces of at least 1 KiB and at most 2
    assert 16_384 <= held_out < 16_384 + 2_048


@needs_wikitext
@pytest.mark.parametrize("spec", ["valid.txt", "."])
def test_real_prose_has_every_line_in_one_part(spec: str, tmp_path: Path) -> None:
    corpus = load_corpus(WIKITEXT / spec, vocab_size=2048, cache_dir=tmp_path)
    files = [WIKITEXT / spec] if spec != "." else sorted(WIKITEXT.glob("*.txt"))
    lines = Counter(line for f in files for line in f.read_text(encoding="utf-8").split("\n"))
    found = Counter(
        line
        for tokens in (corpus.train_tokens, corpus.validation_tokens)
        for text in documents(corpus, tokens)
        for line in text.split("\n")
    )
    lines[""] = found[""] = 0  # a cut after a line end adds an empty line
    assert found == lines
    total = sum(f.stat().st_size for f in files)
    assert corpus.num_bytes == total
    assert 0.05 <= corpus.validation_bytes / total < 0.06
    assert TokenBatches(corpus.train_tokens, 128, 4, 0).batch(0).max() < corpus.vocab_size <= 2048


def test_another_seed_holds_out_other_text(prose: Path, tmp_path: Path) -> None:
    texts = [
        documents(corpus, corpus.validation_tokens)
        for seed in (0, 1)
        for corpus in [load_corpus(prose, vocab_size=512, cache_dir=tmp_path / "c", seed=seed)]
    ]
    assert texts[0] != texts[1]


def test_a_folder_takes_text_files_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.md").write_text(PROSE[:30_000])
    (folder / "deep" / "b.py").write_bytes(b"# -*- coding: latin-1 -*-\r\n# \xe9t\xe9\r\n" * 200)
    (folder / ".hidden" / "c.txt").write_text("hidden " * 1000)
    (folder / "table.csv").write_text("table " * 1000)
    corpus = load_corpus(folder, vocab_size=512, cache_dir=tmp_path / "cache")
    text = "".join(
        documents(corpus, corpus.train_tokens) + documents(corpus, corpus.validation_tokens)
    )
    assert len(text) == 30_000 + 200 * len("# -*- coding: latin-1 -*-\n# été\n")
    assert text.count("# été\n") == 200
    assert "hidden" not in text
    assert "table" not in text


@pytest.mark.parametrize("column", ["text", "content"])
def test_parquet_rows_are_documents(tmp_path: Path, column: str) -> None:
    rows = PROSE.splitlines()
    table = pyarrow.table({"id": list(range(len(rows))), column: rows})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    corpus = load_corpus(tmp_path / "rows.parquet", vocab_size=512, cache_dir=tmp_path)
    parts = [documents(corpus, t) for t in (corpus.train_tokens, corpus.validation_tokens)]
    # a held-out row leaves no second separator in the training part
    assert Counter(parts[0] + parts[1]) == Counter(rows)
    assert len(parts[1]) > 1


def test_parquet_without_one_text_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), path)
    with pytest.raises(CorpusError, match=r"string column 'text'.*\['a', 'b'\]"):
        load_corpus(path, cache_dir=tmp_path)
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(path, cache_dir=tmp_path)


class HubRows(list[dict[str, Any]]):
    """What datasets.load_dataset returns, as far as it is used."""

    features = types.MappingProxyType(
        {
            "text": types.SimpleNamespace(dtype="string"),
            "label": types.SimpleNamespace(dtype="int64"),
        }
    )


def test_hub_datasets_come_through_the_package_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, split: str) -> HubRows:
        calls.append((name, config, split))
        return HubRows({"text": line, "label": 0} for line in PROSE.splitlines())

    fake = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    corpus = load_corpus("hf:someone/prose:small", vocab_size=512, cache_dir=tmp_path)
    assert calls == [("someone/prose", "small", "train")]
    parts = [documents(corpus, t) for t in (corpus.train_tokens, corpus.validation_tokens)]
    assert Counter(parts[0] + parts[1]) == Counter(PROSE.splitlines())

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the hub")

    fake.load_dataset = fails
    with pytest.raises(CorpusError, match="no route to the hub.*network"):
        load_corpus("hf:someone/prose", cache_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # import datasets now fails
    with pytest.raises(CorpusError, match=r"sparse-gpt-nas\[hf\]"):
        load_corpus("hf:someone/prose", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got nothing; the corpus is empty"),
        (b"some text\0and more", r"binary data \(a zero byte at 9\)"),
        (b"caf\xe9 " * 5_000, "expected utf-8.* convert the file to UTF-8"),
        (b"far too short\n", r"at least 2000 tokens .* from 14 bytes"),
        (b"x" * 100, "at least 2000 tokens"),
    ],
)
def test_a_file_that_is_no_corpus(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_corpus(tmp_path / "corpus.txt", vocab_size=512, cache_dir=tmp_path / "cache")


def test_paths_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nothing is at .*missing"):
        load_corpus(tmp_path / "missing", cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="got an empty name"):
        load_corpus("", cache_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"expected a folder with text.*\.md"):
        load_corpus(tmp_path / "empty", cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="name a dataset"):
        load_corpus("hf:", cache_dir=tmp_path)
