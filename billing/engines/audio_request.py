"""Requests with sound in them: transcriptions and translations, which come as forms.

Decides: which fields of such a form are read and passed, and that the answer must be of a kind
that says how long the sound was: text and subtitles do not, so nobody could bill them.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.engines.member_names import names
from billing.engines.multipart import Form, read_form
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput

FIELDS = names(
    "chunking_strategy file include keywords known_speaker_names known_speaker_references"
    " language languages model prompt response_format stream temperature"
    " timestamp_granularities"
)
"""Fields that OpenAI documents; lists of them are written with `[]` behind the name."""

SAMPLING = names(
    "seed top_p top_k min_p frequency_penalty repetition_penalty presence_penalty to_language"
    " hotwords"
)
"""Fields that common engines add."""

_METERED_FORMATS = frozenset({"json", "verbose_json", "diarized_json"})
_FALSE = frozenset({"", "false", "False", "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioForm:
    """A form as metering reads it.

    Attributes:
        sound_bytes: of the sound.
    """

    form: Form
    model: str
    sound_bytes: int


def read_audio(body: bytes, content_type: bytes) -> AudioForm:
    """Read a form once.

    Raises:
        InvalidInput: no form, or no model or no file in it.
        UnsupportedParameter: it asks for a stream, or for an answer that cannot be metered.
    """
    form = read_form(body, content_type)
    model = form.text("model")
    if model is None:
        raise InvalidInput("You must provide a model parameter.", field="model")
    sound = form.part("file")
    if sound is None or not sound.file:
        raise InvalidInput("You must provide a file.", field="file")
    if (form.text("stream") or "") not in _FALSE:
        raise UnsupportedParameter("Transcriptions are not streamed.", field="stream")
    if (form.text("response_format") or "json") not in _METERED_FORMATS:
        raise UnsupportedParameter(
            "Must be json, verbose_json or diarized_json: other forms do not say what was used.",
            field="response_format",
        )
    return AudioForm(form=form, model=model, sound_bytes=sound.end - sound.start)


def most_milliseconds(sound_bytes: int) -> int:
    """How long a sound can be at most: no codec that is in use takes fewer than 4 kbit/s."""
    return 2 * sound_bytes


def upstream_form(form: Form, *, upstream_model: str | None, sampling: bool) -> bytes:
    """The form for the engine: the client's bytes, but for the model's name where it differs.

    Args:
        upstream_model: the engine's own name of the model, or None where it is the client's.
        sampling: the engine takes fields beyond those that OpenAI documents.

    Raises:
        UnsupportedParameter: a field that neither OpenAI documents nor the engine is known to
            take.
    """
    allowed = FIELDS | SAMPLING if sampling else FIELDS
    for part in form.parts:
        if part.name.removesuffix("[]") not in allowed:
            raise UnsupportedParameter(
                "The request has a member that this model does not take.",
                field=part.name,
                remedy="Leave it out.",
            )
    if upstream_model is None or upstream_model == form.text("model"):
        return form.body
    return form.replaced("model", upstream_model.encode())
