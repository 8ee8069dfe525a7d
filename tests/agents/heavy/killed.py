"""An agent of the Claude Agent SDK whose first worker stands still at the point `$GAPLESS_TEST_POINT` of what it does,
to be killed there. The ledger says who stands, and what tools have done."""

from __future__ import annotations

import asyncio
import itertools
import os

from gapless.testing import Gate, ToolCall, words
from tests.goes_on.worked import note
from tests.support import frameworks

TOLD = {"look": "seen the sea", "book": "booked the boat"}

_numbers = itertools.count()


class Point(Gate):
    """A point in what the model says; `pass_point` is one in a tool."""

    async def pass_through(self) -> None:
        await pass_point("model")


async def pass_point(what: str) -> None:
    number = str(next(_numbers))
    note(what, number, "comes", str(os.getpid()))
    if number == os.environ.get("GAPLESS_TEST_POINT"):
        note(what, number, "stands", str(os.getpid()))
        await asyncio.get_running_loop().create_future()


async def done(tool: str) -> str:
    await pass_point(tool)
    note(tool, "-", "ends", str(os.getpid()))
    return TOLD[tool]


async def look(at: str) -> str:
    """Look."""
    return await done("look")


async def book(what: str) -> str:
    """Book."""
    return await done("book")


agent = frameworks.claude(
    Point(),  # 0; 2 and 4 are in the tools
    *words("I "),
    Point(),
    *words("look. "),
    ToolCall("look", {"at": "sea"}),
    Point(),
    *words("And book. "),
    ToolCall("book", {"what": "boat"}),
    *words("It is "),
    Point(),
    *words("done."),
    tools=[look, book],
).agent
