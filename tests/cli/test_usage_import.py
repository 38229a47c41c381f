"""`steelyard usage import`: each event once, verdicts counted, bad rows named by line."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from billing.cli import usage_import
from billing.cli.usage_rows import read_reports
from billing.errors import InvalidInput
from billing.metering.usage_event import EventKind
from tests.operations.crash_points import Crash

NOW = datetime.now(UTC).replace(microsecond=0)


def row(foreign_id: str = "e-1", **members: object) -> dict[str, object]:
    return {
        "source": "test",
        "id": foreign_id,
        "meter": "tokens.input",
        "quantity": 5,
        "occurred_at": NOW.isoformat(),
        "model": "tiny",
        **members,
    }


def lines(*rows: dict[str, object] | str) -> str:
    return "".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows)


@pytest.fixture
def acme(steelyard):
    steelyard(
        *("entity", "create", "foundry", "--name", "F", "--country", "US", "--currency", "USD")
    )
    assert steelyard("tenant", "create", "acme", "--name", "Acme").status == 0

    def run(text: str, *more: str):
        return steelyard("usage", "import", "-", "--tenant", "acme", *more, "--json", stdin=text)

    return steelyard, run


def test_L3_verdicts(acme):
    steelyard, run = acme
    later = (NOW + timedelta(days=2)).isoformat()
    text = lines(
        row("a"),
        "",
        row("b", quantity="0.25", meter="requests", model=None),
        row("a"),
        row("a", quantity=6),
        row("c", meter="unheard.of"),
        row("d", occurred_at=later),
        row("e", project="absent"),
    )
    first = run(text)
    assert first.status == 1
    assert first.document["rows"] == 7
    assert first.document["verdicts"] == {
        "accepted": 2,
        "duplicate": 1,
        "conflicting": 1,
        "parked": 2,
        "rejected": 1,
    }
    problems = [(each["line"], each["verdict"]) for each in first.document["problems"]]
    assert problems == [(5, "conflicting"), (6, "parked"), (7, "parked"), (8, "rejected")]
    parked = steelyard("usage", "parked", "list", "--json").document["parked"]
    assert sorted((each["tenant"], each["id"]) for each in parked) == [("acme", "c"), ("acme", "d")]
    assert steelyard("usage", "verify", "--json").document["verified"] is True


def test_a_run_that_was_cut_off_is_repeated(acme, monkeypatch):
    steelyard, run = acme
    monkeypatch.setattr(usage_import, "BATCH", 10)
    text = lines(*(row(f"e-{n}") for n in range(25)))
    cut = run(lines(*(row(f"e-{n}") for n in range(13))))
    assert cut.document["verdicts"]["accepted"] == 13
    whole = run(text).document
    assert (whole["verdicts"]["accepted"], whole["verdicts"]["duplicate"]) == (12, 13)
    usage = steelyard("usage", "show", "--tenant", "acme", "--group", "none", "--json").document
    assert sum(int(each["quantity"]) for each in usage["usage"]) == 125


def test_a_malformed_row_writes_nothing(acme):
    steelyard, run = acme
    refused = run(lines(row("a"), row("b", quantity=1.5)))
    assert (refused.status, refused.out) == (1, "")
    assert refused.error["field"] == "line 2"
    shown = steelyard("usage", "show", "--tenant", "acme")
    assert "No usage" in shown.out
    assert "try: steelyard usage import" in shown.out


def test_a_month_that_no_worker_prepared_is_no_obstacle(acme, postgres, database_name):
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        partitions = owner.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'usage_event'::regclass"
        ).fetchall()
        assert partitions
        for (name,) in partitions:
            owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    _, imported = acme
    assert imported(lines(row())).status == 0


def test_an_unknown_tenant_and_an_empty_file(acme):
    steelyard, run = acme
    unknown = steelyard("usage", "import", "-", "--tenant", "nobody", "--json", stdin=lines(row()))
    assert (unknown.status, unknown.error["code"]) == (1, "not_found")
    assert run("").document["rows"] == 0
    assert "no rows" in steelyard("usage", "import", "-", "--tenant", "acme", stdin="").out


def test_a_file_for_people(acme, tmp_path):
    steelyard, _ = acme
    path = tmp_path / "usage.jsonl"
    path.write_text(lines(row("a"), row("b", project="absent")))
    shown = steelyard("usage", "import", str(path), "--tenant", "acme")
    assert shown.status == 1
    assert "accepted" in shown.out
    assert "no such project" in shown.out


def test_rows_are_read_exactly():
    text = lines(row("a", quantity="0.000000000001", kind="free"), row("b", source=None))
    (_, first), (line, second) = read_reports(text.encode().splitlines(), source="batch")
    assert (str(first.quantity), first.kind) == ("1E-12", EventKind.FREE)
    assert (line, second.source, second.occurred_at) == (2, "batch", NOW)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("[]", "line 1"),
        ("{", "line 1"),
        ('{"id": "a", "id": "b"}', "line 1"),
        (json.dumps(row(surprise=1)), "line 1"),
        (json.dumps(row(quantity=None)), "line 1"),
        (json.dumps(row(quantity="1e3")), "line 1: quantity"),
        (json.dumps(row(quantity="NaN")), "line 1: quantity"),
        (json.dumps(row(occurred_at="2026-11-01")), "line 1: occurred_at"),
        (json.dumps(row(occurred_at="2026-11-01T00:00:00")), "line 1: occurred_at"),
        (json.dumps(row(kind="gift")), "line 1: kind"),
        (json.dumps(row(source=None)), "line 1: source"),
        (json.dumps(row(foreign_id="")), "line 1: id"),
        (json.dumps(row(model="m" * 300)), "line 1: model"),
        ('{"id": NaN}', "line 1"),
        ('{"id": "\ud800"}', "line 1"),
        ("x" * 20_000, "line 1"),
        ("[" * 5_000, "line 1"),
    ],
)
def test_bad_rows_name_line_and_member_and_never_the_value(bad, field):
    with pytest.raises(InvalidInput) as refused:
        list(read_reports([bad.encode(errors="surrogatepass")], source=None))
    assert refused.value.field == field
    assert "gift" not in refused.value.message


def test_tables_say_what_lines_say(acme, tmp_path):
    steelyard, _ = acme
    columns = ["source", "id", "meter", "quantity", "occurred_at", "model"]
    rows = [
        {**row(f"t-{n}", quantity=Decimal(n) / 8), "model": None if n == 3 else "tiny"}
        for n in range(1, 6)
    ]
    csv_file, parquet_file = tmp_path / "usage.csv", tmp_path / "usage.parquet"
    with csv_file.open("w", newline="") as target:
        writer = csv.DictWriter(target, columns)
        writer.writeheader()
        writer.writerows(rows)
    table = pa.table(
        {
            **{name: [each[name] for each in rows] for name in columns},
            "quantity": pa.array([each["quantity"] for each in rows], pa.decimal128(38, 18)),
            "occurred_at": pa.array([NOW] * 5, pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(table, parquet_file)
    run = ("usage", "import", "--tenant", "acme", "--json")
    assert steelyard(*run, str(csv_file)).document["verdicts"]["accepted"] == 5
    assert steelyard(*run, str(parquet_file)).document["verdicts"]["duplicate"] == 5
    usage = steelyard("usage", "show", "--tenant", "acme", "--group", "none", "--json").document
    assert sum(Decimal(each["quantity"]) for each in usage["usage"]) == Decimal("1.875")


def test_row_08_a_column_of_floats_is_refused(acme, tmp_path):
    steelyard, _ = acme
    path = tmp_path / "usage.parquet"
    pq.write_table(pa.table({name: [cell] for name, cell in row(quantity=0.1).items()}), path)
    refused = steelyard("usage", "import", "--tenant", "acme", "--json", str(path))
    assert (refused.status, refused.error["field"]) == (1, "quantity")
    assert "decimal128" in refused.error["remedy"]


@pytest.mark.parametrize("name", ["usage.csv", "usage.parquet"])
def test_a_file_that_is_none_is_refused(acme, tmp_path, name):
    steelyard, _ = acme
    path = tmp_path / name
    path.write_bytes(b'id,meter\n"\xff')
    refused = steelyard("usage", "import", "--tenant", "acme", "--json", str(path))
    assert (refused.status, refused.error["code"]) == (1, "invalid_input")


def test_refused_rows_are_written_and_the_others_count(acme, tmp_path):
    _, run = acme
    rejects = tmp_path / "rejects.jsonl"
    text = lines(row("a"), "{", row("b", quantity=-1), row("a", quantity=6), row("c"))
    ran = run(text, "--rejected", str(rejects))
    assert ran.status == 1
    assert ran.document["verdicts"]["accepted"] == 2
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["line"], each["verdict"]) for each in found] == [
        (2, "rejected"), (3, "rejected"), (4, "conflicting"),
    ]  # fmt: skip


def test_row_01_an_import_that_dies_in_the_middle_is_resumed_or_repeated(acme, monkeypatch):
    steelyard, run = acme
    monkeypatch.setattr(usage_import, "BATCH", 10)
    text = lines(*(row(f"e-{n}") for n in range(35)))
    batches = 0

    ingest = usage_import.import_batch

    def import_batch(connection, *arguments, **named):
        nonlocal batches
        batches += 1
        verdicts = ingest(connection, *arguments, **named)
        if batches == 3:
            raise Crash  # everything is sent, nothing is committed
        return verdicts

    monkeypatch.setattr(usage_import, "import_batch", import_batch)
    with pytest.raises(Crash):
        run(text)
    resumed = run(text, "--resume").document
    assert (resumed["skipped"], resumed["rows"]) == (20, 15)
    assert resumed["verdicts"]["accepted"] == 15
    whole = run(text).document
    assert (whole["skipped"], whole["verdicts"]["duplicate"]) == (0, 35)
    other = run(text.replace('"quantity": 5', '"quantity": 6'), "--resume").document
    assert (other["skipped"], other["verdicts"]["conflicting"]) == (0, 35)
    usage = steelyard("usage", "show", "--tenant", "acme", "--group", "none", "--json").document
    assert sum(int(each["quantity"]) for each in usage["usage"]) == 175


def test_parked_and_corrected_on_the_command_line(acme):
    steelyard, run = acme
    assert "Nothing is parked" in steelyard("usage", "parked", "list").out
    run(lines(row("a"), row("p", meter="pages")))
    (waiting,) = steelyard("usage", "parked", "list", "--json").document["parked"]
    still = steelyard("usage", "parked", "release", waiting["parked_id"], "--json")
    assert (still.status, still.document["verdict"]) == (1, "parked")
    reject = ("usage", "parked", "reject", waiting["parked_id"], "--reason", "a typo", "--json")
    assert steelyard(*reject).document["verdict"] == "rejected"
    assert steelyard(*reject).error["code"] == "conflict"
    assert steelyard("usage", "parked", "release", "x", "--json").error["field"] == "parked_id"

    listed = steelyard("usage", "requests", "--tenant", "acme", "--json").document["requests"]
    order = ("--tenant", "acme", "--reason", "twice", "--json", "--id")
    amended = steelyard(
        "usage", "amend", listed[0]["id"], "--quantity", "tokens.input=3.5", *order, "a-1"
    ).document
    assert (amended["kind"], amended["repeated"]) == ("amend", False)
    voided = steelyard("usage", "void", amended["replaced_by"], *order, "v-1")
    assert (voided.status, voided.document["kind"]) == (0, "void")
    again = steelyard("usage", "void", amended["replaced_by"], *order, "v-1").document
    assert again == {**voided.document, "repeated": True}
    assert steelyard("usage", "void", "x", *order, "v-2").error["field"] == "event"
    usage = steelyard("usage", "show", "--tenant", "acme", "--group", "none", "--json").document
    assert sum(Decimal(each["quantity"]) for each in usage["usage"]) == 0
