"""What agents raise, as Gapless's errors: a table from an exception's class to what the run failed with. For adapters.

No message of somebody else's exception gets out: it may hold what people wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeAlias

from gapless.agents.base import SEE_LOG, log_raised
from gapless.agents.places import class_and_place, class_of, only_one
from gapless.errors import GaplessError, ModelFailed, OutputInvalid, RunLimit, ToolFailed

__all__ = ["Failures", "failure", "refused", "tool_failure"]

log = logging.getLogger("gapless.agents")

Failures: TypeAlias = Mapping[str, Callable[[Any, str], GaplessError]]
"""By the class's package and name (`openai.APITimeoutError`): what makes the run's error of it and the run's id."""

_HINTS = {
    400: "it refused the request",
    401: "check the key and what it may use",
    403: "check the key and what it may use",
    404: "check the model's name and the base URL",
    413: "the conversation is too long for it",
    429: "it is busy, or the account's quota is used up; try again later",
}


def refused(hint: str | None = None, *, unheard: str = "could not be reached") -> Callable[[Any, str], GaplessError]:
    """Return what makes the run's error of a model's refusal: `hint` says what to do, or else the service's status
    does; `unheard` what has happened where there is none."""

    def make(error: Any, run_id: str) -> GaplessError:
        response, name = getattr(error, "response", None), getattr(error, "model_name", None)
        places = (getattr(error, "status_code", 0), getattr(response, "status_code", 0), getattr(error, "code", 0))
        status = next((found for found in places if found and isinstance(found, int)), 0)
        known = hint or _HINTS.get(status) or ("it is down; try again later" if status >= 500 else None)
        said = f"the model {name}" if isinstance(name, str) else "the model"
        said = f"{said} answered {status}" if status else f"{said} {unheard}"
        return ModelFailed(f"{said}: {known}" if known else said, run_id=run_id)

    return make


_answered = refused(unheard="refused")


def _silent(error: Any, run_id: str) -> GaplessError:
    return ModelFailed("the model did not answer in time", run_id=run_id)


def _away(error: Any, run_id: str) -> GaplessError:
    return ModelFailed("the model could not be reached", run_id=run_id)


def _unread(error: Any, run_id: str) -> GaplessError:
    return OutputInvalid(f"the model gave no valid output ({type(error).__name__})", run_id=run_id)


_CLIENTS: Failures = {
    **{
        f"{package}.{name}": make
        for package in ("openai", "anthropic", "groq")
        for name, make in (
            ("APITimeoutError", _silent),
            ("APIConnectionError", _away),
            ("APIStatusError", _answered),
            ("APIError", _answered),
        )
    },
    "google.APIError": _answered,
    "botocore.ClientError": _answered,
    "httpx.TimeoutException": _silent,
    "httpx.TransportError": _away,
    "httpx.HTTPStatusError": _answered,
    "httpx2.TimeoutException": _silent,
    "httpx2.TransportError": _away,
    "httpx2.HTTPStatusError": _answered,
    "langchain_core.ContextOverflowError": lambda error, run_id: ModelFailed(
        "the conversation is longer than the model's context window", run_id=run_id
    ),
    "langchain_core.OutputParserException": _unread,
    "langchain.StructuredOutputError": _unread,
    "langchain.StructuredOutputValidationError": _unread,
    "langgraph.GraphRecursionError": lambda error, run_id: RunLimit(
        "the graph took more steps than its recursion_limit", run_id=run_id
    ),
}
"""The exceptions of the libraries by which models are asked."""


def failure(error: Exception, run_id: str, running: Collection[str] = (), table: Failures | None = None) -> Exception:
    """Say what the run `run_id`, in which `error` was raised, failed with, by the framework's `table` and that of the
    model services' clients. A tool is to blame where one of `running` was; an exception of other code is passed
    on as it is."""
    if isinstance(error, GaplessError):
        return error
    if running:
        return tool_failure(error, run_id, running)
    for cls in type(error).__mro__:
        name = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
        make = (table or {}).get(name) or _CLIENTS.get(name)
        if make is not None:
            known = make(error, run_id)
            log.info("run %s: %s: %s", run_id, known.code, class_and_place(error))
            log.debug("run %s", run_id, exc_info=error)
            return known
    if (one := only_one(error)) is not error and isinstance(one, Exception):
        found = failure(one, run_id, (), table)
        return found if isinstance(found, GaplessError) else error
    return error


def raise_as(known: Exception, error: Exception) -> NoReturn:
    """Raise what a run failed with, `known`, for the `error` that was raised: from it, unless it is the same, which
    would lose its own cause."""
    try:
        if known is error:
            raise error
        raise known from error
    finally:
        del known, error  # they refer to this frame


def tool_failure(error: BaseException, run_id: str, names: Collection[str]) -> ToolFailed:
    """Say that one of the tools `names` of the run `run_id` raised `error`, whose text goes into the server's log
    alone."""
    told = ", ".join(sorted(set(names)))
    log_raised(log, run_id, f"tool {told}", error)
    return ToolFailed(f"tool {told} raised {class_of(error)}{SEE_LOG}", run_id=run_id)
