"""The same without an event loop; it leaves in the middle and comes back. `python sync_client.py [server]`"""

import sys

from gapless import SyncClient, TextMessageContentEvent

with SyncClient(sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000") as client:
    run = client.start("Explain SSE")
    last = 0
    for id, event in client.follow(run.id):
        last = id
        if isinstance(event, TextMessageContentEvent):
            print(event.delta, end="", flush=True)
            break  # the run goes on without us
    for _id, event in client.follow(run.id, after=last):
        if isinstance(event, TextMessageContentEvent):
            print(event.delta, end="", flush=True)
    print()
