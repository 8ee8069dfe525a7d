"""A handle on one run: follow it, collect it, cancel it, answer it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from gapless.errors import OutputInvalid, error_for_code
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
from gapless.journals.contract import RunRecord
from gapless.journals.journal import Follower

if TYPE_CHECKING:
    from gapless.runner import Runner

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

    def __init__(self, runner: Runner, run_id: str, session_id: str) -> None:
        self.id = run_id
        self.session_id = session_id
        self._runner = runner

    async def record(self) -> RunRecord:
        """The run's record as it stands now."""
        return await self._runner.get_run(self.id)

    async def cancel(self) -> None:
        """End it as cancelled. Idempotent; what has been shown is kept."""
        await self._runner.cancel(self.id)

    async def answer(self, entries: list[ResumeEntry]) -> None:
        """Answer the interrupts it waits for. Raises `InputInvalid` when it waits for none."""
        await self._runner.answer(self.id, entries)

    async def wait(self) -> RunRecord:
        """Until it has ended, whoever executes it."""
        journals = self._runner.journals
        journal = await journals.attach(self.id)
        try:
            while not journal.closed:
                await journal.wait(journal.last)
        finally:
            await journals.release(journal)
        return await self.record()

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Its events after position `after`, to the terminal one; from the store and then live.

        Raises `CursorExpired`, `StoreUnavailable`."""
        async for _, event in self.entries(after):
            yield event

    async def entries(self, after: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """Like `events`, each with its position."""
        journals = self._runner.journals
        journal = await journals.attach(self.id)
        try:
            follower = Follower(journal, after)
            while (part := await follower.next()) is not None:
                for seq, event in enumerate(part.events, part.first_seq):
                    yield seq, decode_event(event)
        finally:
            await journals.release(journal)
            self._runner.follower_left(self.id)

    async def text(self, *, min_chars: int = 1, max_delay_ms: float | None = None) -> AsyncIterator[str]:
        """The answer's text as it comes, at least `min_chars` characters at a time, held back at most `max_delay_ms`.

        Raises the run's `RunFailed` after the text that there was."""
        buffer: list[str] = []
        size, since = 0, 0.0
        events = self.events().__aiter__()
        upcoming: asyncio.Task[Event] | None = None
        terminal: Event | None = None
        try:
            while True:
                if upcoming is None:
                    upcoming = asyncio.ensure_future(_next(events))
                wait_s = None
                if size and max_delay_ms is not None:
                    wait_s = max(0.0, since + max_delay_ms / 1000 - time.monotonic())
                done, _ = await asyncio.wait({upcoming}, timeout=wait_s)
                if not done:
                    yield "".join(buffer)
                    buffer, size = [], 0
                    continue
                try:
                    event = upcoming.result()
                except StopAsyncIteration:
                    break
                finally:
                    upcoming = None
                if isinstance(event, TextMessageContentEvent):
                    if not size:
                        since = time.monotonic()
                    buffer.append(event.delta)
                    size += len(event.delta)
                    if size >= min_chars:
                        yield "".join(buffer)
                        buffer, size = [], 0
                elif isinstance(event, RunErrorEvent | RunFinishedEvent):
                    terminal = event
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.wait({upcoming})
            await events.aclose()  # type: ignore[attr-defined]  # an async generator
        if size:
            yield "".join(buffer)
        _raise_for(terminal, self.id, "")

    async def collect(self) -> Response:
        """The whole run. Raises its `RunFailed`, which carries the text so far, when it failed."""
        fold, chunks = Fold(), []
        terminal: Event | None = None
        async for event in self.events():
            fold.add(event)
            if isinstance(event, TextMessageContentEvent):
                chunks.append(event.delta)
            terminal = event
        _raise_for(terminal, self.id, fold.text)
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
        record = await self.record()
        if record.error is not None and record.status.value == "failed":
            raise error_for_code(record.error["code"], record.error["message"], run_id=self.id)


class RunStream(Generic[_OutputT]):
    """One run as text or typed output that grows; see `Runner.run_stream`."""

    def __init__(self, start: Callable[[], Awaitable[Run]], output_type: type[_OutputT]) -> None:
        self._start = start
        self._output_type = output_type
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

    async def stream_text(self, *, delta: bool = False) -> AsyncIterator[str]:
        """The text so far each time it grows, or only what is new with `delta=True`. Raises the run's `RunFailed`."""
        text = ""
        async for piece in self.run.text():
            text += piece
            yield piece if delta else text

    async def get_output(self) -> _OutputT:
        """The final output, waiting for it. Raises the run's `RunFailed`, or `OutputInvalid`."""
        response = await self.run.collect()
        if response.cancelled:
            raise error_for_code("run_cancelled", "the run was cancelled before its output", run_id=self.run.id)
        value = response.text if response.result is None and self._output_type is str else response.result
        return _as_output(value, self._output_type, self.run.id)

    get_data = get_output
    """The old name."""


def _as_output(value: Any, output_type: type[_OutputT], run_id: str) -> _OutputT:
    validate = getattr(output_type, "model_validate", None)
    try:
        if validate is not None:
            return validate(value)  # type: ignore[no-any-return]  # a Pydantic model validates to itself
        return msgspec.convert(value, output_type)
    except ValueError as error:
        raise OutputInvalid(f"the output is not a {output_type.__name__}: {error}", run_id=run_id) from error


def _raise_for(terminal: Event | None, run_id: str, text: str) -> None:
    if isinstance(terminal, RunErrorEvent):
        error = error_for_code(terminal.code, terminal.message, run_id=run_id)
        error.text = text
        raise error


async def _next(events: AsyncIterator[Event]) -> Event:
    return await events.__anext__()
