"""The demo's tie-outs: figures that must be equal, from places that do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

from billing.cli.demo.close import Closed, receivable_issued
from billing.cli.demo.live import LiveRequest
from billing.errors import TieOutFailed
from billing.ledger.account import AccountCode
from billing.margin.report import GroupBy
from billing.money import EXACT, currency, from_minor, plain
from billing.store.usage.read import EventView


@dataclass(frozen=True, slots=True, kw_only=True)
class TieOut:
    """Two or more figures that are equal."""

    name: str
    figures: tuple[str, ...]


def tie_outs(
    requests: Sequence[LiveRequest], events: Sequence[EventView], closed: Closed
) -> list[TieOut]:
    """Check everything; the list says what was compared.

    Raises:
        TieOutFailed: names the tie-out and its figures.
    """
    with localcontext(EXACT):
        return [
            _equal(
                "tokens told to clients = tokens in the ledger",
                sum(request.prompt_tokens + request.completion_tokens for request in requests),
                sum(_tokens(event) for event in events),
            ),
            _equal("rollups that raw events contradict", closed.rollup_differences, 0),
            _equal("balances that invoices and postings contradict", closed.balance_differences, 0),
            *_invoice_tie_outs(closed),
            *_margin_tie_outs(closed),
            _equal("sum of all postings", sum(closed.ledger.values(), Decimal(0)), Decimal(0)),
        ]


def _invoice_tie_outs(closed: Closed) -> list[TieOut]:
    usd = currency("USD")
    heads = [view.invoice for view in closed.invoices]
    invoiced = from_minor(sum(head.total_minor for head in heads), usd)
    lines = from_minor(
        sum(line.amount_minor for view in closed.invoices for line in view.lines), usd
    )
    figures = [lines, invoiced, receivable_issued(closed)]
    name = "invoice lines = invoice totals = receivable"
    if closed.stripe_minor is not None:
        figures.append(from_minor(closed.stripe_minor, usd))
        name += " = fake Stripe totals"
    unbilled = closed.ledger.get((AccountCode.UNBILLED.value, "USD"), Decimal(0))
    residuals = sum((head.residual_after for head in heads), Decimal(0))
    return [
        _equal(name, *figures),
        _equal("unbilled receivable = residuals carried", unbilled, residuals),
    ]


def _margin_tie_outs(closed: Closed) -> list[TieOut]:
    revenue = -closed.ledger[AccountCode.REVENUE.value, "USD"]
    by_tenant, by_model = (closed.margins[by] for by in (GroupBy.TENANT, GroupBy.MODEL))
    return [
        _equal(
            "M2: revenue by tenant = revenue by model = revenue in the ledger",
            sum((row.revenue for row in by_tenant.rows), Decimal(0)),
            sum((row.revenue for row in by_model.rows), Decimal(0)),
            revenue,
        ),
        _equal(
            "M1: direct + idle + scrap + overhead = cost booked",
            by_tenant.direct_cost + by_tenant.idle + by_tenant.scrap + by_tenant.overhead,
            by_tenant.booked,
        ),
    ]


def _equal(name: str, *figures: Decimal | int) -> TieOut:
    shown = tuple(
        plain(figure) if isinstance(figure, Decimal) else str(figure) for figure in figures
    )
    if len(set(figures)) != 1:
        raise TieOutFailed(f"{name}: {' is not '.join(shown)}", field="tie-out")
    return TieOut(name=name, figures=shown)


def _tokens(event: EventView) -> int:
    return sum(
        int(quantity) for meter, quantity in event.quantities.items() if meter.startswith("tokens.")
    )
