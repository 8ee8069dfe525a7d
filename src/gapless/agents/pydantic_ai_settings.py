"""What a run says of how its answer is made, in Pydantic AI's names: settings under the names of OpenAI's API, and the
choice of a tool, which the framework takes only for one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai import tools
from pydantic_ai.settings import ModelSettings, ToolOrOutput

from gapless.errors import InputInvalid

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
    """Is a client's choice of tools: `names`, or all of them where None; one of them must be called if `forced`.

    The framework refuses a choice that no answer could follow; the API that it comes from means one answer of the
    model by it: the first of the run.
    """

    def __init__(self, names: list[str] | None, *, forced: bool) -> None:
        self.names = names
        self.forced = forced
        self.ignored = False
        """There is no tool to choose."""

    def settings(self, ctx: tools.RunContext[Any]) -> ModelSettings:
        """Return the choice for the step at hand. Raises `InputInvalid` for tools that are not there."""
        known = {} if ctx.tool_manager is None else ctx.tool_manager.tools or {}
        names = [name for name, tool in known.items() if tool.tool_def.kind != "output"]
        if self.names is not None and (missing := set(self.names) - set(known)):
            have = ", ".join(sorted(names)) or "none"
            raise InputInvalid(f"tool_choice: there is no tool {', '.join(sorted(missing))}; the agent has {have}")
        if self.names is None and not names:
            self.ignored = True
            return ModelSettings()
        if self.forced and ctx.run_step <= 1:
            return ModelSettings(tool_choice="required" if self.names is None else self.names)
        if self.names is None or self.forced:
            return ModelSettings()
        return ModelSettings(tool_choice=ToolOrOutput(self.names))


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
    if value in ("required", "any"):
        return None, ToolChoice(None, forced=True)
    if isinstance(value, str):
        return None, ToolChoice([value], forced=True)
    allowed = value.get("allowed_tools", value) if isinstance(value, dict) else {}
    several = allowed.get("tools") if isinstance(allowed, dict) else None
    names = [_name(tool) for tool in (several if isinstance(several, list) else [value])]
    if not names or None in names:
        return None, None
    forced = several is None or allowed.get("mode") == "required"
    return None, ToolChoice([name for name in names if name], forced=forced)


def _name(tool: Any) -> str | None:
    """Return the name of a function as OpenAI's APIs write it."""
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        return None
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None
