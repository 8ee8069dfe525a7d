"""What type the output of a Pydantic AI agent is, of all the ways in which it can be said."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Union

from pydantic_ai.output import NativeOutput, PromptedOutput, TextOutput, ToolOutput
from pydantic_ai.tools import DeferredToolRequests

__all__ = ["declared_type"]


def declared_type(output: Any) -> Any:
    """Return the type that an agent's `output_type` amounts to; None for text."""
    found = dict.fromkeys(_types_of(output))
    return None if list(found) in ([], [str]) else Union[tuple(found)]  # of as many as there are


def _types_of(output: Any) -> list[Any]:
    if isinstance(output, list | tuple):
        return [one for several in output for one in _types_of(several)]
    if isinstance(output, ToolOutput):
        return _types_of(output.output)
    if isinstance(output, NativeOutput | PromptedOutput):
        return _types_of(output.outputs)
    if isinstance(output, TextOutput):
        return _types_of(output.output_function)
    if output is DeferredToolRequests:  # no output: a run ends with what is to be done elsewhere
        return []
    if inspect.isroutine(output):
        return [typing.get_type_hints(output).get("return", Any)]
    return [output]
