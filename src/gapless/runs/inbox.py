"""The agent of a run that is executed elsewhere: it says what producers send, and knows how far they are."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.errors import (
    CheckpointUnreadable,
    GaplessError,
    InputInvalid,
    InputTooLarge,
    LimitReached,
    RunFenced,
    RunWaits,
    ShuttingDown,
)
from gapless.events import Event, Interrupt, RunErrorEvent, RunFinishedEvent, RunFinishedInterruptOutcome, decode_event
from gapless.journals.journal import Journal
from gapless.producing import PRODUCER, Batch, Refused, Taken
from gapless.runs.rehearsal import Rehearsal
from gapless.tasks import retrieve

__all__ = ["Elsewhere", "Inbox", "decode_taken"]

WAITING_MAX = 16
"""Batches of one run that were not looked at yet: producers send one after another, and a repeat of it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Taken).decode


def decode_taken(kept: bytes | None, run_id: str) -> Taken:
    """Read how far the producers of the run `run_id` are out of what its inbox has saved. Raises
    `CheckpointUnreadable`."""
    if kept is None:
        return Taken()
    try:
        return _decode(kept)
    except msgspec.DecodeError as error:
        why = f"run {run_id}: how far its producers are cannot be read; ask again"
        raise CheckpointUnreadable(why, run_id=run_id) from error


class Elsewhere(Agent):
    """Stands for whoever produces: each run's execution has an `Inbox` in its place."""

    name = PRODUCER
    continues = "from_checkpoint"
    framework = "gapless producer"


class Inbox(Elsewhere):
    """Takes the batches of one run, whose `journal` it is, in order, each accepted whole, or refused whole where the
    `rehearsal` of it fails."""

    def __init__(self, journal: Journal, rehearsal: Rehearsal) -> None:
        self.taken = Taken()
        self._journal = journal
        self._rehearsal = rehearsal
        self._batches: collections.deque[tuple[Batch, int, asyncio.Future[Taken]]] = collections.deque()
        self._came = asyncio.Event()
        self._last: asyncio.Future[Taken] | None = None
        """Done once the batch that asks or ends is accepted; None where another worker has accepted it."""
        self.asking = False
        """A person is asked, or about to be."""
        self.idle = False
        """It waits for a producer, and has done all that came before."""
        self.closed = False
        """Nothing is taken any more: the run has ended, or was left."""

    def know(self, kept: bytes | None) -> None:
        """Know how far the producers are, of what was saved, before `run` does: of a run that waits for a person when
        it is gone on with, they are told to wait."""
        with contextlib.suppress(CheckpointUnreadable):  # which `run` raises
            self._set(decode_taken(kept, self._journal.run_id))

    def push(self, batch: Batch, command_id: int = 0) -> asyncio.Future[Taken]:
        """Take in a batch; what is returned is done once it is accepted. `command_id` is the store's, where it came
        through it. Raises `LimitReached`; once the run asks or ends, `RunWaits`, `RunFenced`, `BatchConflict`."""
        run_id = self._journal.run_id
        if not command_id and self.taken.last:
            if not self.taken.is_new(self._named(batch), run_id):
                return self._last or _done(self.taken)  # the answer to it may have been lost
            if self.asking:
                raise RunWaits(f"run {run_id} waits for a person's answer; go on when it has one", run_id=run_id)
            raise RunFenced(f"run {run_id} has ended", run_id=run_id)
        if not command_id and len(self._batches) >= WAITING_MAX:
            raise LimitReached(f"run {run_id}: {WAITING_MAX} batches wait already", run_id=run_id, retry_after_s=1)
        done: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        done.add_done_callback(retrieve)
        self._batches.append((batch, command_id, done))
        self._came.set()
        return done

    def hear(self, batch: Batch | None, command_id: int) -> bool:
        """Take in a batch that came through the store; False where there is none."""
        if batch is not None:
            self.push(batch, command_id)
        return batch is not None

    def close(self, *, left: bool) -> None:
        """Take nothing more: the run has ended, or was `left` to another worker."""
        self.closed, run_id = True, self._journal.run_id
        while self._batches:
            _, _, done = self._batches.popleft()
            if not done.done():
                done.set_exception(
                    ShuttingDown("the worker of this run stops; another goes on with it", run_id=run_id)
                    if left
                    else RunFenced(f"run {run_id} has ended", run_id=run_id)
                )

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        self._set(decode_taken(ctx.checkpoint, ctx.run_id))
        while True:
            if self.taken.last:
                last = decode_event(self.taken.last)
                if not self.asking:
                    yield last
                    return
                await ctx.interrupt(_asked_in(last))
                self._set(msgspec.structs.replace(self.taken, last=""))
                await ctx.save(_encode(self.taken))  # other workers send nothing while there is a question in it
            if ctx.leaving and not self._batches:  # as it would wait, and it was at work when it was to be left
                await ctx.save(_encode(self.taken))
            batch, command_id, done = await self._next()
            try:
                batch = self._named(batch)
                is_new = self.taken.is_new(batch, ctx.run_id)
                events = await self._rehearsed(batch) if is_new and batch.number > self.taken.number else []
            except GaplessError as error:
                if ctx.left:  # so it can record nothing here: who goes on with it takes the batch, as `close` says
                    raise
                if command_id and isinstance(error, InputInvalid | InputTooLarge):
                    self._set(_refused(self.taken, batch, error))
                    self._answer(command_id, None)
                    await ctx.save(_encode(self.taken))  # for the worker that has brought it
                    command_id = 0
                self._answer(command_id, done, error)
                continue
            for item in _but_last(events):
                yield item
            if is_new:
                self._last = done
                self._set(_after(self.taken, batch, events))
            self._answer(command_id, None)
            await ctx.save(_encode(self.taken))
            await self._journal.drain()  # what is not kept for others is accepted all the same
            self._answer(0, done)

    def _named(self, batch: Batch) -> Batch:
        """Return the batch with an epoch: one more than the highest, where it has none."""
        return batch if batch.epoch is not None else msgspec.structs.replace(batch, epoch=self.taken.epoch + 1)

    async def _rehearsed(self, batch: Batch) -> list[AgentItem]:
        """Return what is to be recorded of a batch, now that all of it can be. Raises what `Rehearsal.of` raises."""
        events = batch.read()
        await self._journal.drain()  # so that nothing stands between this batch and being accepted as one
        return await self._rehearsal.of(events)

    async def _next(self) -> tuple[Batch, int, asyncio.Future[Taken]]:
        while not self._batches:
            self._came.clear()
            self.idle = True
            try:
                await self._came.wait()
            finally:
                self.idle = False
        return self._batches[0]  # it stays there until it is answered: `close` answers what is left

    def _answer(self, command_id: int, done: asyncio.Future[Taken] | None, error: GaplessError | None = None) -> None:
        if command_id:
            self._journal.take(command_id)
        if done is None:
            return
        self._batches.popleft()
        if not done.done():
            done.set_result(self.taken) if error is None else done.set_exception(error)

    def _set(self, taken: Taken) -> None:
        """Say how far the producers are. What comes after a question, or the end, is told so by `push` at once."""
        self.taken = taken
        self.asking = bool(taken.last) and bool(_asked_in(decode_event(taken.last)))


def _asked_in(event: Event) -> list[Interrupt]:
    """Return what is asked, where it does not end the run."""
    outcome = event.outcome if isinstance(event, RunFinishedEvent) else None
    return outcome.interrupts if isinstance(outcome, RunFinishedInterruptOutcome) else []


def _but_last(events: Sequence[AgentItem]) -> Sequence[AgentItem]:
    """Return what is said before the run ends or asks."""
    return events[:-1] if events and isinstance(events[-1], RunFinishedEvent | RunErrorEvent) else events


def _refused(taken: Taken, batch: Batch, error: GaplessError) -> Taken:
    return msgspec.structs.replace(taken, refused=Refused(batch.digest, error.code, error.message))


def _after(taken: Taken, batch: Batch, events: Sequence[AgentItem]) -> Taken:
    assert batch.epoch is not None, "it was given one"
    last = bytes(batch.events[-1]).decode() if len(_but_last(events)) < len(events) else taken.last
    return Taken(batch.producer, batch.epoch, max(batch.number, taken.number), last)


def _done(taken: Taken) -> asyncio.Future[Taken]:
    done: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
    done.set_result(taken)
    return done
