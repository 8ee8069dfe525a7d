"""One text out of a run's messages, for readers who get nothing but text.

Two messages are two paragraphs, with a blank line between them. A message that goes on with one that was cut short goes
on in its paragraph, unless something that was given out was taken back: that stays for those who are given pieces, and
what is said anew begins a paragraph. Of messages that come at the same time, as agents side
by side say them, the one that spoke first goes on until it has ended; then come the others, in the order in which they
began to speak.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from gapless.events import (
    CustomEvent,
    Event,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
)
from gapless.fold import FILE, RESTARTED, Void, continued_by, void_of
from gapless.records import RunRecord, blobs_at

__all__ = ["FILE_NAME", "PARAGRAPH", "LinkedText", "Links", "OneText", "TextSoFar"]

PARAGRAPH = "\n\n"
"""Stands between two messages."""
FILE_NAME = "file-"
"""How the name of a file begins that is in its event: in the place of a blob's id, before its number."""
NAME_CHARS_MAX = 200
"""So much of a file's name is shown."""
_UNSAFE = re.compile(r"[\[\]()<>\\`\x00-\x1f]+")
"""What ends a link's text, or could be taken for more than text."""
_UNSAFE_URL = re.compile(r"[<>\s\x00-\x1f]")


class OneText:
    """Takes a run's events in order; what it returns of each, joined, is the text. It takes only those about text."""

    __slots__ = ("_continued", "_ended", "_gap", "_given", "_held", "_last", "_others", "current")

    def __init__(self) -> None:
        self.current: str | None = None
        """The message whose deltas are given out as they come."""
        self._gap = ""
        """What stands before the next message."""
        self._held: dict[str, list[str]] = {}
        """What was said in messages that wait for this one's end."""
        self._ended: set[str] = set()
        """Those of them that have ended."""
        self._others: set[str] = set()
        """Messages that are not the assistant's."""
        self._continued: dict[str, str] = {}
        """Messages that go on with another."""
        self._given: set[str] = set()
        """Messages of which something was given out, and"""
        self._last = ""
        """the last of these; "" after something of it was taken back."""

    def add(self, event: Event) -> str:
        """Take one `event`; returns the text that is to be given out."""
        if isinstance(event, TextMessageContentEvent):
            return self._delta(event.message_id, event.delta)
        if isinstance(event, TextMessageStartEvent):
            if event.role in (None, "assistant"):
                self._others.discard(event.message_id)
                self._ended.discard(event.message_id)
                if (continued := continued_by(event)) is not None:
                    self._continued[event.message_id] = continued
            else:
                self._others.add(event.message_id)
        elif isinstance(event, TextMessageEndEvent):
            return self._end(event.message_id)
        elif isinstance(event, CustomEvent):
            self._take_back(event)
        return ""

    def _delta(self, id: str, delta: str) -> str:
        if not delta or id in self._others:
            return ""
        if id == self.current:
            return delta
        if self.current is not None:
            self._held.setdefault(id, []).append(delta)
            return ""
        self.current = id
        return self._begun(id, delta)

    def _begun(self, id: str, text: str) -> str:
        """Return what is given out where the message begins."""
        gap = "" if self._last and self._continued.pop(id, None) == self._last else self._gap
        self._gap, self._last = PARAGRAPH, id
        self._given.add(id)
        return gap + text

    def _end(self, id: str) -> str:
        if id == self.current:
            return self._next()
        if id in self._held:
            self._ended.add(id)
        return ""

    def _next(self) -> str:
        self.current = None
        text = ""
        for id in list(self._held):
            text += self._begun(id, "".join(self._held.pop(id)))
            if id not in self._ended:
                self.current = id
                break
            self._ended.discard(id)
        return text

    def _take_back(self, event: CustomEvent) -> None:
        if event.name == RESTARTED:
            gap = self._gap
            OneText.__init__(self)  # as new, behind what was given out
            self._gap = gap
        elif (void := void_of(event)) is not None:
            for id in void.message_ids:
                self._held.pop(id, None)
            for id, chars in void.cut.items():
                if id in self._held:
                    self._held[id] = ["".join(self._held[id])[:chars]]
            if self.has_given([*void.message_ids, *void.cut]):
                self._last = ""

    def has_given(self, message_ids: Iterable[str]) -> bool:
        """Return whether something of one of these messages was given out."""
        return not self._given.isdisjoint(message_ids)

    def begin_anew(self) -> None:
        """Put nothing before the next message: something else has made the paragraph."""
        self._gap = ""


class Links:
    """Makes the links to the files of one run's answer: Markdown, which is what clients of such wires show.

    A file that is in its event has an address by its number among the run's files."""

    __slots__ = ("_files", "_run")

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._files = 0

    def add(self, event: CustomEvent) -> str:
        """Take one `event` of a file, each once; returns the link to it, nothing where it has no address."""
        if (url := self.address(event)) is None:
            return ""
        file = event.value
        kind, name = file.get("mimeType"), file.get("name")
        kind = kind if isinstance(kind, str) else "file"
        name = _UNSAFE.sub(" ", name if isinstance(name, str) and name else kind)[:NAME_CHARS_MAX].strip()
        return f"{'!' * kind.startswith('image/')}[{name}](<{_UNSAFE_URL.sub(lambda one: quote(one[0]), url)}>)"

    def address(self, event: CustomEvent) -> str | None:
        """Take one `event` of a file, each once; returns where it is, None where it has no address."""
        self._files += 1
        file = event.value if isinstance(event.value, dict) else {}
        url = file.get("url")
        if url is None and isinstance(file.get("data"), str):
            public_url = self._run.config.public_url if self._run.config is not None else ""
            url = f"{blobs_at(public_url, self._run.id)}{FILE_NAME}{self._files}"
        return url if isinstance(url, str) and url.startswith(("/", "http://", "https://")) else None


class LinkedText(OneText):
    """The same, with the answer's files: each is a paragraph that links to it."""

    __slots__ = ("_links",)

    def __init__(self, links: Links) -> None:
        super().__init__()
        self._links = links

    def add(self, event: Event) -> str:
        """Take one `event`; returns the text that is to be given out."""
        if not (isinstance(event, CustomEvent) and event.name == FILE):
            return super().add(event)
        link = self._links.add(event)
        id = f"\0{link}"
        if not link or self.current is None:
            return self._begun(id, link) if link else ""
        self._held[id] = [link]
        self._ended.add(id)
        return ""


class TextSoFar:
    """Takes a run's events in order; `text` is what `OneText` gives of them, without what was taken back."""

    def __init__(self) -> None:
        self.text = ""
        self._events: list[Event] = []
        """Those about text that stand."""
        self._one = OneText()

    def add(self, event: Event) -> bool:
        """Take one `event`; returns whether the text is another one now."""
        before = self.text
        if isinstance(event, TextMessageStartEvent | TextMessageContentEvent | TextMessageEndEvent):
            self._events.append(event)
            self.text += self._one.add(event)
        elif isinstance(event, CustomEvent) and event.name == RESTARTED:
            self._again([])
        elif isinstance(event, CustomEvent) and (void := void_of(event)) is not None:
            self._again(_without(void, self._events))
        return self.text != before

    def _again(self, events: list[Event]) -> None:
        self._events, self._one = events, OneText()
        self.text = "".join(map(self._one.add, events))


def _without(void: Void, events: list[Event]) -> list[Event]:
    gone, left = set(void.message_ids), dict(void.cut)
    kept: list[Event] = []
    for event in events:
        assert isinstance(event, TextMessageStartEvent | TextMessageContentEvent | TextMessageEndEvent), "about text"
        id = event.message_id
        if id in gone:
            continue
        if isinstance(event, TextMessageContentEvent) and id in left:
            stays, left[id] = event.delta[: left[id]], max(0, left[id] - len(event.delta))
            event = msgspec.structs.replace(event, delta=stays)
        kept.append(event)
    return kept
