"""A scripted model for real ADK agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import PrivateAttr

READERS_TURNS = 10
"""More than ADK takes turns of the event loop to hand an event on."""

__all__ = ["Call", "Raises", "Scripted", "Streamed", "Thought", "contents"]


class Thought(NamedTuple):
    text: str


class Call(NamedTuple):
    """A tool call that comes whole."""

    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class Streamed(NamedTuple):
    """A tool call whose arguments come in pieces: (JSONPath, value)."""

    name: str
    pieces: Sequence[tuple[str, Any]]
    args: dict[str, Any]
    id: str = "call-streamed"


class Raises(NamedTuple):
    error: Exception


async def pause() -> None:
    """Let whoever reads ADK's events come to the newest: a service takes longer than that. Partial events share with
    the whole one what it changes of the state, and would tell it too where they are read only then."""
    for _ in range(READERS_TURNS):
        await asyncio.sleep(0)


class Scripted(BaseLlm):
    """Answers the n-th call with the n-th script, the last one again and again. A string is a piece of text."""

    model: str = "scripted"
    _scripts: list[list[Any]] = PrivateAttr()
    _requests: list[list[types.Content]] = PrivateAttr(default_factory=list)
    _configs: list[types.GenerateContentConfig] = PrivateAttr(default_factory=list)
    _options: dict[str, Any] = PrivateAttr()
    running: int = 0
    """Calls that are being answered."""
    at: int = 0
    """Steps taken, over all calls."""

    def __init__(self, *scripts: list[Any], **options: Any) -> None:
        """Options: `finish_reason`, `usage`, `refuses_streams`, `hold_at` (stands still before that step)."""
        super().__init__(model="scripted")
        self._scripts = list(scripts)
        self._options = options

    @property
    def requests(self) -> list[list[types.Content]]:
        """What each call was given."""
        return self._requests

    @property
    def configs(self) -> list[types.GenerateContentConfig]:
        return self._configs

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        if stream and self._options.get("refuses_streams"):
            raise NotImplementedError("this model does not support streaming")
        number = len(self._requests)
        self._requests.append([content.model_copy(deep=True) for content in llm_request.contents])
        self._configs.append(llm_request.config)
        script = self._scripts[min(number, len(self._scripts) - 1)]
        self.running += 1
        try:
            whole: list[types.Part] = []
            for step in script:
                if self.at == self._options.get("hold_at"):
                    await asyncio.Event().wait()
                self.at += 1
                await pause()
                if isinstance(step, Raises):
                    raise step.error
                if isinstance(step, LlmResponse):
                    yield step
                    continue
                for part in _partials(step):
                    if stream:
                        yield LlmResponse(content=types.Content(role="model", parts=[part]), partial=True)
                _add(whole, step)
            if self.at == self._options.get("hold_at"):
                await asyncio.Event().wait()
            self.at += 1
            await pause()
            yield LlmResponse(
                content=types.Content(role="model", parts=whole),
                partial=False,
                finish_reason=self._options.get("finish_reason", types.FinishReason.STOP),
                error_code=self._options.get("error_code"),
                usage_metadata=self._options.get("usage"),
                model_version="scripted-1",
            )
        finally:
            self.running -= 1


def _partials(step: Any) -> list[types.Part]:
    if isinstance(step, str):
        return [types.Part(text=step)]
    if isinstance(step, Thought):
        return [types.Part(text=step.text, thought=True)]
    if isinstance(step, Streamed):
        pieces = []
        for number, (path, value) in enumerate(step.pieces):
            kind = (
                "string_value"
                if isinstance(value, str)
                else "bool_value"
                if isinstance(value, bool)
                else "number_value"
            )
            piece = types.PartialArg(json_path=path, will_continue=True, **{kind: value})
            name = step.name if number == 0 else None
            call = types.FunctionCall(id=step.id, name=name, partial_args=[piece], will_continue=True)
            pieces.append(types.Part(function_call=call))
        return [*pieces, types.Part(function_call=types.FunctionCall(id=step.id, will_continue=False))]
    if isinstance(step, Call):
        return [types.Part(function_call=types.FunctionCall(id=step.id, name=step.name, args=step.args))]
    return [step] if isinstance(step, types.Part) else []


def _add(whole: list[types.Part], step: Any) -> None:
    if isinstance(step, str | Thought):
        text, thought = (step, None) if isinstance(step, str) else (step.text, True)
        if whole and whole[-1].text is not None and whole[-1].thought == thought:
            whole[-1].text += text
        else:
            whole.append(types.Part(text=text, thought=thought))
    elif isinstance(step, Call | Streamed):
        call = types.FunctionCall(id=step.id, name=step.name, args=dict(step.args or {}))
        whole.append(types.Part(function_call=call))
    elif isinstance(step, types.Part):
        whole.append(step)


def contents(request: Sequence[types.Content]) -> list[tuple[str, str]]:
    """A model's input as (role, text), calls and results by name."""
    found = []
    for content in request:
        for part in content.parts or []:
            if part.thought:
                continue
            text = part.text or ""
            if part.function_call is not None:
                text = f"call {part.function_call.name}"
            elif part.function_response is not None:
                text = f"result {part.function_response.name} {part.function_response.response}"
            found.append((content.role or "", text))
    return found
