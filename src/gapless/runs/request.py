"""What is asked of a runner: checked, named, and told from what was asked before."""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import msgspec

from gapless.agents.base import Agent
from gapless.config import Limits, RunConfig, StreamingMode
from gapless.errors import InputInvalid, InputTooLarge, RunConflict, UsageError
from gapless.events import Context, Message, ResumeEntry, Tool, UserMessage, text_of
from gapless.given import as_json, check_given, shown, structs_given
from gapless.jsontext import without_surrogates
from gapless.live import is_live
from gapless.notify import NotifyConfig, Webhook
from gapless.producing import PRODUCER
from gapless.records import NOT_IN_TITLES, RunRecord, RunRequest, check_state, now_ms
from gapless.user_message import user_message

__all__ = [
    "ANONYMOUS",
    "AskOptions",
    "Asked",
    "StartOptions",
    "answers_of",
    "check_chars",
    "check_id",
    "check_user",
    "is_id",
    "is_of_its_own",
    "new_id",
    "request_given",
    "session_id_of",
    "title_given",
]

ID_CHARS_MAX = 96
"""With the position after it, an id stays within the 128 bytes that every SSE client remembers."""
IDS_KNOWN_MAX = 256
"""Runs without a session of which it is remembered what their sessions are called: it is asked again a moment later."""
USER_CHARS_MAX = 256
"""Of a user's id."""
TITLE_CHARS_MAX = 200
"""Of a title that somebody gives a session."""
ANONYMOUS = "anonymous"
"""Whose runs and sessions are where nobody says whose."""

log = logging.getLogger("gapless.runner")
_warned: set[tuple[str, str]] = set()
"""Agents whose operator knows what keeps their runs from going on."""

_ID = re.compile(rf"(?!\.{{1,2}}\Z)[A-Za-z0-9._~@:+=-]{{1,{ID_CHARS_MAX}}}")
"""Not `.` or `..`: clients take these out of a path (RFC 3986, section 5.2.4), and `/runs/../cancel` is `/cancel`."""


_UNWRITABLE = (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError)
"""What encoding raises for what JSON cannot carry."""


class AskOptions(TypedDict, total=False):
    """What `Runner.run` takes beside the message, the agent and the session: see `run_async`."""

    run_config: RunConfig | None
    new_message: object
    session_id: str | None
    user_id: str
    run_id: str | None
    deps: Any


class StartOptions(TypedDict, total=False):
    """What `Runner.run_stream` takes beside the message and the output's type: see `start`."""

    agent: object
    session_id: str | None
    run_id: str | None
    user_id: str
    config: RunConfig | None
    deps: Any
    messages: list[Message] | None
    state: dict[str, Any] | None
    tools: list[Tool] | None
    context: list[Context] | None
    forwarded_props: Any


class Asked(msgspec.Struct, kw_only=True):
    """What one run is asked, and of which agent. `run_id` and `session_id` are what the caller named."""

    agent_name: str
    agent: Agent
    user_id: str
    message: UserMessage
    config: RunConfig
    request: RunRequest
    run_id: str | None = None
    session_id: str | None = None
    deps: Any = None
    output_type: Any = None
    notify: Webhook | None = None
    digest: str = ""

    @classmethod
    def of(
        cls, message: object, *, default: RunConfig, config: RunConfig | None, fingerprint: object, **more: Any
    ) -> Asked:
        """Read what `Runner.start` was given. `default` is the runner's own config; a request is told from another
        under the same id by what it asks beside that, since the next process may have another default.

        Raises `InputInvalid` for a message that is none."""
        config = _own_config(config) or default
        asked = UserMessage(id="", content="") if is_live(config) and not message else user_message(message)
        one = cls(message=asked, config=config, **more)
        request, changed = one.request, {} if config is default else _changes(config, default)
        told_by, told = (request.messages, "messages") if fingerprint is None else (fingerprint, "fingerprint")
        parts = [one.agent_name, one.user_id, one.session_id, asked.content, changed, told_by, request.tools]
        if one.notify is not None:
            parts.append(one.notify.url)
        try:
            one.digest = _digest(*parts)
        except _UNWRITABLE:
            for name, value in (("message", asked.content), (told, told_by), ("tools", request.tools)):
                as_json(name, value)  # which says what is wrong with it
            raise
        return one

    def check(self, limits: Limits, notify: NotifyConfig) -> None:
        """Raises `InputTooLarge`, `InputInvalid`, `UsageError` for what cannot be asked of this agent in this way."""
        check_chars(self.message.content, limits)
        check_state(self.request.state, limits.state_bytes_max, "the request")
        live, restarts = is_live(self.config), self.config.on_worker_lost == "restart"
        if live and not self.agent.live:
            name = self.agent_name
            raise InputInvalid(
                f"agent {name} cannot be spoken to while it speaks: streaming_mode is sse or none for it"
            )
        if live and restarts:
            raise InputInvalid('a live run cannot be restarted, for nobody says it all again: on_worker_lost is "fail"')
        if restarts and self.deps is not None:
            raise UsageError('deps= live in this process; a run with on_worker_lost="restart" cannot have them')
        if self.notify is not None:
            notify.check(self.notify)
        check_user(self.user_id)
        if self.run_id is not None:
            check_id(self.run_id, "run")

    def _when_lost(self, others: bool) -> Literal["continue", "restart", "fail"]:
        """What becomes of the run if its worker is lost. Whoever takes it over need not have its agent to know.
        `others`: there may be another worker, and the store keeps what that one needs."""
        wanted = self.config.on_worker_lost
        if wanted != "continue" and self.agent_name != PRODUCER:  # what producers were told is kept stays so
            return wanted
        if not others or self.agent.continues == "no" or is_live(self.config):
            return "fail"
        for name, value in (("deps", self.deps), ("output_type", self.output_type)):
            if value is not None:
                if (self.agent_name, name) not in _warned:
                    _warned.add((self.agent_name, name))
                    log.warning(
                        "agent %s: a run that is started with %s= ends if this worker is lost, for these live in this "
                        "process; give them to the agent's adapter",
                        self.agent_name,
                        name,
                    )
                return "fail"
        return "restart" if self.agent.continues == "anew" else "continue"

    def record(self, *, others: bool = False) -> RunRecord:
        """Name what the caller has not named, and return the record that the run begins with. `others`: there may be
        other workers, and the store keeps what these need."""
        run_id = self.run_id or new_id()
        config, when_lost = self.config, self._when_lost(others)
        if config.on_worker_lost != when_lost:
            config = copy.copy(config)  # and not `replace`, which would check again what has been checked
            msgspec.structs.force_setattr(config, "on_worker_lost", when_lost)
        if not self.message.id:
            self.message.id = f"{run_id}-user"
        return RunRecord(
            id=run_id,
            session_id=self.session_id or _session_for(run_id, self.user_id),
            user_id=self.user_id,
            agent=self.agent_name,
            message=text_of(self.message.content),
            created_at=now_ms(),
            digest=self.digest,
            input=self.message,
            config=config,
            request=None if when_lost == "fail" else self.request,
            notify=self.notify,
        )

    def keep_request(self, record: RunRecord, *, others: bool) -> None:
        """Keep with a run that may have to wait for its turn what another worker needs to begin it. Not where something
        that it is started with lives in this process. `others` as in `record`."""
        if others and self.deps is None and self.output_type is None and not is_live(self.config):
            record.request = self.request

    def come_back(self, known: RunRecord) -> RunRecord:
        """Return the run that has the id already, if it was asked the same. Raises `RunConflict`."""
        if known.user_id != self.user_id or known.digest != self.digest:
            raise RunConflict(
                f"run {known.id} exists with another message, session or agent; choose a new run id", run_id=known.id
            )
        return known


def request_given(
    messages: object, state: object, tools: object, context: object, forwarded_props: object
) -> RunRequest:
    """Read what `Runner.start` was given beside the message. Raises `InputInvalid` for what cannot be that."""
    check_given("state", state, dict | None, "a dict", InputInvalid)
    kept: Any = as_json("state", state) if state else state
    told = structs_given("context", context, Context)
    as_json("context", told)
    return RunRequest(
        messages=structs_given("messages", messages, Message),
        state=kept,
        tools=structs_given("tools", tools, Tool),
        context=told,
        forwarded_props=as_json("forwarded_props", forwarded_props),
    )


def _changes(config: RunConfig, default: RunConfig) -> dict[str, Any]:
    fields = msgspec.structs.asdict(config)
    return {name: value for name, value in fields.items() if value != getattr(default, name)}


def _own_config(config: Any) -> RunConfig | None:
    """Return a config that may be ADK's. Raises `UsageError` for anything else."""
    if config is None or isinstance(config, RunConfig):
        return config
    mode = getattr(config, "streaming_mode", None)
    if not hasattr(config, "streaming_mode"):
        raise UsageError(f"config is a gapless.RunConfig, or ADK's, not {type(config).__name__}")
    mode = StreamingMode(getattr(mode, "value", mode) or "none")
    modalities = getattr(config, "response_modalities", None)
    told: dict[str, Any] = (
        {} if modalities is None else {"response_modalities": [str(getattr(m, "value", m)) for m in modalities]}
    )
    calls = getattr(config, "max_llm_calls", None)
    return RunConfig(streaming_mode=mode, max_llm_calls=calls if calls and calls > 0 else None, **told)


def new_id() -> str:
    """Return a fresh id: 20 characters, roughly ordered by time."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)[:9]}"


def session_id_of(session: object, session_id: str | None) -> str | None:
    """Return the id of the session that a caller names by it, or as an object with one."""
    return session_id or (session if isinstance(session, str) else getattr(session, "id", None))


def is_of_its_own(record: RunRecord) -> bool:
    """Tell whether a run was given no session: the one that was made for it is new, and this run's alone."""
    return record.session_id == _session_for(record.id, record.user_id)


def is_id(value: str) -> bool:
    """Return whether this can be the id of a run or a session."""
    return _ID.fullmatch(value) is not None


def check_id(value: object, kind: str) -> None:
    """Raises `InputInvalid` for what cannot be the id of a `kind`."""
    if not isinstance(value, str):
        its = "; give its id" if hasattr(value, "id") else ""
        raise InputInvalid(f"{kind} id: text, not {shown(value)}{its}")
    if not is_id(value):
        raise InputInvalid(f"{kind} id: 1 to {ID_CHARS_MAX} of the characters A-Z a-z 0-9 . _ ~ @ : + = -; not . or ..")


def check_user(user_id: object) -> None:
    """Raises `InputInvalid` for what cannot be a user's id: its record could not be written, or read again."""
    if not isinstance(user_id, str):
        raise InputInvalid(f"user_id is a text, not {user_id!r:.100} ({type(user_id).__name__}): write str(…)")
    if not 0 < len(user_id) <= USER_CHARS_MAX or not user_id.isprintable():
        raise InputInvalid(f"user_id {user_id!r:.100}: 1 to {USER_CHARS_MAX} characters that can be printed")


def answers_of(entries: Iterable[object], run_id: str) -> list[ResumeEntry]:
    """Return the answers to a run's questions: `ResumeEntry`s, or objects with the keys that they have over HTTP.

    Raises `InputInvalid` for what is none."""
    if isinstance(entries, str | bytes | Mapping) or not isinstance(entries, Iterable):
        raise InputInvalid(
            f"run {run_id}: answers are a list of ResumeEntry, not {shown(entries)}",
            run_id=run_id,
        )
    answers: list[ResumeEntry] = []
    for entry in entries:
        if not isinstance(entry, ResumeEntry):
            try:
                entry = msgspec.convert(entry, ResumeEntry)
            except msgspec.ValidationError as error:
                raise InputInvalid(f"run {run_id}: the answer {shown(entry)} is none: {error}", run_id=run_id) from None
        if entry.status not in ("resolved", "cancelled"):
            what = f"status is 'resolved' or 'cancelled', not {shown(entry.status)}"
            raise InputInvalid(f"run {run_id}: the answer to {shown(entry.interrupt_id)}: {what}", run_id=run_id)
        answers.append(entry)
    return answers


def check_chars(content: Any, limits: Limits, run_id: str | None = None) -> None:
    """Raises `InputTooLarge` for a message that is over the limit."""
    if len(text_of(content)) > limits.message_chars_max:
        raise InputTooLarge(
            f"the message is over message_chars_max={limits.message_chars_max} characters", run_id=run_id
        )


def title_given(title: object) -> str:
    """Return a session's title as it is kept, without blanks around it. Raises `InputInvalid` for what is none."""
    check_given("title", title, str, "a text", InputInvalid)
    kept = str(without_surrogates(title)).strip()
    if len(kept) > TITLE_CHARS_MAX:
        raise InputInvalid(f"title: at most {TITLE_CHARS_MAX} characters, not {len(kept)}")
    if NOT_IN_TITLES.search(kept):
        raise InputInvalid("title: one line, without control characters")
    return kept


@functools.lru_cache(IDS_KNOWN_MAX)
def _session_for(run_id: str, user_id: str) -> str:
    """Return the session of a run that was given none: the same on every worker that is asked for the run at the same
    time.
    """
    return _digest("session", user_id, run_id)


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
