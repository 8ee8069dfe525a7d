"""LangGraph graphs and LangChain agents (1.x): every message, tool call, sub-graph and question, as they come."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import is_invalid_resume
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from gapless.agents import base
from gapless.agents.approving import ask
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.client_tools import left_to_client
from gapless.agents.failing import failure, raise_as
from gapless.agents.langgraph_events import Translation
from gapless.agents.langgraph_questions import Question, questions_of
from gapless.agents.langgraph_saver import MESSAGES
from gapless.agents.langgraph_threads import Thread, thread_of
from gapless.agents.values import plain
from gapless.agents.writing import finish, notice
from gapless.config import StreamingMode
from gapless.errors import AgentInvalid, RunLimit
from gapless.events import StateSnapshotEvent
from gapless.jsontext import decode_json

__all__ = ["TAKEN", "LangGraphAgent"]

RESULT = "structured_response"
"""The key of the state in which LangChain's agents give their typed output."""
TAKEN = "__gapless_taken"
"""The key of the configuration under which `GaplessMiddleware` says that it is there."""


class LangGraphAgent(base.Agent):
    """Adapts one compiled `graph`, under its own name or `name`.

    Where the state has `messages`, the graph is given the conversation; any other gets the message: as JSON where it is
    an object, under the only key of its input, or what `input` makes of the run's context. `deps` makes a run's
    `context` from the run where the caller gives none. Of the state, the keys `state` are the session's too: what a
    client sets is given to the graph, and what the graph sets is told.

    A session is a thread of the graph's own checkpointer; a graph without one keeps its turns in the session.
    Interrupts ask people; runs go on at another worker after their last finished node. Takes from `RunConfig`:
    `streaming_mode`, `max_llm_calls`; `model_settings` and the client's tools with `GaplessMiddleware` in the agent.

    Raises `ToolFailed`, `ModelFailed`, `OutputInvalid`, `RunLimit`, `AgentInvalid`, `CheckpointUnreadable`.
    """

    framework = f"langgraph {importlib.metadata.version('langgraph').partition('.')[0]}"

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        *,
        name: str | None = None,
        deps: Callable[[RunContext], Any] | None = None,
        input: Callable[[RunContext], Any] | None = None,
        state: Collection[str] = (),
    ) -> None:
        if not isinstance(graph, Pregel):
            raise AgentInvalid(f"a {type(graph).__name__} is not run: compile the graph, `graph.compile()`")
        self.name = name or (graph.name if graph.name != "LangGraph" else None) or "agent"
        # In this process's memory nobody else finds a thread.
        self.continues = "no" if type(graph.checkpointer) is InMemorySaver else "from_checkpoint"
        self._graph = graph
        self._deps = deps
        self._input = input
        self._state = frozenset(state)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        streams = ctx.config.streaming_mode is not StreamingMode.NONE
        translation = Translation(ctx, self._graph.name, streams=streams)
        thread = thread_of(self._graph, ctx, translation)
        options = self._options(ctx, thread, streams=streams)
        try:
            messages, items = await thread.begin()
            for item in items:
                yield item
            given = None if thread.goes_on else self._given(ctx, messages)
            asking, unclear = thread.asking, frozenset[str]()
            stream: Any
            while True:
                reached: Any = None
                if not asking:
                    stream = thread.graph.astream(given, thread.config, **options)
                    async with aclosing(stream):
                        try:
                            async for part in stream:
                                if (delta := translation.delta(part)) is not None:
                                    yield delta
                                    continue
                                for item in translation.items(part):
                                    yield item
                                if part["type"] in ("tasks", "checkpoints"):
                                    await thread.keep(part)
                                if part["type"] == "checkpoints" and not part["ns"]:
                                    reached = part["data"]
                        except Exception as error:
                            if not is_invalid_resume(error):
                                raise
                            unclear, reached = frozenset(_resumed(given)), None
                    thread.config["configurable"].pop("checkpoint_id", None)
                # Read from the checkpointer, the state would be decoded once more.
                if reached is not None and not reached["next"] and isinstance(reached["values"], dict):
                    values, config = reached["values"], reached["config"]
                    break
                state = await thread.graph.aget_state(thread.config)
                if not state.next:
                    values, config = state.values, state.config
                    break
                given, asking = await self._ask(ctx, thread, state, unclear), False
                unclear = frozenset()
            ctx.native = thread.leave(values, config.get("configurable", {}).get("checkpoint_id") or "")
            for item in self._finish(ctx, thread, translation, values):
                yield item
        except Exception as error:
            raise_as(failure(error, ctx.run_id, translation.failed), error)
        finally:
            translation.close()

    async def delete_session(self, app_name: str, user_id: str, session_id: str) -> None:
        """Drop the thread of session `session_id` of `user_id` in `app_name` from the graph's own checkpointer."""
        if isinstance(self._graph.checkpointer, BaseCheckpointSaver):
            await self._graph.checkpointer.adelete_thread(session_id)

    # -- what the graph is given ------------------------------------------------------------------------------------

    def _options(self, ctx: RunContext, thread: Thread, *, streams: bool) -> dict[str, Any]:
        modes = ["updates", "custom", "tasks", "checkpoints"]
        if streams:
            modes.insert(0, "messages")
        if ctx.config.max_llm_calls is not None:
            thread.config["callbacks"] = [_Limit(ctx)]
        thread.config["configurable"][TAKEN] = []
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        options = {"stream_mode": modes, "subgraphs": True, "version": "v2", "durability": "sync"}
        return options if deps is None else {**options, "context": deps}

    def _given(self, ctx: RunContext, messages: list[Any]) -> Any:
        if self._input is not None:
            return self._input(ctx)
        channels = self._graph.channels
        state = {key: ctx.state[key] for key in self._state if key in ctx.state and key in channels}
        if MESSAGES in channels:
            return {**state, MESSAGES: messages}
        keys = self._graph.input_channels
        if not isinstance(keys, str):
            names = [*keys]
        elif (builder := getattr(self._graph, "builder", None)) is not None:
            names = [*builder.schemas.get(builder.input_schema, ())]
        else:
            return ctx.message
        try:
            found = decode_json(ctx.message)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return {**state, **found}
        if len(names) == 1:
            return {**state, names[0]: ctx.message}
        raise AgentInvalid(
            f"agent {self.name}: its graph takes {', '.join(sorted(names))}; send these as a JSON object, or say with "
            "LangGraphAgent(graph, input=…) how they are made of the message"
        )

    # -- questions --------------------------------------------------------------------------------------------------

    async def _ask(self, ctx: RunContext, thread: Thread, state: StateSnapshot, unclear: Collection[str]) -> Any:
        """Ask what the graph has stopped at; return what it goes on with."""
        questions = questions_of(state, unclear)
        by_id: dict[str, Question] = {id: question for question in questions for id in question.interrupts}
        interrupts = {id: question.interrupts[id] for id, question in by_id.items()}
        answers = await ask(
            ctx, interrupts, lambda entry: by_id[entry.interrupt_id].read(entry), lambda: thread.save(asking=True)
        )
        resume = {question.id: question.answer([answers[id] for id in question.interrupts]) for question in questions}
        return Command(resume=resume) if state.interrupts else None

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self, ctx: RunContext, thread: Thread, translation: Translation, values: Any) -> list[AgentItem]:
        found: list[AgentItem] = []
        if isinstance(values, dict):
            if values.get(RESULT) is not None:
                ctx.result = plain(values[RESULT])
            elif MESSAGES not in self._graph.channels:
                ctx.result = plain(values)
            shared = {key: plain(values[key]) for key in self._state if key in values}
            if any(ctx.state.get(key) != value for key, value in shared.items()):
                ctx.state.update(shared)
                found.append(StateSnapshotEvent(snapshot=ctx.state))
        elif values is not None:
            ctx.result = plain(values)
        found += finish(translation.finish_reason)
        if (ctx.config.model_settings or ctx.tools) and not thread.config["configurable"][TAKEN]:
            names = [*ctx.config.model_settings, *(["tools"] if ctx.tools else [])]
            message = (
                f"this graph does not take {', '.join(names)}: give its agent gapless.agents.langgraph_middleware's "
                "GaplessMiddleware"
            )
            found.append(notice("setting_ignored", message))
        if pending := _pending(ctx, values):
            found.append(left_to_client(ctx, pending))
        return found


class _Limit(AsyncCallbackHandler):
    """Lets a run make so many calls of models and no more."""

    raise_error = True

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._calls = 0

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._calls += 1
        if self._calls > (self._ctx.config.max_llm_calls or 0):
            raise RunLimit(
                f"run {self._ctx.run_id}: more than max_llm_calls={self._ctx.config.max_llm_calls} model calls",
                run_id=self._ctx.run_id,
            )


def _resumed(given: Any) -> Collection[str]:
    """Return the ids of the interrupts that a graph was given answers to."""
    return given.resume if isinstance(given, Command) and isinstance(given.resume, dict) else ()


def _pending(ctx: RunContext, values: Any) -> list[str]:
    """Return the ids of the calls of the client's own tools that the graph has ended with."""
    own = {tool.name for tool in ctx.tools}
    messages = values.get(MESSAGES) or () if own and isinstance(values, dict) else ()
    answered = {one.tool_call_id for one in messages if isinstance(one, ToolMessage)}
    calls = [call for one in messages if isinstance(one, AIMessage) for call in one.tool_calls]
    return [id for call in calls if call["name"] in own and (id := call["id"]) and id not in answered]
