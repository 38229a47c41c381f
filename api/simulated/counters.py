"""The simulated engine's own counters, told as vLLM tells them.

A prompt counts when its answer begins, cached tokens included; a token of an answer counts when it
is made, whether or not anybody still wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class EngineCounters:
    """Tokens since the engine started."""

    prompt: int = 0
    generation: int = 0

    def page(self) -> bytes:
        """Them in Prometheus' text format."""
        lines: list[str] = []
        for name, total in (("prompt", self.prompt), ("generation", self.generation)):
            lines += [
                f"# TYPE vllm:{name}_tokens_total counter",
                f'vllm:{name}_tokens_total{{engine="0"}} {total}',
            ]
        return "\n".join([*lines, ""]).encode()
