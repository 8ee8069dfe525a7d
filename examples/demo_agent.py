"""The agent that the examples talk to. It needs no key: by default it says what the example's script says.

python examples/collect.py                                                  # nothing but Gapless
python examples/collect.py --framework pydantic-ai                          # a Pydantic AI agent, scripted model
python examples/collect.py --framework pydantic-ai --model google:gemini-2.5-flash
python examples/collect.py --framework adk --model gemini-2.5-flash
python examples/collect.py --model "http://127.0.0.1:11434/v1?model=qwen3"  # any endpoint, or a .gguf file
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from gapless.testing import Chunk, Delay, ScriptedAgent, adk_model, pydantic_ai_model, words

INSTRUCTIONS = "You are a helpful assistant."


def demo_agent(*script: Chunk, tools: Sequence[Callable[..., Any]] = (), instructions: str = INSTRUCTIONS) -> object:
    """The agent that the command line asks for; `script` is what it says where it is given no model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--framework", choices=["none", "pydantic-ai", "adk"], default="none")
    parser.add_argument("--model")
    options = parser.parse_args()
    sys.excepthook = one_line
    if options.framework == "pydantic-ai":
        from pydantic_ai import Agent

        return Agent(options.model or pydantic_ai_model(*script), instructions=instructions, tools=tools)
    if options.framework == "adk":
        from google.adk.agents import LlmAgent

        model = options.model or adk_model(*script)
        return LlmAgent(name="assistant", model=model, instruction=instructions, tools=list(tools))
    return options.model or ScriptedAgent(*script)


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says what went wrong, such as a key or a server that is missing, without a traceback."""
    print(f"\n{kind.__name__}: {error}", file=sys.stderr)


def typed(text: str, delay_s: float = 0.01) -> list[Chunk]:
    """The text word by word, at a pace that one can see."""
    return [chunk for word in words(text) for chunk in (word, Delay(delay_s))]
