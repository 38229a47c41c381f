"""Names of OpenTelemetry's conventions, as they were when they were written down here.

Those of generative AI are in development and will move; they are nowhere else in the code. Names
that begin with `steelyard.` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from billing.admission.route import Route

SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE: Final = "service.instance.id"
SCOPE: Final = "steelyard.proxy"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # a name
ERROR_TYPE: Final = "error.type"
METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
URL_TEMPLATE: Final = "url.template"
STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

REQUEST_ID: Final = "steelyard.request_id"
RUN: Final = "steelyard.run_id"
STEP: Final = "steelyard.step_id"
AGENT: Final = "steelyard.agent_id"
BACKEND: Final = "steelyard.backend"
CAUSE: Final = "steelyard.cause"
ESTIMATED: Final = "steelyard.estimated"

TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105  # a name
REQUEST_DURATION: Final = "gen_ai.server.request.duration"
TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"  # noqa: S105  # a name
TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"  # noqa: S105  # a name
SERVER_DURATION: Final = "http.server.request.duration"
CLIENT_DURATION: Final = "http.client.request.duration"
QUEUE_DURATION: Final = "steelyard.proxy.queue.duration"
OVERHEAD_DURATION: Final = "steelyard.proxy.overhead.duration"

OWN_PROVIDER: Final = "steelyard"
"""Who serves the client; each attempt names the engine."""

OPERATION_OF: Final[Mapping[str, str]] = {
    Route.CHAT_COMPLETIONS.value: "chat",
    Route.RESPONSES.value: "chat",
    Route.MESSAGES.value: "chat",
    Route.COMPLETIONS.value: "text_completion",
    Route.EMBEDDINGS.value: "embeddings",
    Route.COUNT_TOKENS.value: "count_tokens",
    Route.RERANK.value: "rerank",
    Route.TRANSCRIPTIONS.value: "transcription",
    Route.TRANSLATIONS.value: "translation",
    Route.SPEECH.value: "speech",
    Route.IMAGES.value: "generate_content",
}
"""By the path of the route."""
