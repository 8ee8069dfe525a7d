"""A person's yes: the run waits, keeps its place, and goes on when it is answered.

python examples/approval.py google:gemini-2.5-flash
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from pydantic_ai import Agent

from gapless import Interrupt, ResumeEntry, RunContext, RunFinishedEvent, RunFinishedInterruptOutcome, Runner
from gapless.testing import Chunk, ToolCall, pydantic_ai_model, words

SCRIPT: list[Chunk] = [ToolCall("refund", {"order": 7}), *words("The money is on its way.")]
MODEL = sys.argv[1] if len(sys.argv) > 1 else pydantic_ai_model(*SCRIPT)
shop = Agent(MODEL)


@shop.tool_plain(requires_approval=True)
def refund(order: int) -> str:
    """Pay an order back."""
    return f"order {order} is paid back"


async def cleaner(message: str, ctx: RunContext) -> AsyncIterator[str]:
    """A generator asks by itself."""
    (answer,) = await ctx.interrupt([Interrupt(id=f"{ctx.run_id}-sure", reason="confirm", message=f"{message}: sure?")])
    yield "It is gone." if answer.payload == {"approved": True} else "It stays."


async def main() -> None:
    async with Runner(agents={"shop": shop, "cleaner": cleaner}) as runner:
        for agent, message in (("shop", "I want my money back for order 7"), ("cleaner", "Delete my account")):
            run = await runner.start(message, agent=agent)
            async for event in run.events():
                if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                    for question in event.outcome.interrupts:
                        print(question.message, (question.metadata or {}).get("arguments", ""))
                        yes = ResumeEntry(interrupt_id=question.id, status="resolved", payload={"approved": True})
                        await run.answer([yes])
            print((await run.collect()).text)


asyncio.run(main())
