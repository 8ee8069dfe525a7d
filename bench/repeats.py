"""How often the embedded model goes round in circles, with its default settings and with others:

    GAPLESS_MODEL=FILE python -m bench.repeats [NAME=SETTINGS…]

SETTINGS are JSON, as in `RunConfig.model_settings`. Without any: llama.cpp's own, and those of the embedded model. An
answer goes in circles where it has a sentence three times or more, or one character or short piece of text ten times in
a row.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import Any

from gapless import RunConfig, Runner
from gapless.agents.embedded import SAMPLING, find_model
from gapless.agents.local import LocalModel

ANSWER_TOKENS = 400
SENTENCES_MAX, PIECES_MAX = 2, 9
AT_ONCE = 4
LLAMA_CPP: dict[str, Any] = {"repeat_penalty": 1.0, "temperature": 0.8, "dry_multiplier": 0.0, "min_p": 0.05}
"""What llama.cpp's server takes where nothing is asked of it."""
PROMPTS = """\
Hello
Hi! How are you?
Who are you?
What can you do?
Tell me a joke.
Tell me a story.
Tell me something interesting.
Write a poem about the sea.
Write a haiku about autumn.
Write a song about a dog.
Write a short story about a lighthouse keeper.
Write a long story about a dragon and a baker.
Write a letter to my grandmother.
Write an email to my boss: I am ill today.
Write a product description for a red bicycle.
Write a list of ten fruits.
Write a list of things to pack for a trip to the mountains.
Give me five names for a cat.
Give me a recipe for pancakes.
Give me tips for better sleep.
Give me ideas for a birthday party.
How do I learn to play the guitar?
How do I make coffee?
How does a bicycle stay upright?
How do birds fly?
How do vaccines work?
What is the capital of France?
What is a black hole?
What is the meaning of life?
What is an event journal?
What is Server-Sent Events?
What is 17 times 23?
What should I read this summer?
What happened in 1969?
Why is the sky blue?
Why do leaves change colour?
Why do cats purr?
Explain gravity to a child.
Explain how the internet works.
Explain what a database index is.
Explain streaming in one sentence.
Summarise the plot of Romeo and Juliet.
Translate "good morning" into French.
Write a Python function that reverses a string.
Write a SQL query that counts users by country.
Count from one to twenty.
Repeat after me: the journal comes first.
Say something nice.
👏
I am sad."""


def circles(text: str) -> bool:
    """Say whether an answer goes round in circles."""
    sentences = Counter(part.strip().lower() for part in re.split(r"[.!?\n]+", text) if len(part.strip()) > 3)
    again = max(sentences.values(), default=0) > SENTENCES_MAX
    return again or re.search(rf"(\S)\1{{{PIECES_MAX},}}|(\S.{{0,19}}?)\2{{{PIECES_MAX},}}", text) is not None


async def measure(name: str, settings: dict[str, Any], prompts: list[str]) -> None:
    """Ask all prompts, and print the share of circles and what an answer is like."""
    path = find_model()
    assert path is not None, "gapless model install"
    began, gate = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    answers: list[str] = []

    async with Runner(LocalModel(path)) as runner:

        async def ask(seed: int, prompt: str) -> None:
            async with gate:
                config = RunConfig(model_settings={"max_tokens": ANSWER_TOKENS, "seed": seed, **settings}, timeout=1000)
                run = await runner.start(prompt, config=config)
                text = "".join([piece async for piece in run.text()])
                answers.append(text)
                if circles(text):
                    print(f"  {name}: {prompt!r} → …{text[-120:]!r}", flush=True)

        await asyncio.gather(*(ask(seed, prompt) for seed, prompt in enumerate(prompts, 1)))
    bad = sum(map(circles, answers))
    mean = sum(map(len, answers)) / len(answers)
    print(
        f"{name}: {bad} of {len(answers)} in circles, {mean:.0f} characters, {time.monotonic() - began:.0f} s",
        flush=True,
    )


async def main() -> None:
    """Measure the settings that are named, or before and after."""
    named = [argument.partition("=") for argument in sys.argv[1:]]
    chosen = {name: json.loads(settings) for name, _, settings in named}
    for name, settings in (chosen or {"llama.cpp": LLAMA_CPP, "gapless": SAMPLING}).items():
        await measure(name, settings, PROMPTS.splitlines())


if __name__ == "__main__":
    asyncio.run(main())
