"""`gapless client`: the npm package of this version."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Annotated

import typer

import gapless

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _about() -> None:
    """Give away `gapless-client`, the npm package that comes with this version."""


@app.command()
def pack(
    folder: Annotated[
        Path, typer.Argument(help="Where the tarball is put.", exists=True, file_okay=False, writable=True)
    ] = Path(),
) -> None:
    """Write the package as a tarball, as `npm pack` does, and print its path.

    `npm install ./gapless-client-….tgz` copies it into a project: a package.json that names
    the tarball means the same on every machine, as a folder of a virtual environment does not.
    """
    source = Path(gapless.__file__).parent / "server" / "gapless-client"
    version = json.loads((source / "package.json").read_text())["version"]
    target = folder / f"gapless-client-{version}.tgz"
    with tarfile.open(target, "w:gz") as archive:
        for file in sorted(source.iterdir()):
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"package/{file.name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    typer.echo(target)
