"""What the operator says of limits and clients on the command line of `gapless serve`."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from gapless.cli.bounds import client_config_of, client_settings_of, config_of, connection_limits_of, limits_of
from gapless.config import ClientConfig, ConnectionLimits, Limits, RunConfig, StreamingMode
from gapless.errors import UsageError
from gapless.settings import CLIENT_SETTINGS


def test_limits_of_requests_and_of_connections_are_told_apart():
    options = ["runs_active_max=7", "head_s=5", "connections_per_address_max=9"]
    assert limits_of(options) == Limits(runs_active_max=7)
    assert connection_limits_of(options) == ConnectionLimits(head_s=5, connections_per_address_max=9)


def test_how_runs_go():
    told = config_of(["timeout=30", "on_busy=queue", "streaming_mode=none", "idle_timeout=null"], ["max_tokens=9"])
    assert told == RunConfig(
        timeout=30, on_busy="queue", streaming_mode=StreamingMode.NONE, model_settings={"max_tokens": 9}
    )
    assert config_of([], []) == RunConfig()
    assert pickle.loads(pickle.dumps(told)) == told, "it travels to the workers"


def test_what_clients_may_choose():
    assert client_config_of([]) == ClientConfig()
    told = client_config_of(["on_worker_lost=fail,restart", "on_busy=", "streaming_mode=sse", "fallback=true"])
    assert told.on_worker_lost == {"fail", "restart"}
    assert told.on_busy == frozenset()
    assert told.streaming_mode == {StreamingMode.SSE}
    assert told.fallback == {True}


def test_what_clients_may_set():
    assert client_settings_of([]) == CLIENT_SETTINGS
    assert client_settings_of(["none"]) == frozenset()
    assert client_settings_of(["usual", "model"]) == CLIENT_SETTINGS | {"model"}
    assert client_settings_of(["seed"]) == {"seed"}


@pytest.mark.parametrize(
    ("read", "option"),
    [
        (limits_of, "head=1"),
        (connection_limits_of, "head_s=0"),
        (lambda options: config_of(options, []), "model_settings=1"),
        (lambda options: config_of(options, []), "timeout=-1"),
        (lambda options: config_of(options, []), "timeout=soon"),
        (lambda options: config_of(options, []), "timeout"),
        (lambda options: config_of([], options), "=1"),
        (client_config_of, "timeout=1"),
        (client_config_of, "streaming_mode=loud"),
        (client_settings_of, "a,b"),
    ],
)
def test_what_makes_no_sense_is_refused(read: Callable[[list[str]], object], option: str):
    with pytest.raises(UsageError, match="--"):
        read([option])


@pytest.mark.parametrize(
    ("read", "option", "said"),
    [
        (lambda options: config_of(options, []), "timeout=abc", "--config timeout: a number of seconds, not 'abc'"),
        (lambda options: config_of(options, []), "max_llm_calls=2.5", "max_llm_calls: a whole number, not 2.5"),
        (lambda options: config_of(options, []), "fallback=maybe", "fallback: 'maybe'; one of true, false"),
        (lambda options: config_of(options, []), "on_busy=foo", "on_busy: 'foo'; one of reject, queue, interrupt"),
        (lambda options: config_of(options, []), "streaming_mode=loud", "'loud'; one of sse, none, bidi"),
        (client_config_of, "on_busy=foo", "--client-config on_busy: 'foo'; one of reject, queue, interrupt"),
        (client_config_of, "streaming_mode=loud", "streaming_mode: 'loud'; one of sse, none, bidi"),
        (client_config_of, "fallback=maybe", "fallback: 'maybe'; one of true, false"),
        (client_settings_of, "temperatur", "did you mean temperature"),
    ],
)
def test_what_is_refused_is_told_with_its_name_its_kind_and_what_was_given(
    read: Callable[[list[str]], object], option: str, said: str
):
    with pytest.raises(UsageError, match=said):
        read([option])


def test_a_setting_of_some_model_is_no_slip():
    assert client_settings_of(["top_n", "min_tokens", "max_new_tokens"]) == {"top_n", "min_tokens", "max_new_tokens"}
