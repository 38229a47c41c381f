"""Builders of small worlds on a real database: an operator, tenants, contracts, usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

from billing.catalog.contract_terms import NO_TERMS, ContractTerms
from billing.metering.usage_event import EventKind, UsageReport, Verdict
from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_plan
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant

MONTH_START = datetime(2026, 11, 1, tzinfo=UTC)
MONTH_END = datetime(2026, 12, 1, tzinfo=UTC)

PLAN = """
slug: standard
name: Standard
currency: USD
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "20.00"}
  - type: per_unit
    key: input
    description: Input tokens
    meter: tokens.input
    models: [tiny]
    price: "0.20"
    per: 1000000
  - type: per_unit
    key: cached
    description: Cached input tokens
    meter: tokens.cached_input
    models: [tiny]
    price: "0.05"
    per: 1000000
  - type: graduated
    key: output
    description: Output tokens
    meter: tokens.output
    models: [tiny]
    per: 1000000
    tiers:
      - {up_to: "1000000", unit: "0.80"}
      - {unit: "0.60"}
  - type: outcome
    key: resolved
    description: Resolved tickets
    outcome: ticket-resolved
    price: "0.99"
"""

_serials = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A database with one operator; methods act as its users would."""

    database: Database
    now: datetime

    def tenant(
        self,
        slug: str = "acme",
        *,
        plan: str | None = "standard",
        terms: ContractTerms = NO_TERMS,
        **extra: str,
    ) -> Tenant:
        """A tenant bound to a plan from the start of the month."""
        with self.database.transaction(Role.OPERATOR) as connection:
            tenant = create_tenant(
                connection, slug=slug, name=slug.title(), now=self.now, zone_name=extra.get("zone")
            )
            if plan is not None:
                start = tenant.billing_period(self.now).start
                bind_contract(
                    connection,
                    tenant=slug,
                    plan=plan,
                    valid_from=start,
                    terms=terms,
                    now=self.now,
                )
        return tenant

    def plan(self, text: str = PLAN) -> None:
        """Apply a plan."""
        with self.database.transaction(Role.OPERATOR) as connection:
            apply_plan(connection, text, now=self.now)

    def report(self, tenant: Tenant, *reports: UsageReport) -> list[Verdict]:
        """Report usage as an outside system."""
        with self.database.transaction(Role.INGEST) as connection:
            return ingest_usage(connection, reports, tenant=tenant, now=self.now)

    def use(
        self,
        tenant: Tenant,
        usage: Mapping[str, int | Decimal],
        *,
        model: str | None = "tiny",
        occurred_at: datetime | None = None,
    ) -> None:
        """Report quantities by meter under ids that differ from call to call."""
        serial = next(_serials)
        verdicts = self.report(
            tenant,
            *(
                usage_report(
                    foreign_id=f"{serial}-{meter}",
                    meter=meter,
                    quantity=quantity,
                    model=model if meter.startswith("tokens.") else None,
                    occurred_at=occurred_at or self.now,
                )
                for meter, quantity in usage.items()
            ),
        )
        assert {verdict.kind for verdict in verdicts} == {"accepted"}, verdicts


def issue(world: World, tenant: Tenant, end: datetime = MONTH_END) -> InvoiceView:
    """Issue the invoice of the billing period that ends then, and read it back.

    In one transaction: tests that crash at any statement of it expect that nothing is left.
    """
    period = tenant.billing_period(end - timedelta(days=1))
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=end)
        return require_invoice(connection, str(issued.id), tenant_id=None)


def make_world(database: Database, now: datetime, *, plan: str = PLAN) -> World:
    """An operator with one legal entity and one plan."""
    with database.transaction(Role.OPERATOR) as connection:
        create_legal_entity(
            connection,
            slug="foundry",
            name="Foundry Inc",
            country="US",
            currency_code="USD",
            zone_name="UTC",
            invoice_prefix="INV-",
            now=now,
        )
    # The schema makes partitions for the month in which it is set up; these worlds live in theirs.
    with database.transaction(Role.INGEST) as connection:
        ensure_partitions(connection, now=now, months=6)
    world = World(database=database, now=now)
    world.plan(plan)
    return world


def usage_report(
    *,
    foreign_id: str = "e-1",
    meter: str = "tokens.input",
    quantity: int | Decimal = 1,
    model: str | None = "tiny",
    occurred_at: datetime,
    kind: EventKind = EventKind.BILLED,
    source: str = "test",
    project: str | None = None,
) -> UsageReport:
    """A usage report with defaults."""
    return UsageReport(
        source=source,
        foreign_id=foreign_id,
        meter=meter,
        quantity=Decimal(quantity),
        occurred_at=occurred_at,
        model=model,
        kind=kind,
        project=project,
    )
