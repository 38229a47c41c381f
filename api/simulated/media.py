"""Answers of the simulated engine that are rankings, transcripts, sound and pictures.

Decides: what they look like and what they count: a word is a token, 16,000 bytes of sound are a
second, and a picture is one transparent pixel.
"""

from __future__ import annotations

import struct
from typing import Any

from api.simulated.arithmetic import Request, words_of
from billing.engines.multipart import read_form

BYTES_PER_SECOND = 16_000
SAMPLES_PER_CHARACTER = 400
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5Erk"
    "Jggg=="
)


def ranking(request: Request) -> dict[str, Any]:
    """Documents by how many words of the query they have."""
    query = set((request.query or "").split())
    documents = [str(document) for document in request.documents or ()]
    scores = [len(query & set(document.split())) for document in documents]
    order = sorted(range(len(documents)), key=lambda index: (-scores[index], index))
    tokens = words_of(request.query) * len(documents) + sum(words_of(text) for text in documents)
    return {
        "id": "rerank-sim",
        "model": request.model,
        "results": [
            {"index": index, "relevance_score": scores[index] / max(1, len(query))}
            for index in order[: request.top_n]
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def transcript(body: bytes, content_type: bytes) -> tuple[str, dict[str, Any]]:
    """The model that a form names, and what it hears: as many seconds as there are bytes for.

    Raises:
        InvalidInput: it is no form.
    """
    form = read_form(body, content_type)
    sound = form.part("file")
    length = 0 if sound is None else sound.end - sound.start
    seconds = max(1, -(-length // BYTES_PER_SECOND))
    text = " ".join(["tick"] * seconds)
    return form.text("model") or "", {
        "text": text,
        "usage": {"type": "duration", "seconds": seconds},
    }


def speech(request: Request) -> bytes:
    """Silence as a WAV file, longer for longer texts."""
    text = request.input if isinstance(request.input, str) else ""
    samples = b"\x80" * (SAMPLES_PER_CHARACTER * len(text))
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8_000, 8_000, 1, 8)
    content = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(content)) + content


def pictures(request: Request, created: int) -> dict[str, Any]:
    """As many pictures as were asked for."""
    return {"created": created, "data": [{"b64_json": _PIXEL}] * request.choices}
