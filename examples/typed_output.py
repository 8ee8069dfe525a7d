"""Typed output: a validated Pydantic model, and what there is of it while it is being written."""

import asyncio
from typing import assert_type

from demo_agent import demo_agent
from pydantic import BaseModel

from gapless import Runner
from gapless.testing import Output


class Analysis(BaseModel):
    summary: str
    findings: list[str] = []


async def main() -> None:
    agent = demo_agent(
        Output({"summary": "A strong year.", "findings": ["Sales grew.", "Customers stayed.", "Costs fell."]})
    )
    async with Runner(agent) as runner, runner.run_stream("Analyse 2024", output_type=Analysis) as stream:
        async for partial in stream.stream_output():
            assert_type(partial, Analysis)
            print(f"so far: {partial.summary!r}, {len(partial.findings)} findings")
        analysis = await stream.get_output()
        assert_type(analysis, Analysis)
    print(analysis.findings)


if __name__ == "__main__":
    asyncio.run(main())
