"""How a run ends: its terminal event, and the turn that its session gets with it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from gapless.agents.base import SEE_LOG, RunContext, log_raised
from gapless.agents.places import class_of, only_one
from gapless.attachments import mark_left_out
from gapless.errors import AgentFailed, AgentInvalid, AnswerTimeout, GaplessError, RunCancelled, RunLimit, is_code
from gapless.events import (
    Event,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    TokenUsage,
    UserMessage,
    encode_event,
)
from gapless.fold import Fold
from gapless.live import is_live
from gapless.records import ModelUsage, RunEnd, RunRecord, RunStatus, Turn, now_ms
from gapless.runs.recorder import Recorder
from gapless.runs.sound import sound
from gapless.user_message import results_of

__all__ = [
    "as_failure",
    "end_of",
    "ending",
    "finished",
    "label_of",
    "leave_state",
    "log_end",
    "lost",
    "own_end",
    "unanswered",
]

_encode = msgspec.json.Encoder().encode
_decode_end = msgspec.json.Decoder(RunEnd).decode

_TOKENS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_input_tokens", "reasoning_tokens")

log = logging.getLogger("gapless.run")


def as_failure(record: RunRecord, error: BaseException) -> GaplessError:
    """Return what the run failed with, in terms that a client may see. The exception itself stays in this process."""
    if isinstance(only_one(error), GaplessError):
        error = only_one(error)
    others = isinstance(error, RunCancelled) and error.run_id not in (None, record.id)  # a run that the agent had asked
    if isinstance(error, GaplessError) and error.message and not others:
        error.run_id = error.run_id or record.id
        if error.told == error.message:
            return error
        log.error("run %s failed: %s", record.id, error.message)
        return type(error)(error.told, run_id=record.id)
    log_raised(log, record.id, f"agent {record.agent}", error)
    failure = AgentFailed(f"the agent raised {class_of(error)}{SEE_LOG}", run_id=record.id)
    failure.__cause__ = error
    return failure


def own_end(run_id: str, recorder: Recorder) -> GaplessError | None:
    """Return how the agent said that it failed or was cancelled, where it said so itself."""
    own = recorder.failure
    if own is not None:
        try:
            own, _ = sound(own)
        except AgentInvalid as error:
            return error.with_traceback(None)
        return AgentFailed(own.message, run_id=run_id, code=own.code)
    outcome = None if recorder.finish is None else recorder.finish.outcome
    if isinstance(outcome, RunFinishedCancelledOutcome):
        return RunCancelled("the agent ended the run as cancelled", run_id=run_id)
    if isinstance(outcome, RunFinishedInterruptOutcome):
        return AgentInvalid("the agent ended the run with an interrupt; use `await ctx.interrupt(…)`", run_id=run_id)
    return None


def unanswered(run_id: str) -> AnswerTimeout:
    """Make the error of a run whose question nobody has answered in time."""
    return AnswerTimeout("nobody answered in time what the run had asked; ask again", run_id=run_id)


def finished(
    record: RunRecord,
    outcome: RunFinishedSuccessOutcome | RunFinishedInterruptOutcome | RunFinishedCancelledOutcome,
) -> RunFinishedEvent:
    """Make the RUN_FINISHED of a run."""
    return RunFinishedEvent(thread_id=record.session_id, run_id=record.id, outcome=outcome, timestamp=now_ms())


def ending(
    record: RunRecord, recorder: Recorder, failure: GaplessError | None, ctx: RunContext | None
) -> tuple[GaplessError | None, bytes, RunEnd]:
    """Return what the run ends with, the terminal event and what is recorded with it, both read back. `ctx` has what
    the agent left, if its turn had come: a state over the limit is a failure. Raises for what cannot be written as
    JSON."""
    fold, own, state_bytes_max = recorder.fold, recorder.finish, recorder.limits.state_bytes_max
    state, native = (ctx.state or None, ctx.native) if ctx is not None else (None, None)
    if isinstance(fold.state, dict):
        state = fold.state
    if state and (size := len(_encode(state))) > state_bytes_max:
        state, own = None, None
        failure = failure or RunLimit(
            f"the agent leaves a state of {size} bytes, over state_bytes_max={state_bytes_max}; the session keeps the "
            "one that it had",
            run_id=record.id,
        )
    counted = _counted(ctx.usage) if ctx is not None else []
    usage = (_sum_usage(ctx.usage) if ctx is not None else None) or (own.usage if own is not None else None)
    terminal: Event
    if failure is None:
        terminal = finished(record, RunFinishedSuccessOutcome())
        if own is not None:
            terminal.outcome, terminal.result = own.outcome or terminal.outcome, own.result
        if ctx is not None and ctx.result is not None:
            terminal.result = ctx.result
        terminal.usage = usage
    elif isinstance(failure, RunCancelled):
        terminal = finished(record, RunFinishedCancelledOutcome())
        terminal.usage = usage
    else:
        terminal = RunErrorEvent(message=failure.message, code=failure.code, usage=usage, timestamp=now_ms())
    _, event = sound(terminal)
    end = end_of(record, fold, failure, native=native, state=state)
    end.usage = counted or _counted(usage or [], requests=0) or None
    return failure, event, _decode_end(_encode(end))


def leave_state(recorder: Recorder, state: dict[str, Any], before: bytes) -> None:
    """Record the state that the agent has left, where it is another than `before` (JSON) and the agent has not told."""
    if _encode(state) != before:
        told = recorder.fold.state
        if told is None or _encode(told) == before:
            recorder.leave_state(state)


def lost(record: RunRecord, recorder: Recorder, failure: GaplessError) -> tuple[bytes, RunEnd]:
    """Return the terminal event, and what is recorded with it, of a run that no agent is called for any more."""
    if record.last_seq == 0:
        recorder.start(now_ms())
    recorder.end(failure)
    terminal: Event = RunErrorEvent(message=failure.message, code=failure.code, timestamp=now_ms())
    if isinstance(failure, RunCancelled):
        terminal = finished(record, RunFinishedCancelledOutcome())
    return encode_event(terminal), end_of(record, recorder.fold, failure)


def end_of(
    record: RunRecord,
    fold: Fold,
    failure: GaplessError | None,
    *,
    native: bytes | None = None,
    state: dict[str, Any] | None = None,
) -> RunEnd:
    """Return what is recorded with a run's terminal event: its status and the session's turn, what was shown marked as
    interrupted where the run was cut short.

    The turn of a run that ended before it began is empty: no agent has seen its message, and it may end before the
    run does that it waited for."""
    error = None if failure is None else {"code": failure.code, "message": failure.message}
    status = RunStatus.FINISHED
    if failure is not None:
        status = RunStatus.CANCELLED if isinstance(failure, RunCancelled) else RunStatus.FAILED
    metadata = {"run_id": record.id}
    user = record.input or UserMessage(id=f"{record.id}-user", content=record.message)
    user = msgspec.structs.replace(user, metadata={**(user.metadata or {}), **metadata})
    answer = fold.messages(metadata=metadata, interrupted=error)
    if failure is not None and status is RunStatus.FAILED:
        marked = mark_left_out(user, failure, answered=bool(fold.messages()))
        if marked is not user:
            user, native = marked, None  # the framework's own form has what failed the turn
    asked = [] if is_live(record.config) and not user.content else [user]
    results = [msgspec.structs.replace(one, metadata=metadata) for one in results_of(user)]
    messages = [*asked, *results, *answer]
    if record.status is RunStatus.QUEUED:
        messages = []
    turn = Turn(run_id=record.id, messages=msgspec.Raw(msgspec.json.encode(messages)), native=native)
    return RunEnd(status=status, ended_at=now_ms(), turn=turn, error=error, state=state)


def _counted(usage: list[TokenUsage], requests: int = 1) -> list[ModelUsage]:
    """Return what each model took; each of the `usage` is of so many requests."""
    total: dict[tuple[str | None, str | None], ModelUsage] = {}
    for one in usage:
        known = total.setdefault((one.provider, one.model), ModelUsage(provider=one.provider, model=one.model))
        known.requests += requests
        for field in _TOKENS:
            setattr(known, field, getattr(known, field) + (getattr(one, field) or 0))
    return list(total.values())


def _sum_usage(usage: list[TokenUsage]) -> list[TokenUsage] | None:
    """Return one entry per provider and model."""
    total: dict[tuple[str | None, str | None], TokenUsage] = {}
    for one in usage:
        key = (one.provider, one.model)
        known = total.get(key)
        if known is None:
            total[key] = msgspec.structs.replace(one)
            continue
        for field in one.__struct_fields__:
            value = getattr(one, field)
            if isinstance(value, int):
                setattr(known, field, (getattr(known, field) or 0) + value)
    return list(total.values()) or None


def log_end(log: logging.Logger, record: RunRecord, outcome: str, events: int) -> None:
    """Say in one line how a run ended, whose it was, how long it took and what it used."""
    if not log.isEnabledFor(logging.INFO):
        return
    usage = record.usage or []
    log.info(
        "run %s: %s after %d events; agent %r, user %r, %.1f s, %d tokens in, %d out",
        *(record.id, outcome, events, record.agent, record.user_id),
        (now_ms() - (record.started_at or record.created_at)) / 1000,
        *(sum(one.input_tokens for one in usage), sum(one.output_tokens for one in usage)),
    )


def label_of(outcome: str, failure: GaplessError | None) -> str:
    """Return what a run's end is counted as. An agent may choose any code; as a label each would be a series for
    ever."""
    return outcome if failure is None or is_code(outcome) else "agent_error"
