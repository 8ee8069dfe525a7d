"""The table of goals: what was measured, what stands beside it in the same run, and why a goal was missed.

Most are ratios to the floor, to a peer or to the agent alone: what the machine and the hour do, they do to both. A
ratio is formed in each round, of servers that were measured right after one another, and the median of the rounds'
ratios is judged: from hour to hour the floor's cost moves by a third, within a round it stays.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import profile
from bench.candidates import BY_NAME, CANDIDATES
from bench.counts import IN
from bench.figures import FRAMEWORKS, Figures, cell, full_label, number, table
from bench.harness import HZ, LATE_S, LOW_STREAMS, PACED_STREAMS
from bench.scenarios import LIKE_WITH_LIKE_STREAMS
from bench.short_run import DIFFERENT, FUNCTIONS
from bench.window import FOUND, RUNS
from gapless.journals.journal import PAGE_EVENTS

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
    measured: Sequence[float]
    """By round: itself, or where `against` says what it is divided by, before that. Empty where it was not measured."""
    against: str = ""
    """Which of `beside` the goal is a multiple of; "" for a figure that stands for itself."""
    at_least: bool = False
    beside: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What was measured in this run of the floor, the peers, the agent alone."""
    doubt: str = ""
    """What makes the figure one that says nothing, if something does."""
    why: str = ""

    @property
    def judged(self) -> Sequence[float]:
        """What the goal is compared with, by round: the median of it."""
        return ratios(self.measured, self.beside.get(self.against, ())) if self.against else self.measured

    @property
    def verdict(self) -> str:
        if not self.judged:
            return ""
        if self.doubt:
            return f"**not comparable**: {self.doubt}"
        judged = statistics.median(self.judged)
        met = judged >= self.goal if self.at_least else judged <= self.goal
        return "met" if met else "**missed**"

    def row(self, footnote: str) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        goal = f"{sign} {self.goal:g} × {self.against}" if self.against else f"{sign} {number(self.goal)} {self.unit}"
        shown = "not measured"
        if self.judged and self.against:
            shown = f"× {cell(self.judged, '{:.2f}'.format)}"
        elif self.judged:
            shown = f"{cell(self.judged)} {self.unit}".strip()
        said = (
            [f"{number(statistics.median(self.measured))} {self.unit}".strip()] if self.against and self.judged else []
        )
        for name, values in self.beside.items():
            if self.measured and values:
                times = () if name == self.against else ratios(self.measured, values)
                said.append(number_of(name, values) + (f" (× {statistics.median(times):.2f})" if times else ""))
        return [self.what, goal.strip(), shown, self.verdict + footnote, str(len(self.judged) or ""), "; ".join(said)]


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round, as far as both were measured."""
    return [a / b for a, b in zip(of, to, strict=False) if b]


def number_of(name: str, rounds: Sequence[float]) -> str:
    return f"{name} {number(statistics.median(rounds))}"


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
    columns = ["what", "goal", "measured", "", "rounds", "in figures (×: the measured, divided by it)"]
    return [
        "## Goals",
        "",
        "Most are multiples of the floor, of a peer or of the agent alone in the same run. The floor is a bare ASGI "
        "app that keeps nothing and sends each chunk by itself. The servers are measured in turns, A B C A B C; a "
        "ratio is formed within each round, of what was measured right after one another, and is the median of the "
        "rounds' ratios (in brackets the smallest and the largest), not the ratio of the medians that stand beside it.",
        "",
        *table(columns, rows),
        *reasons,
    ]


def net(figures: Figures, name: str, streams: int, value: str = "cpu_us") -> list[float]:
    """CPU (or what else is said) per event, paced, without what the same agent takes alone; by round."""
    total = figures.rounds(name, value, streams=streams)
    alone = figures.rounds(f"{BY_NAME[name].agent}-alone", value, streams=streams)
    return [both - agents for both, agents in zip(total, alone, strict=False)]


def spent(results: dict[str, Any], name: str, **params: Any) -> str:
    """A sentence from the profile: which part of the path costs what. Empty when there is none."""
    figures = Figures(results, "profile")
    total = figures.median(name, "cpu_us", **params)
    if total is None:
        return ""
    parts = {layer: figures.median(name, layer, **params) or 0.0 for layer in profile.ORDER}
    own = {layer.removeprefix("gapless: "): cost for layer, cost in parts.items() if layer.startswith("gapless: ")}
    costs = {layer: cost for layer, cost in parts.items() if not layer.startswith("gapless: ")}

    least = SHARE_MIN * total
    named = f" ({listed(own, least)})" if listed(own, least) else ""
    gapless = f"Gapless's own code takes {number(sum(own.values()))}{named}, " if any(own.values()) else ""
    whose = "" if gapless else f" of {full_label(BY_NAME[name])}"
    return f"of the {number(total)} µs{whose} in the profile, {gapless}{listed(costs, least)}"


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
                why="; ".join(
                    filter(
                        None,
                        [
                            spent_beside_floor(results, f"gapless-{store}", streams=streams),
                            libraries(results, f"gapless-{store}"),
                            fetched(results, f"gapless-{store}"),
                            fetched(results, "asgi"),
                        ],
                    )
                ),
            )
        )
    return found


def counts(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "counts")
    streams = PACED_STREAMS["generator"]

    def instructions(name: str) -> list[float]:
        return net(figures, name, streams, "instructions")

    return [
        Goal(
            f"instructions in user space per event, the same load, the agent's subtracted: {store}",
            goal,
            "",
            instructions(f"gapless-{store}"),
            beside={FLOOR: instructions("asgi"), "sse-starlette": instructions("sse-starlette")},
            why="; ".join(filter(None, [libraries(results, f"gapless-{store}"), libraries(results, "asgi")])),
        )
        for store, goal in (("memory", 25_000), ("sqlite", 28_000))
    ]


def libraries(results: dict[str, Any], name: str) -> str:
    """A sentence from callgrind: which library takes how many instructions per event, the agent's subtracted."""
    figures, load = Figures(results, "counts"), {"streams": PACED_STREAMS["generator"]}

    def counted(of: str) -> dict[str, float]:
        values = figures.values(of, **load)
        return {key: statistics.median(rounds) for key, rounds in values.items() if key.startswith(IN)}

    own, agents = counted(name), counted("generator-alone")
    each = {library.removeprefix(IN): count - agents.get(library, 0.0) for library, count in own.items()}
    if not each:
        return ""
    return f"{full_label(BY_NAME[name])}, instructions per event: {listed(each, SHARE_MIN * sum(each.values()))}"


def fetched(results: dict[str, Any], name: str) -> str:
    """A sentence from callgrind: how much memory is fetched per event, the agent's subtracted."""
    lines = net(Figures(results, "counts"), name, PACED_STREAMS["generator"], "lines")
    if not lines:
        return ""
    return f"{full_label(BY_NAME[name])} fetches {number(statistics.median(lines))} lines of memory per event"


def listed(of: Mapping[str, float], least: float) -> str:
    """The larger ones, falling."""
    falling = sorted(of.items(), key=lambda item: -item[1])
    return ", ".join(f"{what} {number(count)}" for what, count in falling if count >= max(least, 1e-9))


def low_load(results: dict[str, Any]) -> list[Goal]:
    """With the agent: at so few streams most of it is waking up, for whoever asks."""
    paced = Figures(results, "paced")

    def cpu_us(name: str) -> list[float]:
        return paced.rounds(name, "cpu_us", streams=LOW_STREAMS)

    return [
        Goal(
            f"CPU per event, {LOW_STREAMS} streams at {HZ:.0f}/s, with the agent's: memory",
            0.9,
            "µs",
            cpu_us("gapless-memory"),
            "sse-starlette",
            beside={name: cpu_us(of) for name, of in (("sse-starlette",) * 2, (FLOOR, "asgi"))},
            why="; ".join(
                filter(None, (woken(results, of, LOW_STREAMS) for of in ("gapless-memory", "sse-starlette", "asgi")))
            ),
        )
    ]


def woken(results: dict[str, Any], name: str, streams: int) -> str:
    """How often a server waits and writes, under a paced load."""
    paced = Figures(results, "paced")
    wakes, writes = (paced.median(name, of, streams=streams) for of in ("wakes", "writes"))
    if wakes is None or writes is None:
        return ""
    return f"{full_label(BY_NAME[name])} is woken {wakes:.2f} times and writes {writes:.2f} times for each event"


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
        writes = ramp.median(name, "writes", streams=levels[-1]) or 0.0
        per_event = f"{number(cpu_us)} µs and {writes:.2f} system calls that write per event"
        return f"{label} takes {cores:.2f} of a core at {levels[-1]:,} streams, {per_event}"

    return [
        Goal(
            f"streams at {HZ:.0f}/s with p99 lateness under {LATE_S * 1e3:.0f} ms: {store}",
            goal,
            "",
            ramp.rounds(f"gapless-{store}", "held"),
            against,
            at_least=True,
            beside={FLOOR: ramp.rounds("asgi", "held"), "sse-starlette": ramp.rounds("sse-starlette", "held")},
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
            figures.rounds("gapless-memory", "cpu_us", followers=followers),
            FLOOR,
            beside={FLOOR: figures.rounds("asgi", "cpu_us", followers=followers)},
            why=why,
        ),
        Goal(
            f"the same, of a session's stream to {followers:,} followers",
            1.1,
            "µs",
            figures.rounds("gapless-memory", "session_cpu_us", followers=followers),
            A_RUN,
            beside={A_RUN: figures.rounds("gapless-memory", "cpu_us", followers=followers)},
        ),
    ]


def window(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "window")
    asked = (figures.rounds("window", "ms", what=one, runs=RUNS) for one in figures.levels("what") if one != FOUND)
    what = f"the window's answer to a click among {RUNS:,} runs, the slowest (that it looks on is one)"
    return [Goal(what, 200, "ms", max(filter(None, asked), key=statistics.median, default=[]))]


def run_in_counts(results: dict[str, Any], name: str) -> str:
    """A sentence of what one short run takes, counted."""
    values = {key: statistics.median(rounds) for key, rounds in Figures(results, "short-run").values(name).items()}
    prefix = "bytecodes: "
    codes = {key.removeprefix(prefix): count for key, count in values.items() if key.startswith(prefix)}
    if not codes:
        return ""
    total = sum(codes.values())
    rest = {key: count for key, count in values.items() if key not in {prefix + part for part in codes}}
    label, parts = full_label(BY_NAME[name]), listed(codes, SHARE_MIN * total)
    different, functions = rest.pop(DIFFERENT, 0), rest.pop(FUNCTIONS, 0)
    told = f"{total:,.0f} bytecodes, {different:,.0f} different ones in {functions:,.0f} functions"
    return f"a run of {label} takes {told} ({parts}), {listed(rest, 0.05)}"


def first(results: dict[str, Any]) -> list[Goal]:
    """The first event, and a run of two events as a whole."""
    figures = Figures(results, "first-event")

    def beside(value: str) -> dict[str, list[float]]:
        return {label: figures.rounds(of, value) for label, of in (("sse-starlette",) * 2, (FLOOR, "asgi"))}

    return [
        *(
            Goal(
                f"first event after the agent yields it (median): {store}",
                goal,
                "ms",
                figures.rounds(f"gapless-{store}", "yield_ms"),
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
                figures.rounds(f"gapless-{store}", "run_cpu_us"),
                "sse-starlette",
                beside=beside("run_cpu_us"),
                why="; ".join(
                    filter(None, (run_in_counts(results, of) for of in (f"gapless-{store}", "sse-starlette")))
                ),
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
                candidate.label: figures.rounds(candidate.name, "cpu_us", streams=streams)
                for candidate in CANDIDATES
                if candidate.agent == agent and not candidate.gapless
            }
            alone = BY_NAME[f"{agent}-alone"].label
            measured = figures.rounds(name, "cpu_us", streams=streams)
            why = []
            if measured and beside[alone]:
                total, alone_us = number(statistics.median(measured)), number(statistics.median(beside[alone]))
                why.append(f"the agent alone takes {alone_us} of the {total} µs under this load")
            if scenario == "paced":
                why += filter(None, [woken(results, name, streams), spent(results, name, streams=streams)])
            what = f"CPU per event, {label} agent, memory, all of it: {load}"
            found.append(Goal(what, goal, "µs", measured, alone, beside=beside, why="; ".join(why)))
    return found


def adapters(results: dict[str, Any]) -> list[Goal]:
    """What an adapter, the journal and a follower add to a framework, in one process."""
    figures = Figures(results, "adapters")
    found = []
    for agent, goal in (("pydantic-ai", 0.9), ("adk", 0.45), ("langgraph", 1.25), ("openai-agents", 1.1)):
        label = FRAMEWORKS[agent].removesuffix(": ")
        ratio = figures.rounds(agent, "memory_ratio")
        alone_us, run_us = figures.median(agent, "alone"), figures.median(agent, "memory")
        why = ""
        if alone_us is not None and run_us is not None:
            why = f"a run takes {number(run_us)} µs per event, the agent alone {number(alone_us)}"
        what = f"CPU per event, {label} agent, as a run that is followed, beside the agent alone: one process, memory"
        found.append(Goal(what, goal, "×", ratio, why=why))
    return found


def idle(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "idle")

    def kib(name: str) -> list[float]:
        return [each / 1024 for each in figures.rounds(name, "bytes_each", followers=1000)]

    def ms_per_s(name: str) -> list[float]:
        return [each / 1e3 for each in figures.rounds(name, "cpu_us_per_s", runs=1)]

    def woken_idle(name: str) -> str:
        wakes, writes = (figures.median(name, f"{of}_per_s", runs=1) for of in ("wakes", "writes"))
        if wakes is None or writes is None:
            return ""
        return f"{full_label(BY_NAME[name])} is woken {wakes:.0f} times and writes {writes:.0f} times a second"

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
            why="; ".join(filter(None, map(woken_idle, ("gapless-sqlite", "gapless-memory", "asgi")))),
        ),
    ]


def elsewhere(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "elsewhere")
    return [
        Goal(
            "an event, seen in another process (median): sqlite",
            3,
            "ms",
            figures.rounds("gapless-sqlite", "median_ms"),
            beside={
                BY_NAME[name].label: figures.rounds(name, "median_ms") for name in ("gapless-redis", "gapless-postgres")
            },
            why="the other process looks at the file as often as its poll says",
        )
    ]


def long_sessions(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "turns")

    def cpu_ms(name: str, history: int = 4000) -> list[float]:
        return figures.rounds(name, "cpu_ms", history=history)

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
            name = f"gapless-{store}"
            measured, rest = (figures.rounds(name, "gap_ms", **{"while": of}) for of in (subject, "rest"))
            held = figures.rounds(name, "held_ms", **{"while": subject})
            held_ms = number(statistics.median(held or [0.0]))
            disturbed = min(statistics.median(of or [0.0]) for of in (rest, measured)) > GAP_MS_MAX
            found.append(
                Goal(
                    f"others' longest gap while {what}: {store}",
                    GAP_MS_MAX,
                    "ms",
                    measured,
                    beside={"with nothing meanwhile": rest, "of CPU between two words": held},
                    doubt="others on the machine" if disturbed else "",
                    why=f"this process used {held_ms} ms of CPU between two words at most",
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
                join.rounds(f"gapless-{store}", "cpu_ms", events=20_000),
                why=joined(join, f"gapless-{store}"),
            )
            for store in ("memory", "sqlite", "redis")
        ),
        Goal(
            "late join: bytes per byte of text",
            1.2,
            "",
            join.rounds("gapless-memory", "bytes_per_text_byte", events=20_000),
        ),
    ]


def joined(join: Figures, name: str) -> str:
    """In how many reads of the store and frames the client is brought up to date."""
    frames, cpu_ms = (join.median(name, of, events=20_000) for of in ("frames", "cpu_ms"))
    if frames is None or cpu_ms is None:
        return ""
    reads = math.ceil(20_000 / PAGE_EVENTS)
    return f"{number(cpu_ms / 20)} µs for each event, which go in {reads} reads of the store and {frames:.0f} frames"


def imports(results: dict[str, Any]) -> list[Goal]:
    figures = Figures(results, "import")
    return [
        Goal(
            "`import gapless`",
            150,
            "ms",
            figures.rounds("import gapless", "wall_ms"),
            beside={name: figures.rounds(name, "wall_ms") for name in ("FastAPI", "Pydantic AI")},
        )
    ]
