"""The storage of a study: what a kill leaves is mended, what is damaged or foreign is refused and left as it is."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import FEW, study, told

from nas.files import FileWriteError
from nas.journal import StudyStorageError, repair_journal
from nas.storage import open_storage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The journal of a finished study of four trials."""
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    study(n_trials=4, storage=path)
    return path.read_bytes()


def test_a_journal_is_one_json_record_a_line(whole: bytes) -> None:
    assert whole.endswith(b"\n")
    assert all("op_code" in json.loads(line) for line in whole.splitlines())


@given(cut=st.integers(0, 10**6))
def test_a_torn_last_line_is_cut_and_nothing_else(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "study.journal"
    torn = whole[: cut % (len(whole) + 1)]
    path.write_bytes(torn)
    kept = torn[: torn.rfind(b"\n") + 1]
    assert repair_journal(path) == len(torn) - len(kept)
    assert path.read_bytes() == kept
    assert repair_journal(path) == 0


def test_a_last_line_longer_than_a_block_is_cut(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    for size in (4095, 4096, 4097, 20_000):
        path.write_bytes(whole + b'{"op_code":' + b"1" * size)
        assert repair_journal(path) == size + 11
        assert path.read_bytes() == whole


def test_zeros_after_a_power_cut_are_cut(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(whole + b'{"op_co' + bytes(100))
    assert repair_journal(path) == 107
    assert path.read_bytes() == whole


def test_a_disk_that_fills_up_is_named_with_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = tmp_path / "study.journal", told(study(n_trials=4))
    study(n_trials=2, storage=path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(FileWriteError, match=rf"append \d+ bytes to {path}, got: No space"):
            study(n_trials=4, storage=path)
    assert told(study(n_trials=4, storage=path)) == expected


def test_a_missing_journal_is_nothing_to_repair(tmp_path: Path) -> None:
    assert repair_journal(tmp_path / "study.journal") == 0
    assert not list(tmp_path.iterdir())


def test_a_line_torn_while_the_study_is_open_is_cut_before_the_next_is_written(
    whole: bytes, tmp_path: Path
) -> None:
    """A worker killed in the middle of a line must not spoil the line of another that goes on."""
    path = tmp_path / "study.journal"
    path.write_bytes(whole)
    storage = open_storage(path)
    with path.open("ab") as file:
        file.write(b'{"op_code":8,"work')
    opened = optuna.load_study(study_name="small", storage=storage)
    opened.set_user_attr("after", 1)
    assert [json.loads(line) for line in path.read_bytes().splitlines()]
    again = optuna.load_study(study_name="small", storage=open_storage(path))
    assert again.user_attrs["after"] == 1
    assert len(again.trials) == 4


def test_damage_in_the_middle_names_the_line_and_changes_nothing(
    whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "study.journal"
    lines = whole.splitlines(keepends=True)
    for number in (1, 7, len(lines)):
        line = lines[number - 1]
        for bad in (b"\0" * (len(line) - 1) + b"\n", line[: len(line) // 2] + b"\n", b"7\n", b"\n"):
            damaged = b"".join(lines[: number - 1]) + bad + b"".join(lines[number:])
            path.write_bytes(damaged)
            with pytest.raises(StudyStorageError, match=rf"line {number} of .*restore the file"):
                study(n_trials=6, storage=path)
            assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "content",
    [
        b"the only copy of my notes",
        b"notes\nin two lines\n",
        b'{"trial": 1}\n{"trial": 2}\n',
        b'[{"op_code": 0, "worker_id": ""}]\n',
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
        b"SQLite format 3\x00\x10\x00",
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    with pytest.raises(StudyStorageError, match="expected line 1 of .*use another storage"):
        study(storage=path)
    assert path.read_bytes() == content


def test_records_that_belong_to_no_study_are_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[5:]))
    with pytest.raises(StudyStorageError, match="use another storage"):
        study(storage=path)


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    study(n_trials=1, storage=tmp_path / "a" / "b" / "study.journal")
    assert (tmp_path / "a" / "b" / "study.journal").exists()


def test_sqlite_keeps_and_resumes_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    expected = told(study("nsga2", 9, space=FEW))
    assert told(study("nsga2", 4, space=FEW, storage=url)) == expected[:4]
    left = optuna.load_study(study_name="small", storage=url)
    left.ask()  # as a killed process leaves it
    assert told(study("nsga2", 9, space=FEW, storage=url)) == expected
    assert [t.state.name for t in left.get_trials()] == ["COMPLETE"] * 4 + ["FAIL"] + [
        "COMPLETE"
    ] * 5


def test_another_study_in_a_database_says_what_would_help(tmp_path: Path) -> None:
    """The output folder does not choose the study of a database."""
    url = f"sqlite:///{tmp_path}/study.db"
    study(n_trials=1, storage=url)
    with pytest.raises(StudyStorageError, match="differs in seed.*use another database, or"):
        study(n_trials=1, storage=url, seed=9)
    path = tmp_path / "study.journal"
    study(n_trials=1, storage=path)
    with pytest.raises(StudyStorageError, match="differs in seed.*or output folder"):
        study(n_trials=1, storage=path, seed=9)


def test_a_url_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"this is not a database at all" * 50)
    for url in (
        f"sqlite:///{tmp_path}/missing/study.db",
        f"sqlite:///{foreign}",
        "oracel://localhost/studies",
        "://",
    ):
        with pytest.raises(StudyStorageError, match="expected an Optuna storage URL"):
            study(storage=url)
