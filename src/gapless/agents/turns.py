"""A session's history as turns, each with what the framework itself keeps of it. For adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from gapless.agents.base import RunContext
from gapless.agents.conversation import conversation, in_their_places
from gapless.events import Message, ToolMessage, UserMessage
from gapless.user_message import results_of

__all__ = [
    "Turn",
    "answered",
    "earlier",
    "goes_on_from_results",
    "results_brought",
    "run_of",
    "turns_before",
    "turns_of",
]

_T = TypeVar("_T")


class Turn(NamedTuple, Generic[_T]):
    """Is one turn: `native` where the framework ran it to its end, with what the session has of it (`messages`); else
    its messages alone, as a model is shown them."""

    native: _T | None
    messages: list[Message]


def turns_before(ctx: RunContext, decode: Callable[[bytes], tuple[str, _T] | None]) -> list[Turn[_T]]:
    """Return the turns before the message of `ctx`, oldest first. `decode` reads one `native` as its run's id and what
    was kept, None for another framework's.

    A turn of this framework is taken as it was kept; any other (a client's own history, another framework's, one that
    was cut short) is what the session has of it, with each call beside its result. A result that came after later
    answers is with the turn that called for it.
    """
    kept = dict(found for native in ctx.native_history if (found := decode(native)) is not None)
    return turns_of(in_their_places(earlier(ctx)), kept, conversation)


def turns_of(
    messages: Sequence[Message], kept: Mapping[str, _T], shown: Callable[[list[Message]], list[Message]] = list
) -> list[Turn[_T]]:
    """Return the turns that `messages` are, as `turns_before` does: those that are `kept`, by their run's id, and what
    `shown` makes of the others."""
    turns: list[Turn[_T]] = []
    seen: set[str] = set()
    other: list[Message] = []
    for run_id, group in groupby(messages, key=run_of):
        if run_id is None or run_id not in kept:
            other += group
        elif run_id not in seen:
            seen.add(run_id)
            if other:
                turns.append(Turn(None, shown(other)))
                other = []
            turns.append(Turn(kept[run_id], list(group)))
    if other:
        turns.append(Turn(None, shown(other)))
    return turns


def earlier(ctx: RunContext) -> list[Message]:
    """Return the messages before that of `ctx`."""
    messages = ctx.messages
    return messages[:-1] if messages and isinstance(messages[-1], UserMessage) else messages


def run_of(message: Message) -> str | None:
    """Return the id of the run that said `message`; None for what a client sent."""
    run_id = (message.metadata or {}).get("run_id")
    return run_id if isinstance(run_id, str) and run_id else None


def results_brought(ctx: RunContext) -> list[ToolMessage]:
    """Return the results of the client's own tools that `ctx` goes on from: they come with its message."""
    asked = ctx.messages[-1] if ctx.messages else None
    return results_of(asked) if isinstance(asked, UserMessage) else []


def goes_on_from_results(ctx: RunContext) -> bool:
    """Return whether `ctx` has no message but results of the client's own tools."""
    if ctx.content:
        return False
    return bool(results_brought(ctx)) or any(isinstance(one, ToolMessage) for one in earlier(ctx)[-1:])


def answered(
    history: Iterable[tuple[_T, Mapping[str, ToolMessage]]],
    calls: Callable[[_T], Collection[str]],
    result: Callable[[_T], str | None],
    ends: Callable[[_T], bool],
    make: Callable[[str, ToolMessage | None, _T | None], _T],
) -> tuple[list[_T], list[str]]:
    """Return the `history` with a result of each call right behind the answer that made it, and the calls of its last
    answer that have none.

    Each item comes with the results that the session has of its turn's calls; `calls` are those an item makes,
    `result` the one it is a result of. An item that `ends` an answer does so before any result. `make` makes a result
    of what the session has, None for nothing; it is given the item that stands there, if one does.
    """
    found: list[_T] = []
    of_answer, open, before = dict[str, Mapping[str, ToolMessage]](), list[str](), set[str]()
    answering = False
    for item, told in history:
        if (id := result(item)) is not None:
            if id in of_answer:
                answering = True
                found.append(make(id, of_answer[id].get(id), item))
                if id in open:
                    open.remove(id)
            elif id not in before:  # else it came late, and is told at its place
                found.append(item)
            continue
        if answering or ends(item):
            found += [make(id, of_answer[id].get(id), None) for id in open]
            before.update(of_answer)
            of_answer, open, answering = {}, [], False
        found.append(item)
        for id in calls(item):
            of_answer[id] = told
            open.append(id)
    return found, open
