"""The JavaScript client and durable fetch against broken and hostile servers; the cases are in hostile.test.mjs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.node import NODE

S_MAX = 280
CASE_MS_MAX = 100_000
"""How long one that hangs is waited for; what is right is never as slow."""


@pytest.mark.timeout(S_MAX + 20)
def test_whatever_a_server_sends_ends_in_order() -> None:
    command = [NODE, "--test", f"--test-timeout={CASE_MS_MAX}", str(Path(__file__).parent / "hostile.test.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=S_MAX, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
