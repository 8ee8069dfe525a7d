"""What a run asks a person: the pause, the one answer that the store accepts, what is known of earlier questions."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gapless.errors import AgentInvalid, RunFenced, RunNotFound, StoreUnavailable
from gapless.events import Interrupt, ResumeEntry, RunFinishedInterruptOutcome
from gapless.journals.contract import NotWaiting, Store
from gapless.journals.journal import Journal
from gapless.live import is_live
from gapless.records import RunRecord, RunStatus, now_ms
from gapless.runs.commands import Command
from gapless.runs.deadlines import dated, due_at
from gapless.runs.ending import finished
from gapless.runs.notices import Notices
from gapless.runs.recorder import Recorder
from gapless.runs.retrying import patiently
from gapless.tasks import retrieve

__all__ = ["Question", "Questions"]

log = logging.getLogger("gapless.run")


class Question(msgspec.Struct):
    """Is one that the journal has: what was asked, and the answers. None: it is open; none of them: it was left off."""

    interrupts: list[Interrupt]
    answers: list[ResumeEntry] | None = None

    @property
    def ids(self) -> set[str]:
        """Return what its answers have to name."""
        return {interrupt.id for interrupt in self.interrupts}


class Questions:
    """Asks for one run. `known` are the questions that other workers recorded since the run's checkpoint, `closed` how
    many were closed before it. `attend()` is called when the run begins or ceases to wait."""

    def __init__(
        self,
        record: RunRecord,
        journal: Journal,
        recorder: Recorder,
        store: Store,
        notices: Notices,
        attend: Callable[[], None],
        *,
        known: Iterable[Question] = (),
        closed: int = 0,
    ) -> None:
        self.waiting: list[Interrupt] = []
        """What the run is waiting for a person to answer."""
        self.closed = closed
        """How many questions were answered or left off, from the run's beginning."""
        self.due_at: int | None = None
        """Until when (ms) it waits; None: for ever."""
        self.since_s = 0.0
        """Since when it waits, on the event loop's clock."""
        self.stopping = False
        """The run ends, and does not wait for an answer any more."""
        self._record = record
        self._journal = journal
        self._recorder = recorder
        self._store = store
        self._notices = notices
        self._attend = attend
        self._known = collections.deque(known)
        self._answers: asyncio.Future[tuple[list[ResumeEntry], int]] | None = None
        if self._known and self._known[-1].answers is None:
            self._wait_for(self._known[-1].interrupts)

    async def ask(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        """Pause the run: RUN_FINISHED with the interrupt outcome, and RUN_STARTED again once they are answered, or the
        agent waits no longer. What was answered before the agent came here again is not asked again."""
        run_id = self._record.id
        if self.waiting and not self.stopping:
            why = "its agent asks while it waits for an answer already: ask all of it in one list"
            raise AgentInvalid(f"run {run_id}: {why}, as ctx.interrupt([one, another])")
        self._recorder.check_open()
        if is_live(self._record.config):
            raise AgentInvalid(f"run {run_id}: a live run waits for no answer; ask, and hear what is said")
        if not interrupts:  # nobody can answer nothing: it would stand still until its timeout
            raise AgentInvalid(f"run {run_id}: interrupted without a question")
        ids = [one.id for one in interrupts]
        if len({*ids}) < len(ids):  # one answer would be taken for several
            twice = next(id for id in ids if ids.count(id) > 1)
            raise AgentInvalid(f"run {run_id}: two questions at once have the id {twice!r}: each needs one of its own")
        answers: list[ResumeEntry] = []
        while interrupts:  # some of them may be answered first
            answers += await self._ask_for(interrupts)
            given = {answer.interrupt_id for answer in answers}
            interrupts = [one for one in interrupts if one.id not in given]
        return answers

    async def _ask_for(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        if self._known:
            return await self._ask_again(self._known.popleft(), interrupts)
        assert self._record.config is not None, "the runner records it"
        interrupts = dated(interrupts, self._record.config.answer_timeout)
        self._recorder.pause(finished(self._record, RunFinishedInterruptOutcome(interrupts=interrupts)))
        self._journal.set_status(RunStatus.WAITING)
        self._journal.tell(self._notices.of_question(self._record, self._journal.appended, interrupts))
        self._wait_for(interrupts)
        return await self.answered()

    async def _ask_again(self, known: Question, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        if known.ids != {interrupt.id for interrupt in interrupts}:
            asked = ", ".join(sorted(interrupt.id for interrupt in interrupts))
            raise AgentInvalid(
                f"run {self._record.id}: its agent does not ask what it asked before ({asked}, not "
                f"{', '.join(sorted(known.ids))}); an agent that is gone on with must do the same again"
            )
        try:
            if not known.answers:  # it was left off then: the agent will wait no longer this time either
                await asyncio.get_running_loop().create_future()
        finally:
            self.closed += 1  # not before: who goes on from what is saved meanwhile comes here again
        assert known.answers is not None, "an open one is waited for before the agent is called"
        return known.answers

    def _wait_for(self, interrupts: list[Interrupt]) -> None:
        loop = asyncio.get_running_loop()
        self.waiting, self.due_at, self.since_s = list(interrupts), due_at(interrupts), loop.time()
        self._answers = loop.create_future()
        self._answers.add_done_callback(retrieve)  # the run may end before its agent has come to it
        self._attend()

    async def answered(self) -> list[ResumeEntry]:
        """Wait for the answers to what is asked, and go on with them."""
        assert self._answers is not None, "something is asked"
        try:
            answers, command_id = await asyncio.shield(self._answers)
        except asyncio.CancelledError:  # the agent waits no longer; it may have more to say
            answers, command_id = await self._left_off()
            if not answers:
                with contextlib.suppress(RunFenced):
                    self._go_on(answers, command_id)
                raise
        finally:
            self.waiting, self._answers = [], None
            self._attend()
        self._go_on(answers, command_id)
        return answers

    async def _left_off(self) -> tuple[list[ResumeEntry], int]:
        """Leave the question off to the end, however often the agent is cancelled meanwhile (several timeouts do so,
        and a scope of anyio's in each turn of the event loop): half left off, the run would wait with nothing asked.
        Where a person was faster, return what that was: an answer that was taken is never lost."""
        answers = self._answers
        assert answers is not None, "something is asked"
        leaving = asyncio.create_task(self._leave_off(answers), name=f"gapless-leave-off-{self._record.id}")
        leaving.add_done_callback(retrieve)  # who is stopped does not wait for it
        while not leaving.done():
            try:
                await asyncio.wait({leaving})
            except asyncio.CancelledError:
                if self.stopping:
                    leaving.cancel()
                    raise
        leaving.result()
        with contextlib.suppress(RunFenced):
            if answers.done():  # looked at as it goes on: what was heard is taken with it, or it would be kept for ever
                return answers.result()
        return [], 0

    async def _leave_off(self, answers: asyncio.Future[Any]) -> None:
        """Have the store decide that nobody answers any more, or hear what else it has decided."""
        if not self.stopping:
            with contextlib.suppress(StoreUnavailable, RunNotFound, RunFenced):
                if not await self.decide("left"):
                    await asyncio.shield(answers)

    async def decide(self, kind: str) -> bool:
        """Have the store decide that the run goes on by a command of this kind and by no answer; False where something
        else was decided before, which will be heard."""
        await self._journal.drain()  # the question itself
        seq = self._journal.appended
        command = msgspec.json.encode(Command(kind=kind, seq=seq))
        try:
            await patiently(self._store.answer, self._record.id, seq, command)
        except NotWaiting:
            return False
        return True

    def _go_on(self, answers: list[ResumeEntry], command_id: int) -> None:
        self._recorder.check_sealed()  # the answers may have come as the run ended
        self._journal.set_status(RunStatus.RUNNING)
        self._recorder.start(now_ms(), resume=answers)
        if command_id:
            self._journal.take(command_id)
        if self._known:  # asked by another worker: the agent has not come to it yet
            self._known[-1].answers = answers
        else:
            self.closed += 1

    def hear(self, command: Command, command_id: int) -> bool:
        """Take an answer, or that nobody answers any more, where that is what the run waits for; False if not."""
        if command.kind == "input":
            if self.resolve(command.resume, command_id):
                return True
            log.warning("run %s: an answer came that it does not wait for", self._record.id)
        return command.kind == "left" and self._leave(command.seq, command_id)

    def _leave(self, seq: int, command_id: int) -> bool:
        """Take note that the agent waits for no answer to the question at `seq` any more, as was decided at a worker
        that may be gone."""
        if self._answers is None or self._answers.done() or seq != self._journal.appended:
            return False
        self._answers.set_result(([], command_id))
        return True

    def resolve(self, entries: list[ResumeEntry], command_id: int = 0) -> bool:
        """Answer what the run is waiting for; False if it does not wait, or not for these."""
        if self._answers is None or self._answers.done():
            return False
        asked = {interrupt.id for interrupt in self.waiting}
        if asked.isdisjoint(entry.interrupt_id for entry in entries):
            return False
        self._answers.set_result(([entry for entry in entries if entry.interrupt_id in asked], command_id))
        return True

    def close(self) -> None:
        """Wait for nothing any more: the run has ended here."""
        self.stopping = True
        if self._answers is not None and not self._answers.done():
            run_id = self._record.id
            self._answers.set_exception(RunFenced(f"run {run_id} has ended", run_id=run_id))
