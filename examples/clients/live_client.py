"""A live run over a WebSocket: speak, hear, come back after a cut. `python live_client.py [server]`"""

import asyncio
import contextlib
import json
import sys
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

FAILURES_MAX = 8


async def main(server: str) -> None:
    run_id, last, ended = uuid.uuid4().hex, "0", False
    to_say = [json.dumps({"content": text, "id": f"m{n}"}) for n, text in enumerate(("Hello", "and good-bye"))]
    failures = 0
    while not ended:
        try:
            async with connect(f"{server}/live?run_id={run_id}&after={last}") as socket:
                with contextlib.suppress(ConnectionClosed):  # it may have ended meanwhile: hear how
                    for said in (*to_say, '{"close": true}'):
                        await socket.send(said)  # what has an id counts once, however often it is said
                async for message in socket:
                    frame = json.loads(message)
                    last, event, failures = frame.get("id", last), frame.get("data", {}), 0
                    if "error" in frame:
                        print(f"\n[{frame['error']['code']}: {frame['error']['message']}]", file=sys.stderr)
                    if event.get("type") == "TEXT_MESSAGE_CONTENT":
                        print(event["delta"], end="", flush=True)
                    ended = frame.get("event") == "end"
        except (ConnectionClosedError, OSError) as error:
            failures += 1
            if failures > FAILURES_MAX:
                sys.exit(f"\nno connection to {server}: {error}")
            await asyncio.sleep(0.5)
    print()


asyncio.run(main(sys.argv[1] if sys.argv[1:] else "ws://127.0.0.1:8000"))
