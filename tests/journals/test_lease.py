"""A worker is dead when its beat has stood still for a lease of the watcher's own time, and never otherwise."""

from __future__ import annotations

from gapless.journals.lease import LeaseWatch
from tests.journals.conformance import Clock


def test_a_beat_that_stands_still_for_a_lease_expires() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    for beat in range(3):
        assert watch.expired({"live": beat, "dead": 7}, 10) == []
        clock.now += 4
    assert watch.expired({"live": 3, "dead": 7}, 10) == ["dead"]


def test_a_beat_that_moves_again_starts_its_lease_anew() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    for beat in (1, 1, 2, 2, 2):
        assert watch.expired({"slow": beat}, 10) == []
        clock.now += 4
    assert watch.expired({"slow": 2}, 10) == ["slow"]


def test_a_worker_seen_for_the_first_time_has_a_whole_lease() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    for _ in range(20):
        assert watch.expired({}, 10) == []
        clock.now += 4
    assert watch.expired({"new": 0}, 10) == []


def test_a_watcher_that_slept_trusts_little_of_what_it_saw() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    watch.expired({"other": 1}, 10)
    clock.now += 1000
    assert watch.expired({"other": 1}, 10) == []
    for _ in range(2):
        clock.now += 4
        assert watch.expired({"other": 1}, 10) == []
    clock.now += 4
    assert watch.expired({"other": 1}, 10) == ["other"]


def test_a_watcher_that_is_always_late_sees_the_dead_in_the_end_and_the_living_never() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    found = []
    for beat in range(20):
        found.append(watch.expired({"live": beat // 2, "dead": 7}, 10))
        clock.now += 6
    assert [["dead"] if at >= 8 else [] for at in range(20)] == found


def test_a_worker_that_left_and_came_back_is_new() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    watch.expired({"other": 1}, 10)
    for beats in ({}, {"other": 1}, {"other": 1}):
        clock.now += 4
        assert watch.expired(beats, 10) == []
