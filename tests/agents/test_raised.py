"""What a step raised, as it is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gapless.agents.raised import decode_raised, encode_raised
from gapless.errors import GaplessError, RunTimeout


class Refused(ConnectionError):
    def __init__(self, host: str, answer: Any) -> None:
        super().__init__(111, f"{host} refuses")
        self.host, self.answer = host, answer


class Picky(LookupError):
    def __new__(cls, *args: str) -> Picky:
        if args != ("this",):
            raise TypeError("only this")
        return super().__new__(cls)

    def __init__(self, _: str) -> None:
        super().__init__("that")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


class Page(BaseModel):
    number: int


def again(error: Exception) -> Exception:
    return decode_raised(encode_raised(error))


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("k"), ZeroDivisionError(), OSError(2, "gone"), json.JSONDecodeError("odd", "{", 1)],
    ids=lambda error: type(error).__name__,
)
def test_it_is_of_its_class_and_says_the_same(error: Exception):
    assert type(again(error)) is type(error)
    assert str(again(error)) == str(error)
    assert again(error).args == error.args


def test_its_own_attributes_are_kept_where_they_are_plain():
    found = again(Refused("bank", object()))
    assert isinstance(found, Refused)
    assert (found.host, found.errno, str(found)) == ("bank", 111, "[Errno 111] bank refuses")
    assert not hasattr(found, "answer")


def test_an_error_of_gapless_is_one_again():
    found = again(RunTimeout("too long", run_id="r", retry_after_s=3.0))
    assert isinstance(found, GaplessError)
    assert (found.code, found.message, found.run_id, found.retry_after_s) == ("run_timeout", "too long", "r", 3.0)


def test_what_cannot_be_made_again_is_of_the_class_that_it_is_derived_from():
    class Local(KeyError): ...

    with pytest.raises(ValidationError) as raised:
        Page(number="many")  # type: ignore[arg-type]
    for error, kind in [
        (raised.value, ValueError),
        (Local("k"), KeyError),
        (Picky("this"), LookupError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeError),
        (ExceptionGroup("several", [ValueError("one")]), Exception),
    ]:
        found = again(error)
        assert type(found) is kind
        assert str(error).strip("'") in str(found)


@pytest.mark.parametrize("text", ["half \ud800", "\x00", "é" * 10])
def test_any_text_can_be_kept(text: str):
    assert str(again(ValueError(text, 2**70, float("inf")))).startswith("('")


def test_one_that_has_no_text_is_kept():
    assert isinstance(again(Speechless(1)), Speechless)
