"""The parts of a deployment that every process needs: its folder, its database, its engines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from billing.engines.capabilities import ENGINES
from billing.errors import ConfigurationError
from billing.planfiles.backend_file import BackendSpec, read_backend_line, read_backends
from billing.settings import Settings
from billing.store.database import Database
from billing.store.embedded.folder import default_data_dir
from billing.store.embedded.server import shared_server
from billing.store.schema_version import current_revision, newest_revision

WAIT_MS_MIN = 250
WAIT_MS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrls:
    """How to reach the database: as its owner, for migrations, and as the application."""

    owner: str = field(repr=False)
    app: str = field(repr=False)
    embedded: bool


def data_dir(settings: Settings) -> Path:
    """The folder of the embedded database and of the journals."""
    return settings.data_dir or default_data_dir()


def journal_dir(settings: Settings) -> Path:
    """Where the proxy's journals are; the ledger writer reads the same folder."""
    return data_dir(settings).joinpath("journal")


@contextmanager
def running_database(settings: Settings) -> Generator[DatabaseUrls]:
    """The database of this deployment, running for the length of the block.

    An embedded server is shared by all processes that use the same folder, and stops with the
    last of them. A server named by `STEELYARD_DATABASE_URL` is used as it is.
    """
    if settings.database_url is not None:
        app = _with_driver(settings.database_url, "STEELYARD_DATABASE_URL")
        owner = app
        if settings.migrate_url is not None:
            owner = _with_driver(settings.migrate_url, "STEELYARD_MIGRATE_URL")
        yield DatabaseUrls(owner=owner, app=app, embedded=False)
        return
    with shared_server(data_dir(settings)) as address:
        yield DatabaseUrls(owner=address.owner_url(), app=address.app_url(), embedded=True)


@contextmanager
def opened_database(
    settings: Settings, *, pool_size: int = 8, answer_ms: int = 0
) -> Generator[Database]:
    """A database at the newest schema, ready for transactions.

    Args:
        answer_ms: as of `Database`; a migration takes as long as it takes.

    Raises:
        ConfigurationError: it does not answer, or a server of the operator's is not migrated.
    """
    with running_database(settings) as urls:
        if urls.embedded:
            ensure_migrated(urls)
        database = Database(urls.app, pool_size=pool_size, answer_ms=answer_ms)
        try:
            database.require_reachable()
            if not urls.embedded:
                require_migrated(urls)
            yield database
        finally:
            database.close()


def wait_for_database(
    settings: Settings, stopping: threading.Event, *, told: Callable[[int], None]
) -> bool:
    """Wait until the operator's server answers: a process that starts before it shall not end.

    An embedded server is there: whoever opens it starts it.

    Args:
        told: called before each pause with its milliseconds; they grow up to ten seconds.

    Returns:
        False if `stopping` was set before it answered.
    """
    if settings.database_url is None:
        return not stopping.is_set()
    database = Database(_with_driver(settings.database_url, "STEELYARD_DATABASE_URL"), pool_size=1)
    pause_ms = WAIT_MS_MIN
    try:
        while not stopping.is_set():
            try:
                database.require_reachable()
            except ConfigurationError:
                told(pause_ms)
                stopping.wait(pause_ms / 1000)  # float: it takes seconds
                pause_ms = min(2 * pause_ms, WAIT_MS_MAX)
            else:
                return True
        return False
    finally:
        database.close()


def ensure_migrated(urls: DatabaseUrls) -> None:
    """Bring the database to the newest schema if it is behind."""
    if current_revision(urls.owner) != newest_revision():
        # Imported only now: processes that find the schema right start half a second sooner.
        from billing.store.migrate import migrate  # noqa: PLC0415

        migrate(urls.owner)


def require_migrated(urls: DatabaseUrls) -> None:
    """Check the schema of a server that the operator runs.

    Raises:
        ConfigurationError: it is not the newest.
    """
    if current_revision(urls.owner) != newest_revision():
        raise ConfigurationError(
            "the database's schema is not the one of this version",
            field="STEELYARD_DATABASE_URL",
            remedy="run `steelyard db migrate`",
        )


def configured_backends(settings: Settings) -> tuple[BackendSpec, ...]:
    """The inference engines of this deployment; none means the simulated one.

    Raises:
        ConfigurationError, InvalidPlan: the setting or the file cannot be used.
    """
    if settings.backends is None:
        return ()
    engines = frozenset(ENGINES)
    if settings.backends.endswith((".yaml", ".yml")):
        try:
            text = Path(settings.backends).read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            raise ConfigurationError(
                "the backends file cannot be read",
                field="STEELYARD_BACKENDS",
                remedy="check the path and its rights",
            ) from None
        return read_backends(
            text,
            engines=engines,
            salted_engines=frozenset(name for name in ENGINES if ENGINES[name].cache_salt),
            environment=os.environ,
        )
    return read_backend_line(settings.backends, engines=engines)


def _with_driver(secret: SecretStr, field: str) -> str:
    """People write postgresql://; the one driver is psycopg 3.

    Raises:
        ConfigurationError: not a PostgreSQL URL.
    """
    url = secret.get_secret_value()
    for scheme in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(scheme):
            named = "postgresql+psycopg://" + url.removeprefix(scheme)
            with suppress(ArgumentError, ValueError):
                make_url(named)
                return named
    raise ConfigurationError(
        "not a PostgreSQL URL",
        field=field,
        remedy="write it like postgresql://user:password@host/database",
    )
