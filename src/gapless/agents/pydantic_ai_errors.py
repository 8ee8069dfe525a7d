"""What Pydantic AI raises, as Gapless's errors."""

from __future__ import annotations

from collections.abc import Collection

from pydantic_ai import exceptions

from gapless.agents import failing
from gapless.agents.failing import Failures, refused
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


def _unexpected(error: exceptions.UnexpectedModelBehavior, run_id: str) -> GaplessError:
    if error.message.startswith(_EMPTY):
        return ModelFailed("the model's answer ended before it had said anything", run_id=run_id)
    return OutputInvalid(f"the model gave no valid output: {error.message}", run_id=run_id)


_FAILURES: Failures = {
    "pydantic_ai.RunTimedOut": lambda error, run_id: RunTimeout("the agent's own timeout ended the run", run_id=run_id),
    "pydantic_ai.RunCancelled": lambda error, run_id: RunCancelled("cancelled by the agent", run_id=run_id),
    "pydantic_ai.UsageLimitExceeded": lambda error, run_id: RunLimit(str(error), run_id=run_id),
    "pydantic_ai.ModelAPIError": refused(),
    "pydantic_ai.ModelAuthenticationError": refused("check the key and what it may use"),
    "pydantic_ai.ModelNotFoundError": refused("check the model's name and the base URL"),
    "pydantic_ai.ModelContextWindowExceededError": refused("the conversation is longer than its context window"),
    "pydantic_ai.ModelQuotaExceededError": refused("the account's quota is used up"),
    "pydantic_ai.ModelRateLimitError": refused("it is busy; try again later"),
    "pydantic_ai.ModelUnavailableError": refused("it is busy; try again later"),
    "pydantic_ai.ModelTimeoutError": lambda error, run_id: ModelFailed(
        f"the model {error.model_name} did not answer in time", run_id=run_id
    ),
    "pydantic_ai.FallbackExceptionGroup": lambda error, run_id: ModelFailed(
        "every model that the agent may fall back on failed", run_id=run_id
    ),
    "pydantic_ai.ContentFilterError": lambda error, run_id: ModelFailed(
        "the model's provider withheld the answer (content filter)", run_id=run_id
    ),
    "pydantic_ai.UnexpectedModelBehavior": _unexpected,
}
_ITS_OWN = (exceptions.AgentRunError, exceptions.FallbackExceptionGroup)
"""What the framework says of models, whichever tool was running."""


def failure(error: Exception, agent: str, run_id: str, running: Collection[str]) -> Exception:
    """Say what the run failed with. A tool is to blame where one of `running` was; an exception of other code is passed
    on as it is."""
    if isinstance(error, exceptions.UserError):
        return _setup_failure(error, agent, run_id)
    known = failing.failure(error, run_id, () if isinstance(error, _ITS_OWN) else running, _FAILURES)
    if running and isinstance(known, OutputInvalid):  # it was called wrongly too often
        return ToolFailed(f"tool {', '.join(sorted({*running}))}: {error}", run_id=run_id)
    return known


def _setup_failure(error: exceptions.UserError, agent: str, run_id: str) -> GaplessError:
    """Return the framework's own words to the developer. They name settings, not data."""
    if "API_KEY" in error.message or "api_key" in error.message:
        return ModelFailed(f"agent {agent} has no key for its model: {error.message}", run_id=run_id)
    return AgentInvalid(f"agent {agent}: {error.message}", run_id=run_id)
