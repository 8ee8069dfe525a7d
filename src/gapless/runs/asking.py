"""Asking and reading at once: a run is started and followed by one call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar, Unpack, overload

import msgspec

from gapless.agents.base import Agent
from gapless.config import RunConfig, StreamingMode
from gapless.errors import GaplessError, UsageError
from gapless.events import Event
from gapless.live import LiveRequest, LiveRequestQueue
from gapless.notify import NoticeRecord
from gapless.output import OutputType
from gapless.producing import Batch, Producer, Taken
from gapless.runs.conversations import place_of
from gapless.runs.request import ANONYMOUS, AskOptions, StartOptions, session_id_of
from gapless.runs.run import Run
from gapless.runs.run_stream import RunStream
from gapless.runs.worker import Worker

__all__ = ["Asking"]

_OutputT = TypeVar("_OutputT")


class Asking:
    """Starts runs, reads them and their sessions, and writes runs that are executed elsewhere, for whoever has `start`,
    agents and a `worker`: the runner."""

    config: RunConfig
    open: Callable[[], Coroutine[Any, Any, Any]]
    worker: Worker
    start: Callable[..., Coroutine[Any, Any, Run]]
    _agent: Callable[[object], tuple[str, Agent]]

    async def run_async(
        self,
        query: object = None,
        agent: object = None,
        session: object = None,
        *,
        run_config: RunConfig | None = None,
        new_message: object = None,
        session_id: str | None = None,
        user_id: str = ANONYMOUS,
        run_id: str | None = None,
        deps: Any = None,
    ) -> AsyncIterator[Event]:
        """Start a run and yield its events to the end. Leaving early leaves the run going, unless its `on_disconnect`
        is "cancel".

        Raises what `start` raises and, after the last event of a run that failed, its `RunFailed`.

        Args:
            query: The message, as `start` takes it.
            agent: Name of a registered agent, or an agent; by default the one of `app_name`.
            session: The session, by its id or as an object with an `id`.
            run_config: How the run goes; by default the runner's `config`.
            new_message: The message, in ADK's spelling.
            session_id: The session, by its id.
            user_id: Whose the run and its session are.
            run_id: Id of the run; the same request under it again is the same run.
            deps: What the agent's tools depend on, in this process.
        """
        run = await self.start(
            query if query is not None else new_message,
            agent=agent,
            session_id=session_id_of(session, session_id),
            user_id=user_id,
            run_id=run_id,
            config=run_config,
            deps=deps,
        )
        async for event in run.events():
            yield event
        await run.raise_if_failed()

    async def send(self, run_id: str, request: LiveRequest, *, wait: bool = False) -> None:
        """Say something, `request`, to the live run `run_id`, wherever it executes. With `wait`, where its agent is too
        far behind, once it is not (which is known of a run that executes here).

        Raises `RunNotFound`, `InputInvalid` (it is not live, has ended, or nothing more was to be said),
        `InputTooLarge`, `LimitReached`, `StoreUnavailable`."""
        await self.open()
        await self.worker.commands.push(run_id, request, wait=wait)

    async def notices(self, run_id: str) -> list[NoticeRecord]:
        """Return what was told of the run `run_id`, or is to be told still, oldest first; kept as long as its events.
        Raises `StoreUnavailable`."""
        await self.open()
        return await self.worker.deliveries.of_run(run_id)

    async def notify_again(self, run_id: str, notice_id: str) -> NoticeRecord:
        """Send the notice `notice_id` of the run `run_id` once more, under the same id, whatever became of it. Raises
        `NoticeNotFound`, `StoreUnavailable`."""
        await self.open()
        return await self.worker.deliveries.again(run_id, notice_id)

    async def follow_session(self, session_id: str, after: str = "0") -> AsyncGenerator[tuple[str, Event], None]:
        """Yield the events of all runs of session `session_id`, run after run, each with its place in the session; from
        the store and then live, until the session is deleted. A `CustomEvent` named `gapless.session` says how the
        session stands (its record, and its runs that have not ended): first, and whenever that has changed.

        Raises `SessionNotFound`, `CursorInvalid`, `CursorExpired`, `StoreUnavailable`.

        Args:
            session_id: The session to follow.
            after: The place behind which to begin, as it came with an event; "0" for the beginning, "latest" for that
                of the run that has not ended, or what comes next.
        """
        place = place_of(after)
        await self.open()
        async with contextlib.aclosing(self.worker.conversations.events(session_id, place)) as events:
            async for told in events:
                yield told

    async def run_live(
        self,
        live_request_queue: LiveRequestQueue,
        agent: object = None,
        session: object = None,
        *,
        run_config: RunConfig | None = None,
        session_id: str | None = None,
        user_id: str = ANONYMOUS,
        run_id: str | None = None,
        deps: Any = None,
    ) -> AsyncIterator[Event]:
        """Start a live run and yield its events to the end, which comes when the agent has answered what was said
        before `live_request_queue.close()`. Leaving early closes the queue: nobody would speak to the run any more.

        Raises `UsageError` for another queue, what `start` raises and, after the last event of a run that failed, its
        `RunFailed`. What is said and cannot be taken (`InputInvalid`, `InputTooLarge`) ends the run and is raised then.

        Args:
            live_request_queue: Gapless's own; what is put in is said to the run, whenever that is.
            agent: Name of a registered agent, or an agent; by default the one of `app_name`.
            session: The session, by its id or as an object with an `id`.
            run_config: How the run goes; its `streaming_mode` is taken for `BIDI` whatever it says.
            session_id: The session, by its id.
            user_id: Whose the run and its session are.
            run_id: Id of the run; the same request under it again is the same run.
            deps: What the agent's tools depend on, in this process.
        """
        if not isinstance(live_request_queue, LiveRequestQueue):
            given = type(live_request_queue)
            raise UsageError(
                f"live_request_queue= is a gapless.LiveRequestQueue, not {given.__module__}'s {given.__name__}"
            )
        config = msgspec.structs.replace(run_config or self.config, streaming_mode=StreamingMode.BIDI)
        session_id = session_id_of(session, session_id)
        run = await self.start(
            "", agent=agent, session_id=session_id, user_id=user_id, run_id=run_id, config=config, deps=deps
        )
        speaking = asyncio.create_task(run.send_all(live_request_queue), name=f"gapless-live-{run.id}")
        try:
            async for event in run.events():
                yield event
        finally:
            speaking.cancel()
            with contextlib.suppress(GaplessError):
                await run.send(LiveRequest(close=True))
        await run.raise_if_failed()
        if speaking.done() and not speaking.cancelled():
            speaking.result()

    def run(
        self, query: object = None, agent: object = None, session: object = None, **options: Unpack[AskOptions]
    ) -> Iterator[Event]:
        """Yield what `run_async` does, for code without an event loop: a generator that blocks. Takes the same
        arguments: `query`, `agent`, `session` and, by their names, its other `options`.

        The runner then lives on a thread of its own until the process ends. Raises `UsageError` inside an event loop.
        """
        from gapless.runs.portal import iterate

        return iterate(self, lambda: self.run_async(query, agent, session, **options))

    @overload
    def run_stream(
        self, query: object, *, output_type: type[_OutputT], **options: Unpack[StartOptions]
    ) -> RunStream[_OutputT]: ...

    @overload
    def run_stream(
        self, query: object, *, output_type: None = None, **options: Unpack[StartOptions]
    ) -> RunStream[Any]: ...

    def run_stream(self, query: object, *, output_type: Any = None, **options: Unpack[StartOptions]) -> RunStream[Any]:
        """Start a run and show its text or typed output as it grows: `async with runner.run_stream(q) as stream`.

        Leaving the block before the end cancels the run.

        Args:
            query: The message, as `start` takes it.
            output_type: What the output is asked for and validated as; by default it is what the agent says that its
                output is, or text.
            options: What else `start` takes, by name.
        """
        given = None if output_type is None else OutputType(output_type)
        return RunStream(
            lambda: self.start(query, output_type=output_type, **options),
            lambda: given or self.output_type(options.get("agent")),
        )

    def output_type(self, agent: object = None) -> OutputType[Any]:
        """Return what the output of `agent` is, by default of the one of `app_name`: text where it says nothing."""
        return OutputType.declared(self._agent(agent)[1].output_type)

    def produce(self, run_id: str, *, name: str | None = None) -> Producer:
        """Write the run `run_id`, which was started with `agent=PRODUCER`, from here: `async with runner.produce(id) as
        out`, then `await out.send(…)`. `name` tells this producer from others. To enter it raises `RunNotFound`,
        `RunFenced` where the run has ended, `InputInvalid` where an agent executes it, `StoreUnavailable`."""
        return Producer(run_id, functools.partial(self.take, run_id), name)

    async def take(self, run_id: str, batch: Batch) -> Taken:
        """Have a `batch` of the run `run_id` accepted that a producer has sent, whichever worker has its journal;
        returns how far the run's producers are then.

        Raises `RunNotFound`, `RunFenced` (another producer writes it, or it has ended), `BatchConflict`, `RunWaits`,
        `InputInvalid`, `InputTooLarge`, `LimitReached`, `ShuttingDown`, `StoreUnavailable`."""
        await self.open()
        return await self.worker.producers.produce(run_id, batch)
