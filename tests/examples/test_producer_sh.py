"""A shell script writes a run with curl, and goes on where one that died has stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.events import RunFinishedEvent, TextMessageContentEvent
from gapless.testing import serving
from tests.support.over_http import STREAM
from tests.support.sse import events
from tests.support.waiting import HANG_S, WAIT_S

SCRIPT = Path(__file__).parents[2] / "examples" / "producer.sh"


async def agent(message: str) -> str:
    return message


@pytest.mark.skipif(shutil.which("curl") is None, reason="it is a script for curl")
def test_a_script_that_died_is_followed_by_the_next():
    with serving(create_app(Runner(agent))) as url:

        def produce(command: str) -> int:
            called = ["sh", str(SCRIPT), url, "r", "sh", "-c", command]
            done = subprocess.run(called, capture_output=True, timeout=HANG_S, check=False, start_new_session=True)
            return done.returncode

        assert produce("""echo 'say "one"'; exit 3""") != 0
        assert produce("""echo 'say "one"'; echo two; kill -9 0""") == -signal.SIGKILL
        assert produce("""echo 'say "one"'; echo two; echo three""") == 0
        told = httpx2.get(f"{url}/runs/r/events", headers=STREAM, timeout=WAIT_S, trust_env=False)
    found = events(told.content)
    assert "".join(one.delta for one in found if isinstance(one, TextMessageContentEvent)) == 'say "one"\ntwo\nthree\n'
    assert isinstance(found[-1], RunFinishedEvent)
