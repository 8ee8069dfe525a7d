"""The model of an ADK agent for one request, with what it says heard on its way to ADK.

ADK asks the invocation's agent for the model after the plugins' callbacks. So the invocation is given a copy of its
agent with the model in it, which gives the agent back when it is called: nothing of the user's is changed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from google.adk.agents import InvocationContext, LlmAgent
from google.adk.agents._streaming_mode import StreamingMode
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.planners import BuiltInPlanner
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.genai import types
from opentelemetry import _logs
from pydantic import PrivateAttr

from gapless.agents.adk_hearing import Hearing

__all__ = ["tap", "watched_by"]

_OURS = ("gapless", "gapless_ledger")
_STEPS = (
    *("run", "run_async", "_run_async_impl", "_run_impl", "run_node_impl"),
    *("_llm_flow", "canonical_model", "canonical_model_async"),
)
"""What an agent or a node does with its model and with events, and a class of the user's may do otherwise."""


def tap(invocation: InvocationContext, runner: Runner, hearing: Hearing) -> None:
    """Let what the model says to the next request of this invocation of the `runner` be heard, where it is streamed and
    nobody else may look at it."""
    config, agent = invocation.run_config, invocation.agent
    if config is None or config.streaming_mode != StreamingMode.SSE or config.support_cfc:
        return
    if hearing.note(watched_by(invocation, runner)):
        assert isinstance(agent, LlmAgent), "nobody watches one of these alone"
        heard = _Heard(model=agent.canonical_model.model)
        heard.serve(invocation, agent, hearing)
        invocation.agent = agent.model_copy(update={"model": heard})


def watched_by(invocation: InvocationContext, runner: Runner) -> str:
    """Return who may look at each event of the invocation's model while it speaks; "" for nobody."""
    if _has_own(type(runner), ("run_async",)):
        return "the code of the runner"
    for plugin in invocation.plugin_manager.plugins:
        if plugin.name not in _OURS and not (
            _inherits(plugin.on_event_callback, BasePlugin.on_event_callback)
            and _inherits(plugin.after_model_callback, BasePlugin.after_model_callback)
        ):
            return f"the plugin {plugin.name}"
    agent = invocation.agent
    if not isinstance(agent, LlmAgent):
        return f"a {type(agent).__name__}"
    if agent.after_model_callback:
        return f"the after_model_callback of {agent.name}"
    if agent.planner is not None and not isinstance(agent.planner, BuiltInPlanner):
        return f"the planner of {agent.name}"
    around = list(_all_of(runner.agent))
    for one in (agent, *around):
        if _has_own(type(one), _STEPS):
            return f"the code of {one.name}"
    if not any(one.name == agent.name for one in around):
        return f"what has called {agent.name}"
    return "the log of OpenTelemetry" if _is_logged() else ""


def _inherits(method: Any, of: Any) -> bool:
    return getattr(method, "__func__", None) is of


def _all_of(root: Any) -> Iterator[Any]:
    """Yield the runner's agent, and the agents and nodes that it is made of."""
    known: set[int] = set()
    left = [root]
    while left:
        one = left.pop()
        if id(one) not in known:
            known.add(id(one))
            yield one
            left += getattr(one, "sub_agents", None) or []
            left += getattr(getattr(one, "graph", None), "nodes", None) or []


def _has_own(kind: type, methods: Iterable[str]) -> bool:
    """Return whether a class has one of these of its own, and not ADK's."""
    owners = (next((one for one in kind.__mro__ if method in one.__dict__), None) for method in methods)
    return any(owner is not None and not owner.__module__.startswith("google.adk.") for owner in owners)


def _is_logged() -> bool:
    """Return whether each delta is logged: ADK tells OpenTelemetry's logs of each, and its newest traces."""
    provider = type(_logs.get_logger_provider()).__module__
    newest = "gen_ai_latest_experimental" in os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "")
    return newest or not provider.startswith("opentelemetry._logs")


class _Heard(BaseLlm):
    """Is an agent's model to ADK for one request, and gives the agent back to its invocation when it is called."""

    _model: BaseLlm = PrivateAttr()
    _agent: LlmAgent = PrivateAttr()
    _invocation: InvocationContext = PrivateAttr()
    _hearing: Hearing = PrivateAttr()

    def serve(self, invocation: InvocationContext, agent: LlmAgent, hearing: Hearing) -> None:
        self._invocation, self._hearing = invocation, hearing
        before = agent.model  # of this kind where a callback has answered in its place
        self._agent = before._agent if isinstance(before, _Heard) else agent
        self._model = self._agent.canonical_model

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self._invocation.agent = self._agent
        hearing, told, content = self._hearing, None, None
        try:
            async with aclosing(self._model.generate_content_async(llm_request, stream=stream)) as responses:
                async for response in responses:
                    part = _speech(response)
                    if part is not None and told is not None and await hearing.hear(told, part):
                        continue
                    hearing.forget(content)
                    content = response.content
                    told = hearing.expect(content)
                    yield response
        finally:
            hearing.forget(content)


def _speech(response: LlmResponse) -> types.Part | None:
    """Return the only part of a response that says nothing but a piece of text or of a thought."""
    if not response.partial or response.content is None or response.finish_reason or response.usage_metadata:
        return None
    parts = response.content.parts or ()
    if len(parts) != 1 or not parts[0].text or (parts[0].thought and parts[0].thought_signature):
        return None
    return parts[0]
