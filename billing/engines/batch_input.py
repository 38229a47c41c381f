"""The lines of a file of requests, as a batch is made of them.

Decides: what a line must be, so that each can be admitted and billed once. A line reaches the
engine as it stands, so that one that the proxy would have changed is refused here. Does not decide
which models a tenant may use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from billing.admission.backend import Backend
from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.engine_request import upstream_body
from billing.engines.member_values import required_text
from billing.engines.read_request import InferenceRequest, read_request
from billing.engines.request_members import OPERATOR_CONTROLLED
from billing.engines.splice import locate
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput, SteelyardError

BATCH_ROUTES = frozenset(
    {Route.CHAT_COMPLETIONS, Route.COMPLETIONS, Route.EMBEDDINGS, Route.RESPONSES}
)
"""Routes that a batch can ask for."""

MAX_LINE_BYTES = 8 << 20

_CUSTOM_ID = re.compile(r"[\x20-\x7e]{1,128}\Z")


class LineRefused(InvalidInput):
    """A line of a file of requests that cannot be run."""

    code = "invalid_batch_line"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch.

    Attributes:
        custom_id: by which its answer is found; its bill, too.
    """

    custom_id: str
    request: InferenceRequest


class BatchInput:
    """A file of requests that is read as it comes."""

    def __init__(self, route: Route, backend: Backend, *, most_lines: int) -> None:
        """
        Args:
            route: what every line has to be a request of.
            backend: which runs it.
        """
        self._route = route
        self._backend = backend
        self._most_lines = most_lines
        self._rest = b""
        self._seen: set[str] = set()
        self._number = 0

    def feed(self, part: bytes) -> list[bytes]:
        """The lines that are complete.

        Raises:
            LineRefused: one is too long.
        """
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise LineRefused("A line of the file is too long.", field="input_file_id")
        return lines

    def finish(self) -> list[bytes]:
        """The last line, and that there is one at all.

        Raises:
            LineRefused: the file is empty.
        """
        last, self._rest = self._rest, b""
        if not self._number and not last.strip():
            raise LineRefused("The file has no line.", field="input_file_id")
        return [last]

    def read(self, line: bytes) -> BatchLine | None:
        """Read a line; None for a blank one.

        Raises:
            LineRefused: it cannot be run as it stands, or it is one too many.
        """
        if not line.strip():
            return None
        self._number += 1
        if self._number > self._most_lines:
            raise LineRefused(f"More than {self._most_lines} lines.", field="input_file_id")
        try:
            return self._read(line)
        except LineRefused:
            raise
        except SteelyardError as error:
            raise self.refused(f"cannot be run: {error.message}") from None

    def refused(self, why: str) -> LineRefused:
        """The refusal of the line that was read last; `why` repeats nothing of it."""
        return LineRefused(f"Line {self._number} of the file {why}", field="input_file_id")

    def _read(self, line: bytes) -> BatchLine:
        members = locate(line)
        asked = required_text(members, "method"), required_text(members, "url")
        if asked != ("POST", self._route.value):
            raise self.refused("is no request of the batch's endpoint.")
        custom_id = required_text(members, "custom_id")
        if not _CUSTOM_ID.match(custom_id) or custom_id in self._seen:
            # Two answers of one id could not be told apart, and only one of them be billed.
            raise self.refused("has no custom_id of its own, 1 to 128 characters of ASCII.")
        self._seen.add(custom_id)
        request = read_request(bytes(members.values.get("body", b"")), self._route)
        if request.stream or request.members.values.keys() & OPERATOR_CONTROLLED:
            raise UnsupportedParameter("A member is not taken in a batch.")
        references = request.references
        if references.previous_response_id is not None or references.file_ids:
            raise UnsupportedParameter("Stored objects are not taken in a batch.")
        # Only for what it refuses: media by their address, members that the engine must not get.
        upstream_body(
            request,
            engine_named(self._backend.engine),
            upstream_model=None,
            media_hosts=self._backend.media_hosts,
            keeps_responses=True,
        )
        return BatchLine(custom_id, request)
