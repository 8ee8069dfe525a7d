"""The adapter that is a package: found by its entry point, served, and run through its own tests.

It is installed as pip installs it, less the pip: its modules and what says which entry points it has, in one folder.
`scripts/build` installs it for real, into a fresh environment.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

import httpx2
import pytest

from gapless.events import TextMessageContentEvent
from tests.support import preloaded
from tests.support.over_http import STREAM
from tests.support.processes import Server
from tests.support.sse import events
from tests.support.waiting import HANG_S, WAIT_S

PACKAGE = Path(__file__).parents[2] / "examples" / "adapter_package"
GROUP = "gapless.agents"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder it is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, folder)
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    told = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(told)
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"][GROUP].items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    return folder


def test_its_own_tests_pass(installed: Path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(installed), "."]
    done = preloaded.run(command, capture_output=True, text=True, timeout=HANG_S, cwd=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout, "and none is skipped"


def test_it_is_served(installed: Path, tmp_path: Path):
    server = Server(tmp_path, agent=f"{installed / 'shop.py'}:bot")
    server.start()
    try:
        asked = {"message": "How many lamps?"}
        told = httpx2.post(f"{server.url}/runs", json=asked, headers=STREAM, timeout=WAIT_S, trust_env=False)
    finally:
        server.kill()
        server.wait()
    said = [event for event in events(told.content) if isinstance(event, TextMessageContentEvent)]
    assert "".join(event.delta for event in said) == "I look. There are 3 of them. "
    assert len(said) > 2, "word by word"
