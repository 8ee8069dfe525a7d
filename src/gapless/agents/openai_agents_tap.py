"""The models of agents of the OpenAI Agents SDK, with what they say heard on its way to the SDK's loop.

The SDK takes each delta through a queue of its own, to look at none of them: it wants whole items and the whole
response. So a run's deltas are recorded where the model gives them, once the adapter has told everything that the SDK
was given before, and all else goes through the SDK.

The SDK asks an agent for its model before each request. So while an agent runs, its model has a stand-in, which does as
the model does to everybody but this run; what the provider of models gives has one too.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import Any

import agents.run
from agents import Agent, Model, ModelProvider, ModelSettings, RunResultStreaming

from gapless.agents.base import Deltas, RunContext
from gapless.agents.openai_agents_events import Translation

__all__ = ["CATCH_UP_S", "Hearing", "watched_by"]

DELTAS = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
    }
)
"""What goes on with something that has begun, and the SDK only passes on."""
BEFORE = frozenset({"response.created", "response.in_progress"})
"""After these alone the SDK may ask again. It has to see that something was said."""
CATCH_UP_S = 0.5
"""How long a delta waits until the adapter has told what the SDK was given before it. After that, the rest of the run
goes through the SDK: something there keeps events back, or changes them."""


def watched_by(settings: ModelSettings) -> str:
    """Return who may look at each event of a model that is asked with these settings, or at its time; "" for nobody."""
    if type(agents.run.get_default_agent_runner()) is not agents.run.AgentRunner:
        return "the code of the runner"
    if settings.timeout is not None:  # a journal that is slow takes none of it
        return "the timeout of the model"
    return ""


class Hearing:
    """Records what models say, for one run; `translation` is the run's, whose `items` the adapter yields."""

    def __init__(self, ctx: RunContext, translation: Translation) -> None:
        self.deltas: Deltas | None = None
        """How the deltas of the run's responses come; None before the first request that is streamed."""
        self._ctx = ctx
        self._translation = translation
        self._request: Any = None
        """What the model is asked by the run itself, and not by an agent that is a tool in it."""
        self._model: Any = None
        """What the SDK asks; None until it is known what the provider has given. What another model asks is not heard:
        that may look at each event."""
        self._model_of_all: Any = None
        """The model of all agents, or its name, where the SDK's configuration has one."""
        self._given: Any = None
        """The newest event that the SDK was given."""
        self._told = asyncio.Event()
        """All of it was told."""
        self._behind = False
        """The SDK keeps events back, or changes them: nothing is heard any more."""
        self._result: RunResultStreaming | None = None
        self._tapped: list[tuple[Agent[Any], Any]] = []

    def start(self, agent: Agent[Any], given: Any, **options: Any) -> RunResultStreaming:
        """Let the SDK run the agent, as `Runner.run_streamed`, and be heard."""
        options["run_config"] = config = copy.copy(options["run_config"])
        config.model_provider = _Provider(config.model_provider)
        if isinstance(config.model, Model):
            config.model = _Model.of(config.model)
        self._model_of_all = config.model
        token = _current.set(self)
        try:
            self._result = agents.Runner.run_streamed(agent, given, **options)
        finally:
            _current.reset(token)
        return self._result

    def begins(self, agent: Agent[Any]) -> None:
        """Note that the agent will ask its model."""
        if isinstance(agent.model, Model) and all(one is not agent for one, _ in self._tapped):
            agent.model = model = _Model.of(agent.model)
            model._gapless_runs.add(self)
            self._tapped.append((agent, model))

    def asks(self, agent: Agent[Any], request: Any) -> None:
        """Note what the agent's model is asked next."""
        self._request = request
        chosen = agent.model if self._model_of_all is None else self._model_of_all
        self._model = chosen if isinstance(chosen, Model) else None

    def end(self) -> None:
        """Give the agents their models back, where no other run is heard."""
        self._result = None
        for agent, model in self._tapped:
            model._gapless_runs.discard(self)
            held: Any = agent.model
            if held is model and not model._gapless_runs:
                agent.model = model._gapless_of
        self._tapped.clear()

    def told(self, event: Any) -> None:
        """Note that all of a model's event was told."""
        if event is self._given:
            self._told.set()

    def hears(self, model: Any, request: Any, settings: ModelSettings) -> bool:
        """Return whether the deltas of the model's answer to this request are heard."""
        if request is not self._request:
            return False
        self._model = self._model or model
        if model is not self._model:
            return False
        watching = "something in the SDK that keeps events back" if self._behind else watched_by(settings)
        at_model = not watching and self._ctx.emits
        if self.deltas is None or not at_model:
            self.deltas = Deltas(at_model, watching)
        return at_model

    async def rest(self, events: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Yield what the SDK is to be given of a model's events: all that are not heard."""
        begun = False
        try:
            async for event in events:
                if begun and event.type in DELTAS and await self._hear(event):
                    continue
                begun = begun or event.type not in BEFORE
                self._given = event
                self._told.clear()
                yield event
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()

    async def _hear(self, event: Any) -> bool:
        """Record a delta, as soon as what the SDK was given before it was told; returns False where it must go through
        the SDK."""
        if not self._told.is_set() and not self._behind:
            try:
                async with asyncio.timeout(CATCH_UP_S):
                    await self._told.wait()
            except TimeoutError:
                self._behind = True
        if self._behind or self._tripped():
            return False
        for item in self._translation.said(event):
            await self._ctx.emit(item)  # what it raises ends the run: the SDK has seen what it may not ask for again
        return True

    def _tripped(self) -> bool:
        """Return whether a guardrail refuses the message: the SDK then stops at the model's next event."""
        result = self._result
        return result is None or any(one.output.tripwire_triggered for one in result.input_guardrail_results)


_current: ContextVar[Hearing | None] = ContextVar("gapless_openai_agents_hearing", default=None)
"""What hears the run whose task this is."""


class _StandIn:
    """Stands for an object: it has all that it has, and takes all that it takes."""

    def __init__(self, of: Any) -> None:
        object.__setattr__(self, "_gapless_of", of)

    @property  # type: ignore[misc]  # what asks for its kind is told the other's
    def __class__(self) -> type:
        return type(self._gapless_of)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of Python's protocols it has its own
            raise AttributeError(name)
        return getattr(self._gapless_of, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._gapless_of, name, value)


class _Model(_StandIn):
    """Stands for a model."""

    _gapless_of: Model
    _gapless_runs: set[Hearing]
    """The runs for which an agent has it."""

    @classmethod
    def of(cls, model: Any) -> Any:
        """Return what stands for the model: itself, where it does already."""
        if type(model) is cls:
            return model
        made = cls(model)
        object.__setattr__(made, "_gapless_runs", set())
        return made

    def stream_response(
        self, system_instructions: Any, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        events = self._gapless_of.stream_response(system_instructions, input, model_settings, *args, **kwargs)
        hearing = _current.get()
        return events if hearing is None or not hearing.hears(self, input, model_settings) else hearing.rest(events)


class _Provider(_StandIn):
    """Stands for a provider of models."""

    _gapless_of: ModelProvider

    def get_model(self, model_name: str | None) -> Any:
        return _Model.of(self._gapless_of.get_model(model_name))
