"""What was posted on the rated lines of many billing periods: one read of the money ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias, cast

import sqlalchemy as sa

from billing.ledger.earning import LINE_ACCOUNTS, EarnedOn
from billing.store.arrays import plain_array
from billing.store.database import query

ContractPeriod: TypeAlias = tuple[int, datetime]
"""A contract and the start of a billing period of it."""


_Sum: TypeAlias = tuple[int, datetime, str, str, Decimal]

_CODES = {code.value: code for code in LINE_ACCOUNTS}


def accrued_of(
    connection: sa.Connection, wanted: Sequence[ContractPeriod]
) -> Mapping[ContractPeriod, Mapping[EarnedOn, Decimal]]:
    """What was posted so far by line and account; a contract's period without any has none."""
    rows = query(
        connection,
        "SELECT p.contract_id, p.period_start, p.line_key, a.code, -sum(p.amount) AS amount "
        "FROM unnest(CAST(:contracts AS integer[]), CAST(:starts AS timestamptz[])) "
        "AS w (contract_id, period_start) "
        "JOIN posting p ON p.contract_id = w.contract_id AND p.period_start = w.period_start "
        "JOIN account a ON a.id = p.account_id AND a.code = ANY(:earned_on) "
        "GROUP BY p.contract_id, p.period_start, p.line_key, a.code",
        contracts=plain_array(contract for contract, _ in wanted),
        starts=plain_array(start for _, start in wanted),
        earned_on=[code.value for code in LINE_ACCOUNTS],
    )
    found: defaultdict[ContractPeriod, dict[EarnedOn, Decimal]] = defaultdict(dict)
    for contract_id, start, key, code, amount in cast("Sequence[_Sum]", rows):
        found[contract_id, start][key, _CODES[code]] = amount
    return found
