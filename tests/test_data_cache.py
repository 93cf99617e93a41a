"""The cache of tokens: used until an input changes, made again when damaged, never another text's, whatever kills or shares it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nas.data import CorpusError, cached_corpus, load_corpus
from tests.prose import PROSE, written_prose

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_prose(tmp_path_factory)


def stamps(cache: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in cache.rglob("*") if p.suffix in (".json", ".npy")}


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
