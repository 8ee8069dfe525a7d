"""`gapless serve`: agents over HTTP, from one process or several on one socket."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable
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
from gapless.cli.settings_file import misspelt, told_by_place
from gapless.cli.terminal import clean, print_if_read, raised_on_import, say
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
    ctx: typer.Context,
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
    closed within seconds. SIGHUP replaces its processes: runs that can go on do so in the
    new ones (not those of plain functions).

    [bold]Examples[/bold]
    gapless serve my_agents:support --port 9000 --store memory://
    gapless serve agents/ --reload
    gapless serve support=my_agents:support sales=sales.py:agent --workers 4
    KEY=$(openssl rand -hex 16); echo "Alice's key: $KEY"
    GAPLESS_API_KEYS=alice=$KEY gapless serve my_agents:support --host 0.0.0.0
    """
    from gapless.cli.listen import bind, is_loopback

    host = str(Path(uds).absolute()) if uds else host
    app: dict[str, Any] = {"cancel_on_hang_up": cancel_on_hang_up or (), "operators": operator or ()}
    app |= {"drain_s": drain, "adk_web": adk_web, "shared_state": shared_state, "path_prefix": path_prefix}
    app |= {"login_url": login_url, "logout_url": logout_url, "cors_origins": cors_origin or ()}
    with told_by_place(ctx):
        users = _check_options(host, store, workers, log_level, log_format, insecure=insecure, reload=reload)
        _check_app(app, allowed_host or (), users)
        connections = connection_limits_of(limit or [])
        runner = _runner(
            limit or [], config or [], setting or [], client_config or [], client_setting or [], notify or []
        )
    runner.update(lease_s=lease, retention_s=retention * DAY_S if retention <= RETENTION_DAYS_MAX else None)
    guarded, allowed, served = users is None and is_loopback(host), tuple(allowed_host or ()), tuple(agents or ())
    settings = Settings(served, host, store, log_level, log_format, guarded, allowed, reload, runner=runner, app=app)
    loaded, listener = _prepare(settings), bind(host, port)
    _announce(ctx, settings, listener, list(loaded), users)
    _run(settings, listener, loaded, workers, connections)


def _runner(
    limit: list[str],
    config: list[str],
    setting: list[str],
    client_config: list[str],
    client_setting: list[str],
    notify: list[str],
) -> dict[str, Any]:
    """Return what these options tell a `Runner`. Raises `UsageError`."""
    return {
        "limits": limits_of(limit),
        "config": config_of(config, setting),
        "client_config": client_config_of(client_config),
        "client_settings": client_settings_of(client_setting),
        "notify": notify_of(notify),
    }


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


def _check_app(app: dict[str, Any], hosts: Iterable[str], users: list[str] | None) -> None:
    """Raises `UsageError`, by the options' names, for what `create_app` would refuse, and for an operator who has no
    key."""
    from gapless.http.auth import ANONYMOUS
    from gapless.server.checks import check_families, check_hosts, check_origins, check_prefix
    from gapless.server.pages import check_address

    check_prefix("--path-prefix", app["path_prefix"])
    check_families("--cancel-on-hang-up", app["cancel_on_hang_up"])
    check_address("--login-url", app["login_url"])
    check_address("--logout-url", app["logout_url"])
    check_origins("--cors-origin", app["cors_origins"])
    check_hosts("--allowed-host", hosts)
    for operator in app["operators"]:
        if users is None and operator != ANONYMOUS:
            raise UsageError(
                f"--operator {operator}: there are no keys, and everybody is {ANONYMOUS!r}; set "
                f"GAPLESS_API_KEYS={operator}=key"
            )
        if users is not None and operator not in users:
            raise UsageError(f"--operator {operator}: GAPLESS_API_KEYS has no key of that name, but {', '.join(users)}")


def _check_reload(store: str) -> None:
    """Raises `UsageError` where nothing could be replaced."""
    from gapless.journals import store_class

    if sys.platform == "win32":
        raise UsageError("--reload: on Windows no process takes the place of another; start the server again")
    if not store_class(store).shared:
        raise UsageError("--reload: a store in memory ends with its process; take --store sqlite:///gapless.db")


def _prepare(settings: Settings) -> dict[str, Agent]:
    """Find out what would fail in the workers here, where it is one line and not N dying processes."""
    from gapless.cli.listen import check_store, exit_at_signals
    from gapless.cli.logs import log_to_stderr

    exit_at_signals()
    log_to_stderr(settings.log_level, settings.log_format)
    loaded = load_agents(list(settings.agents))
    if settings.app["adk_web"]:
        from gapless.protocols.adk.web import page_directory

        page_directory()
    check_store(settings.store)
    return loaded


def _announce(
    ctx: typer.Context, settings: Settings, listener: socket.socket, agents: list[str], users: list[str] | None
) -> None:
    """Say where the server is, what it serves and to whom, where that is said, and what says nothing."""
    from gapless.cli.listen import is_loopback, url_of
    from gapless.journals.contract import shown_url

    for variable, near in misspelt(ctx, os.environ):  # not what it is: that may be a secret
        log.warning("the variable %s says nothing here: did you mean %s?", variable, near)
    url = url_of(listener).rstrip("/")
    prefix = settings.app["path_prefix"]
    if url.startswith("unix:"):
        lines = [f"socket  {clean(url)}", *([f"under   {prefix}/"] if prefix else [])]
    else:
        lines = [f"page    {url}{prefix}/"]
        if settings.app["adk_web"]:
            lines.append(f"adk     {url}{prefix}/dev-ui/")
    lines.append(f"agents  {clean(', '.join(agents))}")
    if users is not None:
        lines.append(f"users   {clean(', '.join(users))}")
    lines.append(f"store   {shown_url(settings.store)}")
    if ctx.params["workers"] > 1:
        lines.append(f"workers {ctx.params['workers']}")
    if ctx.params["settings_file"] is not None:
        lines.append(f"as in   {clean(ctx.params['settings_file'])}")
    if (why := print_if_read("\n".join(lines))) is not None:
        log.warning("standard output takes nothing (%s): the server goes on, at %s%s", why, url, prefix)
    if users is None and not is_loopback(settings.host):
        with contextlib.suppress(OSError):
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
