"""What was raised in a run, in the words that may be told: its class, and the line where it was raised."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback

from gapless.agents.exits import Exited

__all__ = ["class_and_place", "class_of", "only_one", "place_of", "text_of_error"]

_DEPTH_MAX = 100
"""How many groups, one in the other, are gone through to what was raised."""
_PATHS = sysconfig.get_paths()
_LIBRARIES = tuple(
    {
        os.path.join(folder, "")
        for folder in (
            *(_PATHS[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            site.getusersitepackages(),
            os.path.dirname(os.path.dirname(__file__)),
        )
    }
)
"""Where no line of the user's is: Python's own code, what is installed, and Gapless."""
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def class_and_place(error: BaseException) -> str:
    """Return what may be said of `error` in a log."""
    return f"{class_of(error)} at {place_of(error)}"


def class_of(error: BaseException) -> str:
    """Return the class of `error`; of what was raised in it, where it is a group, with how many more there are."""
    name, more = type(_raised(error)).__name__, _count(error) - 1
    return f"{name} and {more} more" if more else name


def place_of(error: BaseException) -> str:
    """Return where `error` was raised, as file:line: the user's own line, if any of them led there."""
    last: tuple[str, int] | None = None
    for one in (_raised(error), error):  # what was put into a group without being raised has no line of its own
        lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(one.__traceback__)]
        for file, line in reversed(lines):
            if not _is_library(file):
                return f"{file}:{line}"
        last = last or (lines[-1] if lines else None)
    return f"{last[0]}:{last[1]}" if last else "unknown place"


def only_one(error: BaseException) -> BaseException:
    """Return the only error in a group, as a `TaskGroup` raises it when one of its tasks fails; any other as it is."""
    return _raised(error) if isinstance(error, BaseExceptionGroup) and _count(error) == 1 else error


def text_of_error(error: BaseException) -> str:
    """Return the text of what was raised; "" where that itself raises."""
    try:
        return str(_raised(error))
    except Exception:  # somebody's `__str__`
        return ""


def _raised(error: BaseException) -> BaseException:
    """Return what was raised: the first error in a group, and what was made another error on its way."""
    for _ in range(_DEPTH_MAX):
        if isinstance(error, Exited):
            error = error.exit
        elif isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif type(error) is RuntimeError and isinstance(error.__cause__, StopAsyncIteration):
            error = error.__cause__  # which Python lets out of no async generator, and no line of it led there
        else:
            break
    return error


def _count(error: BaseException, depth: int = 0) -> int:
    if not isinstance(error, BaseExceptionGroup) or depth > _DEPTH_MAX:
        return 1
    return sum(_count(one, depth + 1) for one in error.exceptions)


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen ", *_LIBRARIES)) or any(name in file for name in _INSTALLED)
