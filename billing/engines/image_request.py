"""Requests for images and for speech: JSON in, pictures or sound out.

Decides: what is counted of them before they run, and that they are not streamed: sound and
pictures are billed when the whole of them is here.
"""

from __future__ import annotations

from billing.engines.member_names import names
from billing.engines.member_values import flag, required_text, text
from billing.engines.splice import Members
from billing.engines.unsupported import UnsupportedParameter

IMAGE_MEMBERS = names(
    "background complexity frame_count frame_duration_ms model moderation n output_compression"
    " output_format partial_images prompt quality response_format safety_identifier size stream"
    " style svg user"
)
SPEECH_MEMBERS = names("input instructions model response_format speed stream_format voice")


def require_whole_images(members: Members) -> None:
    """Refuse a stream of pictures.

    Raises:
        InvalidInput: `stream` is neither true nor false.
        UnsupportedParameter: it is true.
    """
    if flag(members, "stream"):
        raise UnsupportedParameter("Images are not streamed.", field="stream")


def spoken_characters(members: Members) -> int:
    """Unicode code points that are to be spoken.

    Raises:
        InvalidInput: no `input`, or no text.
        UnsupportedParameter: the sound is to come as events.
    """
    if (text(members, "stream_format") or "audio") != "audio":
        raise UnsupportedParameter("Speech is not streamed as events.", field="stream_format")
    return len(required_text(members, "input"))
