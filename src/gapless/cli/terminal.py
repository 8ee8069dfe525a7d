"""What the commands write: messages for a person on standard error, and a run's events as they happen."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.text import Text

from gapless import fold
from gapless.agents.base import SEE_LOG
from gapless.agents.places import class_of, place_of, text_of_error
from gapless.errors import AgentInvalid, GaplessError
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    RunFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    text_of,
)
from gapless.output import OutputText

__all__ = [
    "Transcript",
    "clean",
    "explained",
    "one_line",
    "print_if_read",
    "raised_on_import",
    "rule",
    "say",
    "say_error",
]

ERROR_CHARS_MAX = 500
"""Characters shown of what an agent's exception says."""
RULE_CHARS_MAX = 70
TAKEN_BACK_CHARS_MAX = 200
"""Characters shown of what is taken back."""
URL_CHARS_MAX = 2000
"""Of a file's address, which is of no use in part."""
TOOL_CHARS_MAX = 200
"""Characters shown of a tool call's arguments, and of its result."""

# What a model, an agent or a server says must not drive the terminal: escape sequences would.
# Nor turn the direction of what follows (U+202A to U+202E, U+2066 to U+2069): a call that a person is asked about would
# look like another.
_CONTROLS = dict.fromkeys([*range(32), 127, *range(128, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�")
_CONTROLS.update({ord("\n"): "\n", ord("\t"): "\t", ord("\r"): ""})


def clean(text: str) -> str:
    """Return the text without control characters other than line feed and tab, and without those that turn the
    direction of what follows."""
    return text.translate(_CONTROLS)


def one_line(text: str, chars_max: int) -> str:
    """Return the text on one line, cut to a length."""
    line = " ".join(clean(text).split())
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def rule() -> str:
    """Return a line across the terminal, however narrow that is."""
    return "=" * min(RULE_CHARS_MAX, shutil.get_terminal_size().columns)


def say(text: str, *, style: str = "") -> None:
    """Write a line for the person at the terminal, beside the output proper."""
    Console(stderr=True, highlight=False).print(Text(clean(text), style=style), soft_wrap=True)


def print_if_read(text: str) -> str | None:
    """Write lines on standard output that nothing depends on. Where that takes none, because its reader has left or its
    disk is full, return why, and write nothing there from then on: Python would try the rest again at the end."""
    try:
        typer.echo(text)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return error.strerror or type(error).__name__
    return None


def say_error(text: str) -> None:
    """`Error: …` on standard error, in one line."""
    line = " ".join(clean(text).split("\n"))
    typer.echo(typer.style("Error: ", fg="red", bold=True) + line, err=True)


def explained(failure: BaseException) -> str:
    """Return what a run failed with, and what the agent raised and where: it ran in this process, so nothing is to be
    hidden, and there is no server's log.
    """
    if not isinstance(failure, GaplessError):
        return f"the agent raised {class_of(failure)}: {_told(failure)}"
    hidden = failure.message.endswith(SEE_LOG) and failure.__cause__ is not None
    return f"{failure.message.removesuffix(SEE_LOG)}: {_told(failure.__cause__)}" if hidden else failure.message


def raised_on_import(failure: BaseException) -> bool:
    """Tell whether an agent's own code raised it, when it was imported."""
    return isinstance(failure, AgentInvalid) and failure.__cause__ is not None


def _told(error: BaseException | None) -> str:
    if error is None:
        return ""
    where = f" ({place_of(error)})" if error.__traceback__ is not None else ""
    return one_line(text_of_error(error), ERROR_CHARS_MAX) + where


class Transcript:
    """Writes a run's events to standard output as they happen: the answer's text as it is; reasoning, tool calls and
    notices dim and apart. Where the output is no terminal, the text alone. Files of the answer, and which text is taken
    back, are said on standard error. `address` tells where a file can be fetched.
    """

    def __init__(self, address: Callable[[CustomEvent], str | None] | None = None) -> None:
        self._address = address
        self._console = Console(highlight=False, soft_wrap=True)
        self._plain = not sys.stdout.isatty()
        self._at_line_start = True
        self._fresh = True
        """Nothing of the run stands on this line yet."""
        self._foreign: set[str] = set()
        """Messages that are not the assistant's."""
        self._calls: dict[str, tuple[str, list[str]]] = {}
        self._output = OutputText()
        self._said: dict[str, list[str]] = {}
        """The answer's text by message, to tell what is taken back of it."""
        self._open: set[str] = set()
        """Those of them that have not ended, and"""
        self._held: list[str] = []
        """what is said when they have: it is not to stand in the middle of a text."""

    def write(self, text: str) -> None:
        """Text of the answer."""
        if text:
            sys.stdout.write(text if self._plain else clean(text))
            sys.stdout.flush()
            self._at_line_start, self._fresh = text.endswith("\n"), False

    def label(self, text: str) -> None:
        """Write what stands before an answer on its first line."""
        self._output, self._said = OutputText(), {}
        self.write(text)
        self._fresh = True

    def end_line(self) -> None:
        """Go to the start of a line, if not there."""
        if not self._at_line_start:
            self.write("\n")

    def aside(self, text: str, style: str = "dim") -> None:
        """Write a line of its own beside the answer; nothing where the output is no terminal."""
        if not self._plain:
            self.end_line()
            self._console.print(Text(clean(text), style=style))
            self._fresh = True

    def show(self, event: Event) -> str:
        """Show one event; returns the answer's text in it, if any."""
        match event:
            case TextMessageContentEvent():
                if event.message_id in self._foreign:
                    return ""
                self._said.setdefault(event.message_id, []).append(event.delta)
                self._open.add(event.message_id)
                self.write(event.delta)
                return event.delta
            case TextMessageEndEvent():
                self._open.discard(event.message_id)
                self._say_held()
            case RunFinishedEvent():
                if text := self._output.add(event):
                    self._break()
                    self.write(text.lstrip())
                    return text
            case TextMessageStartEvent():
                self._output.add(event)
                if event.role not in (None, "assistant"):
                    self._foreign.add(event.message_id)
                self._break()
            case ReasoningMessageStartEvent():
                self._break()
            case ReasoningMessageContentEvent():
                self._dim(event.delta)
            case ReasoningMessageEndEvent():
                self._break()
            case ToolCallStartEvent():
                self._calls[event.tool_call_id] = (event.tool_call_name, [])
            case ToolCallArgsEvent():
                if event.tool_call_id in self._calls:
                    self._calls[event.tool_call_id][1].append(event.delta)
            case ToolCallEndEvent():
                name, arguments = self._calls.get(event.tool_call_id, ("tool", []))
                self.aside(f"→ {name}({one_line(''.join(arguments), TOOL_CHARS_MAX)})")
            case ToolCallResultEvent():
                name, _ = self._calls.pop(event.tool_call_id, ("tool", []))
                result = text_of(event.content) if event.error is None else f"failed: {event.error}"
                self.aside(f"← {name}: {one_line(result, TOOL_CHARS_MAX)}")
            case SubagentStartedEvent():
                self.aside(f"· {event.name}")
            case CustomEvent(name=fold.VOID | fold.RESTARTED):
                self._output.add(event)
                self._take_back(event)
            case CustomEvent(name=fold.FILE):
                self._held.append(self._file(event))
                self._say_held()
            case CustomEvent(name="gapless.notice", value={"message": str(message)}):
                self.aside(f"! {message}", style="yellow")
            case CustomEvent():
                self._output.add(event)
            case _:
                pass
        return ""

    def _take_back(self, event: CustomEvent) -> None:
        """Say which of the text above does not count any more."""
        void, gone = fold.void_of(event), list[str]()
        if event.name == fold.RESTARTED:
            gone, self._said = ["".join(parts) for parts in self._said.values()], {}
        elif void is not None:
            gone = ["".join(self._said.pop(id, ())) for id in void.message_ids]
            for id, chars in void.cut.items():
                text = "".join(self._said.get(id, ()))
                self._said[id] = [text[:chars]]
                gone.append(text[chars:])
        if text := one_line(" ".join(gone), TAKEN_BACK_CHARS_MAX):
            self._note(f"[taken back: {text}]", "yellow")
        else:
            self.aside("· some of what was done above is taken back")

    def _file(self, event: CustomEvent) -> str:
        """Return what is said of a file: its name, type and size, and where it is."""
        file = event.value if isinstance(event.value, dict) else {}
        said = [one_line(one, TOOL_CHARS_MAX) for key in ("name", "mimeType") if isinstance(one := file.get(key), str)]
        size, data = file.get("size"), file.get("data")
        if isinstance(data, str):
            size = len(data) * 3 // 4 - data[-2:].count("=")  # of base64
        if isinstance(size, int):
            said.append(f"{size:,} bytes")
        where = self._address(event) if self._address is not None else None
        return f"[file: {', '.join(said) or 'of an unknown type'}]" + (
            f" {one_line(where, URL_CHARS_MAX)}" if where else ""
        )

    def _say_held(self) -> None:
        if not self._open:
            for text in self._held:
                self._note(text, "dim")
            self._held.clear()

    def _note(self, text: str, style: str) -> None:
        """Write a line of its own on standard error, also where the output is no terminal."""
        self.end_line()
        say(text, style=style)
        self._fresh = True

    def _break(self) -> None:
        """Another message begins, or reasoning ends: not on the line of what came before."""
        if not self._fresh:
            self.end_line()

    def _dim(self, text: str) -> None:
        if text and not self._plain:
            self._console.print(Text(clean(text), style="dim italic"), end="")
            self._at_line_start, self._fresh = text.endswith("\n"), False
