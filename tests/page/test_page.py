"""The page's own tests: its modules in Node, the page in a real Chromium."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.node import NODE, install

HERE = Path(__file__).parent
S_MAX = 900
"""For what hangs: each wait of a page has a bound of its own (WAIT_MS in harness.mjs)."""


@pytest.mark.timeout(S_MAX)
def test_the_pages_modules_and_the_page() -> None:
    install(HERE)
    done = subprocess.run([NODE, "--test"], cwd=HERE, capture_output=True, text=True, timeout=S_MAX, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.timeout(S_MAX)
def test_the_types_take_what_the_documents_show() -> None:
    install(HERE)
    command = [NODE, "node_modules/typescript/bin/tsc", "--project", "tsconfig.json"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=S_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
