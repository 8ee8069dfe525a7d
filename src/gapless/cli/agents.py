"""Which agent a command runs: what AGENT names, or the embedded model, installed first where a person agrees."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from gapless.errors import ExtraMissing, ModelMissing, UsageError

if TYPE_CHECKING:
    from gapless.agents.base import Agent

__all__ = ["AGENT_HELP", "load_agent", "load_agents", "path_of", "settings_of"]

AGENT_HELP = "module:attribute, file.py:attribute, a folder, a .gguf file or a URL. Default: the embedded model."

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})=(?P<reference>.+)", re.DOTALL)


def load_agent(reference: str | None) -> Agent:
    """Return the agent that a reference names; the embedded model for None.

    Raises `AgentNotFound`, `AgentInvalid`, `ModelMissing`, `ModelFailed`, `ExtraMissing`.
    """
    from gapless.agents import load

    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # it would come in the middle of the first answer
    agent = load(reference) if reference is not None else _embedded()
    if type(agent).__module__ == "gapless.agents.local":
        _check_runtime()
    return agent


def load_agents(references: list[str]) -> dict[str, Agent]:
    """Several agents by name: `name=reference`, a reference whose agent has a name of its own, or a folder with the
    folders of several, which are named as these.

    Raises what `load_agent` raises, and `UsageError` for a name given twice.
    """
    agents: dict[str, Agent] = {}
    for reference in [one for given in references or [""] for one in _spread(given)]:
        named = _NAMED.fullmatch(reference)
        what = named["reference"] if named else reference
        agent = load_agent(what or None)
        name = named["name"] if named else agent.name
        if name in agents:
            raise UsageError(f"two agents are named {name!r}: give one another name, e.g. {name}-2={what}")
        agents[name] = agent
    return agents


def path_of(reference: str) -> Path | None:
    """Return the file or folder that a reference names, with a name before it or not; None for modules and URLs."""
    named = _NAMED.fullmatch(reference)
    what = named["reference"] if named else reference
    if "://" in what:
        return None
    file, colon, _ = what.rpartition(":")
    path = Path(file if colon and file.endswith(".py") else what)
    return path if path.suffix or path.is_dir() else None


def _spread(reference: str) -> list[str]:
    """Return the agents of a folder that is not one agent's, or the reference as it is."""
    from gapless.agents.folders import agents_below, is_agent

    folder = Path(reference)
    if not reference or not folder.is_dir() or is_agent(folder):
        return [reference]
    return [f"{one.name}={one}" for one in agents_below(folder)] or [reference]


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """`["temperature=0.2", "stop=END"]` → model settings: each value is JSON, or else text. Raises `UsageError`."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair!r}: write key=value, e.g. --set temperature=0.2")
        try:
            settings[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            settings[name] = value
    return settings


def _embedded() -> Agent:
    from gapless.agents.embedded import NAME, find_model
    from gapless.agents.local import embedded_model
    from gapless.cli.model import install_with_bar

    if find_model() is None and sys.stdin.isatty() and sys.stderr.isatty():
        question = f"No agent was named and no model is installed. Install {NAME} (93 MB, once)?"
        if not typer.confirm(question, default=True, err=True):
            raise ModelMissing("no model: name an agent, or run `gapless model install`")
        install_with_bar()
    return embedded_model()


def _check_runtime() -> None:
    # Found out now and not in the middle of the first run.
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        raise ExtraMissing("a .gguf model takes llama.cpp: pip install 'gapless[local]'")
