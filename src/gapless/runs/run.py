"""A handle on one run: follow it, collect it, cancel it, answer it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from gapless.agents.base import SEE_LOG
from gapless.agents.places import place_of
from gapless.errors import GaplessError, UsageError, run_failure
from gapless.events import (
    CustomEvent,
    Event,
    Message,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    TokenUsage,
    decode_event,
)
from gapless.fold import RESTARTED, Fold, void_of
from gapless.given import check_given
from gapless.live import LiveRequest, LiveRequestQueue
from gapless.onetext import OneText, TextSoFar
from gapless.records import RunRecord, RunStatus
from gapless.runs.commands import Commands
from gapless.runs.execution import Execution
from gapless.runs.readers import Readers, check_position
from gapless.sinks import SinkFailure, check, copy

__all__ = ["Response", "Run"]


class Response(msgspec.Struct, kw_only=True):
    """Holds a whole run, collected: what was said, the tokens of each model (`usage`), and whether it was
    `cancelled`.
    """

    text: str
    """The answer's text, reasoning left out."""
    chunks: list[str]
    """The text deltas as they came, without what was taken back."""
    messages: list[Message]
    """All messages that the run produced, in order."""
    result: Any = None
    """The agent's typed output, as JSON values."""
    usage: list[TokenUsage] = []
    cancelled: bool = False


class Run:
    """Follows and controls one run of a runner's store, local or not. Following it is independent of its execution.

    Made by `Runner.start` and `Runner.attach` from the run's `record`, with the `readers` and `commands` of the worker,
    and the `execution` where that is here.
    """

    def __init__(
        self, record: RunRecord, readers: Readers, commands: Commands, execution: Execution | None = None
    ) -> None:
        self.id = record.id
        self.session_id = record.session_id
        self.started = record
        """Its record as it was when this handle was made; `record` reads how it stands."""
        self._readers = readers
        self._commands = commands
        self._raised = None if execution is None else execution.raised

    async def record(self) -> RunRecord:
        """Return the run's record as it stands now. Raises `RunNotFound`, `StoreUnavailable`."""
        return await self._readers.record(self.id)

    @property
    def failure(self) -> BaseException | None:
        """Returns what the run's agent raised, if it executes or did in this process and this handle is of its
        start.
        """
        return None if self._raised is None else self._raised.error

    async def cancel(self) -> None:
        """End it as cancelled. Idempotent; what has been shown is kept."""
        await self._commands.cancel(await self.record())

    async def answer(self, entries: list[ResumeEntry]) -> None:
        """Answer the interrupts that it waits for, with one of `entries` each. Raises `InputInvalid` when it waits for
        none, or one of them is no answer.
        """
        await self._commands.resolve(await self.record(), entries)

    async def send(self, request: LiveRequest | str) -> None:
        """Say something to this live run: `request`, or a message where that is a string. Raises `InputInvalid` when it
        is not live or has ended, `LimitReached`.
        """
        await self._commands.push(self.id, LiveRequest(content=request) if isinstance(request, str) else request)

    async def send_all(self, queue: LiveRequestQueue) -> None:
        """Say to this live run what is put into `queue`, until either has ended. Raises what `send` raises, but waits
        where the agent is too far behind."""
        try:
            async for request in queue:
                await self._commands.push(self.id, request, wait=True)
        except GaplessError:
            if not (self._commands.is_over(self.id) or (await self.record()).status.ended):
                raise
        finally:
            with contextlib.suppress(GaplessError):
                await self.send(LiveRequest(close=True))

    async def wait(self) -> RunRecord:
        """Wait until the run has ended, whoever executes it; returns its record."""
        await self._readers.wait(self.id)
        return await self.record()

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield its events after position `after`, to the terminal one; from the store and then live.

        Raises `CursorInvalid` for a position that the run has not come to, `CursorExpired`, `StoreUnavailable`.
        """
        async for _, event in self.entries(after):
            yield event

    async def entries(self, after: int = 0) -> AsyncGenerator[tuple[int, Event], None]:
        """Yield what `events` does after position `after`, each event with its position."""
        check_given("after", after, int, "a position, which is a whole number from 0 on")
        if after:
            check_position(await self.record(), after)
        async with self._readers.reading(self.started, after) as follower:
            while (part := await follower.next()) is not None:
                for seq, event in enumerate(part.events, part.first_seq):
                    yield seq, decode_event(event)

    async def text(self, *, min_chars: int = 1, max_delay_ms: float | None = None) -> AsyncGenerator[str, None]:
        """Yield the answer's text as it comes, at least `min_chars` characters at a time, held back at most
        `max_delay_ms`. Where a lost worker's words are taken back, those that were given out stay, and what is said
        anew begins a paragraph.

        A run that asks a person is waited for until it is answered; who shows its questions reads `events`. Raises the
        run's `RunFailed` after the text that there was.
        """
        check_given("min_chars", min_chars, int, "a whole number from 1 on")
        if min_chars < 1:
            raise UsageError(f"min_chars: a whole number from 1 on, not {min_chars}")
        check_given("max_delay_ms", max_delay_ms, int | float | None, "a number of milliseconds, or None")
        buffer: list[str] = []
        said: list[str] = []
        one = OneText()
        size, due = 0, 0.0
        terminal: Event | None = None
        events = self.events()
        source = events if max_delay_ms is None else _until(events, lambda: due if size else None)
        try:
            async for event in source:
                piece = "" if event is None else one.add(event)
                if piece:
                    if not size and max_delay_ms is not None:
                        due = time.monotonic() + max_delay_ms / 1000
                    buffer.append(piece)
                    said.append(piece)
                    size += len(piece)
                if isinstance(event, RunErrorEvent | RunFinishedEvent):
                    terminal = event
                if size and (size >= min_chars or event is None):
                    yield "".join(buffer)
                    buffer, size = [], 0
        finally:
            await source.aclose()
        if size:
            yield "".join(buffer)
        self._raise_for(terminal, "".join(said))

    async def text_so_far(self) -> AsyncGenerator[str, None]:
        """Yield the answer's text up to there each time that it changes: it grows, or becomes shorter where a lost
        worker's words are taken back.

        Raises the run's `RunFailed` after the text that there was.
        """
        so_far = TextSoFar()
        terminal: Event | None = None
        async with contextlib.aclosing(self.events()) as events:
            async for event in events:
                if so_far.add(event):
                    yield so_far.text
                terminal = event
        self._raise_for(terminal, so_far.text)

    async def stream_to(self, *sinks: object) -> list[SinkFailure]:
        """Copy the run's text, as `text` gives it, to each of `sinks`: a path (appended to), an open file, a sync or
        async callable that takes text, an object with `send_text` such as a WebSocket, `gapless.sinks.console`.

        A sink that fails is reported, in the log and in what is returned, and the others go on. Raises the run's
        `RunFailed` once the sinks have the text that there was; `UsageError` for what can be no sink.
        """
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
        """Yield the text, joined as far as it is there when it is asked for."""
        one = OneText()
        async with self._readers.reading(self.started) as follower:
            while (part := await follower.next()) is not None:
                piece = "".join(one.add(decode_event(event)) for event in part.events)
                if piece:
                    yield piece

    async def collect(self) -> Response:
        """Collect the whole run. One that asks a person is waited for until it is answered; who shows its questions
        reads `events`. Raises its `RunFailed`, which carries the text so far, when it failed.
        """
        fold, chunks = Fold(), _Chunks()
        terminal: Event | None = None
        async for event in self.events():
            fold.add(event)
            if isinstance(event, TextMessageStartEvent | TextMessageContentEvent):
                chunks.add(event)
            elif isinstance(event, CustomEvent):
                chunks.take_back(event)
            terminal = event
        self._raise_for(terminal, fold.text)
        finished = fold.finished
        return Response(
            text=fold.text,
            chunks=[delta for _, delta in chunks.deltas],
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
        error = run_failure(terminal.code, terminal.message, run_id=self.id, text=text)
        raised = self.failure
        said = isinstance(raised, GaplessError) and isinstance(error, type(raised))
        cause = raised.__cause__ if said and raised is not None else raised
        if cause is not None and error.message.endswith(SEE_LOG):
            # It was raised in this program, which may have no log; `message`, which may reach clients, stays as it is.
            error.args = (f"{error.message.removesuffix(SEE_LOG)} at {place_of(cause)}",)
        try:
            raise error from cause
        finally:
            del error, raised, cause  # else it would refer to itself, by this frame in its traceback


class _Chunks:
    """The text deltas of a run's answer with their messages."""

    def __init__(self) -> None:
        self.deltas: list[tuple[str, str]] = []
        self._others: set[str] = set()
        """Messages that are not the assistant's."""

    def add(self, event: TextMessageStartEvent | TextMessageContentEvent) -> None:
        if isinstance(event, TextMessageContentEvent):
            if event.message_id not in self._others:
                self.deltas.append((event.message_id, event.delta))
        elif event.role in (None, "assistant"):
            self._others.discard(event.message_id)
        else:
            self._others.add(event.message_id)

    def take_back(self, event: CustomEvent) -> None:
        """Take back what the event says, if it says that something is void."""
        if event.name == RESTARTED:
            self.deltas = []
        elif (void := void_of(event)) is not None:
            gone, left = set(void.message_ids), dict(void.cut)
            kept: list[tuple[str, str]] = []
            for id, delta in self.deltas:
                stays = 0 if id in gone else left.get(id, len(delta))
                if id in left:
                    left[id] = max(0, stays - len(delta))
                if stays > 0:
                    kept.append((id, delta[:stays]))
            self.deltas = kept


async def _until(
    events: AsyncGenerator[Event, None], due: Callable[[], float | None]
) -> AsyncGenerator[Event | None, None]:
    """Yield the events, and None each time that `due`, on the monotonic clock, has come before the next of them."""
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
