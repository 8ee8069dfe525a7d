"""A run that is executed elsewhere: a worker of your own writes it, dies, and its successor goes on.

python examples/producer.py
"""

import asyncio

from gapless import RunFinishedEvent, Runner
from gapless.producing import PRODUCER, Producer

REPORT = ["Read 3 files. ", "Sorted 14 rows. ", "The sum is 42."]
"""What the work comes to, step by step: the same again where it is done again."""


async def work(out: Producer, *, dies: bool = False) -> None:
    """Do the work of a run, as a task of Celery, Temporal or DBOS would."""
    async with out:
        for number, text in enumerate(REPORT, 1):
            if number > out.number:  # what those before it have written stays
                await out.send(text)
            if dies:
                raise SystemExit
        await out.send(RunFinishedEvent(thread_id="", run_id=out.run_id, result={"sum": 42}))


async def main() -> None:
    async with Runner(lambda message: message) as runner:  # or GaplessClient(url): the same `start` and `produce`
        run = await runner.start("Make the report.", agent=PRODUCER)
        try:
            await work(runner.produce(run.id), dies=True)
        except SystemExit:
            print("(the first worker is gone)")
        await work(runner.produce(run.id))
        async for text in run.text():
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
