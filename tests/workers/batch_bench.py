"""A tenant whose batches a backend runs, as tests of their settlement need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from billing.admission.binding import Binding, ObjectKind
from billing.metering.event_id import microseconds
from billing.operations.catalog.contracts import list_contracts, price_version_at
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.settle_batch import (
    BatchSettler,
    require_batch,
)
from billing.operations.stored_objects.batches import record_batch
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.settings import Settings
from billing.store import tenancy
from billing.store.batch_runs import BatchRun
from billing.store.batch_settlement import Settlement
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role, query
from billing.tenancy.tenant import Tenant
from tests.fake_engine.batch_shapes import (
    BatchEngine,
    answered_line,
)
from tests.world import World

BACKEND = "pool-a"
TINY = (BackendModel(name="tiny"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A world in which a tenant has batches run by an engine."""

    world: World
    tenant: Tenant
    engine: BatchEngine
    folder: Path

    @property
    def database(self) -> Database:
        return self.world.database

    def submit(
        self,
        batch_id: str = "batch_1",
        *,
        endpoint: str = "/v1/chat/completions",
        model: str | None = None,
        submitted_at: datetime | None = None,
    ) -> None:
        """As the proxy writes it down."""
        self.engine.submit(batch_id)
        at, database = submitted_at or self.world.now - timedelta(hours=1), self.database
        with database.transaction(Role.INGEST) as connection:
            batch = BatchRun(
                batch_id=batch_id,
                backend=BACKEND,
                tenant_id=self.tenant.id,
                project_id=tenancy.projects(connection, self.tenant.id)["default"],
                key_id=7,
                model_id=None if model is None else ensure_models(connection, [model])[model],
                price_version_id=price_version_at(
                    connection,
                    list_contracts(connection, tenant_id=self.tenant.id),
                    tenant_id=self.tenant.id,
                    instant=at,
                ),
                endpoint=endpoint,
                input_file_id="file-in",
                submitted_at=at,
            )
        binding = Binding(
            kind=ObjectKind.BATCH,
            backend=BACKEND,
            object_id=batch_id,
            tenant_id=batch.tenant_id,
            project_id=batch.project_id,
            key_id=batch.key_id,
            model_id=None,
            created_at_us=microseconds(at),
        )
        with database.transaction(Role.OPERATOR) as connection:
            record_batch(connection, batch, [binding])

    def settle(
        self,
        batch_id: str = "batch_1",
        *,
        models: Sequence[BackendModel] = TINY,
        later: timedelta = timedelta(0),
        url: str | None = None,
    ) -> Settlement:
        """As a worker does."""
        spec = BackendSpec(
            name=BACKEND,
            url=url or self.engine.base_url,
            engine="generic",
            models=tuple(models),
        )
        with batch_client() as client:
            settler = BatchSettler(database=self.database, client=client, backends={BACKEND: spec})
            return settler.settle(BACKEND, batch_id, now=self.world.now + later)

    def read(self, batch_id: str = "batch_1") -> Settlement:
        with self.database.transaction(Role.OPERATOR) as connection:
            return require_batch(connection, backend=BACKEND, batch_id=batch_id)

    def events(self) -> list[dict[str, Any]]:
        """Everything that the ledger has, in the order of the reporter's ids."""
        with self.database.transaction(Role.OPERATOR) as connection:
            rows = query(
                connection,
                "SELECT k.foreign_id, s.source, m.name AS model, e.quantities, e.estimated, "
                "e.occurred_at, e.price_version_id, e.key_id, b.name AS backend "
                "FROM usage_event e JOIN usage_key k ON k.event_id = e.id "
                "JOIN usage_source s ON s.id = k.source_id "
                "LEFT JOIN model m ON m.id = e.model_id JOIN backend b ON b.id = e.backend_id "
                "ORDER BY k.foreign_id",
            )
        return [row._asdict() for row in rows]

    def settings(self) -> Settings:
        """Of a worker that finds the engine in a file."""
        file = self.folder / "backends.yaml"
        file.write_text(
            f"backends:\n  - name: {BACKEND}\n    url: {self.engine.base_url}\n"
            "    models: [{name: tiny}]\n    stores: [files, batches]\n"
        )
        return Settings(backends=str(file))


def lines(count: int, **members: Any) -> list[dict[str, Any] | bytes]:
    return [answered_line(f"r-{number:04d}", **members) for number in range(count)]
