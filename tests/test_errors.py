"""One class, one code, one status each."""

from __future__ import annotations

import pytest

from gapless import errors
from gapless.errors import GaplessError, RunFailed, error_for_code

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
