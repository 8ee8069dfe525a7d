"""Log lines of a server: one line each, `time level logger run=… message`, with run ids and without message text."""

from __future__ import annotations

import logging
import time

from gapless.cli.terminal import clean

__all__ = ["LEVELS", "log_nowhere", "log_to_stderr"]

LEVELS = ("critical", "error", "warning", "info", "debug")


def log_to_stderr(level: str) -> None:
    """Set up this process's logging. uvicorn speaks from `warning` on, and of each request at `debug` only."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("gapless").setLevel(number)
    logging.getLogger("uvicorn.error").setLevel(number if level == "debug" else max(number, logging.WARNING))
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


class _Line(logging.Formatter):
    """Messages about a run begin with "run %s" and its id: the id becomes a field of its own."""

    converter = time.gmtime  # type: ignore[assignment]  # typeshed knows it without its default

    def format(self, record: logging.LogRecord) -> str:
        message, run = record.getMessage().replace("\n", " "), ""
        if isinstance(record.msg, str) and record.msg.startswith("run %s") and isinstance(record.args, tuple):
            run_id = record.args[0]
            message, run = message.removeprefix(f"run {run_id}").removeprefix(":").lstrip(), f" run={run_id}"
        moment = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        line = f"{moment} {record.levelname.lower()} {record.name}{run} {message}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return clean(line)
