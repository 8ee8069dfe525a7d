"""How a stream is getting on: chunks, characters, elapsed time, characters per second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """Counts text while it streams and shows the figures on `file` (standard error by default).

        progress = Progress()
        async for text in run.text():
            progress.add(text)
        progress.finish()

    On a terminal the figures stay on one line that is rewritten; elsewhere each update is a line of its own, at most
    one every `every_s` seconds. With `every_s=None` only the final summary is written. It is also a sink: calling it is
    `add`. `clock` returns seconds.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        every_s: float | None = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chunks = 0
        self.characters = 0
        self.first_s: float | None = None
        """Seconds from the start to the first text."""
        self._file = file if file is not None else sys.stderr
        self._every_s = every_s
        self._clock = clock
        self._started = self._shown = clock()
        self._ended: float | None = None
        self._rewrites = self._file.isatty()

    def add(self, text: str) -> None:
        """Count one piece of `text`; empty ones do not count."""
        if not text:
            return
        now = self._clock()
        self.chunks += 1
        self.characters += len(text)
        if self.first_s is None:
            self.first_s = now - self._started
        if self._every_s is not None and now - self._shown >= self._every_s:
            self._shown = now
            self._file.write(f"\r{self.summary}\x1b[K" if self._rewrites else f"{self.summary}\n")
            self._file.flush()

    __call__ = add

    @property
    def elapsed_s(self) -> float:
        """Counts the seconds since the start, or until `finish`."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def characters_per_s(self) -> float:
        """Divides by the whole time, the wait for the first text included."""
        elapsed_s = self.elapsed_s
        return self.characters / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def summary(self) -> str:
        """Says the figures in one line."""
        first = "" if self.first_s is None else f", first after {self.first_s:.2f} s"
        return (
            f"{self.chunks} chunks, {self.characters} characters, {self.elapsed_s:.1f} s, "
            f"{self.characters_per_s:.0f} characters/s{first}"
        )

    def finish(self) -> str:
        """Stop the clock, write the summary as the last line and return it. A second call writes nothing."""
        if self._ended is None:
            self._ended = self._clock()
            live = self._rewrites and self._every_s is not None
            self._file.write(f"\r{self.summary}\x1b[K\n" if live else f"{self.summary}\n")
            self._file.flush()
        return self.summary
