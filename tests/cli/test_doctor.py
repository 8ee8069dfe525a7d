"""`gapless doctor`: the cause of each trouble and what to do."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gapless.agents import embedded
from gapless.agents.base import Deltas
from gapless.cli import app, doctor, listen
from gapless.cli.doctor import Turn, diagnose_deltas, diagnose_failure, diagnose_turn
from gapless.errors import AgentInvalid, ExtraMissing, RunTimeout, ToolFailed

PACED = """

from gapless.cli import doctor

async def quick(message):
    for number in range(100):
        yield f"tick{number} "
        doctor.time.now += 0.003

async def buffered(message):
    for _ in range(10):  # while the event loop runs on
        await asyncio.sleep(doctor.LOOK_S)
        doctor.time.now += 0.1
    for number in range(12):
        yield f"word{number} "

async def blocks(message):
    yield "one "
    doctor.time.now += 0.8
    await asyncio.sleep(2 * doctor.LOOK_S)  # it is noticed only now
    yield "two "
    yield "three "
"""


class Clock:
    """What the doctor measures by: the agents move it on, so that a busy machine is no symptom."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def agents(agents: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(doctor, "time", Clock())
    with Path(agents).open("a", encoding="utf-8") as file:
        file.write(PACED)
    return agents


def examine(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", "--store", "memory://", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_an_agent_that_streams(agents: str) -> None:
    code, output = examine(f"{agents}:quick")
    assert code == 0
    assert "✓ quick loads (FunctionAgent)" in output
    assert re.search(r"✓ first event after 0\.\d\d s, the whole turn in 0\.30 s", output)
    assert "✓ it streams: 100 pieces of 6 to 7 characters (median 7) over " in output


@pytest.mark.parametrize(
    ("agent", "cause", "fix"),
    [
        ("whole", "nothing streams: all 23 characters came in one piece", "yield each piece as the model writes it"),
        ("buffered", "its output is buffered: 12 pieces", "stream=True"),
        ("blocks", "it blocks the event loop, for 0.8 s", "asyncio.to_thread"),
        ("silent", "it answers nothing", "yield text"),
        ("keyless", "Set the `EXAMPLE_API_KEY` environment variable", "export EXAMPLE_API_KEY=… in this shell"),
        ("raises", "the agent raised ValueError: no luck (", "`gapless --debug doctor …` shows the traceback"),
        ("not_an_agent", "not_an_agent: cannot run an int as an agent", ""),
        ("missing", "has no 'missing'", ""),
    ],
)
def test_an_agent_that_does_not(agents: str, agent: str, cause: str, fix: str) -> None:
    code, output = examine(f"{agents}:{agent}")
    assert code == 1
    assert f"✗ {cause}" in output or cause in output.partition("✗")[2]
    assert fix in output.partition("→")[2]


def test_an_agent_that_is_too_slow(agents: str) -> None:
    for timeout in ("0.2", "2", "20"):  # where the machine stands still for so long, nothing has streamed
        code, output = examine(f"{agents}:endless", "--timeout", timeout)
        assert code == 1
        if "it had streamed" in output:
            break
    assert f"the run passed timeout={timeout} s; it had streamed " in output.partition("✗")[2]
    assert "→ it streams, and takes longer: raise --timeout" in output


def test_without_an_agent_a_model_that_is_not_installed_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GAPLESS_MODEL", raising=False)
    monkeypatch.setattr(embedded, "_packaged_weights", lambda: None)
    monkeypatch.setattr(embedded, "user_model_path", lambda: tmp_path / "none.gguf")
    code, output = examine()
    assert (code, "✗" in output) == (0, False)
    assert "! no AGENT was named, so none was examined. No model is installed: run " in output
    monkeypatch.setenv("GAPLESS_MODEL", str(tmp_path / "chosen.gguf"))
    code, output = examine()
    assert (code, "✗ GAPLESS_MODEL names " in output) == (1, True), "that was asked for"


def test_with_debug_the_traceback_is_shown(agents: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def read():\n    return {}['key']\n\nread()\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["--debug", "doctor", f"{tmp_path}/odd.py:agent"], env={"COLUMNS": "300"})
    assert f"KeyError: 'key' ({tmp_path}/odd.py:2)\n      → `gapless --debug doctor …`" in result.output
    assert f'File "{tmp_path}/odd.py", line 2, in read' in result.output


def test_a_module_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("from json import StreamingMode\n", encoding="utf-8")
    code, output = examine(f"{tmp_path}/old.py:agent")
    assert code == 1
    assert "cannot import name 'StreamingMode'" in output
    assert "upgrade the package" in output
    (tmp_path / "ours.py").write_text("from gapless import TokenUsage\n", encoding="utf-8")
    assert "events and what is in them are in gapless.events" in examine(f"{tmp_path}/ours.py:agent")[1]


def test_the_place_is_examined(agents: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = examine(f"{agents}:quick", "--port", str(port), "--store", f"sqlite:///{tmp_path}/new.db")
    assert code == 0  # a port in use is told, and no fault of the agent's
    assert f"! port {port} of 127.0.0.1 is in use" in output
    assert "new.db is writable" in output
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {"__pycache__"} == {"agents.py"}  # looking leaves nothing behind


def test_few_descriptors_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, level, said in ((1024, "note", "a server here takes 768 connections"), (None, "ok", "10000")):
        report = Report()
        monkeypatch.setattr(listen, "raise_descriptor_limit", lambda descriptors=descriptors: descriptors)
        doctor._descriptors(report)  # type: ignore[arg-type]  # all of a report that it uses
        (finding,) = report.said
        assert (finding.level, said in finding.text) == (level, True)


class Report:
    def __init__(self) -> None:
        self.said: list[doctor.Finding] = []
        self.say = self.said.append


def test_a_store_that_cannot_be_opened_is_a_fault(agents: str, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    code, output = examine(f"{agents}:quick", "--store", f"sqlite:///{tmp_path}/broken.db")
    assert code == 1
    assert "✗ store sqlite:" in output


@pytest.mark.parametrize(
    ("failure", "fix"),
    [
        (RuntimeError("HTTP 401: invalid api key"), "set the provider's key: GOOGLE_API_KEY"),
        (RuntimeError("models/x is not found or is not supported for generateContent"), "live-only model"),
        (ConnectionError("Connection refused"), "endpoint cannot be reached"),
        (AgentInvalid("agent module 'x' does not import: no module 'y'; install it"), "install the missing package"),
        (AttributeError("'NoneType' object has no attribute 'city'"), "say how they are made from the run"),
        (RuntimeError("this model does not support streaming"), "streaming_mode=StreamingMode.NONE"),
        (ExtraMissing("pip install 'gapless[adk]'"), ""),
    ],
)
def test_causes_are_told_by_what_a_failure_says(failure: Exception, fix: str) -> None:
    finding = diagnose_failure(failure)
    assert finding.level == "bad"
    assert fix in finding.fix
    assert bool(finding.fix) == bool(fix)


def test_what_a_tool_raised_is_shown_with_its_place() -> None:
    try:
        raise KeyError("lamp")
    except KeyError as error:
        failure = ToolFailed("tool in_stock raised KeyError; see the server's log")
        failure.__cause__ = error
    text = diagnose_failure(failure).text
    assert text.startswith(f"ToolFailed: tool in_stock raised KeyError: 'lamp' ({__file__}:")


@pytest.mark.parametrize(
    ("turn", "level", "text"),
    [
        (Turn(output=True, others=3), "ok", "a typed output and no text"),
        (Turn(others=3), "note", "no text in the answer, but 3 events"),
        (Turn(), "bad", "it answers nothing"),
        (Turn(texts=[(0.9, 3), (0.9, 3)], total_s=1.0), "bad", "its output is buffered"),
        (Turn(texts=[(0.1, 3)], interrupted=True), "note", "one piece of text before its question"),
        (Turn(failure=RunTimeout("the run passed timeout=1 s")), "bad", "the run passed timeout=1 s"),
    ],
)
def test_what_a_turn_says(turn: Turn, level: str, text: str) -> None:
    (finding,) = diagnose_turn(turn)
    assert (finding.level, text in finding.text) == (level, True)


@pytest.mark.parametrize(
    ("deltas", "level", "text"),
    [
        (Deltas(at_model=True), "ok", "are taken at the model"),
        (Deltas(at_model=False, watched_by="limits on tokens"), "note", ": limits on tokens may look at each"),
    ],
)
def test_which_way_a_models_deltas_came_is_said(deltas: Deltas, level: str, text: str) -> None:
    finding = diagnose_deltas(deltas)
    assert (finding.level, text in finding.text) == (level, True)


def test_a_frameworks_agent_says_which_way_its_deltas_came(tmp_path: Path) -> None:
    module = tmp_path / "framework_agents.py"
    module.write_text(
        "from pydantic_ai import Agent\n"
        "from pydantic_ai.capabilities import ProcessEventStream\n"
        "from gapless.testing import pydantic_ai_model\n"
        "async def looks(ctx, events):\n"
        "    async for _ in events: ...\n"
        "model = pydantic_ai_model('One ', 'two ', 'three.')\n"
        "plain = Agent(model)\n"
        "watched = Agent(model, capabilities=[ProcessEventStream(looks)])\n"
    )
    assert "✓ its deltas are taken at the model" in examine(f"{module}:plain")[1]
    assert "which costs more: capabilities (ProcessEventStream) may look at each" in examine(f"{module}:watched")[1]


def test_what_explains_another_fault_is_told_once() -> None:
    blocked = Turn(texts=[(0.9, 3), (0.9, 3)], total_s=1.0, blocked_s=0.9)
    assert ["it blocks the event loop" in finding.text for finding in diagnose_turn(blocked)] == [True]
    asking = Turn(notices=["it asks a person"], interrupted=True, others=3)
    assert ["it asks a person" in finding.text for finding in diagnose_turn(asking)] == [True]


def test_the_cause_behind_a_failure_counts() -> None:
    failure = RuntimeError("the model failed")
    failure.__cause__ = RuntimeError("Your default credentials were not found")
    fix = diagnose_failure(failure).fix
    assert "set the provider's key" in fix
    assert fix.endswith("gcloud auth application-default login")


def test_a_key_that_is_set_is_said_to_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", "x")
    assert "is set, but the provider does not take it" in diagnose_failure(RuntimeError("401: EXAMPLE_API_KEY")).fix
