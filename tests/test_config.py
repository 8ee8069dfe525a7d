"""Settings: both spellings, bounds, and what HTTP makes of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless import ClientConfig, RunConfig, StreamingMode
from gapless.errors import InputInvalid


def test_streaming_modes_in_every_spelling():
    assert StreamingMode.OFF is StreamingMode.NONE  # type: ignore[comparison-overlap]  # one member of two names
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


@pytest.mark.parametrize("given", ["sse", {"sse"}, ["sse"], [StreamingMode.SSE]])
def test_what_clients_may_choose_is_taken_by_its_words(given: Any):
    config = ClientConfig(streaming_mode=given, on_busy="queue")  # type: ignore[arg-type]  # by one word
    assert (config.streaming_mode, config.on_busy) == (frozenset({StreamingMode.SSE}), frozenset({"queue"}))
    assert RunConfig().narrowed({"streaming_mode": StreamingMode.SSE}, client_config=config) == RunConfig()
    with pytest.raises(InputInvalid, match="streaming_mode: 'none' is the operator's"):
        RunConfig().narrowed({"streaming_mode": StreamingMode.NONE}, client_config=config)
    assert ClientConfig(streaming_mode="off").streaming_mode == {StreamingMode.NONE}  # type: ignore[arg-type]  # so too
    wrong: Any
    for wrong in ("loud", [{}]):
        with pytest.raises(ValueError, match=r"streaming_mode: .*; one of sse, none, bidi"):
            ClientConfig(streaming_mode=wrong)


def test_what_a_client_may_choose_is_the_operators_word():
    own = RunConfig()
    for free in ({"on_busy": "queue"}, {"on_disconnect": "cancel"}, {"fallback": False}, {"streaming_mode": "none"}):
        name, value = next(iter(free.items()))
        given = StreamingMode(value) if name == "streaming_mode" else value
        assert getattr(own.narrowed({name: given}), name) == given
    with pytest.raises(InputInvalid, match="on_worker_lost: 'restart' is the operator's to choose here"):
        own.narrowed({"on_worker_lost": "restart"})
    allowed = ClientConfig(on_worker_lost=frozenset(("fail", "restart")), on_busy=frozenset())
    assert own.narrowed({"on_worker_lost": "restart"}, client_config=allowed).on_worker_lost == "restart"
    assert own.narrowed({"on_busy": "reject"}, client_config=allowed).on_busy == "reject", "as the operator has it"
    with pytest.raises(InputInvalid, match="on_busy"):
        own.narrowed({"on_busy": "queue"}, client_config=allowed)
    restarting = RunConfig(on_worker_lost="restart")
    assert restarting.narrowed({"on_worker_lost": "restart"}) == restarting
    assert restarting.narrowed({"on_worker_lost": "fail"}).on_worker_lost == "fail"
