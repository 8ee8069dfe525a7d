"""Pydantic AI's own spelling over durable runs: agents as its tutorials write them.

    from gapless.pydantic_ai import Agent, RunContext

    agent = Agent(model="gemini-2.5-flash", result_type=str, system_prompt="Be brief.")
    async with agent.run_stream("Explain SSE") as stream:
        async for text in stream.stream_text(delta=True):
            print(text)

What a tool or the model raises is raised as it is, as Pydantic AI does.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, TypeVar, Unpack

import pydantic_ai
from pydantic_ai import RunContext
from pydantic_ai.output import OutputDataT
from pydantic_ai.tools import AgentDepsT

from gapless.errors import as_raised
from gapless.runs.request import StartOptions
from gapless.runs.run_stream import RunStream
from gapless.runs.runner import Runner

__all__ = ["Agent", "RunContext", "RunStream"]

_PROVIDERS = {"gemini": "google", "claude": "anthropic", "gpt": "openai"}
"""Whose a model is whose name says no provider, as the framework took it once."""
_T = TypeVar("_T")


class Agent(pydantic_ai.Agent[AgentDepsT, OutputDataT]):
    """Is Pydantic AI's agent, whose `run_stream` is a durable run. Takes what the framework took earlier: `result_type`
    for `output_type`, a `model` without its provider, and functions without a context for `tool`.

    Args:
        store: Where its runs are kept, as `gapless.Runner` takes it.
        options: What Pydantic AI's agent takes.
    """

    def __init__(self, model: Any = None, *, result_type: Any = None, store: Any = "memory://", **options: Any) -> None:
        if result_type is not None:
            options.setdefault("output_type", result_type)
        if isinstance(model, str) and ":" not in model and (provider := _PROVIDERS.get(model.partition("-")[0])):
            model = f"{provider}:{model}"
        super().__init__(model, **options)
        self._store = store
        self._runner: Runner | None = None

    @property
    def runner(self) -> Runner:
        """Returns the runner of its runs, for whatever else is to be done with them."""
        if self._runner is None:
            self._runner = Runner(self, store=self._store)
        return self._runner

    def run_stream(  # type: ignore[override]  # a durable run in its place
        self, user_prompt: object = None, **options: Unpack[StartOptions]
    ) -> _Stream[OutputDataT]:
        """Start a run and show its text or typed output as it grows; see `gapless.Runner.run_stream`."""
        runner = self.runner
        return _Stream(lambda: runner.start(user_prompt, **options), lambda: runner.output_type(None))

    def tool(self, function: Any = None, /, **options: Any) -> Any:
        """Make a tool of a function, whether or not it takes the context."""
        if function is None:
            return lambda given: self.tool(given, **options)
        make: Callable[..., Any] = super().tool if _takes_context(function) else super().tool_plain
        return make(function, **options) if not options else make(**options)(function)


class _Stream(RunStream[_T], Generic[_T]):
    """Raises what the agent's code has raised."""

    async def stream_text(self, *, delta: bool = False) -> AsyncGenerator[str, None]:
        with as_raised():
            async for text in super().stream_text(delta=delta):
                yield text

    async def stream_output(self) -> AsyncGenerator[_T, None]:
        with as_raised():
            async for output in super().stream_output():
                yield output

    async def get_output(self) -> _T:
        with as_raised():
            return await super().get_output()

    stream = stream_output
    get_data = get_output


def _takes_context(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and "RunContext" in str(first.annotation)
