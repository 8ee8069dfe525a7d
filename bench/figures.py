"""The stored results, and how a figure is written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.candidates import BY_NAME, Candidate
from bench.plot import Point, Series

AGENTS = {
    "generator": "A generator agent",
    "pydantic-ai": "The same answer from a Pydantic AI agent",
    "adk": "The same answer from an ADK agent",
    "langgraph": "The same answer from a LangGraph agent (LangChain's `create_agent`)",
    "openai-agents": "The same answer from an agent of the OpenAI Agents SDK, through OpenAI's own client",
    "agno": "The same answer from an Agno agent",
}
FRAMEWORKS = {
    "generator": "",
    "pydantic-ai": "Pydantic AI: ",
    "adk": "ADK: ",
    "langgraph": "LangGraph: ",
    "openai-agents": "OpenAI Agents: ",
    "agno": "Agno: ",
}
PLOTTED = (
    "gapless-memory", "gapless-sqlite", "gapless-redis", "asgi", "sse-starlette", "fastapi", "pydantic-ai-vercel",
    "pydantic-ai-ag-ui", "pydantic-ai-gapless-memory", "adk-server", "adk-gapless-memory",
)  # fmt: skip
"""The lines of the plots, in the order of their colours; the tables have all candidates."""


class Figures:
    """The results of one scenario."""

    def __init__(self, results: dict[str, Any], scenario: str) -> None:
        self.scenario = results["scenarios"].get(scenario, {})
        self.rows: list[dict[str, Any]] = self.scenario.get("rows", [])

    def __bool__(self) -> bool:
        return bool(self.rows)

    def values(self, candidate: str, **params: Any) -> dict[str, list[float]]:
        """All that was measured of it, by name: one figure per round."""
        for row in self.rows:
            if row["candidate"] == candidate and row["params"] == params:
                return dict(row["values"])
        return {}

    def rounds(self, candidate: str, value: str, **params: Any) -> list[float]:
        """One figure per round; empty when it was not measured."""
        return list(self.values(candidate, **params).get(value, []))

    def median(self, candidate: str, value: str, **params: Any) -> float | None:
        rounds = self.rounds(candidate, value, **params)
        return statistics.median(rounds) if rounds else None

    def levels(self, param: str, candidates: Iterable[Candidate] | None = None) -> list[Any]:
        """The values of a parameter that were measured, of these candidates or of any."""
        names = None if candidates is None else {candidate.name for candidate in candidates}
        rows = [row for row in self.rows if names is None or row["candidate"] in names]
        return sorted({row["params"][param] for row in rows if param in row["params"]})

    def series(self, param: str, value: str, label: Callable[[Candidate], str] | None = None) -> list[Series]:
        """A line per plotted candidate."""
        found = []
        for color, name in enumerate(PLOTTED):
            candidate = BY_NAME[name]
            points = []
            for x in self.levels(param, [candidate]):
                rounds = self.rounds(candidate.name, value, **{param: x})
                if rounds:
                    points.append(Point(x, statistics.median(rounds), min(rounds), max(rounds)))
            if points:
                shown = label(candidate) if label else candidate.label
                found.append(Series(shown, points, color, dashed=not candidate.gapless))
        return found


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 2
    return f"{value:,.{digits}f}"


def cell(rounds: Sequence[float], shown: Callable[[float], str] = number) -> str:
    """Median, with minimum and maximum where there are several rounds."""
    if not rounds:
        return "–"
    middle = shown(statistics.median(rounds))
    return middle if len(rounds) == 1 else f"{middle} ({shown(min(rounds))}–{shown(max(rounds))})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def full_label(candidate: Candidate) -> str:
    return FRAMEWORKS[candidate.agent] + candidate.label
