"""What the runner keeps of a run beside what its agent saves: a frame around the agent's bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from gapless.agents.base import RunContext
from gapless.errors import AgentInvalid, CheckpointUnreadable, RunFenced, RunLimit
from gapless.events import CustomEvent, Interrupt, ResumeEntry, TokenUsage
from gapless.journals.journal import Journal
from gapless.records import RunRecord
from gapless.runs.deadlines import Deadlines
from gapless.runs.questions import Question, Questions
from gapless.runs.recorder import Recorder
from gapless.runs.sound import unsound

__all__ = ["Before", "Frame", "Standing", "decode_frame", "encode_frame", "warn_of_unkept"]

log = logging.getLogger("gapless.run")

_encode_json = msgspec.json.Encoder().encode

AGENTS_WARNED_MAX = 1_000
"""Names of agents that are remembered as warned of; of further ones nothing is said."""

_warned: set[str] = set()

VERSION = 1
"""Of the frame. A later one may only add fields at its end, or gets another number."""


class Frame(msgspec.Struct, array_like=True, kw_only=True):
    """Is the data of a store's `Checkpoint`: everything that another worker needs to go on.

    `framework` says who wrote `data`, with its version; `data` is what the agent saved, None where it begins from the
    start. `used_s` is the time of the run that counts for its timeouts. `questions` is how many of its questions had
    been answered. `usage` and `state` are those of the context, `state` None where the agent left the session's. `half`
    are the messages and calls that whoever goes on says anew.
    """

    version: int = VERSION
    framework: str = ""
    data: bytes | None = None
    used_s: float = 0.0
    questions: int = 0
    usage: list[TokenUsage] = []
    state: dict[str, Any] | None = None
    half: list[str] = []


class Before(msgspec.Struct):
    """Says from where a run is gone on with: the frame of its checkpoint, and the questions asked since."""

    frame: Frame
    questions: list[Question] = []


encode_frame = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def decode_frame(encoded: bytes, run_id: str) -> Frame:
    """Read the checkpoint `encoded` of the run `run_id`. Raises `CheckpointUnreadable`."""
    try:
        frame = _decode(encoded)
    except msgspec.DecodeError as error:
        raise CheckpointUnreadable(
            f"run {run_id}: where it stands cannot be read ({error}); ask again", run_id=run_id
        ) from None
    if frame.version != VERSION:
        raise CheckpointUnreadable(
            f"run {run_id}: another version of Gapless wrote where it stands (frame {frame.version}, here {VERSION}); "
            "ask again",
            run_id=run_id,
        )
    return frame


class Standing:
    """Keeps where one run stands, for whoever goes on with it: what its agent saves, in a frame, with the events before
    it. `kept` is what this worker went on from. `on_left()` is called when the run has been left at a save."""

    def __init__(
        self,
        journal: Journal,
        recorder: Recorder,
        framework: str,
        on_left: Callable[[], None],
        kept: Frame | None = None,
    ) -> None:
        self.leaving = False
        """The run is to be left at the next save: another worker goes on with it."""
        self.rested = kept is not None
        """Nothing was recorded between the newest save and the question that is open, but other questions."""
        self._journal = journal
        self._framework = framework
        self._recorder = recorder
        self._bytes_max = recorder.limits.checkpoint_bytes_max
        self._on_left = on_left
        self._kept = kept
        self._questions: Questions
        self._made: Callable[[bytes, Collection[str]], Frame] | None = None
        self._told: tuple[bytes | None, bytes] | None = None
        """The agent's data, and what else the frame said apart from the time, at the newest save."""
        self._seq = -1
        """Up to where nothing would be said again by whoever goes on from the newest save, counted in what this worker
        appended; -1: nothing can be gone on from."""
        self._noticed = False

    def first(self) -> None:
        """Keep, with the run's first event, that it can be begun from its start."""
        self._kept = Frame(framework=self._framework)
        self._journal.set_checkpoint(encode_frame(self._kept))

    def begin(self, ctx: RunContext, state_before: bytes, deadlines: Deadlines, questions: Questions) -> None:
        """Begin with what the context says then."""

        def make(data: bytes | None, half: Collection[str] = ()) -> Frame:
            try:
                changed = _encode_json(ctx.state) != state_before
            except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError):
                raise unsound(ctx.run_id, ctx) from None
            return Frame(
                framework=self._framework,
                data=data,
                used_s=deadlines.used_s(asyncio.get_running_loop().time()),
                questions=questions.closed,
                usage=ctx.usage,
                state=ctx.state if changed else None,
                half=[*half],
            )

        self._made, self._questions = make, questions
        data = None if self._kept is None else self._kept.data
        self._told, self._seq = (data, _beside(make(data))), self._journal.appended

    @property
    def at_rest(self) -> bool:
        """Nothing was recorded since the newest save that whoever goes on from it would say again."""
        return self._seq == self._journal.appended

    async def ask(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        """Ask as `Questions.ask` does. Whoever goes on has the question and its answers from the journal, and says
        nothing again for them: what was at rest is so afterwards."""
        self.rested = self.at_rest
        answers = await self._questions.ask(interrupts)
        if self.rested:
            self._seq = self._journal.appended
        return answers

    async def save(self, make_data: Callable[[], bytes], half: Collection[str] = (), leave: bool = True) -> None:
        """Do what `ctx.save` promises, with the data that is made once all is recorded that the agent has said. Raises
        `RunFenced` once the run is left, or its agent is stopped: what that does while it is cancelled is not where
        others go on."""
        assert self._made is not None, "the agent runs"
        async with self._recorder.setting_aside:
            data = make_data()
        self._recorder.check_sealed()
        if self._questions.stopping:
            raise RunFenced(f"run {self._journal.run_id} ends, and is not gone on with", run_id=self._journal.run_id)
        frame = self._made(data, half)
        told = data, _beside(frame)
        if told != self._told or not self.at_rest:
            await self._replace(frame)
            self._told = told
        if self.leaving and leave:
            self._on_left()
            await asyncio.get_running_loop().create_future()

    async def _replace(self, frame: Frame) -> None:
        journal, encoded = self._journal, encode_frame(frame)
        if len(encoded) <= self._bytes_max:
            self._seq = journal.appended
            await journal.save(encoded)
            return
        self._seq = -1
        await journal.save(b"")
        if not self._noticed:
            self._noticed = True
            log.warning(
                "run %s: where it stands takes %d bytes, over checkpoint_bytes_max=%d: no other worker could go on",
                journal.run_id,
                len(encoded),
                self._bytes_max,
            )
            message = "another worker could not go on with this run: where it stands is too large to keep"
            with contextlib.suppress(AgentInvalid, RunFenced, RunLimit):
                self._recorder.add(
                    CustomEvent(name="gapless.notice", value={"code": "checkpoint_too_large", "message": message})
                )


def warn_of_unkept(record: RunRecord, what: str) -> None:
    """Say, once for each agent of this process, that what it calls on its context (`save`, `step`) keeps nothing."""
    if record.agent in _warned or len(_warned) >= AGENTS_WARNED_MAX:
        return
    _warned.add(record.agent)
    log.warning(
        "run %s: agent %s calls ctx.%s, which keeps nothing: no other worker can go on with its runs. Mark it with "
        '@gapless.replays and use ctx.step, or write an Agent with continues = "from_checkpoint" that uses ctx.save',
        record.id,
        record.agent,
        what,
    )


def _beside(frame: Frame) -> bytes:
    return encode_frame(msgspec.structs.replace(frame, data=None, used_s=0.0))
