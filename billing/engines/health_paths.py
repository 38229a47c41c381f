"""Where engines say whether they work.

Decides: the path per engine, as its documentation gives it. Engines of which none is known are
not asked: the model list of some fails although they work.
"""

from __future__ import annotations

HEALTH_PATHS = {
    "simulated": "/health",
    "vllm": "/health",
    "sglang": "/health",
    "nim": "/v1/health/ready",
    "tensorrt_llm": "/health",
    "dynamo": "/health",
    "llama_cpp": "/health",
    "transformers": "/health",
}
