"""For code without an event loop: a generator that blocks. The runner lives on a thread of its own."""

from demo_agent import demo_agent, typed

from gapless import Runner, TextMessageContentEvent


def main() -> None:
    runner = Runner(demo_agent(*typed("No event loop in sight.")))
    for event in runner.run("Do I need asyncio?"):
        if isinstance(event, TextMessageContentEvent):
            print(event.delta, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
