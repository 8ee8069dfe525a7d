"""What each run does, and where it is struck: all of it follows from the seed and the run's number.

A run has a part for each blow that it is to get, and one more in which it ends. In a part the model says some words and
calls a tool, two at once, or one that a person has to approve. The blow comes at a point of that part.
"""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

__all__ = [
    "FAULTS",
    "FRAMEWORKS",
    "HANDOVERS",
    "POINTS",
    "RUNS_AT_ONCE",
    "Part",
    "Plan",
    "first_server",
    "plan_of",
    "run_id_of",
]

FRAMEWORKS = ("functions", "pydantic_ai", "adk")
"""The names under which their agents are served."""

POINTS = (
    "asks the model",
    "in text",
    "model answered",
    "answer kept",
    "in a tool",
    "in two tools",
    "one of two returned",
    "tool returned",
    "result kept",
    "asked",
    "parked",
    "answered",
)
"""Where a run stands when its server is struck. What `returned` or `answered` is not in the store yet, what is `kept`
is. One that is `answered` has been heard, and has had no effect."""

HANDOVERS = ("leaving", "giving up", "given up")
"""Where a run stands when its server is killed while it hands over: at the save where it is left, before it is nobody's
in the store, and after."""

FAULTS = ("killed", "stopped", "killed while it hands over")

WIRES = ("ag-ui", "vercel", "openai", "openai-responses", "adk", "text")

RUNS_AT_ONCE = 100
WORDS = 3
PAUSE_S_MAX = 0.02

KINDS = {
    "in two tools": ("tools",),
    "one of two returned": ("tools",),
    "in a tool": ("tool", "ask"),
    "tool returned": ("tool", "ask"),
    "result kept": ("tool", "ask"),
    "asked": ("ask",),
    "parked": ("ask",),
    "answered": ("ask",),
}
"""Of the parts that have these points; the others are in all of them."""


class Part(NamedTuple):
    """Some words, and then what is called."""

    number: int
    kind: str
    pause_s: float

    @property
    def tools(self) -> list[str]:
        names = {"tool": ["tool-a"], "ask": ["tool-a"], "tools": ["tool-a", "tool-b"]}.get(self.kind, [])
        return [f"{self.number}.{name}" for name in names]

    @property
    def words(self) -> list[str]:
        return [f"{self.number}.{word} " for word in range(WORDS)]


class Aim(NamedTuple):
    """Where a blow is to come."""

    part: int
    point: str


class Plan(NamedTuple):
    framework: str
    server: int
    """Where it is started."""
    after: int
    """It is started when so many servers were struck."""
    wire: str
    parts: list[Part]
    aims: list[Aim]
    handover: str
    """Where it is struck when its server is killed while it hands over."""

    @property
    def text(self) -> str:
        """All that it says."""
        said = ""
        for part in self.parts:
            said += "".join(part.words) + "".join(f"[{name}] " for name in part.tools)
        return said

    @property
    def steps(self) -> set[str]:
        return {step for part in self.parts for step in (f"{part.number}.model", *part.tools)}

    @property
    def questions(self) -> int:
        return sum(part.kind == "ask" for part in self.parts)


def run_id_of(seed: int, store: str, number: int) -> str:
    return f"run-{seed}-{store}-{number}"


def first_server(seed: int, store: str, group: int) -> int:
    """Which of the two is struck first."""
    return random.Random(f"{seed}-{store}-{group}").randrange(2)


@functools.cache
def plan_of(run_id: str) -> Plan:
    """What the run of this id does. Of the first group, those of each framework are struck at every point by the first
    blow, at every point by the second, and by the third at every point of a hand-over."""
    seed, store, number = run_id.removeprefix("run-").rsplit("-", 2)
    rng = random.Random(run_id)
    group, index = divmod(int(number), RUNS_AT_ONCE)
    first, at = first_server(int(seed), store, group), index // len(FRAMEWORKS)
    blow = at // len(POINTS) if group == 0 else at % 2
    aims = [Aim(0, POINTS[(at + int(seed)) % len(POINTS)])]
    if group > 0:
        aims.append(Aim(1, rng.choice(POINTS)))
    kinds = [rng.choice(KINDS.get(aim.point, ("tool", "tools", "ask"))) for aim in aims]
    if aims[0].point in ("in a tool", "tool returned", "result kept"):
        kinds[0] = "tool"  # whoever hears an answer may go on elsewhere, and these are struck where they were started
    parts = [Part(part, kind, rng.random() * PAUSE_S_MAX) for part, kind in enumerate([*kinds, "end"])]
    return Plan(
        framework=FRAMEWORKS[index % len(FRAMEWORKS)],
        server=(first + blow) % 2,
        after=blow // 2,
        wire=rng.choice(WIRES),
        parts=parts,
        aims=aims,
        handover=HANDOVERS[at % len(HANDOVERS)],
    )
