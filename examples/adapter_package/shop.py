"""A shop's bot. Its model is a few lines, so that it needs no service."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from bots import Bot, Message


class Clerk:
    """Looks for what the last word names, and says how many there are."""

    name = "clerk"

    async def answer(self, talk: Sequence[Message], tools: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
        last = talk[-1]
        if last["role"] == "tool":
            for word in f"There are {last['text']} of them.".split(" "):
                yield "text", f"{word} "
            return
        item = last["text"].split()[-1].strip("?.!")
        yield "text", "I look. "
        id = f"look-{len(talk)}"
        yield "arguments", (id, "in_stock", f'{{"item": "{item}"}}')
        yield "call", {"id": id, "name": "in_stock", "arguments": {"item": item}}


async def in_stock(item: str) -> int:
    return {"lamps": 3}.get(item, 0)


bot = Bot(Clerk(), [in_stock], name="shop")
