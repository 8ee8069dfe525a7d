"""Where a LangGraph run's thread is kept: in the run's own checkpoint, or by the checkpointer that the graph has.

A graph without a checkpointer gets one for the run, which begins with what the session's last turn left; so it can ask
people, and go on at any worker. One that has its own keeps its threads there: a session is a thread. Then the journal
keeps only what of the thread has been said.
"""

from __future__ import annotations

import asyncio
import copy
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.pregel import Pregel

from gapless.agents.base import AgentItem, RunContext
from gapless.agents.call_names import ANY, call_names
from gapless.agents.conversation import CAME_LATE, conversation, results_in, with_a_beginning
from gapless.agents.langgraph_events import Translation
from gapless.agents.langgraph_messages import Told, content_of, messages_of, names_of, repaired, result_of
from gapless.agents.langgraph_saver import MESSAGES, LeftTurn, RunSaver, decode_left, encode_left
from gapless.agents.turns import goes_on_from_results, results_brought, turns_before
from gapless.errors import CheckpointUnreadable
from gapless.events import UserMessage

__all__ = ["OwnThread", "Thread", "UsersThread", "thread_of"]

PUT_WAITS_MAX = 1000
"""Turns of the event loop that a save waits for what LangGraph puts beside its stream; one or two are usual."""


class _Kept(msgspec.Struct, array_like=True):
    """Is what a run saves."""

    content: bytes
    """The saver's; empty where the graph has one of its own."""
    shown: list[str]
    asking: bool
    before: str = ""


_NAMES = call_names(ANY)
"""How calls of other frameworks and services are told: nobody knows whose the graph's models are."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


class Thread:
    """Keeps the thread of one run of `graph`."""

    saves = True
    """Another worker can find the thread."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any], ctx: RunContext, translation: Translation) -> None:
        self.graph = graph
        self.config: RunnableConfig = {"configurable": {"thread_id": ctx.session_id}}
        self._ctx = ctx
        self._translation = translation
        self._running: set[str] = set()
        """Tasks under way, by id."""
        self._worked = False
        """A task is done: there is something to go on from."""
        self._before = ""
        self._kept = self._load()

    def _load(self) -> _Kept | None:
        if self._ctx.checkpoint is None:
            return None
        try:
            kept = _decode(self._ctx.checkpoint)
        except msgspec.MsgspecError as error:
            raise CheckpointUnreadable(
                f"run {self._ctx.run_id}: where its graph stands cannot be read ({error}); ask again",
                run_id=self._ctx.run_id,
            ) from None
        self._translation.shown.update(dict.fromkeys(kept.shown))
        self._before = kept.before
        self._worked = True
        return kept

    @property
    def goes_on(self) -> bool:
        """Returns whether another worker had begun."""
        return self._kept is not None

    @property
    def asking(self) -> bool:
        """Returns whether the run stood at a question there."""
        return self._kept is not None and self._kept.asking

    async def begin(self) -> tuple[list[BaseMessage], list[AgentItem]]:
        """Make the thread ready; return the messages to give to the graph, and what is to be said before."""
        raise NotImplementedError

    def leave(self, values: Any, checkpoint_id: str) -> bytes | None:
        """Return what the turn leaves to the next, the graph having ended with these `values`."""
        raise NotImplementedError

    def _content(self) -> bytes:
        return b""

    async def keep(self, part: Mapping[str, Any]) -> None:
        """Save where the run stands, after a part of the stream that says of tasks or checkpoints."""
        data, ns = part["data"], part["ns"]
        if part["type"] == "tasks":
            id = data["id"]
            if "result" not in data and "error" not in data:
                self._running.add(id)
                return
            self._running.discard(id)
            if data.get("error") is not None or data.get("interrupts"):
                return
            self._worked = True
            if await self._finished(id) and self._running:
                await self.save(leave=False)
            return
        recorded = await self._advanced("|".join(ns), data["config"]["configurable"]["checkpoint_id"])
        if recorded and self._worked and (ns or data["next"]):
            await self.save(leave=not self._running)

    async def _finished(self, task_id: str) -> bool:
        return True

    async def _advanced(self, ns: str, checkpoint_id: str) -> bool:
        return True

    async def save(self, *, asking: bool = False, leave: bool = True) -> None:
        """Save where the run stands."""
        if self.saves and self._ctx.continues:
            kept = _Kept(self._content(), [*self._translation.shown], asking, self._before)
            # What was said before a question stays, though the node that asks is run again: so it is in one process.
            half = () if asking else self._translation.half()
            await self._ctx.save(_encode(kept), half=half, leave=leave)

    def _answered(
        self, said: Iterable[Told], since: Sequence[BaseMessage] = ()
    ) -> tuple[list[BaseMessage], list[BaseMessage]]:
        """Return what was `said` with a result of each call, and what is new to the graph after it and what came
        `since`: results of the client's tools for the last answer's calls, and the user's message."""
        history, open = repaired(said)
        brought, names = results_in(results_brought(self._ctx)), names_of(history)
        results = results_in(self._ctx.messages)
        history += [result_of(id, results.get(id), names[id]) for id in open if id not in brought]
        new: list[BaseMessage] = [result_of(id, one, names[id]) for id, one in brought.items() if id in open]
        both = _under_own_ids([*history, *new])
        history, new = both[: len(history)], both[len(history) :]
        if since:  # they belong to the answer, which is not the last
            history, new = [*history, *new], []
        last = [*history, *since, *new][-1:]
        if self._ctx.content:
            asked = self._ctx.messages[-1:]
            id = asked[0].id if asked and isinstance(asked[0], UserMessage) else None
            new.append(HumanMessage(content_of(self._ctx.content), id=id or None))
        elif goes_on_from_results(self._ctx) and last and isinstance(last[0], AIMessage):
            new.append(HumanMessage(CAME_LATE))
        return history, new


class OwnThread(Thread):
    """Keeps the thread in the run's checkpoint, and what the next turn needs in the session."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any], ctx: RunContext, translation: Translation) -> None:
        delta = any(isinstance(channel, DeltaChannel) for channel in graph.channels.values())
        self._saver = RunSaver(ctx.session_id, keep_all=delta)
        self._split = isinstance(graph.channels.get(MESSAGES), BinaryOperatorAggregate)
        """The conversation can be told from the rest of the state: the session keeps it once, turn by turn."""
        self._history: list[BaseMessage] = []
        own = copy.copy(graph)  # the graph's own `copy` checks it all again, which is a third of what a run costs here
        own.checkpointer = self._saver
        super().__init__(own, ctx, translation)

    async def begin(self) -> tuple[list[BaseMessage], list[AgentItem]]:
        if self._kept is not None:
            try:
                self._saver.restore(self._kept.content)
            except msgspec.MsgspecError as error:
                raise CheckpointUnreadable(
                    f"run {self._ctx.run_id}: its graph's checkpoint cannot be read ({error}); ask again",
                    run_id=self._ctx.run_id,
                ) from None
        state, said = b"", list[Told]()
        for turn in turns_before(self._ctx, _decode_own):
            results = results_in(turn.messages)
            if turn.native is None:
                shown = messages_of(_NAMES.messages(with_a_beginning(turn.messages, first=not said)))
                said += [(one, results) for one in shown]
                continue
            state = turn.native.state
            if turn.native.whole:
                said = []
            said += [(one, results) for one in self._saver.messages_of(turn.native)]
        self._history, new = self._answered(said)
        self._translation.known = {one.id for one in self._history if one.id}
        if self._kept is not None:
            values = (await self.graph.aget_state(self.config)).values
            return [], self._translation.catch_up(_since(values, self._history))
        if not state:
            return [*self._history, *new], []
        self._saver.begin(state, self._history if self._split else None)
        if self._split:
            return new, []
        has = _messages((await self.graph.aget_state(self.config)).values)
        told = results_in(self._ctx.messages)
        whole, new = self._answered([(one, told) for one in has], self._history)
        self._translation.known |= {one.id for one in whole if one.id}
        return [*_added(has, whole), *self._history, *new], []

    def leave(self, values: Any, checkpoint_id: str) -> bytes | None:
        messages = values.get(MESSAGES) if self._split and isinstance(values, dict) else None
        return self._saver.left(self._ctx.run_id, self._history, messages)

    def _content(self) -> bytes:
        return self._saver.snapshot()

    async def save(self, *, asking: bool = False, leave: bool = True) -> None:
        if not self._saver.unwritable:
            await super().save(asking=asking, leave=leave)

    async def _finished(self, task_id: str) -> bool:
        for _ in range(PUT_WAITS_MAX):
            if task_id in self._saver.written:
                self._saver.finish(task_id)
                return True
            await asyncio.sleep(0)
        return False

    async def _advanced(self, ns: str, checkpoint_id: str) -> bool:
        for _ in range(PUT_WAITS_MAX):
            if self._saver.has(ns, checkpoint_id):
                self._saver.advance(ns, checkpoint_id)
                return True
            await asyncio.sleep(0)
        return False


class UsersThread(Thread):
    """Leaves the thread to the checkpointer that the graph has: the conversation is kept there alone."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any], ctx: RunContext, translation: Translation) -> None:
        self.saves = type(graph.checkpointer) is not InMemorySaver
        super().__init__(graph, ctx, translation)

    async def begin(self) -> tuple[list[BaseMessage], list[AgentItem]]:
        state = await self.graph.aget_state(self.config)
        if self._kept is not None:
            asked = self._ctx.messages[-1].id if self._ctx.messages else ""
            return [], self._translation.catch_up(_after(_messages(state.values), asked))
        self._before = _id_of(state.config)
        before: list[BaseMessage] = []
        if (base := self._base(self._before)) is not None:
            if base:  # LangGraph goes on from there, on a branch of its own
                self.config["configurable"]["checkpoint_id"] = self._before = base
                state = await self.graph.aget_state(self.config)
            else:
                before = [RemoveMessage(id=REMOVE_ALL_MESSAGES)]
        has = [] if before else _messages(state.values)
        self._translation.known = {one.id for one in has if one.id}
        known = self._translation.known
        earlier = _NAMES.messages(conversation(self._ctx.messages), _calls(has))
        told = messages_of(with_a_beginning(earlier, first=not has))
        if self._ctx.content and told and isinstance(told[-1], HumanMessage):
            told.pop()  # it is new
        whole = _with_calls_of(told, has)
        placed = _calls_known(told, known)
        told = [one for one in told if not (isinstance(one, ToolMessage) and one.tool_call_id in placed)]
        fresh = 0
        while fresh < len(told) and told[len(told) - 1 - fresh].id not in known:
            fresh += 1
        missing = told[len(told) - fresh :] if fresh and (fresh < len(told) or not has) else []
        while missing and isinstance(missing[0], ToolMessage):  # of a call that the thread has elsewhere
            missing.pop(0)
        results = results_in(self._ctx.messages)
        whole, new = self._answered([(one, results) for one in whole], missing)
        known |= {one.id for one in (*missing, *whole) if one.id}
        return [*before, *_added(has, whole), *missing, *new], []

    def _base(self, head: str) -> str | None:
        """Return the checkpoint to go on from where the thread's newest turn was asked again or edited: its id, empty
        for an empty thread. None where the thread goes on."""
        left = [found[1] for native in self._ctx.native_left if (found := decode_left(native)) is not None]
        if not head or head not in {turn.after for turn in left}:
            return None
        kept = [found[1] for native in self._ctx.native_history if (found := decode_left(native)) is not None]
        if kept and kept[-1].after:
            return kept[-1].after
        return left[0].before

    def leave(self, values: Any, checkpoint_id: str) -> bytes | None:
        return encode_left(LeftTurn(self._ctx.run_id, before=self._before, after=checkpoint_id))


def thread_of(graph: Pregel[Any, Any, Any, Any], ctx: RunContext, translation: Translation) -> Thread:
    """Return where the run keeps its thread."""
    kind = UsersThread if isinstance(graph.checkpointer, BaseCheckpointSaver) else OwnThread
    return kind(graph, ctx, translation)


def _decode_own(native: bytes) -> tuple[str, LeftTurn] | None:
    found = decode_left(native)
    return found if found is not None and found[1].state else None


def _messages(values: Any) -> list[BaseMessage]:
    found = values.get(MESSAGES) if isinstance(values, dict) else getattr(values, MESSAGES, None)
    return [one for one in found if isinstance(one, BaseMessage)] if isinstance(found, list) else []


def _calls(messages: Sequence[BaseMessage]) -> set[str]:
    return {str(call["id"]) for one in messages if isinstance(one, AIMessage) for call in one.tool_calls}


def _added(has: Sequence[BaseMessage], whole: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return what makes the `whole` of a thread that `has` its beginning, or else is given anew: what is given to a
    graph comes at the thread's end, and a result that came late does not belong there."""
    if len(whole) >= len(has) and all(map(operator.is_, whole, has)):
        return [*whole[len(has) :]]
    return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *whole]


def _under_own_ids(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """Return the messages, each under an id of its own: LangGraph takes one of the same id for the one before, and ids
    are clients' and services' to give."""
    found: list[BaseMessage] = []
    ids: set[str] = set()
    for message in messages:
        id = message.id
        while id and id in ids:
            id += "_"
        if id:
            ids.add(id)
        found.append(message if id == message.id else message.model_copy(update={"id": id}))
    return found


def _calls_known(told: Sequence[BaseMessage], known: Collection[str]) -> set[str]:
    """Return the calls that messages of these ids make, and no later ones."""
    by_call = {id: one.id for one in told for id in _calls([one])}
    return {call for call, id in by_call.items() if id in known}


def _with_calls_of(told: Sequence[BaseMessage], has: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages of a thread, those of a client's whose calls were not told of for want of a result with all
    that have one by now."""
    told_of = {one.id: one for one in told if isinstance(one, AIMessage)}

    def fuller(one: BaseMessage) -> BaseMessage:
        other = told_of.get(one.id)
        return one if other is None or len(_calls([other])) <= len(_calls([one])) else other

    return [fuller(one) if isinstance(one, AIMessage) and one.id else one for one in has]


def _since(values: Any, history: Sequence[BaseMessage]) -> list[BaseMessage]:
    before = {one.id for one in history}
    return [one for one in _messages(values) if one.id not in before]


def _after(messages: Sequence[BaseMessage], id: str) -> list[BaseMessage]:
    """Return the messages after the one of this `id`; none where it is not among them."""
    for index, message in enumerate(messages):
        if message.id == id:
            return [*messages[index + 1 :]]
    return []


def _id_of(config: Mapping[str, Any]) -> str:
    found = config.get("configurable", {}).get("checkpoint_id")
    return found if isinstance(found, str) else ""
