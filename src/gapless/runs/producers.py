"""Brings what producers send to the worker that has the run's journal."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from gapless.errors import InputInvalid, LimitReached, RunFenced, RunNotFound, RunWaits, error_for_code
from gapless.events import RunErrorEvent, RunFinishedEvent
from gapless.journals.contract import Store
from gapless.producing import PRODUCER, Batch, Taken
from gapless.records import RunRecord, RunStatus
from gapless.runs.checkpoints import decode_frame
from gapless.runs.commands import Command
from gapless.runs.inbox import decode_taken

__all__ = ["Producers"]

TAKEN_S_MAX = 20.0
"""How long a batch may take to be accepted before its producer is told to send it again."""
TAKEN_LOOK_S = 0.01
"""How often it is looked whether another worker has taken a batch."""


class Here(Protocol):
    """The worker of this process."""

    def produce(self, run_id: str, batch: Batch) -> asyncio.Future[Taken] | None:
        """Hand a batch to the run; None if it does not execute here. Raises what `Inbox.push` raises."""

    async def claim(self, run: RunRecord) -> None:
        """See to a run that is nobody's, if it can be here."""


class Producers:
    """Has batches accepted, whichever worker has the run's journal."""

    def __init__(self, store: Store, here: Here) -> None:
        self._store = store
        self._here = here

    async def produce(self, run_id: str, batch: Batch) -> Taken:
        """Have a batch of a run that is executed elsewhere accepted, whichever worker has its journal; returns what was
        taken of the run then.

        Raises `RunNotFound`, `RunFenced` (another producer writes it, or it has ended), `BatchConflict`, `RunWaits`,
        `InputInvalid`, `InputTooLarge`, `LimitReached` where it takes too long, `ShuttingDown`, `StoreUnavailable`."""
        batch.read()  # what is no batch is refused before anybody has it
        record = await self._store.get_run(run_id)
        if record is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        if record.agent != PRODUCER:
            raise InputInvalid(f"run {run_id} is executed by agent {record.agent}, and no producer's", run_id=run_id)
        try:
            async with asyncio.timeout(TAKEN_S_MAX):
                if (done := self._here.produce(run_id, batch)) is not None:
                    return await asyncio.shield(done)
                return await self._produce_elsewhere(record, batch)
        except TimeoutError:
            why = f"run {run_id}: its worker has not taken the batch yet; send it again"
            raise LimitReached(why, run_id=run_id, retry_after_s=1) from None

    async def _produce_elsewhere(self, run: RunRecord, batch: Batch) -> Taken:
        """Send a batch to the run's owner, and look for it in what that one saves of the run."""
        store, sent = self._store, False
        while True:
            kept = await store.checkpoint(run.id)
            run = await store.get_run(run.id) or run  # after it: the end takes the checkpoint away
            if run.status.ended:
                if _ended_so(run, batch):  # its answer was lost
                    return Taken(batch.producer, batch.epoch or 0, batch.number)
                raise RunFenced(f"run {run.id} has ended ({run.status.value})", run_id=run.id)
            taken = decode_taken(None if kept is None else decode_frame(kept.data, run.id).data, run.id)
            if batch.epoch is None:
                batch = msgspec.structs.replace(batch, epoch=taken.epoch + 1)
            if not taken.is_new(batch, run.id):
                return taken
            if taken.refused is not None and taken.refused.batch == batch.digest:
                raise error_for_code(taken.refused.code, taken.refused.message, run_id=run.id)
            if run.status is RunStatus.WAITING:
                raise RunWaits(f"run {run.id} waits for a person's answer; go on when it has one", run_id=run.id)
            if not sent and not taken.last:  # what is sent is taken some time, and not before an answer
                command = Command(kind="events", batch=batch)
                if await store.send(run.id, msgspec.json.encode(command)) == "":
                    await self._here.claim(run)
                sent = True
            await asyncio.sleep(TAKEN_LOOK_S)


def _ended_so(run: RunRecord, batch: Batch) -> bool:
    """Return whether the run has ended as this batch ends it."""
    last = (batch.read() or [""])[-1]
    if isinstance(last, RunErrorEvent):
        return run.status is RunStatus.FAILED and (run.error or {}).get("message") == last.message
    return isinstance(last, RunFinishedEvent) and run.status is RunStatus.FINISHED
