"""What is done with the example agents that frameworks' makers publish: they are followed on all wires through a
network that cuts, and their workers are lost at every place of what their models say."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2

from gapless import Runner, create_app
from gapless.client import GaplessClient
from gapless.events import decode_event
from gapless.sse import EventStreamParser, Frame
from gapless.testing import Chunk, Cutter, Gate, ToolCall, serving
from gapless.testing.place import Place
from tests.support.outcomes import Outcome, outcome_of_events, value_of, what_is_left
from tests.support.told import PARAGRAPH, READERS, Told
from tests.support.waiting import WAIT_S

__all__ = ["OPENAI_SOURCES", "openai_examples", "told_on_every_wire", "whole_wherever_its_worker_is_lost"]

OPENAI_SOURCES = sorted((Path(sys.prefix) / "published").glob("openai_agents-*.tar.gz"))
"""The source of the OpenAI Agents SDK, with its examples; scripts/environment fetches it."""


@contextlib.contextmanager
def openai_examples(folder: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Write the SDK's examples into a folder; gives what imports one. This project has a folder `examples`, too."""
    with tarfile.open(OPENAI_SOURCES[-1]) as source:
        inside = [one for one in source.getmembers() if "/examples/" in one.name and one.name.endswith(".py")]
        source.extractall(folder, inside, filter="data")
    (root,) = folder.iterdir()
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "examples"}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield lambda name: importlib.import_module(f"examples.{name}")
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
            del sys.modules[name]
        sys.modules.update(hidden)


CUTS = 12
CUT_BYTES = (60, 1500)


async def told_on_every_wire(agent: object, expected: Outcome) -> None:
    """Check that a client of each wire has all of a run that came to what is `expected`, cut as they are."""
    with serving(create_app(Runner(agent))) as url, Cutter(url, cuts=CUTS, after_bytes=CUT_BYTES) as cutter:
        async with GaplessClient(url) as client, httpx2.AsyncClient(base_url=cutter.url) as network:
            run = await client.start("Go on.")
            bodies = await asyncio.gather(*(_followed(network, run.id, wire) for wire in READERS))
        assert cutter.cuts[run.id] > 1
    found = dict(zip(READERS, bodies, strict=True))
    events = [decode_event(data) for data in found["ag-ui"]]
    assert outcome_of_events(events) == expected
    whole = READERS["ag-ui"](_body(found["ag-ui"]))
    for wire, frames in found.items():
        told = READERS[wire](_body(frames))
        if wire in ("openai", "openai-responses", "text") and told.text != whole.text:  # its text is the output there
            assert json.loads(told.text.removeprefix(whole.text)) == expected.output, wire
            told.texts = [whole.text]
        same = _normal(told, wire), _normal(whole, wire)
        assert same[0] == same[1], (wire, *same)


async def _followed(network: httpx2.AsyncClient, run_id: str, wire: str) -> list[str]:
    """Return the frames of a run, over as many connections as it takes."""
    found: list[str] = []
    last = ""
    async with asyncio.timeout(WAIT_S):
        while True:
            headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
            with contextlib.suppress(httpx2.HTTPError):
                async with network.stream("GET", f"/runs/{run_id}/events?wire={wire}", headers=headers) as response:
                    if response.status_code == 204:
                        return found
                    parser = EventStreamParser()
                    async for data in response.aiter_bytes():
                        for frame in parser.feed(data):
                            if frame.event == "end":
                                return found
                            if _is_new(frame, last):
                                last = frame.id or ""
                                found.append(frame.data)


def _is_new(frame: Frame, last: str) -> bool:
    """Tell whether it is one of the run's; where nothing has come since, the stream of text begins as it did before."""
    return bool(frame.data and frame.id and frame.event != "reconnect" and frame.id != last)


def _body(datas: list[str]) -> bytes:
    return "".join(f"data: {data}\n\n" for data in datas).encode()


def _normal(told: Told, wire: str) -> Any:
    """What this wire has a place for, without what JSON leaves free."""

    def plain(text: str) -> Any:
        value = value_of(text)
        return value["result"] if isinstance(value, dict) and list(value) == ["result"] else value

    text = "".join(told.texts).replace(PARAGRAPH, "")
    thoughts = "" if wire == "text" else told.thoughts
    if wire in ("openai", "text"):
        return text, thoughts
    calls = [(name, json.loads(arguments.strip() or "{}")) for name, arguments in told.calls.values()]
    results = [told.results[id] for id in told.calls if id in told.results]  # parallel ones in the order of their calls
    return text, thoughts, calls, [(plain(said), failed) for said, failed in results]


async def whole_wherever_its_worker_is_lost(
    make: Callable[[Sequence[Chunk]], Any],
    script: Sequence[Chunk],
    expected: Outcome,
    *,
    before: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Check that a run comes to what is `expected` whose worker is lost when its model has said so much of the `script`
    and no more, wherever that is. `make` makes its agent, `before` what each of these runs has beside it."""
    wrong: dict[int, Outcome] = {}
    lost_at = 0
    for at in range(len(script) + 1):
        if 0 < at < len(script) and all(isinstance(one, ToolCall) for one in script[at - 1 : at + 1]):
            continue  # calls that are made together come together
        if before is not None:
            await before()
        place, gate = Place(), Gate()
        try:
            lost = await place.worker(make([*script[:at], gate, *script[at:]]))
            started = await lost.start("Go on.", agent="agent", session_id="s", run_id="r")
            ended = asyncio.create_task(started.wait())
            reached = asyncio.create_task(gate.reached())
            await asyncio.wait({ended, reached}, return_when=asyncio.FIRST_COMPLETED)
            run = started
            if not ended.done():
                other = await place.worker(make(script))
                await place.lose(lost, other)
                gate.open()
                run = await other.attach("r")
                lost_at += 1
            for task in (ended, reached):
                task.cancel()
            found = what_is_left([event async for event in run.events()])
            if found != expected:
                wrong[at] = found
        finally:
            await place.close()
    assert lost_at, "it was lost somewhere"
    assert not wrong, f"not {expected}: {wrong}"
