"""Progress: its figures, and how it writes them."""

from __future__ import annotations

import io

from gapless.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_counts_chunks_characters_and_speed() -> None:
    clock = Clock()
    progress = Progress(io.StringIO(), clock=clock)
    for piece in ("Hello", "", " world"):
        clock.now += 2.0
        progress.add(piece)
    assert (progress.chunks, progress.characters, progress.first_s) == (2, 11, 2.0)
    assert progress.elapsed_s == 6.0
    assert progress.characters_per_s == 11 / 6


def test_writes_at_most_one_line_per_interval_and_a_summary() -> None:
    clock, file = Clock(), io.StringIO()
    progress = Progress(file, every_s=1.0, clock=clock)
    for _ in range(10):
        clock.now += 0.25
        progress.add("four")
    progress.finish()
    lines = file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["4 chunks", "8 chunks", "10 chunks"]
    assert lines[-1] == "10 chunks, 40 characters, 2.5 s, 16 characters/s, first after 0.25 s"


def test_rewrites_one_line_on_a_terminal() -> None:
    clock, file = Clock(), Terminal()
    progress = Progress(file, every_s=1.0, clock=clock)
    for _ in range(2):
        clock.now += 1.0
        progress.add("text")
    progress.finish()
    assert file.getvalue().count("\n") == 1
    assert file.getvalue().count("\r") == 3


def test_the_clock_stops_at_the_end_and_the_summary_comes_once() -> None:
    clock, file = Clock(), io.StringIO()
    progress = Progress(file, every_s=None, clock=clock)
    progress("a sink is called")
    clock.now += 1.0
    summary = progress.finish()
    clock.now += 60.0
    assert progress.finish() == summary
    assert file.getvalue() == summary + "\n"
    assert progress.elapsed_s == 1.0


def test_nothing_is_divided_by_zero() -> None:
    progress = Progress(io.StringIO(), clock=Clock())
    assert progress.finish() == "0 chunks, 0 characters, 0.0 s, 0 characters/s"
