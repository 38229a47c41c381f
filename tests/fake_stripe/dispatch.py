"""Which function answers which operation, and which of its parameters the fake gives a meaning to.

A parameter that Stripe knows and the fake does not model is a loud defect (Unmodelled), because
ignoring it would let a test pass on behaviour that was never there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from tests.fake_stripe import customers, events, invoices
from tests.fake_stripe.failures import unrecognized
from tests.fake_stripe.spec import Operation, SpecViolation
from tests.fake_stripe.world import Object, Params, World


class Unmodelled(SpecViolation):
    """The fake must learn this parameter or operation before a test can rely on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    run: Callable[[World, dict[str, str], Params], Object]
    allowed: AbstractSet[str] = frozenset()


ROUTES: dict[str, Route] = {
    "POST /v1/customers": Route(
        run=lambda w, _n, p: customers.create(w, p), allowed=customers.WRITABLE
    ),
    "GET /v1/customers": Route(
        run=lambda w, _n, p: customers.listed(w, p), allowed=customers.LISTABLE
    ),
    "GET /v1/customers/{customer}": Route(run=lambda w, n, _p: customers.find(w, n["customer"])),
    "POST /v1/customers/{customer}": Route(
        run=lambda w, n, p: customers.update(w, n["customer"], p), allowed=customers.WRITABLE
    ),
    "POST /v1/invoices": Route(
        run=lambda w, _n, p: invoices.create(w, p), allowed=invoices.CREATABLE
    ),
    "GET /v1/invoices": Route(
        run=lambda w, _n, p: invoices.listed(w, p), allowed=invoices.LISTABLE
    ),
    "GET /v1/invoices/{invoice}": Route(run=lambda w, n, _p: invoices.find(w, n["invoice"])),
    "POST /v1/invoices/{invoice}": Route(
        run=lambda w, n, p: invoices.update(w, n["invoice"], p), allowed=invoices.UPDATABLE
    ),
    "DELETE /v1/invoices/{invoice}": Route(run=lambda w, n, _p: invoices.delete(w, n["invoice"])),
    "GET /v1/invoices/{invoice}/lines": Route(
        run=lambda w, n, p: invoices.listed_lines(w, n["invoice"], p),
        allowed=frozenset({"ending_before", "limit", "starting_after"}),
    ),
    "POST /v1/invoices/{invoice}/add_lines": Route(
        run=lambda w, n, p: invoices.add_lines(w, n["invoice"], p), allowed=invoices.ADDABLE
    ),
    "POST /v1/invoices/{invoice}/finalize": Route(
        run=lambda w, n, p: invoices.finalize(w, n["invoice"], p), allowed=invoices.FINALIZABLE
    ),
    "POST /v1/invoices/{invoice}/pay": Route(
        run=lambda w, n, p: invoices.pay(w, n["invoice"], p), allowed=invoices.PAYABLE
    ),
    "POST /v1/invoices/{invoice}/send": Route(run=lambda w, n, _p: invoices.send(w, n["invoice"])),
    "POST /v1/invoices/{invoice}/void": Route(run=lambda w, n, _p: invoices.void(w, n["invoice"])),
    "POST /v1/invoices/{invoice}/mark_uncollectible": Route(
        run=lambda w, n, _p: invoices.mark_uncollectible(w, n["invoice"])
    ),
    "GET /v1/events": Route(run=lambda w, _n, p: events.listed(w, p), allowed=events.LISTABLE),
    "GET /v1/events/{id}": Route(run=lambda w, n, _p: events.find(w, n["id"])),
}


def run(world: World, operation: Operation, params: Params) -> Object:
    """The answer; raises Refusal as Stripe would, Unmodelled where the fake is short."""
    route = ROUTES.get(operation.key)
    if route is None:
        raise unrecognized(operation.method, operation.template)
    _refuse_unmodelled(operation, params, route.allowed)
    return route.run(world, operation.names, params)


def _refuse_unmodelled(
    operation: Operation, params: dict[str, Any], allowed: AbstractSet[str]
) -> None:
    unknown = set(params) - allowed
    if operation.template.endswith("/add_lines"):
        for line in params["lines"]:
            unknown |= {f"lines[][{name}]" for name in set(line) - invoices.ADDABLE_LINE}
    if unknown:
        raise Unmodelled(f"{operation.key}: {', '.join(sorted(unknown))}")
