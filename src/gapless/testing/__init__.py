"""For tests of what you build with Gapless: agents and models that say what the test tells them, gates that set their
pace, a server that lives as long as a block, and a network that breaks on purpose. Nothing here sleeps unless it is
told to, and nothing needs a key.

    from gapless.testing import Gate, Reasoning, ScriptedAgent, ToolCall, words

    gate = Gate()
    agent = ScriptedAgent(Reasoning("Sums."), ToolCall("add", {"a": 1, "b": 2}, result=3), "It is ", gate, "3.")

The same chunks make a model for a real Pydantic AI agent (`pydantic_ai_model`), a real ADK agent (`adk_model`), a real
LangGraph graph (`langgraph_model`), a real agent of the OpenAI Agents SDK (`openai_agents_model`) or of the Claude
Agent SDK (`claude_model`).
`gapless.testing.agents` is the conformance suite of agent adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gapless.errors import ExtraMissing
from gapless.testing.cutter import CutKind, Cutter
from gapless.testing.script import (
    Chunk,
    Delay,
    Fail,
    Gate,
    NextTurn,
    Output,
    Reasoning,
    ScriptedAgent,
    Text,
    ToolCall,
    words,
)
from gapless.testing.serving import serving

if TYPE_CHECKING:
    from gapless.testing.adk import ADKModel
    from gapless.testing.claude import ClaudeModel
    from gapless.testing.langgraph import LangGraphModel
    from gapless.testing.openai_agents import OpenAIAgentsModel
    from gapless.testing.pydantic_ai import PydanticAIModel

__all__ = [
    "Chunk",
    "CutKind",
    "Cutter",
    "Delay",
    "Fail",
    "Gate",
    "NextTurn",
    "Output",
    "Reasoning",
    "ScriptedAgent",
    "Text",
    "ToolCall",
    "adk_model",
    "claude_model",
    "langgraph_model",
    "openai_agents_model",
    "pydantic_ai_model",
    "serving",
    "words",
]


def pydantic_ai_model(*chunks: Chunk) -> PydanticAIModel:
    """Make a model for a Pydantic AI agent that says these `chunks` in every run: `Agent(pydantic_ai_model("Hello."))`.

    Tool calls that stand side by side are the end of one response of the model; the agent then runs its own tools, and
    the chunks after them answer its next request. `requests` is what the model was given. Raises `ExtraMissing`.
    """
    try:
        from gapless.testing.pydantic_ai import PydanticAIModel
    except ModuleNotFoundError as error:
        raise ExtraMissing("pydantic_ai_model needs Pydantic AI: pip install 'gapless[pydantic-ai]'") from error
    return PydanticAIModel(chunks)


def adk_model(*chunks: Chunk, hears_bytes: int | None = None) -> ADKModel:
    """Make a model for an ADK agent that says these `chunks`: `LlmAgent(name="helper", model=adk_model("Hello."))`.

    In a live run each message is answered by the next turn, and so is sound, at its `activity_end` or once
    `hears_bytes` of it have come. Sound is text in UTF-8, what it hears and what it says. Whatever is said while it
    speaks interrupts it: with a `Gate`, at an exact place. Raises `ExtraMissing`.
    """
    try:
        from gapless.testing.adk import ADKModel
    except ModuleNotFoundError as error:
        raise ExtraMissing("adk_model needs Google ADK: pip install 'gapless[adk]'") from error
    return ADKModel(chunks, hears_bytes=hears_bytes)


def langgraph_model(*chunks: Chunk) -> LangGraphModel:
    """Make a chat model for a LangChain agent or a LangGraph graph that says these `chunks`:
    `create_agent(langgraph_model("Hello."))`. Tool calls that stand side by side come interleaved. Raises
    `ExtraMissing`.
    """
    try:
        from gapless.testing.langgraph import LangGraphModel
    except ModuleNotFoundError as error:
        raise ExtraMissing("langgraph_model needs LangGraph: pip install 'gapless[langgraph]'") from error
    return LangGraphModel(chunks)


def openai_agents_model(*chunks: Chunk) -> OpenAIAgentsModel:
    """Make a model for an agent of the OpenAI Agents SDK that says these `chunks`:
    `Agent(name="helper", model=openai_agents_model("Hello."))`. Tool calls that stand side by side come interleaved.
    `requests` is what the model was given. Raises `ExtraMissing`.
    """
    try:
        from gapless.testing.openai_agents import OpenAIAgentsModel
    except ModuleNotFoundError as error:
        raise ExtraMissing("openai_agents_model needs the SDK: pip install 'gapless[openai-agents]'") from error
    return OpenAIAgentsModel(chunks)


def claude_model(*chunks: Chunk, agents: Mapping[str, Sequence[Chunk]] | None = None) -> ClaudeModel:
    """Make a messages service on loopback that says these `chunks`, for an agent of the Claude Agent SDK:
    `ClaudeAgentOptions(env=claude_model("Hello.").env)`. `requests` is what the model was given. `agents` has what
    other agents say, by a part of the prompt that they are asked with. It listens until the program ends, or `close()`.
    """
    from gapless.testing.claude import ClaudeModel

    return ClaudeModel(chunks, agents)
