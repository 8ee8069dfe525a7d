"""An agent of the Claude Agent SDK that asks before it pays. It asks Claude where a key is set, else a scripted model.

ANTHROPIC_API_KEY=… python examples/claude_agent.py
"""

import asyncio
import os
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, create_sdk_mcp_server, tool

from gapless import ResumeEntry, Runner
from gapless.agents.claude import ClaudeAgent
from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome, TextMessageContentEvent
from gapless.testing import ToolCall, claude_model


@tool("refund", "Give the money back.", {"order": int})
async def refund(given: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"order {given['order']} is refunded"}]}


def env() -> dict[str, str]:
    """Return nothing where a key is set, else where the scripted model is."""
    if "ANTHROPIC_API_KEY" in os.environ:
        return {}
    return claude_model("One moment. ", ToolCall("refund", {"order": 7}), "The money is on its way.").env


options = ClaudeAgentOptions(
    system_prompt="You help the customers of a shop.",
    mcp_servers={"shop": create_sdk_mcp_server("shop", tools=[refund])},
    allowed_tools=["mcp__shop"],
    tools=[],  # none of Claude Code's own
    setting_sources=[],  # and no settings of this machine's user
    env=env(),
)
agent = ClaudeAgent(options, name="desk", approve=["refund"])


async def main() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("I want my money back for order 7.", session_id="s1")
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                print(event.delta, end="", flush=True)
            elif isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                (question,) = event.outcome.interrupts
                print(f"[{question.message}] ", end="")
                await run.answer([ResumeEntry(interrupt_id=question.id, status="resolved", payload={"approved": True})])
    print()


if __name__ == "__main__":
    asyncio.run(main())
