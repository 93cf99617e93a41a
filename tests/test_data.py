"""nas.data: the split, the tokens, the cache and the batches, against independent reconstructions."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from nas.data import (
    END_OF_TEXT,
    Corpus,
    CorpusError,
    TokenBatches,
    cached_corpus,
    load_corpus,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
    validation_batch,
)

REPOSITORY = Path(__file__).resolve().parents[1]
WIKITEXT = REPOSITORY / ".." / "shared" / "data" / "wikitext-2"
PROSE = "".join(
    f"{i}: the quick brown fox number {i * i} jumps over lazy dog {i % 7}.\n" for i in range(2_000)
)

needs_wikitext = pytest.mark.skipif(
    not WIKITEXT.is_dir(), reason="the second corpus ../shared/data/wikitext-2 is absent"
)


def documents(corpus: Corpus, tokens: Any) -> list[str]:
    """Decode a token array and cut it at the separator."""
    text = corpus.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    assert text.endswith(END_OF_TEXT)
    return text.split(END_OF_TEXT)[:-1]


def stamps(cache: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in cache.rglob("*") if p.suffix in (".json", ".npy")}


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE)
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([PROSE], 512)


# ---------------------------------------------------------------- tokenizer


@given(text=st.text() | st.just(f"a {END_OF_TEXT} b") | st.text("az \n\t\r\0é漢🙂"))
def test_every_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.token_to_id(END_OF_TEXT) not in ids  # its name in a text is plain text


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(train_tokenizer([PROSE], 400)) != tokenizer_fingerprint(tokenizer)
    text = f"the quick {END_OF_TEXT} fox"
    assert again.encode(text).ids == tokenizer.encode(text).ids
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"expected a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    tokenizer = train_tokenizer(
        ["abababab"], 258
    )  # room for one merge: ab (4 times), not ba (3 times)
    assert tokenizer.encode("abc").tokens == ["ab", "c"]


# ---------------------------------------------------------------- sources and split


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


# ---------------------------------------------------------------- bad input


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


def test_tokenizers_that_do_not_fit(prose: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="vocab_size >= 257.*got 256"):
        load_corpus(prose, vocab_size=256, cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="at most vocab_size = 300 tokens, got 512"):
        load_corpus(prose, vocab_size=300, tokenizer=tokenizer, cache_dir=tmp_path)
    words = Tokenizer(models.WordLevel({"the": 0, "?": 1}, unk_token="?"))
    with pytest.raises(CorpusError, match="token between documents"):
        load_corpus(prose, tokenizer=words, cache_dir=tmp_path)


# ---------------------------------------------------------------- cache


def test_a_given_tokenizer_is_used_whole(prose: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    limited = Tokenizer.from_str(tokenizer.to_str())
    limited.enable_truncation(16)  # as checkpoints ship them
    limited.enable_padding(length=16)
    corpora = [
        load_corpus(prose, vocab_size=512, tokenizer=t, cache_dir=tmp_path / str(i))
        for i, t in enumerate((tokenizer, limited, None))
    ]
    assert limited.truncation is not None  # the caller's own is not changed
    assert corpora[0].fingerprint == corpora[1].fingerprint
    assert corpora[0].tokenizer_fingerprint == tokenizer_fingerprint(tokenizer)
    # trained on the training part alone, not on the whole text as the fixture was
    assert corpora[2].tokenizer_fingerprint != corpora[0].tokenizer_fingerprint
    path = tmp_path / "2" / "tokenizer.json"
    again = load_corpus(prose, vocab_size=512, tokenizer=path, cache_dir=tmp_path / "3")
    assert again.fingerprint == corpora[2].fingerprint


def test_the_cache_is_used_until_an_input_changes(tmp_path: Path) -> None:
    text, cache = tmp_path / "prose.txt", tmp_path / "cache"
    text.write_text(PROSE)
    first = load_corpus(text, vocab_size=512, cache_dir=cache)
    before = stamps(cache)
    again = load_corpus(text, vocab_size=512, cache_dir=cache)
    assert stamps(cache) == before
    assert again.fingerprint == first.fingerprint
    assert (again.num_bytes, again.validation_bytes) == (first.num_bytes, first.validation_bytes)
    smaller = load_corpus(text, vocab_size=300, cache_dir=cache)
    assert smaller.vocab_size == 300
    text.write_text(PROSE + "one more line\n")
    changed = load_corpus(text, vocab_size=512, cache_dir=cache)
    assert changed.fingerprint != first.fingerprint
    assert changed.num_bytes == first.num_bytes + len("one more line\n")


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokens/train.npy", "tokens/validation.npy", "tokens/corpus.json"],
)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_cache_is_made_again(prose: Path, tmp_path: Path, name: str, damage: str) -> None:
    first = load_corpus(prose, vocab_size=300, cache_dir=tmp_path)
    tokens = np.array(first.train_tokens), np.array(first.validation_tokens)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    again = load_corpus(prose, vocab_size=300, cache_dir=tmp_path)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.train_tokens, tokens[0])
    np.testing.assert_array_equal(again.validation_tokens, tokens[1])


def test_an_unexpected_text_is_refused_before_anything_is_written(
    prose: Path, tmp_path: Path
) -> None:
    text, cache = tmp_path / "prose.txt", tmp_path / "cache"
    text.write_text(PROSE)
    first = load_corpus(text, vocab_size=300, cache_dir=cache)
    before = stamps(cache)
    for expected in (None, first.fingerprint):
        found = load_corpus(text, vocab_size=300, cache_dir=cache, expected=expected, replace=False)
        assert found.fingerprint == first.fingerprint
    with pytest.raises(CorpusError, match="fingerprint 0123, got"):
        load_corpus(text, vocab_size=300, cache_dir=cache, expected="0123")
    # The tokenizer that was trained on a text may also be given for it.
    given = cache / "tokenizer.json"
    load_corpus(text, vocab_size=300, tokenizer=given, cache_dir=cache, replace=False)
    text.write_text(PROSE + "one more line\n")
    with pytest.raises(CorpusError, match=f"fingerprint {first.fingerprint}, got"):
        load_corpus(text, vocab_size=300, cache_dir=cache, expected=first.fingerprint)
    with pytest.raises(CorpusError, match=r"\(other text\); use another output folder"):
        load_corpus(text, vocab_size=300, cache_dir=cache, replace=False)
    assert stamps(cache) == before
    # In an empty folder the tokens are made and judged before they are written.
    with pytest.raises(CorpusError, match="fingerprint"):
        load_corpus(text, vocab_size=300, cache_dir=tmp_path / "new", expected=first.fingerprint)
    assert not stamps(tmp_path / "new")
    again = load_corpus(prose, vocab_size=300, cache_dir=tmp_path / "new")
    fingerprint = again.fingerprint
    (tmp_path / "new" / "tokens" / "train.npy").unlink()
    found = load_corpus(prose, vocab_size=300, cache_dir=tmp_path / "new", expected=fingerprint)
    assert found.fingerprint == fingerprint


def test_a_cache_is_taken_without_its_text(tmp_path: Path) -> None:
    text, cache = tmp_path / "prose.txt", tmp_path / "cache"
    text.write_text(PROSE)
    first = load_corpus(text, vocab_size=300, cache_dir=cache)
    text.unlink()
    found = cached_corpus(text, cache, first.fingerprint)
    assert found is not None
    assert (found.name, found.fingerprint) == (str(text), first.fingerprint)
    np.testing.assert_array_equal(found.train_tokens, first.train_tokens)
    assert cached_corpus(text, cache, "0123") is None
    assert cached_corpus(text, tmp_path / "none", first.fingerprint) is None
    assert not (tmp_path / "none").exists()
    (cache / "tokens" / "train.npy").write_bytes(b"damaged")
    assert cached_corpus(text, cache, first.fingerprint) is None


LOADER = """
import sys
from nas.data import load_corpus
print("ready", flush=True)
print(load_corpus(sys.argv[1], vocab_size=2048, cache_dir=sys.argv[2]).fingerprint)
"""


def test_kills_and_a_second_process_do_not_harm_the_cache(tmp_path: Path) -> None:
    text, cache = tmp_path / "prose.txt", tmp_path / "cache"
    text.write_text(PROSE * 10)
    command = [sys.executable, "-c", LOADER, str(text), str(cache)]
    for delay_s in (0.02, 0.1, 0.3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in pair]
    fresh = load_corpus(text, vocab_size=2048, cache_dir=tmp_path / "fresh")
    assert outputs == [f"ready\n{fresh.fingerprint}\n"] * 2


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_of_seed_step_and_rank() -> None:
    tokens = np.arange(10_000, dtype=np.uint16)
    batches = TokenBatches(tokens, 32, 4, seed=7)
    late = TokenBatches(tokens, 32, 4, seed=7).batch(41)  # a resumed run
    for step in range(41):
        batches.batch(step)
    assert torch.equal(batches.batch(41), late)
    assert late.dtype == torch.int64
    assert late.shape == (4, 33)
    # the tokens count up, so a window is right when it counts up from its first token
    assert torch.equal(late, late[:, :1] + torch.arange(33))
    assert not torch.equal(late, batches.batch(42))
    assert not torch.equal(late, TokenBatches(tokens, 32, 4, seed=8).batch(41))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_batch_of_one_process(world_size: int) -> None:
    tokens = np.arange(60_000, dtype=np.uint16)
    one = TokenBatches(tokens, 16, 5 * world_size, seed=0)
    each = TokenBatches(tokens, 16, 5, seed=0)
    for step in range(20):
        shares = [each.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat(shares), one.batch(step))


def test_every_window_is_drawn_and_none_beyond_the_end() -> None:
    tokens = np.arange(12, dtype=np.uint32)
    batches = TokenBatches(tokens, 4, 8, seed=0)
    starts = {int(row[0]) for step in range(40) for row in batches.batch(step)}
    assert starts == set(range(8))  # the last window is tokens 7 to 11


@pytest.mark.parametrize(
    ("length", "context", "num_tokens", "num_windows"),
    [(100, 9, 45, 5), (100, 9, 46, 5), (100, 9, 1, 1), (100, 9, 10_000, 11), (10, 9, 9, 1)],
)
def test_validation_windows_predict_each_token_once(
    length: int, context: int, num_tokens: int, num_windows: int
) -> None:
    tokens = 1000 + np.arange(length, dtype=np.uint16)
    windows = validation_batch(tokens, context, num_tokens)
    assert windows.shape == (num_windows, context + 1)
    assert windows.dtype == torch.int64
    inputs, targets = windows[:, :-1].flatten(), windows[:, 1:].flatten()
    assert (
        targets.tolist() == (inputs + 1).tolist()
    )  # the tokens count upwards: each follows its input
    starts = windows[:, 0].tolist()
    assert starts[0] == int(tokens[0])
    assert len(set(targets.tolist())) == num_windows * context  # no token is predicted twice
    gaps = np.diff(starts)
    assert len(gaps) == 0 or (gaps.min() >= context and gaps.max() - gaps.min() <= context)


def test_too_few_tokens_for_the_context() -> None:
    tokens = np.arange(128, dtype=np.uint16)
    with pytest.raises(ValueError, match=r"context \+ 1 = 129 tokens, got 128.*shorter context"):
        TokenBatches(tokens, 128, 1, 0)
    with pytest.raises(ValueError, match=r"context \+ 1 = 129 tokens, got 128"):
        validation_batch(tokens, 128, 128)
    with pytest.raises(ValueError, match="context >= 1, got 0"):
        validation_batch(tokens, 0, 128)
    with pytest.raises(ValueError, match="batch_size >= 1, got 0"):
        TokenBatches(tokens, 16, 0, 0)
    with pytest.raises(ValueError, match="rank < world_size, got rank 2 of 2"):
        TokenBatches(tokens, 16, 1, 0).batch(0, 2, 2)
