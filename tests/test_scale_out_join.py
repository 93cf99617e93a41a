"""``nas join``: another machine works on the search of a run, with the run's profile and a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import copy_of_run, load_results

from nas.cli import Serve, main
from nas.commands.serving import serve_storage
from nas.files import read_jsonl
from nas.join import settings_of
from nas.searchers.indexed import index_of


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


def change(run: Path, **values: object) -> None:
    stored = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(stored | values))


@pytest.mark.slow
def test_a_run_is_joined_from_another_folder(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more trials than the run has: they are made here, and the run goes on with them."""
    import optuna

    from nas.storage import open_storage

    asked = load_results(copy)["trials"]
    change(copy, trials=len(asked) + 2)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    assert main(["join", "--run", str(copy), "--out", str(tmp_path / "mine")]) == 0
    assert f"has its {len(asked) + 2} trials" in capsys.readouterr().out
    changed = {p.name for p, time in before.items() if p.stat().st_mtime_ns != time}
    assert changed == {"search.journal"}
    study = optuna.load_study(study_name="search", storage=open_storage(copy / "search.journal"))
    assert sorted(i for i in map(index_of, study.trials) if i is not None) == list(
        range(len(asked) + 2)
    )


def test_settings_come_back_as_they_were_given(copy: Path) -> None:
    stored = json.loads((copy / "run.json").read_text())
    assert settings_of(copy).to_json() == stored
    change(copy, constraints={"weight_bytes": 4e6})
    assert settings_of(copy).to_json()["constraints"] == {"weight_bytes": 4e6}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["join", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_joined(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ("--out", str(tmp_path / "mine"))
    assert "expected a run of `nas search`" in refused(capsys, "--run", str(tmp_path), *mine)
    run = ("--run", str(copy))
    assert "expected workers of 1 or more" in refused(capsys, *run, "--workers", "0", *mine)
    change(copy, storage="postgresql://me:***@h/d")
    assert "set PGPASSWORD" in refused(capsys, *run, *mine)
    change(copy, storage=None, objectives=["perplexity", "energy_j[batch=1,context=128]"])
    assert "expected objectives without energy_j" in refused(capsys, *run, *mine)


def test_a_run_that_has_not_begun_to_search_is_not_joined(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ("--run", str(copy), "--out", str(tmp_path / "mine"))
    whole = (copy / "profile.jsonl").read_text()
    short = [line for line in whole.splitlines(keepends=True) if json.loads(line)["round"] < 2]
    (copy / "profile.jsonl").write_text("".join(short))
    assert "join when `nas search" in refused(capsys, *mine)
    (copy / "search.journal").unlink()
    assert "expected the study of the run in" in refused(capsys, *mine)


@pytest.mark.slow
def test_a_study_of_another_profile_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_jsonl(copy / "profile.jsonl")
    records[0]["median_ms"] *= 2.0
    (copy / "profile.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    mine = ("--run", str(copy), "--out", str(tmp_path / "mine"))
    assert "it differs in profile" in refused(capsys, *mine)


@pytest.mark.parametrize(
    ("storage", "is_new"),
    [
        ("new.journal", True),
        ("old.journal", False),
        ("sqlite:///{}/new.db", True),
        ("postgresql://u@h/d", False),
    ],
)
def test_a_storage_that_serving_makes_is_called_new(
    storage: str,
    is_new: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.journal").write_bytes(b"")
    monkeypatch.setattr("nas.serve.serve", lambda storage, host, port, ready: ready())
    serve_storage(Serve(storage=storage.format(tmp_path)))
    said = capsys.readouterr().out
    assert ("(new: there was no such file)" in said) == is_new
    assert "Serving" in said
