"""A tool that needs a person's yes: the run waits, keeps its place, and goes on when it is answered.

python examples/approval.py google:gemini-2.5-flash
"""

import asyncio
import sys

from pydantic_ai import Agent

from gapless import Runner
from gapless.events import ResumeEntry, RunFinishedEvent, RunFinishedInterruptOutcome
from gapless.testing import Chunk, ToolCall, pydantic_ai_model, words

SCRIPT: list[Chunk] = [ToolCall("refund", {"order": 7}), *words("The money is on its way.")]
MODEL = sys.argv[1] if len(sys.argv) > 1 else pydantic_ai_model(*SCRIPT)
agent = Agent(MODEL)


@agent.tool_plain(requires_approval=True)
def refund(order: int) -> str:
    """Pay an order back."""
    return f"order {order} is paid back"


async def main() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("I want my money back for order 7")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                for question in event.outcome.interrupts:
                    print(f"{question.message} {(question.metadata or {})['arguments']}")
                    yes = ResumeEntry(interrupt_id=question.id, status="resolved", payload={"approved": True})
                    await run.answer([yes])
        print((await run.collect()).text)


asyncio.run(main())
