"""Settings: both spellings, bounds, and what HTTP makes of them."""

from __future__ import annotations

import msgspec
import pytest

from gapless import RunConfig, StreamingMode


def test_streaming_modes_in_every_spelling():
    assert StreamingMode.OFF is StreamingMode.NONE
    assert StreamingMode("off") is StreamingMode("none") is StreamingMode.NONE
    with pytest.raises(ValueError, match="loud"):
        StreamingMode("loud")


def test_a_config_survives_json():
    config = RunConfig(
        streaming_mode=StreamingMode.OFF,
        timeout=None,
        on_busy="queue",
        model_settings={"temperature": 0.5, "max_tokens": 10},
    )
    assert msgspec.json.decode(msgspec.json.encode(config), type=RunConfig) == config


@pytest.mark.parametrize(
    "body",
    [b'{"colour": 1}', b'{"timeout": 0}', b'{"timeout": -1}', b'{"on_busy": "x"}', b'{"max_llm_calls": 0}', b"[]"],
)
def test_what_is_no_config(body: bytes):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=RunConfig)


def test_python_is_told_what_json_is_told():
    assert RunConfig(streaming_mode="off").streaming_mode is StreamingMode.NONE  # type: ignore[arg-type]
    for wrong in ({"on_busy": "foo"}, {"on_disconnect": 1}, {"on_worker_lost": None}, {"streaming_mode": "foo"}):
        with pytest.raises(ValueError, match=r"must be one of|is not a valid"):
            RunConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        RunConfig(timeout="x")  # type: ignore[arg-type]


def test_nan_is_no_duration():
    with pytest.raises(ValueError, match="idle_timeout"):
        RunConfig(idle_timeout=float("nan"))
