"""Reading event streams as the standard says (WHATWG HTML, section 9.2.6), and as picky clients do."""

from __future__ import annotations

from typing import NamedTuple

from gapless.events import Event, decode_event


class Frame(NamedTuple):
    """One dispatched block of a stream."""

    id: str
    event: str
    data: str


def frames(body: bytes) -> list[Frame]:
    """All whole frames of a body. What is after the last blank line is half a frame and is dropped."""
    assert b"\r" not in body, "LF only"
    found = []
    for block in body.split(b"\n\n")[:-1]:
        id = event = ""
        data = []
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                id = value
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)
        found.append(Frame(id, event, "\n".join(data)))
    return found


def events(body: bytes) -> list[Event]:
    """The AG-UI events of a body on the wire `ag-ui`; checks the rules of its frames."""
    seen = frames(body)
    assert seen[-1].event == "end", "no end marker"
    assert not seen[-1].data
    ids = [frame.id for frame in seen]
    assert all(ids), "an id on every frame"
    assert len(set(ids)) == len(ids), "ids are unique"
    assert all(id.isascii() and len(id) <= 128 for id in ids)
    numbers = [int(id) for id in ids[:-1]]
    assert numbers == sorted(numbers), "ids increase"
    return [decode_event(frame.data.encode()) for frame in seen[:-1]]
