"""Send signed heads to an outside witness, who can then testify that history was not rewritten.

Sealing never waits for it: heads that got no answer are sent again with the next turn, oldest
first. What the witness answers is kept as it came.
"""

from __future__ import annotations

from datetime import datetime

import httpx

from billing.operations.seal.prove import signed_head
from billing.store.database import Database, Role
from billing.store.seal import folds as store
from billing.store.seal.folds import WitnessRow

TIMEOUT_MS = 5_000
ANSWER_CHARS_MAX = 4_000


def push_heads(database: Database, url: str, *, now: datetime) -> bool:
    """Send the newest head if the witness has not answered to it; whether all is witnessed.

    A head covers those before it, so none of them needs an answer of its own.
    """
    with database.transaction(Role.OPERATOR) as connection:
        newest = store.newest_fold(connection)
        if newest is None or store.witnessed(connection, url=url) >= newest.size:
            return True
        head = signed_head(connection)
    document = {
        name: head[name] for name in ("text", "signature", "public_key", "key_id", "size", "root")
    }
    timeout = TIMEOUT_MS / 1000  # float: httpx counts in seconds
    try:
        answer = httpx.post(url, json=document, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    if not answer.is_success:
        return False
    with database.transaction(Role.OPERATOR) as connection:
        store.insert_witness(
            connection,
            WitnessRow(
                fold_size=newest.size,
                url=url,
                status=answer.status_code,
                # A text of PostgreSQL holds no NUL.
                answer=answer.text[:ANSWER_CHARS_MAX].replace("\x00", ""),
                answered_at=now,
            ),
        )
    return True
