"""Options of `gapless serve`: what each takes, and says of itself in `--help`."""

from __future__ import annotations

from typing import Annotated

import typer

from gapless.cli.agents import AGENT_HELP
from gapless.cli.settings_file import DEFAULT_PATH, ENVIRONMENT, by_name, read_settings

WORKERS_MAX = 256
DRAIN_S_MAX = LEASE_S_MAX = 3600.0
RETENTION_DAYS_MIN = 0.001

Agents = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="AGENT",
        help=f"{AGENT_HELP} Several: name=AGENT each.",
        show_default=False,
        envvar=f"{ENVIRONMENT}_AGENTS",
        show_envvar=False,
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Uds = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Listen on this Unix socket, for a proxy on this machine, and on no port."),
]
Port = Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)]
Store = Annotated[
    str, typer.Option(help="Where journals are kept: sqlite:///file.db, redis://…, postgresql://… or memory://.")
]
Workers = Annotated[int, typer.Option(help="Processes on one socket.", min=1, max=WORKERS_MAX)]
Drain = Annotated[
    float, typer.Option(help="Seconds that runs get to finish when it is told to end.", min=0, max=DRAIN_S_MAX)
]
Retention = Annotated[
    float,
    typer.Option(
        metavar="DAYS", help="How long the events of ended runs are kept; inf: for good.", min=RETENTION_DAYS_MIN
    ),
]
Lease = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="A worker without a sign of life for so long is taken for dead.", min=1, max=LEASE_S_MAX
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        callback=by_name,
        help="A bound of each worker, e.g. runs_active_max=500; see docs/deploy.md.",
    ),
]
Config = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        callback=by_name,
        help="How runs go, e.g. timeout=120; clients may only draw bounds closer.",
    ),
]
ModelSettings = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        callback=by_name,
        help="A setting of the model, e.g. max_tokens=1000, which clients may lower.",
    ),
]
ClientConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE,…", callback=by_name, help="What clients may choose, e.g. on_busy=reject,queue."),
]
ClientSettings = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A model setting that clients may set, in place of the usual; usual, none."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Listen beyond this machine although anyone may then use it.")
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name that a server without keys may be called by, beside its address."),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(metavar="ORIGIN", help="A site whose pages may call, e.g. https://app.example.com (CORS)."),
]
PathPrefix = Annotated[
    str, typer.Option(metavar="PATH", help="Serve under this path, e.g. /agents; a proxy may cut it off or not.")
]
LoginUrl = Annotated[
    str,
    typer.Option(
        metavar="URL", help="Where the page sends who is not known, in place of a key; {next}: the page's own address."
    ),
]
LogoutUrl = Annotated[str, typer.Option(metavar="URL", help="Where the page's Log out leads.")]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        callback=by_name,
        help="Who is told that runs wait or have ended, e.g. url=https://…; see docs/deploy.md.",
    ),
]
Operators = Annotated[
    list[str] | None,
    typer.Option(metavar="USER", help="Who sees all runs at /runs, cancels and answers them: the name of a key."),
]
HangUps = Annotated[
    list[str] | None,
    typer.Option(metavar="CLIENTS", help="ag-ui, vercel, openai or text: their runs are cancelled when they hang up."),
]
SharedState = Annotated[
    bool, typer.Option("--shared-state", help="Clients may set ADK's app: state, which all users' agents read.")
]
Reload = Annotated[
    bool, typer.Option("--reload", help="For development: take up the agents' code when it changes, as at SIGHUP.")
]
AdkWeb = Annotated[bool, typer.Option("--adk-web", help="Also ADK's own web page, at /dev-ui/.")]
LogLevel = Annotated[
    str, typer.Option(help="critical, error, warning, info, or debug (also each request, and tracebacks).")
]
LogFormat = Annotated[str, typer.Option(help="text, or json: an object per line.")]
SettingsFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", callback=read_settings, is_eager=True, help=f"TOML; {DEFAULT_PATH} is read where there is one."
    ),
]
