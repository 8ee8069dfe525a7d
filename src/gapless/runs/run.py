"""A handle on one run: follow it, collect it, cancel it, answer it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from gapless.errors import GaplessError, OutputInvalid, error_for_code
from gapless.events import (
    Event,
    Message,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    TextMessageContentEvent,
    TokenUsage,
    decode_event,
)
from gapless.fold import Fold
from gapless.jsontext import decode_json
from gapless.live import LiveRequest
from gapless.output import GrowingOutput, OutputType
from gapless.records import RunRecord, RunStatus
from gapless.sinks import SinkFailure, check, copy

if TYPE_CHECKING:
    from gapless.runs.execution import Execution
    from gapless.runs.runner import Runner

__all__ = ["Response", "Run", "RunStream"]

_OutputT = TypeVar("_OutputT")


class Response(msgspec.Struct, kw_only=True):
    """A whole run, collected."""

    text: str
    """The answer's text, reasoning left out."""
    chunks: list[str]
    """The text deltas as they came."""
    messages: list[Message]
    """All messages that the run produced, in order."""
    result: Any = None
    """The agent's typed output, as JSON values."""
    usage: list[TokenUsage] = []
    cancelled: bool = False


class Run:
    """One run of a runner's store, local or not. Following it is independent of its execution."""

    def __init__(self, runner: Runner, record: RunRecord, execution: Execution | None = None) -> None:
        self.id = record.id
        self.session_id = record.session_id
        self.started = record
        """Its record as it was when this handle was made; `record` reads how it stands."""
        self._runner = runner
        self._execution = execution

    async def record(self) -> RunRecord:
        """The run's record as it stands now."""
        return await self._runner.get_run(self.id)

    async def cancel(self) -> None:
        """End it as cancelled. Idempotent; what has been shown is kept."""
        await self._runner.cancel(self.id)

    async def answer(self, entries: list[ResumeEntry]) -> None:
        """Answer the interrupts it waits for. Raises `InputInvalid` when it waits for none."""
        await self._runner.answer(self.id, entries)

    async def send(self, request: LiveRequest | str) -> None:
        """Say something to this live run; a string is a message. Raises `InputInvalid` when it is not live or has
        ended, `LimitReached`."""
        await self._runner.send(self.id, LiveRequest(content=request) if isinstance(request, str) else request)

    async def wait(self) -> RunRecord:
        """Wait until the run has ended, whoever executes it; returns its record."""
        await self._runner.readers.wait(self.id)
        return await self.record()

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Its events after position `after`, to the terminal one; from the store and then live.

        Raises `CursorExpired`, `StoreUnavailable`."""
        async for _, event in self.entries(after):
            yield event

    async def entries(self, after: int = 0) -> AsyncGenerator[tuple[int, Event], None]:
        """Like `events`, each with its position."""
        async with self._runner.readers.reading(self.started, after) as follower:
            while (part := await follower.next()) is not None:
                for seq, event in enumerate(part.events, part.first_seq):
                    yield seq, decode_event(event)

    async def text(self, *, min_chars: int = 1, max_delay_ms: float | None = None) -> AsyncGenerator[str, None]:
        """The answer's text as it comes, at least `min_chars` characters at a time, held back at most `max_delay_ms`.

        Raises the run's `RunFailed` after the text that there was."""
        buffer: list[str] = []
        said: list[str] = []
        size, due = 0, 0.0
        terminal: Event | None = None
        events = self.events()
        source = events if max_delay_ms is None else _until(events, lambda: due if size else None)
        try:
            async for event in source:
                if isinstance(event, TextMessageContentEvent):
                    if not size and max_delay_ms is not None:
                        due = time.monotonic() + max_delay_ms / 1000
                    buffer.append(event.delta)
                    said.append(event.delta)
                    size += len(event.delta)
                elif isinstance(event, RunErrorEvent | RunFinishedEvent):
                    terminal = event
                if size and (size >= min_chars or event is None):
                    yield "".join(buffer)
                    buffer, size = [], 0
        finally:
            await source.aclose()
        if size:
            yield "".join(buffer)
        self._raise_for(terminal, "".join(said))

    async def stream_to(self, *sinks: object) -> list[SinkFailure]:
        """Copy the run's text to every sink as it comes: a path (appended to), an open file, a sync or async callable
        that takes text, an object with `send_text` such as a WebSocket, `gapless.sinks.console`.

        A sink that fails is reported, in the log and in what is returned, and the others go on. Raises the run's
        `RunFailed` once the sinks have the text that there was; `UsageError` for what can be no sink."""
        for sink in sinks:
            check(sink)
        copies = (copy(self._pieces(), sink, self.id) for sink in sinks)
        outcomes = await asyncio.gather(*copies, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await self.wait()
        await self.raise_if_failed()
        return [outcome for outcome in outcomes if isinstance(outcome, SinkFailure)]

    async def _pieces(self) -> AsyncGenerator[str, None]:
        """The text, joined as far as it is there when it is asked for."""
        async with self._runner.readers.reading(self.started) as follower:
            while (part := await follower.next()) is not None:
                events = map(decode_event, part.events)
                piece = "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))
                if piece:
                    yield piece

    async def collect(self) -> Response:
        """The whole run. Raises its `RunFailed`, which carries the text so far, when it failed."""
        fold, chunks = Fold(), []
        terminal: Event | None = None
        async for event in self.events():
            fold.add(event)
            if isinstance(event, TextMessageContentEvent):
                chunks.append(event.delta)
            terminal = event
        self._raise_for(terminal, fold.text)
        finished = fold.finished
        return Response(
            text=fold.text,
            chunks=chunks,
            messages=fold.messages(),
            result=None if finished is None else finished.result,
            usage=(finished.usage if finished is not None else None) or [],
            cancelled=finished is not None and isinstance(finished.outcome, RunFinishedCancelledOutcome),
        )

    async def raise_if_failed(self) -> None:
        """Raise the `RunFailed` of a run that failed; nothing for one that succeeded or was cancelled."""
        if (await self.record()).status is RunStatus.FAILED:
            await self.collect()

    def _raise_for(self, terminal: Event | None, text: str) -> None:
        """Raise what the terminal event says; the agent's own exception is the cause where it is at hand."""
        if not isinstance(terminal, RunErrorEvent):
            return
        error = error_for_code(terminal.code, terminal.message, run_id=self.id)
        error.text = text
        raised = None if self._execution is None else self._execution.failure
        raise error from (raised.__cause__ if isinstance(raised, GaplessError) else raised)


class RunStream(Generic[_OutputT]):
    """One run as text or typed output that grows; see `Runner.run_stream`."""

    def __init__(self, start: Callable[[], Awaitable[Run]], output_type: type[_OutputT]) -> None:
        self._start = start
        self._type = OutputType(output_type)
        self._run: Run | None = None

    async def __aenter__(self) -> Self:
        self._run = await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (await self.run.record()).status.ended:
            await self.run.cancel()
            await self.run.wait()

    @property
    def run(self) -> Run:
        if self._run is None:
            raise RuntimeError("use `async with runner.run_stream(…) as stream`")
        return self._run

    async def stream_text(self, *, delta: bool = False) -> AsyncGenerator[str, None]:
        """The text so far each time it grows, or only what is new with `delta=True`. Raises the run's `RunFailed`."""
        text = ""
        async for piece in self.run.text():
            text += piece
            yield piece if delta else text

    async def stream_output(self) -> AsyncGenerator[_OutputT, None]:
        """The output each time that more of it is valid, the final one last. The longer it is, the more it grows from
        one to the next. Raises the run's `RunFailed`, or `OutputInvalid`."""
        growing = GrowingOutput(self._type)
        async for event in self.run.events():
            if growing.add(event):
                yield growing.values[0]
        output = await self.get_output()
        if growing.values != [output]:
            yield output

    async def get_output(self) -> _OutputT:
        """The final output, waiting for it. Raises the run's `RunFailed`, or `OutputInvalid`."""
        response = await self.run.collect()
        if response.cancelled:
            raise error_for_code("run_cancelled", "the run was cancelled before its output", run_id=self.run.id)
        result = response.result
        try:
            if result is None and self._type.type is not str and response.text:
                result = decode_json(response.text)  # an agent that writes its output as text
            return self._type.validate(response.text if result is None else result)
        except ValueError as error:
            invalid = OutputInvalid(f"the output is not a valid {self._type.name}: {error}", run_id=self.run.id)
            invalid.text = response.text
            raise invalid from error

    stream = stream_output
    """The old name."""
    get_data = get_output
    """The old name."""


async def _until(
    events: AsyncGenerator[Event, None], due: Callable[[], float | None]
) -> AsyncGenerator[Event | None, None]:
    """The events, and None each time that `due`, on the monotonic clock, has come before the next of them."""
    upcoming: asyncio.Task[Event] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(_next(events))
            at = due()
            await asyncio.wait({upcoming}, timeout=None if at is None else max(0.0, at - time.monotonic()))
            if not upcoming.done():
                yield None
                continue
            done, upcoming = upcoming, None
            try:
                event = done.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        await events.aclose()


async def _next(events: AsyncGenerator[Event, None]) -> Event:
    return await events.__anext__()
