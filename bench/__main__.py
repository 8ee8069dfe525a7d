"""`python -m bench`: measure, merge into the results, write the report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import osinfo, process, report
from bench.candidates import BY_NAME
from bench.harness import Results, Servers
from bench.scenarios import SCENARIOS, chosen, run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, smaller counts; writes to build/bench")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SCENARIO",
        choices=SCENARIOS,
        help="all: counts where valgrind and cc are installed; with --quick no counts and no pages",
    )
    parser.add_argument("--resume", action="store_true", help="leave out what the stored results have of this commit")
    parser.add_argument("--candidates", nargs="+", metavar="NAME", choices=BY_NAME, default=[])
    parser.add_argument(
        "--rounds", type=int, help="this many rounds, however long they take (5 of what a goal goes by; 1 with --quick)"
    )
    parser.add_argument("--report", action="store_true", help="write the report from the results at hand")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where performance.md and performance/ go (docs)")
    return parser.parse_args()


def measured_before(results: dict[str, Any], name: str, quick: bool) -> bool:
    """Whether the results have this scenario as it would be measured now. One that was interrupted left nothing."""
    stored = results["scenarios"].get(name, {})
    return stored.get("commit") == osinfo.commit(process.ROOT) and stored.get("quick") is quick


def main() -> int:
    options = arguments()
    out: Path = options.out or process.ROOT / ("build/bench" if options.quick else "docs")
    stored = out / "performance" / "results.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    results.setdefault("scenarios", {})
    if not options.report:
        results["machine"] = osinfo.machine()
        results["versions"] = osinfo.versions()

    def keep(name: str, measured: Results, began: float, others_s: float) -> None:
        seconds = time.monotonic() - began
        results["scenarios"][name] = {
            "when": datetime.now(UTC).isoformat(timespec="minutes"),
            "commit": osinfo.commit(process.ROOT),
            "quick": options.quick,
            "seconds": round(seconds, 1),
            "others_share": round(max(0.0, others_s / seconds), 2) if measured.others_known else None,
            "skipped": measured.skipped,
            "rows": list(measured.rows.values()),
        }
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    if not options.report:
        with ExitStack() as stack:
            shared = Servers(stack)
            for name in options.only or chosen(options.quick):
                if options.resume and measured_before(results, name, options.quick):
                    continue
                began = time.monotonic()
                print(f"{name} …", file=sys.stderr, flush=True)
                with ExitStack() as own:
                    # A quick run saves the time of starting them again; else none meets another's leftovers.
                    servers = shared if options.quick else Servers(own)
                    before_s = osinfo.busy_s() - osinfo.own_s() - servers.cpu_s()
                    measured = run(name, options.quick, options.rounds, options.candidates, servers)
                    others_s = osinfo.busy_s() - osinfo.own_s() - servers.cpu_s() - before_s
                    keep(name, measured, began, others_s)
                print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr)
    written = report.write(results, out)
    print(f"report: {written}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
