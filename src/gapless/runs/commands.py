"""Commands: what is asked of a run, brought to the worker that executes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Protocol

import msgspec

from gapless.config import Limits
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    InputInvalid,
    InputTooLarge,
    LimitReached,
    RunCancelled,
    RunNotFound,
)
from gapless.events import ResumeEntry, RunAgentInput, RunStartedEvent
from gapless.journals.contract import NotWaiting
from gapless.journals.journal import Journals
from gapless.live import LiveRequest, is_live
from gapless.producing import Batch
from gapless.records import RunRecord, RunStatus, now_ms
from gapless.runs.asked import asked_again, question_of
from gapless.runs.home_loop import check_loop
from gapless.runs.request import answers_of, check_chars, check_id
from gapless.runs.sound import sound

__all__ = ["Command", "Commands", "Here", "decode_command", "has_cancel"]

ASKED_AGAIN_S, ASKED_AGAIN_EVERY_S = 10.0, 0.01
"""For how long an answer waits for the run to ask again what another answer has left, and how often it looks. It takes
milliseconds, or a lease where the worker is lost meanwhile."""
PUSH_AGAIN_S = 0.05
"""How soon a live run that is far behind its input is offered the next piece of it again."""


class Command(msgspec.Struct, omit_defaults=True):
    """What one worker asks of a run's owner, or tells it."""

    kind: str
    """`cancel`, `input`, `live`, `events` (of a producer) or `followers`; `expired` where nobody has answered in time,
    `left` where the agent waits for no answer any more."""
    resume: list[ResumeEntry] = []
    said: LiveRequest | None = None
    batch: Batch | None = None
    seq: int = 0
    """Position of the question of which it decides that nobody answers it."""
    worker_id: str = ""
    followers: int = 0
    """How many follow the run at that worker now."""
    number: int = 0
    """Counts the reports of that worker: one that comes late is out of date."""


decode_command = msgspec.json.Decoder(Command).decode


def has_cancel(kept: Iterable[bytes]) -> bool:
    """Tell whether one of a run's kept commands says that it is to end as cancelled."""
    return any(decode_command(command).kind == "cancel" for command in kept)


class Here(Protocol):
    """The worker of this process: commands for what it executes take no way through the store."""

    def executes(self, run_id: str) -> bool:
        """Tell whether it executes the run."""

    def on_command(self, run_id: str, command: bytes) -> None:
        """Act on a command."""

    async def claim(self, run: RunRecord, ends_with: GaplessError | None = None) -> None:
        """See to a run that is nobody's, if it can be here. `ends_with` says that it is decided how it ends."""

    def push(self, run_id: str, request: LiveRequest) -> bool:
        """Hand live input to the run; False if it does not execute it. Raises what `LiveInput.push` raises."""

    def is_over(self, run_id: str) -> bool:
        """Tell whether it executes a live run whose end is on its way."""


class Commands:
    """Checks commands and delivers them, wherever the run executes."""

    def __init__(self, journals: Journals, limits: Limits, here: Here) -> None:
        self._journals = journals
        self._limits = limits
        self._here = here

    async def cancel(self, run: RunRecord) -> None:
        """End a run as cancelled; nothing happens to one that has ended. Raises `StoreUnavailable`."""
        if run.status.ended:
            return
        store, encoded, owner = self._journals.store, msgspec.json.encode(Command(kind="cancel")), None
        if run.status is RunStatus.WAITING:
            with contextlib.suppress(NotWaiting):
                owner = await store.answer(run.id, run.last_seq, encoded)
        if owner is None:
            owner = await store.send(run.id, encoded)
        if owner == "":
            await self._here.claim(run, RunCancelled("cancelled", run_id=run.id))

    async def stopping(self, run_id: str) -> bool:
        """Tell whether the run has been told to end as cancelled. Raises `StoreUnavailable`."""
        return has_cancel(await self._journals.store.commands(run_id))

    async def decline(self, run: RunRecord) -> None:
        """Answer what a waiting run asks by saying that nobody answers; nothing where it waits no longer. Raises
        `StoreUnavailable`."""
        question = await question_of(self._journals.store, run)
        entries = [ResumeEntry(interrupt_id=one.id, status="cancelled") for one in question.interrupts]
        with contextlib.suppress(InputInvalid, RunNotFound):  # somebody was faster
            if entries:
                await self.resolve(run, entries)

    async def resolve(self, run: RunRecord, entries: list[ResumeEntry], *, some: bool = False) -> None:
        """Answer the interrupts of a waiting run: all that it waits for, or `some`, and then it waits for the rest. To
        each there is one answer; those to other questions are left out. Several may answer some at the same time.

        Raises `InputInvalid`, `InputTooLarge`, `StoreUnavailable`."""
        store, entries = self._journals.store, answers_of(entries, run.id)
        while True:
            if some:
                run = await self._asking(run, entries)
            command = Command(kind="input", resume=await self._answers(run, entries, some=some))
            try:
                owner = await store.answer(run.id, run.last_seq, msgspec.json.encode(command))
            except NotWaiting:  # it is not as it was: look what it waits for now
                run = await self._record(run.id)
            else:
                if owner == "":
                    await self._here.claim(run)
                return

    async def _asking(self, run: RunRecord, entries: list[ResumeEntry]) -> RunRecord:
        """Return the run as it waits for one of these, where it is about to; else as it is now."""
        ids, until = {entry.interrupt_id for entry in entries}, self._journals.loop.time() + ASKED_AGAIN_S
        while ids & await asked_again(self._journals.store, run) and self._journals.loop.time() < until:
            await asyncio.sleep(ASKED_AGAIN_EVERY_S)
            run = await self._record(run.id)
        return run

    async def _record(self, run_id: str) -> RunRecord:
        record = await self._journals.store.get_run(run_id)
        if record is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        return record

    async def _answers(self, run: RunRecord, entries: list[ResumeEntry], *, some: bool) -> list[ResumeEntry]:
        """Return the entries that answer what the run waits for."""
        waits_for, answers = "no answer", dict[str, ResumeEntry]()
        if run.status is RunStatus.WAITING:
            asked = {interrupt.id for interrupt in (await question_of(self._journals.store, run)).interrupts}
            for entry in entries:
                if entry.interrupt_id in asked and answers.setdefault(entry.interrupt_id, entry) != entry:
                    why = f"run {run.id}: {entry.interrupt_id} is answered twice, and not alike"
                    raise InputInvalid(why, run_id=run.id)
            missing = set() if some and answers else asked - answers.keys()
            waits_for = f"answers to {', '.join(sorted(missing))}" if missing else ""
        if waits_for:
            state = run.status.value + (f" ({run.error['message']})" if run.error else "")
            raise InputInvalid(f"run {run.id} is {state}, it waits for {waits_for}", run_id=run.id)
        self._check_size(run, list(answers.values()))
        return list(answers.values())

    async def push(self, run_id: str, request: LiveRequest, *, wait: bool = False) -> None:
        """Hand input to a live run. With `wait`, where its agent is too far behind, once it is not (which is known of a
        run that executes here).

        Raises `RunNotFound`, `InputInvalid` (it is not live, has ended, or nothing more was to be said),
        `InputTooLarge`, `LimitReached`, `StoreUnavailable`."""
        check_loop(self._journals.loop)
        if request.id is not None:
            check_id(request.id, "message")
        check_chars(request.content, self._limits, run_id)
        while True:
            try:
                if self._here.push(run_id, request):
                    return
                break
            except LimitReached:
                if not wait:
                    raise
            await asyncio.sleep(PUSH_AGAIN_S)
        record = await self._record(run_id)
        if request.close and is_live(record.config) and record.status.ended:
            return  # nothing more is said to it
        if not is_live(record.config) or record.status.ended:
            why = "has ended" if record.status.ended else "is not live"
            raise InputInvalid(f"run {run_id} {why}: nothing can be said to it", run_id=run_id)
        await self._deliver(record, Command(kind="live", said=request))

    def is_over(self, run_id: str) -> bool:
        """Tell whether a live run executes here whose end is on its way, though its record does not say so yet."""
        return self._here.is_over(run_id)

    def _check_size(self, run: RunRecord, entries: list[ResumeEntry]) -> None:
        """Refuse answers that could not be recorded: they would end the run. Raises `InputInvalid`, `InputTooLarge`."""
        answers = RunAgentInput(thread_id=run.session_id, run_id=run.id, messages=[], resume=entries)
        event = RunStartedEvent(thread_id=run.session_id, run_id=run.id, timestamp=now_ms(), input=answers)
        try:
            _, encoded = sound(event)
        except AgentInvalid as error:
            raise InputInvalid(f"run {run.id} cannot record the answer: {error}", run_id=run.id) from error
        bytes_max = self._limits.event_bytes_max
        if len(encoded) > bytes_max:
            raise InputTooLarge(f"run {run.id}: the answer is over event_bytes_max={bytes_max}", run_id=run.id)

    async def _deliver(self, run: RunRecord, command: Command) -> None:
        encoded = msgspec.json.encode(command)
        if run.owner == self._journals.worker_id and self._here.executes(run.id):
            self._here.on_command(run.id, encoded)
        else:  # also when it is still executed here: the store knows whose it is
            await self._journals.store.send(run.id, encoded)
