"""A Pydantic AI agent whose worker stops while a tool pays: it goes on at another, and does not pay twice.

python examples/not_twice.py
"""

import asyncio
import tempfile

from pydantic_ai import Agent, RunContext

import gapless
from gapless import Runner
from gapless.testing import ToolCall, pydantic_ai_model


class Bank:
    async def pay(self, cents: int, *, idempotency_key: str) -> str:
        print(f"(paying {cents} for {idempotency_key})")
        await asyncio.sleep(30)
        return "paid"


bank = Bank()
agent = Agent(pydantic_ai_model("I pay. ", ToolCall("pay", {"cents": 700}), "Please look into your account."))


@agent.tool(metadata={"repeatable": False})
async def pay(ctx: RunContext[object], cents: int) -> str:
    """Pay an invoice."""
    return await bank.pay(cents, idempotency_key=gapless.call_key(ctx.tool_call_id or ""))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/gapless.db"
        async with Runner(agent, store=store) as first:
            await first.start("pay the invoice", run_id="r")
            await asyncio.sleep(1)  # the first worker stops in the middle
        async with Runner(agent, store=store) as second:
            print((await (await second.attach("r")).collect()).text)


if __name__ == "__main__":
    asyncio.run(main())
