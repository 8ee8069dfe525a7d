"""A run that a workflow of DBOS executes: its worker is killed, and goes on when it is started again.

pip install dbos
python examples/dbos_workflow.py         # the worker; DBOS_URL says where DBOS keeps its workflows
python examples/dbos_workflow.py serve   # the web server
curl -N 'http://127.0.0.1:8000/report?rows=20'
"""

import os
import sys
import threading
import time
from contextlib import suppress

import uvicorn
from dbos import DBOS, DBOSClient, DBOSConfig, run_dbos_database_migrations
from starlette.responses import StreamingResponse

from gapless import RunFinishedEvent, Runner, SyncClient, create_app
from gapless.errors import RunFenced
from gapless.producing import PRODUCER

DBOS_URL = os.environ.get("DBOS_URL", "sqlite:///workflows.db")  # or postgresql://…
GAPLESS_URL = os.environ.get("GAPLESS_URL", "http://127.0.0.1:8000")


@DBOS.step()
def row(number: int) -> str:
    """Do a step of the work: once it has returned, DBOS knows what, and does not call it again."""
    time.sleep(0.05)
    return f"Row {number} is {number * number}. "


@DBOS.workflow()
def report(run_id: str, rows: int) -> None:
    """Write the run. After a crash DBOS calls it anew: what was done is at hand, and what was said stays."""
    # RunFenced: it was cancelled, or another writes it, and nothing is left to do.
    with SyncClient(GAPLESS_URL) as client, suppress(RunFenced), client.produce(run_id) as out:
        for number in range(1, rows + 1):
            text = row(number)
            if number > out.number:
                out.send(text)
        out.send(RunFinishedEvent(thread_id="", run_id=run_id))


runner = Runner(lambda message: message)  # a real server has a store: Runner(…, store="postgresql://…")
app = create_app(runner)
workflows = DBOSClient(system_database_url=DBOS_URL, lazy=True)


@app.get("/report")
async def start(rows: int) -> StreamingResponse:
    """Start the run, leave the work to the workflow, and show what is written."""
    run = await runner.start(f"Report {rows} rows.", agent=PRODUCER)
    await workflows.enqueue_async({"queue_name": "reports", "workflow_name": report.__qualname__}, run.id, rows)
    return StreamingResponse(run.text(), media_type="text/plain")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        run_dbos_database_migrations(system_database_url=DBOS_URL)
        uvicorn.run(app)
    else:
        config: DBOSConfig = {"name": "reports", "system_database_url": DBOS_URL}
        DBOS(config=config)
        DBOS.launch()  # takes up what it was at when it was killed
        DBOS.register_queue("reports", polling_interval_sec=0.1)
        threading.Event().wait()
