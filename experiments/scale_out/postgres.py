"""A PostgreSQL server for a while, from the binaries of Debian's package: its own folder, its own port, nothing else touched."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WAIT_S = 60.0


class NoPostgresError(ValueError):
    """There is no PostgreSQL to start here."""


def find_binaries() -> Path:
    """Folder of ``initdb`` and ``postgres``, of the newest version.

    Raises:
        NoPostgresError: if there are none.
    """
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    found.sort(key=lambda p: int(p.parent.name) if p.parent.name.isdigit() else 0)
    elsewhere = shutil.which("postgres")
    if not found and elsewhere:
        found = [Path(elsewhere).parent]
    if not found:
        raise NoPostgresError(
            "expected a PostgreSQL server in /usr/lib/postgresql/*/bin or on the PATH, found none; "
            "apt-get install postgresql"
        )
    return found[-1]


@dataclass
class PostgresServer:
    """A server that runs.

    Args:
        folder: of its data and log.
        port: on 127.0.0.1.
        user: superuser of the database.
        password: of that user.
        settings: of the server, name to value.
        binaries: folder of ``initdb`` and ``postgres``.
    """

    folder: Path
    port: int
    user: str
    password: str
    settings: dict[str, str]
    binaries: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def url(self, database: str = "postgres") -> str:
        """Address of a database of the server, with its password."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; its address."""
        self.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows of one statement, outside a transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server on its folder, and wait until it answers."""
        import psycopg

        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd="/", **_as_user()
            )
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    log_text = (self.folder / "log").read_text()[-1000:]
                    raise NoPostgresError(
                        f"expected PostgreSQL to start, got: {error}; its log ends with: {log_text}"
                    ) from error
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it at once: connections break, nothing that was committed is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def started_postgres(**settings: str) -> Iterator[PostgresServer]:
    """A new server, stopped and removed with its data when the block ends.

    Args:
        settings: of the server, such as ``fsync="off"``.

    Raises:
        NoPostgresError: if it cannot be started; as root the user ``postgres`` of Debian's package is needed.
    """
    binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
    try:
        user, password = "nas", secrets.token_hex(8)
        (folder / "password").write_text(password)
        if os.getuid() == 0:
            try:
                shutil.chown(folder, "postgres", "postgres")
                shutil.chown(folder / "password", "postgres", "postgres")
            except LookupError as error:
                raise NoPostgresError(
                    f"expected the user postgres of Debian's package (root may not run the server), got: {error}"
                ) from error
        command = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", user, "-E", "UTF8"]
        command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "-N"]
        made = subprocess.run(command, capture_output=True, text=True, cwd="/", **_as_user())
        if made.returncode:
            raise NoPostgresError(f"expected initdb to make a database, got: {made.stderr[-500:]}")
        port = free_port()
        chosen = {"listen_addresses": "127.0.0.1", "port": str(port)}
        chosen |= {"unix_socket_directories": str(folder), "max_connections": "200"} | settings
        server = PostgresServer(folder, port, user, password, chosen, binaries)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_user() -> dict[str, Any]:
    """Arguments of ``subprocess``: the server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
