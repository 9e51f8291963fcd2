"""The report as one HTML page: loads no resource, contains no script, and prints well.

Its texts come from `headline` and `sections`, its charts from `charts`, its style from
`report.css`, which is embedded. A reader of the file sees the old page or the whole new one
(`files`). All text is escaped for HTML here, and only here.

Not promised: good drawing in a browser from before 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources
from statistics import median_low
from typing import Final

from rumpx import units
from rumpx.errors import Side
from rumpx.model.history import Record
from rumpx.model.results import Summary
from rumpx.model.timeline import Point, held_seconds
from rumpx.report import headline as facts
from rumpx.report.charts import Chart, Line, held_lanes, histogram, over_time
from rumpx.report.headline import Figure, Tone, Verdict, tone_of
from rumpx.report.latencies import latencies
from rumpx.report.scales import binned, size_groups
from rumpx.report.sections import SIZES, Column, Section, Table, sections
from rumpx.report.text import Entry, moment
from rumpx.text import legible

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_LENGTHY: Final = 90
_MOST_NARROW: Final = 3
_LEAST_LATENCY: Final = 0.1  # ms; lower values are drawn as this
_MOST_TOGETHER: Final = 20
_MARKS: Final[dict[Tone, str]] = {
    "good": "M7 12.5l3.4 3.4L17 8.6",
    "warn": "M12 6.5v7M12 17v.2",
    "bad": "M8 8l8 8M16 8l-8 8",
    "busy": "M8 12h8M13 8.5l3.5 3.5L13 15.500",
    "": "",
}


def render_html(record: Record) -> str:
    """Return the whole page."""
    record = legible(record)
    summary = record.summary
    what = "copy" if isinstance(summary, Summary) else "comparison"
    name = f" {summary.job}" if isinstance(summary, Summary) else ""
    verdict = facts.reckoned(record)
    style = resources.files("rumpx.report").joinpath("report.css").read_text(encoding="utf-8")
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>rumpx: {what}{escape(name)}, {escape(verdict.word.lower())}</title>\n",
            f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<header>\n",
            f'<p class="brand"><b>rumpx</b> report of a {what}</p>\n',
            _verdict(verdict, record),
            _route(record),
            _list(facts.head(record), "head"),
            _figures(facts.figures(record)),
            "</header>\n",
            *(_section(section, record) for section in sections(record)),
            f"</main>\n{_footer(record)}</body>\n</html>\n",
        ]
    )


# The head


def _verdict(verdict: Verdict, record: Record) -> str:
    size = ' class="lengthy"' if len(verdict.sentence) > _LENGTHY else ""
    parts = [
        f'<div class="verdict {verdict.tone}"><svg class="mark" viewBox="0 0 24 24" aria-hidden='
        f'"true"><circle cx="12" cy="12" r="12"/><path d="{_MARKS[verdict.tone]}"/></svg><div>',
        f'<p class="word">{escape(verdict.word)}</p><h1{size}>{escape(verdict.sentence)}</h1>',
        *(f"<p>{escape(note)}</p>" for note in verdict.notes),
    ]
    if verdict.command:
        parts.append(f"<p>{verdict.purpose}: <code>{escape(verdict.command)}</code></p>")
    if record.state != "done" and not facts.followed(record):
        percent = units.percent(record.fraction)
        width = percent.replace(" ", "")
        parts.append(
            f'<p class="progress"><span><i style="width:{width}"></i></span> {percent} done</p>'
        )
    return "".join([*parts, "</div></div>\n"])


def _route(record: Record) -> str:
    parts = [
        f"<div><dt>{word}</dt><dd><code>{escape(uri)}</code> <span>{escape(version)}</span></dd>"
        "</div>"
        for word, uri, version in facts.ends(record)
    ]
    return f'<dl class="route">{"".join(parts)}</dl>\n'


def _figures(figures: Iterable[Figure]) -> str:
    parts = []
    for label, value, note, tone in figures:
        style = f"figure {tone}" if value else f"figure said {tone}"
        parts.append(f'<div class="{style.strip()}"><dt>{escape(label)}</dt>')
        if value:
            parts.append(f'<dd class="value">{escape(value)}</dd>')
        parts.append(f"<dd>{escape(note)}</dd></div>")
    return f'<dl class="figures">{"".join(parts)}</dl>\n'


# Sections


def _section(section: Section, record: Record) -> str:
    charts = _course(record) if section.name == "pace" and record.points else []
    tables = [_sizes(record) if table.title == SIZES else _table(table) for table in section.tables]
    return "".join(
        [
            f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n'
            f'<h2 id="{section.name}-title">{escape(section.title)}</h2>\n',
            *charts,
            *(f"<p>{escape(sentence)}</p>\n" for sentence in section.sentences),
            _list(section.entries, "entries"),
            *tables,
            *(
                f"<details><summary>{escape(table.title)}</summary>\n{_table(table)}</details>\n"
                for table in section.folded
            ),
            "</section>\n",
        ]
    )


def _list(entries: Sequence[Entry], style: str) -> str:
    if not entries:
        return ""
    parts = []
    for entry in entries:
        tone = f' class="{tone_of(entry)}"' if tone_of(entry) else ""
        parts.append(
            f"<div><dt>{escape(entry.label)}</dt><dd{tone}>{escape(entry.text)}</dd></div>"
        )
    return f'<dl class="{style}">{"".join(parts)}</dl>\n'


def _table(table: Table) -> str:
    """Draw a table in a box that scrolls sideways if it does not fit."""
    kinds = [column.kind for column in table.columns]
    label = f' aria-label="{escape(table.title)}"' if table.title else ""
    heads = "".join(
        f'<th scope="col" class="{kind}">{escape(title)}</th>' for title, kind in table.columns
    )
    # Many columns are stacked on narrow screens; many rows may break across printed pages.
    style = "stack " * (len(kinds) > _MOST_NARROW) + "long" * (len(table.rows) > _MOST_TOGETHER)
    parts = [f'<div class="scroll" tabindex="0" role="group"{label}><table class="{style}">']
    if table.title:
        parts.append(f"<caption>{escape(table.title)}</caption>")
    parts.append(f"<thead><tr>{heads}</tr></thead>\n<tbody>\n")
    for number, row in enumerate(table.rows):
        share = table.shares[number] if table.shares else 0.0
        cells = [
            _cell(
                text,
                column,
                share if column.kind == "share" else None,
                heads=place == table.row_head,
            )
            for place, (text, column) in enumerate(zip(row, table.columns, strict=True))
        ]
        parts.append(f"<tr>{''.join(cells)}</tr>\n")
    parts.append("</tbody></table></div>\n")
    return "".join(parts)


def _cell(text: str, column: Column, share: float | None, *, heads: bool) -> str:
    tag, scope = ("th", ' scope="row"') if heads else ("td", "")
    bar = ""
    if share is not None:
        bar = f'<span class="share-bar"><i style="width:{100 * share:.1f}%"></i></span>'
    label = f' data-label="{escape(column.title)}"'
    return f'<{tag}{scope} class="{column.kind}"{label}>{escape(text)}{bar}</{tag}>'


# Charts


def _sizes(record: Record) -> str:
    assert isinstance(record.summary, Summary)
    return _figure(SIZES, "", histogram("sizes", SIZES, size_groups(record.summary.content.sizes)))


def _course(record: Record) -> list[str]:
    """Draw the events over the running time."""
    points = binned(record.points)
    charts = [*_throughput(points), *_lag(points), *_latencies(record, points)]
    held = list(held_seconds(points))
    if held:
        title, told = "Throttling over time", "the stronger the colour, the longer"
        charts.append(_figure(title, told, held_lanes("held", title, points, held)))
    return charts


def _throughput(points: Sequence[Point]) -> Iterator[str]:
    rates = [point.keys_per_second for point in points]
    told = f"highest {units.key_rate(max(rates))}; each step a mean of {_step(points)}"
    yield _over_time(
        Chart(
            *("keys", "Throughput", told, "keys/s"),
            *((Line("first", rates),), units.short_keys),
            filled=True,
        ),
        points,
    )
    rates = [point.bytes_per_second for point in points]
    told = f"highest {units.byte_rate(max(rates))}"
    yield _over_time(
        Chart(
            *("bytes", "Payload bytes", told, "bytes/s"),
            *((Line("first", rates),), units.size),
            height=110,
            filled=True,
        ),
        points,
    )


def _lag(points: Sequence[Point]) -> Iterator[str]:
    """Draw the lag of a follow."""
    lags = [None if point.lag is None else point.lag * 1e3 for point in points]
    known = [lag for lag in lags if lag is not None]
    if not known:
        return
    told = f"highest {units.age(max(known) / 1e3)}; each step the highest of {_step(points)}"
    chart = Chart(
        *("lag", "Lag of the target", told, "ms"),
        *((Line("first", lags),), lambda value: f"{value:g}"),
        least=_LEAST_LATENCY,
        powers=True,
    )
    yield _over_time(chart, points)


def _latencies(record: Record, points: Sequence[Point]) -> Iterator[str]:
    sides = latencies(record)
    if not sides:
        return
    limits = [(each.side, each.limit * 1e3) for each in sides if each.limit is not None]
    told = f"each step the highest of {_step(points)}; each line across is ten times the one below"
    chart = Chart(
        *("latencies", "Latency above an idle server's", told, "ms"),
        tuple(Line(each.side, _milliseconds(points, each.side)) for each in sides),
        lambda value: f"{value:g}",
        tuple(limits),
        least=_LEAST_LATENCY,
        powers=True,
    )
    legend = [(f"line {each.side}", str(each.side)) for each in sides]
    legend += [(f"limit {side}", f"limit of the {side}: {ms:g} ms") for side, ms in limits]
    yield _over_time(chart, points, _legend(legend))


def _step(points: Sequence[Point]) -> str:
    """Describe the usual length of a step."""
    return units.duration(median_low([point.seconds for point in points]))


def _milliseconds(points: Sequence[Point], side: Side) -> list[float | None]:
    values = [point.latency(side) for point in points]
    return [None if value is None else value * 1e3 for value in values]


def _legend(items: Iterable[tuple[str, str]]) -> str:
    parts = [
        f'<li><svg width="30" height="10" aria-hidden="true"><path class="{style}" '
        f'd="M0 5H30"/></svg>{escape(text)}</li>'
        for style, text in items
    ]
    return f'<ul class="legend">{"".join(parts)}</ul>'


def _over_time(chart: Chart, points: Sequence[Point], legend: str = "") -> str:
    return _figure(chart.title, chart.description, legend + over_time(chart, points))


def _figure(title: str, told: str, drawn: str) -> str:
    told = f"<p>{escape(told)}</p>" if told else ""
    return f"<figure><figcaption><h3>{escape(title)}</h3>{told}</figcaption>{drawn}</figure>\n"


# The end


def _footer(record: Record) -> str:
    return (
        "<footer>\n"
        f"<p>Made by rumpx {escape(record.version)} on {moment(record.written)}.</p>\n"
        f"<p>{escape(facts.EXPLAINED)}</p>\n"
        "</footer>\n"
    )
