"""Where an embedded server is reached and with which logins; knows no process and no file.

The two logins: `steelyard_owner` owns the tables and runs migrations, `steelyard_app` is what
every running part of Steelyard logs in as.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import make_conninfo

OWNER = "steelyard_owner"
APP = "steelyard_app"
DATABASE = "steelyard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One way in: a socket folder, or the loopback address.

    Attributes:
        host: absolute path of the socket folder, or `127.0.0.1`.
        port: TCP port, or the number in the socket's name.
    """

    host: str
    port: int

    @property
    def socket_folder(self) -> Path | None:
        return Path(self.host) if self.host.startswith("/") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """An endpoint with the passwords of both logins, which stay out of its repr."""

    endpoint: Endpoint
    owner_password: str = field(repr=False)
    app_password: str = field(repr=False)

    def owner_url(self, database: str = DATABASE) -> str:
        """SQLAlchemy URL for migrations, percent-encoded."""
        return self._url(OWNER, self.owner_password, database)

    def app_url(self, database: str = DATABASE) -> str:
        """SQLAlchemy URL for everything that runs, percent-encoded."""
        return self._url(APP, self.app_password, database)

    def owner_conninfo(self, database: str = DATABASE) -> str:
        """The owner's login as libpq writes it, for psycopg without SQLAlchemy."""
        return self._conninfo(OWNER, self.owner_password, database)

    def app_conninfo(self, database: str = DATABASE) -> str:
        """The app's login as libpq writes it, for psycopg without SQLAlchemy."""
        return self._conninfo(APP, self.app_password, database)

    def _url(self, user: str, password: str, database: str) -> str:
        # The host is a query member because a path cannot stand in a URL's authority.
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        host = quote(self.endpoint.host, safe="")
        where = f"{quote(database, safe='')}?host={host}&port={self.endpoint.port}"
        return f"postgresql+psycopg://{login}@/{where}"

    def _conninfo(self, user: str, password: str, database: str) -> str:
        return make_conninfo(
            host=self.endpoint.host,
            port=self.endpoint.port,
            user=user,
            password=password,
            dbname=database,
        )
