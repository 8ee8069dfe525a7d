"""A LangChain agent whose tool wants a person's yes. Give it a model, or see it with a scripted one.

python examples/langgraph_agent.py google_genai:gemini-2.5-flash
"""

import asyncio
import sys

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool

from gapless import ResumeEntry, Runner
from gapless.agents.langgraph_middleware import GaplessMiddleware
from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome, TextMessageContentEvent
from gapless.testing import ToolCall, langgraph_model


@tool
async def book(room: str) -> str:
    """Book a room."""
    return f"{room} is booked"


SCRIPT = ("I book it. ", ToolCall("book", {"room": "7"}), "Done.")
MODEL = sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else langgraph_model(*SCRIPT)
# The first asks before a room is booked, the second lets clients bring tools and settings along. It comes last.
middleware = [HumanInTheLoopMiddleware(interrupt_on={"book": True}), GaplessMiddleware()]
agent = create_agent(MODEL, [book], middleware=middleware)


async def main() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("A room with a view, please.", session_id="s1")
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                print(event.delta, end="", flush=True)
            elif isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                (question,) = event.outcome.interrupts
                print(f"[{question.metadata}? yes] ", end="")
                await run.answer([ResumeEntry(interrupt_id=question.id, status="resolved", payload={"approved": True})])
    print()


if __name__ == "__main__":
    asyncio.run(main())
