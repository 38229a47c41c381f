"""The built-in simulated engine as a configured backend, for starts without an engine."""

from __future__ import annotations

from pathlib import Path

MODELS = {
    "sim-small": "text",
    "sim-large": "text",
    "sim-embed": "embedding",
    "sim-rank": "rerank",
    "sim-hear": "audio",
    "sim-speak": "speech",
    "sim-paint": "image",
}


def write_backends(path: Path, port: int) -> None:
    """Write the backends file that points the proxy at the simulated engine of this machine."""
    lines = [
        "backends:",
        "  - name: simulated",
        f"    url: http://127.0.0.1:{port}",
        "    engine: simulated",
        "    models:",
        *(f"      - {{name: {name}, kind: {kind}}}" for name, kind in MODELS.items()),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
