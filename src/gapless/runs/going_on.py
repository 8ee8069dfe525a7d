"""Going on with runs that other workers have left: lost ones, ones handed over, ones that were parked and are answered.

Every such run comes to `GoingOn.see_to` and leaves it in one way: it goes on at its checkpoint, begins anew, is left to
others again, or is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from gapless.agents.base import Agent
from gapless.config import Limits
from gapless.errors import CheckpointUnreadable, CursorExpired, GaplessError, RunCancelled, WorkerLost
from gapless.events import Event, RunFinishedEvent, RunFinishedInterruptOutcome, RunStartedEvent, decode_event
from gapless.journals.contract import Checkpoint, NotWaiting
from gapless.journals.journal import Journal, Journals
from gapless.metrics import Metrics
from gapless.moves import HANDED_OVER, PARKED, PASSED_ON, TAKEN_OVER
from gapless.records import RunRecord, RunStatus, now_ms
from gapless.runs.checkpoints import Before, decode_frame
from gapless.runs.commands import Command, has_cancel
from gapless.runs.deadlines import due_at
from gapless.runs.ending import lost, unanswered
from gapless.runs.notices import Notices
from gapless.runs.questions import Question
from gapless.runs.readers import Readers, ends_unread
from gapless.runs.recorder import Recorder
from gapless.runs.retrying import patiently

__all__ = ["GoingOn", "Home"]

TAKEOVERS_MAX = 3
"""A run whose worker is lost more often than this without a new checkpoint, and without an answer of a person, is
closed: it may be what kills them."""
ABANDONED_S = 60.0
"""A run that nobody wants for so long, as no worker has its agent, is closed."""
CLAIMED_S = 2.0
"""A worker that has a run's agent mostly claims it within this; later, each other one says that it cannot."""
CLAIMS_AT_ONCE = 20
"""Runs that are claimed in one go."""

log = logging.getLogger("gapless.runner")


class Home(Protocol):
    """The worker that executes what is gone on with."""

    draining: bool
    on_wanted: Callable[[], None]
    """Called when there may be a run that is nobody's and wants somebody."""

    @property
    def free(self) -> int:
        """How many more runs may execute here."""

    def spawn(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Let this see to the run, in a task."""

    def task_of(self, run_id: str) -> asyncio.Task[None] | None:
        """Return what sees to the run here at the moment."""

    def refused(self, run_id: str) -> None:
        """Stop what executes of the run here: it is another's."""

    async def execute_from(
        self, record: RunRecord, agent: Agent, journal: Journal, recorder: Recorder, before: Before | None
    ) -> None:
        """Execute a run that another worker had, to its end."""

    async def give_up(self, run_id: str, wanted_at: int | None, what: str) -> None:
        """Leave the run to others; `what` says why."""

    def forget(self, run_id: str) -> None:
        """Drop what was heard of the run before it was to execute."""


class _SoFar:
    """What others recorded of a run."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.questions: list[Question] = []
        self.answered_at = 0
        """Position of the newest answer of a person."""

    def add(self, seq: int, event: Event) -> None:
        self.recorder.resume(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            self.questions.append(Question(event.outcome.interrupts))
        elif isinstance(event, RunStartedEvent) and self.questions and self.questions[-1].answers is None:
            answers = None if event.input is None else event.input.resume
            self.questions[-1].answers = answers or []
            if answers:
                self.answered_at = seq

    @property
    def asked(self) -> Question | None:
        """The question that is open."""
        last = self.questions[-1] if self.questions else None
        return last if last is not None and last.answers is None else None


class GoingOn:
    """Finds and sees to runs that are nobody's, for one worker (`home`), and to those that it has taken over."""

    def __init__(
        self,
        journals: Journals,
        readers: Readers,
        agents: Mapping[str, Agent],
        limits: Limits,
        metrics: Metrics,
        notices: Notices,
        home: Home,
    ) -> None:
        self._journals = journals
        self._readers = readers
        self._agents = agents
        self._limits = limits
        self._metrics = metrics
        self._notices = notices
        self._home = home
        self._seen: dict[str, float] = {}
        """Since when each run is seen to want somebody that has its agent."""
        self._warned: set[str] = set()
        """Those of them of which the log says that this worker does not have their agent."""

    # -- finding ----------------------------------------------------------------------------------------------------

    async def find(self) -> None:
        """Claim what is nobody's, wants somebody and can go on here. Raises `StoreUnavailable`, `WorkerFenced`."""
        if self._home.draining:
            return
        wanted = await self._journals.store.wanted(now_ms())
        now = time.monotonic()
        self._seen = {run.id: self._seen.get(run.id, now) for run in wanted}
        self._warned &= self._seen.keys()
        claims_max = min(CLAIMS_AT_ONCE, self._home.free)
        claims: list[Coroutine[Any, Any, None]] = []
        for run in wanted:
            seen_s = now - self._seen[run.id]
            abandoned = seen_s >= ABANDONED_S
            able = run.agent in self._agents
            if not able and run.status is not RunStatus.WAITING:
                self._warn(run, seen_s)
            if len(claims) < claims_max and (able or run.status is RunStatus.WAITING or abandoned):
                claims.append(self.claim(run.id, _abandoned(run) if abandoned and not able else None))
        # Each takes the store several answers: after a hand-over all would wait for all, one after the other.
        for failure in await asyncio.gather(*claims, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure
        if claims_max == len(claims) and len(wanted) > CLAIMS_AT_ONCE and self._home.free > 0:
            self._home.on_wanted()  # there are more

    def _warn(self, run: RunRecord, seen_s: float) -> None:
        if CLAIMED_S <= seen_s < ABANDONED_S and run.id not in self._warned:
            self._warned.add(run.id)
            log.warning(
                "run %s: wants agent %r, which this server does not have: start one that has it, or cancel the run; "
                "in %.0f s it is closed",
                run.id,
                run.agent,
                ABANDONED_S - seen_s,
            )

    async def claim(self, run_id: str, ends_with: GaplessError | None = None) -> None:
        """Become the owner of a run that is nobody's, if no other worker was faster, and see to it; `ends_with` says
        that it is decided how it ends. Raises `StoreUnavailable`, `WorkerFenced`."""
        before = self._home.task_of(run_id)
        if before is not None:  # it gives the run up, and would do so again where the store's answer is lost
            before.add_done_callback(lambda _: self._home.on_wanted())
            return
        record = await self._journals.store.claim(run_id)
        if record is not None:
            self._home.spawn(run_id, self._see_to(record, self._home.task_of(run_id), ends_with, left=True))

    def claim_if_able(self, run: RunRecord) -> bool:
        """Tell whether this worker can go on with a run of this agent."""
        return run.agent in self._agents and not self._home.draining

    def take_over(self, record: RunRecord) -> None:
        """See to the run of a worker that is gone, which this worker owns from now on. The worker that is gone may have
        been this one, under an earlier id: then something of the run still ends here."""
        if self._home.task_of(record.id) is not None:
            self._home.refused(record.id)
        self._metrics.runs_taken_over += 1
        self._home.spawn(record.id, self._see_to(record, self._home.task_of(record.id), None))

    # -- seeing to one ----------------------------------------------------------------------------------------------

    async def _see_to(
        self,
        record: RunRecord,
        before: asyncio.Task[None] | None,
        ends_with: GaplessError | None,
        *,
        left: bool = False,
    ) -> None:
        """See to a run that this worker owns now; its last one has `left` it, or was lost."""
        journals, worker_id = self._journals, self._journals.worker_id
        if before is not None:
            await asyncio.wait({before})
        journal = journals.create(record.id, last=record.last_seq)
        try:
            kept = await patiently(journals.store.checkpoint, record.id, patience_s=math.inf)
            so_far = await self._read(record, journal, kept)
            if journals.worker_id != worker_id:
                return  # the lease was lost again
            failure = ends_with or await self._decide(record, journal, so_far, kept, left)
            if failure is not None:
                await self._close(record, journal, so_far.recorder, failure)
        finally:
            await journals.disown(journal)

    async def _read(self, record: RunRecord, journal: Journal, kept: Checkpoint | None) -> _SoFar:
        """A recorder that has seen what others recorded, with a mark at the checkpoint."""
        so_far = _SoFar(Recorder(journal, record.id, record.session_id, self._limits))
        read = 0
        with contextlib.suppress(CursorExpired):  # the store has lost what its record counts
            async for events in self._readers.pages(record.id, until=record.last_seq, patience_s=math.inf):
                for seq, event in enumerate(events, read + 1):
                    with contextlib.suppress(msgspec.DecodeError):  # of another version; the run must still be ended
                        so_far.add(seq, decode_event(event))
                    if kept is not None and seq == kept.seq:
                        so_far.recorder.fold.mark()
                read += len(events)
        return so_far

    async def _decide(
        self, record: RunRecord, journal: Journal, so_far: _SoFar, kept: Checkpoint | None, left: bool
    ) -> GaplessError | None:
        """See to the run, or return what it ends with."""
        policy = "fail" if record.config is None else record.config.on_worker_lost
        agent = self._agents.get(record.agent)
        if record.status is RunStatus.WAITING and kept is not None and so_far.asked is not None:
            commands = await patiently(self._journals.store.commands, record.id, patience_s=math.inf)
            if has_cancel(commands):  # it came as the run was left
                return RunCancelled("cancelled", run_id=record.id)
            overdue = await self._left_waiting(record, so_far.asked)
            if overdue is not None:
                return overdue
            if not ends_unread(record.config) and record.status is RunStatus.WAITING:
                return None
        begun, uncalled = record.last_seq > 0, _is_uncalled(record, policy, left)
        if not uncalled and (policy == "fail" or (policy == "continue" and begun and kept is None)):
            return _gone(record, policy, agent)
        losses = record.takeovers if policy == "restart" else await self._losses(record, so_far)
        if losses > TAKEOVERS_MAX and not uncalled:
            why = f"its worker was lost {losses} times without getting any further; look what it does"
            return WorkerLost(why, run_id=record.id)
        if agent is None or self._home.draining:
            await self._home.give_up(record.id, 0, PASSED_ON if agent is None else HANDED_OVER)
            return None
        if policy == "continue" and kept is not None:
            return await self._continue(record, agent, journal, so_far, kept)
        if begun and not uncalled:
            log.warning("run %s: restarted, its worker was lost", record.id)
        if record.status is RunStatus.WAITING:
            journal.set_status(RunStatus.RUNNING)
        await self._home.execute_from(record, agent, journal, so_far.recorder, None)
        return None

    async def _losses(self, record: RunRecord, so_far: _SoFar) -> int:
        """Return how often its worker was lost since it last got further: by a checkpoint, which the record counts
        from, or by an answer. A run that is answered piece by piece may save nothing in between. (One that is begun
        anew is asked anew: no answer gets it further.)"""
        losses = record.takeovers
        if losses > TAKEOVERS_MAX and so_far.answered_at:
            kept = await patiently(self._journals.store.moves, record.id, patience_s=math.inf)
            since = [one for one in kept.moves if one.what == TAKEN_OVER and one.seq >= so_far.answered_at]
            losses = min(losses, len(since))
        return losses

    async def _left_waiting(self, record: RunRecord, asked: Question) -> GaplessError | None:
        """Nobody has answered a run when its worker was lost, or it is overdue: leave it parked, unless nobody may
        answer it any more. The record says RUNNING where somebody has answered it meanwhile."""
        store, due = self._journals.store, due_at(asked.interrupts)
        if due is None or due > now_ms():
            if not ends_unread(record.config):
                await self._home.give_up(record.id, due, PARKED)
            return None
        try:
            command = msgspec.json.encode(Command(kind="expired"))
            await patiently(store.answer, record.id, record.last_seq, command, patience_s=math.inf)
        except NotWaiting:
            record.status = RunStatus.RUNNING
            return None
        return unanswered(record.id)

    async def _continue(
        self, record: RunRecord, agent: Agent, journal: Journal, so_far: _SoFar, kept: Checkpoint
    ) -> GaplessError | None:
        try:
            frame = decode_frame(kept.data, record.id)
        except CheckpointUnreadable as error:
            log.error("%s", error)
            return CheckpointUnreadable(
                "its worker is gone, and where it stood cannot be read here; ask again", run_id=record.id
            )
        if frame.framework != agent.framework:
            log.info("run %s: was begun with %s, goes on with %s", record.id, frame.framework, agent.framework)
        log.info("run %s: goes on here from position %d of %d", record.id, kept.seq, record.last_seq)
        before = Before(frame, so_far.questions[frame.questions :])
        await self._home.execute_from(record, agent, journal, so_far.recorder, before)
        return None

    async def _close(self, record: RunRecord, journal: Journal, recorder: Recorder, failure: GaplessError) -> None:
        self._home.forget(record.id)
        event, end = lost(record, recorder, failure)
        journal.tell(self._notices.of_end(record, journal.appended + 1, end))
        journal.close(event, end)
        await journal.settled()
        self._metrics.run_ended(record.agent, failure.code)
        log.warning("run %s: closed: %s", record.id, failure.message)


def _is_uncalled(record: RunRecord, policy: str, left: bool) -> bool:
    """Tell whether the run's agent was never called, and can be. A run that was to end with its worker is only left
    (and not lost) where that is so, though its turn may have come."""
    return record.request is not None and (record.status is RunStatus.QUEUED or (left and policy == "fail"))


def _gone(record: RunRecord, policy: str, agent: Agent | None) -> WorkerLost:
    """Make the error of a run that ended with its worker."""
    why = "the worker that ran it was lost"
    if record.status is RunStatus.QUEUED:
        why = (
            "its worker was lost before its turn had come, and no other can begin it: what it was started with (deps=, "
            "output_type=, live input) was in that one alone"
        )
    elif policy != "fail" or (agent is not None and agent.continues == "no"):
        why = f"{why}, and its agent had saved nothing to go on from"
    return WorkerLost(f"{why}; ask again", run_id=record.id)


def _abandoned(run: RunRecord) -> WorkerLost:
    return WorkerLost(f"the worker that ran it was lost, and no other has agent {run.agent}; ask again", run_id=run.id)
