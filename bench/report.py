"""Writes `performance.md` and its plots from the stored results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.candidates import BY_NAME, CANDIDATES, Candidate
from bench.plot import Point, Series, line_plot

LATE_MS = 50.0
"""Later than this, a server is behind: what it then sends in one write makes its CPU per event look small."""
NEIGHBOURS_SHARE = 0.1
"""CPU of other processes, in cores, above which the report warns."""
AGENTS = {
    "generator": "A generator agent",
    "pydantic-ai": "The same answer from a Pydantic AI agent",
    "adk": "The same answer from an ADK agent",
}


PLOTTED = (
    "gapless-memory", "gapless-sqlite", "gapless-redis", "asgi", "sse-starlette", "fastapi", "pydantic-ai-vercel",
    "pydantic-ai-ag-ui", "pydantic-ai-gapless-memory", "adk-server", "adk-gapless-memory",
)  # fmt: skip
"""The lines of the plots, in the order of their colours; the tables have all candidates."""


class Figures:
    """The results of one scenario."""

    def __init__(self, results: dict[str, Any], scenario: str) -> None:
        self.scenario = results["scenarios"].get(scenario, {})
        self.rows: list[dict[str, Any]] = self.scenario.get("rows", [])

    def __bool__(self) -> bool:
        return bool(self.rows)

    def rounds(self, candidate: str, value: str, **params: Any) -> list[float]:
        """One figure per round; empty when it was not measured."""
        for row in self.rows:
            if row["candidate"] == candidate and row["params"] == params:
                return list(row["values"].get(value, []))
        return []

    def median(self, candidate: str, value: str, **params: Any) -> float | None:
        rounds = self.rounds(candidate, value, **params)
        return statistics.median(rounds) if rounds else None

    def levels(self, param: str, candidates: Iterable[Candidate] = CANDIDATES) -> list[Any]:
        names = {candidate.name for candidate in candidates}
        return sorted(
            {row["params"][param] for row in self.rows if param in row["params"] and row["candidate"] in names}
        )

    def series(self, param: str, value: str, label: Callable[[Candidate], str] | None = None) -> list[Series]:
        """A line per plotted candidate."""
        found = []
        for color, name in enumerate(PLOTTED):
            candidate = BY_NAME[name]
            points = []
            for x in self.levels(param, [candidate]):
                rounds = self.rounds(candidate.name, value, **{param: x})
                if rounds:
                    points.append(Point(x, statistics.median(rounds), min(rounds), max(rounds)))
            if points:
                shown = label(candidate) if label else candidate.label
                found.append(Series(shown, points, color, dashed=not candidate.gapless))
        return found


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 2
    return f"{value:,.{digits}f}"


def cell(rounds: list[float]) -> str:
    """Median, with minimum and maximum where there are several rounds."""
    if not rounds:
        return "–"
    middle = number(statistics.median(rounds))
    return middle if len(rounds) == 1 else f"{middle} ({number(min(rounds))}–{number(max(rounds))})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def full_label(candidate: Candidate) -> str:
    framework = {"generator": "", "pydantic-ai": "Pydantic AI: ", "adk": "ADK: "}[candidate.agent]
    return framework + candidate.label


def write(results: dict[str, Any], out: Path) -> Path:
    """Write the report and its plots below `out`; the path of the report."""
    plots = out / "performance"
    plots.mkdir(parents=True, exist_ok=True)
    lines = head(results)
    lines += goals(results)
    for section in (throughput, paced, ramp, first_event, fanout, idle, join, turns, length, wires, imports, profile):
        lines += section(results, plots)
    lines += better_elsewhere(results)
    lines += left_out(results)
    lines += repeat(results)
    path = out / "performance.md"
    path.write_text("\n".join(lines).rstrip() + "\n")
    return path


def head(results: dict[str, Any]) -> list[str]:
    machine, versions = results.get("machine", {}), results.get("versions", {})
    quick = any(scenario["quick"] for scenario in results["scenarios"].values())
    others = max((scenario.get("others_share") or 0.0 for scenario in results["scenarios"].values()), default=0.0)
    warning = f"**Other processes took up to {number(others)} cores meanwhile: these figures are too high.**"
    return [
        "# Performance",
        "",
        "Written by `scripts/bench`; do not edit. Every figure below was measured on the machine named here, Gapless "
        "and its peers in turns, in processes of their own. Trust the ratios between rows more than a row: another "
        "machine moves all of them.",
        "",
        *(["**A quick run: one round, small counts. Not for comparison.**", ""] if quick else []),
        *([warning, ""] if others > NEIGHBOURS_SHARE else []),
        f"Machine: {', '.join(machine.values())}. All servers run under uvicorn with uvloop and httptools, "
        "one process, the load client beside it on the same machine.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "How it is measured: the agents are scripted and yield chunks of 4 characters, an event each. CPU is the "
        "operating system's count for all processes and threads of the server (the Redis server apart), read at the "
        "start and at the end of the counted time. A chunk's text is the time at which it was due, so lateness "
        "covers the agent's timer, the journal, the socket and the client. Every answer is checked to be complete. "
        "Figures are medians of the rounds, with the smallest and the largest in brackets.",
        "",
    ]


# -------------------------------------------------------------------------------------------------------------- goals


def goals(results: dict[str, Any]) -> list[str]:
    """The table of goals, each with what was measured."""
    paced_, ramp_, fan, idle_, join_, first, imports_ = (
        Figures(results, name) for name in ("paced", "ramp", "fanout", "idle", "join", "first-event", "import")
    )
    rows: list[list[str]] = []

    def row(
        what: str,
        goal: float,
        unit: str,
        measured: float | None,
        at_least: bool = False,
        note: str = "",
        late_ms: float | None = None,
    ) -> None:
        if measured is None:
            shown, verdict = "not measured", ""
        else:
            met = measured >= goal if at_least else measured <= goal
            shown, verdict = f"{number(measured)} {unit}", "met" if met else "**missed**"
            if late_ms is not None and late_ms > LATE_MS:
                verdict = f"**not comparable**: p99 lateness {number(late_ms)} ms"
        rows.append([what, f"{'≥' if at_least else '≤'} {number(goal)} {unit}", shown, verdict, note])

    alone = paced_.median("generator-alone", "cpu_us", streams=500)
    floor = paced_.median("asgi", "cpu_us", streams=500)
    for store, goal in (("memory", 12), ("sqlite", 16), ("redis", 30)):
        total = paced_.median(f"gapless-{store}", "cpu_us", streams=500)
        late_ms = paced_.median(f"gapless-{store}", "p99_ms", streams=500)
        own = total - alone if total is not None and alone is not None else None
        note = f"floor {number(floor - alone)}" if floor is not None and alone is not None else ""
        row(
            f"CPU per event, 500 streams at 50/s, the agent's share subtracted: {store}",
            goal,
            "µs",
            own,
            note=note,
            late_ms=late_ms,
        )
    for store, goal in (("memory", 1500), ("sqlite", 1000)):
        note = f"floor {number(floor_held)}" if (floor_held := ramp_.median("asgi", "held")) else ""
        row(
            f"streams at 50/s with p99 lateness under 50 ms: {store}",
            goal,
            "",
            ramp_.median(f"gapless-{store}", "held"),
            at_least=True,
            note=note,
        )
    for agent, streams, goal, name in (("pydantic-ai", 50, 70, "Pydantic AI"), ("adk", 25, 175, "ADK")):
        agent_alone = paced_.median(f"{agent}-alone", "cpu_us", streams=streams)
        note = f"the agent alone {number(agent_alone)}" if agent_alone is not None else ""
        measured = paced_.median(f"{agent}-gapless-memory", "cpu_us", streams=streams)
        row(f"CPU per event, {name} agent, memory, all of it", goal, "µs", measured, note=note)
    row(
        "fan-out to 1,000 followers, CPU per event and follower",
        8,
        "µs",
        fan.median("gapless-memory", "cpu_us", followers=1000),
    )
    idle_bytes = idle_.median("gapless-memory", "bytes_each", followers=1000)
    row("an idle follower", 16, "KiB", idle_bytes / 1024 if idle_bytes else None)
    for store in ("memory", "sqlite", "redis"):
        row(
            f"late join to 20,000 events: server CPU, {store}",
            30,
            "ms",
            join_.median(f"gapless-{store}", "cpu_ms", events=20_000),
        )
    row(
        "late join: bytes per byte of text",
        1.2,
        "",
        join_.median("gapless-memory", "bytes_per_text_byte", events=20_000),
    )
    row("first event after the agent yields it (median)", 3, "ms", first.median("gapless-memory", "yield_ms"))
    row("`import gapless`", 150, "ms", imports_.median("import gapless", "wall_ms"))
    return ["## Goals", "", *table(["what", "goal", "measured", "", "beside"], rows)]


# ----------------------------------------------------------------------------------------------------------- sections


def by_agent(results: Figures, param: str, value: str, title: str) -> list[str]:
    """One table per kind of agent: candidates down, levels across."""
    lines = []
    for agent, heading in AGENTS.items():
        candidates = [candidate for candidate in CANDIDATES if candidate.agent == agent]
        levels = results.levels(param, candidates)
        rows = []
        for candidate in candidates:
            cells = [cell(results.rounds(candidate.name, value, **{param: level})) for level in levels]
            if any(content != "–" for content in cells):
                rows.append([candidate.label, *cells])
        if rows:
            lines += [f"{heading}, {title}:", "", *table(["", *(f"{level:,}" for level in levels)], rows)]
    return lines


def plotted(path: Path, alt: str, svg: str) -> list[str]:
    path.write_text(svg)
    return [f"![{alt}](performance/{path.name})", ""]


def throughput(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "throughput")
    if not figures:
        return []
    svg = line_plot(
        "CPU per event, unpaced",
        "streams at once",
        "µs per event",
        figures.series("streams", "cpu_us", full_label),
        ordinal=True,
        log_y=True,
    )
    return [
        "## As fast as it goes",
        "",
        "Every stream's agent yields as fast as it is let. A run is counted from its request to its end marker; at "
        "1,000 streams the runs are short, so the cost of starting a run weighs in. What has come by the time a "
        "follower of Gapless is written to goes out in one write, so a journal that commits in groups can cost "
        "less than the floor, which sends every chunk by itself.",
        "",
        *by_agent(figures, "streams", "events_per_s", "events per second by number of streams"),
        *by_agent(figures, "streams", "cpu_us", "µs of CPU per event"),
        *plotted(plots / "throughput.svg", "CPU per event by number of streams", svg),
    ]


def paced(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "paced")
    if not figures:
        return []
    lines = ["## At 50 events a second per stream", ""]
    for agent, heading in AGENTS.items():
        rows = []
        for candidate in CANDIDATES:
            if candidate.agent != agent:
                continue
            for streams in figures.levels("streams", [candidate]):
                cpu = figures.rounds(candidate.name, "cpu_us", streams=streams)
                alone = figures.median(f"{agent}-alone", "cpu_us", streams=streams)
                above = statistics.median(cpu) - alone if cpu and alone is not None and not candidate.alone else None
                late = cell(figures.rounds(candidate.name, "p99_ms", streams=streams))
                own = number(above) if above is not None else "–"
                rows.append([candidate.label, str(streams), cell(cpu), own, late])
        if rows:
            columns = ["", "streams", "µs of CPU per event", "without the agent's", "p99 lateness, ms"]
            lines += [f"{heading}:", "", *table(columns, rows)]
    return lines


def ramp(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "ramp")
    if not figures:
        return []
    rows = [
        [full_label(candidate), cell(held)]
        for candidate in CANDIDATES
        if (held := figures.rounds(candidate.name, "held"))
    ]
    svg = line_plot(
        "p99 lateness as streams are added, 50 events a second each",
        "streams",
        "p99 lateness, ms",
        figures.series("streams", "p99_ms", full_label),
        log_y=True,
        bound=(50, "50 ms"),
    )
    return [
        "## How many streams one process carries",
        "",
        "Streams at 50 events a second are added until the p99 lateness passes 50 ms: one coarse ramp, then finer ones "
        "from just below its end. The largest number that held:",
        "",
        *table(["", "streams"], rows),
        *plotted(plots / "ramp.svg", "p99 lateness by number of streams", svg),
    ]


def first_event(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "first-event")
    if not figures:
        return []
    names = ("yield_ms", "yield_p99_ms", "request_ms", "run_cpu_us")
    rows = [
        [full_label(candidate), *(cell(figures.rounds(candidate.name, name)) for name in names)]
        for candidate in CANDIDATES
        if figures.rounds(candidate.name, "yield_ms")
    ]
    head_ = ["", "from the agent's yield, ms", "its p99, ms", "from the request, ms", "CPU of a whole short run, µs"]
    return ["## The first event", "", "One run at a time, on an open connection.", "", *table(head_, rows)]


def fanout(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "fanout")
    if not figures:
        return []
    series = figures.series("followers", "cpu_us")
    svg = line_plot(
        "One run, many followers", "followers", "µs per event and follower", series, ordinal=True, log_y=True
    )
    return [
        "## One run, many followers",
        "",
        "A run at 20 events a second. None of the peers lets a second client follow a run; the floor is one list and "
        "one future that all waiters share.",
        "",
        *by_agent(figures, "followers", "cpu_us", "µs of CPU per event and follower"),
        *plotted(plots / "fanout.svg", "CPU per event and follower", svg),
    ]


def idle(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "idle")
    if not figures:
        return []
    for row in figures.rows:
        row["values"]["kib_each"] = [value / 1024 for value in row["values"]["bytes_each"]]
    series = figures.series("followers", "kib_each")
    svg = line_plot("Memory of an idle follower", "idle followers", "KiB each", series, ordinal=True)
    return [
        "## Followers that wait",
        "",
        "Memory private to the server's processes, before and after they connect. With the peers each of them is a "
        "stream of its own; with Gapless they follow one run.",
        "",
        *by_agent(figures, "followers", "kib_each", "KiB per idle follower"),
        *by_agent(figures, "followers", "cpu_us_per_s_each", "µs of CPU per second and idle follower"),
        *plotted(plots / "idle.svg", "Memory of an idle follower", svg),
    ]


def join(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "join")
    if not figures:
        return []
    rows = []
    for candidate in CANDIDATES:
        for events in figures.levels("events", [candidate]):
            values = ("cpu_ms", "wall_ms", "bytes_per_text_byte", "frames")
            cells = [cell(figures.rounds(candidate.name, value, events=events)) for value in values]
            rows.append([candidate.label, f"{events:,}", *cells])
    head_ = ["", "events", "server CPU, ms", "until the end marker, ms", "bytes per byte of text", "frames"]
    series = figures.series("events", "cpu_ms")
    svg = line_plot("Joining late", "events in the journal", "ms of server CPU", series, ordinal=True, log_y=True)
    return ["## Joining late", "", *table(head_, rows), *plotted(plots / "join.svg", "CPU of a late join", svg)]


def turns(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "turns")
    if not figures:
        return []
    series = figures.series("history", "cpu_ms", full_label)
    svg = line_plot(
        "A short turn in a long session", "messages of history", "ms of CPU per turn", series, ordinal=True, log_y=True
    )
    return [
        "## Short turns in long sessions",
        "",
        "Turns of 4 events, one after the other, in a session with so many messages before them. Gapless and ADK keep "
        "the history; Pydantic AI's adapters are sent it with every turn.",
        "",
        *by_agent(figures, "history", "turns_per_s", "turns per second by history"),
        *by_agent(figures, "history", "cpu_ms", "ms of CPU per turn"),
        *plotted(plots / "turns.svg", "CPU per turn by history", svg),
    ]


def length(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "length")
    if not figures:
        return []
    svg = line_plot(
        "CPU per event by run length",
        "events in the run",
        "µs per event",
        figures.series("events", "cpu_us"),
        ordinal=True,
    )
    return [
        "## Long runs",
        "",
        "One stream, unpaced; many short runs or one long one, the same number of events in all.",
        "",
        *by_agent(figures, "events", "cpu_us", "µs of CPU per event by run length"),
        *plotted(plots / "length.svg", "CPU per event by run length", svg),
    ]


def wires(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "wires")
    rows = []
    for row in figures.rows:
        wire = row["params"].get("wire")
        label = f"Gapless, wire `{wire}`" if wire else full_label(BY_NAME[row["candidate"]])
        rows.append([label, cell(row["values"]["bytes_per_event"])])
    if not rows:
        return []
    return ["## Bytes", "", "Of the body, per 4-character chunk, over 100 chunks.", "", *table(["", "bytes"], rows)]


def imports(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "import")
    rows = []
    loaded = ""
    for row in figures.rows:
        if "imports" in row["params"]:
            loaded = row["params"]["imports"]
        else:
            rows.append([row["candidate"], cell(row["values"]["wall_ms"]), cell(row["values"]["cpu_ms"])])
    if not rows:
        return []
    lines = ["## Import", "", "In a fresh interpreter, the bare interpreter subtracted.", ""]
    return [*lines, *table(["", "ms", "ms of CPU"], rows), f"Frameworks that `import gapless` loads: `{loaded}`.", ""]


def profile(results: dict[str, Any], plots: Path) -> list[str]:
    figures = Figures(results, "profile")
    if not figures:
        return []
    names = [row["candidate"] for row in figures.rows]
    layers = sorted({name for row in figures.rows for name in row["values"]} - {"cpu_us"})
    rows = [[layer, *(cell(figures.rounds(name, layer)) for name in names)] for layer in layers]
    rows.append(["all", *(cell(figures.rounds(name, "cpu_us")) for name in names)])
    return [
        "## Where the time goes",
        "",
        "µs per event with a sampling profiler attached (which costs some itself), by the file of the innermost Python "
        "function: time in C counts for its caller.",
        "",
        *table(["", *(full_label(BY_NAME[name]) for name in names)], rows),
    ]


def better_elsewhere(results: dict[str, Any]) -> list[str]:
    """Where a peer does better than Gapless on the same agent."""
    questions = [
        ("throughput", "cpu_us", "streams", "CPU per event, unpaced, streams at once: {}", True),
        ("paced", "cpu_us", "streams", "CPU per event, paced, streams at once: {}", True),
        ("ramp", "held", None, "streams carried", False),
        ("first-event", "request_ms", None, "time from the request to the first event", True),
        ("first-event", "run_cpu_us", None, "CPU of a short run", True),
        ("idle", "bytes_each", "followers", "memory of each of {} idle followers", True),
        ("turns", "cpu_ms", "history", "CPU of a short turn after {} messages", True),
        ("wires", "bytes_per_event", None, "bytes per event", True),
    ]
    lines = []
    for scenario, value, param, text, smaller in questions:
        figures = Figures(results, scenario)
        for agent in AGENTS:
            prefix = "" if agent == "generator" else f"{agent}-"
            peers = [c for c in CANDIDATES if c.agent == agent and not c.gapless and not c.alone and c.name != "asgi"]
            for level in figures.levels(param) if param else [None]:
                params = {param: level} if param else {}
                own_params = {"wire": "ag-ui"} if scenario == "wires" else params
                own = figures.median(f"{prefix}gapless-memory", value, **own_params)
                for peer in peers:
                    theirs = figures.median(peer.name, value, **params)
                    if own is None or theirs is None or (theirs >= own if smaller else theirs <= own):
                        continue
                    what = text.format(f"{level:,}" if isinstance(level, int) else level)
                    lines.append(f"* {full_label(peer)}: {what}: {number(theirs)} against {number(own)}.")
    if not lines:
        return []
    return [
        "## Where a peer is better",
        "",
        "Against Gapless with the memory journal (the bare floor left out). None of these peers keeps a journal.",
        "",
        *lines,
        "",
    ]


def left_out(results: dict[str, Any]) -> list[str]:
    scenarios: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name, scenario in results["scenarios"].items():
        for candidate, why in scenario["skipped"].items():
            scenarios.setdefault(candidate, []).append(name)
            reasons.setdefault(candidate, why)
    lines = [f"* {candidate} ({', '.join(names)}): {reasons[candidate]}" for candidate, names in scenarios.items()]
    return ["## Not measured", "", *lines, ""] if lines else []


def repeat(results: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            scenario["commit"],
            scenario["when"],
            number(scenario["seconds"]),
            "–" if scenario.get("others_share") is None else f"{scenario['others_share']:.2f}",
        ]
        for name, scenario in results["scenarios"].items()
    ]
    return [
        "## How to repeat",
        "",
        "`scripts/bench` measures all of this again (about 15 minutes, on a machine that does nothing else), "
        "`scripts/bench --quick` a part of it in 2 minutes, `--only ramp` one scenario, merged into the stored "
        "results. `--profile` says where the time goes. The figures of every round are in "
        "[performance/results.json](performance/results.json).",
        "",
        *table(["scenario", "commit", "measured", "seconds", "cores used by others"], rows),
    ]
