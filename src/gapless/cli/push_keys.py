"""`gapless push-keys`: a key by which browsers are told of runs."""

from __future__ import annotations

import typer

__all__ = ["push_keys"]


def push_keys() -> None:
    """Make a pair of keys, with which the server tells browsers that a run waits or has ended.

    The private one signs what is sent (VAPID) and is a secret: give it to the server, and to
    each that takes its place, as a variable, with an address under which you can be reached.
    The server tells browsers the public one. With another key all have to subscribe anew.

    [bold]Examples[/bold]
    gapless push-keys
    GAPLESS_NOTIFY="push_key=PRIVATE push_subject=mailto:you@example.com" gapless serve my_agents:support
    """
    from gapless.runs.push import new_keys

    private, public = new_keys()
    typer.echo(f"private  {private}")
    typer.echo(f"public   {public}")
