"""Every error that Gapless raises for its users: one class, one stable `code` and one HTTP status each.

The code is the same on every surface: the Python exception, the HTTP answer's `error.code`, the `code` of a run's
RUN_ERROR event, the command line's message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar, cast

__all__ = [
    "AgentFailed",
    "AgentInvalid",
    "AgentNotFound",
    "AnswerTimeout",
    "BatchConflict",
    "CheckpointUnreadable",
    "ConnectionLost",
    "CursorExpired",
    "CursorInvalid",
    "ExtraMissing",
    "GaplessError",
    "InputInvalid",
    "InputTooLarge",
    "LimitReached",
    "ModelFailed",
    "ModelMissing",
    "NotAuthenticated",
    "NotAuthorized",
    "NoticeNotFound",
    "OutcomeUnknown",
    "OutputInvalid",
    "PushUnavailable",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunFenced",
    "RunLimit",
    "RunNotFound",
    "RunTimeout",
    "RunWaits",
    "SessionBusy",
    "SessionExists",
    "SessionNotFound",
    "ShuttingDown",
    "StoreCorrupt",
    "StoreUnavailable",
    "StreamInvalid",
    "StreamingUnavailable",
    "ToolFailed",
    "UsageError",
    "WorkerLost",
    "as_raised",
    "error_for_code",
    "is_code",
    "run_failure",
]


_ErrorT = TypeVar("_ErrorT", bound="GaplessError")


class GaplessError(Exception):
    """Says what happened, to which run, and what to do.

    `message` is for people; `code` is stable and machine-readable; `status` is the HTTP status of an answer that
    carries the error before its first byte; `run_id` names the run, where there is one; `retry_after_s` is set where
    trying again later helps.
    """

    code = "internal_error"
    status = 500
    message: str = ""  # a subclass of somebody's may leave out this class's `__init__`
    run_id: str | None = None
    retry_after_s: float | None = None
    text: str = ""
    """Where the error ended a run: the answer's text until then."""

    def __init__(
        self, message: str, *, run_id: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.run_id = run_id
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    @property
    def told(self) -> str:
        """Returns the message as clients read it: without what is the operator's, such as a store's address."""
        return self.message


class UsageError(GaplessError):
    """The program was called wrongly: a bad option, agent reference or store URL."""

    code = "usage"
    status = 400


class InputInvalid(GaplessError):
    """The request's content is not what the route takes."""

    code = "input_invalid"
    status = 422


class InputTooLarge(GaplessError):
    """The request's body or message is over its limit."""

    code = "input_too_large"
    status = 413


class NotAuthenticated(GaplessError):
    """No key came, or one that is not known."""

    code = "not_authenticated"
    status = 401


class NotAuthorized(GaplessError):
    """The caller is known and may not do this."""

    code = "not_authorized"
    status = 403


class AgentNotFound(GaplessError):
    """No agent is registered or importable under that name."""

    code = "agent_not_found"
    status = 404


class AgentInvalid(GaplessError):
    """The object is not something that Gapless can run as an agent, or it yielded something that is no event."""

    code = "agent_invalid"


class ExtraMissing(GaplessError):
    """An optional dependency is not installed."""

    code = "extra_missing"


class ModelMissing(GaplessError):
    """No model weights were found."""

    code = "model_missing"


class ModelFailed(GaplessError):
    """The model could not be loaded or its endpoint failed."""

    code = "model_failed"
    status = 502


class StreamingUnavailable(ModelFailed):
    """The model cannot stream, and `RunConfig(fallback=False)` forbids to run it blocking."""

    code = "streaming_unavailable"


class RunNotFound(GaplessError):
    """No run has that id, or the caller may not know of it."""

    code = "run_not_found"
    status = 404


class NoticeNotFound(GaplessError):
    """The run has no such notice, or none any more."""

    code = "notice_not_found"
    status = 404


class PushUnavailable(GaplessError):
    """The server has no key with which it could tell browsers of runs."""

    code = "push_unavailable"
    status = 404


class BlobNotFound(GaplessError):
    """The run has no such blob, or none any more."""

    code = "blob_not_found"
    status = 404


class RunConflict(GaplessError):
    """The run id is taken by a run with another message, session or agent."""

    code = "run_conflict"
    status = 409


class BatchConflict(GaplessError):
    """The batch is out of turn: the one before it was not taken of the run's producers, and it would leave a hole."""

    code = "batch_conflict"
    status = 409


class RunWaits(GaplessError):
    """The run waits for a person's answer, and the route has no other way to say so."""

    code = "run_waits"
    status = 409


class SessionNotFound(GaplessError):
    """No session has that id, or the caller may not know of it."""

    code = "session_not_found"
    status = 404


class SessionBusy(GaplessError):
    """The session has a run that has not ended, and `on_busy` is "reject"."""

    code = "session_busy"
    status = 409


class SessionExists(GaplessError):
    """A session with that id is there already, and the route creates each only once (as ADK's server does)."""

    code = "session_exists"
    status = 409


class CursorInvalid(GaplessError):
    """The cursor is malformed, belongs to another run, or lies beyond what the run has written."""

    code = "cursor_invalid"
    status = 400


class CursorExpired(GaplessError):
    """The run is known, but its events are past their retention."""

    code = "cursor_expired"
    status = 410


class LimitReached(GaplessError):
    """There are too many runs or followers at once; try again after `retry_after_s`."""

    code = "limit_reached"
    status = 429


class ShuttingDown(GaplessError):
    """This worker takes no new runs because it is stopping; another one will."""

    code = "shutting_down"
    status = 503


_OF_A_STORE = "store "
"""What each message of a store's about itself begins with, before its address."""


class StoreUnavailable(GaplessError):
    """The store cannot be reached or written (disk full, read-only, connection lost)."""

    code = "store_unavailable"
    status = 503

    @property
    def told(self) -> str:
        generic = "the store of runs takes or gives nothing at the moment; try again later (the server's log says why)"
        return generic if self.message.startswith(_OF_A_STORE) else self.message


class StoreCorrupt(GaplessError):
    """The store's file is damaged or not a store of Gapless."""

    code = "store_corrupt"
    status = 500

    @property
    def told(self) -> str:
        generic = "what the store keeps of this cannot be read; the server's log says why"
        return generic if self.message.startswith(_OF_A_STORE) else self.message


class ConnectionLost(GaplessError):
    """The server cannot be reached, or its stream brought nothing new in too many connections. The run goes on."""

    code = "connection_lost"
    status = 502


class StreamInvalid(GaplessError):
    """What a server sent is not an answer or event stream of Gapless."""

    code = "stream_invalid"
    status = 502


class RunFenced(GaplessError):
    """This worker lost its lease on the run: another one has closed it or taken it over."""

    code = "run_fenced"
    status = 409


class RunFailed(GaplessError):
    """A run ended without success. Its subclasses say how, and where the code is that of another class, such as
    `ModelFailed`, it is one of those too."""

    code = "run_failed"


class AgentFailed(RunFailed):
    """The agent raised, or said that it failed, with a code of its own if it has one; it has the code of what the agent
    met where that was an error about another run. The original exception is the cause where it happened in this
    process.
    """

    code = "agent_failed"


class ToolFailed(RunFailed):
    """A tool raised and the agent did not recover."""

    code = "tool_failed"


class OutputInvalid(RunFailed):
    """The final output does not have the type that was asked for."""

    code = "output_invalid"


class RunTimeout(RunFailed):
    """The run passed `timeout`, `first_event_timeout` or `idle_timeout`."""

    code = "run_timeout"
    status = 504


class AnswerTimeout(RunTimeout):
    """Nobody answered what the run asked a person within `answer_timeout`."""

    code = "answer_timeout"


class RunCancelled(RunFailed):
    """The run was cancelled."""

    code = "run_cancelled"


class RunLimit(RunFailed):
    """The run passed one of its limits: journal length, event size or model calls."""

    code = "run_limit"


class CheckpointUnreadable(RunFailed):
    """The run's worker is gone, and this one cannot read where the agent stood, such as after an upgrade."""

    code = "checkpoint_unreadable"


class OutcomeUnknown(RunFailed):
    """A step that may not be repeated was under way when the run's worker was lost: look whether it took effect."""

    code = "outcome_unknown"


class WorkerLost(RunFailed):
    """The worker that ran it died or lost its lease; the run was closed by another."""

    code = "worker_lost"


def _classes(base: type[_ErrorT]) -> list[type[_ErrorT]]:
    return [base, *(c for sub in base.__subclasses__() for c in _classes(sub))]


_BY_CODE = {cls.code: cls for cls in reversed(_classes(GaplessError))}


def _of_run(cls: type[GaplessError]) -> type[RunFailed]:
    """Make the class of a run that failed with an error of this one: caught as either. It is kept as `OfRun` there,
    where unpickling finds it."""
    members: dict[str, Any] = {
        "__module__": __name__,
        "__qualname__": f"{cls.__qualname__}.OfRun",
        "__doc__": cls.__doc__,
    }
    both = cast(type[RunFailed], type(cls.__name__, (cls, RunFailed), members))
    setattr(cls, "OfRun", both)  # noqa: B010  # a name that type checkers are not told of
    return both


_OF_RUNS = {cls.code: cls for cls in reversed(_classes(RunFailed))} | {
    cls.code: _of_run(cls)
    for cls in (
        AgentInvalid,
        ExtraMissing,
        InputInvalid,
        InputTooLarge,
        LimitReached,
        ModelFailed,
        ModelMissing,
        ShuttingDown,
        StoreCorrupt,
        StoreUnavailable,
        StreamingUnavailable,
        UsageError,
    )
}
"""By their codes, the classes of what ends a run. All others are about a request: an agent that fails with one has made
that request of another run or server, and its own caller has not."""


def is_code(code: str) -> bool:
    """Return whether a class here has that `code`."""
    return code in _BY_CODE


def error_for_code(code: str | None, message: str, *, run_id: str | None = None) -> GaplessError:
    """Return the typed error for a `code` that came over a wire or out of a journal, with `message` and `run_id`;
    `RunFailed` for a code not known here.
    """
    cls = _BY_CODE.get(code or "", RunFailed)
    return cls(message, run_id=run_id, code=code)


def run_failure(code: str | None, message: str, *, run_id: str | None = None, text: str = "") -> RunFailed:
    """Return what a run failed with, by the `code` and `message` of its RUN_ERROR: a `RunFailed`, which is of the
    code's own class too where that says something of this run, such as `ModelFailed`; `AgentFailed` for any other
    code. `run_id` names the run, `text` is what it had said."""
    cls = _OF_RUNS.get(code or RunFailed.code, AgentFailed)
    error = cls(message, run_id=run_id, code=code)
    error.text = text
    return error


@contextlib.contextmanager
def as_raised() -> Iterator[None]:
    """Raise what a run's agent itself raised, where that is at hand, in place of the error that says so: what a program
    catches that runs the agent without a server."""
    try:
        yield
        return
    except GaplessError as error:
        raised = error.__cause__
        if raised is None or (isinstance(raised, GaplessError) and raised.code != error.code):
            raise
    raise raised  # out here: it has a context of its own
