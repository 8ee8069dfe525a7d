"""The table of goals says what was missed, beside what, and why: out of the stored figures and nothing else."""

from __future__ import annotations

from typing import Any

from bench import goals


def row(candidate: str, params: dict[str, Any], **values: float | list[float]) -> dict[str, Any]:
    rounds = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {"candidate": candidate, "params": params, "values": rounds}


def results(**scenarios: list[dict[str, Any]]) -> dict[str, Any]:
    return {"scenarios": {name.replace("_", "-"): {"rows": rows} for name, rows in scenarios.items()}}


def paced(memory_us: float, p99_ms: float = 3) -> list[dict[str, Any]]:
    load = {"streams": 500}
    return [
        row("generator-alone", load, cpu_us=3),
        row("asgi", load, cpu_us=13.4),
        row("gapless-memory", load, cpu_us=memory_us, p99_ms=p99_ms),
    ]


def line_of(what: str, found: list[str]) -> str:
    return next(line for line in found if line.startswith("|") and what in line)


MEMORY = "the agent's share subtracted: memory"


def test_a_figure_is_a_multiple_of_the_floors_of_the_same_run() -> None:
    line = line_of(MEMORY, goals.section(results(paced=paced(14))))
    assert "| ≤ 1.35 × the floor | × 1.06 | met | 1 | 11.0 µs; the floor 10.4 |" in line


def test_a_figure_that_stands_for_itself_has_the_others_beside_it() -> None:
    first = [row("gapless-memory", {}, yield_ms=0.2), row("asgi", {}, yield_ms=0.1)]
    line = line_of("first event after the agent yields it (median): memory", goals.section(results(first_event=first)))
    assert "| ≤ 0.25 ms | 0.20 ms | met | 1 | the floor 0.10 (× 2.00) |" in line


def test_a_ratio_is_formed_within_each_round_and_the_median_of_them_is_judged() -> None:
    """The hour moves the floor and ours alike: in the second round all take twice as much."""
    load = {"streams": 500}
    rows = [
        row("generator-alone", load, cpu_us=[3, 6, 3]),
        row("asgi", load, cpu_us=[13, 26, 13]),
        row("gapless-memory", load, cpu_us=[15, 30, 23]),
        row("sse-starlette", load, cpu_us=33),
    ]
    line = line_of(MEMORY, goals.section(results(paced=rows)))
    # The ratio of the medians would be 2.00; the peer was measured in the first round alone.
    assert "| × 1.20 (1.20–2.00) | met | 3 | 20.0 µs; the floor 10.0; sse-starlette 30.0 (× 0.40) |" in line


def test_a_short_run_that_misses_its_goal_is_explained_by_counts() -> None:
    spent = [row("gapless-memory", {}, run_cpu_us=700), row("sse-starlette", {}, run_cpu_us=400)]
    ours = {"bytecodes: gapless: journals": 3000, "bytecodes: other": 20, "different bytecodes": 1500, "functions": 70}
    theirs = {"bytecodes: other": 2000, "different bytecodes": 900, "functions": 30}
    counted = [
        row("gapless-memory", {}, **ours, tasks=5),
        row("sse-starlette", {}, **theirs, tasks=4, pages=0),
    ]
    found = goals.section(results(first_event=spent, short_run=counted))
    (reason,) = [line for line in found if line.startswith("1. CPU of a short run")]
    mine = "a run of Gapless, memory takes 3,020 bytecodes, 1,500 different ones in 70 functions"
    assert f"{mine} (gapless: journals 3,000), tasks 5.00" in reason
    peer = "a run of sse-starlette takes 2,000 bytecodes, 900 different ones in 30 functions (other 2,000), tasks 4.00."
    assert peer in reason


def test_instructions_that_are_too_many_are_told_by_library() -> None:
    load = {"streams": 500}
    rows = [
        row("generator-alone", load, instructions=20_000, **{"in the interpreter": 20_000}),
        row("gapless-sqlite", load, instructions=54_000, **{"in the interpreter": 44_000, "in libsqlite3": 10_000}),
    ]
    found = goals.section(results(counts=rows))
    (reason,) = [line for line in found if line.startswith("1. instructions in user space")]
    assert "Gapless, SQLite, instructions per event: the interpreter 24,000, libsqlite3 10,000" in reason


def test_an_idle_process_that_misses_its_goal_says_how_often_it_is_woken() -> None:
    rows = [row("gapless-sqlite", {"runs": 1}, cpu_us_per_s=5000, wakes_per_s=41.2, writes_per_s=3)]
    found = goals.section(results(idle=rows))
    assert any("Gapless, SQLite is woken 41 times and writes 3 times a second" in line for line in found)


def test_few_streams_that_cost_too_much_are_explained_by_how_often_each_is_woken() -> None:
    load = {"streams": 25}
    rows = [
        row("gapless-memory", load, cpu_us=80, wakes=1.1, writes=1),
        row("sse-starlette", load, cpu_us=70, wakes=1.02, writes=1),
    ]
    (reason,) = [line for line in goals.section(results(paced=rows)) if line.startswith("1. CPU per event, 25 streams")]
    assert "Gapless, memory is woken 1.10 times and writes 1.00 times for each event" in reason
    assert "sse-starlette is woken 1.02 times" in reason


def test_nothing_is_judged_without_what_it_is_a_multiple_of() -> None:
    line = line_of(MEMORY, goals.section(results(paced=paced(14)[::2])))
    assert "| not measured |  |  |" in line


def test_instructions_are_counted_without_the_agents() -> None:
    load = {"streams": 500}
    rows = [row("generator-alone", load, instructions=20_000), row("gapless-memory", load, instructions=44_000)]
    line = line_of("instructions in user space per event", goals.section(results(counts=rows)))
    assert "| ≤ 25,000 | 24,000 | met | 1 |" in line


def test_a_missed_goal_is_explained_by_its_profile_and_the_floors() -> None:
    profile = [
        row(
            "gapless-memory",
            {"streams": 500},
            cpu_us=25,
            **{"gapless: journals": 4, "gapless: server": 3, "the kernel": 18},
        ),
        row("asgi", {"streams": 500}, cpu_us=14, **{"the kernel": 13.7, "the event loop": 0.3}),
    ]
    found = goals.section(results(paced=paced(26), profile=profile))
    assert "| × 2.21 | **missed** (1) | 1 | 23.0 µs;" in line_of(MEMORY, found)
    (reason,) = [line for line in found if line.startswith("1. ")]
    assert (
        "of the 25.0 µs in the profile, Gapless's own code takes 7.00 (journals 4.00, server 3.00), the kernel 18.0"
        in reason
    )
    assert (
        "of the 14.0 µs of bare ASGI (the floor) in the profile, the kernel 13.7." in reason
    )  # 0.3 is too little to say


def test_a_missed_goal_without_a_profile_says_so() -> None:
    assert any(
        "1. " in line and "no profile of it in this run" in line for line in goals.section(results(paced=paced(26)))
    )


def test_a_server_that_is_behind_has_met_nothing() -> None:
    line = line_of(MEMORY, goals.section(results(paced=paced(14, p99_ms=80))))
    assert "**not comparable**: p99 lateness 80.0 ms" in line


def test_a_frameworks_agent_is_shown_unpaced_and_paced_each_beside_its_own_load() -> None:
    unpaced, steady = {"streams": 10}, {"streams": 50}
    found = goals.section(
        results(
            throughput=[
                row("pydantic-ai-alone", unpaced, cpu_us=50),
                row("pydantic-ai-vercel", unpaced, cpu_us=100),
                row("pydantic-ai-gapless-memory", unpaced, cpu_us=40),
            ],
            paced=[
                row("pydantic-ai-alone", steady, cpu_us=70),
                row("pydantic-ai-vercel", steady, cpu_us=140),
                row("pydantic-ai-gapless-memory", steady, cpu_us=119),
            ],
        )
    )
    first, second = (line for line in found if line.startswith("| CPU per event, Pydantic AI agent, memory, all"))
    assert "| ≤ 0.9 × the agent alone | × 0.80 | met | 1 | 40.0 µs; the agent alone 50.0; its Vercel" in first
    assert "its Vercel adapter 100 (× 0.40) |" in first
    assert "| × 1.70 | **missed** (1) | 1 | 119 µs; the agent alone 70.0; its Vercel adapter 140 (× 0.85) |" in second
    assert any(line.startswith("1. ") and "the agent alone takes 70.0 of the 119 µs" in line for line in found)


def gaps(rest_ms: float, gap_ms: float) -> list[dict[str, Any]]:
    return [
        row("gapless-sqlite", {"while": "rest"}, gap_ms=rest_ms, held_ms=1),
        row("gapless-sqlite", {"while": "backup"}, gap_ms=gap_ms, held_ms=4),
    ]


def test_what_others_see_has_beside_it_what_they_see_of_nothing() -> None:
    backup = "others' longest gap while the store is backed up: sqlite"
    line = line_of(backup, goals.section(results(gaps=gaps(2, 8))))
    assert (
        "| ≤ 20.0 ms | 8.00 ms | met | 1 | with nothing meanwhile 2.00 (× 4.00); of CPU between two words 4.00" in line
    )
    assert "| 30.0 ms | **missed** (1) |" in line_of(backup, goals.section(results(gaps=gaps(2, 30))))
    found = goals.section(results(gaps=gaps(25, 30)))  # a busy machine says nothing of what was done
    assert "**not comparable**: others on the machine" in line_of(backup, found)
    assert not any("while the store is backed up: memory" in line for line in found)


def test_a_missed_fan_out_says_how_often_each_writes() -> None:
    load = {"followers": 1000}
    rows = [row("gapless-memory", load, cpu_us=9, writes=1), row("asgi", load, cpu_us=10, writes=0.97)]
    found = goals.section(results(fanout=rows))
    assert "| × 0.90 | **missed** (1) |" in line_of("fan-out to 1,000 followers", found)
    assert any("it writes 1.00 times for each event and follower, the floor 0.97" in line for line in found)
