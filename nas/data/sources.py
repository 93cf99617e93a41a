"""Where text comes from: every source is a name and an iterator over named documents, always in the same order."""

from __future__ import annotations

import functools
import io
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Files a folder corpus takes; all others are not text to learn from (tables, JSON, pictures).
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".py")
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


class CorpusError(ValueError):
    """The text cannot be used: missing, empty, binary, too short, or foreign to the tokenizer."""


@dataclass(frozen=True)
class Document:
    """One text with a name that does not depend on the machine (a relative path, a row number)."""

    name: str
    text: str


@dataclass(frozen=True)
class Source:
    """A corpus before tokens.

    Args:
        name: the specification it came from.
        whole_documents: True when the train/validation split never cuts a document.
        documents: opens a fresh iterator over the documents.
    """

    name: str
    whole_documents: bool
    documents: Callable[[], Iterable[Document]]


def open_source(spec: str | os.PathLike[str]) -> Source:
    """Find the documents a corpus specification means.

    Args:
        spec: ``stdlib`` (the running Python's library source), a text file, a ``.parquet`` file, a folder of both
            (text: ``.txt .text .md .rst .py``), or ``hf:<dataset>[:config]`` (its split "train").

    Returns:
        The source; nothing but the list of files is read yet.

    Raises:
        CorpusError: no such path, or a folder without text.
    """
    name = os.fspath(spec)
    if not name.strip():  # pathlib would take it for the working directory
        raise CorpusError(
            "expected stdlib, an existing file or folder, or hf:<dataset>, got an empty name; pass '.' for this folder"
        )
    if name == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return _files_source(name, root, stdlib_files(root), whole_documents=True)
    if name.startswith("hf:"):
        open_hub = functools.cache(lambda: _open_hub(name))  # read several times, fetched once
        return Source(name, False, lambda: _hub_documents(*open_hub()))
    path = Path(name).expanduser()
    if path.is_dir():
        return _files_source(name, path, _folder_files(path), whole_documents=False)
    if path.is_file():
        return _files_source(name, path.parent, [path], whole_documents=False)
    raise CorpusError(
        f"expected stdlib, an existing file or folder, or hf:<dataset>, got {name!r}; "
        f"nothing is at {path.absolute()}"
    )


def stdlib_files(root: Path) -> list[Path]:
    """List the library source below ``root``, without tests, installed packages and build settings."""
    found = []
    for path in _walk(root, skip=_TEST_FOLDERS | _NOT_LIBRARY):
        top = path.relative_to(root).parts[0]
        built_here = top.startswith(("config-", "_sysconfigdata"))  # this machine's compiler flags
        if path.suffix == ".py" and not built_here:
            found.append(path)
    if not found:
        raise CorpusError(
            f"expected the standard library's source (*.py) in {root}, got none; "
            "pass --corpus a text file or folder"
        )
    return found


def _files_source(name: str, root: Path, files: list[Path], *, whole_documents: bool) -> Source:
    def documents() -> Iterator[Document]:
        for path in files:
            relative = path.relative_to(root).as_posix()
            if path.suffix == ".parquet":
                yield from _parquet_documents(path, relative)
            else:
                yield Document(relative, read_text(path))

    return Source(name, whole_documents, documents)


def _folder_files(folder: Path) -> list[Path]:
    found = [p for p in _walk(folder) if p.suffix in (*TEXT_SUFFIXES, ".parquet")]
    if not found:
        raise CorpusError(
            f"expected a folder with text ({', '.join(TEXT_SUFFIXES)}) or .parquet files, "
            f"got {folder} without any; pass another folder, or a single file of any suffix"
        )
    return found


def _walk(root: Path, skip: Iterable[str] = ()) -> list[Path]:
    """List files below ``root`` sorted by relative path; hidden folders and links to folders are left out."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders if not s.startswith(".") and s not in skip]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_text(path: Path) -> str:
    """Read a text file (UTF-8; Python source may declare another encoding) with ``\\n`` line ends.

    Raises:
        CorpusError: it cannot be read, or is binary.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"expected to read {path}, got: {error.strerror}; check its permissions"
        ) from error
    if b"\0" in content:
        raise CorpusError(
            f"expected text in {path}, got binary data (a zero byte at {content.index(0)}); "
            "pass a text file, or leave this one out of the folder"
        )
    encoding = "utf-8-sig"
    try:
        if path.suffix == ".py":
            encoding = tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        text = content.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        raise CorpusError(
            f"expected {encoding} text in {path}, got bytes that are not ({error}); convert the file to UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parquet_documents(path: Path, name: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        column = _text_column(
            {
                field.name: pyarrow.types.is_string(field.type)
                or pyarrow.types.is_large_string(field.type)
                for field in table.schema_arrow
            },
            str(path),
        )
        row = 0
        for batch in table.iter_batches(columns=[column]):
            for text in batch.column(0).to_pylist():
                if text:
                    yield Document(f"{name}:{row}", text)
                row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"expected a parquet file at {path}, got one that cannot be read ({error}); fetch it again"
        ) from error


def _open_hub(spec: str) -> tuple[Any, str]:
    dataset_name, _, config = spec.removeprefix("hf:").partition(":")
    if not dataset_name:
        raise CorpusError(f"expected hf:<dataset>[:config], got {spec!r}; name a dataset")
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"expected the package 'datasets' for the corpus {spec!r}, got none installed; "
            'run: pip install "sparse-gpt-nas[hf]"'
        ) from error
    try:
        rows: Any = datasets.load_dataset(dataset_name, config or None, split="train")
    except (
        Exception
    ) as error:  # the library raises many kinds: connection, missing, gated, bad script
        raise CorpusError(
            f"expected to download split 'train' of {spec!r}, got {type(error).__name__}: {error}; "
            "check the name, the config and the network, or pass a local file"
        ) from error
    strings = {
        name: getattr(feature, "dtype", "") == "string" for name, feature in rows.features.items()
    }
    return rows, _text_column(strings, spec)


def _hub_documents(rows: Any, column: str) -> Iterator[Document]:
    for row, record in enumerate(rows):
        if record[column]:
            yield Document(f"{row}", record[column])


def _text_column(is_string: dict[str, bool], where: str) -> str:
    strings = [name for name, is_text in is_string.items() if is_text]
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise CorpusError(
        f"expected a string column 'text' (or exactly one string column) in {where}, "
        f"got string columns {strings} of {list(is_string)}; rename the wanted one to 'text'"
    )
