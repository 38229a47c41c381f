"""Legal entities and tenants.

A legal entity issues invoices: it has a currency, a zone for its books and number series. A
tenant is an organisation and its bill-to; its zone decides where its months begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from billing.errors import InvalidInput
from billing.period import Period, month_of, zone

DEFAULT_PROJECT = "default"

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalEntity:
    """Who issues the invoices."""

    id: int
    slug: str
    name: str
    country: str
    currency: str
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organisation, which is also the bill-to.

    Attributes:
        slug: the id that APIs, files and people use.
        zone: IANA zone whose midnights bound its billing periods.
        anchor_day: day of month on which its billing periods begin, clamped to short months.
    """

    id: int
    slug: str
    name: str
    legal_entity: str
    zone: str
    anchor_day: int = 1

    def billing_period(self, instant: datetime) -> Period:
        """The billing period that holds `instant`."""
        return month_of(instant, zone(self.zone), anchor_day=self.anchor_day)


def require_slug(text: str, *, field: str) -> str:
    """Return `text` if it is a slug: 1 to 63 lower-case letters, digits and inner hyphens.

    Raises:
        InvalidInput: it is not.
    """
    if not _SLUG.fullmatch(text):
        raise InvalidInput(
            "not a slug", field=field, remedy="use lower-case letters, digits and inner hyphens"
        )
    return text
