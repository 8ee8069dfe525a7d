"""What an ADK agent is made of, as ADK's own functions tell its web page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.cli.utils.graph_serialization import serialize_app_info
from google.adk.cli.utils.graph_visualization import plot_workflow_graph
from google.adk.utils.agent_info import get_agents_dict

__all__ = ["ADKStructure"]

_TOLD = ("name", "type", "description", "model", "rerun_on_resume")
"""What is told of an agent or node. Its other fields may hold keys (headers for the model, say), and are not drawn."""
_BELOW = ("sub_agents", "nodes")


class ADKStructure:
    """Shows the agents, tools and nodes of an app."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def info(self) -> dict[str, Any]:
        """Return what the agents are told and may call; of a root that is no `LlmAgent`, its name only. Raises whatever
        a toolset raises that is asked for its tools.
        """
        root = self._app.root_agent
        assert root is not None, "an app that runs has a root"
        found: dict[str, Any] = {"rootAgentName": root.name, "description": root.description}
        if isinstance(root, LlmAgent):
            agents = await get_agents_dict(root)
            shown = {
                name: agent.model_dump(mode="json", by_alias=True, exclude_none=True) for name, agent in agents.items()
            }
            return {**found, "agents": shown}
        return found

    def tree(self) -> dict[str, Any]:
        """Return the root, and all below it."""
        return _node(serialize_app_info(self._app)["root_agent"])

    def drawings(self, *, dark: bool) -> dict[str, str]:
        """Return the root's drawing in the language DOT, and those of the workflows below it by their paths; on a
        `dark` ground or a bright one.
        """
        root = serialize_app_info(self._app)["root_agent"]
        return {
            path: str(plot_workflow_graph({"root_agent": node}, format="dot", dark_mode=dark))
            for path, node in {"": root, **dict(_workflows(root, ""))}.items()
        }


def _node(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a serialized agent or node."""
    found = {key: given[key] for key in _TOLD if isinstance(given.get(key), str | bool)}
    for key in _BELOW:
        if key in given:
            found[key] = [_node(one) for one in given[key]]
    if "tools" in given:
        found["tools"] = [tool for tool in given["tools"] if isinstance(tool, dict)]
    if "graph" in given:
        edges = given["graph"].get("edges", ())
        found["graph"] = {
            "nodes": [_node(one) for one in given["graph"].get("nodes", ())],
            "edges": [{key: _node(to) if isinstance(to, dict) else to for key, to in edge.items()} for edge in edges],
        }
    return found


def _workflows(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the workflows from a serialized node down, with their paths."""
    graph = node.get("graph") or {}
    if graph:
        yield path, node
    for child in (*node.get("sub_agents", ()), *node.get("nodes", ()), *graph.get("nodes", ())):
        if name := child.get("name"):
            yield from _workflows(child, f"{path}/{name}" if path else name)
