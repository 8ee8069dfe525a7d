"""`gapless model`: what is known of the weights, where they are, how they get there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gapless.agents import embedded as model
from gapless.cli import app
from gapless.errors import ModelFailed


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(999_996))
    monkeypatch.setenv("GAPLESS_MODEL", str(path))
    return path


def test_shows_the_model_in_use(weights: Path) -> None:
    output = CliRunner().invoke(app, ["model"]).output
    assert "model    tiny\n" in output
    assert f"file     {weights} (1 MB)\n" in output


def test_prints_the_path(weights: Path) -> None:
    assert CliRunner().invoke(app, ["model", "path"]).output == f"{weights}\n"


def test_says_what_to_do_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "find_model", lambda: None)
    shown = CliRunner().invoke(app, ["model"])
    assert (shown.exit_code, "not installed: run `gapless model install`" in shown.output) == (0, True)
    path = CliRunner().invoke(app, ["model", "path"])
    assert (path.exit_code, path.stdout) == (1, "")
    assert "run `gapless model install`" in path.stderr


def test_installs_and_prints_where(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    def install(progress: model.InstallProgress) -> Path:
        progress("download", 1, 2)
        progress("install", 2, 2)
        progress("done", 2, 2)
        return weights

    monkeypatch.setattr(model, "install_model", install)
    result = CliRunner().invoke(app, ["model", "install"])
    assert (result.exit_code, result.stdout) == (0, f"{weights}\n")


def test_an_install_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(progress: model.InstallProgress) -> Path:
        raise ModelFailed("no installer here")

    monkeypatch.setattr(model, "install_model", install)
    result = CliRunner().invoke(app, ["model", "install"])
    assert (result.exit_code, result.output) == (1, "Error: no installer here\n")
