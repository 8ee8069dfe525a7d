"""The adapters of frameworks that are too large for every environment pass the suite, too."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.testing.agents import AgentConformance, Made
from gapless.testing.script import Chunk
from tests.support import frameworks, heavy


@pytest.mark.skipif(not heavy.has("claude_agent_sdk"), reason=heavy.MISSING)
class TestClaude(AgentConformance):
    keeps_answers = False

    def make(self, *chunks: Chunk, **options: Any) -> Made:
        return frameworks.claude(*chunks, **options)
