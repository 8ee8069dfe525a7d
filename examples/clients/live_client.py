"""A live run over a WebSocket: speak, hear, come back after a cut. `python live_client.py [server]`"""

import asyncio
import contextlib
import json
import sys
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError


async def main(server: str) -> None:
    run_id, last, ended = uuid.uuid4().hex, "0", False
    to_say = [json.dumps({"content": text, "id": f"m{n}"}) for n, text in enumerate(("Hello", "and good-bye"))]
    while not ended:
        with contextlib.suppress(ConnectionClosedError, OSError):
            async with connect(f"{server}/live?run_id={run_id}&after={last}") as socket:
                for said in (*to_say, '{"close": true}'):
                    await socket.send(said)  # what has an id counts once, however often it is said
                async for message in socket:
                    frame = json.loads(message)
                    last, event = frame.get("id", last), frame.get("data", {})
                    if event.get("type") == "TEXT_MESSAGE_CONTENT":
                        print(event["delta"], end="", flush=True)
                    ended = frame.get("event") == "end"
        await asyncio.sleep(0 if ended else 0.5)
    print()


asyncio.run(main(sys.argv[1] if sys.argv[1:] else "ws://127.0.0.1:8000"))
