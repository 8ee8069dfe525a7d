"""The event loop that a runner belongs to: all that it waits with belongs to that one loop."""

from __future__ import annotations

import asyncio

from gapless.errors import UsageError

__all__ = ["HomeLoop", "check_loop", "elsewhere"]


class HomeLoop:
    """Knows the event loop of one runner: that of its first use, until the runner is closed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()

    def enter(self, is_open: bool) -> asyncio.Lock:
        """Say that the runner, which `is_open` or not, is used in the running loop. Returns what is held while it
        opens. Raises `UsageError` where it is open, or opens, in another loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and (is_open or self._opening.locked()):
                raise elsewhere(self._loop)
            self._loop, self._opening = loop, asyncio.Lock()
        return self._opening


def check_loop(home: asyncio.AbstractEventLoop) -> None:
    """Raises `UsageError` in any other loop than `home`, the one in which the runner was opened."""
    if asyncio.get_running_loop() is not home:
        raise elsewhere(home)


def elsewhere(home: asyncio.AbstractEventLoop) -> UsageError:
    """Make the error of a runner that is used outside of its loop, `home`."""
    if home.is_closed():
        return UsageError(
            "this Runner was opened in an event loop that has ended since: use `async with runner:` in each loop, or "
            "make one Runner for each"
        )
    return UsageError(
        "this Runner was opened in another event loop (that of run() is in a thread of its own), and a Runner belongs "
        "to one: close it there first, or make one Runner for each"
    )
