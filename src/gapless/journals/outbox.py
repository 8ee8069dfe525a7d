"""The outbox: what is to be told of runs to somebody outside, kept until it is told.

A notice is written in the step that makes it true (`Append.notices`), so that neither is there without the other. The
store knows when each is due and gives it to one worker at a time; what stands in it, and whether it is told again, is
the worker's to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

__all__ = ["NOTICES_TAKEN_MAX", "Notice", "Outbox"]

NOTICES_TAKEN_MAX = 100
"""Notices in one answer of `Outbox.take`."""


class Notice(msgspec.Struct):
    """Is one thing that is to be told of the run `run_id`, or was.

    `id` is unique in the store, ASCII. `data` is JSON in one line, as an event is.
    """

    id: str
    run_id: str
    data: bytes
    due_at: int | None
    """When (ms) it is to be told; None: it is not to be told any more, by itself."""


class Outbox(ABC):
    """Keeps a store's notices, in the order in which they are due.

    A notice goes with its session, and with its run's events once it is not due any more. Every method raises
    `StoreUnavailable`."""

    @abstractmethod
    async def take(self, now: int, until: int, limit: int = NOTICES_TAKEN_MAX) -> list[Notice]:
        """Take at most `limit` notices that are due at the time `now` (ms), those first that have been longest. They
        are due again at `until`, which is how long nobody else is given them: each goes to exactly one worker, and to
        another where that one does not say by then what became of it.
        """

    @abstractmethod
    async def settle(self, notice: Notice, due_at: int | None) -> bool:
        """Replace the data of `notice` by its `data`, and when it is due by `due_at`. Only where it is due when
        `notice.due_at` says, as it was taken or read: False, and nothing changes, where somebody else has taken or
        settled it meanwhile, or it is gone.
        """

    @abstractmethod
    async def of_run(self, run_id: str) -> list[Notice]:
        """Return the notices of the run `run_id`, in no order."""
