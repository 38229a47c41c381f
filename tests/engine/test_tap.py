"""The tap repeats the engine faithfully: it is the witness against which the ledger is held."""

from __future__ import annotations

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.engine.server import Engine
from tests.engine.tap import Reported, running_tap

pytestmark = pytest.mark.engine


def test_the_tap_knows_every_answer_by_the_id_that_the_client_sees(engine: Engine):
    with running_tap(engine.base_url) as tap:
        client = openai.OpenAI(base_url=f"{tap.base_url}/v1", api_key="unused", max_retries=0)
        seen: dict[str, Reported] = {}
        for n in range(1, 4):
            message = ChatCompletionUserMessageParam(role="user", content="x" * n)
            whole = client.chat.completions.create(
                model=engine.model, messages=[message], max_tokens=n
            )
            assert whole.usage is not None
            seen[whole.id] = Reported(
                prompt=whole.usage.prompt_tokens, completion=whole.usage.completion_tokens
            )
            chunks = list(
                client.chat.completions.create(
                    model=engine.model, messages=[message], max_tokens=10 + n, stream=True
                )
            )
            (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
            seen[chunks[0].id] = Reported(
                prompt=usage.prompt_tokens, completion=usage.completion_tokens
            )
        client.close()
    assert tap.reported() == seen
    assert sorted(reported.completion for reported in seen.values()) == [1, 2, 3, 11, 12, 13]
