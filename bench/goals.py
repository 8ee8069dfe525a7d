"""The table of goals: what was measured, what stands beside it in the same run, and why a goal was missed.

Most are ratios to the floor, to a peer or to the agent alone: what the machine and the hour do, they do to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import profile
from bench.candidates import BY_NAME, CANDIDATES
from bench.figures import FRAMEWORKS, Figures, full_label, number, table
from bench.harness import HZ, LATE_S, LOW_STREAMS, PACED_STREAMS
from bench.scenarios import LIKE_WITH_LIKE_STREAMS
from bench.window import FOUND, RUNS

SHARE_MIN = 0.03
"""A smaller part of the CPU is left out of a sentence; the table has all."""
FLOOR = "the floor"
A_RUN = "a run's"
GAP_MS_MAX = 20


@dataclass(frozen=True)
class Goal:
    what: str
    goal: float
    unit: str
    measured: float | None
    """Itself, or where `against` says what it is divided by, before that."""
    against: str = ""
    """Which of `beside` the goal is a multiple of; "" for a figure that stands for itself."""
    at_least: bool = False
    beside: Mapping[str, float | None] = field(default_factory=dict)
    """What was measured in this run of the floor, the peers, the agent alone."""
    doubt: str = ""
    """What makes the figure one that says nothing, if something does."""
    why: str = ""

    @property
    def judged(self) -> float | None:
        """What the goal is compared with."""
        if not self.against or self.measured is None:
            return self.measured
        divisor = self.beside.get(self.against)
        return self.measured / divisor if divisor else None

    @property
    def verdict(self) -> str:
        judged = self.judged
        if judged is None:
            return ""
        if self.doubt:
            return f"**not comparable**: {self.doubt}"
        met = judged >= self.goal if self.at_least else judged <= self.goal
        return "met" if met else "**missed**"

    def row(self, footnote: str) -> list[str]:
        sign, judged = "≥" if self.at_least else "≤", self.judged
        goal = f"{sign} {self.goal:g} × {self.against}" if self.against else f"{sign} {number(self.goal)} {self.unit}"
        shown = "not measured"
        if judged is not None:
            shown = f"× {judged:.2f}" if self.against else f"{number(judged)} {self.unit}".strip()
        said = [f"{number(self.measured)} {self.unit}".strip()] if self.against and self.measured is not None else []
        for name, value in self.beside.items():
            if self.measured is not None and value is not None:
                times = "" if name == self.against or not value else f" (× {self.measured / value:.2f})"
                said.append(f"{name} {number(value)}{times}")
        return [self.what, goal.strip(), shown, self.verdict + footnote, "; ".join(said)]


def section(results: dict[str, Any]) -> list[str]:
    """The goals, and the reasons of the missed ones."""
    missed: list[str] = []
    rows = []
    for goal in [
        *per_event(results),
        *counts(results),
        *low_load(results),
        *streams(results),
        *fanout(results),
        *first(results),
        *frameworks(results),
        *adapters(results),
        *idle(results),
        *elsewhere(results),
        *long_sessions(results),
        *others(results),
        *joins(results),
        *window(results),
        *imports(results),
    ]:
        footnote = ""
        if goal.verdict.startswith("**"):
            missed.append(f"{len(missed) + 1}. {goal.what}: {goal.why or 'no profile of it in this run'}.")
            footnote = f" ({len(missed)})"
        rows.append(goal.row(footnote))
    reasons = ["What the missed ones spend, measured in this run:", "", *missed, ""] if missed else []
    columns = ["what", "goal", "measured", "", "in figures (×: the measured, divided by it)"]
    return [
        "## Goals",
        "",
        "Most are multiples of the floor, of a peer or of the agent alone in the same run. The floor is a bare ASGI "
        "app that keeps nothing and sends each chunk by itself.",
        "",
        *table(columns, rows),
        *reasons,
    ]


def net(figures: Figures, name: str, streams: int, value: str = "cpu_us") -> float | None:
    """CPU (or what else is said) per event, paced, without what the same agent takes alone."""
    total = figures.median(name, value, streams=streams)
    alone = figures.median(f"{BY_NAME[name].agent}-alone", value, streams=streams)
    return None if total is None or alone is None else total - alone


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
    goals = (("memory", 1.35, FLOOR), ("sqlite", 1.6, FLOOR), ("redis", 1.4, FLOOR), ("postgres", 35, ""))
    for store, goal, against in goals:
        late_ms = paced.median(f"gapless-{store}", "p99_ms", streams=streams) or 0.0
        # A server that is behind sends much in one write, which makes its CPU per event look small.
        behind = f"p99 lateness {number(late_ms)} ms" if late_ms > LATE_S * 1e3 else ""
        found.append(
            Goal(
                f"CPU per event, {streams} streams at {HZ:.0f}/s, the agent's share subtracted: {store}",
                goal,
                "µs",
                net(paced, f"gapless-{store}", streams),
                against,
                beside={FLOOR: net(paced, "asgi", streams), "sse-starlette": net(paced, "sse-starlette", streams)},
                doubt=behind,
                why=spent_beside_floor(results, f"gapless-{store}", streams=streams),
            )
        )
    return found


def counts(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "counts")
    streams = PACED_STREAMS["generator"]

    def instructions(name: str) -> float | None:
        return net(figures, name, streams, "instructions")

    return [
        Goal(
            f"instructions in user space per event, the same load, the agent's subtracted: {store}",
            goal,
            "",
            instructions(f"gapless-{store}"),
            beside={FLOOR: instructions("asgi"), "sse-starlette": instructions("sse-starlette")},
            why="no table says which function they are in: callgrind sees the interpreter's",
        )
        for store, goal in (("memory", 25_000), ("sqlite", 28_000))
    ]


def low_load(results: dict[str, Any]) -> list[Goal]:
    """With the agent: at so few streams most of it is waking up, for whoever asks."""
    paced = Figures(results, "paced")

    def cpu_us(name: str) -> float | None:
        return paced.median(name, "cpu_us", streams=LOW_STREAMS)

    return [
        Goal(
            f"CPU per event, {LOW_STREAMS} streams at {HZ:.0f}/s, with the agent's: memory",
            0.9,
            "µs",
            cpu_us("gapless-memory"),
            "sse-starlette",
            beside={name: cpu_us(of) for name, of in (("sse-starlette",) * 2, (FLOOR, "asgi"))},
            why="a process that is waited for wakes up for each event, and so does each of the others",
        )
    ]


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
            against,
            at_least=True,
            beside={FLOOR: ramp.median("asgi", "held"), "sse-starlette": ramp.median("sse-starlette", "held")},
            why="; ".join(filter(None, map(load_at_the_end, (f"gapless-{store}", "asgi")))),
        )
        for store, goal, against in (("memory", 0.8, FLOOR), ("sqlite", 0.75, FLOOR), ("postgres", 300, ""))
    ]


def fanout(results: dict[str, Any]) -> list[Goal]:
    figures, followers = Figures(results, "fanout"), profile.FANOUT_FOLLOWERS
    why = spent_beside_floor(results, "gapless-memory", followers=followers)
    own, theirs = (figures.median(name, "writes", followers=followers) for name in ("gapless-memory", "asgi"))
    if own is not None and theirs is not None:
        # A run's next event comes later than all have been written to: two in one write would be one kept back.
        why += f"; it writes {own:.2f} times for each event and follower, {FLOOR} {theirs:.2f}, each the kernel's work"
    return [
        Goal(
            f"fan-out to {followers:,} followers, CPU per event and follower",
            0.6,
            "µs",
            figures.median("gapless-memory", "cpu_us", followers=followers),
            FLOOR,
            beside={FLOOR: figures.median("asgi", "cpu_us", followers=followers)},
            why=why,
        ),
        Goal(
            f"the same, of a session's stream to {followers:,} followers",
            1.1,
            "µs",
            figures.median("gapless-memory", "session_cpu_us", followers=followers),
            A_RUN,
            beside={A_RUN: figures.median("gapless-memory", "cpu_us", followers=followers)},
        ),
    ]


def window(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "window")
    medians = (figures.median("window", "ms", what=one, runs=RUNS) for one in figures.levels("what") if one != FOUND)
    what = f"the window's answer to a click among {RUNS:,} runs, the slowest median (that it looks on is one)"
    return [Goal(what, 200, "ms", max((ms for ms in medians if ms is not None), default=None))]


def first(results: dict[str, Any]) -> list[Goal]:
    """The first event, and a run of two events as a whole."""
    figures = Figures(results, "first-event")

    def beside(value: str) -> dict[str, float | None]:
        return {label: figures.median(of, value) for label, of in (("sse-starlette",) * 2, (FLOOR, "asgi"))}

    return [
        *(
            Goal(
                f"first event after the agent yields it (median): {store}",
                goal,
                "ms",
                figures.median(f"gapless-{store}", "yield_ms"),
                beside=beside("yield_ms"),
                why="it is accepted by the store before it is sent",
            )
            for store, goal in (("memory", 0.25), ("sqlite", 0.4))
        ),
        *(
            Goal(
                f"CPU of a short run, two events and its end: {store}",
                goal,
                "µs",
                figures.median(f"gapless-{store}", "run_cpu_us"),
                "sse-starlette",
                beside=beside("run_cpu_us"),
                why="what a run is and how it ended are kept, which takes transactions of their own",
            )
            for store, goal in (("memory", 1.2), ("sqlite", 1.8))
        ),
    ]


def frameworks(results: dict[str, Any]) -> list[Goal]:
    """As fast as it goes, and paced."""
    found = []
    for agent, goal in (("pydantic-ai", 0.9), ("adk", 0.45)):
        name, label = f"{agent}-gapless-memory", FRAMEWORKS[agent].removesuffix(": ")
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
            alone = BY_NAME[f"{agent}-alone"].label
            measured = figures.median(name, "cpu_us", streams=streams)
            why = []
            if measured is not None and (alone_us := beside[alone]) is not None:
                why.append(f"the agent alone takes {number(alone_us)} of the {number(measured)} µs under this load")
            if scenario == "paced":
                why += filter(None, [spent(results, name, streams=streams)])
            what = f"CPU per event, {label} agent, memory, all of it: {load}"
            found.append(Goal(what, goal, "µs", measured, alone, beside=beside, why="; ".join(why)))
    return found


def adapters(results: dict[str, Any]) -> list[Goal]:
    """What an adapter, the journal and a follower add to a framework, in one process."""
    figures = Figures(results, "adapters")
    found = []
    for agent, goal in (("pydantic-ai", 0.9), ("adk", 0.45), ("langgraph", 1.25), ("openai-agents", 1.1)):
        label = FRAMEWORKS[agent].removesuffix(": ")
        ratio = figures.median(agent, "memory_ratio")
        alone_us, run_us = figures.median(agent, "alone"), figures.median(agent, "memory")
        why = ""
        if alone_us is not None and run_us is not None:
            why = f"a run takes {number(run_us)} µs per event, the agent alone {number(alone_us)}"
        what = f"CPU per event, {label} agent, as a run that is followed, beside the agent alone: one process, memory"
        found.append(Goal(what, goal, "×", ratio, why=why))
    return found


def idle(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "idle")

    def kib(name: str) -> float | None:
        each = figures.median(name, "bytes_each", followers=1000)
        return None if each is None else each / 1024

    def ms_per_s(name: str) -> float | None:
        each = figures.median(name, "cpu_us_per_s", runs=1)
        return None if each is None else each / 1e3

    return [
        Goal(
            "an idle follower",
            7.5,
            "KiB",
            kib("gapless-memory"),
            beside={FLOOR: kib("asgi"), "sse-starlette": kib("sse-starlette"), "FastAPI SSE": kib("fastapi")},
            why="its task, its request and its parser stay as long as it follows",
        ),
        Goal(
            "an idle process with an open run, CPU a second: sqlite",
            4,
            "ms",
            ms_per_s("gapless-sqlite"),
            beside={FLOOR: ms_per_s("asgi"), "Gapless, memory": ms_per_s("gapless-memory")},
            why="it looks at its file for what other processes have written",
        ),
    ]


def elsewhere(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "elsewhere")
    return [
        Goal(
            "an event, seen in another process (median): sqlite",
            3,
            "ms",
            figures.median("gapless-sqlite", "median_ms"),
            beside={
                BY_NAME[name].label: figures.median(name, "median_ms") for name in ("gapless-redis", "gapless-postgres")
            },
            why="the other process looks at the file as often as its poll says",
        )
    ]


def long_sessions(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "turns")

    def cpu_ms(name: str, history: int = 4000) -> float | None:
        return figures.median(name, "cpu_ms", history=history)

    return [
        Goal(
            "CPU of a turn after 2,000 turns: sqlite",
            1.5,
            "ms",
            cpu_ms("gapless-sqlite"),
            beside={"the first turns": cpu_ms("gapless-sqlite", 0), "Gapless, memory": cpu_ms("gapless-memory")},
            why="the first turns take as much as stands beside it",
        )
    ]


def others(results: dict[str, Any]) -> list[Goal]:
    """What others see of somebody's large doings."""
    figures = Figures(results, "gaps")
    doings = {
        "join": "somebody joins a journal of 1,000,000 events late",
        "expire": "runs expire",
        "lists": "sessions and runs are listed",
        "backup": "the store is backed up",
    }
    found = []
    for subject, what in doings.items():
        for store in ("memory", "sqlite", "redis"):
            if subject == "backup" and store == "memory":
                continue
            measured, rest = (figures.median(f"gapless-{store}", "gap_ms", **{"while": of}) for of in (subject, "rest"))
            held = figures.median(f"gapless-{store}", "held_ms", **{"while": subject})
            disturbed = min(rest or 0.0, measured or 0.0) > GAP_MS_MAX
            found.append(
                Goal(
                    f"others' longest gap while {what}: {store}",
                    GAP_MS_MAX,
                    "ms",
                    measured,
                    beside={"with nothing meanwhile": rest, "of CPU between two words": held},
                    doubt="others on the machine" if disturbed else "",
                    why=f"this process used {number(held or 0.0)} ms of CPU between two words at most",
                )
            )
    return found


def joins(results: dict[str, Any]) -> list[Goal]:
    join = Figures(results, "join")
    return [
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
    ]


def imports(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "import")
    return [
        Goal(
            "`import gapless`",
            150,
            "ms",
            figures.median("import gapless", "wall_ms"),
            beside={name: figures.median(name, "wall_ms") for name in ("FastAPI", "Pydantic AI")},
        )
    ]
