"""Log lines of a server, with run ids and without message text: `time level logger run=… message`, or JSON objects."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from typing import Any

import msgspec

from gapless.agents.places import class_and_place
from gapless.cli.terminal import clean

__all__ = ["FORMATS", "LEVELS", "log_nowhere", "log_to_stderr"]

LEVELS = ("critical", "error", "warning", "info", "debug")
FORMATS = ("text", "json")
_UNHANDLED = "nobody handled an exception: %s"
_ON_PURPOSE = (
    "ASGI callable returned without completing handshake.",
    "ASGI callable returned without completing response.",
)
"""What uvicorn takes for a program's mistake: a WebSocket that is refused with a status, as it should be, and a stream
that is left without its end as its worker stops, which its client is to take for a cut."""
_TRACEBACK = "Traceback (most recent call last):"
_OWN_ERROR = re.compile(r"^gapless\.errors\.\w+: ")
"""What an error of Gapless, whose message says it all, has before it in a traceback."""

log = logging.getLogger("gapless")


def log_to_stderr(level: str, format: str = "text") -> None:
    """Set up this process's logging. uvicorn speaks from `warning` on, and of each request at `debug` only."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if format == "json" else _Line())
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("gapless").setLevel(number)
    server = logging.getLogger("uvicorn.error")
    server.setLevel(number if level == "debug" else max(number, logging.WARNING))
    server.addFilter(_no_mistake)
    if level != "debug":  # it logs an exception with its text, twice; the class and place of each are in `gapless`
        server.addFilter(_told_briefly)
        logging.getLogger("google_adk").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").addFilter(_without_text)
        threading.excepthook = sys.unraisablehook = _unhandled
    access = logging.getLogger("uvicorn.access")
    access.setLevel(logging.INFO if level == "debug" else logging.CRITICAL)
    access.addFilter(_without_query)


def log_nowhere() -> None:
    """For commands that show by themselves what goes wrong in a run."""
    logging.getLogger().addHandler(logging.NullHandler())  # else Python writes warnings to standard error


def _without_query(record: logging.LogRecord) -> bool:
    # A request's query may hold what a person wrote.
    if isinstance(record.args, tuple) and len(record.args) > 2:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


def _no_mistake(record: logging.LogRecord) -> bool:
    return record.msg not in _ON_PURPOSE


def _told_briefly(record: logging.LogRecord) -> bool:
    # uvicorn writes the whole traceback as the message where an app does not start: a store that is away, say.
    if isinstance(record.msg, str) and record.msg.startswith(_TRACEBACK) and not record.args:
        last = record.msg.rstrip().rpartition("\n")[2]
        record.msg, record.args = "this process does not start: %s", (_OWN_ERROR.sub("", last),)
    return True


def _without_text(record: logging.LogRecord) -> bool:
    # What asyncio says of a task or a generator that nobody looked after is its exception, text and all.
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args, record.exc_info = _UNHANDLED, (class_and_place(record.exc_info[1]),), None
    return True


def _unhandled(raised: Any) -> None:
    """In place of Python's own hooks for threads and finalizers, which write the text to standard error."""
    if raised.exc_value is not None and not isinstance(raised.exc_value, SystemExit):
        log.error(_UNHANDLED, class_and_place(raised.exc_value))


class _Line(logging.Formatter):
    """A line for people: the fields that it has, and a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        run = f" run={fields['run']}" if "run" in fields else ""
        line = f"{fields['time']} {fields['level']} {fields['logger']}{run} {fields['message']}"
        if "exception" in fields:
            line += "\n" + fields["exception"]
        return clean(line)


class _Json(logging.Formatter):
    """An object per line for machines, tracebacks inside it."""

    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(_fields(record)).decode()


def _fields(record: logging.LogRecord) -> dict[str, str]:
    """Messages about a run begin with "run %s" and its id: the id becomes a field of its own."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "logger": record.name}
    message = record.getMessage().replace("\n", " ")
    if isinstance(record.msg, str) and record.msg.startswith("run %s") and isinstance(record.args, tuple):
        run_id = fields["run"] = str(record.args[0])
        message = message.removeprefix(f"run {run_id}").removeprefix(":").lstrip()
    fields["message"] = message
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = _formatter.formatException(record.exc_info)
    return fields


_formatter = logging.Formatter()
