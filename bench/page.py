"""The chat page in a real Chromium: does it stay smooth while a long answer grows?"""

from __future__ import annotations

import json
import statistics
from typing import Any

from bench import process
from bench.agents import prose
from bench.candidates import Candidate
from bench.harness import Bench, MeasurementFailed
from bench.node import install, node, ran

PAGE = Candidate("page", "the chat page", "writer", "gapless", "gapless_app", {"agent": "writer", "store": "memory"})
LENGTHS = (1_000, 10_000, 100_000)
"""Characters that the answer has already when the counting begins."""
TOKENS_HZ = 200.0
LATE_FRAME_MS = 50.0
"""Three frames of 60 a second: a pause that one sees."""
SETTLE_S = 0.5
MEASURE_S_MAX = 400
TESTS = process.ROOT / "tests" / "page"
FOLDER = process.ROOT / "build" / "bench-page"
"""Where npm puts Chromium and its driver, with the packages that the page's own tests pin."""


def page(bench: Bench) -> None:
    """Frames, long tasks and CPU of the page's main thread at 200 tokens a second, by the length of the answer."""
    window_s = 1.5 if bench.quick else 4.0
    lengths = (LENGTHS[0], LENGTHS[-1]) if bench.quick else LENGTHS
    bench.results.others_known = False  # Chromium's processes end as nobody's children

    def measure(candidate: Candidate) -> None:
        found, npm = node()
        install(FOLDER, [TESTS / "package.json", TESTS / "browser.mjs", process.ROOT / "bench" / "page.mjs"], npm)
        server = bench.server(candidate)
        # The page is still there when the counting ends.
        n = int(TOKENS_HZ * (SETTLE_S + window_s + 10))
        levels = [{"chars": chars, "message": prose(chars, n, TOKENS_HZ)} for chars in lengths]
        spec = {
            "url": f"http://127.0.0.1:{server.port}/",
            "levels": levels,
            "settle_ms": SETTLE_S * 1e3,
            "window_ms": window_s * 1e3,
        }
        for level in json.loads(ran([found, "page.mjs"], FOLDER, json.dumps(spec), MEASURE_S_MAX))["results"]:
            bench.results.add(candidate.name, {"chars": level["chars"]}, **figures(level))

    bench.alternate([] if bench.wanted else [PAGE], measure)


def figures(level: dict[str, Any]) -> dict[str, float]:
    """What is kept of one length. Raises `MeasurementFailed` when the page failed or the answer stood still."""
    if level["errors"] or level["grown"] <= 0:
        raise MeasurementFailed(f"the page failed at {level['chars']} characters: {level['errors'][:2]}")
    frames, seconds = sorted(level["frames_ms"]), level["seconds"]
    return {
        "chars_per_s": level["grown"] / seconds,
        "frame_p50_ms": statistics.median(frames),
        "frame_p99_ms": frames[min(len(frames) - 1, len(frames) * 99 // 100)],
        "frame_max_ms": frames[-1],
        "late_frames": sum(frame > LATE_FRAME_MS for frame in frames),
        "long_tasks": len(level["long_tasks_ms"]),
        "long_task_max_ms": max(level["long_tasks_ms"], default=0.0),
        "task_ms_per_s": level["task_s"] / seconds * 1e3,
        "script_ms_per_s": level["script_s"] / seconds * 1e3,
        "layout_ms_per_s": level["layout_s"] / seconds * 1e3,
    }
