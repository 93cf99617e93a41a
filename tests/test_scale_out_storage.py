"""Storages that cannot be used: each says what was expected, what came, and what to do; no password, and nothing changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from optuna.trial import TrialState
from small_study import NAMES, study, told

from experiments.scale_out.postgres import PostgresServer, free_port
from nas.cli import main
from nas.journal import StudyStorageError
from nas.run_settings import SearchRun
from nas.storage import open_plain, open_storage
from nas.study_plan import WAY


def refused(url: str | Path) -> str:
    with pytest.raises(StudyStorageError) as error:
        open_storage(url)
    message = str(error.value)
    assert message.startswith("expected ")
    assert "got" in message
    assert "; " in message
    return message


# --- PostgreSQL --------------------------------------------------------------------------------------


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    return postgres_server


def test_postgresql_is_opened_under_every_name(new_database: Callable[[], str]) -> None:
    url = new_database()
    rest = url.partition("://")[2]
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        assert open_storage(f"{scheme}://{rest}") is not None
    study(n_trials=2, storage=f"postgres://{rest}")
    assert told(study(n_trials=4, storage=f"postgresql+psycopg://{rest}")) == told(
        study(n_trials=4)
    )


def test_wrong_credentials(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    url = server.create("credentials")
    for user, password in ((server.user, "s3cr3t"), ("nobody", "s3cr3t"), ("nobody", "s3/cr@3t")):
        wrong = url.replace(f"{server.user}:{server.password}", f"{user}:{quote(password, '')}")
        message = refused(wrong)
        assert "password authentication failed" in message
        assert "PGPASSWORD" in message
        assert password not in message
        assert quote(password, "") not in message
    assert "no password" in refused(url.replace(f":{server.password}@", "@"))
    monkeypatch.setenv("PGPASSWORD", server.password)
    assert open_storage(url.replace(f":{server.password}@", "@")) is not None


def test_a_database_that_is_missing(server: PostgresServer) -> None:
    message = refused(server.url("no_such_database"))
    assert (
        'database "no_such_database" does not exist; make it: createdb no_such_database' in message
    )
    assert server.password not in message


def test_a_server_that_is_not_there() -> None:
    for address in (f"127.0.0.1:{free_port()}", "no.such.host.invalid"):
        message = refused(f"postgresql://me:s3cr3t@{address}/studies")
        assert "expected a database server at" in message
        assert "s3cr3t" not in message
        assert "start it, or mend host and port" in message


@pytest.mark.parametrize("version", ["v99.0.0.a", "v3.0.0.a"])
def test_tables_of_another_version(version: str, server: PostgresServer) -> None:
    name = f"version_{version[1:3].strip('.')}"
    url = server.create(name)
    study(n_trials=2, storage=url)
    before = server.execute("SELECT * FROM trials", name)
    server.execute(f"UPDATE alembic_version SET version_num = '{version}'", name)
    assert "expected tables of this version of Optuna" in refused(url)
    with pytest.raises(StudyStorageError, match="nothing was changed"):
        study(n_trials=4, storage=url)
    assert server.execute("SELECT * FROM trials", name) == before
    assert server.execute("SELECT version_num FROM alembic_version", name) == [(version,)]


def test_a_database_that_may_not_be_written(server: PostgresServer) -> None:
    url = server.create("not_ours")
    server.execute("CREATE USER weak PASSWORD 's3cr3t'")
    message = refused(url.replace(f"{server.user}:{server.password}", "weak:s3cr3t"))
    assert "permission denied" in message
    assert "GRANT CREATE" in message
    server.execute("ALTER DATABASE not_ours SET default_transaction_read_only = on")
    assert "read-only" in refused(url)


def test_a_database_of_something_else(server: PostgresServer) -> None:
    url = server.create("foreign")
    server.execute("CREATE TABLE studies (only_copy text)", "foreign")
    server.execute("INSERT INTO studies VALUES ('of my notes')", "foreign")
    refused(url)
    assert server.execute("SELECT * FROM studies", "foreign") == [("of my notes",)]


def test_an_unknown_driver_or_database() -> None:
    assert "expected an Optuna storage URL" in refused("postgresql+nodriver://me:s3cr3t@h/d")
    assert "expected the driver of mysql" in refused("mysql+pymysql://me:s3cr3t@h/d")


# --- files and servers -------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "use a folder that this user may write" in refused(tmp_path / "file" / "study.journal")
    closed = tmp_path / "closed"
    closed.mkdir()
    study(n_trials=2, storage=closed / "study.journal")
    before = (closed / "study.journal").read_bytes()
    for path in (*closed.iterdir(), closed):
        path.chmod(0o555 if path.is_dir() else 0o444)
    tmp_path.parent.chmod(0o755)
    is_root = os.getuid() == 0
    if is_root:  # who is stopped by no permission: be somebody else for a moment
        os.seteuid(65534)
    try:
        for name in ("study.journal", "new.journal"):
            assert "Permission denied" in refused(closed / name)
    finally:
        if is_root:
            os.seteuid(0)
        closed.chmod(0o755)
    assert (closed / "study.journal").read_bytes() == before


def test_a_grpc_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    monkeypatch.setattr("nas.storage._CONNECT_S", 0.2)
    message = refused(f"grpc://localhost:{free_port()}")
    assert "expected a storage server at grpc://localhost" in message
    assert "nas serve --storage" in message
    assert "expected grpc://host:port" in refused("grpc://localhost")


def test_what_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    for arguments, expected in (
        (["--storage", "grpc://localhost:1"], "expected a database or a journal file to serve"),
        (["--storage", str(tmp_path / "j"), "--port", "0"], "expected a port from 1 to 65535"),
        (["--storage", "postgresql://u:s3cr3t@127.0.0.1:1/d"], "expected a database server at"),
    ):
        assert main(["serve", *arguments]) == 2
        shown = capsys.readouterr().err
        assert expected in shown
        assert "s3cr3t" not in shown


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        arguments = ["--storage", str(tmp_path / "j"), "--host", "127.0.0.1", "--port", port]
        assert main(["serve", *arguments]) == 2
    assert "use another --port" in capsys.readouterr().err


# --- another study, another way ----------------------------------------------------------------------


def test_another_number_of_objectives_on_resume(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    for storage in (tmp_path / "study.journal", new_database()):
        found = told(study(n_trials=3, storage=storage))
        with pytest.raises(
            StudyStorageError, match=r"differs in objectives: .*params.*use another"
        ):
            study(n_trials=5, storage=storage, names=(*NAMES, "params"))
        assert told(study(n_trials=3, storage=storage)) == found


def test_a_study_that_others_made_with_other_objectives(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    optuna.create_study(storage=open_storage(path), study_name="small", directions=["minimize"] * 3)
    with pytest.raises(StudyStorageError, match="to minimize 2 objectives, got"):
        study(storage=path)
    optuna.create_study(
        storage=open_storage(tmp_path / "b"),
        study_name="small",
        directions=["minimize", "maximize"],
    )
    with pytest.raises(
        StudyStorageError, match=r"to minimize 2 objectives, got \['minimize', 'max"
    ):
        study(storage=tmp_path / "b")


def test_a_study_is_reached_in_one_way_by_all(tmp_path: Path) -> None:
    """Two that lock in different ways do not see each other."""
    path = tmp_path / "study.journal"
    study(n_trials=2, storage=path)
    stored = optuna.load_study(study_name="small", storage=open_plain(path))
    assert stored.user_attrs[WAY] == "file"
    stored.set_user_attr(WAY, "tickets")
    with pytest.raises(StudyStorageError, match="claims by tickets.*claims by file.*same storage"):
        study(n_trials=4, storage=path)


def test_a_password_is_in_no_file_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchRun(storage="postgresql://me:s3cr3t@h/d")
    assert config.to_json()["storage"] == "postgresql://me:***@h/d"
    assert "s3cr3t" not in json.dumps(config.to_json())
    seen: list[str] = []
    monkeypatch.setattr("nas.commands.search_run", lambda config, command: seen.append(command))
    assert main(["search", "--storage", "postgresql://me:s3cr3t@h/d"]) == 0
    assert seen == ["nas search --storage 'postgresql://me:***@h/d'"]


def test_a_storage_is_tried_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://me:s3cr3t@127.0.0.1:{free_port()}/d"
    assert main(["search", "--storage", url, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "expected a database server at postgresql://me:***@" in shown
    assert not (tmp_path / "run").exists()


# --- databases, trial by trial -----------------------------------------------------------------------


def test_a_trial_is_written_in_few_transactions_and_read_whole(tmp_path: Path) -> None:
    from sqlalchemy import event

    from nas.storage import sql_engine

    url = f"sqlite:///{tmp_path}/study.db"
    slots = {f"x{i}": optuna.distributions.IntDistribution(0, 9) for i in range(20)}
    storage, other = open_storage(url), open_plain(url)
    assert storage is not None
    made = optuna.create_study(study_name="s", storage=storage)
    made.ask(slots)  # of each name the first is compared with what others stored
    commits: list[Any] = []
    event.listen(sql_engine(storage), "commit", commits.append)
    trial = made.ask(slots)
    assert len(commits) < 6
    trial.set_user_attr("asked", True)
    theirs = optuna.load_study(study_name="s", storage=other).trials[1]
    assert theirs.params == trial.params
    assert list(theirs.params) == list(slots)
    assert theirs.distributions == slots
    made.tell(trial, 1.0)
    assert made.trials[1].params == trial.params


def test_parameters_of_a_trial_that_was_given_up_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    slots = {"x": optuna.distributions.IntDistribution(0, 9)}
    storage, other = open_storage(url), open_plain(url)
    assert storage is not None
    made = optuna.create_study(study_name="s", storage=storage)
    made.tell(made.ask(slots), 1.0)
    trial = made.ask(slots)
    other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    with pytest.raises(RuntimeError, match="finished"):
        trial.set_user_attr("asked", True)
    after = made.ask(slots)  # nothing of it is left to be written
    made.tell(after, 2.0)
    assert [t.state.name for t in made.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
