"""What a run may be told (`RunConfig`) and what bounds everything (`Limits`)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from types import UnionType
from typing import Any, Literal

import msgspec

from gapless.errors import InputInvalid
from gapless.given import check_given, check_numbers
from gapless.settings import CLIENT_SETTINGS, check_settings, joined

__all__ = ["ClientConfig", "ConnectionLimits", "Limits", "RunConfig", "StreamingMode"]

COALESCE_MS_MAX = 10_000
"""Live followers see nothing of a run for so long at most because of its `coalesce_ms`."""


class StreamingMode(enum.Enum):
    """Says how the agent's model is called.

    `SSE` streams, `NONE` (old spelling: `OFF`) asks for the whole answer at once, `BIDI` makes the run live: people go
    on speaking to it while it speaks (`Runner.run_live`), for agents that can be.
    """

    SSE = "sse"
    NONE = "none"
    BIDI = "bidi"
    OFF = "none"  # noqa: PIE796  # an alias of NONE on purpose: the spelling of older tutorials

    @classmethod
    def _missing_(cls, value: object) -> StreamingMode | None:
        return cls.NONE if isinstance(value, str) and value.lower() == "off" else None


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sets how one run is done. All durations are in seconds unless the name says otherwise; None means no bound.

    Raises `ValueError` for a value of another type, or a duration or count that is not positive.
    """

    streaming_mode: StreamingMode = StreamingMode.SSE
    """`SSE` streams the model; `NONE` runs it blocking (the journal and its followers work the same)."""
    response_modalities: list[str] | None = None
    """Passed to the agent as it is, e.g. `["TEXT"]`."""
    max_llm_calls: int | None = None
    """The most model calls one run may make; past it the run fails with `run_limit`."""
    timeout: float | None = 600.0
    """From the run's start to its end, time spent waiting for a person's answer not counted."""
    first_event_timeout: float | None = None
    """From the start to the agent's first event."""
    idle_timeout: float | None = None
    """Between two events of the agent."""
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    """When the session has a run that has not ended: refuse, wait for it, or cancel it and go on."""
    on_waiting: Literal["decline", "reject"] = "decline"
    """When a message comes while the session's run waits for a person: take it for a "no" to what was asked, let that
    run go on with it (its answers are `cancelled`) and ask the message after it; or refuse the message until somebody
    has answered. With `on_busy="interrupt"` the waiting run is cancelled."""
    on_disconnect: Literal["continue", "cancel"] = "continue"
    """When the last follower leaves: go on (a run outlives its connections), or cancel the run."""
    on_worker_lost: Literal["continue", "restart", "fail"] = "continue"
    """When the worker that executes the run dies or stops: let another worker that has the agent go on where it was
    saved last, run it again from the start (the stream then says that the text so far is void, and what the agent's
    tools did may be repeated), or close it as `worker_lost`. A run that cannot go on is closed: its record says
    `fail`. One that waits for its turn (`on_busy`) had not begun, and is begun by another worker whatever this says,
    unless it was started with `deps` or `output_type`, or is live."""
    answer_timeout: float | None = 604_800.0
    """From a question to a person (an interrupt) to its answer: 7 days. Past it the run fails with `answer_timeout`."""
    fallback: bool = True
    """Run a model that cannot stream blocking instead, and say so in an event; False makes it an error."""
    coalesce_ms: float | None = None
    """Deliver text at most this often to live followers, several deltas in one frame; at most `COALESCE_MS_MAX`. None:
    each as it comes."""
    public_url: str = ""
    """What the addresses of the run's blobs begin with, e.g. `https://agents.example.com` or the path under which the
    app is mounted. By default they are paths of the server that is asked."""
    model_settings: dict[str, Any] = {}
    """Generation settings, passed to the agent untouched: `temperature`, `max_tokens`, `model`, … Of these a request
    may set those that `Runner(client_settings=…)` allows."""

    def __post_init__(self) -> None:
        # A config is made several times for each run, and nearly all of it is as it was.
        for name, value, default in zip(self.__struct_fields__, _values(self), self.__struct_defaults__, strict=True):
            if value is not default:
                _check(name, value)
        # Python takes the names as well, as JSON does.
        msgspec.structs.force_setattr(self, "streaming_mode", StreamingMode(self.streaming_mode))

    def narrowed(
        self,
        asked: dict[str, Any],
        client_settings: Collection[str] = CLIENT_SETTINGS,
        client_config: ClientConfig | None = None,
    ) -> RunConfig:
        """Return this config with the fields that a client asks for in their place: its model settings join these, a
        bound it may only draw closer (tokens and effort too), and where there is a choice it has those that are left to
        it. Raises `InputInvalid`.

        Args:
            asked: The fields that the client has sent, by name.
            client_settings: The names in `model_settings` that a client may set.
            client_config: What the operator leaves to clients; None for the defaults of `ClientConfig`.
        """
        choices = client_config or ClientConfig()
        for name in asked.keys() & set(choices.__struct_fields__):
            wanted, free = asked[name], getattr(choices, name)
            if wanted != getattr(self, name) and wanted not in free:
                said = wanted.value if isinstance(wanted, enum.Enum) else wanted
                raise InputInvalid(f"config.{name}: {said!r} is the operator's to choose here, not a client's")
        for name in _BOUNDS & asked.keys():
            most, wanted = getattr(self, name), asked[name]
            if most is not None and (wanted is None or wanted > most):
                raise InputInvalid(f"config.{name}: at most {most:g} here, not {wanted!r}")
        if "model_settings" in asked:
            check_settings(asked["model_settings"], client_settings)
            asked = {**asked, "model_settings": joined(self.model_settings, asked["model_settings"])}
        try:
            return msgspec.structs.replace(self, **asked)
        except ValueError as error:
            raise InputInvalid(f"config: {error}") from None


_SECONDS = (int | float | None, "a number of seconds")
KINDS: dict[str, tuple[type | UnionType, str]] = {
    "timeout": _SECONDS,
    "first_event_timeout": _SECONDS,
    "idle_timeout": _SECONDS,
    "answer_timeout": _SECONDS,
    "max_llm_calls": (int | None, "a whole number"),
    "coalesce_ms": (int | float | None, "a number of milliseconds"),
    "fallback": (bool, "true or false"),
    "response_modalities": (list | tuple | None, "a list"),
    "public_url": (str, "text"),
    "model_settings": (dict | Mapping, "a dict"),  # a dict is told apart faster
}
"""What fields of a run's config are: in Python, and in words."""
_POSITIVE = ("timeout", "first_event_timeout", "idle_timeout", "max_llm_calls", "coalesce_ms", "answer_timeout")
_BOUNDS = frozenset({"max_llm_calls", "timeout", "first_event_timeout", "idle_timeout", "answer_timeout"})
CHOICES: dict[str, tuple[str, ...]] = {
    "on_busy": ("reject", "queue", "interrupt"),
    "on_waiting": ("decline", "reject"),
    "on_disconnect": ("continue", "cancel"),
    "on_worker_lost": ("continue", "restart", "fail"),
}
"""What may be chosen, of fields where that is one of a few names."""


_values: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*RunConfig.__struct_fields__)


def _check(name: str, value: Any) -> None:
    """Raise `ValueError` where a config's field `name` cannot be `value`."""
    if name in KINDS:
        check_given(name, value, *KINDS[name], ValueError)
    if name in _POSITIVE and value is not None and not value > 0:
        raise ValueError(f"{name} must be positive or None, not {value!r}")
    if name == "coalesce_ms" and value is not None and value > COALESCE_MS_MAX:
        raise ValueError(f"coalesce_ms must be at most {COALESCE_MS_MAX}, not {value!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}")


def _as_mode(value: Any) -> Any:
    """Return the mode where that is what a value says."""
    try:
        return StreamingMode(value)
    except ValueError:
        return value


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Says which values a client of the server may choose for its run, where the runner's `config` has another. What
    is not listed stays the operator's; a client that asks for it gets `input_invalid`.

    Raises `ValueError` for a value that there is not.
    """

    streaming_mode: frozenset[StreamingMode] = frozenset(StreamingMode)
    """By default all: streamed, whole or live."""
    on_busy: frozenset[str] = frozenset(("reject", "queue", "interrupt"))
    """By default all; `interrupt` reaches only runs of the client's own session."""
    on_waiting: frozenset[str] = frozenset()
    """By default neither: whether a message may stand for an answer."""
    on_disconnect: frozenset[str] = frozenset(("continue", "cancel"))
    """By default both."""
    on_worker_lost: frozenset[str] = frozenset(("fail",))
    """Not `restart`: a run that takes its process along would take `TAKEOVERS_MAX` others along too."""
    fallback: frozenset[bool] = frozenset((True, False))
    """By default both: whether a model that cannot stream may run blocking."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            values, choices = getattr(self, name), CHOICES.get(name, (True, False))
            if name == "streaming_mode":
                choices = tuple(StreamingMode)
            check_given(name, values, Collection, "a set of values", ValueError)
            values = [values] if isinstance(values, str) else list(values)
            if name == "streaming_mode":
                values = [_as_mode(value) for value in values]
            for value in values:
                if value not in choices:
                    known = ", ".join(str(one.value if isinstance(one, enum.Enum) else one) for one in choices)
                    raise ValueError(f"{name}: {value!r}; one of {known}")
            msgspec.structs.force_setattr(self, name, frozenset(values))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds one worker. Past a limit, new work gets an error with `Retry-After`; what runs is unharmed.

    Raises `ValueError` for what is no whole number from 1 on."""

    body_bytes_max: int = 4 * 1024 * 1024
    """An HTTP request's body."""
    message_chars_max: int = 1_000_000
    """A message's text, in characters."""
    event_bytes_max: int = 1024 * 1024
    """One event's JSON. A text delta over it is split, a file, a tool's result or a custom value is kept as a blob; any
    other event over it ends the run with `run_limit`."""
    journal_events_max: int = 1_000_000
    """Events in one run's journal."""
    journal_bytes_max: int = 256 * 1024 * 1024
    """Bytes in one run's journal."""
    runs_active_max: int = 5_000
    """Runs that this worker executes at once."""
    runs_active_per_user_max: int | None = None
    """Runs that one user may have active on this worker."""
    followers_per_run_max: int = 10_000
    """Followers of one run on this worker."""
    kept_bytes_max: int | None = None
    """Bytes of the events of all ended runs in the store, other workers' included; past it, the events of those that
    ended first are dropped, as when they are past their retention."""
    blob_bytes_max: int = 64 * 1024 * 1024
    """A file or a tool's result that is too large for an event and kept beside the journal, as a blob; a larger one is
    left out, with a notice. Blobs count as the journal's bytes."""
    state_bytes_max: int = 1024 * 1024
    """JSON of a session's state; a client that would set more is refused, and a run that would leave more behind ends
    with `run_limit`."""
    checkpoint_bytes_max: int = 4 * 1024 * 1024
    """What is kept of where a run stands; one that needs more goes on only at the worker that executes it."""
    history_messages_max: int = 10_000
    """Messages of a session's history that are given to an agent; the oldest are dropped first."""

    def __post_init__(self) -> None:
        check_numbers(self)


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds what a server takes before it knows who asks. Past one, a connection is answered and closed.

    Raises `ValueError` for what is no number above 0."""

    connections_max: int = 10_000
    """Connections of one process. `gapless serve` lowers it to what the process's descriptors leave room for."""
    connections_per_address_max: int = 500
    """Connections of one peer address; IPv6 addresses with the same first 64 bits are one. Proxies that uvicorn's
    `forwarded_allow_ips` names are not counted so."""
    head_bytes_max: int = 64 * 1024
    """A request's URL and headers; and what is in a body's frame, such as trailers, between two pieces of the body."""
    headers_max: int = 256
    """A request's headers."""
    head_s: int = 20
    """From the connection, or the first byte, to the end of a request's headers, in seconds."""
    body_s: int = 120
    """From there to the end of its body."""
    unread_s: int = 60
    """A client that takes nothing for so long of an answer that waits for it is cut off. Streams wait."""

    def __post_init__(self) -> None:
        check_numbers(self)
