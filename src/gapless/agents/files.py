"""Agents' files as modules: each is executed once, under a name that is its own and the same after a restart, so that
what a store has of its classes is found again."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

__all__ = ["module_named", "module_of"]

PREFIX = "gapless_agent_"
"""What the names begin with. It is followed by the file's own and `DIGEST_CHARS` of a digest of its path."""
DIGEST_CHARS = 12
_NAME = re.compile(rf"{PREFIX}(\w+)_[0-9a-f]{{{DIGEST_CHARS}}}")


class _Executed(NamedTuple):
    module: ModuleType
    source: bytes
    """What it was made of: a file that says something else by now is executed anew."""


_executed: dict[Path, _Executed] = {}
"""By the whole path, links followed."""
_aliases: dict[str, str] = {}
"""Names that lead to the only file that is called so, in `sys.modules`: name → what the file is called."""


def module_of(path: Path) -> ModuleType:
    """Return the module of an agent's file, which is executed unless that has been done. Raises what it raises."""
    path = path.resolve()
    source, known = path.read_bytes(), _executed.get(path)
    if known is not None and known.source == source:
        return known.module
    name = f"{PREFIX}{_called(path)}_{hashlib.sha256(str(path).encode(errors='replace')).hexdigest()[:DIGEST_CHARS]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it finds its neighbours; a `redis.py` beside it hides no package
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if known is not None:
            sys.modules[name] = known.module  # what runs of it is from there
        raise
    _executed[path] = _Executed(module, source)
    _forget_aliases(_called(path))
    _alias(f"{PREFIX}{path.stem}", _called(path))  # its name before it had its path in it
    return module


def module_named(name: str) -> ModuleType | None:
    """Return the module that a store names, if it is imported. For an agent's file that was elsewhere when that was
    written (another release's folder, another machine) it is the file that is called the same, where there is one only.
    Nothing is imported for it."""
    if name not in sys.modules and (agent := _NAME.fullmatch(name)) is not None:
        _alias(name, agent[1])
    return sys.modules.get(name)


def _called(path: Path) -> str:
    return re.sub(r"\W", "_", path.stem)


def _alias(name: str, called: str) -> None:
    """Let the name lead to the file that is called so, unless several are: which of them was meant, nobody can tell."""
    found = [one.module for path, one in _executed.items() if _called(path) == called]
    if len(found) == 1 and name not in sys.modules:
        sys.modules[name], _aliases[name] = found[0], called


def _forget_aliases(called: str) -> None:
    for name in [name for name, meant in _aliases.items() if meant == called]:
        del _aliases[name]
        sys.modules.pop(name, None)
