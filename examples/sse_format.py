"""What goes over the network: Server-Sent Events with an id each, so that a client can go on where it was."""

import asyncio

import httpx2
from demo_agent import demo_agent, typed

from gapless import Runner, create_app


async def main() -> None:
    async with Runner(demo_agent(*typed("REST is a style."))) as runner:
        transport = httpx2.ASGITransport(create_app(runner))  # the app, without a server around it
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.get("/chat/stream", params={"query": "What is REST?", "run_id": "r1"})
            print(answer.headers["content-type"])
            print(answer.text)
            print("the same run, from the third event on, as AG-UI events:\n")
            print((await http.get("/runs/r1/events", headers={"last-event-id": "2"})).text)


if __name__ == "__main__":
    asyncio.run(main())
