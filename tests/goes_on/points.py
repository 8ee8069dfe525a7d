"""What a server of the schedules has beside Gapless: a ledger outside of it, and points at which a run stands still
until the server is struck.

The ledger `$GAPLESS_TEST_LEDGER` is a file that no server keeps. A line of it says `RUN STEP WHAT PID`: the steps
begin, end and are kept (the store has accepted a checkpoint after them), runs stand still, ask and are handed over.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import gapless.runs.execution
from gapless.errors import GaplessError
from gapless.events import Interrupt, ResumeEntry
from gapless.journals.contract import WorkerFenced
from gapless.runs.checkpoints import Frame, Standing
from gapless.runs.execution import Execution
from gapless.runs.questions import Questions
from gapless.runs.runner import Runner
from gapless.runs.worker import Worker
from tests.goes_on.plans import KEPT_TOGETHER, plan_of
from tests.support.waiting import WAIT_S

__all__ = ["beginning", "ending", "install", "other_is_kept", "reach"]

LOOK_S = 0.005

LEDGER = Path(os.environ["GAPLESS_TEST_LEDGER"])

_file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND)
_stopping = asyncio.Event()
"""The server has been told to stop: nothing stands still any more, but where it is handed over."""
_staying: set[str] = set()
"""Runs that stand still here."""
_handed: set[str] = set()
_unkept: collections.defaultdict[str, list[tuple[int, str]]] = collections.defaultdict(list)
"""The steps that have ended and are in the next checkpoint, the last of them last."""
_saves: collections.Counter[str] = collections.Counter()
_saves_at_end: dict[tuple[str, str], int] = {}
_heard: list[Callable[[], object]] = []


def note(run_id: str, step: str, what: str) -> None:
    """One line of the ledger, which a killed process leaves whole."""
    os.write(_file, f"{run_id} {step} {what} {os.getpid()}\n".encode())


# -- points ------------------------------------------------------------------------------------------------------------


def due(run_id: str, point: str, part: int) -> bool:
    """Tell whether the run is to be struck here next."""
    if _stopping.is_set() or run_id in _staying:
        return False
    blows = LEDGER.with_name(f"{run_id}.blows")
    count = blows.stat().st_size if blows.exists() else 0
    aims = plan_of(run_id).aims
    return count < len(aims) and aims[count] == (part, point)


def stand(run_id: str, point: str) -> None:
    """Take the blow that is due: it comes once, wherever the run goes on."""
    with LEDGER.with_name(f"{run_id}.blows").open("ab") as file:
        file.write(b".")
    note(run_id, point.replace(" ", "-"), "stands")


async def reach(run_id: str, point: str, part: int) -> None:
    """Stand still here if this is where the run is to be struck, or if it stands still elsewhere."""
    if due(run_id, point, part):
        _staying.add(run_id)
        stand(run_id, point)
    if run_id in _staying:
        await _stopping.wait()


async def hand_over(run_id: str, point: str) -> None:
    """Stand still for good, if the run is to be struck at this point of a hand-over or was to be before."""
    plan = plan_of(run_id)
    if not _stopping.is_set() or not LEDGER.with_name(f"kills-{os.getpid()}").exists():
        return
    if run_id not in _handed and point in (plan.handover, "given up"):
        _handed.add(run_id)
        note(run_id, point.replace(" ", "-"), "stands")
    if run_id in _handed:
        await asyncio.get_running_loop().create_future()


# -- steps -------------------------------------------------------------------------------------------------------------


def beginning(run_id: str, part: int, name: str) -> None:
    note(run_id, f"{part}.{name}", "begins")


def ending(run_id: str, part: int, name: str) -> None:
    note(run_id, f"{part}.{name}", "ends")
    _saves_at_end[run_id, f"{part}.{name}"] = _saves[run_id]
    plan = plan_of(run_id)
    if name == "model" or plan.parts[part].kind != "tools" or plan.framework in KEPT_TOGETHER:
        _unkept[run_id].append((part, name))


async def other_is_kept(run_id: str, part: int) -> None:
    """In the second of two tools, if it is to be struck when the first one's result is kept: wait for that."""
    if not due(run_id, "one of two returned", part):
        return
    first, together = (run_id, f"{part}.tool-a"), plan_of(run_id).framework in KEPT_TOGETHER
    async with asyncio.timeout(WAIT_S):
        while first not in _saves_at_end or (not together and _saves[run_id] <= _saves_at_end[first]):
            await asyncio.sleep(LOOK_S)
    if not together:
        note(*first, "kept")
    await reach(run_id, "one of two returned", part)


# -- in Gapless --------------------------------------------------------------------------------------------------------


def install(lease_s: float) -> None:
    """Let servers of this process have a lease of so many seconds, park runs at once, and come by the points."""
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None
    defaults["lease_s"] = lease_s
    gapless.runs.execution.PARK_AFTER_S = 0.05
    _see_saves()
    _see_questions()
    _see_stops()


def _see_saves() -> None:
    replace, save = Standing._replace, Standing.save

    async def replacing(self: Standing, frame: Frame) -> None:
        run_id = self._journal.run_id
        ended = _unkept.pop(run_id, [])
        part, name = ended[-1] if ended else (-1, "")
        if name:
            await reach(run_id, "model answered" if name == "model" else "tool returned", part)
        await replace(self, frame)
        _saves[run_id] += 1
        for number, step in ended:
            note(run_id, f"{number}.{step}", "kept")
        if name:
            await reach(run_id, "answer kept" if name == "model" else "result kept", part)

    async def saving(
        self: Standing, make_data: Callable[[], bytes], half: Collection[str] = (), leave: bool = True
    ) -> None:
        if self.leaving and leave:
            self.leaving = False
            await save(self, make_data, half, leave)
            self.leaving = True
            await hand_over(self._journal.run_id, "leaving")
        await save(self, make_data, half, leave)

    Standing._replace, Standing.save = replacing, saving  # type: ignore[method-assign]


def _see_questions() -> None:
    wait_for, resolve, may_park = Questions._wait_for, Questions.resolve, Execution._may_park
    telling: set[asyncio.Task[None]] = set()

    def part_of(self: Questions) -> int:
        """In which part the open question is."""
        asking = [part.number for part in plan_of(self._record.id).parts if part.kind == "ask"]
        return asking[self.closed + max(len(self._known) - 1, 0)]

    async def tell(self: Questions) -> None:
        run_id, part = self._record.id, part_of(self)
        with contextlib.suppress(GaplessError):
            await self._journal.drain()
            LEDGER.with_name(f"{run_id}.asks").write_text(str(part))
            if due(run_id, "asked", part):
                _staying.add(run_id)
                stand(run_id, "asked")
            note(run_id, f"{part}.question", "asks")

    def waiting(self: Questions, interrupts: list[Interrupt]) -> None:
        wait_for(self, interrupts)
        if self._journal.appended and not self._known:
            task = asyncio.ensure_future(tell(self))
            telling.add(task)
            task.add_done_callback(telling.discard)

    def resolving(self: Questions, entries: list[ResumeEntry], command_id: int = 0) -> bool:
        run_id = self._record.id
        if self._answers is not None and not self._answers.done() and due(run_id, "answered", part_of(self)):
            _staying.add(run_id)
            _heard.append(lambda: resolve(self, entries, command_id))
            stand(run_id, "answered")
            return True
        return resolve(self, entries, command_id)

    def parks(self: Execution) -> bool:
        run_id = self.record.id
        if run_id in _staying or due(run_id, "answered", 0):  # the first blow comes where the run was started
            return False
        return bool(may_park.fget(self))  # type: ignore[attr-defined]

    Questions._wait_for, Questions.resolve = waiting, resolving  # type: ignore[method-assign]
    Execution._may_park = property(parks)  # type: ignore[assignment,method-assign]


def _see_stops() -> None:
    drain, give_up, on_fenced = Worker.drain, Worker.give_up, Worker.on_fenced

    async def draining(self: Worker, grace_s: float) -> None:
        if self.executions:  # one of those that `serve` opens only to look at them has none
            _stopping.set()
        for answer in _heard:  # heard as the server stops
            answer()
        await drain(self, grace_s)

    async def giving_up(self: Worker, run_id: str, wanted_at: int | None, what: str) -> None:
        await hand_over(run_id, "giving up")
        await give_up(self, run_id, wanted_at, what)
        asks = LEDGER.with_name(f"{run_id}.asks")  # is not there where a server was killed as the question was stored
        if wanted_at != 0 and asks.exists() and due(run_id, "parked", int(asks.read_text())):
            stand(run_id, "parked")
        await hand_over(run_id, "given up")

    def fenced(self: Worker, *given: Any) -> None:
        note("-", "-", "fenced")
        _staying.clear()
        _unkept.clear()
        on_fenced(self, *given)

    def finds_out(self: WorkerFenced, *given: Any) -> None:
        note("-", "-", "fenced")  # where it stops meanwhile, the worker is not told
        Exception.__init__(self, *given)

    WorkerFenced.__init__ = finds_out  # type: ignore[method-assign,assignment]
    Worker.drain, Worker.give_up, Worker.on_fenced = draining, giving_up, fenced  # type: ignore[method-assign]
