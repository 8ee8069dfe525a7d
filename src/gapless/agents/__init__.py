"""Agents: one adapter per framework behind the seam in `gapless.agents.base`, and how to name one.

To add a framework whose agents are objects: one module or folder beside this file, and one line in `FRAMEWORKS`. What
is named instead, by a URL or a file, is told in `load`. Packages of others bring theirs along by an entry point of the
group `ENTRY_POINTS`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gapless.agents.base import Agent
from gapless.agents.files import module_of
from gapless.agents.folders import agent_in, package_of
from gapless.agents.objects import ObjectAgent, Runnable, speaks_ag_ui
from gapless.errors import AgentInvalid, AgentNotFound, ExtraMissing, GaplessError
from gapless.given import article

__all__ = ["ENTRY_POINTS", "FRAMEWORKS", "Agent", "Framework", "adapt", "load"]

ENTRY_POINTS = "gapless.agents"
"""The group of entry points by which other packages bring adapters: the name is the package of the agents' classes
(`strands`, `acme.agents`), the object a class that is called with an agent and makes an `Agent` of it."""

NAMES_SHOWN_MAX = 10
"""Of the names that a message says to choose from."""


class Framework(NamedTuple):
    """Describes an agent framework and what adapts it."""

    package: str
    """Where its agents' classes are."""
    adapter: str
    """`module:class`; imported where such an agent is adapted, and not before."""
    extra: str
    """What is installed for it: `pip install 'gapless[extra]'`."""
    distribution: str
    """The distribution that the extra brings."""
    agents: str
    """What its agents are called."""
    packages: tuple[str, ...] = ()
    """What else the extra brings that code of its agents imports."""


FRAMEWORKS = (
    Framework(
        "pydantic_ai",
        "gapless.agents.pydantic_ai:PydanticAIAgent",
        "pydantic-ai",
        "pydantic-ai-slim",
        "Pydantic AI agents",
    ),
    Framework("google.adk", "gapless.agents.adk:ADKAgent", "adk", "google-adk", "Google ADK agents"),
    Framework(
        "langgraph",
        "gapless.agents.langgraph:LangGraphAgent",
        "langgraph",
        "langgraph",
        "LangGraph graphs, LangChain agents",
        ("langchain", "langchain_core"),
    ),
    # Its package is called `agents`, as many a folder of one's own is.
    Framework(
        "agents.agent",
        "gapless.agents.openai_agents:OpenAIAgent",
        "openai-agents",
        "openai-agents",
        "agents of the OpenAI Agents SDK",
    ),
    Framework(
        "claude_agent_sdk",
        "gapless.agents.claude:ClaudeAgent",
        "claude",
        "claude-agent-sdk",
        "options of the Claude Agent SDK",
    ),
)


def adapt(agent: object, name: str | None = None) -> Agent:
    """Make of any `agent` what the runner runs: an adapter's instance, or the object itself when it is one already.

    Takes an ADK agent, app or runner, a Pydantic AI agent, a LangGraph graph or LangChain agent, an (async) generator
    function or function, an agent of a framework that an installed package adapts (`ENTRY_POINTS`), or a name as `load`
    takes it; also any object with `async run(RunAgentInput)` that yields AG-UI's events. `name` is for a function, and
    for an agent that has none. Raises `AgentInvalid`, `AgentNotFound`,
    `ExtraMissing`.
    """
    if isinstance(agent, str | Path):
        return load(str(agent))
    what = f"{name}: " if name else ""
    if isinstance(agent, type):
        raise AgentInvalid(
            f"{what}cannot run the class {agent.__name__} as an agent: give an instance of it: {agent.__name__}(…)"
        )
    if isinstance(agent, Agent):
        _check_run(agent, what)
        if not hasattr(agent, "name"):
            if name is None:
                raise AgentInvalid(
                    f'{type(agent).__name__} has no `name`: write name = "…" in the class, or register it by one'
                )
            agent.name = name
        return agent
    if (framework := _framework_of(agent)) is not None:
        return _named(_import(framework.adapter, framework.extra)(agent), agent, name)
    if not inspect.isroutine(agent) and (brought := _brought(agent)) is not None:
        return _named(brought(agent), agent, name)
    if speaks_ag_ui(agent):
        return _named(_import("gapless.agents.agui_object:AGUIObject", "all")(agent), agent, name)
    if callable(agent):
        from gapless.agents.functions import FunctionAgent

        return FunctionAgent(agent, name)
    if isinstance(agent, Runnable):
        _check_run(agent, what)
        return ObjectAgent(agent)
    if inspect.isgenerator(agent) or inspect.isasyncgen(agent) or inspect.iscoroutine(agent):
        if inspect.iscoroutine(agent):
            agent.close()  # else Python would say that nobody has awaited it
        raise AgentInvalid(
            f"{what}cannot run {article(type(agent).__name__)} as an agent: give the function, not its call: "
            f"{agent.__name__} and not {agent.__name__}(…)"
        )
    raise AgentInvalid(
        f"{what}cannot run {article(type(agent).__name__)} as an agent: give an agent of a framework known here "
        f"({', '.join(framework.agents for framework in FRAMEWORKS)}), an (async) generator or "
        "function, an object with `name` and `run(ctx)` or `run(RunAgentInput)`, a URL, or module:attribute"
    )


def _check_run(agent: Agent | Runnable, what: str) -> None:
    """Raises `AgentInvalid` for a `run` that can be no async generator: nothing could be read from what it returns."""
    if inspect.iscoroutinefunction(agent.run) or inspect.isgeneratorfunction(agent.run):
        does = "returns" if inspect.iscoroutinefunction(agent.run) else "is sync"
        raise AgentInvalid(
            f"{what}{type(agent).__name__}.run {does}: write `async def run(self, ctx)` with `yield` for each piece of "
            "the answer"
        )


def _framework_of(agent: object) -> Framework | None:
    """Return the framework that the object's class, or one that it inherits from, is of."""
    for cls in type(agent).__mro__:
        for framework in FRAMEWORKS:
            if f"{cls.__module__}.".startswith(f"{framework.package}."):
                return framework
    return None


def _named(adapter: Agent, agent: object, name: str | None) -> Agent:
    if name is not None and getattr(agent, "name", name) is None:
        adapter.name = name
    return adapter


def _brought(agent: object) -> Callable[[object], Agent] | None:
    """Return what an installed package adapts such an agent with. Reading what is installed takes up to 30 ms, so it is
    done only for what nothing here is for."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    for cls in type(agent).__mro__ if found else ():
        package = cls.__module__
        while package:
            if (point := found.get(package)) is not None:
                return _loaded(point)
            package = package.rpartition(".")[0]
    return None


def _loaded(point: importlib.metadata.EntryPoint) -> Callable[[object], Agent]:
    try:
        adapter: Callable[[object], Agent] = point.load()
    except Exception as error:
        brings = point.dist.name if point.dist is not None else "an installed package"
        raise AgentInvalid(
            f"the adapter {point.value} for {point.name}, which {brings} brings, does not import: "
            f"{type(error).__name__}: {error}"
        ) from error
    return adapter


def load(reference: str) -> Agent:
    """Import the agent that `reference` names: `module:attribute`, `file.py:attribute`, an agent's folder or file with
    a `root_agent` or `agent` in it, `model.gguf`, or a URL.

    Raises `AgentNotFound` when there is no such thing, `AgentInvalid` when it cannot be run, `ExtraMissing`.
    """
    if reference.startswith(("http://", "https://", "openai+", "ag-ui+")):
        endpoint: Agent = _import("gapless.agents.endpoints:endpoint", "all")(reference)
        return endpoint
    if reference.endswith(".gguf"):
        local: Agent = _import("gapless.agents.local:LocalModel", "local")(Path(reference))
        return local
    if Path(reference).is_dir() or (reference.endswith(".py") and Path(reference).is_file()):
        return _load_whole(Path(reference))
    module_name, colon, attribute = reference.rpartition(":")
    if not colon or not module_name or not attribute:
        raise AgentNotFound(
            f"agent {reference!r}: write module:attribute, file.py:attribute, a folder, a .gguf file or a URL (http://…)"
        )
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            like = difflib.get_close_matches(part, [name for name in dir(found) if not name.startswith("_")])
            choose = f": name a variable or function of it{_choice(found)}"
            hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else choose
            raise AgentNotFound(f"agent {reference!r}: {module_name} has no {attribute!r}{hint}") from None
    return adapt(found, name=attribute)


def _load_whole(path: Path) -> Agent:
    """Load the agent of a folder, or of a file that is named without an attribute."""
    folder = path if path.is_dir() else path.parent
    try:
        packed = path.is_dir() or (path.name == "agent.py" and (folder / "__init__.py").is_file())
        modules = package_of(folder) if packed else [_import_file(path)]
    except GaplessError:
        raise
    except Exception as error:
        raise _not_imported(f"agent folder {path}", error, folder.resolve()) from error
    for module in modules:
        if (found := agent_in(module)) is not None:
            return adapt(found, name=folder.name if packed else path.stem)
    raise AgentNotFound(
        f"agent {path}: it names no root_agent and no agent; write {path}:NAME for another variable{_choice(*modules)}"
    )


def _choice(*places: Any) -> str:
    """Return what there is to choose from in modules, to go behind what is to be chosen; nothing where they have
    nothing."""
    names = [name for place in places if isinstance(place, ModuleType) for name in _agents_of(place)]
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) + ", …" * (len(names) > NAMES_SHOWN_MAX)
    return f" (it has {shown})" if names else ""


def _agents_of(module: ModuleType) -> list[str]:
    """Return the names in a module that may be agents: its own functions, and instances of what a framework calls an
    agent, in the order in which they are written."""
    return [
        name
        for name, found in vars(module).items()
        if not name.startswith("_")
        and not isinstance(found, type | ModuleType)
        and (
            found.__module__ == module.__name__
            if inspect.isfunction(found)
            else isinstance(found, Agent) or _framework_of(found) is not None
        )
    ]


def _import(target: str, extra: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]  # looked up by name
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"this agent needs the package {error.name!r}: pip install 'gapless[{extra}]'", code="extra_missing"
        ) from error
    except ImportError as error:
        raise ExtraMissing(
            f"the installed {error.name} is too old for Gapless ({error.msg}): pip install --upgrade 'gapless[{extra}]'"
        ) from error


def _import_module(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise AgentNotFound(f"agent module {name!r} was not found from {Path.cwd()}") from None
        raise _not_imported(f"agent module {name!r}", error, Path.cwd()) from error
    except Exception as error:
        raise _not_imported(f"agent module {name!r}", error, Path.cwd()) from error


def _import_file(path: Path) -> Any:
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise AgentNotFound(f"agent file {path} does not exist{where}: check the name, or write the whole path")
    try:
        return module_of(path)
    except Exception as error:
        raise _not_imported(f"agent file {path}", error, path.resolve().parent) from error


def _not_imported(what: str, error: Exception, folder: Path) -> GaplessError:
    """Return what to raise for an agent's module that does not import: with the `pip install` for a framework that is
    missing, and else with the place in the user's own code, which is below `folder`."""
    said = f"{what} does not import: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        for framework in FRAMEWORKS:
            if any(f"{package}.".startswith(f"{error.name}.") for package in (framework.package, *framework.packages)):
                return ExtraMissing(f"{said}; pip install 'gapless[{framework.extra}]'")
        said += "; install it"
    if isinstance(error, SyntaxError):
        return AgentInvalid(f"{said.removesuffix(f', line {error.lineno})')}:{error.lineno})")
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if Path(one.filename).is_relative_to(folder) and "site-packages" not in one.filename]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return AgentInvalid(f"{said}{where}")
