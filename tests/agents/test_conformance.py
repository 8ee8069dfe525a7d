"""Every adapter of ours passes the suite that others run for theirs."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from gapless.testing.agents import AgentConformance, Made
from gapless.testing.script import Chunk
from tests.support import frameworks


class TestFunction(AgentConformance):
    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.function(*chunks, **options)


@pytest.mark.both_ways
class TestPydanticAI(AgentConformance):
    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.pydantic_ai(*chunks, **options)


@pytest.mark.both_ways
class TestADK(AgentConformance):
    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.adk(*chunks, **options)


class TestLangGraph(AgentConformance):
    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.langgraph(*chunks, **options)


@pytest.mark.both_ways
class TestOpenAIAgents(AgentConformance):
    keeps_answers = False

    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.openai_agents(*chunks, **options)


class TestAGUIObject(AgentConformance):
    lacks: ClassVar[dict[str, str]] = {
        "goes_on": "an object that speaks AG-UI does not say where it stands: its runs end with their worker"
    }

    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.agui_object(*chunks, **options)
