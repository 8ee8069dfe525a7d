"""Tells whether a producer's batch can be recorded, before any of it is: it is taken whole or refused whole."""

from __future__ import annotations

from collections.abc import Sequence

from gapless.agents.base import AgentItem
from gapless.errors import AgentInvalid, InputInvalid, InputTooLarge, RunLimit
from gapless.events import Event, RunErrorEvent, RunFinishedEvent, RunFinishedInterruptOutcome
from gapless.records import RunRecord
from gapless.runs.blobs import LARGE, BlobsOfRun
from gapless.runs.deadlines import dated
from gapless.runs.ending import finished
from gapless.runs.recorder import Recorder
from gapless.runs.sound import sound

__all__ = ["Rehearsal"]

WHY_CHARS_MAX = 500
"""Of what is said of a refusal: it may name an id that came."""


class Rehearsal:
    """Tries what a producer of one run sends, on a recorder that writes nowhere: nothing has been taken of what it
    refuses."""

    def __init__(self, record: RunRecord, recorder: Recorder, blobs: BlobsOfRun) -> None:
        self._record = record
        self._recorder = recorder
        self._blobs = blobs

    async def of(self, events: Sequence[Event | str]) -> list[AgentItem]:
        """Return the events as they can be recorded, one after the other, now that all before them is accepted: what is
        large in them is kept already. Raises `InputInvalid` for what may not come here, `InputTooLarge` for what is
        over a limit of the run, `RunFenced`, `StoreUnavailable`."""
        run_id = self._record.id
        try:
            items = [await self._blobs.set_aside(one) if type(one) in LARGE else one for one in events]
            trial = self._recorder.trial()
            for item in items:
                if isinstance(item, RunErrorEvent | RunFinishedEvent):
                    self._try_last(trial, item)
                else:
                    trial.add(item)
        except (AgentInvalid, RunLimit) as error:
            kind = InputInvalid if isinstance(error, AgentInvalid) else InputTooLarge
            why = error.message.removeprefix(f"run {run_id}: ")[:WHY_CHARS_MAX]
            raise kind(f"run {run_id}: nothing of the batch was taken: {why}", run_id=run_id) from error
        return items

    def _try_last(self, trial: Recorder, event: RunErrorEvent | RunFinishedEvent) -> None:
        sound(event)
        if isinstance(outcome := getattr(event, "outcome", None), RunFinishedInterruptOutcome):
            assert self._record.config is not None, "the runner records it"
            asked = dated(outcome.interrupts, self._record.config.answer_timeout)
            trial.pause(finished(self._record, RunFinishedInterruptOutcome(interrupts=asked)))
