"""`gapless demo`: the conversation, its cut, and how it ends."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

WORDS = "".join(f"tick{number} " for number in range(100))


def test_cuts_resumes_compares_and_ends(run: Any, agents: str) -> None:
    done = run("demo", "--agent", f"{agents}:quick", "--port", "0")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.count("] User: ") == 4
    cut = re.search(r"Agent: ([^\[✂]*?)\n    ✂ .*after event (\d+) .*\n    ↻ resumed .*\n(.*)\n", done.stdout)
    assert cut is not None
    assert cut[1] + cut[3] == WORDS
    assert f"✓ all {len(WORDS)} characters are those of the journal" in done.stdout
    figures = dict(line.split(maxsplit=1) for line in done.stdout.split("=" * 70)[-2].strip().splitlines())
    assert figures["text"].startswith(f"{4 * len(WORDS)} characters in ")
    assert figures["events"] == "416 in 4 journals"


def test_short_answers_that_come_at_once_are_cut_too(run: Any, agents: str) -> None:
    done = run("demo", "--agent", f"{agents}:words", "--port", "0")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "1 cut after event" in done.stdout


def test_an_agent_that_fails_is_said(run: Any, agents: str) -> None:
    done = run("demo", "--agent", f"{agents}:raises", "--port", "0")
    assert done.returncode == 1
    assert "Error: the run failed: the agent raised ValueError" in done.stderr
    assert "Traceback" not in done.stderr


def test_stays_up_on_a_terminal_until_ctrl_c(terminal: Callable[..., Any], agents: str) -> None:
    demo = terminal("demo", "--agent", f"{agents}:words", "--port", "0")
    url = demo.expect(r"The chat page: (http://127\.0\.0\.1:(\d+)/)")
    with socket.create_connection(("127.0.0.1", int(url[2]))):
        pass
    demo.press("\x03")
    assert demo.ends() == 0
    assert "Traceback" not in demo.output


def test_ctrl_c_in_the_middle_ends_it(terminal: Callable[..., Any], agents: str) -> None:
    demo = terminal("demo", "--agent", f"{agents}:endless", "--port", "0")
    demo.expect("tick3 ")
    demo.press("\x03")
    assert demo.ends() == 0
    assert "Traceback" not in demo.output


def test_a_port_in_use_is_replaced_only_if_nobody_chose_it(run: Any, agents: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("demo", "--agent", f"{agents}:words", "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "is in use" in done.stderr) == (1, True)
