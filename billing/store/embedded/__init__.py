"""An embedded PostgreSQL 18: real server binaries with our own start, sharing and stop.

Decides folders, owners, modes, logins and lifetime. It knows no table: migrations and
everything after them are the caller's, through the address it hands out.
"""

from __future__ import annotations

from billing.store.embedded.address import APP, DATABASE, OWNER, Endpoint, ServerAddress
from billing.store.embedded.folder import default_data_dir
from billing.store.embedded.server import EmbeddedServer, shared_server
from billing.store.embedded.throwaway import throwaway_server

__all__ = [
    "APP",
    "DATABASE",
    "OWNER",
    "EmbeddedServer",
    "Endpoint",
    "ServerAddress",
    "default_data_dir",
    "shared_server",
    "throwaway_server",
]
