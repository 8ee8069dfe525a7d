"""What a waiting run asks: its last event says it."""

from __future__ import annotations

from typing import NamedTuple

from gapless.events import Interrupt, RunFinishedEvent, RunFinishedInterruptOutcome, decode_event
from gapless.journals.contract import Store
from gapless.records import RunRecord, RunStatus

__all__ = ["Question", "question_of"]


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
