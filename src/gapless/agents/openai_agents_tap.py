"""The models of agents of the OpenAI Agents SDK, with what they say heard on its way to the SDK's loop.

The SDK takes each delta through a queue of its own, to look at none of them: it wants whole items and the whole
response. So a run's deltas are recorded where the model gives them, once the adapter has told everything that the SDK
was given before, and all else goes through the SDK.

The SDK asks its configuration for a model of all agents before it asks the agent for its own. So a run has a copy of
the configuration, which answers, to the run alone and just before a request, with what stands for the agent's model and
does as it does; for a model by name, with a provider that does the same. Nothing of the user's is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import Any

import agents.run
from agents import Agent, Model, ModelProvider, ModelSettings, RunConfig, RunResultStreaming

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


def unheard(config: RunConfig) -> str:
    """Return why a run with this configuration has its models asked as they are; "" where it does not."""
    if type(config) is not RunConfig:
        return "the code of the configuration"
    return "" if config.sandbox is None else "a sandbox"  # it asks copies of agents


class Hearing:
    """Records what models say, for one run; `translation` is the run's, whose `items` the adapter yields."""

    def __init__(self, ctx: RunContext, translation: Translation) -> None:
        self.deltas: Deltas | None = None
        """How the deltas of the run's responses come; None before the first request that is streamed."""
        self._ctx = ctx
        self._translation = translation
        self._turn = 0
        """The newest turn whose request is known."""
        self._request: Any = None
        """What the model is asked by the run itself, and not by an agent that is a tool in it."""
        self._heard: list[_Model] = []
        """What stands for the models that the run has asked."""
        self._given: Any = None
        """The newest event that the SDK was given."""
        self._told = asyncio.Event()
        """All of it was told."""
        self._behind = False
        """The SDK keeps events back, or changes them: nothing is heard any more."""
        self._result: RunResultStreaming | None = None

    def start(self, agent: Agent[Any], given: Any, **options: Any) -> RunResultStreaming:
        """Let the SDK run the agent, as `Runner.run_streamed`, and be heard."""
        config: RunConfig = options["run_config"]
        if why := unheard(config):
            self.deltas = Deltas(False, why)
            return agents.Runner.run_streamed(agent, given, **options)
        own = copy.copy(config)
        own.__class__ = _Config
        token = _current.set(self)
        try:
            self._result = result = agents.Runner.run_streamed(agent, given, **{**options, "run_config": own})
        finally:
            _current.reset(token)
        self._turn = result.current_turn
        return result

    def asks(self, request: Any) -> None:
        """Note what the run asks a model next."""
        self._request = request
        if self._result is not None:
            self._turn = self._result.current_turn

    def end(self) -> None:
        """Let go of the run."""
        self._result = None

    def asks_now(self) -> bool:
        """Return whether this is the run itself, before a request, and no agent or other code in it."""
        result = self._result
        if result is None or result.current_turn == self._turn:
            return False
        with contextlib.suppress(RuntimeError):  # of a thread
            return asyncio.current_task() is result.run_loop_task
        return False

    def model(self, of_all: Any) -> Any:
        """Return what the run is to ask before its provider, where its configuration has this model `of_all` agents."""
        model = self._result.current_agent.model if of_all is None and self._result is not None else of_all
        return self.stand_in(model) if isinstance(model, Model) else of_all

    def stand_in(self, model: Any) -> Any:
        """Return what stands for a model: one for each."""
        made = next((one for one in self._heard if one._gapless_of is model), None)
        if made is None:
            self._heard.append(made := _Model(model))
        return made

    def told(self, event: Any) -> None:
        """Note that all of a model's event was told."""
        if event is self._given:
            self._told.set()

    def hears(self, request: Any, settings: ModelSettings) -> bool:
        """Return whether the deltas of a model's answer to this request are heard."""
        if request is not self._request:
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
                kind = getattr(event, "type", None)
                if begun and kind in DELTAS and await self._hear(event):
                    continue
                begun = begun or kind not in BEFORE
                self._given = event
                self._told.clear()
                yield event
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                with contextlib.suppress(Exception):  # as the SDK has it
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


class _Model:
    """Stands for a model: it has all that it has, and takes all that it takes."""

    _gapless_of: Model

    def __init__(self, of: Model) -> None:
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

    def stream_response(
        self, system_instructions: Any, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        events = self._gapless_of.stream_response(system_instructions, input, model_settings, *args, **kwargs)
        hearing = _current.get()
        return events if hearing is None or not hearing.hears(input, model_settings) else hearing.rest(events)


class _Provider(ModelProvider):
    """Gives what stands for the models of a provider."""

    def __init__(self, of: ModelProvider, hearing: Hearing) -> None:
        self._of, self._hearing = of, hearing

    def get_model(self, model_name: str | None) -> Any:
        return self._hearing.stand_in(self._of.get_model(model_name))


class _Config(RunConfig):
    """Is the configuration of a run that is heard: as the user's, but for the run itself just before it asks."""

    @property
    def model(self) -> Any:
        chosen, hearing = vars(self)["model"], _current.get()
        return hearing.model(chosen) if hearing is not None and hearing.asks_now() else chosen

    @model.setter
    def model(self, model: Any) -> None:
        vars(self)["model"] = model

    @property
    def model_provider(self) -> Any:
        provider, hearing = vars(self)["model_provider"], _current.get()
        return _Provider(provider, hearing) if hearing is not None and hearing.asks_now() else provider

    @model_provider.setter
    def model_provider(self, provider: Any) -> None:
        vars(self)["model_provider"] = provider
