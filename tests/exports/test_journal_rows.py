"""The exported journal: nothing lost, debits equal credits, and plain text that says the same."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given

from billing.errors import TieOutFailed
from billing.exports.hledger import account_name, hledger_journal
from billing.exports.journal_rows import (
    JOURNAL_COLUMNS,
    journal_csv,
    journal_rows,
    require_debits_equal_credits,
)
from billing.ledger.posting import Transaction
from tests.exports.ledgers import JOURNALS, NAMES


def read_back(transactions: list[Transaction]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(journal_csv(transactions, NAMES), newline="")))


def balances(transactions: list[Transaction]) -> dict[tuple[str, str], Decimal]:
    sums: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for transaction in transactions:
        for posting in transaction.postings:
            key = (account_name(posting.account, NAMES), posting.account.currency)
            sums[key] += posting.amount
    return dict(sums)


@given(JOURNALS)
def test_L1_debits_equal_credits_in_the_file(transactions):
    sums: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in read_back(transactions):
        assert (row["debit"] == "") != (row["credit"] == "")
        side = Decimal(row["debit"] or "0") - Decimal(row["credit"] or "0")
        sums[row["transaction_id"], row["currency"]] += side
    assert not any(sums.values())


@given(JOURNALS)
def test_every_posting_is_in_the_file_at_12_decimals(transactions):
    rows = read_back(transactions)
    written = [Decimal(row["debit"] or "0") - Decimal(row["credit"] or "0") for row in rows]
    posted = [posting.amount for found in transactions for posting in found.postings]
    assert written == posted
    for row in rows:
        assert re.fullmatch(r"\d+\.\d{12}", row["debit"] or row["credit"])


@given(JOURNALS)
def test_the_plain_text_journal_has_the_same_balances(transactions):
    text = hledger_journal(transactions, NAMES)
    sums: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for account, amount, currency in re.findall(
        r"(?m)^    ([a-z][^;]*?)  (-?\d+\.\d{12}) ([A-Z]{3})(?:  ;.*)?$", text
    ):
        sums[account, currency] += Decimal(amount)
    assert dict(sums) == balances(transactions)


@given(JOURNALS)
def test_the_plain_text_journal_is_ordered_and_declares_what_it_uses(transactions):
    text = hledger_journal(transactions, NAMES)
    dates = re.findall(r"(?m)^(\d{4}-\d\d-\d\d) ", text)
    assert dates == sorted(dates)
    assert len(dates) == len(transactions)
    declared = set(re.findall(r"(?m)^account (.+)$", text))
    commodities = set(re.findall(r"(?m)^commodity 1000\.0{12} ([A-Z]{3})$", text))
    assert {(account, currency) for account, currency in balances(transactions)} <= {
        (account, currency) for account in declared for currency in commodities
    }
    known = r"commodity |account |\d{4}-\d\d-\d\d |    ; |    [a-z]|$"
    assert all(re.match(known, line) for line in text.splitlines())


@given(JOURNALS.filter(bool))
def test_L1_a_file_that_lost_a_posting_is_refused(transactions):
    rows = list(journal_rows(transactions, NAMES))
    with pytest.raises(TieOutFailed):
        require_debits_equal_credits(rows[1:])


def test_columns_are_those_that_imports_rely_on():
    assert ",".join(JOURNAL_COLUMNS) == (
        "transaction_id,effective_at,kind,legal_entity,account,tenant,currency,debit,credit,"
        "reference,contract_id,period_start,line_key,reverses"
    )
