"""`gapless chat`: one shot on pipes, interactive on a terminal, Ctrl-C."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import HANG_S


def test_one_shot_is_plain_text_when_piped(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:works", "-m", "hi")
    assert (done.stdout, done.stderr, done.returncode) == ("It rains\x1b[2J.\n", "", 0)


def test_one_shot_that_fails_keeps_the_text_and_exits_with_1(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:raises", "-m", "hi")
    assert (done.stdout, done.returncode) == ("so far \n", 1)
    assert done.stderr.startswith("Error: the agent raised ValueError: no luck (")
    assert done.stderr.count("\n") == 1


def test_one_shot_that_takes_too_long(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:endless", "-m", "hi", "--timeout", "0.2")
    ticks = "".join(f"tick{number} " for number in range(1000))
    assert ticks.startswith(done.stdout.removesuffix("\n")), "as many as there was time for"
    assert (done.stderr, done.returncode) == ("Error: the run passed timeout=0.2 s\n", 1)


def test_settings_reach_the_agent(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:settings", "-m", "hi", "--set", "temperature=0.2", "--set", "stop=END")
    assert done.stdout == "{'temperature': 0.2, 'stop': 'END'}\n"


def test_a_session_in_a_store_is_gone_on_with(run: Any, agents: str) -> None:
    arguments = ("chat", f"{agents}:remembers", "--store", "sqlite:///chat.db", "--session", "s", "-m")
    assert [run(*arguments, f"message {n}").stdout for n in (1, 2)] == [
        "You have said 1 things\n",
        "You have said 2 things\n",
    ]


def test_progress_goes_to_standard_error(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:words", "-m", "hi", "--progress")
    assert done.stdout == "".join(f"word{n} " for n in range(12)) + "\n"
    assert done.stderr.startswith("12 chunks, 74 characters, ")


def test_a_reader_that_leaves_is_no_traceback(agents: str, environment: dict[str, str]) -> None:
    command = f"{sys.executable} -c 'from gapless.cli import main; main()' chat {agents}:endless -m hi | head -c 30"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout.startswith("tick0 ")
    assert "Traceback" not in done.stderr


def test_a_question_with_nobody_there_is_declined(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:asks", "-m", "hi")
    assert done.stdout == "cancelled None\n"
    assert "Nobody is at the terminal" in done.stderr


def test_lines_from_a_pipe_are_a_conversation(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:remembers", input="one\n\ntwo\nQuit\n")
    assert "GAPLESS CHAT" not in done.stdout
    assert "You have said 1 things" in done.stdout
    assert "You have said 2 things" in done.stdout
    assert done.stdout.endswith("Goodbye!\n")
    assert done.returncode == 0


def test_a_pipe_gets_the_answers_alone(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:words", "--session", "s", input="one\ntwo\n")
    answer = run("chat", f"{agents}:words", "-m", "one").stdout
    assert (done.stdout, done.returncode) == (2 * answer, 0)
    assert "Session s: 0 earlier messages" in done.stderr


def test_an_answer_to_a_pipe_that_fails_is_in_the_exit_code(run: Any, agents: str) -> None:
    done = run("chat", f"{agents}:raises", input="one\ntwo\n")
    assert (done.stdout, done.returncode) == ("so far \nso far \n", 1)
    assert done.stderr.count("Error: the agent raised ValueError: no luck (") == 2, "and the others are asked"


def test_a_conversation_on_a_terminal(terminal: Callable[..., Any], agents: str) -> None:
    chat = terminal("chat", f"{agents}:works", "--progress")
    chat.expect("={70}\r\nGAPLESS CHAT · works\r\n={70}")
    chat.expect(r"\[\d\d:\d\d:\d\d\] You: ")
    chat.press("What is the weather?\r")
    chat.expect(r"\[\d\d:\d\d:\d\d\] Agent: ")
    chat.expect("let me think")
    chat.expect(r'→ weather\(\{"city":"Oslo"\}\)')
    chat.expect("← weather: rain")
    chat.expect("! mind the step")
    chat.expect("It rains\N{REPLACEMENT CHARACTER}\\[2J")  # no escape sequence of a model drives the terminal
    chat.expect("1 chunks, 13 characters")
    chat.expect("You: ")
    chat.press("exit\r")
    chat.expect("Goodbye!")
    assert chat.ends() == 0


def test_a_typed_output_of_a_real_agent_and_nothing_else(
    terminal: Callable[..., Any], run: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    for name in ("CI", "PYTEST_VERSION"):  # the framework shows no banner where these are
        environment.pop(name, None)
    file = tmp_path / "typed.py"
    file.write_text(
        "from pydantic_ai import Agent\nfrom gapless.testing import Output, pydantic_ai_model\n"
        "agent = Agent(pydantic_ai_model(Output(['a', 'b'])), output_type=list[str])\n"
    )
    assert run("chat", f"{file}:agent", "-m", "hi").stdout == '["a","b"]\n'
    chat = terminal("chat", f"{file}:agent", "-m", "hi")
    assert chat.ends() == 0
    call, result, output = re.sub(r"\x1b\[\d*m", "", chat.output).strip().splitlines()  # no banner of the framework
    assert call.startswith("→ final_result(")
    assert result.startswith("← final_result: ")
    assert output == '["a","b"]'


def test_an_error_is_shown_and_survived(terminal: Callable[..., Any], agents: str) -> None:
    chat = terminal("chat", f"{agents}:raises")
    for _ in range(2):
        chat.expect("You: ")
        chat.press("go\r")
        chat.expect("so far \r\n.*Error: .*no luck")
    chat.expect("You: ")
    chat.press("\x04")  # Ctrl-D
    assert chat.ends() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(terminal: Callable[..., Any], agents: str, run: Any) -> None:
    chat = terminal("chat", f"{agents}:endless", "--store", "sqlite:///chat.db", "--session", "s")
    chat.expect("You: ")
    chat.press("go\r")
    chat.expect("tick3 ")
    chat.press("\x03")
    chat.expect(r"\[stopped; what was said is kept\]")
    chat.expect("You: ")
    chat.press_until("\x03", "Goodbye!")  # at the prompt it leaves
    assert chat.ends() == 0
    listed = run("runs", "--store", "sqlite:///chat.db", "--session", "s").stdout.splitlines()
    assert listed[1].split("\t")[1] == "cancelled"
    followed = run("follow", listed[1].split("\t")[0], "--store", "sqlite:///chat.db")
    assert followed.stdout.startswith("tick0 tick1 tick2 tick3 ")
    assert "[the run was cancelled]" in followed.stderr


def test_a_second_ctrl_c_leaves(terminal: Callable[..., Any], agents: str, tmp_path: Path) -> None:
    chat = terminal("chat", f"{agents}:stubborn")
    chat.expect("You: ")
    chat.press("go\r")
    chat.expect("ready ")
    chat.press("\x03")
    chat.expect("cleaning up")
    chat.press("\x03")
    chat.expect("Goodbye!")
    (tmp_path / "go").touch()
    assert chat.ends() == 130
    assert "Traceback" not in chat.output


def test_ctrl_c_ends_a_one_shot(terminal: Callable[..., Any], agents: str) -> None:
    chat = terminal("chat", f"{agents}:endless", "-m", "hi")
    chat.expect("tick3 ")
    chat.press("\x03")
    assert chat.ends() == 130


@pytest.mark.parametrize(("key", "approved"), [("y", True), ("n", False)])
def test_a_question_is_put_to_the_person(terminal: Callable[..., Any], agents: str, key: str, approved: bool) -> None:
    chat = terminal("chat", f"{agents}:asks", "-m", "hi")
    chat.expect(r"May I\? \[y/N\]: ")
    chat.press(f"{key}\r")
    chat.expect(f"resolved {{'approved': {approved}}}")
    assert chat.ends() == 0


def test_ctrl_c_at_a_question_stops_the_run(terminal: Callable[..., Any], agents: str) -> None:
    chat = terminal("chat", f"{agents}:asks", "-m", "hi")
    chat.expect(r"May I\?")
    chat.press_until("\x03", r"\[stopped")
    assert chat.ends() == 130


def test_without_a_model_it_offers_to_install_one(
    terminal: Callable[..., Any], run: Any, environment: dict[str, str], tmp_path: Any
) -> None:
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import gapless.agents.embedded as embedded; embedded.find_model = lambda: None\n", encoding="utf-8"
    )
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = run("chat", "-m", "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `gapless model install` (93 MB, once)" in done.stderr
    assert done.stderr.count("\n") == 1
    chat = terminal("chat")
    chat.expect(r"no model is installed\. Install SmolLM2-135M-Instruct \(93 MB, once\)\? \[Y/n\]: ")
    chat.press("n\r")
    chat.expect("no model: name an agent")
    assert chat.ends() == 1
