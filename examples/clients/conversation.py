"""Follow a conversation: all of its runs, whoever starts them, on one connection. `python conversation.py [server]`"""

import asyncio
import sys

from gapless import CustomEvent, GaplessClient, RunFinishedEvent, TextMessageContentEvent


async def main(server: str) -> None:
    async with GaplessClient(server) as client:
        session = await client.create_session()
        await client.start("Explain SSE", session_id=session.id)  # here, or from anywhere else
        last = "0"
        async for place, event in client.follow_session(session.id, last):
            last = place
            match event:
                case TextMessageContentEvent(delta=text):
                    print(text, end="", flush=True)
                case CustomEvent(name="gapless.session", value=now):
                    print([f"{run['id']}: {run['status']}" for run in now["runs"]], file=sys.stderr)
                case RunFinishedEvent():
                    print()
                    break  # a window would stay: the next run follows on this connection
        print("to be continued after", last, file=sys.stderr)


asyncio.run(main(sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"))
