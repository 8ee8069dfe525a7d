"""Naming and adapting agents: what cannot be run says why and what to write."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic_ai import Agent

from gapless import Runner
from gapless.agents import FRAMEWORKS, Framework, adapt, load
from gapless.agents.base import Agent as Base
from gapless.agents.base import RunContext
from gapless.agents.functions import FunctionAgent
from gapless.agents.langgraph_saver import RunSaver
from gapless.agents.raised import decode_raised, encode_raised
from gapless.cli.agents import load_agents
from gapless.cli.doctor import EXTRAS
from gapless.errors import AgentInvalid, AgentNotFound, ExtraMissing
from tests.support import heavy


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_module_and_file_references(folder: Path):
    (folder / "neighbour.py").write_text("word = 'hi'\n")
    (folder / "mine.py").write_text(
        "import neighbour\nasync def agent(m): yield neighbour.word\nclass Box:\n    agent = agent\n"
    )
    for reference in ("mine:agent", "mine.py:agent", "mine:Box.agent", str(folder / "mine.py") + ":agent"):
        assert isinstance(load(reference), FunctionAgent)
    assert load("mine:agent").name == "agent"


AGENT_FILE = """
import dataclasses
from gapless.agents.functions import FunctionAgent
@dataclasses.dataclass
class Order:
    id: int
class Refused(Exception): ...
class Mine(FunctionAgent): ...
first, second = (Mine(lambda m: "hi", name) for name in ("first", "second"))
"""


def agent_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(AGENT_FILE)
    return path


def module_in(path: Path, variable: str = "first") -> ModuleType:
    """Return the module that an agent of the file is of."""
    agent = load(f"{path}:{variable}")
    assert agent.name == variable
    return sys.modules[type(agent).__module__]


def kept_of(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes, tuple[str, bytes]]:
    """Return what is kept of the module's classes where it is called so: pickled, raised, and LangGraph's."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        for kind in (module.Order, module.Refused):
            patch.setattr(kind, "__module__", name)
        order = module.Order(7)
        return pickle.dumps(order), encode_raised(module.Refused()), RunSaver("t").serde.dumps_typed(order)


def test_a_file_is_executed_once_for_all_agents_in_it_until_it_changes(folder: Path):
    path = agent_file(folder / "many.py")
    first, module = load("many.py:first"), module_in(path)
    (folder / "linked.py").symlink_to(path)
    assert isinstance(load("many.py:second"), type(first))
    assert module_in(folder / "linked.py") is module_in(Path("many.py"), "second") is module
    path.write_text("this is no Python\n")
    with pytest.raises(AgentInvalid):
        load("many.py:first")
    assert sys.modules[module.__name__] is module, "what has been loaded is left as it was"
    path.write_text(f"{AGENT_FILE}third = Mine(lambda m: 'hi', 'third')\n")
    changed = module_in(path, "third")
    assert changed is not module
    assert changed.__name__ == module.__name__


def test_files_that_are_called_the_same_keep_each_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch):
    modules = [module_in(agent_file(folder / name / "gapless_same.py")) for name in ("shop", "bank")]
    assert modules[0] is not modules[1]
    for module in modules:
        pickled, raised, checkpoint = kept_of(module, module.__name__, monkeypatch)
        assert pickle.loads(pickled) == RunSaver("t").serde.loads_typed(checkpoint) == module.Order(7)
        assert type(decode_raised(raised)) is module.Refused


def test_what_was_kept_under_another_name_is_found_by_what_the_file_is_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Names had no path in them once; another release has its files in another folder."""
    module = module_in(agent_file(folder / "monthly.py"))
    before, elsewhere = "gapless_agent_monthly", f"gapless_agent_monthly_{'0' * 12}"
    kept = [kept_of(module, name, monkeypatch) for name in (before, elsewhere)]
    for _, raised, checkpoint in kept:
        assert type(decode_raised(raised)) is module.Refused
        assert RunSaver("t").serde.loads_typed(checkpoint) == module.Order(7)
    assert pickle.loads(kept[0][0]) == module.Order(7)
    module_in(agent_file(folder / "other" / "monthly.py"))
    for _, raised, checkpoint in kept:
        assert type(decode_raised(raised)) is Exception, "which of the two was meant, nobody can tell"
        assert RunSaver("t").serde.loads_typed(checkpoint) == {"id": 7}


def test_a_folder_is_its_agent_as_adk_has_it(folder: Path):
    for name in ("gapless_travel", "gapless_weather", "gapless_bare"):
        (folder / name).mkdir()
    (folder / "gapless_shared.py").write_text("word = 'hi'\n")
    travel, weather, bare = (folder / f"gapless_{name}" for name in ("travel", "weather", "bare"))
    (travel / "__init__.py").write_text("from . import agent\n")
    (travel / "tools.py").write_text("from gapless_shared import word\n")
    (travel / "agent.py").write_text("from .tools import word\nasync def root_agent(m): yield word\n")
    (weather / "__init__.py").write_text("async def root_agent(m): yield 'sunny'\n")
    (bare / "agent.py").write_text("import gapless_shared\nasync def agent(m): yield 'bare'\n")
    for reference in ("gapless_travel", "gapless_travel/agent.py", str(travel), f"{weather}/", "gapless_bare"):
        assert load(reference).name == Path(reference if reference[-3:] != ".py" else travel).name.removesuffix("/")
    assert load("gapless_bare/agent.py").name == "agent", "a file alone"
    assert [*load_agents([str(folder)])] == ["gapless_bare", "gapless_travel", "gapless_weather"]


def test_a_folder_without_an_agent_says_what_is_missing(folder: Path):
    for name, text in (
        ("gapless_empty", None),
        ("gapless_other", "import json\nfrom os.path import join\nasync def helper(m): ...\n"),
    ):
        (folder / name).mkdir()
        if text is not None:
            (folder / name / "agent.py").write_text(text)
    (folder / "json").mkdir()
    (folder / "json" / "agent.py").write_text("async def agent(m): ...\n")
    for reference, error, says in (
        ("gapless_empty", AgentNotFound, "has no agent.py and no __init__.py with a root_agent"),
        (
            "gapless_other",
            AgentNotFound,
            "names no root_agent and no agent; .* for another variable \\(it has helper\\)$",
        ),
        ("json", AgentInvalid, "a package json is imported already"),
    ):
        with pytest.raises(error, match=says):
            load(reference)
    (folder / "gapless_other" / "agent.py").write_text("import no_such_dependency\n")
    sys.modules.pop("gapless_other.agent", None)
    with pytest.raises(AgentInvalid, match="does not import: ModuleNotFoundError"):
        load("gapless_other")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nothing", "write module:attribute"),
        (":agent", "write module:attribute"),
        ("no_such_module:agent", "agent module 'no_such_module' was not found"),
        ("no_such.py:agent", r"no_such.py does not exist in .*: check the name, or write the whole path"),
        ("/no/such.py:agent", r"agent file /no/such.py does not exist: check"),
        ("json:agent", r"json has no 'agent': name a variable or function of it \(it has .*dumps, .*\)"),
        ("json:lods", "json has no 'lods'; did you mean 'loads'"),
    ],
)
def test_what_is_not_there(folder: Path, reference: str, says: str):
    with pytest.raises(AgentNotFound, match=says):
        load(reference)


def test_what_does_not_import(folder: Path):
    (folder / "broken.py").write_text("import json\n\n\ndef read():\n    json.loads('{')\n\n\nread()\n")
    (folder / "needy.py").write_text("import no_such_dependency\n")
    (folder / "wrong.py").write_text("\n\nthis is no Python\n")
    for place in ("broken.py:agent", "broken:agent"):
        with pytest.raises(AgentInvalid, match=rf"does not import: JSONDecodeError: .* \({folder}/broken.py:5\)$"):
            load(place)
    for place in ("wrong.py:agent", "wrong:agent"):
        with pytest.raises(AgentInvalid, match=r"does not import: SyntaxError: invalid syntax \(wrong.py:3\)$"):
            load(place)
    for place in ("needy.py:agent", "needy:agent"):
        with pytest.raises(AgentInvalid, match=r"No module named 'no_such_dependency'; install it "):
            load(place)


@pytest.mark.parametrize(
    ("statement", "missing", "extra"),
    [
        ("import pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("from google.adk.agents import Agent", "google", "adk"),
        ("from google.adk.agents import Agent", "google.adk", "adk"),
        ("from langchain.agents import create_agent", "langchain", "langgraph"),
        ("import langgraph.graph", "langgraph", "langgraph"),
    ],
)
def test_a_framework_that_is_missing_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, statement: str, missing: str, extra: str
):
    (folder / "theirs.py").write_text(f"{statement}\n")
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)

    class Without(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> None:
            if fullname == missing:
                raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    for place in ("theirs.py:agent", "theirs:agent"):
        with pytest.raises(ExtraMissing, match=rf"No module named '{missing}'; pip install 'gapless\[{extra}\]'$"):
            load(place)


def test_an_agent_without_a_name_goes_by_the_one_that_it_was_found_or_registered_under(folder: Path):
    (folder / "mine.py").write_text(
        "from pydantic_ai import Agent\nsupport = Agent('test')\nnamed = Agent('test', name='shop')\n"
    )
    assert [load(f"mine.py:{variable}").name for variable in ("support", "named")] == ["support", "shop"]
    runner = Runner(agents={"sales": Agent("test"), "help": "mine.py:support"})
    assert {name: agent.name for name, agent in runner.agents.items()} == {"sales": "sales", "help": "support"}
    assert adapt(Agent("test")).name == "agent"


@pytest.mark.parametrize("thing", [5, object(), [], None])
def test_what_is_no_agent(thing: object):
    with pytest.raises(AgentInvalid, match=f"cannot run an? {type(thing).__name__}"):
        adapt(thing)


class Ours(Base):
    name = "ours"

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield "x"


class Callable:
    async def __call__(self, message: str) -> str:
        return message


class Nameless(Base):
    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        yield f"as {self.name}"


class Returns(Base):
    name = "returns"

    async def run(self, ctx: RunContext) -> str:  # type: ignore[override]  # as somebody may write it
        return "x"


class YieldsSync(Base):
    name = "sync"

    def run(self, ctx: RunContext) -> Iterator[str]:  # type: ignore[override]  # as somebody may write it
        yield "x"


class Stranger:
    name = "stranger"

    async def run(self, ctx: RunContext) -> str:
        return "x"


@pytest.mark.parametrize("cls", [Ours, Callable, Nameless, Stranger, str, Agent])
def test_a_class_is_no_agent_and_is_told_what_to_write(cls: type):
    with pytest.raises(AgentInvalid, match=rf"^cannot run the class {cls.__name__} .*: {cls.__name__}\(…\)"):
        Runner(cls)
    with pytest.raises(AgentInvalid, match=f"^support: cannot run the class {cls.__name__}"):
        Runner(agents={"support": cls})


@pytest.mark.parametrize("agent", [Returns(), YieldsSync(), Stranger()])
def test_a_run_that_yields_nothing_to_wait_for_is_told_so(agent: Any):
    name = type(agent).__name__
    with pytest.raises(AgentInvalid, match=rf"{name}\.run .*: write `async def run\(self, ctx\)` with `yield`"):
        Runner(agent)


async def test_an_agent_of_ours_without_a_name_goes_by_the_one_that_it_is_registered_under():
    with pytest.raises(AgentInvalid, match=r"Nameless has no `name`: .*name = "):
        Runner(Nameless())
    async with Runner(agents={"support": Nameless()}) as runner:
        assert (await (await runner.start("x")).collect()).text == "as support"
    async with Runner(Nameless(), app_name="help") as runner:
        assert (await (await runner.start("x")).collect()).text == "as help"


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    missing = Framework("builtins", "gapless_no_such.module:Adapter", "adk", "none", "Missing agents")
    monkeypatch.setattr("gapless.agents.FRAMEWORKS", (missing,))
    with pytest.raises(ExtraMissing, match=r"pip install 'gapless\[adk\]'"):
        adapt(object())


def test_an_adapter_that_a_package_brings_is_found_by_its_entry_point(folder: Path):
    installed = folder / "gapless_bots-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: gapless-bots\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[gapless.agents]\nsome_bots = gapless_bots:BotAgent\nbroken_bots = gapless_bots_gone:Agent\n"
    )
    (folder / "some_bots.py").write_text("class Bot:\n    def __call__(self): ...\nbot = Bot()\n")
    (folder / "broken_bots.py").write_text("class Bot: ...\nbot = Bot()\n")
    (folder / "gapless_bots.py").write_text(
        "from gapless.agents import Agent\n"
        "class BotAgent(Agent):\n    def __init__(self, bot): self.name = None\n"
        "    async def run(self, ctx): yield 'hello'\n"
    )
    found = load("some_bots:bot")
    assert type(found).__name__ == "BotAgent"
    with pytest.raises(AgentInvalid, match=r"gapless_bots_gone:Agent for broken_bots, which gapless-bots brings"):
        load("broken_bots:bot")


def test_every_framework_is_an_extra_that_can_be_installed():
    extras = set(importlib.metadata.metadata("gapless").get_all("Provides-Extra") or ())
    assert {framework.extra for framework in FRAMEWORKS} <= extras
    for framework in FRAMEWORKS:
        assert framework.extra in EXTRAS
        if heavy.has(framework.package.partition(".")[0]) or framework.distribution not in heavy.PACKAGES.values():
            assert importlib.metadata.version(framework.distribution)
