"""Live runs of Google ADK agents: what is said, on its way to ADK's own queue, and what ADK's live events show."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncGenerator
from typing import Any

from google.adk.agents.live_request_queue import LiveRequest, LiveRequestQueue
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.events import Event
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.runners import Runner
from google.adk.sessions import Session
from google.genai import types

from gapless.agents.adk_events import Shown, Stream, Translation, close_stream
from gapless.agents.adk_sessions import parts_of
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.writing import notice
from gapless.events import CustomEvent

__all__ = ["LiveTranslation", "cannot_be_live", "is_from_model", "live_events"]

AHEAD_MAX = 64
"""Requests that the model's connection has not taken yet; further ones wait in the run's own queue, which is bounded
too. ADK's is not."""
ANSWER_S_MAX = 30.0
"""How long a model that owes an answer may be silent before the run, to which nothing more is said, ends without."""

_SPOKEN = "spoken"


async def live_events(
    runner: Runner, session: Session, ctx: RunContext, config: ADKRunConfig, state: dict[str, Any], tool_threads: int
) -> AsyncGenerator[Event, None]:
    """ADK's events of a live run while what is said to it is passed on: `state` first, then the run's own message.
    Raises what ADK raises, and what passing on raises."""
    hearing = _Hearing(ctx)
    if state:
        hearing.queue.send(LiveRequest(state_delta=state))
    if ctx.content:
        hearing.tell(types.Content(role="user", parts=parts_of(ctx.content)))
    forwarding = asyncio.create_task(hearing.forward(), name=f"gapless-hearing-{ctx.run_id}")
    events = runner.run_live(
        user_id=session.user_id, session_id=session.id, live_request_queue=hearing.queue, run_config=config
    )
    try:
        with _sync_tools_in_threads(tool_threads):
            async with contextlib.aclosing(events):
                async for event in events:
                    hearing.note(event)
                    yield event
        if forwarding.done():  # having closed the queue, also where it raised
            forwarding.result()
    finally:
        forwarding.cancel()
        await asyncio.gather(forwarding, return_exceptions=True)


def _sync_tools_in_threads(threads_max: int) -> contextlib.AbstractContextManager[None]:
    """Threads for sync tools alone: `ToolThreadPoolConfig` has async ones of a live run use another event loop. ADK has
    no public name for it; in a version without it, sync tools hold the loop up."""
    try:
        from google.adk.utils import _sync_runner

        pool = _sync_runner._get_tool_thread_pool(threads_max)
        return _sync_runner._use_executor_for_sync_callables(pool)
    except (ImportError, AttributeError):
        return contextlib.nullcontext()


class _Queue(LiveRequestQueue):
    """ADK's queue, with a bound. Its close is heard by each agent that takes from it, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = 0
        self._taken = asyncio.Event()

    async def get(self) -> LiveRequest:
        request = await super().get()
        self._ahead = max(0, self._ahead - 1)  # what came before the first of these is not counted
        self._taken.set()
        if request.close:
            self.close()
        return request

    async def room(self) -> None:
        """Wait until there is room for one request more, which follows."""
        while self._ahead >= AHEAD_MAX:
            self._taken.clear()
            await self._taken.wait()
        self._ahead += 1


class _Hearing:
    """Passes on what is said, and knows what of it the model has not answered."""

    def __init__(self, ctx: RunContext) -> None:
        self.queue = _Queue()
        self._requests = ctx.live
        self._owed = 0
        """What surely gets an answer: messages, and sound whose end was told."""
        self._calls: set[str] = set()
        """Tool calls that are being executed."""
        self._resulted = False
        """The model has a tool's result and has said nothing since."""
        self._speaking = False
        self._sounded = False
        """Sound has come since the last end of it was told."""
        self._moved = asyncio.Event()

    def tell(self, content: types.Content) -> None:
        self._owed += 1
        self.queue.send_content(content)

    async def forward(self) -> None:
        """Forward to the end of what is said, and of the answer to it: ADK's close does not wait for that."""
        try:
            async for request in self._requests:
                await self.queue.room()
                if request.content is not None:
                    self.tell(types.Content(role="user", parts=parts_of(request.content)))
                elif request.blob is not None:
                    self._sounded = True
                    blob = types.Blob(data=request.blob.data, mime_type=request.blob.mime_type)
                    self.queue.send_realtime(blob)
                elif request.activity_start:
                    self.queue.send_activity_start()
                else:
                    self._owed += self._sounded  # silence may get no answer
                    self._sounded = False
                    self.queue.send_activity_end()
            while self._owed or self._calls or self._resulted or self._speaking:
                self._moved.clear()
                async with asyncio.timeout(None if self._calls else ANSWER_S_MAX):
                    await self._moved.wait()
        except TimeoutError:
            return
        finally:
            self.queue.close()

    def note(self, event: Event) -> None:
        """Do what the model has said about it."""
        self._moved.set()
        content = event.content
        if results := event.get_function_responses():
            self._calls.difference_update(result.id or "" for result in results)
            self._resulted = True
        elif calls := event.get_function_calls():
            own = event.long_running_tool_ids or ()
            self._calls.update(call.id or "" for call in calls if call.id not in own)
        elif event.output_transcription is not None or (content is not None and event.author != "user"):
            self._speaking, self._resulted = True, False
        if event.interrupted or event.turn_complete:
            self._speaking = False
        if event.turn_complete and event.interaction_status is not types.InteractionStatus.IN_PROGRESS:
            self._owed = max(0, self._owed - 1)


class LiveTranslation(Translation):
    """The translation of a live run: sound, what was spoken in writing, and who interrupted whom."""

    tells = False

    def items(self, event: Event) -> list[AgentItem]:
        parts = (event.content.parts if event.content is not None else None) or []
        sounds = [part.inline_data for part in parts if part.inline_data is not None and _is_sound(part.inline_data)]
        if sounds:  # it comes beside the text, and ends none
            rest = [part for part in parts if part.inline_data is None or not _is_sound(part.inline_data)]
            event = event.model_copy(update={"content": types.Content(role="model", parts=rest)})
        out: list[AgentItem] = []
        if event.interrupted or event.turn_complete or event.get_function_calls():
            for stream in self.streams.values():
                close_stream(out, stream)
        out += super().items(event)
        for sound in sounds:
            self.error = None
            out.append(CustomEvent(name="gapless.audio", value={"mimeType": sound.mime_type, "data": sound.data}))
        if event.input_transcription is not None:
            self._spoken(out, event, event.input_transcription)
        elif event.output_transcription is not None:
            self.error = None
            self._spoken(out, event, event.output_transcription)
        if event.interrupted:
            out.append(CustomEvent(name="gapless.interrupted", value={}))
        if event.turn_complete:
            out.append(CustomEvent(name="gapless.turn_complete", value={}))
        return out

    def settle(self) -> list[AgentItem]:
        waits = "waits for an answer that a live run cannot ask for"
        notices = [notice("tool_unanswered", f"{call.name} {waits}") for call, _ in self.pending.values()]
        return [*super().settle(), *notices]

    def _spoken(self, out: list[AgentItem], event: Event, words: types.Transcription) -> None:
        """Show a piece of what was spoken, or, at its end, all of it once more."""
        key = (event.author, event.branch, _SPOKEN)
        stream = self.streams.setdefault(key, Stream(event))
        text = words.text or ""
        if words.finished:
            text = Shown(stream.text).beyond(text)
        if text:
            self.add_text(out, stream, text, event)
        if words.finished:
            close_stream(out, self.streams.pop(key))

    def add_response(self, out: list[AgentItem], response: types.FunctionResponse, event: Event, number: int) -> None:
        """Note an answer that the model has already, whatever it is: nobody is asked for another one."""
        id = response.id or ""
        self.pending.pop(id, None)
        self.add_result(out, response, event, number)
        if id in event.actions.requested_tool_confirmations:
            message = f"{response.name} was not run: it wants an approval that a live run cannot ask for"
            out.append(notice("tool_not_approved", message))


def cannot_be_live(error: Exception) -> bool:
    """ADK has no live form of this kind of agent."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return isinstance(error, NotImplementedError) and bool(last) and last[0].name == "_run_live_impl"


def is_from_model(error: Exception) -> bool:
    """Return whether a model or its connection raised it; for live calls, ADK has no callback that tells."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(frame.f_locals.get("self"), BaseLlm | BaseLlmConnection) for frame in frames)


def _is_sound(blob: types.Blob) -> bool:
    return (blob.mime_type or "").startswith("audio/") and bool(blob.data)
