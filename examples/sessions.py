"""Sessions keep the conversation: every turn sees the ones before it. Create, list, read, delete."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner
from gapless.testing import NextTurn


async def main() -> None:
    agent = demo_agent(*typed("Nice to meet you, Ada."), NextTurn(), *typed("Your name is Ada."))
    async with Runner(agent) as runner:  # Runner(agent, store="sqlite:///chat.db") keeps them over restarts
        session = await runner.create_session("s1", user_id="u1")
        for message in ("My name is Ada.", "What is my name?"):
            run = await runner.start(message, session_id=session.id, user_id="u1")
            print(f"{message} → {(await run.collect()).text}")
        print([one.id for one in await runner.list_sessions(user_id="u1")])
        for kept in await runner.messages(session.id):
            print(f"{type(kept).__name__}: {kept.content}")
        await runner.delete_session(session.id)
        print(await runner.list_sessions(user_id="u1"))


if __name__ == "__main__":
    asyncio.run(main())
