"""Agents of the Claude Agent SDK: every token, call, agent at work and question, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import warnings
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from claude_agent_sdk import (
    CanUseToolShadowedWarning,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    SystemMessage,
    delete_session,
)

from gapless.agents import base
from gapless.agents.approving import Decision, ask, read_decision
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.claude_events import Translation, is_idle, rest_of
from gapless.agents.claude_questions import CLIENT, Asked, Gatekeeper, client_server, question
from gapless.agents.claude_transcript import (
    Transcript,
    blocks_of,
    decode_kept,
    encode_kept,
    history_of,
    turn_of,
)
from gapless.agents.failing import Failures, failure, raise_as, refused
from gapless.agents.writing import finish
from gapless.config import StreamingMode
from gapless.errors import AgentFailed, AgentInvalid, CheckpointUnreadable, InputInvalid, OutputInvalid, RunLimit
from gapless.events import CustomEvent, RunFinishedEvent, RunFinishedSuccessOutcome

__all__ = ["ClaudeAgent"]

# It warns of tools that are allowed without a question, wherever there is somebody to ask; here there always is.
warnings.filterwarnings("ignore", category=CanUseToolShadowedWarning)

INTERRUPT_S_MAX = 3.0
"""What the CLI may take to stop the model before its process is ended."""
KEPT_S_MAX = 5.0
"""What a call waits at most until the steps before it are saved."""
KEPT_HERE = ("resume", "continue_conversation", "session_id", "fork_session", "resume_session_at", "session_store")
"""Options that say where a conversation is kept: that is the session's matter."""
ENV = {
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"  # it says when nothing more comes, not even from the background
}
GO_ON = {"CLAUDE_CODE_RESUME_INTERRUPTED_TURN": "1"}
"""Has the CLI go on from a transcript that ends with results, without a message."""
SETTINGS = ("model", "max_tokens", "max_output_tokens", "max_completion_tokens", "reasoning_effort", "response_format")
EFFORTS = ("low", "medium", "high", "xhigh", "max")

_FAILURES: Failures = {
    "claude_agent_sdk.CLINotFoundError": lambda error, run_id: AgentInvalid(
        "Claude Code's command line was not found: pip install 'gapless[claude]', or set cli_path", run_id=run_id
    ),
    "claude_agent_sdk.ProcessError": lambda error, run_id: AgentFailed(
        f"Claude Code's process ended (exit code {error.exit_code})", run_id=run_id
    ),
    "claude_agent_sdk.ClaudeSDKError": lambda error, run_id: AgentFailed(
        f"Claude Code's process could not be asked ({type(error).__name__})", run_id=run_id
    ),
}
_SERVICE = {"authentication_failed": 401, "billing_error": 403, "rate_limit": 429, "invalid_request": 400}
"""What the CLI calls the failures of the model's service."""


class ClaudeAgent(base.Agent):
    """Adapts `options`, which are all that an agent of this SDK is, under `name`.

    Calls of the tools named in `approve` want a person's yes, however long that takes; so do those that a hook of the
    options puts off. What the permission rules leave open is asked too, unless the options have a `can_use_tool` of
    their own; for that answer the process of the CLI waits.

    The conversation is kept with the session and given to the CLI for each run, in a process of its own. What a client
    sends is given as it is written: no `/command` and no `@file` of it is expanded. Tools of servers in this process
    are shown by their own names. Takes from `RunConfig`: `streaming_mode`, `max_llm_calls` (as `max_turns`), and of
    `model_settings` the model, the bound on tokens, `reasoning_effort` and `response_format`. A call of a tool that the
    client brought along ends the run, and the client's next run brings the result. Its runs go on at another worker
    after the last answer of the model whose calls have all returned.

    Raises `ModelFailed`, `OutputInvalid`, `RunLimit`, `AgentInvalid`, `AgentFailed`, `CheckpointUnreadable`.
    """

    continues = "from_checkpoint"
    framework = f"claude-agent-sdk {importlib.metadata.version('claude-agent-sdk').rpartition('.')[0]}"

    def __init__(self, options: ClaudeAgentOptions, *, name: str = "claude", approve: Collection[str] = ()) -> None:
        if not isinstance(options, ClaudeAgentOptions):
            raise AgentInvalid(f"a {type(options).__name__} is not the options of an agent of the Claude Agent SDK")
        if isinstance(approve, str):
            raise AgentInvalid("approve takes several names: approve=['pay']")
        if taken := [one for one in KEPT_HERE if getattr(options, one)]:
            raise AgentInvalid(f"leave {', '.join(taken)} out of the options: the conversation is the session's")
        if isinstance(options.mcp_servers, dict) and CLIENT in options.mcp_servers:
            raise AgentInvalid(f"call the server {CLIENT!r} something else: the client's own tools are there")
        self.name = name
        self._options = options
        self._approve = frozenset(approve)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        try:
            items: Any = _Session(ctx, self._options, self._approve).run()
            async with aclosing(items):
                async for item in items:
                    yield item
        except Exception as error:
            raise_as(failure(error, ctx.run_id, (), _FAILURES), error)


class _Session:
    """Is one run: its transcript, what is said of it, and one process of the CLI after another."""

    def __init__(self, ctx: RunContext, options: ClaudeAgentOptions, approve: Collection[str]) -> None:
        self._ctx = ctx
        self._given = options
        kept = self._restored()
        history = history_of(ctx)
        self._instructions = history.instructions
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._transcript = Transcript(
            history.entries, kept.get("entries", ()), grown=lambda: self._queue.put_nowait(None)
        )
        self._earlier = len(self._transcript.own)
        self._saved = self._earlier
        clients = [f"mcp__{CLIENT}__{tool.name}" for tool in ctx.tools]
        self._gate = Gatekeeper(approve, clients, self._queue, self._kept, self._leaving)
        self._moved = asyncio.Event()
        """It has heard more, or saved."""
        self._kept_calls: set[str] = set()
        self._gate.put_off = {id: (name, given) for id, name, given in kept.get("put_off", ())}
        streams = ctx.config.streaming_mode is not StreamingMode.NONE
        self._says = Translation(ctx, streams=streams, shown=self._shown)
        self._says.denied.update(kept.get("denied", ()))
        self._names: dict[str, str] = {}
        self._ended: ResultMessage | None = None
        self._cost: float | None = kept.get("cost")

    def _restored(self) -> dict[str, Any]:
        if self._ctx.checkpoint is None:
            return {}
        kept = decode_kept(self._ctx.checkpoint)
        if kept is None:
            raise CheckpointUnreadable(
                f"run {self._ctx.run_id}: where its agent stood cannot be read; ask again", run_id=self._ctx.run_id
            )
        return kept

    async def run(self) -> AsyncIterator[AgentItem]:
        """Yield what is recorded, to the end."""
        settings, notices = _configured(self._given, self._ctx)
        for notice in notices:
            yield notice
        while True:
            if self._gate.put_off:
                await self._ask_for_what_was_put_off()
            items: Any = self._process(settings)
            async with aclosing(items):
                async for item in items:
                    yield item
            if self._gate.stopped:
                self._gate.stopped = False
                await self._save()  # here the run is left
            elif not self._gate.put_off or self._pending():
                break
        for item in self._finish():
            yield item

    # -- one process of the CLI ---------------------------------------------------------------------------------------

    async def _process(self, settings: dict[str, Any]) -> AsyncIterator[AgentItem]:
        self._ended, counted = None, len(self._ctx.usage)
        goes_on = bool(self._transcript.own) or not self._ctx.content
        if goes_on and not self._transcript.is_unanswered:
            raise InputInvalid("there is no message, and no result that was waited for", run_id=self._ctx.run_id)
        client = ClaudeSDKClient(self._options(settings, goes_on))
        async with _connected(client, self._transcript.session_id, self._given.cwd) as process:
            if not goes_on:
                await client.query(_message(self._ctx.content))
            reading = asyncio.create_task(self._read(client))
            waits: list[Asked] = []
            try:
                while True:
                    got = await self._queue.get()
                    if isinstance(got, BaseException):
                        raise got
                    if got is None:
                        await self._save()
                    elif isinstance(got, Asked):
                        waits.append(got)
                    else:
                        for item in self._heard(got):
                            yield item
                        if self._is_over(got):
                            break
                    self._moved.set()
                    if waits and not self._says.speaking and all(one.id in self._says.called for one in waits):
                        await self._ask(waits)
                        waits = []
                process.is_over = True
            finally:
                reading.cancel()
                await asyncio.wait({reading})
        if self._ended is not None:
            for usage in rest_of(self._ended, self._ctx.usage[counted:]):
                self._ctx.add_usage(usage)
            if self._ended.total_cost_usd is not None:
                self._cost = (self._cost or 0.0) + self._ended.total_cost_usd
            self._check(self._ended)

    def _options(self, settings: dict[str, Any], goes_on: bool) -> ClaudeAgentOptions:
        given, id = self._given, self._transcript.begin()
        servers = given.mcp_servers
        if self._ctx.tools:
            if not isinstance(servers, dict):
                raise AgentInvalid("the client's own tools need mcp_servers that are a dict, or none")
            servers = {**servers, CLIENT: client_server(self._ctx.tools)}
        changed: dict[str, Any] = {
            **_instructed(given, self._instructions),
            **settings,
            "session_id" if self._transcript.is_empty else "resume": id,
            "session_store": self._transcript,
            "session_store_flush": "eager",
            "mcp_servers": servers,
            "hooks": self._gate.hooks(given.hooks),
            "include_partial_messages": True,
            "forward_subagent_text": True,
            "verbatim_prompts": True,
            "env": {**given.env, **ENV, **settings.get("env", {}), **(GO_ON if goes_on else {})},
        }
        if given.can_use_tool is None and given.permission_prompt_tool_name is None:
            changed["can_use_tool"] = self._gate.can_use_tool
        return dataclasses.replace(given, **changed)

    async def _read(self, client: ClaudeSDKClient) -> None:
        try:
            async for message in client.receive_messages():
                self._queue.put_nowait(message)
            self._queue.put_nowait(
                AgentFailed("Claude Code's process ended before its answer", run_id=self._ctx.run_id)
            )
        except Exception as error:
            self._queue.put_nowait(error)

    def _heard(self, message: Message) -> list[AgentItem]:
        if isinstance(message, SystemMessage) and message.subtype == "init":
            self._names = _names_of(message.data.get("tools") or (), self._given)
        if isinstance(message, ResultMessage):
            self._ended = message
            if (put_off := message.deferred_tool_use) is not None:
                self._gate.put_off.setdefault(put_off.id, (put_off.name, put_off.input))
        items = self._says.items(message)
        while self._says.fresh:
            self._complete(self._says.complete[self._says.fresh.pop()])
        return items

    def _complete(self, calls: Collection[str]) -> None:
        """Say what becomes of the calls of an answer that is complete."""
        named = [(id, self._says.called.get(id, ("", {}))[0]) for id in calls]
        for id, name in named:
            if self._gate.is_clients(name):
                self._gate.put_off[id] = self._says.called[id]
                self._says.left.add(id)
        self._gate.heard(named)

    def _is_over(self, message: Message) -> bool:
        """Return whether nothing more comes. An agent in the background may answer after the result, and have the CLI
        ask the model again."""
        return self._ended is not None and is_idle(message) is True

    def _shown(self, name: str) -> str:
        return self._names.get(name, name)

    def _pending(self) -> list[str]:
        """Return the calls that are left to the client."""
        return [id for id in self._gate.put_off if id in self._says.left]

    # -- where it stands ----------------------------------------------------------------------------------------------

    async def _save(self, count: int | None = None) -> None:
        """Save after an answer whose calls have all returned. What works in the background would be lost with the
        worker: then the run goes on from before it began."""
        if not self._ctx.continues or (self._says.backgrounded and count is None):
            return
        step = self._transcript.step(self._says.complete, self._earlier) if count is None else count
        if step <= self._saved and count is None:
            return
        self._saved = step
        answers, calls = self._transcript.said(step)
        half = self._says.half(answers, calls)
        is_busy = count is None and bool(self._says.outstanding)
        await self._ctx.save(self._encoded(step), half=half, leave=not is_busy)
        self._kept_calls = calls

    def _leaving(self) -> bool:
        return self._ctx.leaving and not self._says.backgrounded

    async def _kept(self, call_id: str) -> None:
        """Wait until the steps before this call are saved: the transcript comes some 0.1 s after what it tells of, and
        what was done in that time would be done again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEPT_S_MAX):
                while self._ctx.continues and not self._says.backgrounded:
                    answer = self._says.answer_of.get(call_id)
                    others = {id for id in self._says.returned if self._says.answer_of.get(id) != answer}
                    if answer is not None and others <= self._kept_calls:
                        return
                    self._moved.clear()
                    await self._moved.wait()

    def _encoded(self, count: int) -> bytes:
        put_off = [] if self._pending() else [(id, *call) for id, call in self._gate.put_off.items()]
        entries = self._transcript.own[:count]
        return encode_kept(self._ctx.run_id, entries, put_off=put_off, denied=[*self._says.denied], cost=self._cost)

    # -- questions ----------------------------------------------------------------------------------------------------

    async def _ask_for_what_was_put_off(self) -> None:
        calls = self._gate.put_off
        questions = {id: question(id, self._shown(name), given) for id, (name, given) in calls.items()}
        answers = await ask(self._ctx, questions, read_decision, lambda: self._save(len(self._transcript.own)))
        self._gate.answers |= answers
        self._gate.put_off = {}
        self._deny(answers)

    async def _ask(self, waits: list[Asked]) -> None:
        questions = {one.id: question(one.id, self._shown(one.name), one.arguments, one.title) for one in waits}
        answers = await ask(self._ctx, questions, read_decision)
        self._deny(answers)
        for one in waits:
            if not one.answer.done():
                one.answer.set_result(answers[one.id])

    def _deny(self, answers: Mapping[str, Decision]) -> None:
        self._says.denied.update(id for id, decision in answers.items() if not decision.approved)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check(self, ended: ResultMessage) -> None:
        """Raise what the run failed with, where it did."""
        if not ended.is_error:
            return
        run_id = self._ctx.run_id
        if ended.api_error_status or self._says.failed:
            status = ended.api_error_status or _SERVICE.get(self._says.failed or "", 0)
            raise refused(unheard="refused")(SimpleNamespace(status_code=status), run_id)
        if ended.subtype in ("error_max_turns", "error_max_budget_usd"):
            what = "turns" if ended.subtype == "error_max_turns" else "dollars"
            raise RunLimit(f"the agent took more {what} than it may", run_id=run_id)
        if ended.subtype == "error_max_structured_output_retries":
            raise OutputInvalid("the model gave no valid output", run_id=run_id)
        raise AgentFailed(f"Claude Code gave up ({ended.terminal_reason or ended.subtype})", run_id=run_id)

    def _finish(self) -> list[AgentItem]:
        found = self._says.close()
        self._ctx.native = turn_of(self._ctx.run_id, self._transcript)
        ended, pending = self._ended, self._pending()
        if ended is not None and ended.structured_output is not None:
            self._ctx.result = ended.structured_output
        if self._cost is not None:
            found.append(CustomEvent(name="claude.cost", value={"usd": self._cost}))
        typed = ended is not None and ended.structured_output is not None
        found += finish("tool_calls" if pending else "stop" if typed else self._says.finish_reason)
        if pending:
            outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=pending)
            found.append(RunFinishedEvent(thread_id=self._ctx.session_id, run_id=self._ctx.run_id, outcome=outcome))
        return found


class _Process:
    is_over = False
    """The CLI has said that nothing more comes."""


@contextlib.asynccontextmanager
async def _connected(client: ClaudeSDKClient, session_id: str, cwd: Any) -> AsyncIterator[_Process]:
    """Start the CLI. Where it is left in the middle, the model's request and the tools end first: alone, the end of its
    process takes it seconds."""
    process = _Process()
    try:
        await client.connect()
        yield process
    finally:
        if not process.is_over:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(INTERRUPT_S_MAX):
                    await client.interrupt()
        await client.disconnect()
        with contextlib.suppress(FileNotFoundError, ValueError):  # what the CLI keeps of a session in its own folder
            delete_session(session_id, None if cwd is None else str(cwd))


async def _message(content: Any) -> AsyncIterator[dict[str, Any]]:
    told = content if isinstance(content, str) else blocks_of(content)
    yield {"type": "user", "message": {"role": "user", "content": told}, "parent_tool_use_id": None}


def _names_of(tools: Collection[str], options: ClaudeAgentOptions) -> dict[str, str]:
    """Return under which name the tools of servers in this process are shown: their own, where only one has it."""
    servers = options.mcp_servers if isinstance(options.mcp_servers, dict) else {}
    own = [CLIENT, *(name for name, one in servers.items() if one.get("type") == "sdk")]
    found = {
        tool: tool.removeprefix(f"mcp__{name}__") for tool in tools for name in own if tool.startswith(f"mcp__{name}__")
    }
    shown = [*found.values(), *(tool for tool in tools if tool not in found)]
    return {tool: name for tool, name in found.items() if shown.count(name) == 1 or tool.startswith(f"mcp__{CLIENT}__")}


def _instructed(options: ClaudeAgentOptions, more: Collection[str]) -> dict[str, Any]:
    """Return the options that give the model the instructions of a client, below the agent's own."""
    if not more:
        return {}
    told, given = "\n\n".join(more), options.system_prompt
    if given is None or isinstance(given, str):
        return {"system_prompt": f"{given}\n\n{told}" if given else told}
    if given["type"] == "preset":
        return {"system_prompt": {**given, "append": "\n\n".join(filter(None, (given.get("append"), told)))}}
    if given["type"] == "custom":
        return {"system_prompt": {**given, "prompt": f"{given['prompt']}\n\n{told}"}}
    return {"extra_args": {**options.extra_args, "append-system-prompt": told}}


def _configured(options: ClaudeAgentOptions, ctx: RunContext) -> tuple[dict[str, Any], list[AgentItem]]:
    """Return the options that a run's settings change, and what is told of those that it does not have."""
    settings = ctx.config.model_settings
    found: dict[str, Any] = {}
    ignored = sorted({*settings} - {*SETTINGS})
    if isinstance(settings.get("model"), str):
        found["model"] = settings["model"]
    bound = next((settings[key] for key in SETTINGS[1:4] if isinstance(settings.get(key), int)), None)
    if bound is not None:
        found["env"] = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(bound)}
    if (effort := settings.get("reasoning_effort")) is not None:
        if effort in EFFORTS:
            found["effort"] = effort
        else:
            ignored.append("reasoning_effort")
    if (wanted := settings.get("response_format")) is not None:
        schema = wanted.get("json_schema", wanted) if isinstance(wanted, dict) else None
        schema = schema.get("schema") if isinstance(schema, dict) else None
        if isinstance(schema, dict) and options.output_format is None:
            found["output_format"] = {"type": "json_schema", "schema": schema}
        else:
            ignored.append("response_format")
    if ctx.config.max_llm_calls is not None:
        found["max_turns"] = ctx.config.max_llm_calls
    if not ignored:
        return found, []
    message = f"this agent cannot do as these settings say: {', '.join(ignored)}"
    return found, [CustomEvent(name="gapless.notice", value={"code": "setting_ignored", "message": message})]
