"""Agents by the folder that they are in, as `adk web` takes them: `travel/agent.py` with a `root_agent`, its `.env`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gapless.errors import AgentInvalid, AgentNotFound

__all__ = ["agent_in", "agents_below", "is_agent", "package_of"]

FILES = ("agent.py", "__init__.py")
"""Where the agent of a folder is, the first of them that has one."""
OF_FILES = "GAPLESS_OF_ENV_FILES"
"""The variable that says which variables come from `.env` files, and which process has read them."""
NAMES = ("root_agent", "agent")
"""What it is called there."""


def is_agent(folder: Path) -> bool:
    """Tell whether `folder` is one agent's: it has an `agent.py`, or is a package that names a `root_agent`."""
    if (folder / "agent.py").is_file():
        return True
    package = folder / "__init__.py"
    return package.is_file() and "root_agent" in package.read_text(encoding="utf-8", errors="replace")


def agents_below(folder: Path) -> list[Path]:
    """Return the agents' folders in `folder`, by name; those that are hidden or begin with `_` are none."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] not in "._" and is_agent(one))


def agent_in(module: ModuleType) -> Any:
    """Return the agent of a `module`, which is called `root_agent` or `agent`; an ADK app before it. None where it has
    none."""
    app = getattr(module, "app", None)
    if type(app).__module__.startswith("google.adk."):
        return app
    named = (getattr(module, name, None) for name in NAMES)  # a package has its module `agent` under that name, too
    return next((found for found in named if found is not None and not isinstance(found, ModuleType)), None)


def package_of(folder: Path) -> list[ModuleType]:
    """Import an agent's `folder` as the package that it is, whether or not it says so, and return the modules that may
    have the agent. Raises `AgentNotFound`, `AgentInvalid`, and what importing raises."""
    folder = folder.resolve()
    if not folder.name.isidentifier():
        raise AgentInvalid(f"agent folder {folder}: give it a name that Python can import, such as my_agent")
    _read_env(folder)
    if str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))  # for what agents share; it hides no package
    package = _package(folder)
    found = [package]
    if (folder / "agent.py").is_file():
        found.insert(0, importlib.import_module(f"{folder.name}.agent"))
    elif not is_agent(folder):
        raise AgentNotFound(f"agent folder {folder} has no {' and no '.join(FILES)} with a root_agent")
    return found


def _package(folder: Path) -> ModuleType:
    """Return the package of this name that is this folder. One that is installed under the name is hidden by none."""
    name = folder.name
    known = sys.modules.get(name)
    if known is not None:
        if str(folder) in [str(Path(path).resolve()) for path in getattr(known, "__path__", ())]:
            return known
        raise AgentInvalid(f"agent folder {folder}: a package {name} is imported already; give the folder another name")
    start = folder / "__init__.py"
    if not start.is_file():
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        return package
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise
    return package


def _read_env(folder: Path) -> None:
    """Read the `.env` of the folder, or of one above it, as ADK does where it is installed. What the process that
    started this one has of such files is none of this one's environment: they may have changed since, and each agent
    has its own."""
    with contextlib.suppress(ImportError):
        from google.adk.cli.utils import envs

        parent = multiprocessing.parent_process()
        pid, _, names = os.environ.get(OF_FILES, "").partition(":")
        known = names.split()
        if parent is not None and pid == str(parent.pid):
            for name in known:
                os.environ.pop(name, None)
            known = []
        before = set(os.environ)
        envs.load_dotenv_for_agent(folder.name, str(folder.parent))
        os.environ[OF_FILES] = f"{os.getpid()}:{' '.join([*known, *sorted(set(os.environ) - before)])}"
