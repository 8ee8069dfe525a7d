"""The frameworks' own model classes on a service by its URL, each in an agent with two tools: what such an agent says
alone, and through Gapless."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network when it is imported

import msgspec
from anthropic import AsyncAnthropic
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models import Gemini
from google.adk.models.anthropic_llm import AnthropicLlm
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from gapless.events import AssistantMessage, Message, ReasoningMessage, ToolMessage, text_of
from gapless.jsontext import decode_json
from tests.support.services import ANTHROPIC, CHAT, GEMINI, RESPONSES, Protocol

__all__ = ["CLASSES", "ModelClass", "Said", "said_in"]

Said = list[tuple[Any, ...]]
"""What a turn said: ("text", …), ("thought", …), ("call", name, arguments) and ("result", name, what it gave)."""


async def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


async def now() -> str:
    """The time."""
    return "noon"


TOOLS: list[Any] = [weather, now]


class ModelClass(NamedTuple):
    """One model class of a framework."""

    protocol: Protocol
    agent: Callable[[str], Any]
    alone: Callable[[Any, Sequence[str]], Any]
    """Returns what the framework says to each of some messages of one conversation, without Gapless."""


def _pydantic_ai(model: Any) -> Any:
    return Agent(model, tools=TOOLS, name="helper")


def _adk(model: Any) -> Any:
    return LlmAgent(name="helper", model=model, tools=TOOLS)


def _openai(url: str) -> Any:
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0))


def _claude(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="k", max_retries=0)


_LITELLM: dict[str, Any] = {"api_key": "k", "num_retries": 0, "_skip_mcp_handler": True}
"""It would import its whole proxy for each call with tools, to look whether one of them is an MCP server."""


async def _pydantic_ai_alone(agent: Any, messages: Sequence[str]) -> list[Said]:
    async def drain(ctx: Any, events: Any) -> None:
        async for _ in events:
            pass

    turns, history = [], None
    for message in messages:
        result = await agent.run(message, message_history=history, event_stream_handler=drain)
        history = result.all_messages()
        turns.append(_joined(_of_pydantic_ai(result.new_messages())))
    return turns


def _of_pydantic_ai(messages: Sequence[m.ModelMessage]) -> Said:
    found: Said = []
    for part in [part for message in messages for part in message.parts]:
        if isinstance(part, m.TextPart):
            found.append(("text", part.content))
        elif isinstance(part, m.ThinkingPart):
            found.append(("thought", part.content))
        elif isinstance(part, m.BaseToolCallPart):
            found.append(("call", part.tool_name, _decoded(_arguments(part))))
        elif isinstance(part, m.BaseToolReturnPart):
            content: Any = part.content
            found.append(("result", part.tool_name, content["error"] if isinstance(content, dict) else content))
        elif isinstance(part, m.RetryPromptPart) and part.tool_name:
            found.append(("result", part.tool_name, part.model_response()))
    return found


def _arguments(part: m.BaseToolCallPart) -> str:
    return (part.args if isinstance(part.args, str) else part.args_as_json_str()) or "{}"


async def _adk_alone(agent: Any, messages: Sequence[str]) -> list[Said]:
    runner = InMemoryRunner(agent=agent, app_name="helper")
    session = await runner.session_service.create_session(app_name="helper", user_id="u")
    turns = []
    for message in messages:
        found: Said = []
        async for event in runner.run_async(
            user_id="u",
            session_id=session.id,
            new_message=types.Content(role="user", parts=[types.Part(text=message)]),
            run_config=ADKRunConfig(streaming_mode=StreamingMode.SSE),
        ):
            if event.error_code and event.error_code != "MAX_TOKENS":
                raise RuntimeError(event.error_code)
            if not event.partial:
                found += _of_adk((event.content.parts if event.content else None) or [])
        turns.append(_joined(found))
    return turns


def _of_adk(parts: Sequence[types.Part]) -> Said:
    found: Said = []
    for part in parts:
        if part.function_call is not None:
            found.append(("call", part.function_call.name, part.function_call.args or {}))
        elif part.function_response is not None:
            response = part.function_response.response or {}
            found.append(
                ("result", part.function_response.name, response.get("result", response.get("error", response)))
            )
        elif part.text:
            found.append(("thought" if part.thought else "text", part.text))
    return found


def said_in(messages: Sequence[Message]) -> Said:
    """Return what the messages of a run through Gapless say."""
    found: Said = []
    names: dict[str, str] = {}
    for message in messages:
        if isinstance(message, ReasoningMessage):
            found.append(("thought", message.content))
        elif isinstance(message, AssistantMessage):
            found.append(("text", message.content or ""))
            for call in message.tool_calls or ():
                names[call.id] = call.function.name
                found.append(("call", call.function.name, _decoded(call.function.arguments)))
        elif isinstance(message, ToolMessage):
            content: Any = text_of(message.content)
            if content.startswith("{"):
                content = decode_json(content)
                content = content.get("result", content.get("error", content))
            found.append(("result", names[message.tool_call_id], content))
    return _joined(found)


def _decoded(arguments: str) -> Any:
    with contextlib.suppress(msgspec.DecodeError):  # of a call that broke off
        return decode_json(arguments)
    return arguments


def _joined(said: Said) -> Said:
    """Join texts that stand side by side, and leave out empty ones."""
    found: Said = []
    for one in said:
        if one[0] in ("text", "thought"):
            if not one[1]:
                continue
            if found and found[-1][0] == one[0]:
                found[-1] = (one[0], found[-1][1] + one[1])
                continue
        found.append(one)
    return found


CLASSES: dict[str, ModelClass] = {
    "pydantic-ai google": ModelClass(
        GEMINI,
        lambda url: _pydantic_ai(GoogleModel("gemini-3-flash", provider=GoogleProvider(api_key="k", base_url=url))),
        _pydantic_ai_alone,
    ),
    "pydantic-ai anthropic": ModelClass(
        ANTHROPIC,
        lambda url: _pydantic_ai(
            AnthropicModel("claude-sonnet-4-5", provider=AnthropicProvider(anthropic_client=_claude(url)))
        ),
        _pydantic_ai_alone,
    ),
    "pydantic-ai chat": ModelClass(
        CHAT, lambda url: _pydantic_ai(OpenAIChatModel("m", provider=_openai(url))), _pydantic_ai_alone
    ),
    "pydantic-ai responses": ModelClass(
        RESPONSES, lambda url: _pydantic_ai(OpenAIResponsesModel("m", provider=_openai(url))), _pydantic_ai_alone
    ),
    "adk gemini": ModelClass(GEMINI, lambda url: _adk(Gemini(model="gemini-3-flash", base_url=url)), _adk_alone),
    "adk claude": ModelClass(
        ANTHROPIC, lambda url: _adk(AnthropicLlm(model="claude-sonnet-4-5", client=_claude(url))), _adk_alone
    ),
    "adk litellm": ModelClass(
        CHAT,
        lambda url: _adk(LiteLlm(model="openai/m", api_base=f"{url}/v1", **_LITELLM)),
        _adk_alone,
    ),
    "adk litellm claude": ModelClass(
        ANTHROPIC,
        lambda url: _adk(LiteLlm(model="anthropic/claude-sonnet-4-5", api_base=url, **_LITELLM)),
        _adk_alone,
    ),
}
