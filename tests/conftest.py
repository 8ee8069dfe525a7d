"""The lanes that tests run in; a client on an app in this process, and a few agents to talk to."""

from __future__ import annotations

import dataclasses
import functools
import gc
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import hypothesis
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from httpx2._config import DEFAULT_TIMEOUT_CONFIG

from gapless import Runner, create_app
from tests.support import cpu, forks, heavy, lanes, unsteady, untraced, ways
from tests.support.waiting import WAIT_S

ROOT = Path(__file__).parents[1]

hypothesis.settings.register_profile(  # how long an example takes, or to think of one, is the machine's doing
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")
untraced.by_default()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what takes long (tests/support/lanes.py)")
    parser.addoption("--processes", type=int, metavar="N", help="run groups of tests in so many processes")
    parser.addoption("--cpu", type=int, metavar="N", help="list the N dearest tests, and files, by processor time")


def pytest_configure(config: pytest.Config) -> None:
    if sys.platform != "win32":  # who starts the tests may ignore them (nohup, a shell's `&`), and servers inherit that
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if (shown := config.getoption("cpu")) is not None:
        config.pluginmanager.register(cpu.CpuCosts(shown))
    config.pluginmanager.register(unsteady.Unsteady())
    config.pluginmanager.register(heavy.Heavy())
    config.pluginmanager.register(ways.Ways())
    config.addinivalue_line("markers", f"{ways.MARKER}: runs on both ways of a model's deltas")
    if processes := config.getoption("processes"):
        config.pluginmanager.register(forks.Forks(processes))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without importing what they import."""
    inside = collection_path.relative_to(ROOT).as_posix() + ("/" if collection_path.is_dir() else "")
    return True if config.getoption("fast") and lanes.is_slow(inside) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("fast"):
        config.hook.pytest_deselected(items=[item for item in items if lanes.is_slow(item.nodeid)])
        items[:] = [item for item in items if not lanes.is_slow(item.nodeid)]
    if config.getoption("processes"):
        items[:] = lanes.in_order(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Nothing is garbage while tests are collected, nor ever what was imported for them: to look through it again and
    again took a fifth of the tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def routes_are_read_once() -> Iterator[None]:
    """FastAPI reads the signatures of an app's forty routes anew for each app, and the tests make two thousand."""
    known: dict[tuple[object, str], Dependant] = {}

    def read_once(*, path: str, call: Any, **more: Any) -> Dependant:
        if not (function := getattr(call, "__func__", None)):
            return get_dependant(path=path, call=call, **more)
        if (function, path) not in known:
            known[function, path] = dataclasses.replace(get_dependant(path=path, call=call, **more), call=function)
        return dataclasses.replace(known[function, path], call=call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastapi.routing.get_dependant", read_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Each HTTP client reads those of all authorities, a fortieth of a second, and the tests make thousands of clients,
    none of which speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl.create_default_context", functools.cache(ssl.create_default_context))
        patch.setattr("httpcore2.default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """The one PostgreSQL server of this process's tests."""
    from tests.support.postgres import Postgres  # what few tests need is not imported for all

    with Postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def answers_may_take_their_time() -> Iterator[None]:
    """The tests' HTTP clients would give up after five seconds, which is what a busy machine takes to import a
    framework, say."""
    with pytest.MonkeyPatch.context() as patch:
        for what in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, what, WAIT_S)
        yield


async def words(message: str) -> AsyncIterator[str]:
    for word in ("you ", "said ", message):
        yield word


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., Any]]:
    """`await client_of(runner, **create_app options)`: an HTTP client on the app, without a socket between."""
    async with AsyncExitStack() as stack:

        async def make(runner: Runner, headers: dict[str, str] | None = None, **options: Any) -> httpx2.AsyncClient:
            app = create_app(runner, **options)
            stack.push_async_callback(runner.close)
            transport = httpx2.ASGITransport(app)
            return await stack.enter_async_context(
                httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)
            )

        yield make


@pytest.fixture
async def client(client_of: Callable[..., Any]) -> httpx2.AsyncClient:
    """A client on an app with one agent that repeats what it is told."""
    return await client_of(Runner(words))  # type: ignore[no-any-return]  # as made above
