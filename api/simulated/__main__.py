"""`python -m api.simulated --port N`: run the simulated engine.

Every option can also be set as `STEELYARD_SIMULATED_<OPTION>`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import uvicorn

from api.simulated.app import Pace, SimulatedEngine


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m api.simulated", description=__doc__)
    parser.add_argument("--host", default=_default("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=_default("PORT", "8001"))
    parser.add_argument("--first-token-ms", type=int, default=_default("FIRST_TOKEN_MS", "0"))
    parser.add_argument("--token-ms", type=int, default=_default("TOKEN_MS", "0"))
    options = parser.parse_args(arguments)
    uvicorn.run(
        SimulatedEngine(Pace(first_token_ms=options.first_token_ms, token_ms=options.token_ms)),
        host=options.host,
        port=options.port,
        loop="uvloop",
        http="httptools",
        interface="asgi3",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


def _default(option: str, otherwise: str) -> str:
    return os.environ.get(f"STEELYARD_SIMULATED_{option}", otherwise)


if __name__ == "__main__":
    main()
