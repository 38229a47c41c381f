"""Create and find legal entities and tenants."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict, InvalidInput, NotFound
from billing.invoicing.numbering import require_prefix
from billing.money import currency
from billing.period import zone
from billing.store import tenancy as store
from billing.tenancy.tenant import DEFAULT_PROJECT, LegalEntity, Tenant, require_slug

NAME_CHARS_MAX = 200


def create_legal_entity(
    connection: sa.Connection,
    *,
    slug: str,
    name: str,
    country: str,
    currency_code: str,
    zone_name: str,
    invoice_prefix: str,
    now: datetime,
) -> LegalEntity:
    """Create a legal entity with its invoice number series; the existing one if it exists.

    Raises:
        InvalidInput: a slug, name, country, currency, zone or prefix that cannot be used.
    """
    require_slug(slug, field="slug")
    _require_name(name)
    if not (len(country) == 2 and country.isalpha() and country.isupper()):
        raise InvalidInput("not a country", field="country", remedy="use an ISO code like DE")
    currency(currency_code)
    zone(zone_name)
    store.insert_legal_entity(
        connection,
        slug=slug,
        name=name,
        country=country,
        currency=currency_code,
        zone=zone_name,
        invoice_prefix=require_prefix(invoice_prefix),
        now=now,
    )
    return require_legal_entity(connection, slug)


def require_legal_entity(connection: sa.Connection, slug: str | None) -> LegalEntity:
    """The legal entity with this slug; without a slug the only one there is.

    Raises:
        NotFound: no such legal entity.
        InvalidInput: no slug given and there is not exactly one.
    """
    if slug is None:
        entities = store.legal_entities(connection)
        if not entities:
            raise InvalidInput(
                "there is no legal entity yet",
                field="legal_entity",
                remedy="create one with `steelyard entity create`",
            )
        if len(entities) != 1:
            raise InvalidInput(
                "which legal entity?", field="legal_entity", remedy="name one by its slug"
            )
        return entities[0]
    found = store.legal_entity(connection, slug)
    if found is None:
        raise NotFound(
            "no such legal entity",
            field="legal_entity",
            remedy="list the legal entities, or create it",
        )
    return found


def create_tenant(
    connection: sa.Connection,
    *,
    slug: str,
    name: str,
    legal_entity: str | None = None,
    zone_name: str | None = None,
    anchor_day: int = 1,
    now: datetime,
) -> Tenant:
    """Create a tenant with its default project.

    Args:
        legal_entity: slug of who invoices it; may be left out where there is only one.
        zone_name: zone of its billing calendar; that of the legal entity if left out.
        anchor_day: day of month on which its billing periods begin.

    Raises:
        InvalidInput: a value that cannot be used.
        Conflict: the slug is taken.
    """
    require_slug(slug, field="slug")
    _require_name(name)
    entity = require_legal_entity(connection, legal_entity)
    calendar_zone = zone_name or entity.zone
    zone(calendar_zone)
    if not 1 <= anchor_day <= 31:
        raise InvalidInput("not a day of a month", field="anchor_day", remedy="use 1 to 31")
    created = store.insert_tenant(
        connection,
        slug=slug,
        name=name,
        legal_entity_id=entity.id,
        zone=calendar_zone,
        anchor_day=anchor_day,
        project=DEFAULT_PROJECT,
        now=now,
    )
    if not created:
        raise Conflict("a tenant with this slug exists", field="slug", remedy="choose another")
    return require_tenant(connection, slug)


def require_tenant(connection: sa.Connection, slug: str) -> Tenant:
    """The tenant with this slug.

    Raises:
        NotFound: no such tenant.
    """
    found = store.tenant(connection, slug)
    if found is None:
        raise NotFound("no such tenant", field="tenant", remedy="list tenants to see their slugs")
    return found


def list_tenants(connection: sa.Connection) -> list[Tenant]:
    """All tenants by slug."""
    return store.tenants(connection)


def _require_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise InvalidInput(
            "empty, overlong or unprintable name",
            field="name",
            remedy=f"one line of at most {NAME_CHARS_MAX} characters",
        )
