"""One class, one code, one status each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gapless import errors
from gapless.errors import GaplessError, RunFailed, error_for_code, is_code

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
