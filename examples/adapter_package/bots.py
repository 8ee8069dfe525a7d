"""Plays somebody's agent framework: a model answers, the tools that it calls are called, until it calls no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import pydantic

__all__ = ["Bot", "Model", "ToolError"]

Message = dict[str, Any]
"""`{"role": "user", "text": …}`, `{"role": "bot", "text": …, "calls": [{"id": …, "name": …, "arguments": {…}}]}`, or
`{"role": "tool", "call": id, "text": …}`."""


class Model(Protocol):
    """Answers a conversation."""

    name: str

    def answer(self, talk: Sequence[Message], tools: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        """Say the answer to `talk`, piece by piece: ("thought", text), ("text", text), ("tokens", (read, written)),
        ("output", a value where the bot has an output), and of calls of `tools` ("arguments", (id, name, a piece of
        their JSON)), and when they are whole ("call", {"id": …, "name": …, "arguments": {…}})."""


class ToolError(Exception):
    """Says that the tool `name` has `raised` something."""

    def __init__(self, name: str, raised: Exception) -> None:
        super().__init__(f"tool {name} failed")
        self.name = name
        self.raised = raised


class Bot:
    """Answers with a `model` and `tools`, async functions. Those of `asks` are called with somebody's permission.
    `output` is the type of its output where that is not text."""

    def __init__(
        self,
        model: Model,
        tools: Sequence[Callable[..., Awaitable[object]]] = (),
        *,
        name: str = "bot",
        asks: Collection[str] = (),
        output: type[pydantic.BaseModel] | None = None,
    ) -> None:
        self.name = name
        self._model = model
        self._tools = {tool.__name__: tool for tool in tools}
        self._asks = asks
        self._output = output

    async def stream(
        self, talk: list[Message], *, permitted: Mapping[str, bool] | None = None, others: Collection[str] = ()
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Go on with `talk`, which grows by what is said, and yield what the model says; ("returned", message) of a
        tool; and ("step", None) each time that `talk` has grown.

        `permitted` says by call whether it may be made; where it says nothing of one that asks, the last is ("asks",
        calls). `others` are tools that the bot does not call: where the model does, the last is ("left", calls).
        Raises `ToolError`."""
        while True:
            calls = _open_calls(talk)
            if not calls:
                if talk[-1]["role"] == "bot":
                    return
                async for said in self._answer(talk, others):
                    yield said
                continue
            asking = [call for call in calls if call["name"] in self._asks and call["id"] not in (permitted or {})]
            own = [call for call in calls if call["name"] not in others]
            if asking or not own:
                yield ("asks", asking) if asking else ("left", calls)
                return
            for call in own:
                text = await self._call(call) if (permitted or {}).get(call["id"], True) else "not permitted"
                talk.append({"role": "tool", "call": call["id"], "text": text})
                yield "returned", talk[-1]
                yield "step", None

    async def _answer(self, talk: list[Message], others: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        answer: Message = {"role": "bot", "text": "", "calls": []}
        async for kind, value in self._model.answer(talk, [*self._tools, *others]):
            if kind == "text":
                answer["text"] += value
            elif kind == "call":
                answer["calls"].append(value)
            elif kind == "output" and self._output is not None:
                value = self._output.model_validate(value)
            yield kind, value
        talk.append(answer)
        yield "step", None

    async def _call(self, call: dict[str, Any]) -> str:
        try:
            return str(await self._tools[call["name"]](**call["arguments"]))
        except Exception as error:
            raise ToolError(call["name"], error) from error


def _open_calls(talk: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the calls of the last answer that have no result yet."""
    answered = set()
    for message in reversed(talk):
        if message["role"] == "tool":
            answered.add(message["call"])
        elif message["role"] == "bot":
            return [call for call in message["calls"] if call["id"] not in answered]
    return []
