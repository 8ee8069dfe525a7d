"""OpenAI's Agents SDK in Python, on chat completions and on responses.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import asyncio

import agents
import httpx2
import openai

from gapless.client.durable import durable_transport
from tests.matrix.agent import WAITING
from tests.matrix.cases import MODEL, QUICK, RESULTS, Case, Told, run_all
from tests.matrix.openai_apis import Ask, Shown, asking, items


def agents_sdk(key: str) -> Ask:
    kind = agents.OpenAIResponsesModel if key == "text" else agents.OpenAIChatCompletionsModel

    def ask(case: Case, told: Told, shown: Shown) -> None:
        @agents.function_tool(strict_mode=False)
        def locate() -> str:
            if case.kind == "own_failed":
                raise RuntimeError(RESULTS[case.kind])
            return RESULTS[case.kind]

        async def run() -> None:
            transport = durable_transport(httpx2.AsyncHTTPTransport(verify=False), limits=QUICK)
            http = openai.DefaultAsyncHttpxClient(transport=transport)
            client = openai.AsyncOpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=http)
            agent = agents.Agent(name="asks", model=kind(MODEL, client), tools=[locate] if case.is_own else [])
            result = agents.Runner.run_streamed(agent, case.message)
            async for event in result.stream_events():
                if event.type != "raw_response_event":
                    continue
                if event.data.type == "response.output_text.delta":
                    told[key] += event.data.delta
                    if told[key].endswith(WAITING):
                        await asyncio.to_thread(shown)
                if event.data.type == "response.reasoning_text.delta" and "reasoning" in told:
                    told["reasoning"] += event.data.delta
            if "calls" in told:
                items(told, [item for response in result.raw_responses for item in response.output])
            told["outcome"] = "finished"

        if key == "text":
            told["reasoning"] = ""
        if key == "text" or case.is_own:
            told["calls"] = []
        asyncio.run(run())

    return ask


AGENTS = {"agents-py-chat": ("one_text", agents_sdk("one_text")), "agents-py-responses": ("text", agents_sdk("text"))}


if __name__ == "__main__":
    agents.set_tracing_disabled(True)
    run_all(list(AGENTS), lambda case: asking(*AGENTS[case.client], case))
