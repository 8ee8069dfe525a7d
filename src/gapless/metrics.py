"""What a worker counts: plain numbers, cheap enough for the hot path, put into Prometheus' form when asked for.

Nothing is counted per event that can be counted per group, per run or per connection. Several workers of one server
answer for all: where `PROMETHEUS_MULTIPROC_DIR` names a folder, prometheus_client's multiprocess mode keeps a file for
each of them there. Writing to those costs more than counting does, so what has changed is written now and then.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapless.errors import ExtraMissing
from gapless.records import ModelUsage

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["FOLDER_VARIABLE", "Histogram", "Metrics", "shared"]

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder of the workers' files. prometheus_client reads it when it is imported."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_EVENTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0, 20_000.0, 100_000.0)


MODELS_MAX = 500
"""Pairs of an agent and a model that are counted each for itself."""
_KINDS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_input_tokens",
    "cache_write": "cache_write_input_tokens",
    "reasoning": "reasoning_tokens",
}
"""Of tokens. Those in the cache are input too, those of reasoning output."""


class Histogram:
    """Counts of observations by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus' cumulative buckets."""
        found, count = [], 0
        for bound, here in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            count += here
            found.append((bound, float(count)))
        return found


class Metrics:
    """One worker's counts since it started."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], int] = {}
        """Ended runs by agent and outcome: finished, cancelled, or the code of the error."""
        self.tokens: dict[tuple[str, str, str], int] = {}
        """Tokens of ended runs by agent, model and kind."""
        self.requests: dict[tuple[str, str], int] = {}
        """Calls of models in ended runs, by agent and model."""
        self.notices: dict[str, int] = {}
        """Attempts to tell of runs by outcome: delivered, retried, failed."""
        self.runs_active = 0
        self.runs_taken_over = 0
        """Runs of lost workers that this one closed or restarted."""
        self.leases_lost = 0
        self.first_event_s = Histogram(_SECONDS)
        """From a run's start to its agent's first event."""
        self.event_gap_s = Histogram(_SECONDS)
        """The longest pause between accepted events, per run."""
        self.append_s = Histogram(_SECONDS)
        """One group of appends, from handing it to the store to its acceptance."""
        self.events_accepted = 0
        self.store_failures = 0
        self.followers = 0
        self.follower_lag = Histogram(_EVENTS)
        """How many events a follower was behind, each time that it read on from behind."""
        self.events_merged = 0
        """Events that went out as part of another's frame while a follower caught up."""
        self.reconnects = 0
        """Followers that came with a cursor."""
        self._published: dict[tuple[object, ...], float] = {}

    def notice_tried(self, outcome: str) -> None:
        """Count an attempt to tell of a run."""
        self.notices[outcome] = self.notices.get(outcome, 0) + 1

    def run_ended(self, agent: str, outcome: str, usage: Iterable[ModelUsage] = ()) -> None:
        """Count a run that has ended, and what it took."""
        key = (agent, outcome)
        self.runs[key] = self.runs.get(key, 0) + 1
        self._count_usage(agent, usage)

    def _count_usage(self, agent: str, usage: Iterable[ModelUsage]) -> None:
        """Of models that are many (a name of the client's choice is one) the rest is one series."""
        for one in usage:
            model = one.model or "unknown"
            if (agent, model) not in self.requests and len(self.requests) >= MODELS_MAX:
                model = "other"
            self.requests[agent, model] = self.requests.get((agent, model), 0) + one.requests
            for kind, field in _KINDS.items():
                if count := getattr(one, field):
                    key = (agent, model, kind)
                    self.tokens[key] = self.tokens.get(key, 0) + count

    def exposition(self) -> tuple[bytes, str]:
        """Prometheus' text and its content type; with `shared`, of all workers together. Raises `ExtraMissing`."""
        try:
            from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        except ModuleNotFoundError as error:
            raise ExtraMissing("/metrics needs a package: pip install 'gapless[metrics]'") from error
        registry = CollectorRegistry()
        if shared():
            self.publish()
            registry.register(_AllWorkers())
        else:
            registry.register(_Collector(self))
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def publish(self) -> None:
        """Add what has changed since the last time to this worker's files; only where these are `shared`."""
        for family in _Collector(self).collect():
            below = 0.0
            for sample in family.samples:
                value = sample.value
                if family.type == "histogram" and sample.name.endswith("_count"):
                    continue  # made of the buckets, which are apart in the files
                if "le" in sample.labels:
                    value, below = value - below, value
                labels = tuple(sample.labels.items())
                key = (family.type, family.name, sample.name, labels, family.documentation)
                change = value - self._published.get(key, 0.0)
                if change or key not in self._published:
                    _value(*key).inc(change)
                    self._published[key] = value


def shared() -> bool:
    """Return whether the workers' numbers are added up."""
    return bool(os.environ.get(FOLDER_VARIABLE)) and importlib.util.find_spec("prometheus_client") is not None


class _AllWorkers:
    """What the workers' files say together."""

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.multiprocess import MultiProcessCollector

        files = []
        for path in Path(os.environ[FOLDER_VARIABLE]).glob("*.db"):
            with contextlib.suppress(FileNotFoundError):  # of a worker that is gone
                if path.stat().st_size:  # one that a worker has only just made is an error to the package
                    files.append(str(path))
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # left untyped
        return merged


@functools.cache
def _value(kind: str, family: str, name: str, labels: tuple[tuple[str, str], ...], help: str) -> Any:
    """Return one number in this process's files, whichever runners it has. Counters of workers that are gone stay, or
    the sum would go back; their gauges go with them.
    """
    from prometheus_client.values import ValueClass

    names, values = [name for name, _ in labels], [value for _, value in labels]
    return ValueClass(kind, family, name, names, values, help, multiprocess_mode="livesum")


class _Collector:
    """Puts the numbers into Prometheus' families."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        metrics = self._metrics
        runs = CounterMetricFamily("gapless_runs", "Ended runs by outcome.", labels=("agent", "outcome"))
        for (agent, outcome), count in metrics.runs.items():
            runs.add_metric((agent, outcome), count)
        yield runs
        tokens = CounterMetricFamily("gapless_tokens", "Tokens of ended runs.", labels=("agent", "model", "kind"))
        for (agent, model, kind), count in metrics.tokens.items():
            tokens.add_metric((agent, model, kind), count)
        yield tokens
        requests = CounterMetricFamily("gapless_model_requests", "Calls of models.", labels=("agent", "model"))
        for (agent, model), count in metrics.requests.items():
            requests.add_metric((agent, model), count)
        yield requests
        notices = CounterMetricFamily("gapless_notices", "Attempts to tell of runs by outcome.", labels=("outcome",))
        for outcome, count in metrics.notices.items():
            notices.add_metric((outcome,), count)
        yield notices
        yield GaugeMetricFamily("gapless_runs_active", "Runs being executed.", metrics.runs_active)
        yield GaugeMetricFamily("gapless_followers", "Open event streams.", metrics.followers)
        for name, text, count in (
            ("gapless_runs_taken_over", "Runs of lost workers closed or restarted.", metrics.runs_taken_over),
            ("gapless_leases_lost", "Times that a worker lost its lease.", metrics.leases_lost),
            ("gapless_events_accepted", "Events that the store has accepted.", metrics.events_accepted),
            ("gapless_events_merged", "Events joined to others for followers behind.", metrics.events_merged),
            ("gapless_reconnects", "Followers that came with a cursor.", metrics.reconnects),
            ("gapless_store_failures", "Appends that the store refused for the time being.", metrics.store_failures),
        ):
            yield CounterMetricFamily(name, text, count)
        for name, text, histogram in (
            ("gapless_first_event_seconds", "From a run's start to its agent's first event.", metrics.first_event_s),
            ("gapless_event_gap_seconds", "The longest pause between events, per run.", metrics.event_gap_s),
            ("gapless_store_append_seconds", "One group of appends to the store.", metrics.append_s),
            ("gapless_follower_lag_events", "How far followers were behind when they read on.", metrics.follower_lag),
        ):
            yield HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.total)
