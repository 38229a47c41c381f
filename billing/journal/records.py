"""The records of the journal and their bytes (msgpack arrays, an integer tag first).

Decides: which facts a proxy process writes down, and their order of fields on disk. A field may
be added at the end with a default; anything else needs a new format version (`segment.py`).
Does not decide: when they are written (`journal.py`) or what becomes of a missing one
(`recovery.py`).

No record holds text of a prompt, a completion or a secret: identifiers, numbers and names of
models, backends and routes only (P1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from billing.errors import JournalError
from billing.metering.token_class import TokenCounts

ID_BYTES: Final = 16
AMOUNT_BYTES: Final = 16
PAYLOAD_LIMIT: Final = 1 << 20  # bytes; a longer length in a file can only be damage
_TOGETHER: Final = 1_000  # checkpoints in a frame

Cause: TypeAlias = Literal[
    "completed", "client_left", "upstream_broke", "timeout", "drained", "recovered"
]


class Counts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Disjoint token counts, as `billing.metering.token_class.TokenCounts`, on the wire."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @staticmethod
    def of(tokens: TokenCounts) -> Counts:
        """The wire form of a core value."""
        return Counts(
            input=tokens.input,
            cached_input=tokens.cached_input,
            cache_write=tokens.cache_write,
            output=tokens.output,
            reasoning=tokens.reasoning,
        )

    def tokens(self) -> TokenCounts:
        """The core value."""
        return TokenCounts(
            input=self.input,
            cached_input=self.cached_input,
            cache_write=self.cache_write,
            output=self.output,
            reasoning=self.reasoning,
        )

    @property
    def is_zero(self) -> bool:
        """Nothing that could be billed was delivered."""
        return not (self.input or self.cached_input or self.cache_write or self.output)


class Attribution(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Whose operation it is and what it ran on, fixed at admission.

    Attributes:
        tenant_id, project_id, key_id, model_id, price_version_id: rows in the database.
        backend: configured name of the backend that served it.
        route: path of the request, such as `/v1/chat/completions`.
        stream: the client asked for a stream.
        served_model: name of the model as the backend knows it.
        kind: event kind, 0 = billed.
        run_id, step_id, agent_id: the agent's run, step and name that the request gave, at most
            256 bytes each; '' for none.
        traced: the request belongs to a trace that its client records.
        service_tier: the one that the request asked for, of a closed list; '' for the default.
            `Usage.served_tier` may say another.
    """

    tenant_id: int
    project_id: int
    key_id: int
    model_id: int
    price_version_id: int
    backend: str
    route: str
    stream: bool
    served_model: str
    kind: int = 0
    run_id: str = ""
    step_id: str = ""
    agent_id: str = ""
    traced: bool = False
    service_tier: str = ""


class Draw(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an operation has drawn from one lease so far.

    Attributes:
        lease: row of the lease; below zero it is the limit that is drawn on (`of_limit`).
        amount: 16 bytes, two's complement, big end first, in units of the limit (money: 10⁻¹² of
            the major unit), which can exceed the 64 bits of msgpack's integers.
    """

    lease: int
    amount: bytes

    @staticmethod
    def of(lease: int, amount: int) -> Draw:
        """The wire form.

        Raises:
            JournalError: the amount does not fit in 128 bits.
        """
        try:
            return Draw(lease, amount.to_bytes(AMOUNT_BYTES, signed=True))
        except OverflowError:
            raise JournalError("an amount does not fit in 128 bits", field="amount") from None

    @property
    def units(self) -> int:
        """The amount as a number."""
        return int.from_bytes(self.amount, signed=True)


class Attempted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An attempt of an operation that failed, so that another one followed or none was left.

    Attributes:
        ordinal: 0 for the first.
        model_id: the model that was tried; a fallback's differs from the one asked for.
        at_us: when it was dispatched.
        reason: a word such as `refused` or `timeout`, never text of the backend.
    """

    ordinal: int
    model_id: int
    backend: str
    at_us: int
    duration_us: int
    reason: str


class Intent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An operation is about to be dispatched; durable before its first content byte leaves.

    It is written again after every attempt that failed; the one with the most attempts counts.
    """

    id: bytes  # 16 bytes, a UUIDv7: operation id = usage event id
    at_us: int  # microseconds since 1970 UTC, as every `_us` instant here
    attribution: Attribution
    attempts: tuple[Attempted, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """What an open stream had delivered at an instant; counts never decrease.

    Attributes:
        draws: what a cut at this instant draws from leases.
        units: what was delivered beside tokens, by meter, in whole numbers (audio in ms).
    """

    id: bytes
    at_us: int
    counts: Counts
    draws: tuple[Draw, ...] = ()
    units: dict[str, int] = {}

    @property
    def is_zero(self) -> bool:
        """Nothing that could be billed was delivered."""
        return self.counts.is_zero and not any(self.units.values())


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3, kw_only=True):
    """The outcome of an operation: one usage event.

    Attributes:
        at_us: instant of the last delivered byte.
        raw: integer leaves of the engine's own usage object, by flattened path; no text.
        estimated: the counts are a lower bound, not the engine's final figure.
        ttft_us: time to the first byte, 0 if unknown.
        duration_us: from dispatch to the last byte.
        draws: what it draws from leases in all.
        attempts: those that failed before the one that is billed.
        units: what was delivered beside tokens, by meter, in whole numbers (audio in ms).
        served_tier: the service tier that the answer named, of a closed list; '' where it named
            none, so that the one of the attribution counts.
    """

    id: bytes
    at_us: int
    attribution: Attribution
    counts: Counts
    raw: dict[str, int]
    cause: Cause
    estimated: bool
    ttft_us: int
    duration_us: int
    draws: tuple[Draw, ...] = ()
    attempts: tuple[Attempted, ...] = ()
    units: dict[str, int] = {}
    served_tier: str = ""


def of_limit(limit_id: int) -> int:
    """What a draw names in place of a lease where there was none: limits could not be asked."""
    return -limit_id


UNBILLED: Final = "unbilled"
"""Reason of a void that stands for an answer which costs nothing and counts as a request."""

UNREACHED: Final = "unreached"
"""Reason of a void whose backend never got the request: nothing was spent, so it is no scrap."""


class Void(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Dispatched, nothing delivered, nothing billed: its cost is scrap.

    Attributes:
        draws: what it counts as in limits all the same; only where it is `UNBILLED`.
    """

    id: bytes
    at_us: int
    attribution: Attribution
    reason: str
    attempts: tuple[Attempted, ...] = ()
    draws: tuple[Draw, ...] = ()


class Checkpoints(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Checkpoints that were written together, in one frame: most frames would be theirs."""

    items: tuple[Checkpoint, ...]


class Closed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Trailer of an instance that ended in order: nothing was written behind it."""

    at_us: int


Record: TypeAlias = Intent | Checkpoint | Usage | Void
AnyRecord: TypeAlias = Intent | Checkpoint | Usage | Void | Closed | Checkpoints

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def encode(record: AnyRecord) -> bytes:
    """Payload of one frame.

    Raises:
        JournalError: an integer beyond 64 bits, an id that is not 16 bytes, or a payload over
            the limit. Refused here because a reader could never get past such a frame.
    """
    if not isinstance(record, Closed | Checkpoints) and len(record.id) != ID_BYTES:
        raise JournalError("a record's id is not 16 bytes", field="id")
    try:
        payload = _encoder.encode(record)
    except OverflowError:
        raise JournalError("a number does not fit in 64 bits", field="record") from None
    if len(payload) > PAYLOAD_LIMIT:
        raise JournalError("a record is longer than 1 MiB", field="record")
    return payload


def together(checkpoints: Sequence[Checkpoint]) -> list[bytes]:
    """Payloads of few frames that hold checkpoints.

    Raises:
        JournalError: as `encode`, for one of them.
    """
    frames: list[bytes] = []
    for start in range(0, len(checkpoints), _TOGETHER):
        group = checkpoints[start : start + _TOGETHER]
        try:
            frames.append(encode(group[0] if len(group) == 1 else Checkpoints(tuple(group))))
        except JournalError:
            frames += map(encode, group)  # too long together, unless one of them is to blame
    return frames


def decode(payload: bytes | memoryview) -> AnyRecord:
    """The record of one payload.

    Raises:
        JournalError: valid bytes of a kind this version does not know.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise JournalError(
            "a record is of a kind that this version cannot read",
            remedy="run the newest Steelyard's ledger writer over this folder",
        ) from None
