"""A run that a worker of a task queue executes: dramatiq, on Redis or Valkey.

pip install 'dramatiq[redis]'
python examples/queue_worker.py        # the web server; QUEUE_URL says where the queue is
dramatiq queue_worker --path examples  # the workers: as many as you like; one that dies is followed by another
curl -N 'http://127.0.0.1:8000/report?rows=5'
"""

import os
from contextlib import suppress

import dramatiq
import uvicorn
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from starlette.responses import StreamingResponse

from gapless import GaplessClient, RunFinishedEvent, Runner, create_app
from gapless.errors import RunFenced
from gapless.producing import PRODUCER

QUEUE_URL = os.environ.get("QUEUE_URL", "redis://127.0.0.1:6379/0")
GAPLESS_URL = os.environ.get("GAPLESS_URL", "http://127.0.0.1:8000")
LOST_MS = int(os.environ.get("LOST_MS", "60000"))  # a worker that is silent for so long is dead: another has its work

# Each fetch looks for what dead workers have left (1,000,000 of 1,000,000): by itself dramatiq does in one of 1,000.
broker = RedisBroker(url=QUEUE_URL, heartbeat_timeout=LOST_MS, maintenance_chance=1_000_000)
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


async def row(number: int) -> str:  # a step of the work
    return f"Row {number} is {number * number}. "


@dramatiq.actor(max_retries=20)
async def report(run_id: str, rows: int) -> None:
    """Write the run, after what a worker that died has written of it."""
    async with GaplessClient(GAPLESS_URL) as client:
        with suppress(RunFenced):  # it was cancelled, or another writes it: nothing is left to do
            async with client.produce(run_id) as out:
                for number in range(out.number + 1, rows + 1):
                    await out.send(await row(number))
                await out.send(RunFinishedEvent(thread_id="", run_id=run_id))


runner = Runner(lambda message: message)  # a real server has a store: Runner(…, store="redis://…")
app = create_app(runner)


@app.get("/report")
async def start(rows: int) -> StreamingResponse:
    """Start the run, leave the work to the queue, and show what is written."""
    run = await runner.start(f"Report {rows} rows.", agent=PRODUCER)
    report.send(run.id, rows)
    return StreamingResponse(run.text(), media_type="text/plain")


if __name__ == "__main__":
    uvicorn.run(app)
