"""The table of goals: what was measured, what stands beside it in the same run, and why a goal was missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import profile
from bench.candidates import BY_NAME, CANDIDATES
from bench.figures import Figures, full_label, number, table
from bench.harness import HZ, LATE_S, PACED_STREAMS
from bench.scenarios import LIKE_WITH_LIKE_STREAMS

FLOOR_US = 5.2
"""CPU of one `send` of the floor, a wake-up each, on the machine on which the goals were set."""
FLOOR_STREAMS = 2100
"""Streams that the floor carried there."""
SHARE_MIN = 0.03
"""A smaller part of the CPU is left out of a sentence; the table has all."""


@dataclass(frozen=True)
class Goal:
    what: str
    goal: float
    unit: str
    measured: float | None
    at_least: bool = False
    set_beside: str = ""
    """The peers' figures that the goal was set by, on the machine on which it was set."""
    beside: Mapping[str, float | None] = field(default_factory=dict)
    """What was measured in this run of the floor, the peers, the agent alone."""
    late_s: float | None = None
    """p99 lateness: a server that is behind sends much in one write, which makes its CPU per event look small."""
    why: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return ""
        if self.late_s is not None and self.late_s > LATE_S:
            return f"**not comparable**: p99 lateness {number(self.late_s * 1e3)} ms"
        met = self.measured >= self.goal if self.at_least else self.measured <= self.goal
        return "met" if met else "**missed**"

    def row(self, footnote: str) -> list[str]:
        measured = self.measured
        goal = f"{'≥' if self.at_least else '≤'} {number(self.goal)} {self.unit}".strip()
        shown = "not measured" if measured is None else f"{number(measured)} {self.unit}".strip()
        beside = "; ".join(
            f"{name} {number(value)} (× {number(measured / value)})"
            for name, value in self.beside.items()
            if measured is not None and value is not None and value > 0
        )
        set_beside = f" (set beside {self.set_beside})" if self.set_beside else ""
        return [self.what, goal + set_beside, shown, self.verdict + footnote, beside]


def section(results: dict[str, Any]) -> list[str]:
    """The goals, the reasons of the missed ones, and what the floor is."""
    missed: list[str] = []
    rows = []
    for goal in [
        *per_event(results),
        *streams(results),
        *frameworks(results),
        *adapters(results),
        *the_rest(results),
    ]:
        footnote = ""
        if goal.verdict.startswith("**"):
            missed.append(f"{len(missed) + 1}. {goal.what}: {goal.why or 'no profile of it in this run'}.")
            footnote = f" ({len(missed)})"
        rows.append(goal.row(footnote))
    reasons = ["What the missed ones spend, measured in this run:", "", *missed, ""] if missed else []
    columns = ["what", "goal", "measured", "", "beside it in this run (×: the measured, divided by it)"]
    return ["## Goals", "", *table(columns, rows), *reasons, *floor(results)]


def net(figures: Figures, name: str, streams: int) -> float | None:
    """CPU per event, paced, without what the same agent takes alone."""
    total = figures.median(name, "cpu_us", streams=streams)
    alone = figures.median(f"{BY_NAME[name].agent}-alone", "cpu_us", streams=streams)
    return None if total is None or alone is None else total - alone


def floor(results: dict[str, Any]) -> list[str]:
    """How this machine's floor compares with that of the machine on which the goals were set."""
    said = []
    cost = net(Figures(results, "paced"), "asgi", PACED_STREAMS["generator"])
    if cost:
        said.append(
            f"cost {number(cost)} µs per event net of the agent (there {FLOOR_US}; × {cost / FLOOR_US:.2f}: what takes "
            f"10 µs there takes some {number(10 * cost / FLOOR_US)} here)"
        )
    if held := Figures(results, "ramp").median("asgi", "held"):
        said.append(
            f"carried {number(held)} streams (there {FLOOR_STREAMS:,}; × {held / FLOOR_STREAMS:.2f}: 1,000 there are "
            f"some {number(1000 * held / FLOOR_STREAMS)} here)"
        )
    if not said:
        return []
    return [
        "The goals were set on another machine. The floor, a bare ASGI app that keeps nothing and sends each chunk by "
        f"itself, in this run {' and '.join(said)}.",
        "",
    ]


def spent(results: dict[str, Any], name: str, **params: Any) -> str:
    """A sentence from the profile: which part of the path costs what. Empty when there is none."""
    figures = Figures(results, "profile")
    total = figures.median(name, "cpu_us", **params)
    if total is None:
        return ""
    parts = {layer: figures.median(name, layer, **params) or 0.0 for layer in profile.ORDER}
    own = {layer.removeprefix("gapless: "): cost for layer, cost in parts.items() if layer.startswith("gapless: ")}
    costs = {layer: cost for layer, cost in parts.items() if not layer.startswith("gapless: ")}

    def listed(of: dict[str, float]) -> str:
        falling = sorted(of.items(), key=lambda item: -item[1])
        return ", ".join(f"{layer} {number(cost)}" for layer, cost in falling if cost >= SHARE_MIN * total)

    named = f" ({listed(own)})" if listed(own) else ""
    gapless = f"Gapless's own code takes {number(sum(own.values()))}{named}, " if any(own.values()) else ""
    whose = "" if gapless else f" of {full_label(BY_NAME[name])}"
    return f"of the {number(total)} µs{whose} in the profile, {gapless}{listed(costs)}"


def spent_beside_floor(results: dict[str, Any], name: str, **params: Any) -> str:
    """The same, and what the floor spends under the same load."""
    own, floor_ = spent(results, name, **params), spent(results, "asgi", **params)
    return f"{own}; {floor_}" if own and floor_ else own


def per_event(results: dict[str, Any]) -> list[Goal]:
    paced = Figures(results, "paced")
    streams = PACED_STREAMS["generator"]
    found = []
    for store, goal in (("memory", 12), ("sqlite", 16), ("redis", 30), ("postgres", 35)):
        late_ms = paced.median(f"gapless-{store}", "p99_ms", streams=streams)
        found.append(
            Goal(
                f"CPU per event, {streams} streams at {HZ:.0f}/s, the agent's share subtracted: {store}",
                goal,
                "µs",
                net(paced, f"gapless-{store}", streams),
                beside={
                    "the floor": net(paced, "asgi", streams),
                    "sse-starlette": net(paced, "sse-starlette", streams),
                },
                late_s=None if late_ms is None else late_ms / 1e3,
                why=spent_beside_floor(results, f"gapless-{store}", streams=streams),
            )
        )
    return found


def streams(results: dict[str, Any]) -> list[Goal]:
    ramp = Figures(results, "ramp")

    def load_at_the_end(name: str) -> str:
        held = ramp.median(name, "held")
        levels = [level for level in ramp.levels("streams", [BY_NAME[name]]) if held and level <= held]
        if not levels:
            return ""
        cpu_us = ramp.median(name, "cpu_us", streams=levels[-1])
        events_per_s = ramp.median(name, "events_per_s", streams=levels[-1])
        if not cpu_us or not events_per_s:
            return ""
        cores = cpu_us * events_per_s / 1e6
        label = full_label(BY_NAME[name])
        return f"{label} takes {cores:.2f} of a core at {levels[-1]:,} streams, {number(cpu_us)} µs per event"

    return [
        Goal(
            f"streams at {HZ:.0f}/s with p99 lateness under {LATE_S * 1e3:.0f} ms: {store}",
            goal,
            "",
            ramp.median(f"gapless-{store}", "held"),
            at_least=True,
            beside={"the floor": ramp.median("asgi", "held"), "sse-starlette": ramp.median("sse-starlette", "held")},
            why="; ".join(filter(None, map(load_at_the_end, (f"gapless-{store}", "asgi")))),
        )
        for store, goal in (("memory", 1500), ("sqlite", 1000), ("postgres", 300))
    ]


def frameworks(results: dict[str, Any]) -> list[Goal]:
    """As fast as it goes, which is how the peers' figures that set these goals were taken, and paced."""
    goals = (
        (
            "pydantic-ai",
            70,
            "Pydantic AI",
            "its adapters' 84–138 and the agent's own 48, 1–100 clients, unpaced",
        ),
        ("adk", 175, "ADK", "its server's 195–362 and the runner's own 146, 1–100 clients, unpaced"),
    )
    found = []
    for agent, goal, label, set_beside in goals:
        name = f"{agent}-gapless-memory"
        paced_streams = PACED_STREAMS[agent]
        loads = (
            ("throughput", LIKE_WITH_LIKE_STREAMS, f"{LIKE_WITH_LIKE_STREAMS} streams as fast as it goes"),
            ("paced", paced_streams, f"{paced_streams} streams at {HZ:.0f}/s, a wake-up for each event"),
        )
        for scenario, streams, load in loads:
            figures = Figures(results, scenario)
            beside = {
                candidate.label: figures.median(candidate.name, "cpu_us", streams=streams)
                for candidate in CANDIDATES
                if candidate.agent == agent and not candidate.gapless
            }
            measured = figures.median(name, "cpu_us", streams=streams)
            alone = beside[BY_NAME[f"{agent}-alone"].label]
            why = []
            if measured is not None and alone is not None:
                why.append(f"the agent alone takes {number(alone)} of the {number(measured)} µs under this load")
            if scenario == "paced":
                why += filter(None, [spent(results, name, streams=streams)])
            what = f"CPU per event, {label} agent, memory, all of it: {load}"
            found.append(Goal(what, goal, "µs", measured, set_beside=set_beside, beside=beside, why="; ".join(why)))
    return found


def adapters(results: dict[str, Any]) -> list[Goal]:
    """What an adapter, the journal and a follower add to a framework, in one process."""
    figures = Figures(results, "adapters")
    found = []
    for agent, goal, label in (("langgraph", 1.25, "LangGraph"), ("openai-agents", 1.1, "OpenAI Agents")):
        ratio = figures.median(agent, "memory_ratio")
        alone_us, run_us = figures.median(agent, "alone"), figures.median(agent, "memory")
        why = ""
        if alone_us is not None and run_us is not None:
            why = f"a run takes {number(run_us)} µs per event, the agent alone {number(alone_us)}"
        what = f"CPU per event, {label} agent, as a run that is followed, beside the agent alone: one process, memory"
        found.append(Goal(what, goal, "×", ratio, why=why))
    return found


def the_rest(results: dict[str, Any]) -> list[Goal]:
    fanout, idle, join, first, imports = (
        Figures(results, name) for name in ("fanout", "idle", "join", "first-event", "import")
    )
    followers = profile.FANOUT_FOLLOWERS

    def kib(name: str) -> float | None:
        each = idle.median(name, "bytes_each", followers=1000)
        return None if each is None else each / 1024

    def first_ms(name: str) -> float | None:
        return first.median(name, "yield_ms")

    return [
        Goal(
            f"fan-out to {followers:,} followers, CPU per event and follower",
            8,
            "µs",
            fanout.median("gapless-memory", "cpu_us", followers=followers),
            beside={"the floor": fanout.median("asgi", "cpu_us", followers=followers)},
            why=spent_beside_floor(results, "gapless-memory", followers=followers),
        ),
        Goal(
            "an idle follower",
            16,
            "KiB",
            kib("gapless-memory"),
            beside={"the floor": kib("asgi"), "sse-starlette": kib("sse-starlette"), "FastAPI SSE": kib("fastapi")},
        ),
        *(
            Goal(
                f"late join to 20,000 events: server CPU, {store}",
                30,
                "ms",
                join.median(f"gapless-{store}", "cpu_ms", events=20_000),
            )
            for store in ("memory", "sqlite", "redis")
        ),
        Goal(
            "late join: bytes per byte of text",
            1.2,
            "",
            join.median("gapless-memory", "bytes_per_text_byte", events=20_000),
        ),
        Goal(
            "first event after the agent yields it (median)",
            3,
            "ms",
            first_ms("gapless-memory"),
            beside={"the floor": first_ms("asgi"), "sse-starlette": first_ms("sse-starlette")},
        ),
        Goal(
            "`import gapless`",
            150,
            "ms",
            imports.median("import gapless", "wall_ms"),
            beside={name: imports.median(name, "wall_ms") for name in ("FastAPI", "Pydantic AI")},
        ),
    ]
