"""Live input: what people say to a live run, on its way to the agent and into the journal."""

from __future__ import annotations

import contextlib

from gapless.errors import GaplessError, RunFenced, RunLimit
from gapless.events import (
    CustomEvent,
    Event,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    text_of,
)
from gapless.journals.journal import Journal
from gapless.live import LiveRequest, LiveRequestQueue
from gapless.runs.recorder import Recorder

__all__ = ["LiveInput"]

RELAYED_TIMES = 10
"""Input relayed from another worker may queue up to this many times the usual bound: its sender cannot be made to
wait."""
IDS_MAX = 1_000
"""Ids of live input that are remembered: one that comes again counts once."""


class LiveInput(LiveRequestQueue):
    """Queues what is said to one live run, and records its text as the user's when the agent takes it: that is its
    place between what the agent says."""

    def __init__(self, run_id: str, journal: Journal, recorder: Recorder) -> None:
        super().__init__()
        self._run_id = run_id
        self._journal = journal
        self._recorder = recorder
        self._ids: dict[str, None] = {}
        """Ids of live input that was taken in, so that a repeat counts once."""
        self.over = False
        """The run ends: its agent has returned, or was stopped."""
        self._rest: list[LiveRequest] = []
        """What nobody takes any more, and is not recorded yet."""
        self._noticed: set[str] = set()
        self._unsaid: list[CustomEvent] = []
        """Notices from before the stream has begun."""

    def push(self, request: LiveRequest, *, relayed: bool = False) -> None:
        """Take one request in. Whoever said it to another worker (`relayed`) cannot be made to wait: there is more room
        for it, and where it is lost all the same, everybody is told. Raises `InputInvalid`, `LimitReached`."""
        if request.id in self._ids:
            return
        try:
            self.send(request, times=RELAYED_TIMES if relayed else 1)
        except GaplessError as error:
            error.run_id = self._run_id
            if relayed:
                self._notice("input_lost", f"something that was said is lost: {error.message}")
            raise
        if request.id is not None:
            self._ids[request.id] = None
            if len(self._ids) > IDS_MAX:
                del self._ids[next(iter(self._ids))]

    def hang_up(self) -> None:
        """Take nothing more: the run's worker stops."""
        if not self.closed:
            self.close()
            self._notice("shutting_down", "the worker stops and hears nothing more; go on in another run")

    async def before_taking(self) -> None:
        if self._journal.full:  # an agent that only listens is held back here
            await self._journal.drain()

    def on_taken(self, request: LiveRequest) -> None:
        for event in self._as_said(request):
            self._recorder.add(event)

    def end(self) -> None:
        """Take nothing more, as the agent has returned. What it has not taken nobody takes any more, also who still
        waits for it: it is recorded with the run's end."""
        self.over = True
        self._rest += self.rest()

    def record_rest(self) -> None:
        """Record what nobody will take any more: it was said. Closes the queue."""
        self.end()
        rest, self._rest = self._rest, []
        for request in rest:
            for event in self._as_said(request):
                self._recorder.put(event)

    def _notice(self, code: str, message: str) -> None:
        """Say something once in the stream, as soon as it has begun and while it goes on."""
        if code not in self._noticed:
            self._noticed.add(code)
            self._unsaid.append(CustomEvent(name="gapless.notice", value={"code": code, "message": message}))
            if self._journal.appended:
                self.begun()

    def begun(self) -> None:
        """Say what there was to say before the stream has begun: others may speak before RUN_STARTED is there."""
        unsaid, self._unsaid = self._unsaid, []
        with contextlib.suppress(RunFenced, RunLimit):
            for event in unsaid:
                self._recorder.add(event)

    def _as_said(self, request: LiveRequest) -> list[Event]:
        text = text_of(request.content)
        if not text:
            return []
        which = f"said-{request.id}" if request.id is not None else f"heard-{self._journal.appended + 1}"
        id = f"{self._run_id}-{which}"
        return [
            TextMessageStartEvent(message_id=id, role="user"),
            TextMessageContentEvent(message_id=id, delta=text),
            TextMessageEndEvent(message_id=id),
        ]
