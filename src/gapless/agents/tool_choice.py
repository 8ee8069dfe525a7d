"""A client's choice of tools (`tool_choice`), in whatever form of OpenAI's APIs it comes. For adapters.

A choice that forces a call is for one answer of the model, the first of the run: forced again after each call, an agent
would never come to its end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from gapless.errors import InputInvalid

__all__ = ["Choice", "choice_of"]


class Choice(NamedTuple):
    """Chooses tools by their `names`, or all of them where None; one of them must be called if `forced`."""

    names: list[str] | None
    forced: bool

    def check(self, known: Collection[str], told: Iterable[str] | None = None) -> None:
        """Raises `InputInvalid` for names that are not among the `known`; `told` are those that it says there are."""
        if self.names is not None and (missing := set(self.names) - {*known}):
            have = ", ".join(sorted(known if told is None else told)) or "none"
            raise InputInvalid(f"tool_choice: there is no tool {', '.join(sorted(missing))}; the agent has {have}")


def choice_of(value: Any) -> Choice | None:
    """Read a choice that is neither "auto" nor "none"; None for one that is of no form."""
    if value in ("required", "any"):
        return Choice(None, forced=True)
    if isinstance(value, str):
        return Choice([value], forced=True)
    allowed = value.get("allowed_tools", value) if isinstance(value, dict) else {}
    several = allowed.get("tools") if isinstance(allowed, dict) else None
    names = [_name(tool) for tool in (several if isinstance(several, list) else [value])]
    if not names or None in names:
        return None
    return Choice([name for name in names if name], forced=several is None or allowed.get("mode") == "required")


def _name(tool: Any) -> str | None:
    """Return the name of a function as OpenAI's APIs write it."""
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        return None
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None
