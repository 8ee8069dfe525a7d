"""What Pydantic AI raises, as Gapless's errors."""

from __future__ import annotations

import logging
from collections.abc import Collection

from pydantic_ai import exceptions

from gapless.agents.base import SEE_LOG, log_raised
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    ModelFailed,
    OutputInvalid,
    RunCancelled,
    RunLimit,
    RunTimeout,
    ToolFailed,
)

__all__ = ["failure"]

_EMPTY = "Streamed response ended without content"
"""How the framework's model classes say it: there is no class for it."""

log = logging.getLogger("gapless.agents.pydantic_ai")


def failure(error: Exception, agent: str, run_id: str, running: Collection[str]) -> Exception:
    """Say what the run failed with. A tool is to blame where one of `running` was; an exception of other code is passed
    on as it is."""
    if isinstance(error, exceptions.RunTimedOut):
        return RunTimeout("the agent's own timeout ended the run", run_id=run_id)
    if isinstance(error, exceptions.RunCancelled):
        return RunCancelled("cancelled by the agent", run_id=run_id)
    if isinstance(error, exceptions.UsageLimitExceeded):
        return RunLimit(str(error), run_id=run_id)
    if isinstance(error, exceptions.UserError):
        return _setup_failure(error, agent, run_id)
    if isinstance(error, exceptions.ModelAPIError):
        return ModelFailed(_model_failure(error), run_id=run_id)
    if isinstance(error, exceptions.FallbackExceptionGroup):
        return ModelFailed("every model that the agent may fall back on failed", run_id=run_id)
    if isinstance(error, exceptions.ContentFilterError):
        return ModelFailed("the model's provider withheld the answer (content filter)", run_id=run_id)
    if isinstance(error, exceptions.UnexpectedModelBehavior) and error.message.startswith(_EMPTY):
        return ModelFailed("the model's answer ended before it had said anything", run_id=run_id)
    if running:
        names = ", ".join(sorted(set(running)))
        if isinstance(error, exceptions.UnexpectedModelBehavior):
            return ToolFailed(f"tool {names}: {error}", run_id=run_id)
        log_raised(log, run_id, f"tool {names}", error)
        return ToolFailed(f"tool {names} raised {type(error).__name__}{SEE_LOG}", run_id=run_id)
    if isinstance(error, exceptions.UnexpectedModelBehavior):
        return OutputInvalid(f"the model gave no valid output: {error.message}", run_id=run_id)
    return error


def _setup_failure(error: exceptions.UserError, agent: str, run_id: str) -> GaplessError:
    """Return the framework's own words to the developer. They name settings, not data."""
    if "API_KEY" in error.message or "api_key" in error.message:
        return ModelFailed(f"agent {agent} has no key for its model: {error.message}", run_id=run_id)
    return AgentInvalid(f"agent {agent}: {error.message}", run_id=run_id)


def _model_failure(error: exceptions.ModelAPIError) -> str:
    status = getattr(error, "status_code", None)
    said = f"the model {error.model_name} " + (f"answered {status}" if status is not None else "could not be reached")
    if isinstance(error, exceptions.ModelAuthenticationError):
        return f"{said}: check the key and what it may use"
    if isinstance(error, exceptions.ModelNotFoundError):
        return f"{said}: check the model's name and the base URL"
    if isinstance(error, exceptions.ModelContextWindowExceededError):
        return f"{said}: the conversation is longer than its context window"
    if isinstance(error, exceptions.ModelQuotaExceededError):
        return f"{said}: the account's quota is used up"
    if isinstance(error, exceptions.ModelRateLimitError | exceptions.ModelUnavailableError):
        return f"{said}: it is busy; try again later"
    if isinstance(error, exceptions.ModelTimeoutError):
        return f"the model {error.model_name} did not answer in time"
    return said
