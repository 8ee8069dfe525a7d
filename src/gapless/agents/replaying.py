"""Functions and generators that are gone on with by running them again: what they have said is dropped, what their
steps returned and people answered is remembered.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gapless.agents.base import AgentItem, RunContext, call_step
from gapless.agents.raised import decode_raised, encode_raised
from gapless.agents.step_values import call_unkept, decode_step, encode_step
from gapless.errors import AgentInvalid, CheckpointUnreadable, OutcomeUnknown, UsageError
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ReasoningMessageChunkEvent,
    ResumeEntry,
    TextMessageChunkEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)

__all__ = ["Replay", "is_replaying", "refuse_saves", "replays", "steps_unkept"]

_T = TypeVar("_T")
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])
_MARK = "__gapless_replays__"
_in_step: contextvars.ContextVar[bool] = contextvars.ContextVar("gapless_in_step", default=False)


class _Kept(msgspec.Struct, array_like=True):
    """Is what such an agent saves: how many items it has given, what its steps returned, the state that it found."""

    items: int = 0
    steps: dict[str, bytes | None] = {}
    """As JSON, by name, with what people answered; None: begun, and not to be begun again."""
    state: dict[str, Any] = {}
    left_off: dict[str, list[str]] = {}
    """The steps and questions that the function did not wait for to the end (`asyncio.timeout`), each with those that
    had raised beside it: a `TaskGroup` leaves off the others then."""
    raised: dict[str, bytes] = {}
    """What those steps raised that are not to be begun again."""
    firm: list[str] = []
    """The steps and questions that it must come to again."""
    firm_items: int = 0
    """How many items it must give again."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode
_encode_json = msgspec.json.Encoder().encode
_decode_answers = msgspec.json.Decoder(list[ResumeEntry]).decode


def replays(function: _FunctionT) -> _FunctionT:
    """Let runs of `function`, an async generator or async function, go on at another worker: there it is run again from
    its start, and what it had said already is not said again. What is costly or must not be done twice goes into
    `await ctx.step("name", …)`; all else must do the same again for the same message, steps and answers.

    Raises `UsageError` for anything else than an async generator or async function.
    """
    if not (inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)):
        named = getattr(function, "__qualname__", type(function).__name__)
        raise UsageError(f"gapless.replays is for async generators and async functions: make {named} one (async def)")
    setattr(function, _MARK, True)
    return function


def is_replaying(function: Callable[..., Any]) -> bool:
    """Return whether `function` was marked by `replays`."""
    return getattr(function, _MARK, False) is True


def refuse_saves(ctx: RunContext) -> None:
    """Let such an agent save nothing of its own: it would take the place of its steps, and nobody could go on."""

    def refuse(what: str) -> None:
        if what == "save":
            why = "is marked with gapless.replays, which keeps what its steps return (ctx.step): it has nothing to save"
            raise AgentInvalid(f"run {ctx.run_id}: agent {ctx.agent_name} {why}", run_id=ctx.run_id)

    ctx._save, ctx._unkept = None, refuse


def steps_unkept(ctx: RunContext) -> None:
    """Let steps of a run that cannot go on come back as in one that can, though nothing is kept. One that is called by
    another leaves that its steps."""

    async def step(name: str, function: Callable[..., Any], args: tuple[Any, ...], type: Any, repeatable: bool) -> Any:
        return await call_unkept(ctx.run_id, name, function, args, type)

    if ctx._steps is None:
        ctx._steps = step


class _Unfinished:
    """What was in the midst of being said when a replay's checkpoint was kept. Whoever goes on takes back calls that
    are not whole, and what a chunk without an id belongs to is not in the journal: so calls are said again, and chunks
    get their ids."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Event]] = {}
        """Calls that are open, each with what was said of it."""
        self._of_chunks: str | None = None
        """The one of them that chunks go on with."""
        self._ids: dict[type, str] = {}
        """By kind of chunk, the message that those without an id belong to."""

    def take(self, item: AgentItem) -> None:
        """Take one that was said before."""
        if isinstance(item, ToolCallChunkEvent):
            id = item.tool_call_id or self._of_chunks
            if id != self._of_chunks:
                self._end_chunks()
            if id is not None:
                self._calls.setdefault(id, []).append(item)
                self._of_chunks = id
            return
        if not isinstance(item, CustomEvent | ToolCallArgsEvent):
            self._end_chunks()
        if isinstance(item, ToolCallStartEvent):
            self._calls.setdefault(item.tool_call_id, [item])
        elif isinstance(item, ToolCallArgsEvent):
            self._calls.get(item.tool_call_id, []).append(item)
        elif isinstance(item, ToolCallEndEvent | ToolCallResultEvent):
            self._calls.pop(item.tool_call_id, None)
        elif isinstance(item, TextMessageChunkEvent | ReasoningMessageChunkEvent) and item.message_id:
            self._ids[type(item)] = item.message_id

    def calls(self) -> list[Event]:
        """Return what is to be said again, and forget it."""
        said = [event for events in self._calls.values() for event in events]
        self._calls.clear()
        return said

    def named(self, item: AgentItem) -> AgentItem:
        """Return a new item, with its id if it is a chunk that goes on with what was said before."""
        if not isinstance(item, TextMessageChunkEvent | ReasoningMessageChunkEvent):
            return item
        known = self._ids.pop(type(item), None)
        return msgspec.structs.replace(item, message_id=known) if known and item.message_id is None else item

    def _end_chunks(self) -> None:
        if self._of_chunks is not None:
            self._calls.pop(self._of_chunks, None)
            self._of_chunks = None


class Replay:
    """Runs one such agent, from its start or again. Raises `CheckpointUnreadable`, and `AgentInvalid` where it does not
    do what it did before."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        try:
            kept = _Kept(state=dict(ctx.state)) if ctx.checkpoint is None else _decode(ctx.checkpoint)
        except msgspec.DecodeError as error:
            raise CheckpointUnreadable(
                f"run {ctx.run_id}: what its steps returned cannot be read ({error}); ask again", run_id=ctx.run_id
            ) from None
        assert ctx._save is not None, "its run can go on"
        self._keep = ctx._save
        refuse_saves(ctx)
        self._state, self._steps, self._said = kept.state, dict(kept.steps), kept.items
        self._left_off, self._raised = dict(kept.left_off), dict(kept.raised)
        self._begin = {key: asyncio.Event() for key in kept.left_off}
        """Set for what was left off and is begun after all."""
        self._under_way: dict[str, list[str]] = {}
        """What the function waits for, each with what has raised meanwhile."""
        self._items, self._unfinished = 0, _Unfinished()
        self._expected, self._items_expected = [key for key in kept.firm if key in kept.steps], kept.firm_items
        self._firm, self._firm_items = dict.fromkeys(kept.firm), kept.firm_items
        self._reached: set[str] = set()
        self._one_by_one = True
        """The function has done one thing after the other, and each step has returned. From where it does not on, it
        may come to less when it is run again: a task is cancelled before it begins, or a step that raised returns."""
        self._task: asyncio.Task[Any] | None = None
        """The one that runs the function."""
        self._counts: collections.Counter[str] = collections.Counter()
        if ctx.checkpoint is not None:  # as it was when the agent began
            ctx.state = msgspec.json.decode(_encode_json(kept.state))
        else:
            self._state = msgspec.json.decode(_encode_json(kept.state))
        ctx.checkpoint = None  # the agent has given nothing to `save`, nor has another that it calls
        self._ask, self._record = ctx._interrupt, ctx._emit
        ctx._interrupt, ctx._steps = self._interrupt, self._step
        if self._record is not None:
            ctx._emit = self._emit

    async def run(self, items: AsyncIterator[AgentItem]) -> AsyncIterator[AgentItem]:
        """Pass on those of the agent's items that were not said before."""
        self._task = asyncio.current_task()
        try:
            async for item in items:
                for new in self._new(item):
                    yield new
            self._check_end()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _new(self, item: AgentItem) -> Sequence[AgentItem]:
        """Return what is to be said where the agent gives this."""
        self._items += 1
        if self._items > self._said:
            return (self._unfinished.named(item),)
        self._unfinished.take(item)
        return self._unfinished.calls() if self._items == self._said else ()

    async def _emit(self, item: AgentItem) -> None:
        assert self._record is not None, "else it is not in the place of it"
        if _in_step.get():  # said once, as the step is done once: the function does not come to it again
            await self._record(item)
            return
        self._look()
        for new in self._new(item):
            await self._record(new)

    def _key(self, name: str) -> str:
        self._counts[name] += 1
        count = self._counts[name]
        return name if count == 1 else f"{name}#{count}"

    async def _save(self, *, leave: bool = True) -> None:
        await self._keep(self._kept, (), leave)

    def _kept(self) -> bytes:
        said, firm_items = max(self._items, self._said), self._firm_items
        if self._one_by_one:
            firm_items = max(self._items, firm_items)
        kept = _Kept(said, self._steps, self._state, self._left_off, self._raised, [*self._firm], firm_items)
        return _encode(kept)

    def _look(self) -> None:
        """Note whether the function does one thing after the other, in its own task."""
        if self._one_by_one and asyncio.current_task() is not self._task:
            self._diverge()

    def _diverge(self) -> None:
        """From here on the function may do less when it is run again."""
        if self._one_by_one:
            self._one_by_one, self._firm_items = False, max(self._items, self._firm_items)

    def _check_end(self) -> None:
        """Look whether the function has done all that it must do again: what it gave instead was dropped, as if it had
        been said before. Raises `AgentInvalid`."""
        left = [repr(key) for key in self._expected if key not in self._reached]
        if self._items < self._items_expected:
            left.append(f"{self._items_expected - self._items} of its words and events")
        if left:
            run_id = self._ctx.run_id
            raise AgentInvalid(
                f"run {run_id}: its agent has ended without what it did before ({', '.join(left)}); an agent that is "
                "gone on with must do the same again",
                run_id=run_id,
            )

    async def _step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], type: Any, repeatable: bool
    ) -> Any:
        key = self._key(f"step {name}")
        return await self._waited_for(key, self._done, function, args, type, repeatable)

    async def _waited_for(self, key: str, come_to: Callable[..., Awaitable[_T]], *about: Any) -> _T:
        """Return what the step or question of this name comes to. What the function leaves off is left off whenever it
        is run again: what it does then, it does again. Unless something that raised beside it returns now: what raises
        is not remembered."""
        self._look()
        self._reached.add(key)
        if self._one_by_one and not self._under_way:  # else it is in a step, which is not done again
            self._firm[key] = None
        self._under_way[key] = raised = list[str]()
        try:
            if key in self._left_off:
                await self._begin[key].wait()
            found = await come_to(key, *about)
        except asyncio.CancelledError:
            self._diverge()
            if (task := asyncio.current_task()) is not None and task.cancelling():  # else it was cancelled from inside
                self._left_off[key] = raised
            raise
        except Exception:
            self._diverge()
            for beside in self._under_way.values():
                beside.append(key)
            raise
        finally:
            del self._under_way[key]
        for other in [other for other, beside in self._left_off.items() if key in beside]:
            del self._left_off[other]
            self._begin[other].set()
        return found

    async def _done(
        self, key: str, function: Callable[..., Any], args: tuple[Any, ...], type: Any, repeatable: bool
    ) -> Any:
        run_id = self._ctx.run_id
        if key in self._raised:
            raise decode_raised(self._raised[key])
        if key in self._steps:
            known = self._steps[key]
            if known is None:
                raise OutcomeUnknown(
                    f"run {run_id}: its worker was lost during {key}, which may not be repeated: look whether it took "
                    "effect",
                    run_id=run_id,
                )
            return decode_step(known, type, key, run_id)
        if repeatable:
            encoded = await self._called(key, function, args)
        else:
            self._steps[key] = None
            await self._save(leave=False)  # left here, it would count as begun
            try:
                encoded = await self._called(key, function, args)
            except Exception as error:
                self._raised[key] = encode_raised(error)
                await self._save()
                raise
        self._steps[key] = encoded
        await self._save()
        return decode_step(encoded, type, key, run_id)

    async def _called(self, key: str, function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
        token = _in_step.set(True)
        try:
            returned = await call_step(function, *args)
        finally:
            _in_step.reset(token)
        return encode_step(returned, key, self._ctx.run_id)

    async def _interrupt(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        return await self._waited_for(self._key("question"), self._answered, interrupts)

    async def _answered(self, key: str, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        known = self._steps.get(key)
        if known is None:
            await self._save()
            answers = await self._ask(interrupts)
            self._steps[key] = _encode_json(answers)
            return answers
        found = _decode_answers(known)
        if not found:  # it was left off, as earlier versions have kept that
            await asyncio.get_running_loop().create_future()
        asked, answered = {one.id for one in interrupts}, {entry.interrupt_id for entry in found}
        if asked != answered:
            raise AgentInvalid(
                f"run {self._ctx.run_id}: its agent does not ask what it asked before ({', '.join(sorted(asked))}, not "
                f"{', '.join(sorted(answered))}); an agent that is gone on with must do the same again"
            )
        return found
