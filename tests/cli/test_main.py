"""The command as a whole: help, version, errors in one line, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gapless import __version__
from gapless.cli import app

COMMANDS = ["chat", "serve", "runs", "follow", "cancel", "demo", "model", "doctor"]


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"gapless {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_teaches(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "Usage: " in result.output
    if arguments[0] != "model":
        assert "Examples" in result.output


def test_help_imports_no_server_and_no_framework() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from gapless.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(*({'fastapi', 'starlette', 'uvicorn', 'httpx2', 'pydantic_ai', 'google.adk'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["nonsense"], 2, "No such command 'nonsense'; `gapless --help` shows what it takes"),
        (["--nonsense"], 2, "No such option: --nonsense; `gapless --help` shows what it takes"),
        (["chat", "--nonsense"], 2, "No such option: --nonsense; `gapless chat --help` shows what it takes"),
        (["chat", "--store"], 2, "--store"),
        (["follow"], 2, "Missing argument 'run'; `gapless follow --help`"),
        (["model", "nonsense"], 2, "`gapless model --help`"),
        (["chat", "-m", "hi", "nowhere"], 2, "write module:attribute"),
        (["chat", "-m", "hi", "no_such_module:agent"], 2, "'no_such_module' was not found"),
        (["chat", "-m", "hi", "no_such_file.py:agent"], 2, "no_such_file.py does not exist"),
        (["chat", "-m", "hi", "json:nope"], 2, "json has no 'nope'"),
        (["chat", "-m", "hi", "sys:version_info"], 1, "cannot run a"),
        (["chat", "-m", "hi", "missing.gguf"], 1, "missing.gguf"),
        (["chat", "-m", "hi", "json:dumps", "--set", "temperature"], 2, "write key=value"),
        (["chat", "-m", "hi", "json:dumps", "--store", "papyrus://x"], 2, "unknown kind of store"),
        (["chat", "-m", "hi", "json:dumps", "--session", "a b"], 1, "session id"),
        (["chat", "-m", "", "json:dumps"], 1, "the message is empty"),
        (["chat", "json:dumps", "--timeout", "0"], 2, "0.001"),
        (["serve", "json:dumps", "--workers", "0"], 2, "greater than or equal to 1"),
        (["serve", "json:dumps", "--log-level", "loud"], 2, "one of critical"),
        (["serve", "json:dumps", "--log-format", "xml"], 2, "one of text, json"),
        (["runs", "--status", "lost"], 2, "one of queued"),
        (["runs", "--store", "sqlite:///missing.db"], 2, "there is no file missing.db"),
        (["runs", "--store", "memory://"], 2, "another process's memory"),
        (["runs", "--store", "sqlite:///a.db", "--url", "http://x"], 2, "not both"),
        (["runs", "--store", f"sqlite:///{'x' * 300}.db"], 1, "File name too long; check the path"),
        (["follow", "r", "--url", "localhost:8000"], 2, "not a server's URL"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(arguments: list[str], exit_code: int, message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert message in result.output
    assert result.exit_code == exit_code
    assert "Traceback" not in result.output
    (error,) = result.stderr.splitlines()
    assert error.startswith("Error: ")


def test_without_arguments_there_is_help() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Commands" in result.output
    assert "Error" not in result.output


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["--debug", "chat", "-m", "hi", "nowhere"])
    assert type(result.exception).__name__ == "AgentNotFound"


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise LookupError("who would have thought")

    monkeypatch.setattr("gapless.agents.embedded.model_info", explode)
    result = CliRunner().invoke(app, ["model"])
    assert (result.exit_code, result.output) == (
        1,
        "Error: unexpected LookupError: who would have thought; `gapless --debug …` shows where\n",
    )
