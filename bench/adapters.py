"""What an adapter costs: the same agent by its framework alone and as a run with one follower, in turns in one process.

`python -m bench.adapters [FRAMEWORK…]` prints µs of CPU per chunk and the ratio, and keeps them for the report in
docs/performance/adapters.json. The journal is in memory; the follower reads the text in the same process, so what is
counted is the adapter, the recorder, the journal and one reader.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from gapless import Runner

KEPT = Path(__file__).parents[1] / "docs" / "performance" / "adapters.json"
CHUNKS = 4000
ROUNDS = 7
"""Of each; the median counts. They take turns, so that a busy neighbour is met by both."""


class Measured(NamedTuple):
    agent: Any
    alone: Callable[[], Awaitable[int]]
    """Run it by its framework; returns how many chunks came."""


def langgraph() -> Measured:
    from langchain.agents import create_agent
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk
    from langchain_core.outputs import ChatGenerationChunk, ChatResult

    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "scripted"

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise NotImplementedError

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            for _ in range(CHUNKS):
                yield ChatGenerationChunk(message=AIMessageChunk(content="wxyz"))

    agent = create_agent(Model())

    async def alone() -> int:
        stream: Any = agent.astream(
            {"messages": [("user", "go")]},
            stream_mode=["messages", "updates", "custom"],
            subgraphs=True,
            version="v2",
        )
        async with aclosing(stream):
            return sum([part["type"] == "messages" and bool(part["data"][0].text) async for part in stream])

    return Measured(agent, alone)


def openai_agents() -> Measured:
    """An agent on a chat model by OpenAI's own client, whose answers come from this process."""
    import httpx2
    import openai
    from agents import Agent, OpenAIChatCompletionsModel, set_tracing_disabled
    from agents import Runner as SDKRunner

    def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    body = frame({"role": "assistant", "content": "wxyz"}) + frame({"content": "wxyz"}) * (CHUNKS - 1)
    body += frame({}, "stop") + b"data: [DONE]\n\n"

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    http = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(answer))
    client = openai.AsyncOpenAI(api_key="none", base_url="http://in.process/v1", http_client=http)
    set_tracing_disabled(True)
    agent = Agent(name="scripted", model=OpenAIChatCompletionsModel("m", client))

    async def alone() -> int:
        result = SDKRunner.run_streamed(agent, "go")
        return sum(
            [
                event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
                async for event in result.stream_events()
            ]
        )

    return Measured(agent, alone)


FRAMEWORKS = {"langgraph": langgraph, "openai-agents": openai_agents}


async def through(runner: Runner) -> int:
    """Run it through Gapless and follow it."""
    run = await runner.start("go")
    return sum([1 async for _ in run.text()])


async def cost_us(once: Callable[[], Awaitable[int]]) -> float:
    gc.collect()
    cpu = time.process_time()
    chunks = await once()
    assert chunks == CHUNKS, f"{chunks} chunks came of {CHUNKS}"
    return (time.process_time() - cpu) / CHUNKS * 1e6


async def measure(name: str) -> dict[str, float]:
    measured = FRAMEWORKS[name]()
    alone, gapless = list[float](), list[float]()
    async with Runner(measured.agent) as runner:
        for _ in range(ROUNDS + 1):
            alone.append(await cost_us(measured.alone))
            gapless.append(await cost_us(lambda: through(runner)))
    alone, gapless = alone[1:], gapless[1:]  # the first imports and builds
    ratio = statistics.median(b / a for a, b in zip(alone, gapless, strict=True))
    return {"alone_us": statistics.median(alone), "gapless_us": statistics.median(gapless), "ratio": ratio}


def main() -> None:
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in sys.argv[1:] or FRAMEWORKS:
        kept[name] = asyncio.run(measure(name)) | {"version": importlib.metadata.version(name)}
        print(name, kept[name], flush=True)
        KEPT.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
