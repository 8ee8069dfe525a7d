"""What each run does, and where it is struck: all of it follows from the seed and the run's number.

A run has a part for each blow that it is to get, and one more in which it ends. In a part the model says some words and
calls a tool, two at once, or one that a person has to approve. The blow comes at a point of that part.
"""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

__all__ = [
    "CELLS",
    "FAULTS",
    "FRAMEWORKS",
    "HANDOVERS",
    "KEPT_TOGETHER",
    "POINTS",
    "RUNS_AT_ONCE",
    "STORES",
    "Part",
    "Plan",
    "first_cells",
    "first_server",
    "plan_of",
    "run_id_of",
]

FRAMEWORKS = ("functions", "pydantic_ai", "adk", "langgraph", "openai_agents")
"""The names under which their agents are served."""

STORES = ("sqlite", "valkey", "postgres")

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

SAVES_NEXT = ("asks the model", "in a tool", "in two tools")
"""Where a run stands that is left at a save when its server stops, whatever its part."""

FAULTS = ("killed", "stopped", "killed while it hands over")

CELLS = [(fault, point) for fault in FAULTS[:2] for point in POINTS] + [(FAULTS[2], point) for point in HANDOVERS]
"""What each framework has to go through."""

ONE_CELL_OF = {
    "sqlite": dict.fromkeys(FRAMEWORKS[:3], 1),
    "valkey": dict.fromkeys(FRAMEWORKS[:3], 1),
    "postgres": dict.fromkeys(FRAMEWORKS[:3], 9),
}
"""At one of so many of them the first group on a store strikes a framework's runs; of the others at one of three, each
at all on the three stores together."""

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
KEPT_TOGETHER = {"openai_agents"}
"""Keeps an answer of the model with the results of its calls, or where a person is asked."""


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
def first_cells(store: str) -> list[tuple[str, int]]:
    """Whose runs the first group on this store strikes, and at which of the cells."""
    third = STORES.index(store)
    return [
        (framework, cell)
        for cell in range(len(CELLS))
        for framework in FRAMEWORKS
        if (cell + cell // len(POINTS) - third) % ONE_CELL_OF[store].get(framework, len(STORES)) == 0
    ]


def kinds_of(point: str, framework: str) -> tuple[str, ...]:
    """The parts of the framework's runs that have this point."""
    if framework in KEPT_TOGETHER and point in ("model answered", "answer kept"):
        return ("ask",)
    return KINDS.get(point, ("tool", "tools", "ask"))


@functools.cache
def plan_of(run_id: str) -> Plan:
    """What the run of this id does. Those of the first group are struck once, where `first_cells` says: by the first
    blow, by the second, or by the third, in a hand-over."""
    seed, store, number = run_id.removeprefix("run-").rsplit("-", 2)
    rng = random.Random(run_id)
    group, index = divmod(int(number), RUNS_AT_ONCE)
    first = first_server(int(seed), store, group)
    if group == 0:
        cells = first_cells(store)
        framework, cell = cells[index % len(cells)]
        blow, at = divmod(cell, len(POINTS))
    else:
        framework, at = FRAMEWORKS[index % len(FRAMEWORKS)], index // len(FRAMEWORKS)
        blow = at % 2
    handover = HANDOVERS[at % len(HANDOVERS)]
    if group == 0 and blow < 2:
        aims = [Aim(0, POINTS[at])]
    elif group == 0:
        aims = [Aim(0, rng.choice(SAVES_NEXT if handover == "leaving" else POINTS[:-3]))]
    else:
        aims = [Aim(0, POINTS[(at + int(seed)) % len(POINTS)]), Aim(1, rng.choice(POINTS))]
    kinds = [rng.choice(kinds_of(aim.point, framework)) for aim in aims]
    if aims[0].point in ("in a tool", "tool returned", "result kept"):
        kinds[0] = "tool"  # whoever hears an answer may go on elsewhere, and these are struck where they were started
    parts = [Part(part, kind, rng.random() * PAUSE_S_MAX) for part, kind in enumerate([*kinds, "end"])]
    return Plan(
        framework=framework,
        server=(first + blow) % 2,
        after=blow // 2,
        wire=rng.choice(WIRES),
        parts=parts,
        aims=aims,
        handover=handover,
    )
