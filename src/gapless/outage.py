"""What the log says of work that is tried again until it succeeds: once that it fails, once that it does no more."""

from __future__ import annotations

import logging
import time

__all__ = ["Outage"]


class Outage:
    """One for each loop that tries again. Several times a second the same line would bury what else is logged.

    Args:
        log: Where it is said.
        about: What is tried, and in what way again: `"store sqlite:///a.db: looking again"`.
    """

    def __init__(self, log: logging.Logger, about: str) -> None:
        self._log = log
        self._about = about
        self._said: set[str] = set()
        """Kinds of failures that were told since it last succeeded."""
        self._since = 0.0

    @property
    def on(self) -> bool:
        """It has failed since it last succeeded."""
        return bool(self._said)

    def failed(self, error: BaseException, *, known: bool = True) -> None:
        """Say why it has failed, unless that was said. What is not `known`, as an error of a store is, is told by its
        type: its text may be somebody's."""
        why, kind = str(error).partition("\n")[0], ""
        if not (known and why):
            why = kind = type(error).__name__
        if not self._said:
            self._since = time.monotonic()
        if kind not in self._said:
            self._said.add(kind)
            self._log.warning("%s: %s", self._about, why)

    def over(self) -> None:
        """Say that it has succeeded, if that is news."""
        if self._said:
            self._said.clear()
            self._log.warning("%s: that is over, after %.1f s", self._about, time.monotonic() - self._since)
