"""Asking a store that may be away for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from gapless.errors import StoreUnavailable
from gapless.journals.contract import WorkerFenced
from gapless.journals.journal import RETRY_FIRST_S, RETRY_MAX_S, STORE_PATIENCE_S

__all__ = ["LeaseWanted", "patiently"]

_T = TypeVar("_T")


async def patiently(ask: Callable[..., Awaitable[_T]], *about: Any, patience_s: float = STORE_PATIENCE_S) -> _T:
    """Return the store's answer to `ask(*about)`, asking again while it cannot be reached.

    Raises `StoreUnavailable` once no answer has come for `patience_s` seconds, and what else `ask` raises."""
    pause_s, deadline = RETRY_FIRST_S, time.monotonic() + patience_s
    while True:
        try:
            return await ask(*about)
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)


class LeaseWanted:
    """Says what is meant for clients when this worker has lost its lease: it will have one again in a moment.

    Raises `StoreUnavailable` for the block's `WorkerFenced`."""

    def __init__(self, run_id: str | None = None) -> None:
        self._run_id = run_id

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WorkerFenced):
            raise StoreUnavailable(
                "this worker lost its lease and registers again; try again", run_id=self._run_id, retry_after_s=1
            ) from None
