"""Exits inside of a run, as errors: what wants to end the process ends its run, for the process has others."""

from __future__ import annotations

import functools
import signal
import traceback
from types import CodeType
from typing import Any

__all__ = ["Exited", "ExitsAsErrors", "as_error"]


class Exited(RuntimeError):
    """Says that code of a run called `sys.exit()`, or raised `KeyboardInterrupt`: that is its `exit`, and its cause
    unless a framework has raised it again from something else."""

    def __init__(self, exit: BaseException) -> None:
        super().__init__(f"the agent raised {type(exit).__name__}")
        self.exit = exit


def as_error(exit: BaseException) -> Exited | None:
    """Return what an exit is in a run; None for what is none, or was asked for by a signal: it came while the run's
    code happened to run, and is to end the process."""
    if not isinstance(exit, SystemExit | KeyboardInterrupt) or _is_of_signal(exit):
        return None
    error = Exited(exit)
    error.__cause__ = exit
    return error


class ExitsAsErrors:
    """Raises as errors the exits of what is run in it."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: object) -> None:
        if raised is not None and (error := as_error(raised)) is not None:
            raise error


def _is_of_signal(raised: BaseException) -> bool:
    """Return whether a signal's handler raised this."""
    if isinstance(raised, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True  # written in C, that one leaves no frame
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(raised.__traceback__))


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not (hasattr(handler, "__code__") or hasattr(handler, "__func__")):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004  # an object that is called
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code if isinstance(code, CodeType) else None
