"""The scripted agents, the same for every candidate.

The message is the script: `{"n": 500, "hz": 50, "phase": 0.3}` asks for 500 chunks of 4 characters at 50 a second, the
first one 0.3 periods after the start. `hz` 0 is unpaced: the agent lets the event loop turn once per chunk, as an agent
that reads a socket does. Each chunk is the time at which it was due, so the client measures lateness from the text.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import agents
    from google.adk.agents import LlmAgent
    from pydantic_ai import Agent

CHUNK_CHARS = 4
STAMP_UNIT_S = 1e-5
STAMP_WRAP = 1 << 24
"""A stamp counts units of 10 µs modulo 2**24: it wraps after 167 s, longer than any one measurement."""


class Script(NamedTuple):
    n: int
    hz: float
    phase: float
    hold_s: float
    """Seconds to stay open after the last chunk."""


def parse(message: str) -> Script:
    """Read the script from the message. Raises `ValueError` for anything else."""
    fields = json.loads(message)
    return Script(fields["n"], fields.get("hz", 0), fields.get("phase", 0.0), fields.get("hold_s", 0.0))


def script(n: int, hz: float = 0, phase: float = 0.0, hold_s: float = 0.0) -> str:
    """The message for `parse`."""
    return json.dumps({"n": n, "hz": hz, "phase": round(phase, 4), "hold_s": hold_s})


def stamp(at_s: float) -> str:
    """A monotonic time as 4 characters of base64."""
    units = int(at_s / STAMP_UNIT_S) % STAMP_WRAP
    return binascii.b2a_base64(units.to_bytes(3, "big"), newline=False).decode()


async def generator_agent(message: str) -> AsyncIterator[str]:
    """Chunks as the script says."""
    n, hz, phase, hold_s = parse(message)
    sleep, now = asyncio.sleep, time.monotonic
    if hz:
        start = now() + phase / hz
        for i in range(n):
            due = start + i / hz
            delay = due - now()
            await sleep(delay if delay > 0 else 0)
            yield stamp(due)
    else:
        for _ in range(n):
            await sleep(0)
            yield stamp(now())
    if hold_s:
        await sleep(hold_s)


PROSE = """## Part {i}

An answer of a model has **bold** words, `code`, [links](https://example.com/) and plain text that goes on for a while,
so that a paragraph has several lines; then it lists what it found:

* the first thing, in a few words
* the second, with `a_name` in it
* the third

```python
def part_{i}(items: list[int]) -> int:
    return sum(item * item for item in items if item % 2)
```

| name | value |
|---|---|
| part | {i} |

"""
TOKEN_CHARS = 5


def prose(chars: int, n: int, hz: float) -> str:
    """The message for `writer_agent`: so many characters at once, then n tokens at `hz`."""
    return json.dumps({"chars": chars, "n": n, "hz": hz})


async def writer_agent(message: str) -> AsyncIterator[str]:
    """A Markdown answer, for a page that draws it."""
    asked = json.loads(message)
    chars, n, hz = asked["chars"], asked["n"], asked["hz"]
    text = "".join(PROSE.format(i=i) for i in range((chars + n * TOKEN_CHARS) // len(PROSE) + 1))
    yield text[:chars]
    start = time.monotonic()
    for i in range(n):
        await asyncio.sleep(max(0.0, start + i / hz - time.monotonic()))
        yield text[chars + i * TOKEN_CHARS : chars + (i + 1) * TOKEN_CHARS]


def pydantic_ai_agent() -> Agent[None, str]:
    """The same chunks from a scripted model inside a real Pydantic AI agent."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def stream(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        last = messages[-1]
        assert isinstance(last, ModelRequest)
        prompts = [part.content for part in last.parts if isinstance(part, UserPromptPart)]
        prompt = prompts[-1]
        # A frontend's message arrives as a list of content parts, a plain call's as a string.
        text = (
            prompt
            if isinstance(prompt, str)
            else "".join(item if isinstance(item, str) else str(getattr(item, "content", "")) for item in prompt)
        )
        async for chunk in generator_agent(text):
            yield chunk

    return Agent(FunctionModel(stream_function=stream))


def adk_agent() -> LlmAgent:
    """The same chunks from a scripted model inside a real ADK agent."""
    from google.adk.agents import LlmAgent
    from google.adk.models.base_llm import BaseLlm
    from google.adk.models.llm_request import LlmRequest
    from google.adk.models.llm_response import LlmResponse
    from google.genai import types

    class ScriptedLlm(BaseLlm):
        async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
            parts = llm_request.contents[-1].parts or []
            chunks = []
            async for chunk in generator_agent(parts[0].text or ""):
                chunks.append(chunk)
                if stream:
                    content = types.Content(role="model", parts=[types.Part(text=chunk)])
                    yield LlmResponse(content=content, partial=True)
            whole = types.Content(role="model", parts=[types.Part(text="".join(chunks))])
            yield LlmResponse(content=whole, partial=False, finish_reason=types.FinishReason.STOP)

    return LlmAgent(name="scripted", model=ScriptedLlm(model="scripted"), instruction="Follow the script.")


def langgraph_agent() -> Any:
    """The same chunks from a scripted model inside a real agent of LangChain's `create_agent`, a LangGraph graph."""
    from langchain.agents import create_agent
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult

    class ScriptedChat(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "scripted"

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise NotImplementedError

        async def _astream(
            self, messages: list[BaseMessage], *args: Any, **kwargs: Any
        ) -> AsyncIterator[ChatGenerationChunk]:
            async for chunk in generator_agent(str(messages[-1].text)):
                yield ChatGenerationChunk(message=AIMessageChunk(content=chunk))

    return create_agent(ScriptedChat(), name="scripted")


def openai_agents_agent() -> agents.Agent[Any]:
    """The same chunks from a scripted service, in this process, that a real agent of the OpenAI Agents SDK asks through
    OpenAI's own client."""
    import httpx2
    import openai
    from agents import Agent, OpenAIChatCompletionsModel, set_tracing_disabled

    def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "scripted", "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    async def frames(message: str) -> AsyncIterator[bytes]:
        yield frame({"role": "assistant", "content": ""})
        async for chunk in generator_agent(message):
            yield frame({"content": chunk})
        yield frame({}, "stop") + b"data: [DONE]\n\n"

    def answer(request: httpx2.Request) -> httpx2.Response:
        message = json.loads(request.content)["messages"][-1]["content"]
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=frames(message))

    http = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(answer))
    client = openai.AsyncOpenAI(api_key="none", base_url="http://in.process/v1", http_client=http)
    set_tracing_disabled(True)
    return Agent(name="scripted", model=OpenAIChatCompletionsModel("scripted", client))


def agno_agent() -> Any:
    """The same chunks from a scripted model inside a real agent of Agno."""
    from agno.agent import Agent
    from agno.models.base import Model
    from agno.models.response import ModelResponse

    class ScriptedModel(Model):  # type: ignore[misc, unused-ignore]  # agno is not in every environment
        def invoke(self, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

        ainvoke = invoke_stream = invoke

        def _parse_provider_response(self, response: Any, **options: Any) -> Any:
            return response

        def _parse_provider_response_delta(self, response: Any) -> Any:
            return response

        async def ainvoke_stream(self, messages: list[Any], *args: Any, **options: Any) -> AsyncIterator[Any]:
            async for chunk in generator_agent(messages[-1].content):
                yield ModelResponse(role="assistant", content=chunk)

    return Agent(id="scripted", model=ScriptedModel(id="scripted"), telemetry=False)
