"""Gapless's plugin of ADK's runners: settings and tools of a run on their way to the model, and errors noted."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from typing import Any, cast

from google.adk.agents import InvocationContext, LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from gapless.agents.adk_run import Turn, cannot_stream, current
from gapless.agents.adk_tap import tap
from gapless.agents.call_names import CallNames, call_names
from gapless.agents.client_tools import schema_of
from gapless.agents.tool_choice import Choice, choice_of
from gapless.attachments import digest_of, notice_for
from gapless.config import StreamingMode
from gapless.events import Tool

__all__ = ["AHEAD_EVENTS_MAX", "Bridge", "ClientTool"]

AHEAD_EVENTS_MAX = 64
"""How far a model's stream may run ahead of the journal; ADK's own queue has no bound."""
AHEAD_POLL_S = 0.005
"""How often a model that is held back looks again."""

log = logging.getLogger("gapless.adk")


class ClientTool(BaseTool):
    """A tool that the client offers and executes itself: the agent may call it, and its result comes later."""

    def __init__(self, tool: Tool) -> None:
        super().__init__(name=tool.name, description=tool.description, is_long_running=True)
        self._parameters = schema_of(tool)

    def _get_declaration(self) -> types.FunctionDeclaration:
        return types.FunctionDeclaration(
            name=self.name, description=self.description, parameters_json_schema=self._parameters
        )

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> None:
        """Nothing to run here: no result yet, and so nothing for the model, also where other tools ran beside it."""
        _invocation(tool_context).end_invocation = True


class Bridge(BasePlugin):
    """Applies a run's settings to its model calls, holds them back while the journal is behind, and notes errors."""

    NAME = "gapless"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)

    async def before_run_callback(self, *, invocation_context: InvocationContext) -> None:
        turn = current.get()
        if turn is not None and turn.is_of(invocation_context):
            turn.invocations[invocation_context.invocation_id] = None

    async def before_model_callback(self, *, callback_context: Any, llm_request: LlmRequest) -> None:
        turn = current.get()
        if turn is None or turn.live:  # then it is for a look at what was said, and comes too late for settings
            return
        if turn.left_out:
            llm_request.contents = [_told(content, turn.left_out) for content in llm_request.contents]
        if turn.is_of(_invocation(callback_context)):  # to an agent that a tool runs nobody could bring their results
            llm_request.append_tools([ClientTool(tool) for tool in turn.ctx.tools])
        for name, value in turn.ctx.config.model_settings.items():
            field = _SETTINGS.get(name, name)
            if name == "response_format":
                _ask_for_json(llm_request.config, value)
            elif field == "tool_choice":
                self._choose(turn, callback_context, llm_request, value)
            elif field == "model":
                llm_request.model = value
            elif field in types.GenerateContentConfig.model_fields:
                one_text = field == "stop_sequences" and isinstance(value, str)
                setattr(llm_request.config, field, [value] if one_text else value)
            else:
                turn.notice("setting_ignored", f"ADK's models take no setting {name!r}")
        if names := _call_names(_model_of(callback_context), llm_request):
            named = [_named(content, names) for content in llm_request.contents]
            llm_request.contents = [content for content in named if content.parts]
        if turn.runner is not None and turn.is_of(_invocation(callback_context)):
            tap(_invocation(callback_context), turn.runner, turn.hearing)

    def _choose(self, turn: Turn, callback_context: Any, llm_request: LlmRequest, value: Any) -> None:
        """Tell the model of a client's choice of tools; one that forces a call is for the run's first answer. Raises
        `InputInvalid` for tools that are not there."""
        if value == "auto" or not turn.is_of(_invocation(callback_context)):
            return  # an agent that a tool runs has tools of its own
        choice = None if value == "none" else choice_of(value)
        if choice is not None:
            choice.check(llm_request.tools_dict)
        calling = _calling(value, choice, _model_of(callback_context)) if llm_request.tools_dict else None
        if calling is None:
            turn.notice("setting_ignored", "this agent cannot do as these settings say: tool_choice")
        elif choice is None or not turn.chosen:
            turn.chosen = True
            before = llm_request.config.tool_config or types.ToolConfig()
            llm_request.config.tool_config = before.model_copy(update={"function_calling_config": calling})

    async def after_model_callback(self, *, callback_context: Any, llm_response: LlmResponse) -> None:
        turn, invocation = current.get(), _invocation(callback_context)
        if turn is not None:
            turn.model_error = None  # what there was of it the agent has overcome
            if not llm_response.partial and not turn.is_of(invocation):
                turn.translation.account(llm_response)  # no event of the run tells it
        queue = invocation._event_queue
        if queue is not None:
            # A look now and then, not an event: the queue may be one that an agent's tool reads, which tells nobody.
            while queue.qsize() > AHEAD_EVENTS_MAX:  # noqa: ASYNC110
                await asyncio.sleep(AHEAD_POLL_S)

    async def on_model_error_callback(
        self, *, callback_context: Any, llm_request: LlmRequest, error: Exception
    ) -> LlmResponse | None:
        turn = current.get()
        if turn is None:
            return None
        turn.model_error = error
        streaming = turn.ctx.config.streaming_mode is not StreamingMode.NONE
        if not (streaming and turn.ctx.config.fallback and cannot_stream(error)):
            return None
        model = _model_of(callback_context)
        last: LlmResponse | None = None
        try:
            async for response in model.generate_content_async(llm_request, stream=False):
                last = response
        except Exception as second:
            log.warning("run %s: its model failed without streaming too: %s", turn.ctx.run_id, type(second).__name__)
            return None
        turn.notice("streaming_unavailable", "the model cannot stream; its answer came in one piece")
        return last

    async def on_tool_error_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any, error: Exception
    ) -> None:
        turn = current.get()
        if turn is not None:
            turn.tool_error = tool.name, error


_SETTINGS = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "stop": "stop_sequences",
}
"""Names that other frameworks use for what Gemini's configuration calls otherwise."""


def _calling(value: Any, choice: Choice | None, model: BaseLlm) -> types.FunctionCallingConfig | None:
    """Return a choice of tools as Gemini's API has it, which names only tools of which one must be called. None for
    what it does not have, or ADK does not tell the service: Claude nothing, litellm no names."""
    classes = {one.__name__ for one in type(model).__mro__}
    if "AnthropicLlm" in classes or (choice is not None and choice.names is not None and "LiteLlm" in classes):
        return None
    if choice is None:
        return types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.NONE) if value == "none" else None
    if not choice.forced:
        return None
    return types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=choice.names)


def _told(content: types.Content, left_out: Mapping[str, str]) -> types.Content:
    """Return the content with a text in the place of each attachment that failed its turn."""
    parts = []
    for part in content.parts or []:
        blob, file = part.inline_data, part.file_data
        why = mime_type = None
        if blob is not None and blob.data:
            why, mime_type = left_out.get(digest_of(base64.b64encode(blob.data))), blob.mime_type
        elif file is not None and file.file_uri:
            why, mime_type = left_out.get(digest_of(file.file_uri)), file.mime_type
        parts.append(part if why is None else types.Part(text=notice_for(mime_type, why)))
    return types.Content(role=content.role, parts=parts)


def _model_of(callback_context: Any) -> BaseLlm:
    return cast(LlmAgent, _invocation(callback_context).agent).canonical_model


def _call_names(model: BaseLlm, llm_request: LlmRequest) -> CallNames:
    """Return how calls are named for this model; as they are for those that take any."""
    classes = {one.__name__ for one in type(model).__mro__}
    if "AnthropicLlm" in classes:
        return call_names(["anthropic"])
    if "LiteLlm" not in classes:
        return call_names([])
    provider, slash, _ = (llm_request.model or model.model).partition("/")
    return call_names([provider if slash else "openai"])


def _named(content: types.Content, names: CallNames) -> types.Content:
    """Return the content with its calls and their responses under these names, and without blanks, which the same
    services refuse."""
    parts = []
    ids: set[tuple[str, str]] = set()
    for part in content.parts or []:
        if part.text is not None and not part.text.strip() and not part.thought and part.thought_signature is None:
            continue
        for field in ("function_call", "function_response"):
            one = getattr(part, field)
            if one is not None and one.id is not None:
                id = one.id
                while (field, id) in ids:
                    id += "_"
                ids.add((field, id))
                told = {"id": names.id(id), "name": names.tool(one.name or "")}
                part = part.model_copy(update={field: one.model_copy(update=told)})
        parts.append(part)
    return types.Content(role=content.role, parts=parts)


def _ask_for_json(config: types.GenerateContentConfig, response_format: Any) -> None:
    """Set what a client of OpenAI's API asks for, unless the agent has a schema of its own."""
    wanted = response_format if isinstance(response_format, dict) else {}
    if wanted.get("type") not in ("json_object", "json_schema") or config.response_schema is not None:
        return
    config.response_mime_type = "application/json"
    schema = wanted.get("json_schema")
    config.response_json_schema = schema.get("schema") if isinstance(schema, dict) else None


def _invocation(callback_context: Any) -> InvocationContext:
    return callback_context._invocation_context  # type: ignore[no-any-return]  # ADK has no public name for it
