"""How a storage is named: a path is a journal file, anything with ``://`` an address; passwords are never shown."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

from nas.files import PathLike

Engine = Literal["memory", "journal", "sqlite", "postgresql", "grpc", "database"]

#: Masks what follows it in the addresses that are shown, logged and stored.
MASK = "***"
_USER = re.compile(r"(?<=://)([^:/?#\s]*):(\S*)@")
_SECRET = re.compile(r"([?&](?:password|sslpassword)=)[^&\s]*", re.IGNORECASE)
_POSTGRESQL = ("postgresql", "postgres")


def is_url(storage: PathLike | None) -> bool:
    """Whether a storage is named by an address and not by a path."""
    return storage is not None and "://" in str(storage)


def engine_of(storage: PathLike | None) -> Engine:
    """What keeps a study: ``memory``, ``journal``, ``sqlite``, ``postgresql``, ``grpc``, or another ``database``."""
    if storage is None:
        return "memory"
    if not is_url(storage):
        return "journal"
    text = str(storage)
    scheme = text.partition("://")[0].lower().partition("+")[0]
    if scheme == "sqlite":
        return "sqlite" if sqlite_file(text) else "memory"
    if scheme in _POSTGRESQL:
        return "postgresql"
    return "grpc" if scheme == "grpc" else "database"


def sqlite_file(url: str) -> str | None:
    """The file of a SQLite address; None where the database lives in memory."""
    path = url.partition("://")[2].partition("?")[0].removeprefix("/")
    return None if path in ("", ":memory:") or "mode=memory" in url else path


def with_driver(url: str) -> str:
    """An address of PostgreSQL with the driver of the extra ``postgres`` (psycopg 3), unless it names one; others as they are."""
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme.lower() in _POSTGRESQL else url


def shown(storage: PathLike | None) -> str:
    """A storage as it may be printed and stored: without its password."""
    return hide_passwords(str(storage))


def hide_passwords(text: str) -> str:
    """Text with the passwords of all addresses in it masked."""
    return _SECRET.sub(rf"\1{MASK}", _USER.sub(rf"\1:{MASK}@", text))


def scrubbed(text: str, storage: PathLike | None) -> str:
    """What another library says of a storage, without the password, however it is spelled there."""
    found = _USER.search(str(storage))
    if found and found[2]:
        for spelling in sorted({found[2], unquote(found[2])}, key=len, reverse=True):
            text = text.replace(spelling, MASK)
    return hide_passwords(text)


def host_and_port(url: str) -> tuple[str, int]:
    """Of ``grpc://host:port``.

    Raises:
        ValueError: if there is anything else in it, or one of them is missing.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError(
            f"expected grpc://host:port, got {shown(url)!r}; "
            "for example grpc://localhost:13000, after: nas serve --port 13000"
        )
    return host, port
