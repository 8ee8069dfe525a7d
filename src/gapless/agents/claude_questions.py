"""What Claude Code asks before it calls a tool, and what it is told: by whom the call is made, or that it is not.

Two ways of the SDK's. A hook before each call puts off those that a person is to see and those of the client's own
tools: the CLI then ends, and goes on in another process once there is an answer, be it days later. `can_use_tool` is
asked for what the CLI's own rules leave open: the CLI waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

from claude_agent_sdk import (
    HookMatcher,
    McpSdkServerConfig,
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    SdkMcpTool,
    ToolPermissionContext,
    create_sdk_mcp_server,
)

from gapless.agents.approving import Decision, approval
from gapless.events import Interrupt, Tool

__all__ = ["CLIENT", "Asked", "Gatekeeper", "client_server", "denial", "question"]

CLIENT = "client"
"""The name of the server that has the client's own tools."""
NOT_ALLOWED = "The user does not want this call to be made."

NOT_THERE = "The user's own tools are not there for you."


class Asked(NamedTuple):
    """Is one call that waits for a yes: its `id`, `name` and `arguments`, and what the CLI says of it (`title`)."""

    id: str
    name: str
    arguments: dict[str, Any]
    title: str | None
    answer: asyncio.Future[Decision]


class Gatekeeper:
    """Says before each call of one run what becomes of it. `approve` names tools whose calls a person is to see,
    `clients` those of the client; `answers` are the decisions on calls that were put off. `kept` waits until the steps
    before a call are, `leaving` says whether the run is to be left after one."""

    def __init__(
        self,
        approve: Collection[str],
        clients: Collection[str],
        asked: asyncio.Queue[Any],
        kept: Callable[[str], Awaitable[None]],
        leaving: Callable[[], bool],
    ) -> None:
        self.answers: dict[str, Decision] = {}
        self.put_off: dict[str, tuple[str, Any]] = {}
        """Calls that were put off: the tool's name and the arguments."""
        self.stopped = False
        """The CLI was told to end its work here."""
        self._leaving = leaving
        self._returned: set[str] = set()
        self._approve = {*approve}
        self._clients = {*clients}
        self._asked = asked
        self._kept = kept
        self._heard: dict[str, asyncio.Event] = {}
        self._together: dict[str, list[tuple[str, str]]] = {}
        """The calls of an answer, ids and names, by the id of each."""

    def heard(self, calls: list[tuple[str, str]]) -> None:
        """Take the calls of an answer that is complete, ids and names: now it is known what was asked for at once."""
        for id, _ in calls:
            self._together[id] = calls
            self._heard.setdefault(id, asyncio.Event()).set()

    def is_clients(self, name: str) -> bool:
        """Return whether `name` is a tool of the client."""
        return name.startswith(f"mcp__{CLIENT}__") and name in self._clients

    def _is_to_see(self, name: str) -> bool:
        return name in self._approve or name.split("__", 2)[-1] in self._approve

    async def before(self, given: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """Decide, as a hook of the SDK's (`PreToolUse`)."""
        id, name = given["tool_use_id"], given["tool_name"]
        if (decision := self.answers.get(id)) is not None:
            return _decided(decision)
        if not given.get("agent_id"):
            await self._kept(id)
        if not (self.is_clients(name) or self._is_to_see(name)):
            return {}
        if given.get("agent_id"):  # the CLI can't put off what another agent calls
            return _said("deny", NOT_THERE) if self.is_clients(name) else _said("ask")
        await self._heard.setdefault(id, asyncio.Event()).wait()
        others = [one for at, one in self._together[id] if at != id]
        if self.is_clients(name) or not any(self.is_clients(one) or self._is_to_see(one) for one in others):
            return _said("defer")
        return _said("ask")  # of several calls, the CLI goes on with one alone

    async def after(self, given: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """End the CLI's work before it asks the model again, where all calls of an answer have returned and the worker
        leaves the run (`PostToolUse`, `PostToolUseFailure`)."""
        id = given["tool_use_id"]
        if given.get("agent_id"):
            return {}
        self._returned.add(id)
        if not self._leaving():
            return {}
        await self._heard.setdefault(id, asyncio.Event()).wait()
        if not self._returned.issuperset(one for one, _ in self._together[id]):
            return {}
        self.stopped = True
        return {"continue_": False}

    def wrapped(self, hook: Any) -> Any:
        """Return a user's own hook, which is not asked about a call that was decided since."""

        async def asked(given: Any, tool_use_id: str | None, context: Any) -> Any:
            return {} if given.get("tool_use_id") in self.answers else await hook(given, tool_use_id, context)

        return asked

    def hooks(self, own: dict[Any, list[HookMatcher]] | None) -> dict[Any, list[HookMatcher]]:
        """Return a user's `own` hooks with this one."""
        found = dict(own or {})
        before = [
            HookMatcher(one.matcher, [self.wrapped(hook) for hook in one.hooks], one.timeout, one.on_failure)
            for one in found.get("PreToolUse", ())
        ]
        # What is not decided is not done: a call that should be seen is never made because this failed.
        hook: Any = self.before
        found["PreToolUse"] = [*before, HookMatcher(hooks=[hook], on_failure="block")]
        then: Any = self.after
        for event in ("PostToolUse", "PostToolUseFailure"):
            found[event] = [*found.get(event, ()), HookMatcher(hooks=[then])]
        return found

    async def can_use_tool(self, name: str, given: dict[str, Any], context: ToolPermissionContext) -> PermissionResult:
        """Ask a person about a call that the CLI's rules leave open."""
        answer = asyncio.get_running_loop().create_future()
        await self._asked.put(Asked(context.tool_use_id or "", name, given, context.title, answer))
        decision = await answer
        if decision.approved:
            return PermissionResultAllow(updated_input=given if decision.arguments is None else decision.arguments)
        return PermissionResultDeny(message=decision.reason or NOT_ALLOWED)


def question(id: str, name: str, arguments: Any, title: str | None = None) -> Interrupt:
    """Make the question about one call."""
    return approval(id, id, name, arguments, message=title)


def denial(decision: Decision) -> str:
    """Return what the model is told of a no."""
    return decision.reason or NOT_ALLOWED


def client_server(tools: Collection[Tool]) -> McpSdkServerConfig:
    """Make the server of the client's own `tools`. None is ever called: its calls are put off, and the client brings
    the results."""

    async def left(arguments: Any) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": "The client has not answered."}], "is_error": True}

    made = [
        SdkMcpTool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.parameters or {"type": "object", "properties": {}},
            handler=left,
        )
        for tool in tools
    ]
    return create_sdk_mcp_server(CLIENT, tools=made)


def _said(decision: str, reason: str | None = None, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    told = {"permissionDecisionReason": reason} if reason else {}
    given = {} if arguments is None else {"updatedInput": arguments}
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": decision, **told, **given}}


def _decided(decision: Decision) -> dict[str, Any]:
    if not decision.approved:
        return _said("deny", denial(decision))
    return _said("allow", arguments=decision.arguments)
