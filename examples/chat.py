"""A chat in the terminal: timestamps, answers as they are written, `exit` or `quit`, Ctrl-C, errors survived.

`gapless chat` is the same with more comfort; this is how to build your own.
"""

from datetime import datetime

from demo_agent import demo_agent, typed

from gapless import GaplessError, RunConfig, Runner, TextMessageContentEvent
from gapless.testing import NextTurn

RULE = "=" * 70
CONFIG = RunConfig(on_disconnect="cancel")  # Ctrl-C leaves the answer, and with it the run


def now() -> str:
    return datetime.now().strftime("%H:%M:%S")


def turn(runner: Runner, message: str) -> None:
    print(f"[{now()}] Agent: ", end="", flush=True)
    try:
        for event in runner.run(message, session="chat", run_config=CONFIG):
            if isinstance(event, TextMessageContentEvent):
                print(event.delta, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print(" [stopped]")
    except GaplessError as error:
        print(f"\n[{error.code}] {error}")


def main() -> None:
    runner = Runner(
        demo_agent(
            *typed("Hello! I explain things. What would you like to know?"),
            NextTurn(),
            *typed("A qubit can be 0 and 1 at the same time, until somebody looks."),
        )
    )
    print(f"{RULE}\nSTREAMING CHAT: type 'exit' or 'quit' to end it\n{RULE}")
    while True:
        try:
            message = input("\nYou: ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if message.lower() in ("exit", "quit"):
            break
        if message:
            turn(runner, message)
    print("\nGoodbye!")


if __name__ == "__main__":
    main()
