"""What is heard of a model of ADK's while it speaks, beside the graph of ADK's events.

ADK makes an event of each delta, which costs more than the model. Most deltas only go on with the text or the thought
that the one before was of: all that is new in them is their text. These are recorded where the model gives them, once
the adapter has told everything that ADK was given before; all others go through ADK.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from google.adk.events import Event
from google.genai import types

from gapless.agents.adk_events import Translation
from gapless.agents.base import Deltas, RunContext

__all__ = ["CATCH_UP_S", "Hearing", "Told"]

Told: TypeAlias = "asyncio.Future[tuple[str, str | None]]"
"""Is done once something was told, with who has said it and in which branch."""

CATCH_UP_S = 0.5
"""How long a delta waits until the adapter has told what ADK was given before it. After that, the rest of the run goes
through ADK: something there keeps events back, or changes them."""


class Hearing:
    """Records what models say, for one run; `translation` is the run's, whose `items` the adapter yields."""

    def __init__(self, ctx: RunContext, translation: Translation) -> None:
        self.deltas: Deltas | None = None
        """How the deltas of the run's responses come; None before the first request that is streamed."""
        self.telling = False
        """An event is being told: nothing may come between its items."""
        self.failed: Exception | None = None
        """What recording a delta has raised. It is the run's, and nothing of the model's."""
        self._behind = False
        """ADK keeps events back, or changes them: nothing is heard any more."""
        self._ctx = ctx
        self._translation = translation
        self._expected: dict[int, Told] = {}
        """By the identity of a response's content: who is told to have said it, in which branch."""

    def note(self, watched_by: str) -> bool:
        """Note who watches the next response's deltas in ADK, "" for nobody; returns whether they may be heard."""
        if self._behind:
            watched_by = "something in ADK that keeps events back"
        at_model = not watched_by and self._ctx.emits
        if self.deltas is None or not at_model:
            self.deltas = Deltas(at_model, watched_by)
        return at_model

    def expect(self, content: types.Content | None) -> Told | None:
        """Return what is done once an event with this content was told; None for none."""
        if content is None:
            return None
        told: Told = asyncio.get_running_loop().create_future()
        self._expected[id(content)] = told
        return told

    def forget(self, content: types.Content | None) -> None:
        """Expect it no more."""
        self._expected.pop(id(content), None)

    def told(self, event: Event) -> None:
        """Note that all of an event was told."""
        self.telling = False
        told = self._expected.pop(id(event.content), None)
        if told is not None and not told.done():
            told.set_result((event.author, event.branch))

    async def hear(self, told: Told, part: types.Part) -> bool:
        """Record a piece of text or of a thought, as soon as what was to be `told` before it was; returns False where
        it must go through ADK."""
        if not told.done() and not self._behind:
            await asyncio.wait([told], timeout=CATCH_UP_S)
            self._behind = not told.done()
        if self._behind or self.telling or self.failed is not None:
            return False
        item = self._translation.more(*told.result(), part.text or "", thought=bool(part.thought))
        if item is None:
            return False
        try:
            await self._ctx.emit(item)
        except Exception as error:
            # Raised here it would be the model's to ADK, which may answer it: the adapter raises it at the next event.
            self.failed = error
            return False
        return True
