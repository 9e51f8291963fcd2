"""What charts are drawn from: points that add up, however often they were thinned."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.model import timeline as series
from rumpx.model.counts import Counts
from rumpx.model.snapshot import Held, Snapshot
from rumpx.model.timeline import Point, Recorder, held_seconds, joined, thinned
from support.snapshots import make_snapshot

BEGAN = 1_700_000_000.0
latencies = st.one_of(st.none(), st.floats(0, 1))
lengths = st.dictionaries(st.sampled_from(["source latency", "pause"]), st.floats(0.1, 2))


@st.composite
def many_points(draw: st.DrawFn) -> list[Point]:
    """Points of several runs, one after the other."""
    points: list[Point] = []
    elapsed, run = 0.0, 1
    for _ in range(draw(st.integers(0, 30))):
        seconds = draw(st.floats(0.01, 4))
        elapsed += seconds
        run += draw(st.booleans()) and draw(st.booleans())
        numbers = draw(st.tuples(st.integers(0, 10**6), st.integers(0, 10**9)))
        points.append(
            Point(
                run,
                BEGAN + elapsed,
                elapsed,
                seconds,
                *numbers,
                draw(latencies),
                draw(latencies),
                draw(lengths),
            )
        )
    return points


def snapshot(elapsed: float, keys: int, held: Held | None = None, **changes: Any) -> Snapshot:
    return make_snapshot(
        elapsed=elapsed,
        work=Counts(copied=keys, payload_bytes=10 * keys),
        held=held or Held(),
        **changes,
    )


def highest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


@given(many_points())
def test_thinned_points_say_the_same_in_fewer_words(points: list[Point]) -> None:
    fewer = thinned(points)

    runs = {point.run for point in points}
    assert len(fewer) <= (len(points) + len(runs)) / 2
    for run in runs:
        before = [point for point in points if point.run == run]
        after = [point for point in fewer if point.run == run]
        for name in ("keys", "payload_bytes"):
            assert sum(getattr(p, name) for p in after) == sum(getattr(p, name) for p in before)
        assert sum(p.seconds for p in after) == pytest.approx(sum(p.seconds for p in before))
        for name in ("source_latency", "target_latency"):
            peaks = [highest([getattr(p, name) for p in some]) for some in (before, after)]
            assert peaks[0] == peaks[1]
        assert after[-1].elapsed == before[-1].elapsed and after[-1].at == before[-1].at
    assert held_seconds(fewer) == pytest.approx(held_seconds(points))


def test_joined_latencies_keep_the_peak() -> None:
    one = Point(1, 1.0, 1.0, 1.0, 5, 50, 0.002, None, {"pause": 0.5})
    two = Point(1, 2.0, 2.0, 1.0, 7, 70, 0.009, 0.001)

    both = joined(one, two)

    assert both == Point(1, 2.0, 2.0, 2.0, 12, 120, 0.009, 0.001, {"pause": 0.5})
    assert both.keys_per_second == 6 and both.bytes_per_second == 60


def test_a_point_a_second_with_what_came_before_the_first_snapshot() -> None:
    recorder = Recorder()
    for tick in range(1, 21):
        held = Held("", source_latency=0.001 * tick, seconds={"pause": 0.1 * tick})
        recorder.see(snapshot(tick / 4, 100 * tick, held), BEGAN + tick / 4)
    recorder.see(snapshot(5.6, 2010), BEGAN + 5.6)
    recorder.finish(BEGAN + 5.6)

    assert [point.elapsed for point in recorder.points] == [1, 2, 3, 4, 5, 5.6]
    assert [point.keys for point in recorder.points] == [400] * 5 + [10]
    assert recorder.points[0].payload_bytes == 4000
    assert recorder.points[1].source_latency == 0.008, "the highest since the point before"
    assert recorder.points[1].held == pytest.approx({"pause": 0.4})
    assert recorder.points[-1].seconds == pytest.approx(0.6)


@pytest.mark.parametrize("taken", [False, True])
def test_a_rest_too_short_for_a_rate_joins_the_point_before_it(taken: bool) -> None:
    recorder = Recorder()
    for tick in range(1, 3):
        recorder.see(snapshot(tick, 100 * tick), BEGAN + tick)
    before = recorder.take()[1] if taken else ()
    recorder.see(snapshot(2.02, 290), BEGAN + 2.02)
    recorder.finish(BEGAN + 2.02)

    assert [(point.elapsed, point.keys) for point in recorder.points] == [(1, 100), (2.02, 190)]
    assert (len(before), recorder.take()) == (2 * taken, (True, tuple(recorder.points)))


def test_a_point_in_which_the_machine_stood_still_does_not_make_all_others_long() -> None:
    before = [Point(1, BEGAN, float(n), 1.0, 5, 50) for n in range(1, 9)]
    before.append(Point(1, BEGAN, 708.0, 700.0, 5, 50))
    recorder = Recorder(2, before, 708.0, Counts(copied=1000))
    for tick in range(1, 5):
        recorder.see(snapshot(708.0 + tick, 1000 + tick), BEGAN + tick)
    assert [point.seconds for point in recorder.points[len(before) :]] == [1] * 4


def test_a_short_run_is_not_joined_to_another() -> None:
    recorder = Recorder(2, [Point(1, BEGAN, 10.0, 1.0, 5, 50)], 10.0, Counts(copied=1000))
    recorder.see(snapshot(10.1, 1100), BEGAN + 500)
    recorder.finish(BEGAN + 500)
    assert [point.run for point in recorder.points] == [1, 2]


def test_a_run_that_goes_on_counts_from_where_it_begins() -> None:
    before = Point(1, BEGAN, 10.0, 1.0, 5, 50)
    recorder = Recorder(2, [before], 10.0, Counts(copied=1000))

    recorder.see(snapshot(11.0, 1100), BEGAN + 500)

    assert recorder.points[0] == before
    assert (recorder.points[1].run, recorder.points[1].keys) == (2, 100)
    assert recorder.take() == (False, (recorder.points[1],))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_whoever_takes_points_has_them_all(steps: list[int]) -> None:
    """Also when they were thinned meanwhile: what is kept elsewhere is then replaced."""
    most, series.MOST_POINTS = series.MOST_POINTS, 16
    try:
        recorder = Recorder()
        elsewhere: list[Point] = []
        elapsed = 0.0
        for step in steps:
            for _ in range(step):
                elapsed += 1.0
                recorder.see(snapshot(elapsed, int(10 * elapsed)), BEGAN + elapsed)
            anew, points = recorder.take()
            elsewhere = [*([] if anew else elsewhere), *points]
            assert elsewhere == recorder.points
            assert len(recorder.points) < 16
    finally:
        series.MOST_POINTS = most
    closed = recorder.points[-1].elapsed if recorder.points else 0
    assert sum(point.keys for point in recorder.points) == int(10 * closed)


def test_points_stay_as_long_when_a_long_job_goes_on() -> None:
    """Or a week's job that is resumed would be thinned again and again."""
    recorder = Recorder(2, [Point(1, BEGAN, 8.0 * n, 8.3, 5, 50) for n in range(1, 10)], 80.0)

    for tick in range(1, 33):
        recorder.see(snapshot(80.0 + tick, tick), BEGAN)

    assert [point.seconds for point in recorder.points[9:]] == [8.0] * 4
