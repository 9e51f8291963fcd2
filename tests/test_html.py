"""The report, as a page and in a terminal, of made-up records, and looked at in a browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rumpx.errors import UsageError, printable
from rumpx.files import check_writable, write_text
from rumpx.model.content import SizeCount
from rumpx.model.history import Record
from rumpx.model.job import Limits
from rumpx.model.results import KeyFailure, Summary
from rumpx.model.timeline import Point, held_seconds
from rumpx.report import headline as facts
from rumpx.report.html import render_html
from rumpx.report.latencies import latencies
from rumpx.report.scales import (
    BRIEF,
    Axis,
    binned,
    extent,
    powers,
    size_groups,
    ticks,
    time_ticks,
)
from rumpx.report.sections import (
    EXAMPLES_SHOWN,
    NOT_RECORDED,
    NOTHING_HELD,
    Table,
    examples,
    sections,
)
from rumpx.report.tables import _table, render_record
from rumpx.text import legible
from support import records
from support.browser import Seen, Watched, open_browser, opened, overlaps

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RECORDS = dict(records.all_records())
PAGES = {name: render_html(record) for name, record in RECORDS.items()}
every = pytest.mark.parametrize("name", RECORDS)
BEGAN = records.BEGAN


def series(*values: tuple[int, float, int, float | None]) -> list[Point]:
    """Points of (run, seconds, keys, source latency)."""
    found, elapsed = [], 0.0
    for run, seconds, keys, latency in values:
        elapsed += seconds
        held = {"pause": seconds / 2}
        found.append(
            Point(run, BEGAN + elapsed, elapsed, seconds, keys, 10 * keys, latency, None, held)
        )
    return found


def terminal(record: Record, width: int, **options: bool) -> str:
    file = StringIO()
    Console(file=file, width=width, highlight=False, **options).print(  # type: ignore[arg-type]
        render_record(record)
    )
    return file.getvalue()


# The arithmetic of charts


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.floats(0.1, 4),
            st.integers(0, 10**6),
            st.one_of(st.none(), st.floats(0, 1)),
        ),
        max_size=80,
    ),
    st.integers(1, 20),
)
def test_bins_add_up_and_keep_the_highest(
    values: list[tuple[int, float, int, float | None]], most: int
) -> None:
    points = series(*sorted(values, key=lambda value: value[0]))
    bins = binned(points, most)

    runs = len({point.run for point in points})
    assert len(bins) <= most + max(0, runs - 1)
    assert sum(point.keys for point in bins) == sum(point.keys for point in points)
    assert sum(point.seconds for point in bins) == pytest.approx(sum(p.seconds for p in points))
    assert held_seconds(bins) == pytest.approx(held_seconds(points))
    known = [point.source_latency for point in points if point.source_latency is not None]
    kept = [point.source_latency for point in bins if point.source_latency is not None]
    assert max(kept, default=None) == max(known, default=None)
    for run in {point.run for point in points}:
        assert sum(p.keys for p in bins if p.run == run) == sum(
            p.keys for p in points if p.run == run
        )


def test_few_points_are_left_alone() -> None:
    points = series((1, 1.0, 5, None), (2, 1.0, 6, 0.1))
    assert binned(points, 2) == points


def test_3600_points_become_600() -> None:
    bins = binned(series(*[(1, 2.0, 12, None)] * 3600))
    assert len(bins) == 600
    assert {point.keys_per_second for point in bins} == {6.0}


@pytest.mark.parametrize(
    ("top", "most", "expected"),
    [
        (1.0, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (7, 5, [0, 2, 4, 6, 8]),
        (8_759, 5, [0, 2000, 4000, 6000, 8000, 10_000]),
        (50, 5, [0, 10, 20, 30, 40, 50]),
        (51, 5, [0, 20, 40, 60]),
        (101, 3, [0, 50, 100, 150]),
    ],
)
def test_ticks_are_round(top: float, most: int, expected: list[float]) -> None:
    assert ticks(top, most) == pytest.approx(expected)


@given(st.floats(1e-3, 1e15), st.integers(1, 9))
def test_ticks_reach_the_top_in_few_steps(top: float, most: int) -> None:
    marks = ticks(top, most)
    assert marks[0] == 0
    assert len(marks) <= most + 1
    assert marks[-1] >= top * (1 - 1e-8)
    assert marks[-2] < top
    assert re.fullmatch(r"[125]\.0e[+-]\d+", f"{marks[1]:.1e}")


@given(st.floats(1e-3, 1e3), st.floats(1e-4, 1e7), st.floats(0, 1e8), st.floats(0, 1e8))
def test_an_axis_of_powers(least: float, top: float, low: float, high: float) -> None:
    marks = powers(least, top)
    assert len(marks) >= 2 and marks[0] <= least * 1.01 and marks[-1] >= top * 0.99
    axis = Axis(marks, powers=True)
    places = [axis.place(mark) for mark in marks]
    steps = [b - a for a, b in pairwise(places)]
    assert (places[0], places[-1]) == (0, 1) and steps == pytest.approx([steps[0]] * len(steps))
    low, high = sorted((low, high))
    assert 0 <= axis.place(low) <= axis.place(high) <= 1


@pytest.mark.parametrize(
    ("total", "most", "expected"),
    [
        (0.5, 5, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (94, 8, [0, 15, 30, 45, 60, 75, 90]),
        (3720, 8, [600 * n for n in range(7)]),
        (3720, 4, [0, 1800, 3600]),
        (7 * 86_400, 4, [0, 2 * 86_400, 4 * 86_400, 6 * 86_400]),
    ],
)
def test_time_ticks_are_round_times(total: float, most: int, expected: list[float]) -> None:
    assert time_ticks(total, most) == pytest.approx(expected)


@given(st.floats(1e-3, 1e8), st.integers(4, 9))
def test_time_ticks_are_few_and_within(total: float, most: int) -> None:
    marks = time_ticks(total, most)
    assert 1 <= len(marks) <= most + 1
    assert marks[-1] <= max(total, BRIEF)
    if total >= BRIEF:
        assert len(marks) >= 2


def test_sizes_are_grouped_from_the_least_to_the_largest() -> None:
    sizes = [SizeCount(1 << n, (2 << n) - 1, n) for n in (3, 4, 10, 28)]
    groups = size_groups(sizes)
    assert len(groups) <= 12
    assert sum(group.keys for group in groups) == 45
    assert groups[0].least <= 8 and groups[-1].most >= (2 << 28) - 1
    for before, group in pairwise(groups):
        assert group.least == before.most + 1
    assert size_groups(sizes[:1]) == sizes[:1]
    assert size_groups([]) == []
    assert extent(SizeCount(256, 2047, 1)) == "256 B to 2.0 kB"


# What is said


@pytest.mark.parametrize(
    ("name", "tone", "word", "command"),
    [
        ("plain", "good", "Done", ""),
        ("throttled", "bad", "Done, but the sides differ", "rumpx verify nightly --repair"),
        ("long", "bad", "Done, except for failed keys", "rumpx resume nightly --retry-failed"),
        ("running", "busy", "Running", ""),
        ("killed", "warn", "Killed", "rumpx resume nightly"),
        ("stopped", "warn", "Stopped", "rumpx resume nightly"),
        ("failed", "bad", "Failed", "rumpx resume nightly"),
        ("comparison", "bad", "The sides differ", ""),
    ],
)
def test_verdicts(name: str, tone: str, word: str, command: str) -> None:
    verdict = facts.reckoned(RECORDS[name])
    assert (verdict.tone, verdict.word, verdict.command) == (tone, word, command)


def test_a_target_that_falls_short_is_not_done_well() -> None:
    record = RECORDS["brief"]
    assert isinstance(record.summary, Summary)
    short = replace(record, summary=replace(record.summary, missing=7))
    assert facts.reckoned(short).word == "Done, but the target falls short"
    assert any("falls short by 7" in figure.note for figure in facts.figures(short))


def test_a_sample_is_no_proof_of_the_whole() -> None:
    then = replace(records.verification_of(39), sample="39 of 4,503 keys")
    record = replace(RECORDS["plain"], verification=then)
    assert "compared a sample of 39 keys" in facts.reckoned(record).notes[0]
    assert facts.figures(record)[-1].tone == ""
    alone = facts.reckoned(replace(RECORDS["comparison"], summary=then))
    assert (alone.tone, alone.word) == ("", "The sample is equal")


def test_keys_that_could_not_be_compared_are_told_first() -> None:
    equal = records.verification_of(39)
    then = replace(equal, exit_code=3, counts=replace(equal.counts, failed=7))
    record = replace(RECORDS["plain"], verification=then)
    verdict = facts.reckoned(record)
    assert (verdict.tone, verdict.word) == ("warn", "Done, but not all could be compared")
    assert verdict.command.startswith("rumpx verify ")
    (code,) = [entry.text for entry in facts.head(record) if entry.label == "exit code"]
    assert code == "0, then 3 of the comparison"


def test_a_failure_is_told_by_its_error() -> None:
    verdict = facts.reckoned(RECORDS["failed"])
    assert verdict.sentence.startswith("The target cache.prod.example.com:6380 is out of memory")
    assert verdict.notes == ("Copied 5,825,292 keys in 7:00.",)


def test_examples_are_of_every_reason() -> None:
    failures = [KeyFailure(0, b"%d" % n, "often", "") for n in range(100)]
    failures += [KeyFailure(0, b"%d" % n, "rarely", "") for n in range(3)]
    shown = examples(failures)
    assert len(shown) == EXAMPLES_SHOWN
    assert shown == [*failures[:47], *failures[100:]]
    assert examples(failures[:4]) == failures[:4]


def test_times_held_and_not_held() -> None:
    table, _ = next(s for s in sections(RECORDS["throttled"]) if s.name == "pace").tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["source latency", "timetable", NOTHING_HELD]
    assert rows["timetable"] == ("4:09", "6.6 %")
    assert sum(table.shares) == pytest.approx(1, abs=0.01)


def test_time_that_was_not_recorded() -> None:
    """As the last moments of a run that was killed: shares are of the whole running time."""
    point = Point(1, BEGAN, 6.0, 6.0, 9, 9, None, None, {"pause": 3.0})
    summary = replace(RECORDS["brief"].summary, seconds=10.0)
    (table,) = sections(replace(RECORDS["brief"], points=(point,), summary=summary))[0].tables
    assert table.rows == (
        ("pause", "3.0 s", "30.0 %"),
        (NOTHING_HELD, "3.0 s", "30.0 %"),
        (NOT_RECORDED, "4.0 s", "40.0 %"),
    )


def test_latencies_in_figures() -> None:
    values = [(1, 1.0, 5, ms / 1e3) for ms in range(1, 99)]
    some = tuple(series(*values, (1, 2.0, 5, 0.25), (1, 50.0, 5, None)))
    limits = Limits(max_source_latency=0.09)
    (felt,) = latencies(replace(RECORDS["brief"], points=some, limits=limits))
    assert felt == ("source", 100.0, 0.05, 0.25, 0.25, 0.09, 10.0)
    (_, table) = sections(replace(RECORDS["brief"], points=some, limits=limits))[0].tables
    assert table.rows == (
        ("source", "50.0 ms", "250.0 ms", "250.0 ms", "90 ms", "10.0 s (10.0 %)"),
    )
    (_, table) = sections(replace(RECORDS["brief"], points=some, limits=Limits(None)))[0].tables
    assert table.rows[0][-2:] == ("off", "")


def test_times_held_at_once_are_explained() -> None:
    point = Point(1, BEGAN, 4.0, 4.0, 9, 9, None, None, {"pause": 3.0, "timetable": 4.0})
    pace = sections(replace(RECORDS["brief"], points=(point,)))[0]
    assert "more than 100 %" in pace.sentences[0]
    assert [table.title for table in pace.tables] == ["Throttling"], "no latency is known"
    assert pace.tables[0].rows[-1] == (NOTHING_HELD, "0.0 s", "0.0 %")


def test_partitions_that_are_not_done_come_first() -> None:
    record = RECORDS["long"]
    assert isinstance(record.summary, Summary)
    some = replace(
        record, summary=replace(record.summary, partitions=records.partitions(99, 9, 98))
    )
    (folded,) = next(s for s in sections(some) if s.name == "partitions").folded
    assert len(folded.rows) == 64
    assert folded.rows[0][-1] == "not done"
    assert folded.title == "64 of 99 partitions, those not done first"


# The page as text


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed in its turn."""

    VOID = ("meta", "br", "hr", "link", "img", "input")
    LEAVES = ("path", "rect", "line", "circle")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.LEAVES, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def named(page: str, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in Reader(page).tags if name == tag]


@every
def test_pages_are_well_formed_and_named(name: str) -> None:
    reader = Reader(PAGES[name])
    assert reader.open == []
    assert ("html", {"lang": "en"}) in reader.tags
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    metas = named(PAGES[name], "meta")
    assert {"name": "color-scheme", "content": "light dark"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'",
    } in metas
    for head in named(PAGES[name], "th"):
        assert head["scope"] in ("row", "col")
    for chart in (svg for svg in named(PAGES[name], "svg") if "plot" in (svg.get("class") or "")):
        assert chart["role"] == "img"
        assert set((chart["aria-labelledby"] or "").split()) <= set(ids)


@every
def test_pages_fetch_nothing_and_run_nothing(name: str) -> None:
    page = PAGES[name]
    for tag, attributes in Reader(page).tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "image", "use")
        assert not set(attributes) & {"src", "srcset", "xlink:href", "action", "data"}
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(attribute.startswith("on") for attribute in attributes)
    assert not re.search(r"url\(|@import|expression\(", page)


@every
def test_pages_are_small(name: str) -> None:
    assert len(PAGES[name].encode()) < 500_000


@every
def test_every_section_is_there(name: str) -> None:
    copy = isinstance(RECORDS[name].summary, Summary)
    expected = [
        "pace",
        "content",
        "failures",
        "comparison",
        "runs",
        "notes",
        "partitions",
        "options",
    ]
    if not copy:
        expected = ["pace", "comparison", "failures", "notes", "options"]
    elif name == "cutover":
        expected = ["cutover", "follow", *expected]
    elif name in ("follow", "stopped follow"):
        expected = ["follow", *expected]
    assert [attributes["id"] for attributes in named(PAGES[name], "section")] == expected
    assert named(PAGES[name], "h1") and named(PAGES[name], "main") and named(PAGES[name], "footer")


@pytest.mark.parametrize("name", ["throttled", "comparison", "long"])
def test_names_from_outside_are_only_text(name: str) -> None:
    page, text = PAGES[name], Reader(PAGES[name]).text
    assert "<script" not in page and "<b>string" not in page
    assert "<script>alert(1)</script>" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", page)
    if name != "comparison":
        for key in records.ODD_KEYS:
            assert printable(key, limit=200) in text
        assert r"\x1b[2J\r\nuser:1\x00" in text


def test_nothing_from_outside_is_markup() -> None:
    record = records.hostile()
    page, shown = render_html(record), terminal(record, 100)
    assert "<script" not in page
    assert Reader(page).open == []
    assert Reader(page).text.count("<script>alert(1)</script>") >= 25
    for text in (page, shown):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    error = records.EVIL.decode()
    assert isinstance(record.summary, Summary)
    failed = replace(record, state="failed", summary=replace(record.summary, error=error))
    assert "<script" not in render_html(failed)


def tables(record: Record) -> Iterator[Table]:
    for section in sections(record):
        yield from section.tables


@every
def test_page_and_terminal_say_the_same(name: str) -> None:
    record = legible(RECORDS[name])
    page, shown = Reader(PAGES[name]).text, terminal(record, 400)
    verdict = facts.reckoned(record)
    told = [verdict.word, verdict.sentence, *verdict.notes, verdict.command]
    told += [entry.text for entry in facts.head(record)]
    told += [text for figure in facts.figures(record) for text in (figure.value, figure.note)]
    for section in sections(record):
        told += [section.title, *section.sentences, *(entry.text for entry in section.entries)]
    told += [cell for table in tables(record) for row in table.rows for cell in row]
    flat = " ".join(shown.split())
    for text in filter(None, told):
        assert text in page
        assert " ".join(text.split())[:60] in flat


def test_a_page_draws_its_limits_and_runs() -> None:
    page = PAGES["throttled"]
    assert "limit of the source: 5 ms" in page and "limit of the target: 10 ms" in page
    assert page.count('class="limit source"') == 2  # in the chart and in its legend
    assert ">run 2<" in page and ">run 3<" in page
    off = replace(RECORDS["throttled"], limits=Limits(None, None))
    assert "limit of" not in render_html(off)


def test_lines_are_broken_where_nothing_is_known() -> None:
    values = [(1, 1.0, 5, 0.1), (1, 1.0, 5, None), (1, 4.0, 5, 0.2), (1, 4.0, 5, 0.2)]
    page = render_html(replace(RECORDS["brief"], points=tuple(series(*values))))  # type: ignore[arg-type]
    (source,) = re.findall(r'id="latencies-title".*?class="line source" d="([^"]+)"', page)
    assert [path.count("H") for path in source.split("M")[1:]] == [1, 2]
    (rate,) = re.findall(r'id="keys-title".*?class="line first" d="([^"]+)"', page)
    assert rate.count("M") == 1


# Where it is written


def test_a_page_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")
    check_writable(str(file), "--report")
    assert file.read_text() == "old"
    write_text(str(file), render_html(RECORDS["plain"]), "--report")
    assert file.read_text(encoding="utf-8") == PAGES["plain"]
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_is_for_nobody_who_may_not_read_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.touch(mode=0o600)
    write_text(str(file), "new", "--report")
    assert file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o600


def test_the_old_page_stays_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"--report: .* No space left on device\."):
        write_text(str(file), render_html(RECORDS["empty"]), "--report")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("tail", ["missing/report.html", "file/report.html", ""])
def test_an_unwritable_page_is_a_usage_error(tmp_path: Path, tail: str) -> None:
    (tmp_path / "file").write_text("")
    destination = str(tmp_path / tail)
    for call in (check_writable, lambda path, flag: write_text(path, "text", flag)):
        with pytest.raises(UsageError, match=r"--report: .* cannot be written: .+\."):
            call(destination, "--report")


# In a terminal


@pytest.mark.parametrize("width", [40, 80, 200])
@every
def test_the_terminal_is_never_too_narrow(name: str, width: int) -> None:
    text = terminal(RECORDS[name], width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text and "\u202e" not in text


def test_a_terminal_shows_the_course_as_blocks() -> None:
    lines = terminal(RECORDS["throttled"], 80).splitlines()
    (rates,) = [line for line in lines if line.startswith("keys/s ")]
    (source,) = [line for line in lines if line.startswith("source ") and "max" in line]
    assert "█" in rates and ".." in rates  # off by the timetable
    assert source.rstrip().endswith("max 34.7 ms")


def test_rows_of_wide_tables_stand_below_each_other_where_it_is_narrow() -> None:
    narrow, wide = terminal(RECORDS["plain"], 40), terminal(RECORDS["plain"], 80)
    assert "type string" in narrow and "payloads 135 MB" in narrow
    assert "type string" not in wide


@pytest.mark.parametrize("name", ["running", "comparison", "throttled"])
def test_no_short_word_of_a_table_is_broken(name: str) -> None:
    """A table that does not fit is stacked, not squeezed."""
    for table, width in product(tables(legible(RECORDS[name])), range(40, 121)):
        file = StringIO()
        Console(file=file, width=width, highlight=False).print(*_table(table, width))
        cells = {cell for row in table.rows for cell in row}
        words = {word for cell in cells for word in cell.split() if len(word) <= 24}
        assert [word for word in words if word not in file.getvalue()] == [], (table.title, width)


# In a browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page, as a file."""
    place = tmp_path_factory.mktemp("pages")
    for name, record in RECORDS.items():
        write_text(str(place / f"{name}.html"), render_html(record), "--report")
    return place


def look(seen: Watched, where: str) -> list[Seen]:
    """Nothing is hidden, cut off, too small or too pale; the texts."""
    texts = seen.texts()
    width = seen.page.viewport_size["width"]  # type: ignore[index]
    assert seen.sideways() <= 0, where
    assert overlaps(texts) == [], where
    assert [text for text in texts if text.contrast < 4.5] == [], where
    assert [text for text in texts if text.size < 11] == [], where
    outside = [t for t in texts if any(box[0] < 0 or box[2] > width + 0.5 for box in t.boxes)]
    assert outside == [], where
    return texts


def charts(texts: list[Seen], record: Record) -> None:
    """Each chart has titled axes with numbers on them."""
    drawn: dict[str, list[str]] = {}
    for text in texts:
        if text.chart:
            drawn.setdefault(text.chart.split("-")[0], []).append(f"{text.style} {text.text}")
    expected = {"keys", "bytes"} if record.points else set()
    if any(point.source_latency for point in record.points):
        expected |= {"latencies"}
    if any(point.lag is not None for point in record.points):
        expected |= {"lag"}
    if held_seconds(record.points):
        expected |= {"held"}
    if isinstance(record.summary, Summary) and record.summary.content.sizes:
        expected |= {"sizes"}
    assert set(drawn) == expected
    units = {"keys": "keys/s", "bytes": "bytes/s", "latencies": "ms", "sizes": "payload size"}
    units["lag"] = "ms"
    for name, said in drawn.items():
        across = "keys" if name == "sizes" else "running time"
        assert f"unit end {across}" in said
        assert sum(text.startswith("x ") for text in said) >= 2
        if name in units:
            assert f"unit {units[name]}" in said
            assert sum(text.startswith("y ") for text in said) >= 2
        else:
            assert "lane source latency" in said


@every
def test_pages_in_a_browser(browser: Browser, folder: Path, name: str) -> None:
    file = folder / f"{name}.html"
    for scheme in ("light", "dark"):
        with opened(browser, file, color_scheme=scheme) as seen:
            for width in (400, 1400):
                seen.page.set_viewport_size({"width": width, "height": 900})
                charts(look(seen, f"{width} {scheme}"), RECORDS[name])
            assert seen.page.title().startswith("rumpx: ")
            assert seen.requests == [file.as_uri()]
            assert seen.complaints == []


@pytest.mark.parametrize("width", [320, 640, 641, 719, 720, 1000])
def test_widths_between(browser: Browser, folder: Path, width: int) -> None:
    for name in ("throttled", "long"):
        viewport = {"width": width, "height": 900}
        with opened(browser, folder / f"{name}.html", viewport=viewport) as seen:
            look(seen, name)


def test_what_is_folded_can_be_opened(browser: Browser, folder: Path) -> None:
    for width in (400, 1400):
        viewport = {"width": width, "height": 900}
        with opened(browser, folder / "throttled.html", viewport=viewport) as seen:
            before = len(seen.texts())
            for summary in seen.page.locator("summary").all():
                summary.click()
            assert len(seen.texts()) > before + 64
            look(seen, str(width))


@pytest.mark.parametrize("name", ["plain", "throttled", "comparison"])
def test_pages_on_paper(browser: Browser, folder: Path, name: str) -> None:
    paper = {"width": 688, "height": 1000}  # what A4 leaves between its margins
    options = {"viewport": paper, "color_scheme": "dark"}
    with opened(browser, folder / f"{name}.html", **options) as seen:
        seen.page.emulate_media(media="print")
        charts(look(seen, "print"), RECORDS[name])
        colour = "getComputedStyle(document.body).backgroundColor"
        assert seen.page.evaluate(colour) == "rgb(255, 255, 255)"
        paper_document = seen.page.pdf(prefer_css_page_size=True)
    assert paper_document.startswith(b"%PDF")


def test_the_browser_sees_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<!DOCTYPE html><body style='background:#fff'><p>fine</p>"
        "<p style='position:absolute;top:0;left:0'>over</p>"
        "<p style='color:#ccc;margin-top:9em'>pale</p><p style='width:2000px'>wide</p>"
        "<div style='overflow:hidden;width:50px'><p style='margin-left:60px'>hidden</p></div>"
        "<img src='https://example.com/x.png'><svg><text y='20' font-size='5'>tiny</text></svg>"
    )
    with opened(browser, file, viewport={"width": 400, "height": 300}) as seen:
        texts = {text.text: text for text in seen.texts()}
        assert overlaps(list(texts.values())) == [("over", "fine")] or overlaps(
            list(texts.values())
        ) == [("fine", "over")]
        assert texts["pale"].contrast < 2 < 20 < texts["fine"].contrast
        assert texts["tiny"].size == 5
        assert "hidden" not in texts
        assert seen.sideways() > 1000
        assert "https://example.com/x.png" in seen.requests
        assert seen.complaints
