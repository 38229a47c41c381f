"""The data plane as it runs: proxy and ledger writer as processes, on a database of the test's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

from billing.cli.processes import Child, free_port, wait_until_ready
from billing.journal.reader import list_instances
from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_plan
from billing.operations.tenancy.keys import issue_key
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Database, Role, query
from billing.store.usage.read import EventView, events
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant

Value = TypeVar("Value")
PATIENCE_SECONDS = 20


@dataclass(slots=True)
class System:
    """A running data plane with one tenant that may use every model.

    Attributes:
        environment: what every process is started with.
        key: an API key of the tenant.
    """

    database: Database
    folder: Path
    environment: dict[str, str]
    tenant: Tenant
    key: str
    proxy_port: int
    log: IO[bytes]
    children: dict[str, Child] = field(default_factory=dict[str, Child])

    @property
    def proxy_url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    def start(self, name: str, module: str, *arguments: str) -> Child:
        child = Child(
            name=name,
            module=module,
            arguments=arguments,
            environment=self.environment,
            log=self.log,
        )
        self.children[name] = child
        child.start()
        return child

    def start_proxy(self) -> Child:
        proxy = self.start("proxy", "api.proxy")
        wait_until_ready(proxy, f"{self.proxy_url}/healthz")
        return proxy

    def start_writer(self) -> None:
        self.start("writer", "workers.writer")

    def kill_9(self, name: str) -> None:
        child = self.children.pop(name)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.stop()

    def stop(self) -> None:
        for child in reversed(list(self.children.values())):
            child.stop()

    @property
    def journal_dir(self) -> Path:
        return self.folder / "data" / "journal"

    def wait_until_settled(self) -> None:
        """Wait until the writer is done with every journal that is there; their owners are gone."""
        instances = {folder.name for folder in list_instances(self.journal_dir)}

        def finished() -> set[str]:
            with self.database.transaction(Role.OPERATOR) as connection:
                rows = query(connection, "SELECT instance FROM journal_cursor WHERE finished")
            return {row.instance for row in rows}

        eventually(finished, lambda found: found >= instances)

    def events(self, limit: int = 10_000) -> list[EventView]:
        """The tenant's usage events of this billing period."""
        with self.database.transaction(Role.TENANT, tenant_id=self.tenant.id) as connection:
            return events(
                connection,
                tenant_id=self.tenant.id,
                period=self.tenant.billing_period(datetime.now(UTC)),
                limit=limit,
            )

    def wait_for_events(self, count: int) -> list[EventView]:
        """The tenant's events once there are `count` of them."""
        return eventually(self.events, lambda found: len(found) >= count)


def eventually(read: Callable[[], Value], done: Callable[[Value], bool]) -> Value:
    """Read until `done`; fails with the last value after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.02)
    return value


@contextmanager
def running_system(
    database: Database, folder: Path, backends: str, *, owner_url: str, proxy: bool = True
) -> Generator[System]:
    """A data plane over `backends` (the text of a backends file), with a writer and a proxy."""
    now = datetime.now(UTC)
    with database.transaction(Role.OPERATOR) as connection:
        create_legal_entity(
            connection,
            slug="operator",
            name="Operator",
            country="US",
            currency_code="USD",
            zone_name="UTC",
            invoice_prefix="INV-",
            now=now,
        )
        tenant = create_tenant(connection, slug="acme", name="Acme", now=now)
        plan = apply_plan(connection, EXAMPLES.joinpath("starter.yaml").read_text(), now=now)
        bind_contract(
            connection,
            tenant="acme",
            plan=plan.plan.slug,
            valid_from=tenant.billing_period(now).start,
            now=now,
        )
        key = issue_key(
            connection, role=KeyRole.TENANT, tenant="acme", name="test", expires_at=None, now=now
        )
    backends_file = folder / "backends.yaml"
    backends_file.write_text(backends)
    port = free_port()
    url = database.engine.url.render_as_string(hide_password=False)
    with (folder / "processes.log").open("wb") as log:
        system = System(
            database=database,
            folder=folder,
            environment={
                "STEELYARD_DATABASE_URL": url,
                "STEELYARD_MIGRATE_URL": owner_url,
                "STEELYARD_DATA_DIR": str(folder / "data"),
                "STEELYARD_BACKENDS": str(backends_file),
                "STEELYARD_PROXY_PORT": str(port),
                "STEELYARD_PROXY_METRICS_PORT": "0",
            },
            tenant=tenant,
            key=key.text,
            proxy_port=port,
            log=log,
        )
        try:
            system.start_writer()
            if proxy:
                system.start_proxy()
            yield system
        finally:
            system.stop()
