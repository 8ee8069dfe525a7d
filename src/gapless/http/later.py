"""Something to be done with each of many, a time after each has come: with one timer for all."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Later"]

AT_ONCE = 256
"""So many are seen to before others have their turn."""
EARLY_S = 0.002
"""Whose time comes so soon is seen to with those whose time has come."""

_T = TypeVar("_T")


class Later(Generic[_T]):
    """Calls `do` with each that was added once its time has come, which is the same time for all.

    A timer for each would take as much memory as an open stream. The one for all runs on when nobody is left: the next
    mostly comes before it is through, and to set one costs more than all else here."""

    def __init__(self, do: Callable[[_T], None]) -> None:
        self._do = do
        self.due: OrderedDict[_T, float] = OrderedDict()
        """When each is seen to, by the loop's clock; the soonest first."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the timer runs."""

    def add(self, one: _T, after_s: float) -> None:
        """See to this one after so many seconds, unless it is taken out of `due` before."""
        loop = asyncio.get_running_loop()
        self.due[one] = due = loop.time() + after_s
        if self._loop is not loop:
            self._loop = loop
            loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to those whose time has come, so many at once, and come again for the next."""
        now = loop.time()
        try:
            for one, due in tuple(itertools.islice(self.due.items(), AT_ONCE)):
                if due > now + EARLY_S:
                    break
                if self.due.pop(one, None) is not None:
                    self._do(one)
        finally:  # what fails with one is for the loop to tell of, and the others' time comes all the same
            if self.due:
                loop.call_at(max(next(iter(self.due.values())), now + EARLY_S), self._look, loop)
            elif self._loop is loop:
                self._loop = None
