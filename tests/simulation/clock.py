"""An event loop without an outside: time is a number that jumps to the next timer, and several processes share it.

A process here is what runs in its context. It keeps asyncio's order within itself, and between processes nothing has an
order. A paused one is SIGSTOPped: its callbacks wait. A dead one takes nothing any more.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Process", "SimulatedLoop", "SimulatedTime", "current_process"]

EPOCH_S = 1_800_000_000
"""What the wall clock shows when a schedule begins."""
CALLBACKS_MAX = 2_000_000
"""A schedule that takes more runs in circles."""

_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current_process() -> Process:
    """Return the process that this code runs in."""
    return _process.get()


class Process:
    """One operating-system process; the world outside of all others is one too."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.ready: deque[Callback] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.paused = False
        self.dead = False
        self.skew_s = 0.0
        """How far its wall clock is off."""
        self.context = contextvars.Context()
        self.context.run(_process.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any], loop: SimulatedLoop) -> asyncio.Task[Any]:
        """Run it in this process."""
        task: asyncio.Task[Any] = loop.create_task(work, context=self.context.copy())
        return task

    def kill(self) -> None:
        """SIGKILL: nothing of it is heard again. Its tasks unwind, which nobody can notice: its store is dead."""
        self.dead, self.paused = True, False
        for task in self.tasks:
            task.cancel()


class Callback:
    """What is called soon, or at a time: asyncio's handles without what only debugging needs."""

    __slots__ = ("_args", "_callback", "_context", "_when", "cancelled_")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context, when: float = 0.0
    ) -> None:
        self._callback, self._args, self._context, self._when = callback, args, context, when
        self.cancelled_ = False

    def cancel(self) -> None:
        self.cancelled_ = True

    def cancelled(self) -> bool:
        return self.cancelled_

    def when(self) -> float:
        return self._when

    def run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._context.run(self._callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            loop.call_exception_handler({"message": f"Exception in callback {self._callback}", "exception": error})


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready, process by process in an order from `rng`, and else lets time pass."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.world = Process("world", rng)
        self.processes = [self.world]
        self._now = 0.0
        self._timers: list[tuple[float, int, Callback | None, Callable[..., object], tuple[Any, ...]]] = []
        """When, in which order, and what: with a handle, or outside of all processes."""
        self._stopping: bool
        self._count = 0
        self._ran = 0
        self._rng = rng
        self._woken = False
        """A process has something to do that had nothing, perhaps."""

    get_debug = bool  # type: ignore[assignment]  # False, and in C: each future asks

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]  # the callback's arguments are anyone's, and the handle is our own
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        if context is None:
            context = contextvars.copy_context()
        handle = Callback(callback, args, context)
        context.get(_process, self.world).ready.append(handle)
        self._woken = True
        return handle

    def in_world(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Call it then, outside of all other processes, whoever is running now."""
        self._count += 1
        heapq.heappush(self._timers, (self._now + delay_s, self._count, None, callback, args))

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        timer = Callback(callback, args, contextvars.copy_context() if context is None else context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, timer, callback, args))
        return timer

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        process = (context.get(_process) if context is not None else _process.get(None)) or self.world
        if len(process.tasks) >= 64:
            process.tasks = [other for other in process.tasks if not other.done()]
        process.tasks.append(task)
        return task

    def _run_once(self) -> None:
        """Run until something stops the loop."""
        while not self._stopping:
            runnable = [process for process in self.processes if process.ready and not process.paused]
            if not runnable:
                self._pass_time()
                continue
            process = runnable[0] if len(runnable) == 1 else self._rng.choice(runnable)
            ready = process.ready
            self._ran += len(ready)
            if self._ran > CALLBACKS_MAX:
                raise RuntimeError("the schedule runs in circles")
            for _ in range(len(ready)):
                callback = ready.popleft()
                if not callback.cancelled_:
                    callback.run(self)
                if process.paused:
                    break

    def _pass_time(self) -> None:
        """Until somebody may be ready: messages that travel wake nobody as a rule."""
        timers, in_world = self._timers, self.world.context.run
        self._woken = False
        while not self._woken:
            if not timers:
                raise RuntimeError("everything waits and nothing will come")
            when, _, timer, callback, args = heapq.heappop(timers)
            if when > self._now:
                self._now = when
            if timers and timers[0][0] <= self._now:
                return self._make_ready(timer or Callback(callback, args, self.world.context))
            self._ran += 1
            if timer is None:
                try:
                    in_world(callback, *args)
                except Exception as error:
                    self.call_exception_handler({"message": f"Exception in {callback}", "exception": error})
            elif not timer.cancelled_:
                process = timer._context.get(_process, self.world)
                if not process.paused:
                    timer.run(self)
                    return None  # it may have let others go on
                process.ready.append(timer)
        return None

    def _make_ready(self, first: Callback) -> None:
        """What is due at this very time, in the order of its processes."""
        due, timers = [first], self._timers
        while timers and timers[0][0] <= self._now:
            _, _, timer, callback, args = heapq.heappop(timers)
            due.append(timer or Callback(callback, args, self.world.context))
        waiting = [(timer._context.get(_process, self.world), timer) for timer in due if not timer.cancelled_]
        if len(waiting) == 1 and not waiting[0][0].paused:
            self._ran += 1
            waiting[0][1].run(self)
            return
        for process, timer in waiting:
            process.ready.append(timer)

    def _process_events(self, event_list: Any) -> None:
        pass


class SimulatedTime:
    """Stands where a module has imported `time`."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        process = _process.get(None)
        return EPOCH_S + self.monotonic() + (process.skew_s if process is not None else 0.0)

    def time_ns(self) -> int:
        return int(self.time() * 1e9)
