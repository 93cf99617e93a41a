"""Settings shared by all tests."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from experiments.scale_out.postgres import NoPostgresError, PostgresServer, started_postgres

# Triton's kernels are tested for values where there is no GPU: by its interpreter, which must be chosen before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# no timed assertion, also not by hypothesis: the machine may be busy; CI draws the same examples every time
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first; tests marked ``gpu`` are skipped aloud on a machine without a CUDA device.

    A file runs in one process: were a long one the last, the other process would wait for it.
    """
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server of our own, of Debian's package."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    try:
        with started_postgres(fsync="off") as server:
            yield server
    except NoPostgresError as error:
        pytest.skip(f"needs a PostgreSQL server: {error}")


@pytest.fixture
def new_database(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes empty PostgreSQL databases: on the server of NAS_TEST_POSTGRES where that is set, otherwise on one started here."""
    given, made = os.environ.get("NAS_TEST_POSTGRES"), []
    if not given:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        yield lambda: server.create(f"nas_{secrets.token_hex(6)}")
        return
    psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")
    address = given.replace("postgresql+psycopg://", "postgresql://")

    def create() -> str:
        made.append(f"nas_{secrets.token_hex(6)}")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{made[-1]}"')
        host, _, _ = address.rpartition("/")
        return f"{host}/{made[-1]}"

    yield create
    with psycopg.connect(address, autocommit=True) as connection:
        for name in made:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session", autouse=True)
def quick_timing() -> Iterator[None]:
    """Real models are timed by few calls; whoever needs :func:`nas.deploy.measure.time_calls` itself imports it."""
    from tests.quick_timing import few_calls

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.deploy.measure.time_calls", few_calls)
        yield
