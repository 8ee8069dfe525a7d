"""`gapless serve`: agents over HTTP, from one process or several on one socket."""

from __future__ import annotations

import functools
import multiprocessing
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.agents import AGENT_HELP, load_agents
from gapless.cli.bounds import client_config_of, client_settings_of, config_of, connection_limits_of, limits_of
from gapless.cli.terminal import clean, say
from gapless.config import ClientConfig, ConnectionLimits, Limits, RunConfig
from gapless.errors import UsageError
from gapless.settings import CLIENT_SETTINGS

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from gapless.agents.base import Agent
    from gapless.cli.workers import Replacing

__all__ = ["serve"]

_Limits = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER", help="A bound of each worker, e.g. runs_active_max=500; see docs/deploy.md."),
]
_Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name that a server without keys may be called by, beside its address."),
]
_Configs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="How runs go, e.g. timeout=120; clients may only draw bounds closer."),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A setting of the model, e.g. max_tokens=1000, which clients may lower."),
]
_ClientConfigs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE,…", help="What clients may choose, e.g. on_busy=reject,queue."),
]
_ClientSettings = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A model setting that clients may set, in place of the usual; usual, none."),
]

WORKERS_MAX = 256
DRAIN_S_MAX = 3600.0


def serve(
    agents: Annotated[
        list[str] | None,
        typer.Argument(metavar="AGENT", help=f"{AGENT_HELP} Several: name=AGENT each.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = 8000,
    store: Annotated[
        str, typer.Option(help="Where journals are kept: sqlite:///file.db, redis://host, or memory://.")
    ] = "sqlite:///gapless.db",
    workers: Annotated[int, typer.Option(help="Processes on one socket.", min=1, max=WORKERS_MAX)] = 1,
    drain: Annotated[
        float, typer.Option(help="Seconds that runs get to finish when it is told to end.", min=0, max=DRAIN_S_MAX)
    ] = 10.0,
    limit: _Limits = None,
    config: _Configs = None,
    setting: _Settings = None,
    client_config: _ClientConfigs = None,
    client_setting: _ClientSettings = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine although anyone may then use it.")
    ] = False,
    allowed_host: _Hosts = None,
    adk_web: Annotated[bool, typer.Option("--adk-web", help="Also ADK's own web page, at /dev-ui/.")] = False,
    log_level: Annotated[
        str, typer.Option(help="critical, error, warning, info, or debug (also each request, and tracebacks).")
    ] = "info",
    log_format: Annotated[str, typer.Option(help="text, or json: an object per line.")] = "text",
) -> None:
    """Serve agents: the chat page, the HTTP routes, and every run's journal from any position.

    Listens on this machine. Listening elsewhere takes authentication: keys in
    GAPLESS_API_KEYS (alice=KEY,bob=KEY; each of 16 characters or more).
    SIGTERM and Ctrl-C end it in order: runs finish, read by who reads them, or are
    closed within seconds, exit code 0.

    [bold]Examples[/bold]
    gapless serve
    gapless serve my_agents:support --port 9000 --store memory://
    gapless serve support=my_agents:support sales=sales.py:agent --workers 4
    KEY=$(openssl rand -hex 16); echo "Alice's key: $KEY"
    GAPLESS_API_KEYS=alice=$KEY gapless serve my_agents:support --host 0.0.0.0
    """
    from gapless.cli.listen import bind, exit_at_signals, is_loopback

    users = _check_options(host, store, workers, log_level, log_format, insecure=insecure)
    connections = connection_limits_of(limit or [])
    exit_at_signals()
    guarded = users is None and is_loopback(host)
    settings = Settings(
        tuple(agents or ()),
        host,
        store,
        drain,
        limits_of(limit or []),
        log_level,
        log_format,
        guarded,
        adk_web,
        tuple(allowed_host or ()),
        config_of(config or [], setting or []),
        client_config_of(client_config or []),
        client_settings_of(client_setting or []),
    )
    loaded = _prepare(settings)
    listener = bind(host, port)
    _announce(settings, listener, list(loaded), users, workers)
    _run(settings, listener, loaded, workers, connections)


def _check_options(
    host: str, store: str, workers: int, log_level: str, log_format: str, *, insecure: bool
) -> list[str] | None:
    """Return the users whose keys are known, None where there are no keys. Raises `UsageError`."""
    from gapless.cli.listen import is_loopback
    from gapless.cli.logs import FORMATS, LEVELS
    from gapless.http.auth import users_from_environment
    from gapless.journals import store_class

    if log_level not in LEVELS:
        raise UsageError(f"--log-level {log_level!r}: it is one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise UsageError(f"--log-format {log_format!r}: it is one of {', '.join(FORMATS)}")
    if workers > 1 and not store_class(store).shared:
        raise UsageError(
            f"--workers {workers} needs a store that processes share: --store sqlite:///gapless.db or redis://host"
        )
    users = users_from_environment()
    if users is None and not is_loopback(host) and not insecure:
        raise UsageError(
            f"--host {host} lets others in, and no authentication is configured: set GAPLESS_API_KEYS=name=key, or add "
            "--insecure if anyone may use these agents"
        )
    return users


def _prepare(settings: Settings) -> dict[str, Agent]:
    """Find out what would fail in the workers here, where it is one line and not N dying processes."""
    from gapless.cli.listen import check_store
    from gapless.cli.logs import log_to_stderr

    log_to_stderr(settings.log_level, settings.log_format)
    loaded = load_agents(list(settings.agents))
    if settings.adk_web:
        from gapless.protocols.adk.web import page_directory

        page_directory()
    check_store(settings.store)
    return loaded


def _announce(
    settings: Settings, listener: socket.socket, agents: list[str], users: list[str] | None, workers: int
) -> None:
    """Say where the server is, what it serves and to whom."""
    from gapless.cli.listen import is_loopback, url_of
    from gapless.journals.contract import shown_url

    typer.echo(f"page    {url_of(listener)}")
    if settings.adk_web:
        typer.echo(f"adk     {url_of(listener).rstrip('/')}/dev-ui/")
    typer.echo(f"agents  {clean(', '.join(agents))}")
    if users is not None:
        typer.echo(f"users   {clean(', '.join(users))}")
    typer.echo(f"store   {shown_url(settings.store)}")
    if workers > 1:
        typer.echo(f"workers {workers}")
    if users is None and not is_loopback(settings.host):
        say("Anyone who reaches this port may use these agents (--insecure).", style="yellow")


def _run(
    settings: Settings, listener: socket.socket, agents: dict[str, Agent], workers: int, limits: ConnectionLimits
) -> None:
    """Serve in this process, or in several, until the program is told to end."""
    from gapless.cli.listen import server_config

    access_log = settings.log_level == "debug"
    if workers > 1:
        from gapless.cli.workers import Replacing, run_workers

        replacing = Replacing()
        make = functools.partial(make_worker_app, settings, workers, replacing)
        config = server_config(make, workers=workers, factory=True, access_log=access_log, limits=limits)
        run_workers(config, listener, replacing)
    else:
        import uvicorn

        config = server_config(make_app(settings, agents), access_log=access_log, limits=limits)
        uvicorn.Server(config).run(sockets=[listener])


@dataclass(frozen=True, slots=True)
class Settings:
    """What each worker process is told. It loads the agents by itself: they do not travel between processes."""

    agents: tuple[str, ...]
    host: str
    store: str
    drain_s: float
    limits: Limits
    log_level: str
    log_format: str
    guarded: bool
    """Nobody is authenticated and the server trusts this machine: it answers to this machine's names only."""
    adk_web: bool = False
    allowed_hosts: tuple[str, ...] = ()
    config: RunConfig | None = None
    client_config: ClientConfig | None = None
    client_settings: frozenset[str] = CLIENT_SETTINGS


def make_app(settings: Settings, agents: dict[str, Agent]) -> FastAPI:
    """Return the ASGI app over `agents`."""
    from gapless.cli.listen import collect_garbage_rarely, hosts_allowed
    from gapless.runs.runner import Runner
    from gapless.server import create_app

    runner = Runner(
        agents=agents,
        store=settings.store,
        limits=settings.limits,
        config=settings.config,
        client_config=settings.client_config,
        client_settings=settings.client_settings,
    )
    hosts = None
    if settings.guarded or settings.allowed_hosts:
        hosts = [*hosts_allowed(settings.host), *settings.allowed_hosts]
    app = create_app(runner, allowed_hosts=hosts, drain_s=settings.drain_s, adk_web=settings.adk_web)
    collect_garbage_rarely()
    return app


def make_worker_app(settings: Settings, workers: int, replacing: Replacing) -> FastAPI:
    """Return the ASGI app of one of several processes."""
    from gapless.cli.logs import log_to_stderr
    from gapless.cli.workers import end_with

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with, args=(parent,), name="gapless-parent", daemon=True).start()
    log_to_stderr(settings.log_level, settings.log_format)
    app = make_app(settings, load_agents(list(settings.agents)))
    app.state.siblings, app.state.replacing = workers - 1, replacing
    return app
