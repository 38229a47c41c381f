"""Requests that put documents in the order of their relevance.

Decides: which members pass, and how many searches one can cost at most.
"""

from __future__ import annotations

import msgspec

from billing.engines.member_names import names
from billing.engines.member_values import decoded, required_text
from billing.engines.splice import Members
from billing.errors import InvalidInput

MEMBERS = names("model query documents top_n return_documents max_tokens_per_doc")
_DOCUMENTS = msgspec.json.Decoder(list[msgspec.Raw])

DOCUMENTS_PER_SEARCH = 100
LEAST_CHUNK_BYTES = 500
"""A long document counts once per 500 tokens of it, and a token has at least a byte."""


def most_searches(members: Members) -> int:
    """How many searches the request can be charged for.

    Raises:
        InvalidInput: no `query` text, or no list of `documents`.
    """
    required_text(members, "query")
    if "documents" not in members.values:
        raise InvalidInput("You must provide a documents parameter.", field="documents")
    raw = members.values["documents"]
    documents = decoded(raw, _DOCUMENTS, "documents", "a list")
    chunks = len(documents) + memoryview(raw).nbytes // LEAST_CHUNK_BYTES
    return max(1, -(-chunks // DOCUMENTS_PER_SEARCH))
