"""From an empty database to a paid invoice and a margin report, all through the command line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.store.database import Role, query

PLAN = """\
slug: standard
name: Standard
currency: USD
payment_terms_days: 14
charges:
  - {key: platform, type: flat_fee, description: Platform fee, amount: "20.00"}
  - {key: resolved, type: outcome, description: Tickets, outcome: ticket-resolved, price: "0.99"}
price_list:
  models:
    tiny: {input: "0.20", output: "0.80"}
"""

LAST_MONTH = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).replace(
    day=1, hour=0, minute=0, second=0, microsecond=0
)
MONTH = f"{LAST_MONTH:%Y-%m}"

COSTS = f"""\
currency: USD
period: {MONTH}
pools:
  - slug: chat
    gpu: {{hours: 10, rate: "2.10"}}
    overhead: [{{name: network, amount: "1.00"}}]
    models:
      tiny: {{input: 52000, output: 9800}}
"""


def usage_row(meter: str, quantity: object, *, day: int = 3, **more: object) -> str:
    row = {
        "id": f"{meter}-{day}",
        "meter": meter,
        "quantity": quantity,
        "occurred_at": f"{MONTH}-{day:02}T09:30:00Z",
        "model": "tiny",
        **more,
    }
    return json.dumps(row) + "\n"


@pytest.fixture
def operator(steelyard, tmp_path):
    """An operator with a plan and a tenant that was bound to it before last month began."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    for command in (
        ("entity", "create", "foundry", "--name", "Foundry Inc", "--country", "US",
         "--currency", "USD", "--invoice-prefix", "INV-"),
        ("plan", "apply", str(plan)),
        ("tenant", "create", "acme", "--name", "Acme Inc"),
        ("contract", "bind", "--tenant", "acme", "--plan", "standard@1",
         "--from", f"{LAST_MONTH:%Y-%m-%d}"),
    ):  # fmt: skip
        done = steelyard(*command, "--json")
        assert done.status == 0, done.err
    return steelyard


@pytest.fixture
def used(operator):
    rows = usage_row("tokens.input", 1_234_568) + usage_row("tokens.output", "1500001")
    stored = operator(
        "usage", "import", "-", "--tenant", "acme", "--source", "test", "--json", stdin=rows
    )
    assert stored.document["verdicts"]["accepted"] == 2
    return operator


def test_a_month_from_usage_to_payment_and_export(used):
    drafted = used("invoice", "draft", "--tenant", "acme", "--period", MONTH, "--json").document
    assert (drafted["state"], drafted["number"]) == ("draft", None)
    issued = used("invoice", "issue", "--tenant", "acme", "--period", MONTH, "--json").document
    # 20 + 1.234568 x 0.20 = 0.2469136 + 1.500001 x 0.80 = 1.2000008
    assert [line["amount"] for line in issued["lines"]] == ["20.00", "0.25", "1.20"]
    assert [line["exact"] for line in issued["lines"]] == ["20", "0.2469136", "1.2000008"]
    assert (issued["number"], issued["state"], issued["total"]) == ("INV-000001", "issued", "21.45")
    assert issued["residual_after"] == "-0.0030856"

    again = used("invoice", "issue", "--all", "--period", MONTH, "--json").document
    assert [row["id"] for row in again["invoices"]] == [issued["id"]]
    assert again["refused"] == []

    explained = used("invoice", "explain", "INV-000001").out
    assert "1.234568 x 0.2 = 0.2469136 USD" in explained
    assert "20.00 + 0.25 + 1.20 = 21.45 USD subtotal" in explained
    assert "0 carried in + 21.4469144 earned exactly - 21.45 billed = -0.0030856" in explained
    shown = used("invoice", "show", issued["id"], "--json").document
    told = used("invoice", "explain", "INV-000001", "--json").document
    assert all(check["agrees"] for check in told.pop("checks"))
    assert shown == issued == told

    def pay(*more: str, reference: str = "wire 1"):
        return used("invoice", "pay", "INV-000001", "--reference", reference, *more, "--json")

    part = pay("--amount", "1.45").document
    assert (part["state"], part["open"]) == ("issued", "20.00")
    assert pay("--amount", "1.45").document["open"] == "20.00"
    assert pay("--amount", "2.00").error["code"] == "idempotency_conflict"
    assert pay("--amount", "20.01", reference="wire 2").error["field"] == "amount"
    rest = pay(reference="wire 3").document
    assert (rest["state"], rest["open"]) == ("paid", "0.00")
    assert pay(reference="wire 3").document == rest
    assert pay(reference="wire 4").error["code"] == "conflict"

    listed = used("invoice", "list", "--tenant", "acme", "--period", MONTH, "--json").document
    assert [(row["number"], row["state"]) for row in listed["invoices"]] == [("INV-000001", "paid")]
    _check_exports(used)


def _check_exports(run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export", "invoices", "--period", MONTH).out)))
    assert [row["amount"] for row in rows] == ["20.00", "0.25", "1.20"]
    today = datetime.now(UTC)
    span = ("--from", f"{LAST_MONTH:%Y-%m-%d}", "--to", f"{today + timedelta(days=1):%Y-%m-%d}")
    postings = list(csv.DictReader(io.StringIO(run("export", "journal", *span).out)))
    debits = sum(Decimal(row["debit"] or 0) for row in postings)
    assert debits == sum(Decimal(row["credit"] or 0) for row in postings)
    # Accrued, invoiced, paid.
    assert debits == Decimal("21.4469144") + 2 * Decimal("21.45")
    text = run("export", "hledger", *span, "--json").document
    assert text["sha256"] == hashlib.sha256(text["text"].encode()).hexdigest()
    assert "revenues:revenue:foundry:acme" in text["text"]


def test_an_export_goes_to_a_file_as_it_is(used, tmp_path):
    used("invoice", "issue", "--tenant", "acme", "--period", MONTH)
    path = tmp_path / "invoices.csv"
    done = used("export", "invoices", "--period", MONTH, "--output", str(path))
    assert (done.status, done.out) == (0, "")
    assert path.read_bytes().count(b"\r\n") == 4
    on_screen = used("export", "invoices", "--period", MONTH, "--json").document
    assert path.read_bytes().decode() == on_screen["text"]
    refused = used(
        "export", "journal", "--period", MONTH, "--output", str(tmp_path / "no" / "x"), "--json"
    )
    assert (refused.status, refused.error["field"]) == (1, "output")


def test_margin_report_ties_out(used, tmp_path):
    unrecorded = used("margin", "report", "--period", MONTH, "--json")
    assert (unrecorded.status, unrecorded.error["code"]) == (1, "not_found")
    costs = tmp_path / "costs.yaml"
    costs.write_text(COSTS)
    recorded = used("margin", "record", str(costs), "--json").document
    assert recorded["booked"] == "22"
    used("invoice", "issue", "--tenant", "acme", "--period", MONTH)

    for by, keys in (("tenant", ["acme"]), ("model", ["tiny", None])):
        report = used("margin", "report", "--by", by, "--period", MONTH, "--json").document
        assert [row["key"] for row in report["rows"]] == keys
        revenue = sum(Decimal(row["revenue"]) for row in report["rows"])
        assert revenue == Decimal(report["revenue"]) == Decimal("21.4469144")
        parts = sum(Decimal(report[n]) for n in ("direct_cost", "idle", "scrap", "overhead"))
        assert parts == Decimal(report["booked"]) == 22
    shown = used("margin", "report", "--by", "model", "--period", MONTH).out
    assert "M1 holds" in shown
    assert "M2 holds" in shown
    assert "unattributed" in shown


def test_an_outcome_is_billed_once_the_tenant_confirms_it(operator):
    claim = operator(
        *("outcome", "report", "--tenant", "acme", "--outcome", "ticket-resolved"),
        *("--subject", "T-1", "--json"),
    ).document
    assert claim["state"] == "reported"
    keys = {
        role: operator("key", "create", "--tenant", "acme", "--role", role, "--json").document
        for role in ("tenant", "inference")
    }

    def confirm(key: str):
        return operator("outcome", "confirm", claim["id"], "--tenant-key", key, "--json")

    assert confirm(keys["inference"]["key"]).error["code"] == "forbidden"
    refused = confirm("sk-sy-nonsense")
    assert refused.error["code"] == "invalid_api_key"
    assert "nonsense" not in refused.err
    confirmed = confirm(keys["tenant"]["key"]).document
    assert confirmed["state"] == "confirmed"
    assert confirm(keys["tenant"]["key"]).document == confirmed
    listed = operator("outcome", "list", "--json").document["claims"]
    assert listed == [confirmed]
    usage = operator("usage", "show", "--tenant", "acme", "--json").document["usage"]
    assert [(row["meter"], row["quantity"]) for row in usage] == [("outcome.ticket-resolved", "1")]


def test_a_key_is_shown_once(operator):
    made = operator("key", "create", "--tenant", "acme", "--name", "bot", "--json").document
    assert made["key"].startswith(made["public"])
    assert "cannot be shown again" in made["warning"]
    spoken = operator("key", "create", "--role", "operator")
    assert spoken.out.startswith("sk-sy-")
    assert "cannot be shown again" in spoken.err
    for listed in (operator("key", "list").out, operator("tenant", "show", "acme").out):
        assert made["public"] in listed
        assert made["key"] not in listed
        assert spoken.out.strip() not in listed
    assert operator("key", "revoke", str(made["id"])).status == 0
    again = operator("key", "revoke", str(made["id"]), "--json")
    assert (again.status, again.error["code"]) == (1, "not_found")
    [key] = operator("key", "list", "--tenant", "acme", "--json").document["keys"]
    assert key["revoked_at"] is not None


def test_plans_are_versions(operator, tmp_path):
    path = tmp_path / "next.yaml"
    path.write_text(PLAN)
    same = operator("plan", "apply", str(path), "--json").document["plans"]
    assert [(plan["version"], plan["created"]) for plan in same] == [(1, False)]
    path.write_text(PLAN.replace("20.00", "25.00"))
    [plan] = operator("plan", "apply", str(path), "--json").document["plans"]
    assert (plan["version"], plan["created"]) == (2, True)
    listed = operator("plan", "list", "--json").document["plans"]
    assert [plan["version"] for plan in listed] == [1, 2]
    for name, fee in (("standard@1", "20"), ("standard", "25")):
        shown = operator("plan", "show", name, "--json").document
        assert shown["charges"][0]["amount"] == fee
    assert operator("plan", "show", "standard@3", "--json").error["code"] == "not_found"
    assert operator("plan", "show", "standard@x", "--json").error["field"] == "plan"


def test_several_plans_are_applied_all_or_none(operator, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(PLAN.replace("slug: standard", "slug: other"))
    bad.write_text(PLAN.replace("currency: USD", "currency: XXX"))
    refused = operator("plan", "apply", str(good), str(bad), "--json")
    assert (refused.status, refused.error["file"]) == (1, str(bad))
    slugs = {plan["slug"] for plan in operator("plan", "list", "--json").document["plans"]}
    assert slugs == {"standard"}


def test_contracts_are_bound_listed_and_ended(operator):
    clash = operator("contract", "bind", "--tenant", "acme", "--plan", "standard", "--json")
    assert (clash.status, clash.error["code"]) == (1, "overlapping_charges")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ended = operator("contract", "end", "1", "--at", f"{tomorrow:%Y-%m-%d}", "--json").document
    assert ended["valid_until"] == f"{tomorrow:%Y-%m-%d}T00:00:00Z"
    [contract] = operator("contract", "list", "--tenant", "acme", "--json").document["contracts"]
    assert contract == ended
    bound = operator(
        *("contract", "bind", "--tenant", "acme", "--plan", "standard"),
        *("--from", f"{tomorrow:%Y-%m-%d}", "--json"),
    )
    assert bound.status == 0, bound.err
    off_grid = operator("contract", "end", "2", "--at", "2027-01-01T00:01:00Z", "--json")
    assert off_grid.error["field"] == "valid_until"


def test_an_issued_invoice_is_mirrored_only_where_stripe_is_configured(used, database, monkeypatch):
    def jobs() -> list[tuple[str, dict[str, str]]]:
        with database.transaction(Role.OPERATOR) as connection:
            rows = query(connection, "SELECT task_name, args FROM procrastinate_jobs ORDER BY id")
        return [(row.task_name, row.args) for row in rows]

    used("tenant", "create", "other", "--name", "Other")
    used(
        *("contract", "bind", "--tenant", "other", "--plan", "standard"),
        *("--from", f"{LAST_MONTH:%Y-%m-%d}"),
    )
    used("invoice", "issue", "--tenant", "acme", "--period", MONTH)
    assert jobs() == []
    monkeypatch.setenv("STEELYARD_STRIPE_API_KEY", "sk_test_1")
    issued = used("invoice", "issue", "--tenant", "other", "--period", MONTH, "--json").document
    assert jobs() == [("mirror_invoice", {"invoice_id": issued["id"]})]


def test_R5_unpriced_usage_is_seen_and_stops_only_its_own_invoice(used):
    used("tenant", "create", "other", "--name", "Other")
    used(
        *("contract", "bind", "--tenant", "other", "--plan", "standard"),
        *("--from", f"{LAST_MONTH:%Y-%m-%d}"),
    )
    rows = usage_row("tokens.input", 7, model="unheard-of")
    used("usage", "import", "-", "--tenant", "other", "--source", "x", stdin=rows)
    unrated = used("usage", "unrated", "--at", f"{MONTH}-05", "--json").document["unrated"]
    assert unrated == [
        {"tenant": "other", "meter": "tokens.input", "model": "unheard-of", "quantity": "7"}
    ]
    run = used("invoice", "issue", "--all", "--period", MONTH, "--json")
    assert run.status == 1
    assert [row["tenant"] for row in run.document["invoices"]] == ["acme"]
    refused = [(row["tenant"], row["code"]) for row in run.document["refused"]]
    assert refused == [("other", "unrated_usage")]
    shown = used("invoice", "issue", "--all", "--period", MONTH)
    assert (shown.status, "1 issued, 1 refused." in shown.out) == (1, True)


def test_an_invoice_is_not_issued_before_its_period_is_over(operator):
    this_month = f"{datetime.now(UTC):%Y-%m}"
    early = operator("invoice", "issue", "--tenant", "acme", "--period", this_month, "--json")
    assert (early.status, early.error["code"], early.error["field"]) == (1, "conflict", "period")
    whose = operator("invoice", "issue", "--period", MONTH, "--json")
    assert (whose.status, whose.error["field"]) == (1, "tenant")
    draft = operator("invoice", "draft", "--tenant", "acme", "--period", MONTH, "--json").document
    refused = operator("invoice", "pay", draft["id"], "--reference", "x", "--json")
    assert refused.error["code"] == "conflict"


def test_an_empty_deployment_says_what_to_do(steelyard):
    for command in (
        ("entity", "list"), ("tenant", "list"), ("key", "list"), ("plan", "list"),
        ("contract", "list"), ("invoice", "list"), ("outcome", "list"),
        ("invoice", "issue", "--all", "--period", MONTH),
    ):  # fmt: skip
        shown = steelyard(*command)
        assert shown.status == 0, shown.err
        assert "try: steelyard " in shown.out, command


def test_database_commands(steelyard):
    status = steelyard("db", "status", "--json").document
    assert status["up_to_date"] is True
    assert status["database"] == "STEELYARD_DATABASE_URL"
    migrated = steelyard("db", "migrate", "--json").document
    assert migrated == {"applied": [], "revision": status["newest"]}
    assert steelyard("db", "partitions", "--months", "14", "--json").document["made"] > 0
    assert steelyard("db", "partitions", "--months", "14", "--json").document["made"] == 0


def test_tables_for_people_hold_the_same_figures(used):
    used("invoice", "issue", "--tenant", "acme", "--period", MONTH)
    assert "1,234,568" in used("usage", "show", "--tenant", "acme", "--period", MONTH).out
    assert "req_" in used("usage", "requests", "--tenant", "acme", "--period", MONTH).out
    assert "21.45" in used("invoice", "list").out
    assert "1,234,568" in used("invoice", "show", "INV-000001").out
    shown = used("tenant", "show", "acme").out
    assert "standard@1" in shown
    assert "INV-000001" in shown
    document = used("tenant", "show", "acme", "--json").document
    assert document["invoices"][0]["total"] == "21.45"
    [tenant] = used("tenant", "list", "--json").document["tenants"]
    assert tenant["slug"] == "acme"
    assert "Foundry Inc" in used("entity", "list").out


def test_text_from_outside_is_not_markup(operator):
    name = "[red]Acme[/red] [link=x]"
    made = operator("tenant", "create", "odd", "--name", name)
    assert made.status == 0, made.err
    assert name in made.out
    assert name in operator("tenant", "list").out
