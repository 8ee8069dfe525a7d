"""A session's history as turns, each with what the framework itself keeps of it. For adapters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from gapless.agents.base import RunContext
from gapless.agents.conversation import conversation
from gapless.events import Message, ToolMessage, UserMessage
from gapless.user_message import results_of

__all__ = ["Turn", "results_brought", "turns_before"]

_T = TypeVar("_T")


class Turn(NamedTuple, Generic[_T]):
    """Is one turn: `native` where the framework ran it to its end, else its `messages`, as a model is shown them."""

    native: _T | None
    messages: list[Message]


def turns_before(ctx: RunContext, decode: Callable[[bytes], tuple[str, _T] | None]) -> list[Turn[_T]]:
    """Return the turns before the message of `ctx`, oldest first. `decode` reads one `native` as its run's id and what
    was kept, None for another framework's.

    A turn of this framework is taken as it was kept; any other (a client's own history, another framework's, one that
    was cut short) is what the session has of it, with each call beside its result.
    """
    kept: dict[str, _T] = {}
    for native in ctx.native_history:
        if (found := decode(native)) is not None:
            kept[found[0]] = found[1]
    earlier = _earlier(ctx)
    turns: list[Turn[_T]] = []
    seen: set[str] = set()
    other: list[Message] = []
    for run_id, group in groupby(earlier, key=_run_of):
        if run_id is None or run_id not in kept:
            other += group
            continue
        if run_id in seen:
            continue
        seen.add(run_id)
        if other:
            turns.append(Turn(None, conversation(other)))
            other = []
        turns.append(Turn(kept[run_id], []))
    if other:
        turns.append(Turn(None, conversation(other)))
    return turns


def results_brought(ctx: RunContext) -> list[ToolMessage]:
    """Return the results of the client's own tools that `ctx` goes on from: they come with its message."""
    asked = ctx.messages[-1] if ctx.messages else None
    return results_of(asked) if isinstance(asked, UserMessage) else []


def _earlier(ctx: RunContext) -> list[Message]:
    messages = ctx.messages
    return messages[:-1] if messages and isinstance(messages[-1], UserMessage) else messages


def _run_of(message: Message) -> str | None:
    run_id = (message.metadata or {}).get("run_id")
    return run_id if isinstance(run_id, str) else None
