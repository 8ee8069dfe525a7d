"""What a waiting run asks: its last event says it."""

from __future__ import annotations

from typing import NamedTuple

from gapless.events import Interrupt, RunFinishedEvent, RunFinishedInterruptOutcome, RunStartedEvent, decode_event
from gapless.journals.contract import Store
from gapless.records import RunRecord, RunStatus

__all__ = ["Question", "asked_again", "question_of"]


class Question(NamedTuple):
    """Holds what a run asks, and since when (ms since the Unix epoch); nothing for one that does not wait."""

    interrupts: list[Interrupt]
    since: int = 0


async def question_of(store: Store, run: RunRecord) -> Question:
    """Read what the run asks, as its record has it. Raises `RunNotFound`, `CursorExpired`, `StoreUnavailable`."""
    if run.status is RunStatus.WAITING:
        for event in await store.read(run.id, run.last_seq - 1, 1):
            asked = decode_event(event)
            if isinstance(asked, RunFinishedEvent) and isinstance(asked.outcome, RunFinishedInterruptOutcome):
                return Question(asked.outcome.interrupts, asked.timestamp or 0)
    return Question([])


async def asked_again(store: Store, run: RunRecord) -> set[str]:
    """Return which interrupts a run that goes on may be about to wait for again, as somebody has answered others of the
    same question. Raises `RunNotFound`, `CursorExpired`, `StoreUnavailable`."""
    left = set[str]()
    if run.status is RunStatus.RUNNING:
        for event in map(decode_event, await store.read(run.id, max(run.last_seq - 2, 0), 2)):
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                left = {interrupt.id for interrupt in event.outcome.interrupts}
            elif isinstance(event, RunStartedEvent) and event.input is not None and event.input.resume:
                left -= {entry.interrupt_id for entry in event.input.resume}
            else:  # it has gone on
                left = set()
    return left
