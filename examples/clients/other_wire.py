"""A run that OpenAI's client starts, and ours follows. `python other_wire.py [server]`"""

import sys

import openai

from gapless import SyncClient, TextMessageContentEvent

server = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"
client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")

response = client.responses.create(model=next(iter(client.models.list())).id, input="Explain SSE", background=True)
run_id = response.id.removeprefix("resp_")
with SyncClient(server) as other:
    for _id, event in other.follow(run_id):
        if isinstance(event, TextMessageContentEvent):
            print(event.delta, end="", flush=True)
    print(f"\n{other.record(run_id).status.value}")
print(client.responses.retrieve(response.id).status)
