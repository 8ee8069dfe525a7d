"""`gapless client`: the npm package as a tarball."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from typer.testing import CliRunner

from gapless.cli import app


def test_packs_what_npm_installs(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["client", "pack", str(tmp_path)])
    (tarball,) = tmp_path.iterdir()
    assert (shown.exit_code, shown.output.replace("\n", "")) == (0, str(tarball))
    with tarfile.open(tarball) as archive:
        names = set(archive.getnames())
        package = json.loads(archive.extractfile("package/package.json").read())  # type: ignore[union-attr]  # a file
    assert tarball.name == f"gapless-client-{package['version']}.tgz"
    assert {f"package/{name}" for name in ["package.json", "LICENSE", *package["files"]]} == names


def test_says_which_folder_is_missing(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["client", "pack", str(tmp_path / "none")])
    assert (shown.exit_code, "none" in shown.output) == (2, True)
