"""`gapless serve`: agents over HTTP, from one process or several on one socket."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gapless.cli import options as o
from gapless.cli.agents import load_agents
from gapless.cli.bounds import (
    client_config_of,
    client_settings_of,
    config_of,
    connection_limits_of,
    limits_of,
    notify_of,
)
from gapless.cli.terminal import clean, raised_on_import, say
from gapless.config import ConnectionLimits
from gapless.errors import GaplessError, UsageError

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from gapless.agents.base import Agent
    from gapless.cli.workers import Replacing

__all__ = ["serve"]

EXIT_FAILURE = 1
"""Not uvicorn's own code for this, at which its supervisor would end the other processes, which serve."""
LEASE_S, RETENTION_DAYS = 10.0, 7.0
RETENTION_DAYS_MAX = 1000 * 365.0
"""Longer is for good."""
DAY_S = 24 * 3600.0

log = logging.getLogger("gapless.serve")


def serve(
    agents: o.Agents = None,
    host: o.Host = "127.0.0.1",
    port: o.Port = 8000,
    uds: o.Uds = None,
    store: o.Store = "sqlite:///gapless.db",
    workers: o.Workers = 1,
    drain: o.Drain = 10.0,
    retention: o.Retention = RETENTION_DAYS,
    lease: o.Lease = LEASE_S,
    limit: o.Limits = None,
    config: o.Config = None,
    setting: o.ModelSettings = None,
    client_config: o.ClientConfig = None,
    client_setting: o.ClientSettings = None,
    insecure: o.Insecure = False,
    allowed_host: o.AllowedHosts = None,
    cors_origin: o.CorsOrigins = None,
    path_prefix: o.PathPrefix = "",
    login_url: o.LoginUrl = "",
    logout_url: o.LogoutUrl = "",
    notify: o.Notify = None,
    operator: o.Operators = None,
    cancel_on_hang_up: o.HangUps = None,
    shared_state: o.SharedState = False,
    adk_web: o.AdkWeb = False,
    reload: o.Reload = False,
    log_level: o.LogLevel = "info",
    log_format: o.LogFormat = "text",
    settings_file: o.SettingsFile = None,
) -> None:
    """Serve agents: the chat page, the HTTP routes, and every run's journal from any position.

    Listens on this machine. Listening elsewhere takes authentication: keys in
    GAPLESS_API_KEYS (alice=KEY,bob=KEY; each of 16 characters or more).
    What is typed can also be a variable, or a key of a settings file: --cors-origin,
    GAPLESS_CORS_ORIGIN, cors_origin; AGENTs, GAPLESS_AGENTS, agents.
    SIGTERM and Ctrl-C end it in order, exit code 0: runs finish, are handed over, or are
    closed within seconds. SIGHUP replaces its processes: runs go on in the new ones.

    [bold]Examples[/bold]
    gapless serve my_agents:support --port 9000 --store memory://
    gapless serve agents/ --reload
    gapless serve support=my_agents:support sales=sales.py:agent --workers 4
    KEY=$(openssl rand -hex 16); echo "Alice's key: $KEY"
    GAPLESS_API_KEYS=alice=$KEY gapless serve my_agents:support --host 0.0.0.0
    """
    from gapless.cli.listen import bind, exit_at_signals, is_loopback

    host = str(Path(uds).absolute()) if uds else host
    users = _check_options(host, store, workers, log_level, log_format, insecure=insecure, reload=reload)
    connections = connection_limits_of(limit or [])
    exit_at_signals()
    guarded, allowed = users is None and is_loopback(host), tuple(allowed_host or ())
    settings = Settings(tuple(agents or ()), host, store, log_level, log_format, guarded, allowed, reload)
    settings.app.update(cancel_on_hang_up=cancel_on_hang_up or (), operators=operator or ())
    settings.runner.update(
        limits=limits_of(limit or []),
        config=config_of(config or [], setting or []),
        client_config=client_config_of(client_config or []),
        client_settings=client_settings_of(client_setting or []),
        notify=notify_of(notify or []),
        retention_s=retention * DAY_S if retention <= RETENTION_DAYS_MAX else None,
        lease_s=lease,
    )
    settings.app.update(drain_s=drain, adk_web=adk_web, shared_state=shared_state, path_prefix=path_prefix)
    settings.app.update(cors_origins=cors_origin or (), login_url=login_url, logout_url=logout_url)
    loaded, listener = _prepare(settings), bind(host, port)
    _announce(settings, listener, list(loaded), users, workers, settings_file)
    _run(settings, listener, loaded, workers, connections)


def _check_options(
    host: str, store: str, workers: int, log_level: str, log_format: str, *, insecure: bool, reload: bool
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
    if reload:
        _check_reload(store)
    users = users_from_environment()
    if users is None and not is_loopback(host) and not insecure:
        raise UsageError(
            f"--host {host} lets others in, and no authentication is configured: set GAPLESS_API_KEYS=name=key, or add "
            "--insecure if anyone may use these agents"
        )
    return users


def _check_reload(store: str) -> None:
    """Raises `UsageError` where nothing could be replaced."""
    from gapless.journals import store_class

    if sys.platform == "win32":
        raise UsageError("--reload: on Windows no process takes the place of another; start the server again")
    if not store_class(store).shared:
        raise UsageError("--reload: a store in memory ends with its process; take --store sqlite:///gapless.db")


def _prepare(settings: Settings) -> dict[str, Agent]:
    """Find out what would fail in the workers here, where it is one line and not N dying processes."""
    from gapless.cli.listen import check_store
    from gapless.cli.logs import log_to_stderr

    log_to_stderr(settings.log_level, settings.log_format)
    loaded = load_agents(list(settings.agents))
    if settings.app["adk_web"]:
        from gapless.protocols.adk.web import page_directory

        page_directory()
    check_store(settings.store)
    return loaded


def _announce(
    settings: Settings,
    listener: socket.socket,
    agents: list[str],
    users: list[str] | None,
    workers: int,
    settings_file: str | None,
) -> None:
    """Say where the server is, what it serves and to whom, and where that is said."""
    from gapless.cli.listen import is_loopback, url_of
    from gapless.journals.contract import shown_url

    url = url_of(listener).rstrip("/") + settings.app["path_prefix"]
    if url.startswith("unix:"):
        typer.echo(f"socket  {clean(url)}")
    else:
        typer.echo(f"page    {url}/")
        if settings.app["adk_web"]:
            typer.echo(f"adk     {url}/dev-ui/")
    typer.echo(f"agents  {clean(', '.join(agents))}")
    if users is not None:
        typer.echo(f"users   {clean(', '.join(users))}")
    typer.echo(f"store   {shown_url(settings.store)}")
    if workers > 1:
        typer.echo(f"workers {workers}")
    if settings_file is not None:
        typer.echo(f"as in   {clean(settings_file)}")
    if users is None and not is_loopback(settings.host):
        say("Anyone who reaches this port may use these agents (--insecure).", style="yellow")


def _run(
    settings: Settings, listener: socket.socket, agents: dict[str, Agent], workers: int, limits: ConnectionLimits
) -> None:
    """Serve in this process, or in several, until the program is told to end."""
    if settings.reload:
        from gapless.cli.reloading import reload_on_changes

        reload_on_changes(settings.agents)
    from gapless.cli.listen import is_path, server_config
    from gapless.cli.workers import Replacing

    replacing = Replacing()
    make = functools.partial(make_worker_app, settings, workers, replacing)
    options: dict[str, Any] = {"access_log": settings.log_level == "debug", "limits": limits}
    options["proxied"] = is_path(settings.host)
    of_workers = server_config(make, workers=workers, factory=True, **options)
    if workers > 1:
        from gapless.cli.workers import run_workers

        run_workers(of_workers, listener, replacing)
    else:
        from gapless.cli.replacing import run_one
        from gapless.journals import store_class

        app = make_app(settings, agents)
        app.state.replacing = replacing
        shared = store_class(settings.store).shared
        run_one(server_config(app, **options), of_workers, listener, replacing, shared=shared)


@dataclass(frozen=True, slots=True)
class Settings:
    """What each worker process is told. It loads the agents by itself: they do not travel between processes."""

    agents: tuple[str, ...]
    host: str
    store: str
    log_level: str
    log_format: str
    guarded: bool
    """Nobody is authenticated and the server trusts this machine: it answers to this machine's names only."""
    allowed_hosts: tuple[str, ...] = ()
    reload: bool = False
    runner: dict[str, Any] = field(default_factory=dict)
    """What its `Runner` is given beside agents and store,"""
    app: dict[str, Any] = field(default_factory=dict)
    """and what `create_app` is."""


def make_app(settings: Settings, agents: dict[str, Agent]) -> FastAPI:
    """Return the ASGI app over `agents`."""
    from gapless.cli.listen import collect_garbage_rarely, hosts_allowed
    from gapless.runs.runner import Runner
    from gapless.server import create_app

    runner = Runner(agents=agents, store=settings.store, **settings.runner)
    hosts = None
    if settings.guarded or settings.allowed_hosts:
        hosts = [*hosts_allowed(settings.host), *settings.allowed_hosts]
    app = create_app(runner, allowed_hosts=hosts, **settings.app)
    collect_garbage_rarely()
    return app


def make_worker_app(settings: Settings, workers: int, replacing: Replacing) -> FastAPI:
    """Return the ASGI app of a process that another watches."""
    from gapless.cli.logs import log_to_stderr
    from gapless.cli.workers import end_with

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with, args=(parent,), name="gapless-parent", daemon=True).start()
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal tells all that run in it; this is the parent's matter
    log_to_stderr(settings.log_level, settings.log_format)
    try:
        app = make_app(settings, load_agents(list(settings.agents)))
    except Exception as error:  # past here it is a traceback on standard error, which is no line of the log
        _say_not_started(error)
        sys.exit(EXIT_FAILURE)
    app.state.siblings, app.state.replacing = workers - 1, replacing
    return app


def _say_not_started(error: Exception) -> None:
    """Log what a process does not start for, in one record, as the command says it at its start: as a rule the agents'
    code has changed since."""
    if not isinstance(error, GaplessError):
        log.error("this process does not start: unexpected %s: %s", type(error).__name__, error, exc_info=error)
        return
    debug = log.isEnabledFor(logging.DEBUG)
    hint = "; --log-level debug shows the traceback" if raised_on_import(error) and not debug else ""
    log.error("this process does not start: %s%s", error.message, hint, exc_info=error if debug else None)
