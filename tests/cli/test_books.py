"""`steelyard books`: what was posted is shown, closes and is taken back."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from billing.ledger.posting import Transaction
from billing.ledger.template import Books, invoice_issued
from billing.store import ledger
from billing.store.database import Database, Role
from tests.cli.conftest import Run
from tests.world import make_world


def test_the_books_are_read_closed_and_corrected(database: Database, steelyard: Run) -> None:
    at = datetime(2026, 10, 15, tzinfo=UTC)
    acme = make_world(database, at).tenant("acme")
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    posted = Transaction(
        id=uuid4(),
        legal_entity_id=1,
        tenant_id=acme.id,
        kind="write_off",
        idempotency_key="one",
        effective_at=at,
        postings=invoice_issued(books, subtotal=Decimal(10), tax=Decimal(2)),
        reference="INV-1",
    )
    with database.transaction(Role.OPERATOR) as connection:
        ledger.post(connection, posted, now=at + timedelta(days=1))

    def balances(*options: str) -> dict[str, Decimal]:
        ran = steelyard("books", "balances", "--json", *options)
        return {row["account"]: Decimal(row["balance"]) for row in ran.document["balances"]}

    held = {"accounts_receivable": 12, "tax_payable": -2, "unbilled_receivable": -10}
    assert balances() == balances("--before", "2026-10-16", "--known-at", "2026-10-17") == held
    assert balances("--before", "2026-10-15") == balances("--known-at", "2026-10-15") == {}
    assert balances("--tenant", "acme").keys() == held.keys() - {"tax_payable"}
    assert "tax_payable" in steelyard("books", "trial-balance").out

    refused = steelyard("books", "close", "--period", "2026-10", "--by", "Ada")
    assert (refused.status, "--yes" in refused.err) == (1, True)
    closed = steelyard("books", "close", "--period", "2026-10", "--by", "Ada", "--yes", "--json")
    assert closed.document["closed_by"] == "Ada"
    assert len(closed.document["digest"]) == 64
    assert steelyard("books", "periods", "--json").document == {"periods": [closed.document]}
    assert "Ada" in steelyard("books", "periods").out

    undone = steelyard("books", "reverse", str(posted.id), "--json")
    assert undone.document["reverses"] == str(posted.id)
    assert set(balances().values()) == {Decimal(0)}
    assert balances("--before", "2026-11-01") == held
    again = steelyard("books", "reverse", str(posted.id), "--json")
    assert (again.status != 0, again.error["code"]) == (True, "conflict")

    month = ("--tenant", "acme", "--period", "2026-10")
    statement = steelyard("books", "statement", "accounts_receivable", *month, "--json").document
    assert (statement["opening"], statement["closing"]) == ("0", "12")
    assert [line["reference"] for line in statement["lines"]] == ["INV-1"]
    shown = steelyard("books", "statement", "accounts_receivable", *month)
    assert "closing" in shown.out


def test_an_exchange_is_posted_once_and_each_currency_sums_to_zero(
    database: Database, steelyard: Run
) -> None:
    at = datetime(2026, 10, 15, tzinfo=UTC)
    make_world(database, at)
    words = ("books", "exchange", "--sold", "100.00", "USD", "--bought", "92.10", "EUR")
    words += ("--rate", "0.921", "--at", "2026-10-15", "--json")
    first = steelyard(*words, "--key", "fx-1")
    assert first.document == {
        "posted": True,
        "effective_at": "2026-10-15T00:00:00Z",
        "rate": "0.921",
    }
    assert steelyard(*words, "--key", "fx-1").document["posted"] is False
    rows = steelyard("books", "balances", "--json").document["balances"]
    held = {(row["account"], row["currency"]): Decimal(row["balance"]) for row in rows}
    assert held == {
        ("bank", "USD"): Decimal(-100),
        ("fx_position", "USD"): Decimal(100),
        ("bank", "EUR"): Decimal("92.10"),
        ("fx_position", "EUR"): Decimal("-92.10"),
    }
    wrong = [
        ({"--rate": "0.9"}, "rate"),
        ({"--account": "revenue"}, "account"),
        ({"--at": "2036-01-01"}, "at"),
        ({"--key": "fx 2"}, "key"),
        ({"--key": "fx-1", "--rate": "0.9211"}, None),
    ]
    for changed, field in wrong:
        options = {"--rate": "0.921", "--at": "2026-10-15", "--key": "fx-2", **changed}
        refused = steelyard(*words[:8], *itertools.chain(*options.items()), "--json")
        assert refused.status != 0
        assert field is None or refused.error["field"] == field
    assert steelyard("books", "balances", "--json").document["balances"] == rows
