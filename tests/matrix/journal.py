"""What the journal holds of a client's runs, and how it compares with what the client made of its streams."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import httpx2
import msgspec

from gapless.client.sync import SyncClient
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    Event,
    ReasoningMessage,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    ToolMessage,
)
from gapless.fold import FILE, Fold

_LINK = re.compile(r"(?:\n\n)?!\[(?P<type>[\w/]+)\]\(<(?P<url>[^>]+)>\)")
"""A file, on wires that carry text."""


class Held(msgspec.Struct):
    """What was journaled, over all runs of a case."""

    text: str = ""
    """Each message as it is, with nothing between."""
    one_text: str = ""
    """With a blank line between two messages of a run."""
    reasoning: str = ""
    calls: list[dict[str, Any]] = []
    files: list[tuple[str, bytes]] = []
    questions: int = 0
    outcome: str = ""


def held(client: SyncClient, url: str, runs: Sequence[str]) -> Held:
    """Fold the runs."""
    found = Held()
    for run in dict.fromkeys(runs):
        add(found, url, (event for _, event in client.follow(run)))
    return found


def add(found: Held, url: str, events: Iterable[Event]) -> None:
    """Add a run's events."""
    fold = Fold()
    for event in events:
        fold.add(event)
        if isinstance(event, CustomEvent) and event.name == FILE:
            found.files.append((event.value["mimeType"], _bytes_of(url, event.value)))
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            found.questions += len(event.outcome.interrupts)
    _take(found, fold)


def _take(found: Held, fold: Fold) -> None:
    messages = fold.messages()
    results = {one.tool_call_id: one for one in messages if isinstance(one, ToolMessage)}
    for message in messages:
        if isinstance(message, ReasoningMessage):
            found.reasoning += message.content
        if isinstance(message, AssistantMessage):
            found.text += message.content if isinstance(message.content, str) else ""
            for call in message.tool_calls or ():
                result = results.get(call.id)
                told = {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
                if result is not None:
                    told |= {"result": _json(result.content), "failed": result.error}
                found.calls.append(told)
    found.one_text += fold.text
    found.outcome = "failed" if fold.error is not None else "finished"
    if fold.finished is not None and isinstance(fold.finished.outcome, RunFinishedCancelledOutcome):
        found.outcome = "cancelled"


def _bytes_of(url: str, file: dict[str, Any]) -> bytes:
    if "data" in file:
        return base64.b64decode(file["data"])
    return httpx2.get(url + file["url"]).raise_for_status().content


def _json(content: object) -> Any:
    """The same of a result that was told as JSON and of one that was told as its text."""
    try:
        return json.loads(content) if isinstance(content, str) else content
    except ValueError:
        return content


def differences(url: str, told: dict[str, Any], has: Held) -> list[str]:
    """Name what a client shows otherwise than it was journaled. What it does not tell of at all is not compared."""
    wrong: list[str] = []
    if told.get("links"):
        key = "text" if "text" in told else "one_text"
        files = [link.groupdict() for link in _LINK.finditer(told[key])]
        told = {**told, key: _LINK.sub("", told[key]), "files": files}
    compared = [key for key in ("text", "one_text", "reasoning", "questions", "outcome") if key in told]
    wrong += [f"{key}: {_seen(told[key], getattr(has, key))}" for key in compared if told[key] != getattr(has, key)]
    if "calls" in told:
        wrong += _calls(told["calls"], has.calls)
    if "files" in told:
        wrong += _files(url, told["files"], has.files)
    return wrong


def _seen(told: Any, held: Any) -> str:
    if isinstance(told, str) and len(told) > 60:
        if isinstance(held, str) and held.startswith(told):
            return f"the first {len(told)} of {len(held)} characters"
        at = next((n for n, (a, b) in enumerate(zip(told, held, strict=False)) if a != b), len(held))
        return f"{len(told)} characters for {len(held)}; at {at}: {told[at : at + 40]!r}, {held[at : at + 40]!r}"
    return f"{told!r} for {held if len(str(held)) < 60 else '…'!r}"


def _calls(told: list[dict[str, Any]], held: list[dict[str, Any]]) -> list[str]:
    if len(told) != len(held):
        return [f"{len(told)} calls for {len(held)}"]
    wrong = []
    for one, other in zip(told, held, strict=True):
        for key in one:
            shown, kept = (_json(one[key]), other.get(key))
            if key == "failed" and shown is True:
                kept = bool(kept)
            if shown != kept:
                wrong.append(f"a call's {key}: {str(shown)[:80]!r} for {str(kept)[:80]!r}")
    return wrong


def _files(url: str, told: list[dict[str, str]], held: list[tuple[str, bytes]]) -> list[str]:
    shown = []
    for file in told:
        if file["url"].startswith("data:"):
            shown.append((file["type"], base64.b64decode(file["url"].partition(",")[2])))
        else:
            address = file["url"] if "://" in file["url"] else url + file["url"]
            shown.append((file["type"], httpx2.get(address).raise_for_status().content))
    if shown == held:
        return []
    return [f"files: {[(type, len(data)) for type, data in shown]} for {[(type, len(data)) for type, data in held]}"]
