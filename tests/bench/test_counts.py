"""Instructions are counted in a process whose clock is slow; where the tools for it are missing, that is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.waiting import HANG_S

ROOT = Path(__file__).parents[2]
SLOWER = 20
PROGRAM = """
import asyncio, threading, time, uvloop

async def main():
    before = time.monotonic()
    await asyncio.sleep(0.005)
    threading.Event().wait(0.005)
    return time.monotonic() - before

day = time.time()
print(uvloop.run(main()), time.time() - day)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads Linux's CPU clocks")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_slow_process_waits_as_long_by_its_own_clock(tmp_path: Path) -> None:
    library = tmp_path / "slowly.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "bench" / "slowly.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "SLOWER": str(SLOWER)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=HANG_S
    )
    took_s = time.monotonic() - began
    waited_s, of_the_day_s = map(float, done.stdout.split())
    assert waited_s >= 0.0099
    assert took_s >= SLOWER * 0.0099
    assert 0.0099 <= of_the_day_s <= took_s / SLOWER, "the time of day goes as slowly"


def test_nothing_is_counted_without_the_tools(tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "git").symlink_to(git)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "counts", "--out", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["counts"]
    assert stored["skipped"] == {"all": "valgrind, vgdb, cc: not installed"}
    assert "valgrind, vgdb, cc: not installed" in (tmp_path / "performance.md").read_text()
