"""Writes `performance.md` and its plots from the stored results."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import goals
from bench import profile as profiling
from bench.candidates import BY_NAME, CANDIDATES
from bench.checkpoints import STEPS
from bench.counts import CACHE_BYTES, IN, LINE_BYTES
from bench.figures import AGENTS, FRAMEWORKS, Figures, cell, full_label, number, table
from bench.gaps import ENDS, EXPIRED, EXPIRED_EVENT_BYTES, EXPIRED_EVENTS, JOINED_EVENTS, LISTED, STATE_BYTES
from bench.page import LATE_FRAME_MS, TOKENS_HZ
from bench.plot import Point, Series, line_plot
from bench.scenarios import RUN_S_MAX

NEIGHBOURS_SHARE = 0.1
"""CPU of other processes, in cores, above which the report warns."""


def write(results: dict[str, Any], out: Path) -> Path:
    """Write the report and its plots below `out`; the path of the report."""
    plots = out / "performance"
    plots.mkdir(parents=True, exist_ok=True)
    lines = [*head(results), *goals.section(results)]
    for name, section in SECTIONS.items():
        if figures := Figures(results, name):
            lines += section(figures, plots)
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
        "Durable Streams is its reference server in Node.js, which keeps the stream in memory; the same agent, in its "
        "process, appends over HTTP by its client's producer. AgentOS has no database here, and keeps nothing. "
        "Figures are medians of the rounds, with the smallest and the largest in brackets. What a goal goes by is "
        "measured in five rounds; a figure without brackets was measured in one.",
        "",
    ]


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


def plot(plots: Path, name: str, title: str, x: str, y: str, series: list[Series], **options: Any) -> list[str]:
    """Write the plot; the line that shows it. Nothing where nothing that is plotted was measured."""
    if not any(one.points for one in series):
        return []
    (plots / f"{name}.svg").write_text(line_plot(title, x, y, series, **options))
    return [f"![{title}](performance/{name}.svg)", ""]


def throughput(figures: Figures, plots: Path) -> list[str]:
    series = figures.series("streams", "cpu_us", full_label)
    title = "CPU per event, unpaced, by number of streams"
    return [
        "## As fast as it goes",
        "",
        "Every stream's agent yields as fast as it is let. A run is counted from its request to its end marker; at "
        "1,000 streams the runs are short, so the cost of starting a run weighs in, and the frameworks' agents are "
        "measured once. What has come by the time a follower of Gapless is written to goes out in one write, so a "
        "journal that commits in groups can cost less than the floor, which sends every chunk by itself.",
        "",
        *by_agent(figures, "streams", "events_per_s", "events per second by number of streams"),
        *by_agent(figures, "streams", "cpu_us", "µs of CPU per event"),
        *plot(plots, "throughput", title, "streams at once", "µs per event", series, ordinal=True, log_y=True),
    ]


def paced(figures: Figures, plots: Path) -> list[str]:
    lines = ["## At 50 events a second per stream", ""]
    for agent, heading in AGENTS.items():
        rows = []
        for candidate in CANDIDATES:
            if candidate.agent != agent:
                continue
            for streams in figures.levels("streams", [candidate]):
                cpu = figures.rounds(candidate.name, "cpu_us", streams=streams)
                above = [] if candidate.alone else goals.net(figures, candidate.name, streams)
                late = cell(figures.rounds(candidate.name, "p99_ms", streams=streams))
                rows.append([candidate.label, str(streams), cell(cpu), cell(above), late])
        if rows:
            columns = ["", "streams", "µs of CPU per event", "without the agent's", "p99 lateness, ms"]
            lines += [f"{heading}:", "", *table(columns, rows)]
    return lines


def ramp(figures: Figures, plots: Path) -> list[str]:
    rows = [
        [full_label(candidate), cell(held)]
        for candidate in CANDIDATES
        if (held := figures.rounds(candidate.name, "held"))
    ]
    series = figures.series("streams", "p99_ms", full_label)
    title = "p99 lateness as streams are added, 50 events a second each"
    return [
        "## How many streams one process carries",
        "",
        "Streams at 50 events a second are added until the p99 lateness passes 50 ms: a coarse ramp, in steps of a "
        "third, and of those with several rounds finer ones from just below its end, which then tell alone. The "
        "largest number that held:",
        "",
        *table(["", "streams"], rows),
        *plot(plots, "ramp", title, "streams", "p99 lateness, ms", series, log_y=True, bound=(50, "50 ms")),
    ]


def first_event(figures: Figures, plots: Path) -> list[str]:
    names = ("yield_ms", "yield_p99_ms", "request_ms", "run_cpu_us")
    rows = [
        [full_label(candidate), *(cell(figures.rounds(candidate.name, name)) for name in names)]
        for candidate in CANDIDATES
        if figures.rounds(candidate.name, "yield_ms")
    ]
    columns = ["", "from the agent's yield, ms", "its p99, ms", "from the request, ms", "CPU of a whole short run, µs"]
    return ["## The first event", "", "One run at a time, on an open connection.", "", *table(columns, rows)]


def short_run(figures: Figures, plots: Path) -> list[str]:
    names = list(dict.fromkeys(name for row in figures.rows for name in row["values"]))
    names = [name for name in sorted(names) if any(row["values"].get(name, [0])[0] >= 0.05 for row in figures.rows)]
    subjects = [full_label(BY_NAME[row["candidate"]]) for row in figures.rows]
    rows = [[name, *(cell(row["values"].get(name, [])) for row in figures.rows)] for name in names]
    return [
        "## A short run, counted",
        "",
        "What one run of two events takes: bytecodes of the interpreter, by whose they are, how many of them are "
        "different ones, tasks and what else is asked of the event loop, transactions of SQLite and pages of its log. "
        "Neither the machine nor the hour is in it. Different ones are what a processor has to come to know: where a "
        "server sleeps between two requests, they are slow each time.",
        "",
        *table(["", *subjects], rows),
    ]


def fanout(figures: Figures, plots: Path) -> list[str]:
    series = figures.series("followers", "cpu_us")
    title, y = "CPU per event and follower, one run", "µs per event and follower"
    return [
        "## One run, many followers",
        "",
        "A run at 20 events a second. Of the peers Durable Streams alone lets a second client follow a run; the floor "
        "is one list and one future that all waiters share.",
        "",
        *by_agent(figures, "followers", "cpu_us", "µs of CPU per event and follower"),
        *by_agent(figures, "followers", "writes", "system calls that write, per event and follower"),
        *by_agent(figures, "followers", "session_cpu_us", "followers of the session that it is in, the same"),
        *plot(plots, "fanout", title, "followers", y, series, ordinal=True, log_y=True),
    ]


def idle(figures: Figures, plots: Path) -> list[str]:
    for row in figures.rows:
        if "bytes_each" in row["values"]:
            row["values"]["kib_each"] = [value / 1024 for value in row["values"]["bytes_each"]]
    series = figures.series("followers", "kib_each")
    return [
        "## Followers that wait",
        "",
        "Memory private to the server's processes, before and after they connect. With the peers each of them is a "
        "stream of its own; with Gapless they follow one run.",
        "",
        *by_agent(figures, "followers", "kib_each", "KiB per idle follower"),
        *by_agent(figures, "followers", "cpu_us_per_s_each", "µs of CPU per second and idle follower"),
        *plot(plots, "idle", "Memory of an idle follower", "idle followers", "KiB each", series, ordinal=True),
    ]


def join(figures: Figures, plots: Path) -> list[str]:
    values = ("cpu_ms", "wall_ms", "bytes_per_text_byte", "frames")
    rows = [
        [
            candidate.label,
            f"{events:,}",
            *(cell(figures.rounds(candidate.name, value, events=events)) for value in values),
        ]
        for candidate in CANDIDATES
        for events in figures.levels("events", [candidate])
    ]
    columns = ["", "events", "server CPU, ms", "until the end marker, ms", "bytes per byte of text", "frames"]
    series = figures.series("events", "cpu_ms")
    title, x, y = "CPU of a late join", "events in the journal", "ms of server CPU"
    return [
        "## Joining late",
        "",
        "Durable Streams' client reads what there is as one JSON array, before it follows.",
        "",
        *table(columns, rows),
        *plot(plots, "join", title, x, y, series, ordinal=True, log_y=True),
    ]


def turns(figures: Figures, plots: Path) -> list[str]:
    series = figures.series("history", "cpu_ms", full_label)
    title, x, y = "CPU of a short turn in a long session", "messages of history", "ms of CPU per turn"
    return [
        "## Short turns in long sessions",
        "",
        "Turns of 4 events, one after the other, in a session with so many messages before them. Gapless and ADK keep "
        "the history; Pydantic AI's adapters are sent it with every turn.",
        "",
        *by_agent(figures, "history", "turns_per_s", "turns per second by history"),
        *by_agent(figures, "history", "cpu_ms", "ms of CPU per turn"),
        *plot(plots, "turns", title, x, y, series, ordinal=True, log_y=True),
    ]


def length(figures: Figures, plots: Path) -> list[str]:
    series = figures.series("events", "cpu_us")
    title = "CPU per event by run length"
    return [
        "## Long runs",
        "",
        "One stream, unpaced; many short runs or one long one, the same number of events in all.",
        "",
        *by_agent(figures, "events", "cpu_us", "µs of CPU per event by run length"),
        *plot(plots, "length", title, "events in the run", "µs per event", series, ordinal=True),
    ]


GAPS = {
    "rest": "nothing",
    "join": f"a late join of {JOINED_EVENTS:,} events",
    "lists": f"lists of {LISTED} sessions with states of {STATE_BYTES // 1024} KiB, and of {ENDS:,} runs",
    "backup": "the store is backed up",
    "ends": f"{ENDS:,} runs end at once",
    "expire": f"{EXPIRED} runs of {EXPIRED_EVENTS * EXPIRED_EVENT_BYTES / 1e6:.0f} MB expire",
    "delete": f"a session with a run of {JOINED_EVENTS:,} events is deleted",
}
"""What is done meanwhile, in full; a quick run does a tenth."""


def gaps(figures: Figures, plots: Path) -> list[str]:
    measured = {row["params"]["while"] for row in figures.rows}
    subjects = [subject for subject in GAPS if subject in measured]
    stores = [BY_NAME[name] for name in dict.fromkeys(row["candidate"] for row in figures.rows)]
    rows = [
        [GAPS[subject]]
        + [
            cell(figures.rounds(candidate.name, value, **{"while": subject}))
            for candidate in stores
            for value in ("gap_ms", "held_ms")
        ]
        for subject in subjects
    ]
    columns = [f"{candidate.label}, {what}" for candidate in stores for what in ("ms", "ms of CPU")]
    return [
        "## What holds others up",
        "",
        "A run says a word every 5 ms, and is followed, in a process that does something large for somebody else on "
        "the same store. The longest pause that its follower sees beyond those 5 ms, and the most CPU that the process "
        "used between two words, which is what other work on the machine adds nothing to. A backup is `VACUUM INTO` of "
        "another process for SQLite, `BGSAVE` for Redis.",
        "",
        *table(["meanwhile", *columns], rows),
    ]


def elsewhere(figures: Figures, plots: Path) -> list[str]:
    values = ("median_ms", "p99_ms", "max_ms")
    rows = [
        [BY_NAME[row["candidate"]].label, *(cell(row["values"][value]) for value in values)] for row in figures.rows
    ]
    return [
        "## Seen in another process",
        "",
        "Twenty runs of one process, each at 50 events a second, followed in another: the time from the agent's yield "
        "to the follower, ms.",
        "",
        *table(["", "median", "p99", "at most"], rows),
    ]


def counts(figures: Figures, plots: Path) -> list[str]:
    rows = []
    for row in figures.rows:
        if "streams" not in row["params"]:
            continue
        candidate = BY_NAME[row["candidate"]]
        streams = row["params"]["streams"]
        cells = [full_label(candidate), str(streams)]
        for what in ("instructions", "lines"):
            above = [] if candidate.alone else goals.net(figures, candidate.name, streams, what)
            cells += [cell(row["values"].get(what, [])), cell(above)]
        rows.append(cells)
    return [
        "## Instructions",
        "",
        "In user space, per event, at 50 events a second and stream, counted by callgrind "
        "(`scripts/bench --only counts`). The clock of what is counted goes as much slower as callgrind makes it, so "
        "that events come in groups as they do without. Another machine, its neighbours and the hour change nothing "
        "here. The kernel is not in it.",
        "",
        f"Lines are of memory, {LINE_BYTES} bytes each, and those that are not in a simulated cache of "
        f"{CACHE_BYTES // 1024**2} MiB, as a core has for itself: they come from where all cores keep theirs, which "
        "takes as long as some hundred instructions. Where hundreds of runs take turns, what a run needs has left the "
        "core's own caches when its turn comes.",
        "",
        *table(
            ["", "streams", "instructions per event", "without the agent's", "lines per event", "without the agent's"],
            rows,
        ),
        *by_library(figures),
        *by_agent(figures, "followers", "instructions", "one run, instructions per event and follower by followers"),
    ]


def by_library(figures: Figures) -> list[str]:
    subjects = [row for row in figures.rows if "streams" in row["params"]]
    found = {name for row in subjects for name, of in row["values"].items() if name.startswith(IN) and of[0] >= 50}
    libraries = sorted(found, key=lambda name: -max(row["values"].get(name, [0])[0] for row in subjects))
    rows = [[name.removeprefix(IN), *(cell(row["values"].get(name, [])) for row in subjects)] for name in libraries]
    labels = [full_label(BY_NAME[row["candidate"]]) for row in subjects]
    return ["The same, by the library that they are in:", "", *table(["", *labels], rows)] if rows else []


def wires(figures: Figures, plots: Path) -> list[str]:
    rows = []
    for row in figures.rows:
        wire = row["params"].get("wire")
        label = f"Gapless, wire `{wire}`" if wire else full_label(BY_NAME[row["candidate"]])
        rows.append([label, cell(row["values"]["bytes_per_event"])])
    return ["## Bytes", "", "Of the body, per 4-character chunk, over 100 chunks.", "", *table(["", "bytes"], rows)]


def encoding(figures: Figures, plots: Path) -> list[str]:
    kinds = list(dict.fromkeys(row["params"]["text"] for row in figures.rows))
    cells: dict[str, list[str]] = {}
    for row in figures.rows:
        cells.setdefault(row["candidate"], []).append(cell(row["values"]["cpu_us"]))
    rows = [[f"wire `{wire}`", *found] for wire, found in cells.items()]
    lines = ["## Encoding", "", "One text delta, from the journal to a wire's frame: µs of CPU, by its script.", ""]
    return [*lines, *table(["", *kinds], rows)]


def checkpoints(figures: Figures, plots: Path) -> list[str]:
    values = ("save_us", "saves", "step_us", "unsaved_us", "alone_us")
    rows = [[CHECKPOINTED[row["candidate"]], *(cell(row["values"][value]) for value in values)] for row in figures.rows]
    columns = ["a save", "saves", "a step with its saves", "a step without", "a step, the framework alone"]
    return [
        "## Checkpoints",
        "",
        f"What lets another worker go on with a run: µs of CPU. A run takes {STEPS} steps, in each of which a model "
        "calls a tool; its `saves` are counted, and the cost of one is that of the last ones, where the turn has 20 "
        "messages and more. A step is one answer of the model with its tool's call, on a store in memory.",
        "",
        *table(["", *columns], rows),
    ]


CHECKPOINTED = {"pydantic-ai": "Pydantic AI", "adk": "ADK", "functions": "a function with `ctx.step`"}


def adapters(figures: Figures, plots: Path) -> list[str]:
    values = ("alone", "memory", "memory_ratio", "sqlite", "sqlite_ratio")
    rows = [
        [FRAMEWORKS[row["candidate"]].removesuffix(": "), *(cell(row["values"][value]) for value in values)]
        for row in figures.rows
    ]
    columns = ["", "the agent alone", "as a run, memory", "ratio", "as a run, SQLite", "ratio"]
    return [
        "## Adapters beside their frameworks",
        "",
        "µs of CPU per chunk of one agent: by its framework's own streaming, and as a run that is journaled and "
        "followed up to the frames of one client, in one process, without sockets. A process takes each in turns of "
        "1,000 chunks, and its ratio is the median of its turns' ratios, since what disturbs one turn disturbs all of "
        "it; the figures are of several such processes, one after another. Pydantic AI's and ADK's agents have a "
        "scripted model, LangGraph's is an agent of `create_agent` on one, OpenAI's one that asks a scripted service "
        "through OpenAI's own client, which is most of what it costs. Of all but LangGraph's, a run takes the model's "
        "deltas beside the framework's own events. What their servers and adapters cost over HTTP is in the tables "
        "above.",
        "",
        *table(columns, rows),
    ]


def imports(figures: Figures, plots: Path) -> list[str]:
    loaded = "".join(row["params"].get("imports", "") for row in figures.rows)
    rows = [
        [row["candidate"], cell(row["values"]["wall_ms"]), cell(row["values"]["cpu_ms"])]
        for row in figures.rows
        if "imports" not in row["params"]
    ]
    lines = ["## Import", "", "In a fresh interpreter, the bare interpreter subtracted.", ""]
    return [*lines, *table(["", "ms", "ms of CPU"], rows), f"Frameworks that `import gapless` loads: `{loaded}`.", ""]


def page(figures: Figures, plots: Path) -> list[str]:
    columns = {
        "frame_p50_ms": "frame p50, ms",
        "frame_p99_ms": "frame p99, ms",
        "frame_max_ms": "longest frame, ms",
        "late_frames": f"frames over {LATE_FRAME_MS:.0f} ms",
        "long_tasks": "long tasks",
        "long_task_max_ms": "longest, ms",
        "chars_per_s": "characters shown per second",
    }
    parts = {"task_ms_per_s": "all of it", "script_ms_per_s": "script", "layout_ms_per_s": "style and layout"}
    levels = figures.levels("chars")

    def rows(names: dict[str, str]) -> list[list[str]]:
        return [
            [f"{chars:,}", *(cell(figures.rounds("page", name, chars=chars)) for name in names)] for chars in levels
        ]

    series = []
    for color, (name, label) in enumerate(parts.items()):
        rounds = {chars: figures.rounds("page", name, chars=chars) for chars in levels}
        points = [Point(chars, statistics.median(of), min(of), max(of)) for chars, of in rounds.items() if of]
        series.append(Series(label, points, color))
    x, y = "characters of the answer", "ms of CPU per second"
    return [
        "## The chat page",
        "",
        f"Gapless's own page in headless Chromium, without a GPU, while a Markdown answer grows by {TOKENS_HZ:.0f} "
        "tokens a second and has so many characters already. A frame is the time between two calls of "
        "`requestAnimationFrame`, 16.7 ms at 60 a second; a long task blocks the page for more than 50 ms.",
        "",
        *table(["characters", *columns.values()], rows(columns)),
        "CPU of the page's main thread, as Chromium accounts for it, ms per second (painting is in all of it alone):",
        "",
        *table(["characters", *parts.values()], rows(parts)),
        *plot(plots, "page", "CPU of the chat page by length of the answer", x, y, series, ordinal=True),
    ]


def window(figures: Figures, plots: Path) -> list[str]:
    runs = max(figures.levels("runs"))
    rows = []
    for row in figures.rows:
        if row["params"]["runs"] == runs:
            ms = row["values"]["ms"]
            rows.append([row["params"]["what"], number(statistics.median(ms)), number(max(ms))])
    return [
        "## The window on what runs",
        "",
        f"In headless Chromium, without a GPU, beside {runs:,} runs in SQLite: from a click, or the last key, to the "
        "first frame in which its answer stands. A tenth of a second of what is typed is the pause in which more might "
        "be.",
        "",
        *table(["asked for", "median, ms", "at most"], rows),
    ]


def profile(figures: Figures, plots: Path) -> list[str]:
    subjects = [row for row in figures.rows if "function" not in row["params"]]
    layers = [layer for layer in profiling.ORDER if any(layer in row["values"] for row in subjects)]
    rows = [[layer, *(cell(row["values"].get(layer, [])) for row in subjects)] for layer in layers]
    rows.append(["**all of it**", *(cell(row["values"]["cpu_us"]) for row in subjects)])
    rows.append(["samples", *(cell(row["values"]["samples"]) for row in subjects)])
    loads = [
        full_label(BY_NAME[row["candidate"]]) + "".join(f", {n:,} {what}" for what, n in row["params"].items())
        for row in subjects
    ]
    costly = [row for row in figures.rows if row["params"].items() > {"streams": profiling.LISTED[1]}.items()]
    functions = [
        [f"`{row['params']['function']}`", cell(row["values"]["cpu_us"])]
        for row in costly
        if row["candidate"] == profiling.LISTED[0]
    ]
    return [
        "## Where the time goes",
        "",
        "µs per event (and follower). The CPU is counted without a profiler; right after, py-spy samples the same "
        "streams, and the CPU is shared out by its samples. A sample counts for the innermost Python function of one "
        "of these parts, with what it calls in C and in the standard library; the event loop's own code (uvloop) and "
        "the system calls on sockets, polling included, are apart. With few samples a small part is a rough figure.",
        "",
        *table(["", *loads], rows),
        f"The functions that cost most in “{full_label(BY_NAME[profiling.LISTED[0]])}”, {profiling.LISTED[1]} streams, "
        "with what they call outside these parts:",
        "",
        *table(["", "µs per event"], functions),
    ]


SECTIONS: dict[str, Callable[[Figures, Path], list[str]]] = {
    "profile": profile,
    "counts": counts,
    "throughput": throughput,
    "paced": paced,
    "ramp": ramp,
    "first-event": first_event,
    "short-run": short_run,
    "fanout": fanout,
    "idle": idle,
    "join": join,
    "turns": turns,
    "length": length,
    "page": page,
    "window": window,
    "gaps": gaps,
    "elsewhere": elsewhere,
    "wires": wires,
    "encoding": encoding,
    "adapters": adapters,
    "checkpoints": checkpoints,
    "import": imports,
}
"""By scenario, in the order of the report."""


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
        "Against Gapless with the memory journal (the bare floor left out). None of these peers but Durable Streams "
        "keeps a journal.",
        "",
        *lines,
        "",
    ]


def left_out(results: dict[str, Any]) -> list[str]:
    """Each reason once, with what it left out."""
    found: dict[str, list[str]] = {}
    for name, scenario in results["scenarios"].items():
        for candidate, why in scenario["skipped"].items():
            found.setdefault(why, []).append(f"{candidate} ({name})")
    lines = [f"* {', '.join(what)}: {why}" for why, what in found.items()]
    return ["## Not measured", "", *lines, ""] if lines else []


def repeat(results: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            scenario["commit"],
            scenario["when"],
            number(scenario["seconds"]),
            str(max((len(rounds) for row in scenario["rows"] for rounds in row["values"].values()), default=0)),
            f"{scenario['others_share']:.2f}" if scenario.get("others_share") is not None else "–",
        ]
        for name, scenario in results["scenarios"].items()
    ]
    columns = ["scenario", "commit", "measured", "seconds", "rounds", "cores used by others"]
    return [
        "## How to repeat",
        "",
        "`scripts/bench` measures all of this again, the instructions where valgrind is installed, in at most "
        f"{RUN_S_MAX // 60} minutes on a machine that does nothing else; `scripts/bench --quick` a part of it in 2 "
        "minutes. `--only ramp` measures one scenario, merged into the stored results. Each is stored when it is "
        "done: `--resume` goes on with a run that was interrupted, at the same commit. The first use also makes an "
        "environment with the pinned peers, and npm fetches Chromium for the page: about a minute more. The figures "
        "of every round are in [performance/results.json](performance/results.json).",
        "",
        *table(columns, rows),
    ]
