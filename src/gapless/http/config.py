"""The settings of a run that a client may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gapless.config import RunConfig, StreamingMode
from gapless.runs.runner import Runner

__all__ = ["AskedConfig", "config_for", "config_with", "live_config"]

if TYPE_CHECKING:
    AskedConfig = Any
else:
    # A `RunConfig` of which it is known what was left out: that is the operator's to say.
    AskedConfig = msgspec.defstruct(
        "RunConfig",
        [(field.name, field.type | msgspec.UnsetType, msgspec.UNSET) for field in msgspec.structs.fields(RunConfig)],
        forbid_unknown_fields=True,
    )


def config_with(runner: Runner, **wanted: Any) -> RunConfig:
    """Return the runner's config with what a family's protocol wants by itself, as far as that is left to clients."""
    left = {name: value for name, value in wanted.items() if value in getattr(runner.client_config, name)}
    return msgspec.structs.replace(runner.config, **left)


def live_config(runner: Runner, asked: AskedConfig | None = None) -> RunConfig:
    """Return the config of a run that is spoken to while it speaks. Raises `InputInvalid`, also where that is not left
    to clients."""
    wanted = AskedConfig() if asked is None else asked
    return config_for(runner, msgspec.structs.replace(wanted, streaming_mode=StreamingMode.BIDI)) or runner.config


def config_for(runner: Runner, asked: AskedConfig | None) -> RunConfig | None:
    """Return the config of a run of whoever asks for this one. Raises `InputInvalid`."""
    if asked is None:
        return None
    fields = msgspec.structs.asdict(asked)
    given = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    return runner.config.narrowed(given, runner.client_settings, runner.client_config)
