"""What a server logs of an agent that fails: class and place, and no text, whoever logs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import preloaded
from tests.support.waiting import HANG_S

FAILING = '''
import asyncio, sys
from google.adk.agents import LlmAgent
from pydantic_ai import Agent
from gapless import Runner
from gapless.cli.logs import log_to_stderr
from gapless.testing import ToolCall, adk_model, pydantic_ai_model

def look(name: str) -> str:
    """Looks."""
    raise KeyError(f"what {name} wrote")

call = ToolCall("look", {"name": "Ada"})
agents = {
    "adk": LlmAgent(name="a", model=adk_model(call), tools=[look]),
    "pydantic-ai": Agent(pydantic_ai_model(call), tools=[look]),
}

async def main():
    log_to_stderr(sys.argv[1])
    async with Runner(agents=agents) as runner:
        for name in agents:
            await (await runner.start("?", agent=name, run_id=name)).wait()

asyncio.run(main())
'''


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return preloaded.run([sys.executable, *command], capture_output=True, text=True, timeout=HANG_S, check=True)


@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_text_of_an_exception_is_logged_at_debug_alone(tmp_path: Path, level: str) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING, encoding="utf-8")
    log = preloaded.run(
        [sys.executable, file, level], capture_output=True, text=True, timeout=HANG_S, check=True
    ).stderr
    for name in ("adk", "pydantic-ai"):
        (line,) = [line for line in log.splitlines() if f"run={name} tool look raised" in line]
        assert line.endswith(f"KeyError at {file}:11")
    assert ("what Ada wrote" in log) == (level == "debug")


STRAY = """
import asyncio, gc, sys, threading
from gapless import Runner
from gapless.cli.logs import log_to_stderr

class Loud(Exception):
    pass

async def task(message):
    async def tool(): raise Loud(message)
    asyncio.ensure_future(tool())
    yield "a"
    await asyncio.sleep(0)

async def generator(message):
    async def inner():
        try: yield "a"
        finally: raise Loud(message)
    async for text in inner():
        yield text
        break

def thread(message):
    def work(): raise Loud(message)
    one = threading.Thread(target=work)
    one.start()
    one.join()
    return "a"

def finalizer(message):
    class Held:
        def __del__(self): raise Loud(message)
    Held()
    return "a"

agents = {"task": task, "generator": generator, "thread": thread, "finalizer": finalizer}

async def main():
    async with Runner(agents=agents) as runner:
        for name in agents:
            await (await runner.start("what Ada wrote", agent=name)).wait()
            gc.collect()
            for _ in range(3):
                await asyncio.sleep(0)

log_to_stderr(sys.argv[1])
asyncio.run(main())
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_an_agent_leaves_alone_and_nobody_handles_is_logged_likewise(tmp_path: Path, level: str) -> None:
    file = tmp_path / "stray.py"
    file.write_text(STRAY, encoding="utf-8")
    log = preloaded.run(
        [sys.executable, file, level], capture_output=True, text=True, timeout=HANG_S, check=True
    ).stderr
    assert ("what Ada wrote" in log) == (level == "debug")
    if level == "info":
        lines = [line for line in log.splitlines() if "nobody handled an exception: Loud at " in line]
        places = [int(line.rpartition(f" at {file}:")[2]) for line in lines]
        sources = [STRAY.splitlines()[place - 1].strip() for place in places]
        assert sources == [line.strip() for line in STRAY.splitlines() if "raise Loud" in line]


REFUSING = """
import asyncio
from websockets import InvalidStatus
from websockets.asyncio.client import connect
from gapless import Runner, create_app
from gapless.cli.logs import log_to_stderr
from gapless.testing import serving

async def main(url):
    try:
        await connect(url.replace("http", "ws") + "/live", proxy=None)
    except InvalidStatus as refused:
        print(refused.response.status_code)

log_to_stderr("info")
with serving(create_app(Runner(lambda message: message)), log_config=None, log_level=None) as url:
    asyncio.run(main(url))
"""


def test_a_websocket_that_is_refused_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "refusing.py"
    file.write_text(REFUSING, encoding="utf-8")
    done = ran(file)
    assert (done.stdout, done.stderr) == ("422\n", "")


ON_PURPOSE = """
import logging
from gapless.cli.logs import log_to_stderr

log_to_stderr("info")
server = logging.getLogger("uvicorn.error")
for what in ("handshake", "response"):
    server.error(f"ASGI callable returned without completing {what}.")
server.error("something else")
"""


def test_a_stream_that_a_worker_leaves_as_it_stops_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "cuts.py"
    file.write_text(ON_PURPOSE, encoding="utf-8")
    (line,) = ran(file).stderr.splitlines()
    assert line.endswith("something else")


NOT_STARTING = """
import sys, uvicorn
from gapless import Runner, create_app
from gapless.cli.logs import log_to_stderr

log_to_stderr(sys.argv[1], "json")
app = create_app(Runner(lambda message: message, store="sqlite:////no/such/folder/x.db"))
uvicorn.run(app, port=0, log_config=None)
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_store_that_keeps_a_server_from_starting_is_one_record(tmp_path: Path, level: str) -> None:
    file = tmp_path / "not_starting.py"
    file.write_text(NOT_STARTING, encoding="utf-8")
    log = preloaded.run([sys.executable, file, level], capture_output=True, text=True, timeout=HANG_S, check=False)
    errors = [one for one in map(json.loads, log.stderr.splitlines()) if one["level"] == "error"]
    message = errors[0]["message"]
    assert message.startswith("this process does not start: store /no/such/folder/x.db: the folder ") == (
        level == "info"
    )
    assert ("Traceback" in message) == (level == "debug")
    assert [one["message"] for one in errors[1:]] == ["Application startup failed. Exiting."]
