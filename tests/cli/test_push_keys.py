"""`gapless push-keys`: what it prints is what `gapless serve` takes."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from gapless.cli import app
from gapless.cli.bounds import notify_of
from gapless.errors import ExtraMissing, UsageError
from gapless.runs.push import check_push

SUBJECT = "push_subject=mailto:ops@example.com"


def test_the_keys_are_a_pair_that_serve_takes() -> None:
    result = CliRunner().invoke(app, ["push-keys"])
    assert result.exit_code == 0, result.output
    keys = dict(line.split() for line in result.output.splitlines())
    config = notify_of([f"push_key={keys['private']}", SUBJECT])
    assert check_push(config) == keys["public"]


def test_a_key_that_is_none_is_refused_without_being_shown() -> None:
    for options in (["push_key=secret", SUBJECT], [f"push_key={'A' * 43}", SUBJECT]):
        with pytest.raises(UsageError, match="gapless push-keys") as raised:
            notify_of(options)
        assert "secret" not in str(raised.value)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    key = CliRunner().invoke(app, ["push-keys"]).output.split()[1]
    monkeypatch.setitem(sys.modules, "pywebpush", None)
    with pytest.raises(ExtraMissing, match=r"gapless\[push\]"):
        notify_of([f"push_key={key}", SUBJECT])
