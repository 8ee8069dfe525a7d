"""The model of a Pydantic AI agent for one request, with its deltas taken where they come.

Whoever asks and listens to it has a task of its own: the agent's graph, some fourteen coroutines deep, would be gone
through from end to end each time that the model waits, twice for a word. It is given the other events, one at a time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from datetime import datetime
from typing import Any, Protocol

import anyio
from pydantic_ai import messages as m
from pydantic_ai import tools
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

__all__ = ["HeardModel", "Hearer"]

_NOTHING: Any = object()


class Hearer(Protocol):
    """Hears the deltas of the model's answers, while `taking` says so and the graph has nothing of its own to tell:
    what was `emitted`."""

    taking: bool
    emitted: Collection[Any]

    async def hear(self, event: m.PartDeltaEvent) -> None:
        """Take a delta while the graph waits for the model's next event."""


class HeardModel(WrapperModel):
    """Is `wrapped` to the graph, but for the deltas of its answers, which go to `hearer`."""

    def __init__(self, wrapped: Model, hearer: Hearer) -> None:
        super().__init__(wrapped)
        self._hearer = hearer

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[m.ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: tools.RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        opened = self.wrapped.request_stream(messages, model_settings, model_request_parameters, run_context)
        if isinstance(messages[-1], m.ModelResponse):
            # A continued response's parts are numbered anew, and put right by the graph.
            async with opened as stream:
                yield stream
            return
        request = _Request(opened, self._hearer)
        try:
            yield _Heard(await request.next(), request)
        except BaseException as error:
            await request.end(error)
        else:
            await request.end(None)


class _Request:
    """Makes a streamed request in a task of its own, which goes on when `next` is called: first it gives the stream,
    then the events that are not for the hearer."""

    def __init__(self, opened: AbstractAsyncContextManager[StreamedResponse], hearer: Hearer) -> None:
        self._opened = opened
        self._hearer = hearer
        self._loop = asyncio.get_running_loop()
        self._given: asyncio.Future[Any] = self._loop.create_future()
        """What `next` waits for."""
        self._asked: asyncio.Future[bool] = self._loop.create_future()
        """What the task waits for, once it has given something: whether to go on. A time limit or a task group that the
        model has open may cancel it."""
        self._asked.cancel()  # it has given nothing yet
        self._raised: BaseException | None = None
        self._left_by: BaseException | None = None
        self._stopped = False
        self._scope = anyio.CancelScope()
        """Of what is cancelled with `next`: that the request is entered, then that its stream is read."""
        self._context = copy_context()
        self._known = dict(self._context.items())
        self._task = asyncio.create_task(self._run(), name="gapless-model-request", context=self._context)
        self._task.add_done_callback(lambda _: self._answer(None))

    async def next(self) -> Any:
        """Return what the task gives next, None after the last event. Raises what was raised in it."""
        for variable, value in self._changed(copy_context()):
            self._known[variable] = value
            self._context.run(variable.set, value)
        if self._parked:
            self._asked.set_result(True)
        try:
            found = await self._given
        except asyncio.CancelledError:
            await self._stop()
            raise
        self._given = self._loop.create_future()
        self._raise()
        return found

    async def end(self, error: BaseException | None) -> None:
        """Have the request left, by this error, and wait until it is. Raises what leaving it raises."""
        over = self._task.done()
        cancelled = not (error is None or isinstance(error, Exception))
        if self._parked:
            self._raised, self._left_by = None, error
            self._asked.set_result(False)
        elif not over:  # somebody waits for an event still
            cancelled = self._task.cancel()
        if (again := await self._until(self._task)) is not None:
            cancelled, error = True, again
        for variable, value in self._changed(self._context):  # as if the request had been made here
            variable.set(value)
        if over:
            self._raised = self._raised if error is None else error
        elif cancelled and (self._raised is None or isinstance(self._raised, asyncio.CancelledError)):
            self._raised = error
        self._raise()

    async def _stop(self) -> None:
        """Cancel what the task waits for, as the wait for it was. Raises what the model makes of it."""
        if self._parked or self._task.done():  # at the same moment
            self._raised = None
            return
        self._given = self._loop.create_future()
        self._stopped = True
        if anyio.current_effective_deadline() == -math.inf:  # by a scope of anyio's, which cancels wait after wait
            self._scope.cancel()
        else:
            self._task.cancel()
        await self._until(self._given)
        if isinstance(self._raised, asyncio.CancelledError):
            self._raised = None
        self._raise()

    @property
    def _parked(self) -> bool:
        """Returns whether the task has given something and waits for what is to come of it."""
        return not self._asked.done()

    async def _until(self, ended: asyncio.Future[Any]) -> asyncio.CancelledError | None:
        """Wait until this has ended. Return what cancelled that, and the task with it."""
        cancelled: asyncio.CancelledError | None = None
        while not ended.done():
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({ended})
            except asyncio.CancelledError as again:
                cancelled = again
                self._task.cancel()
        return cancelled

    def _changed(self, context: Context) -> list[tuple[ContextVar[Any], Any]]:
        """Return what was set in the `context` of one side since the other was told."""
        known = self._known
        return [(variable, value) for variable, value in context.items() if known.get(variable, _NOTHING) is not value]

    def _raise(self) -> None:
        """Raise what was raised in the task. It is not kept here: an error refers to where it was raised."""
        raised, self._raised = self._raised, None
        try:
            if raised is not None:
                raise raised
        finally:
            del raised

    async def _run(self) -> None:
        try:
            with self._scope:
                async with self._opened as stream:
                    if await self._give(stream):
                        await self._listen(stream)
                    if self._left_by is not None:
                        raise self._left_by
        except BaseException as error:  # raised where the request is asked for
            self._raised = error
        finally:
            self._left_by = None

    async def _listen(self, stream: StreamedResponse) -> None:
        hear, emitted = self._hearer.hear, self._hearer.emitted
        self._scope = anyio.CancelScope()
        try:
            with self._scope:
                async for event in stream:
                    if type(event) is m.PartDeltaEvent and not emitted:
                        await hear(event)
                    elif not await self._give(event):  # the graph tells what was emitted after the event at hand
                        return
        except BaseException as error:
            if not (self._stopped or isinstance(error, Exception)):
                raise  # the request's own
            self._raised = error  # the graph's: it leaves the request by this, or by what it makes of it
        await self._give(None)

    async def _give(self, found: Any) -> bool:
        asked: asyncio.Future[bool] = self._loop.create_future()
        self._asked = asked
        self._answer(found)
        return await asked

    def _answer(self, found: Any) -> None:
        if not self._given.done():  # else who asked was cancelled
            self._given.set_result(found)


def _inner(name: str) -> Any:
    def get(self: _Heard) -> Any:
        return getattr(self.inner, name)

    def set(self: _Heard, value: Any) -> None:
        setattr(self.inner, name, value)

    return property(get, set)


class _Heard(StreamedResponse):
    """Is `inner` to the graph, but for its deltas."""

    def __init__(self, inner: StreamedResponse, request: _Request) -> None:
        self.inner = inner  # not `super().__init__`: all that it would set is the inner one's
        self._request = request

    model_request_parameters = _inner("model_request_parameters")
    final_result_event = _inner("final_result_event")
    provider_response_id = _inner("provider_response_id")
    provider_details = _inner("provider_details")
    canonical_system = _inner("canonical_system")
    finish_reason = _inner("finish_reason")
    state = _inner("state")
    metadata = _inner("metadata")
    failed_attempts = _inner("failed_attempts")

    def __aiter__(self) -> AsyncIterator[m.ModelResponseStreamEvent]:
        if self._event_iterator is None:
            self._event_iterator = self._get_event_iterator()
        return self._event_iterator

    async def _get_event_iterator(self) -> AsyncGenerator[m.ModelResponseStreamEvent, None]:
        while (event := await self._request.next()) is not None:
            yield event

    def get(self) -> m.ModelResponse:
        return self.inner.get()

    def get_stream_cancel_errors(self) -> tuple[type[BaseException], ...]:
        return self.inner.get_stream_cancel_errors()

    async def cancel(self) -> None:
        await self.inner.cancel()

    async def close_stream(self) -> None:
        await self.inner.close_stream()

    def time_to_first_chunk(self, request_start: float) -> float | None:
        return self.inner.time_to_first_chunk(request_start)

    @property
    def cancelled(self) -> bool:
        return self.inner.cancelled

    @property
    def usage(self) -> RequestUsage:
        return self.inner.usage

    @property
    def model_name(self) -> str:
        return self.inner.model_name

    @property
    def provider_name(self) -> str | None:
        return self.inner.provider_name

    @property
    def provider_url(self) -> str | None:
        return self.inner.provider_url

    @property
    def timestamp(self) -> datetime:
        return self.inner.timestamp
