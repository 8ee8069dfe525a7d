"""A rolling restart under runs of 5 to 60 seconds: `python -m tests.goes_on.rolling [RUNS]`.

Two workers of one server are replaced on SIGHUP. Printed: how the runs ended, and the longest that a follower heard
nothing.
"""

from __future__ import annotations

import asyncio
import collections
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from gapless.errors import GaplessError
from gapless.events import TextMessageContentEvent
from gapless.fold import RESTARTED, VOID
from tests.goes_on import worked
from tests.support.processes import Server, client_of


async def main(runs: int, store: str = "") -> None:
    """Start so many runs, restart, wait for their ends."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(
            Path(folder),
            store=store,
            agent=f"{worked.__file__}:ticker",
            arguments=("--workers", "2", "--drain", "5", "--log-level", "warning"),
            environment={"GAPLESS_TEST_LEDGER": str(Path(folder) / "ledger")},
        )
        server.start()
        ends: collections.Counter[str] = collections.Counter()
        gaps: list[float] = []
        rng = random.Random(1)

        async def follow(number: int) -> None:
            async with client_of(server.url) as client:
                await asyncio.sleep(rng.random() * 2)
                seconds = rng.randint(5, 60)
                run = await client.start(str(seconds), run_id=f"run-{number}")
                last = time.monotonic()
                said = ""
                async for _, event in client.follow(run.id):
                    if isinstance(event, TextMessageContentEvent):
                        gaps.append(time.monotonic() - last)
                        last = time.monotonic()
                        said += event.delta
                    ends["void"] += getattr(event, "name", "") in (VOID, RESTARTED)
                record = await client.record(run.id)
                ends[(record.error or {}).get("code", record.status.value)] += 1
                ends["whole"] += said == "".join(f"{number} " for number in range(2 * seconds))

        async def restart() -> None:
            await asyncio.sleep(6)
            server.signal(signal.SIGHUP)

        try:
            outcomes = await asyncio.gather(restart(), *map(follow, range(runs)), return_exceptions=True)
            ends["raised"] += sum(isinstance(outcome, GaplessError | OSError) for outcome in outcomes)
        finally:
            server.terminate()
        gaps.sort()
        print(
            f"{runs} runs: {dict(ends)}; between two words: median {gaps[len(gaps) // 2]:.2f} s, most {gaps[-1]:.2f} s"
        )
        print(server.log.read_text()[-800:])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
