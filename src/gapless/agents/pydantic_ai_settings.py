"""What a run says of how its answer is made, in Pydantic AI's names: settings under the names of OpenAI's API, and the
choice of a tool, which the framework takes only for one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai import tools
from pydantic_ai.settings import ModelSettings, ToolOrOutput

from gapless.agents.tool_choice import Choice, choice_of

__all__ = ["ToolChoice", "settings_of"]

_RENAMED = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "verbosity": "openai_text_verbosity",
}
_UNKNOWN = frozenset({"min_p"})
"""Settings that clients may send and the framework has no name for."""
_EFFORTS = frozenset({"minimal", "low", "medium", "high", "xhigh", "max"})


class ToolChoice:
    """Tells the framework of a client's `choice` of tools, step by step.

    The framework refuses a choice that no answer could follow; the API that it comes from means one answer of the
    model by it: the first of the run.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self.ignored = False
        """There is no tool to choose."""

    def settings(self, ctx: tools.RunContext[Any]) -> ModelSettings:
        """Return the choice for the step at hand. Raises `InputInvalid` for tools that are not there."""
        known = {} if ctx.tool_manager is None else ctx.tool_manager.tools or {}
        names = [name for name, tool in known.items() if tool.tool_def.kind != "output"]
        chosen, forced = self._choice
        self._choice.check(known, told=names)
        if chosen is None and not names:
            self.ignored = True
            return ModelSettings()
        if forced and ctx.run_step <= 1:
            return ModelSettings(tool_choice="required" if chosen is None else chosen)
        if chosen is None or forced:
            return ModelSettings()
        return ModelSettings(tool_choice=ToolOrOutput(chosen))


def settings_of(settings: Mapping[str, Any]) -> tuple[dict[str, Any], ToolChoice | None, list[str]]:
    """Return `settings` in the framework's names, the choice of tools, and those that it cannot do."""
    found: dict[str, Any] = {}
    choice: ToolChoice | None = None
    ignored: list[str] = []
    for name, value in settings.items():
        if name == "stop":
            found.setdefault("stop_sequences", [value] if isinstance(value, str) else value)
        elif name == "reasoning_effort":
            found.setdefault("openai_reasoning_effort", value)
            if value == "none" or value in _EFFORTS:
                found.setdefault("thinking", False if value == "none" else value)
        elif name == "tool_choice":
            known, choice = _choice(value)
            if known is not None:
                found[name] = known
            elif choice is None:
                ignored.append(name)
        elif name in _RENAMED:
            found.setdefault(_RENAMED[name], value)
        elif name in _UNKNOWN:
            ignored.append(name)
        else:
            found[name] = value
    return found, choice, ignored


def _choice(value: Any) -> tuple[Any, ToolChoice | None]:
    """Return what goes to the framework as it is, or else the choice for one step; None twice: what it cannot do."""
    if value in ("auto", "none") or isinstance(value, list | ToolOrOutput):
        return value, None
    choice = choice_of(value)
    return None, None if choice is None else ToolChoice(choice)
