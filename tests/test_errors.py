"""One class, one code, one status each."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from gapless import errors
from gapless.agents.raised import decode_raised, encode_raised
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    ConnectionLost,
    GaplessError,
    InputInvalid,
    LimitReached,
    ModelFailed,
    NotAuthenticated,
    RunFailed,
    RunNotFound,
    SessionBusy,
    ShuttingDown,
    StoreUnavailable,
    StreamingUnavailable,
    as_raised,
    error_for_code,
    is_code,
    run_failure,
)

CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]


def test_codes_are_unique():
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_code_from_a_wire_becomes_its_class_again(cls: type[GaplessError]):
    error = error_for_code(cls.code, "what happened", run_id="r")
    assert type(error) is cls
    assert (error.code, error.message, error.run_id, str(error)) == (cls.code, "what happened", "r", "what happened")
    assert 400 <= cls.status < 600
    assert cls.__doc__


def test_a_code_not_known_here_is_kept():
    error = error_for_code("quota", "no more")
    assert type(error) is RunFailed
    assert error.code == "quota"
    assert error_for_code(None, "?").code == "run_failed"


def test_every_error_with_a_code_is_in_the_catalogue():
    names = {cls.__name__ for cls in CLASSES}
    elsewhere = [
        f"{path}: {node.name}"
        for path in Path(errors.__file__).parent.rglob("*.py")
        if path != Path(errors.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
    ]
    assert not elsewhere
    assert all(map(is_code, ("run_waits", "session_exists", "internal_error")))


@pytest.mark.parametrize("cls", CLASSES)
def test_what_a_run_failed_with_is_a_run_failed_and_keeps_its_code(cls: type[GaplessError]):
    error = run_failure(cls.code, "what happened", run_id="r", text="so far")
    assert isinstance(error, RunFailed)
    assert (error.code, error.message, error.run_id, error.text) == (cls.code, "what happened", "r", "so far")
    assert type(error) is type(run_failure(cls.code, "again"))
    if issubclass(cls, RunFailed):
        assert type(error) is cls


@pytest.mark.parametrize(
    "cls", [AgentInvalid, InputInvalid, LimitReached, ModelFailed, ShuttingDown, StoreUnavailable, StreamingUnavailable]
)
def test_it_is_of_the_class_of_its_code_too(cls: type[GaplessError]):
    error = run_failure(cls.code, "what happened")
    assert isinstance(error, cls)
    assert (error.status, type(error).__name__) == (cls.status, cls.__name__)
    assert type(error_for_code(cls.code, "what happened")) is cls  # what a request is refused with is no failed run


@pytest.mark.parametrize("cls", [RunNotFound, SessionBusy, NotAuthenticated, ConnectionLost])
def test_what_an_agent_met_of_others_is_not_the_callers_own(cls: type[GaplessError]):
    assert type(run_failure(cls.code, "no run 4711")) is AgentFailed


def test_a_run_that_failed_with_a_code_of_its_agents_own_has_failed_by_its_agent():
    assert type(run_failure("endpoint_cut", "cut")) is AgentFailed
    assert type(run_failure(None, "?")) is RunFailed


@pytest.mark.parametrize("code", ["model_failed", "streaming_unavailable", "tool_failed", "endpoint_cut"])
def test_it_comes_through_pickling_and_a_replay_as_it_is(code: str):
    error = run_failure(code, "what happened", run_id="r", text="so far")
    for again in (pickle.loads(pickle.dumps(error)), decode_raised(encode_raised(error))):
        assert type(again) is type(error)
        assert (again.code, again.message, again.run_id, again.text) == (code, "what happened", "r", "so far")


def test_where_a_program_is_its_agents_own_server_it_catches_what_the_agent_met():
    met = RunNotFound("no run 4711")
    with pytest.raises(RunNotFound) as caught, as_raised():
        raise run_failure(met.code, met.message) from met
    assert caught.value is met
    with pytest.raises(ModelFailed), as_raised():  # which is what was raised, whatever it came from
        raise run_failure(ModelFailed.code, "the model is away") from ConnectionLost("no answer")
