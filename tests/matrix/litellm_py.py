"""litellm, on chat completions and on responses.

Started by the matrix, as its scripts in JavaScript are. Its import alone takes many seconds.
"""

from __future__ import annotations

import functools
from typing import Any

import httpx
import litellm
import openai
from litellm.llms.custom_httpx.http_handler import HTTPHandler

from gapless.client.durable import durable_transport
from tests.matrix.cases import MODEL, QUICK, RESULTS, Case, Told, run_all
from tests.matrix.openai_apis import CHAT_TOOL, Shown, asking, durable, responses

NAME = f"openai/{MODEL}"


def litellm_chat(case: Case, told: Told, shown: Shown) -> None:
    client = openai.OpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=durable())
    messages: list[Any] = [{"role": "user", "content": case.message}]
    tools = [CHAT_TOOL] if case.is_own else None
    while True:
        chunks: list[Any] = []
        for chunk in litellm.completion(NAME, messages=messages, tools=tools, client=client, stream=True):
            chunks.append(chunk)
            told["one_text"] += chunk.choices[0].delta.content or ""
            shown()
        whole: Any = litellm.stream_chunk_builder(chunks)
        message = whole.choices[0].message
        told["outcome"] = "finished"
        if not message.tool_calls:
            return
        told["calls"] = [{"name": one.function.name, "arguments": one.function.arguments} for one in message.tool_calls]
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULTS[case.kind]}
        messages += [message.model_dump(exclude_none=True), result]


def litellm_responses(case: Case, told: Told, shown: Shown) -> None:
    http = httpx.Client(transport=durable_transport(httpx.HTTPTransport(verify=False), limits=QUICK), timeout=60)
    given = {"api_base": f"{case.url}/v1", "api_key": "none", "client": HTTPHandler(client=http)}
    responses(case, told, shown, functools.partial(litellm.responses, **given), NAME)


LITELLM = {"litellm-chat": ("one_text", litellm_chat), "litellm-responses": ("text", litellm_responses)}


if __name__ == "__main__":
    # Responses of a model that it does not know it asks for as a whole, and plays them as a stream.
    litellm.register_model({NAME: {"litellm_provider": "openai", "mode": "chat"}})
    run_all(list(LITELLM), lambda case: asking(*LITELLM[case.client], case))
