"""Golden vectors: what engines sent, by version, and what it costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billing.admission.route import Route
from billing.engines.capabilities import Capabilities, engine_named
from billing.engines.read_request import InferenceRequest, read_request
from billing.engines.reading import StreamReading, stream_reading

FOLDER = Path(__file__).parents[1] / "golden" / "engines"


@dataclass(frozen=True, slots=True)
class Vector:
    """One recorded answer."""

    name: str
    engine: Capabilities
    route: Route
    request: InferenceRequest
    prompt_floor: int
    whole: bool
    wire: bytes
    expected: dict[str, Any]

    def reading(self) -> StreamReading:
        """A fresh reader for its stream."""
        return stream_reading(self.route, self.engine, self.request, prompt_floor=self.prompt_floor)

    @property
    def shown(self) -> bytes:
        return self.expected["shown"].encode()


def read_vectors() -> list[Vector]:
    """All of them, by name."""
    return [_read(path) for path in sorted(FOLDER.glob("*.json"))]


def _read(path: Path) -> Vector:
    content = json.loads(path.read_text(encoding="utf-8"))
    route = Route(content["route"])
    return Vector(
        name=path.stem,
        engine=engine_named(content["engine"]),
        route=route,
        request=read_request(json.dumps(content["request"]).encode(), route),
        prompt_floor=content["prompt_floor"],
        whole=content["whole"],
        wire=content["wire"].encode(),
        expected=content["expected"],
    )


VECTORS = read_vectors()
STREAMS = [vector for vector in VECTORS if not vector.whole]
WHOLE = [vector for vector in VECTORS if vector.whole]
