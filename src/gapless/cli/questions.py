"""What a run asks a person, at the terminal: the question, and the answer in whatever form it is wanted."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import typer

from gapless.cli.terminal import one_line, say, say_error
from gapless.errors import UsageError
from gapless.events import Interrupt, ResumeEntry

__all__ = ["ask_person", "entry_of", "shown"]

QUESTION_CHARS_MAX = 500
_APPROVING = re.compile("tool_call|confirm|approv")
_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
_YES, _NO = {"y", "yes", "true"}, {"n", "no", "false"}


def ask_person(interrupt: Interrupt) -> ResumeEntry:
    """Return the answer to what a run asks, typed at the terminal. Cancelled where nobody is there."""
    if not sys.stdin.isatty():
        question = one_line(interrupt.message or interrupt.reason, QUESTION_CHARS_MAX)
        say(f"The agent asks: {question} Nobody is at the terminal: answered with no.", style="yellow")
        return ResumeEntry(interrupt_id=interrupt.id, status="cancelled")
    schema = interrupt.response_schema or {}
    if _is_approval(interrupt) and set(_fields(schema)) <= {"approved"}:
        approved = typer.confirm(shown(interrupt), default=False)
        return ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload={"approved": approved})
    fields = _fields(schema)
    if not _is_approval(interrupt) and fields:
        say(shown(interrupt))
        payload = {name: value for name in fields if (value := _ask_field(schema, name)) is not None}
        return ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload=payload)
    while True:
        text = typer.prompt(f"{shown(interrupt)} ({_how(interrupt)}; empty to decline)", default="", show_default=False)
        try:
            return entry_of(interrupt, text)
        except UsageError as error:
            say_error(error.message)


def shown(interrupt: Interrupt) -> str:
    """Return the question as one line, with the call that it is about."""
    question = one_line(interrupt.message or interrupt.reason, QUESTION_CHARS_MAX)
    metadata = interrupt.metadata or {}
    if (name := metadata.get("toolName")) is not None:
        arguments = msgspec.json.encode(metadata.get("arguments") or {}).decode()
        question += f" [{one_line(f'{name} {arguments}', QUESTION_CHARS_MAX)}]"
    return question


def entry_of(interrupt: Interrupt, text: str) -> ResumeEntry:
    """Return what is typed in one line as the answer: nothing declines; yes, no or JSON for an approval, a text or JSON
    for a form or an open question. Raises `UsageError` for what cannot be one."""
    text = text.strip()
    if not text:
        return ResumeEntry(interrupt_id=interrupt.id, status="cancelled")
    return ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload=_payload(interrupt, text))


def _payload(interrupt: Interrupt, text: str) -> Any:
    schema = interrupt.response_schema or {}
    if _is_approval(interrupt):
        if text.lower() in _YES | _NO:
            return {"approved": text.lower() in _YES}
        return _object(text, "y, n or JSON")
    fields = _fields(schema)
    if len(fields) == 1 and not text.startswith("{"):
        ((name, field),) = fields.items()
        return {name: _value(field, text)}
    if fields:
        return _object(text, f"JSON with {_listed(fields)}")
    return _value(schema, text)


def _is_approval(interrupt: Interrupt) -> bool:
    """Return whether it is answered with yes or no, as the chat page has it too."""
    kind, schema = (interrupt.metadata or {}).get("kind"), interrupt.response_schema
    if kind == "approval" or "approved" in _fields(schema or {}):
        return True
    return not schema and kind not in ("question", "external") and _APPROVING.match(interrupt.reason) is not None


def _fields(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the schemas of an object's fields by their names. One may be true for anything (JSON Schema, section
    4.3.2), and so is what is no schema: a question may be made by a tool's server that nobody here knows."""
    fields = schema.get("properties")
    if not isinstance(fields, dict):
        return {}
    return {str(name): field if isinstance(field, dict) else {} for name, field in fields.items()}


def _kind(schema: dict[str, Any]) -> str | None:
    """Return the type that a schema wants, the first but null of several; None for any, or one that there is not."""
    kind = schema.get("type")
    kinds = [one for one in kind if one != "null"] if isinstance(kind, list) else [kind]
    return kinds[0] if kinds and isinstance(kinds[0], str) else None


def _choices(schema: dict[str, Any]) -> list[Any] | None:
    choices = schema.get("enum")
    return choices if isinstance(choices, list) else None


def _listed(names: Iterable[Any]) -> str:
    return one_line(", ".join(map(str, names)), QUESTION_CHARS_MAX)


def _how(interrupt: Interrupt) -> str:
    fields = _fields(interrupt.response_schema or {})
    if _is_approval(interrupt):
        return f"y, n or JSON with {_listed(fields)}" if fields else "y, n or JSON"
    return "text or JSON"


def _object(text: str, wanted: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{text!r:.100} is no answer here: write {wanted}")
    return value


def _value(schema: dict[str, Any], text: str) -> Any:
    """Return a text as what its schema wants: itself where that is a text, or nothing is said. Raises `UsageError`."""
    kind = _kind(schema)
    if (choices := _choices(schema)) is not None:
        for choice in choices:
            if text in (choice, str(choice)):
                return choice
        raise UsageError(f"{text!r:.100} is none of {_listed(choices)}")
    if kind == "boolean" and text.lower() in _YES | _NO:
        return text.lower() in _YES
    if kind in (None, "string"):
        structured = text.startswith(("{", "["))
        return _decoded(text, text) if kind is None and structured else text
    value = _decoded(text, None)
    fits = _TYPES.get(kind or "", (object,))
    if not isinstance(value, fits) or isinstance(value, bool):
        raise UsageError(f"{text!r:.100} is no {kind}")
    return value


def _decoded(text: str, otherwise: Any) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return otherwise


def _ask_field(schema: dict[str, Any], name: str) -> Any:
    """Ask for one field of a form until it is one; None where it is left out."""
    field, wanted = _fields(schema)[name], schema.get("required")
    required, default = isinstance(wanted, list) and name in wanted, field.get("default")
    label = one_line(str(field.get("title") or field.get("description") or name), QUESTION_CHARS_MAX)
    choices = _choices(field)
    hints = [_kind(field) or "text" if choices is None else _listed(choices)]
    if default is not None:
        hints.append(f"{default} if empty")
    elif not required:
        hints.append("may be empty")
    while True:
        hint = one_line("; ".join(hints), QUESTION_CHARS_MAX)
        text = typer.prompt(f"{label} ({hint})", default="", show_default=False).strip()
        if not text and default is not None:
            return default
        if not text and not required:
            return None
        try:
            if text:
                return _value(field, text)
            say_error(f"{name} is wanted")
        except UsageError as error:
            say_error(error.message)
