"""`gapless serve --reload`: what the agents' files say is what is served."""

from __future__ import annotations

import asyncio
import re
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.cli.reloading import Sources, folders_of
from tests.support import preloaded
from tests.support.waiting import WAIT_S, until

PAUSE_S = 0.2
"""Between two questions, each of which is a run: the server has another process to start meanwhile."""
CODE = """
import os

WORD = os.environ.get("WORD", "none")

async def root_agent(message):
    yield "{said} " + WORD
"""


def folder_of(place: Path, name: str, said: str, word: str) -> Path:
    folder = place / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.py").write_text(CODE.replace("{said}", said))
    (folder / ".env").write_text(f"WORD={word}\n")
    return folder


def asked(url: str, agent: str) -> str:
    body = {"message": "go", "agent": agent, "run_id": uuid.uuid4().hex}
    httpx2.post(f"{url}/runs", json=body, timeout=WAIT_S, trust_env=False).raise_for_status()
    path = f"{url}/runs/{body['run_id']}/events?wire=text"
    return "".join(re.findall(r'"text":"(.*?)"', httpx2.get(path, timeout=WAIT_S, trust_env=False).text))


async def test_what_is_changed_is_served(server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preloaded, "Popen", subprocess.Popen)  # its successors are started afresh, so it is too
    one = folder_of(tmp_path / "agents", "one", "first", "apple")
    folder_of(tmp_path / "agents", "two", "other", "pear")
    serving = server(str(tmp_path / "agents"), "--reload", "--port", "0")
    assert serving.banner["agents"] == "one, two"
    assert asked(serving.url, "one") == "first apple"
    assert asked(serving.url, "two") == "other pear", "each has its own .env"

    async def serves(said: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while asked(serving.url, "one") != said:
                await asyncio.sleep(PAUSE_S)

    folder_of(tmp_path / "agents", "one", "second", "plum")
    await serves("second plum")
    assert asked(serving.url, "two") == "other pear"

    (one / "agent.py").write_text("root_agent = (")
    await until(lambda: "SyntaxError" in serving.log.read_text(), "it is tried")
    assert asked(serving.url, "one") == "second plum", "what serves goes on"

    folder_of(tmp_path / "agents", "one", "third", "fig")
    await serves("third fig")
    assert serving.stop() == 0


def test_a_store_in_memory_cannot_be_reloaded(run: Any, agents: str):
    done = run("serve", f"{agents}:words", "--reload", "--store", "memory://", "--port", "0")
    assert done.returncode == 2
    assert "--reload: a store in memory ends with its process" in done.stderr


def test_only_code_and_env_files_are_looked_at(tmp_path: Path):
    for name in (".hidden", "__pycache__", "venv", "pages"):
        (tmp_path / name).mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    sources = Sources([tmp_path])
    for name in (".hidden/a.py", "__pycache__/a.py", "venv/a.py", "notes.txt"):
        (tmp_path / name).touch()
    assert sources.changed() == []
    new = [tmp_path / ".env", tmp_path / "pages" / "a.py"]
    for path in new:
        path.touch()
    assert sources.changed() == new
    assert sources.changed() == []
    new[1].write_text("1")
    assert sources.changed() == new[1:]
    new[1].unlink()
    assert sources.changed() == new[1:]


def test_agents_that_are_elsewhere_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "in", there):
        folder.mkdir(parents=True)
    (there / "sales.py").touch()
    monkeypatch.chdir(here)
    assert folders_of(["in", "sales=../there/sales.py:agent", "my.module:agent", "http://x/v1"]) == [here, there]
    assert folders_of([str(there), "model.gguf"]) == [here, there]
