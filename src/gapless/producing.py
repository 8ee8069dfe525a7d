"""Runs that are executed elsewhere: what a producer sends of such a run, in which order, and how it comes back.

A producer (a worker of Celery, a function in a cloud, a program in another language) writes a run's events in batches.
Batches are numbered from 1 over the whole run, whoever sends them, so one that comes again is told from one that is
new. A producer that begins has a higher epoch than those before it, and these can write nothing more.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from gapless.errors import BatchConflict, InputInvalid, InputTooLarge, RunFenced
from gapless.events import (
    Event,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    decode_event,
    encode_event,
)

__all__ = ["BATCH_EVENTS_MAX", "PRODUCER", "Batch", "Producer", "Taken"]

PRODUCER = "gapless.producer"
"""The agent of runs that are executed elsewhere: `Runner.start(…, agent=PRODUCER)`, or `POST /runs` with
`"producer": true`."""
BATCH_EVENTS_MAX = 60
"""Events of one batch. What opens and closes what they say makes at most four of each: fewer than a journal has pending
at once, so that they are accepted together."""
COUNT_MAX = 2**53 - 1
"""Of epochs and of batches: what every reader of JSON has exactly (RFC 8259, section 6)."""
NAME_CHARS_MAX = 96
"""Of a producer's name."""


class Batch(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Is what a producer sends at once: the body of `POST /runs/{id}/events`."""

    producer: str
    """Its name: of two with the same epoch the first one counts."""
    epoch: int | None = None
    """Which producer of this run it is; a higher one ends what lower ones may write. Without it, and without events,
    one more than the highest."""
    number: int = 0
    """Counts the run's batches from 1. One that was taken is not written again."""
    events: list[msgspec.Raw] = []
    """AG-UI's events, or texts: pieces of an answer. The last may end the run, or ask a person."""

    def read(self) -> list[Event | str]:
        """Return the events. Raises `InputInvalid`, `InputTooLarge`."""
        if len(self.events) > BATCH_EVENTS_MAX:
            raise InputTooLarge(f"a batch has at most {BATCH_EVENTS_MAX} events, not {len(self.events)}")
        if not 0 < len(self.producer) <= NAME_CHARS_MAX:
            raise InputInvalid(f"producer: a name of 1 to {NAME_CHARS_MAX} characters")
        if not 0 <= self.number <= COUNT_MAX or not (self.epoch is None or 1 <= self.epoch <= COUNT_MAX):
            raise InputInvalid(f"epoch and number count from 1, to {COUNT_MAX}")
        if self.events and (self.number < 1 or self.epoch is None):
            raise InputInvalid("a batch of events has an epoch and a number, each 1 or more")
        read: list[Event | str] = []
        for place, raw in enumerate(map(bytes, self.events)):
            try:
                read.append(msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else decode_event(raw))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputInvalid(f"events[{place}] is no event of AG-UI: {error}") from None
        if any(isinstance(event, RunFinishedEvent | RunErrorEvent) for event in read[:-1]):
            raise InputInvalid("what ends a run, or asks a person, comes last in its batch")
        if read and isinstance(outcome := getattr(read[-1], "outcome", None), RunFinishedInterruptOutcome):
            ids = [interrupt.id for interrupt in outcome.interrupts]
            if not ids or len(set(ids)) < len(ids):
                raise InputInvalid("what asks a person has one interrupt or more, each with an id of its own")
        return read

    @property
    def digest(self) -> str:
        """Tells it from every other batch."""
        head = f"{self.producer} {self.epoch} {self.number} "
        return hashlib.sha256(head.encode() + b",".join(map(bytes, self.events))).hexdigest()[:32]


class Refused(msgspec.Struct, omit_defaults=True):
    """Says why the `batch` with that digest was refused: the error's `code` and `message`."""

    batch: str
    code: str
    message: str


class Taken(msgspec.Struct, omit_defaults=True):
    """Says how far a run's producers are: who writes it (`producer`, with which `epoch`), and the `number` of the last
    batch that was taken."""

    producer: str = ""
    epoch: int = 0
    number: int = 0
    last: str = ""
    """The event with which the run ends or asks, as JSON, once it was taken."""
    refused: Refused | None = None
    """The batch that another worker had brought and that was refused, where none was taken since."""

    def is_new(self, batch: Batch, run_id: str) -> bool:
        """Return whether the `batch` of the run `run_id` is to be taken: not where it was before, and there is nothing
        new about who sends it. Raises `RunFenced`, `BatchConflict`."""
        epoch = batch.epoch or 0
        if epoch < self.epoch or (epoch == self.epoch and self.producer not in ("", batch.producer)):
            raise RunFenced(
                f"run {run_id}: {self.producer} writes it, with epoch {self.epoch}; this one writes nothing more",
                run_id=run_id,
            )
        if batch.number > self.number + 1:
            raise BatchConflict(
                f"run {run_id}: batch {batch.number} leaves a hole; the last that was taken is {self.number}",
                run_id=run_id,
            )
        return epoch > self.epoch or batch.number > self.number


class Producer:
    """Writes the events of a run that executes in this program and not at a Gapless worker.

    Made by `Runner.produce` and `GaplessClient.produce`. Entered, it becomes the run's producer: those before it write
    nothing more. `number` is how many batches were taken of the run, by it or by those: where it makes the same batches
    again, it goes on after these.

    To leave the block ends nothing: a program that dies leaves it too, and its successor goes on. The last event to be
    sent is a `RunFinishedEvent` or a `RunErrorEvent`; without one the run waits for its next producer, until its
    `idle_timeout` or `timeout` ends it, or somebody cancels it.

    `send` is what brings a batch to the run `run_id`; `name` tells this producer from others.
    """

    def __init__(self, run_id: str, send: Callable[[Batch], Awaitable[Taken]], name: str | None = None) -> None:
        self.run_id = run_id
        self.name = name or uuid.uuid4().hex
        self.epoch = 0
        """Which producer of the run this is, counted from 1."""
        self.number = 0
        self._send = send

    async def __aenter__(self) -> Self:
        taken = await self._send(Batch(producer=self.name))
        self.epoch, self.number = taken.epoch, taken.number
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the run as it is, also where nothing was raised: it ends with an event that ends it."""

    async def send(self, *events: Event | str) -> int:
        """Have these `events`, or pieces of the answer's text, accepted, all or none; returns the batch's number. Where
        it raises something that may pass, the same call may be made again.

        Raises `RunFenced` when another producer writes the run or it has ended, `RunWaits` while a person is asked,
        `InputInvalid` for what cannot come here in a run and `InputTooLarge` for what is over one of its limits (the
        run stays as it was, and other events can be sent), `LimitReached` when the run's worker is behind,
        `StoreUnavailable`."""
        batch = Batch(producer=self.name, epoch=self.epoch, number=self.number + 1, events=_encoded(events))
        await self._send(batch)
        self.number += 1
        return self.number


def _encoded(events: Sequence[Event | str]) -> list[msgspec.Raw]:
    return [
        msgspec.Raw(msgspec.json.encode(event) if isinstance(event, str) else encode_event(event)) for event in events
    ]
