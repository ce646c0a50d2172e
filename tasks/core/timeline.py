"""The target over time: a line of rates, a mean with its band, or stacked shares, with the rows of each period beneath."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise

from markupsafe import Markup

from tasks.core.svg import percent, short

TALL, BENEATH = 100, 22  # the main picture and the rows under it, in units of the picture; its width is 1000
COLOURS = 8  # classes told apart; the others are one


@dataclass(frozen=True)
class Period:
    """The rows of some days and what their target is: (share of the positive class,) of a binary one, (mean, 10%, 90%) of a
    number, the share of each class of several in the order of Report.classes."""

    start: date
    rows: int
    values: tuple[float, ...]


def rate_over_time(periods: Sequence[Period], what: str) -> Markup:
    """A line from an axis of 0; `what` says of what it is the share."""
    ticks = nice_ticks(0, max((p.values[0] for p in periods if not math.isnan(p.values[0])), default=0) or 1)
    line = _line(periods, 0, ticks[0], ticks[-1])
    said = [f"{percent(period.values[0])} {what}" for period in periods]
    return _frame(periods, [(tick, percent(tick)) for tick in ticks], [line], said)


def mean_over_time(periods: Sequence[Period], what: str) -> Markup:
    """A line of means in the band that holds 80% of the rows."""
    present = [value for period in periods for value in period.values if math.isfinite(value)] or [0.0]
    ticks = nice_ticks(min(present), max(present))
    low, high = ticks[0], ticks[-1]
    whole = [period for period in periods if all(map(math.isfinite, period.values))]
    x = {day: _middle(span) for day, span in _spans(periods).items()}
    there = [f"{x[p.start]:.1f},{_y(p.values[2], low, high):.1f}" for p in whole]
    back = [f"{x[p.start]:.1f},{_y(p.values[1], low, high):.1f}" for p in reversed(whole)]
    band = Markup('<polygon class="band" points="{}"/>').format(" ".join(there + back))
    said = [f"{what}: mean {short(p.values[0])}, 80% between {short(p.values[1])} and {short(p.values[2])}" for p in periods]
    return _frame(periods, [(tick, short(tick)) for tick in ticks], [band, _line(periods, 0, low, high)], said)


def shares_over_time(periods: Sequence[Period], classes: Sequence[str]) -> Markup:
    """Stacked bars of the classes' shares, which fill the axis from 0 to 100%, under their names; small classes as one."""
    periods, classes = _few_classes(periods, classes)
    spans = _spans(periods)
    shapes = []
    for period in periods:
        floor, (left, width) = float(TALL), spans[period.start]
        for place, share in enumerate(period.values):
            tall = TALL * share if math.isfinite(share) else 0.0
            shapes.append(
                Markup('<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    place, left, floor - tall, width * 0.94, tall
                )
            )
            floor -= tall
    said = [
        ", ".join(f"{name} {percent(share)}" for name, share in zip(classes, p.values, strict=True)) for p in periods
    ]  # fmt: skip
    keys = [Markup('<span><i class="key c{}"></i>{}</span>').format(place, name) for place, name in enumerate(classes)]
    legend = Markup('<div class="keys">{}</div>').format(Markup("").join(keys))
    return legend + _frame(periods, [(tick, percent(tick)) for tick in (0, 0.5, 1)], shapes, said)


def _few_classes(periods: Sequence[Period], classes: Sequence[str]) -> tuple[Sequence[Period], Sequence[str]]:
    """As many classes as can be told apart by colour: the others, of which there are fewest rows, added up."""
    if len(classes) <= COLOURS + 1:
        return periods, classes

    def rows(place: int) -> float:
        return sum(p.rows * p.values[place] for p in periods if math.isfinite(p.values[place]))

    large = sorted(sorted(range(len(classes)), key=rows, reverse=True)[:COLOURS])
    rest = [place for place in range(len(classes)) if place not in large]
    folded = [replace(p, values=(*(p.values[i] for i in large), sum(p.values[i] for i in rest))) for p in periods]
    return folded, [*(classes[place] for place in large), f"{len(rest)} others"]


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, the first not above `low`, the last not below `high`."""
    if not high > low:
        low, high = (low - 0.5, low + 0.5) if low else (0.0, 1.0)
    step = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(step))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= step * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def time_ticks(first: date, last: date, most: int = 12) -> list[tuple[date, str]]:
    """At most about so many days between the two, each of which begins a day, month or year, with their labels."""
    for step in (1, 2, 7):
        if (last - first).days < most * step:
            days = [first + timedelta(days=number) for number in range(0, (last - first).days + 1, step)]
            return _labelled(days, "{0.day} {0:%b}", "{0.day} {0:%b} {0.year}")
    begin, end = first.year * 12 + first.month - 1, last.year * 12 + last.month - 1
    for step in (1, 2, 3, 6):
        if end - begin < most * step:
            return _labelled(
                [day for n in range(begin, end + 1) if n % step == 0 and (day := _month(n)) >= first], "{:%b}", "{0:%b} {0.year}"
            )
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if last.year - first.year < most * step)
    years = [day for year in range(first.year, last.year + 1) if year % step == 0 and (day := date(year, 1, 1)) >= first]
    return _labelled(years, "{.year}", "{.year}")


def _labelled(days: Sequence[date], plain: str, in_new_year: str) -> list[tuple[date, str]]:
    """The year is named where it begins, and once."""
    years = [None, *(day.year for day in days)]
    return [(day, (plain if day.year == before else in_new_year).format(day)) for day, before in zip(days, years, strict=False)]


def _month(number: int) -> date:
    """The first day of the month of that number, counted from the year 0."""
    return date(number // 12, number % 12 + 1, 1)


def _spans(periods: Sequence[Period]) -> dict[date, tuple[float, float]]:
    """Where each period begins on the axis of 1000 and how wide it is, true to the calendar: what has no rows stays empty."""
    gaps = [(after.start - before.start).days for before, after in pairwise(periods)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 1
    days = [min(gap, math.ceil(1.2 * usual)) for gap in gaps] + [usual]  # months differ; a month and a half is a gap
    first = periods[0].start
    scale = 1000 / ((periods[-1].start - first).days + usual)
    return {p.start: (scale * (p.start - first).days, scale * wide) for p, wide in zip(periods, days, strict=True)}


def _middle(span: tuple[float, float]) -> float:
    return span[0] + span[1] / 2


def _y(value: float, low: float, high: float) -> float:
    return TALL - TALL * (value - low) / (high - low)


def _line(periods: Sequence[Period], value: int, low: float, high: float) -> Markup:
    """The line through one of the periods' values, and a dot where it would be too short to see."""
    spans = _spans(periods)
    points = [(_middle(spans[p.start]), _y(p.values[value], low, high)) for p in periods if math.isfinite(p.values[value])]
    line = Markup('<polyline points="{}"/>').format(" ".join(f"{a:.1f},{b:.1f}" for a, b in points))
    dots = Markup("").join(Markup('<path class="dot" d="M{:.1f} {:.1f}h.01"/>').format(*point) for point in points)
    return line + dots if len(points) <= 60 else line


def _frame(periods: Sequence[Period], ticks: Sequence[tuple[float, str]], shapes: Sequence[Markup], said: Sequence[str]) -> Markup:
    """The shapes over their grid, with labels of both axes, the rows of each period beneath, and a title for each of them."""
    spans, floor = _spans(periods), TALL + BENEATH + 4
    low, high = ticks[0][0], ticks[-1][0]
    grid = [Markup('<path class="grid" d="M0 {:.1f}H1000"/>').format(_y(tick, low, high)) for tick, _ in ticks]
    top = max(period.rows for period in periods) or 1
    rows, over = [], []
    for period, words in zip(periods, said, strict=True):
        tall, (left, width) = BENEATH * period.rows / top, spans[period.start]
        bar = Markup('<rect class="rows" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
        rows.append(bar.format(left, floor - tall, width * 0.94, tall))
        cover = Markup('<rect class="cover" x="{:.1f}" y="0" width="{:.1f}" height="{}"><title>{}</title></rect>')
        over.append(cover.format(left, width, floor, f"{period.start}: {words}; {period.rows:,} rows"))
    labels = [
        Markup('<span style="top:{:.1f}%">{}</span>').format(100 * _y(tick, low, high) / floor, label) for tick, label in ticks
    ]
    return Markup(
        '<div class="plot"><div class="y" aria-hidden="true">{}</div><svg viewBox="0 0 1000 {}" preserveAspectRatio="none" '
        'role="img" aria-label="{}">{}</svg><div class="x" aria-hidden="true">{}</div></div>'
        '<p class="soft">Bars beneath: rows, at most {} in a period.</p>'
    ).format(
        Markup("").join(labels),
        floor,
        f"from {periods[0].start}, {said[0]}, to {periods[-1].start}, {said[-1]}",
        Markup("").join([*grid, *shapes, *rows, *over]),
        _dates(periods),
        f"{top:,}",
    )


def _dates(periods: Sequence[Period]) -> Markup:
    """Labels under the axis, each to the right of its tick; those of class `less` give way on a phone."""
    first, last = periods[0].start, periods[-1].start
    end = sum(_spans(periods)[last])
    usual = end - _spans(periods)[last][0]
    scale = (1000 - usual) / ((last - first).days or 1)
    places = [(scale * (day - first).days / 10, label) for day, label in time_ticks(first, last)]
    return Markup("").join(
        Markup('<span{} style="left:{:.1f}%">{}</span>').format(Markup(' class="less"') if place % 3 else "", across, label)
        for place, (across, label) in enumerate(places)
        if across < 95
    )
