"""The small pictures of a column: inline SVG that stretches with its card, the labels in HTML so that they never do."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from markupsafe import Markup

from tasks.core.bins import Bin, Picture

HEIGHT, STRIP = 40, 5  # of a histogram's bars, and of the strip beneath that holds the middle 80%; the width is always 100
MOST_BARS = 40  # of a calendar
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Word:
    """A word with its rows and share of those that have a value; `was` is its share in the last release, where there was one."""

    text: str
    rows: int
    share: float
    was: float | None = None


def short(value: float) -> str:
    """Whole numbers whole (years without a comma), others to four digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value + 0.0:.0f}"  # there is a zero below zero
    if 1e-4 <= abs(value) < 1e15:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return (
            f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
        )
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share for people: never 0% of something, never 100% of not all."""
    if math.isnan(share):
        return "unknown"
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}".replace(".0%", "%")


def histogram(picture: Picture, middle: tuple[float, float, float] | None, label: Callable[[float], str]) -> Markup:
    """Bars of the shares, the last release's as an outline over them, the 10%, 50% and 90% points as a strip beneath."""
    bins, was = picture.bins, picture.was
    low, high = bins[0].low, bins[-1].high
    if low == high:
        low, high = low - 0.5, high + 0.5
        bins, was = ([replace(one, low=low + 0.3, high=high - 0.3) for one in some] for some in (bins, was))
    top = max(one.share for one in (*bins, *was)) or 1.0

    def across(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars = []
    for place, one in enumerate(bins):
        said = f"{one.name or f'{label(one.low)} to {label(one.high)}'}: {percent(one.share)}, {one.rows:,.0f} rows"
        said += f"; was {percent(was[place].share)}" if was else ""
        left, right = across(one.low), across(one.high)
        bars.append(_bar(left + 0.3, right - left - 0.6, HEIGHT * one.share / top, HEIGHT, said))
    outline = Markup('<path class="was" d="{}"/>').format(_steps(was, across, top)) if was else Markup("")
    strip = Markup("")
    if middle and not any(map(math.isnan, middle)):
        tenth, half, ninetieth = (min(max(across(value), 0), 100) for value in middle)
        strip = Markup('<rect class="middle" x="{}" y="{}" width="{}" height="2.4"><title>{}</title></rect>').format(
            _at(tenth), HEIGHT + 2, _at(max(ninetieth - tenth, 0.5)), f"80% of the rows: {label(middle[0])} to {label(middle[2])}"
        ) + Markup('<path class="median" d="M{0} {1}v4.4"/>').format(_at(half), HEIGHT + 1)
    ends = [label(low), label((low + high) / 2), label(high)] if len(bins) > 1 else ["", label((low + high) / 2), ""]
    if bins[0].name:
        ends = [one.name for one in (bins if len(bins) <= 12 else (bins[0], bins[len(bins) // 2], bins[-1]))]
    return _chart(
        "distribution", HEIGHT + STRIP, [*bars, outline, strip], ends, picture.beyond or f"tallest {percent(top)}", bool(was)
    )


def word_bars(words: Sequence[Word], others: Word | None) -> Markup:
    """A bar for each word, the last release's share as a thin one beneath; all the other words together, without a bar."""
    shown = [*words, *([others] if others else [])]
    top = max((max(word.share, word.was or 0) for word in words), default=0) or 1.0
    lines = []
    for word in shown:
        was = (
            "" if word.was is None else Markup('<rect class="was" y="8" width="{}" height="3"/>').format(_at(100 * word.was / top))
        )
        said = f"{word.text}: {percent(word.share)}, {word.rows:,} rows" + (
            "" if word.was is None else f"; was {percent(word.was)}"
        )
        lines.append(
            Markup(
                '<li{}><span title="{}">{}</span><svg viewBox="0 0 100 11" preserveAspectRatio="none" aria-hidden="true">'
                '<rect class="now" width="{}" height="{}"/>{}</svg><b>{}</b></li>'
            ).format(
                Markup(' class="others"') if word is others else "",
                said,
                word.text,
                "0" if word is others else _at(100 * word.share / top),
                11 if word.was is None else 7,
                was,
                percent(word.share),
            )
        )
    legend = Markup("<figcaption>{}</figcaption>").format(_LEGEND) if any(word.was is not None for word in shown) else Markup("")
    return Markup('<figure class="words">{}<ol>{}</ol></figure>').format(legend, Markup("").join(lines))


def calendar(days: Mapping[date, int]) -> Markup:
    """Rows over time in as many bars as can be told apart, and by the day of the week."""
    first, last = min(days), max(days)
    length = (last - first).days + 1
    wide = math.ceil(length / MOST_BARS)
    counts = [0] * math.ceil(length / wide)
    week = [0] * 7
    for day, rows in days.items():
        counts[(day - first).days // wide] += rows
        week[day.weekday()] += rows
    top, width = max(counts) or 1, 100 / len(counts)
    bars = []
    for place, rows in enumerate(counts):
        start = first + timedelta(days=place * wide)
        end = min(start + timedelta(days=wide - 1), last)
        said = f"{start}: {rows:,} rows" if start == end else f"{start} to {end}: {rows:,} rows"
        bars.append(_bar(place * width + 0.1, width - 0.2, HEIGHT * rows / top, HEIGHT, said))
    unit = "a day" if wide == 1 else f"in {wide} days"
    ends = [str(first), str(last)] if first < last else ["", str(first), ""]
    over_time = _chart("rows over time", HEIGHT, bars, ends, f"at most {top:,} rows {unit}", False)
    highest = max(week) or 1
    by_day = [
        _bar(place * 100 / 7 + 0.8, 100 / 7 - 1.6, 16 * rows / highest, 16, f"{WEEKDAYS[place]}: {rows:,} rows")
        for place, rows in enumerate(week)
    ]
    return over_time + _chart("rows by day of the week", 16, by_day, list(WEEKDAYS), "", False)


def stacked(parts: Sequence[tuple[str, float]]) -> Markup:
    """One bar cut into the parts' shares, coloured in their order."""
    pieces, left = [], 0.0
    for place, (name, share) in enumerate(parts):
        piece = Markup('<rect class="c{}" x="{}" width="{}" height="10"><title>{}</title></rect>')
        pieces.append(piece.format(place % 9, _at(left), _at(max(100 * share - 0.3, 0)), f"{name}: {percent(share)}"))
        left += 100 * share
    return Markup(
        '<svg class="stacked" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(", ".join(f"{name} {percent(share)}" for name, share in parts), Markup("").join(pieces))


_LEGEND = Markup('<span class="legend"><i class="now"></i>now</span><span class="legend"><i class="was"></i>last release</span>')


def _chart(what: str, height: int, shapes: Sequence[Markup], ends: Sequence[str], caption: str, released: bool) -> Markup:
    legend = _LEGEND if released else Markup("")
    said = Markup("<span>{}</span>").format(caption) if caption else Markup("")
    head = Markup("<figcaption>{}{}</figcaption>").format(legend, said) if legend or said else Markup("")
    labels = Markup("").join(Markup("<span>{}</span>").format(end) for end in ends)
    return Markup(
        '<figure class="chart">{}<svg style="--tall:{}px" viewBox="0 0 100 {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg><div class="ends">{}</div></figure>'
    ).format(head, round(height * 1.9), height, what, Markup("").join(shapes), labels)


def _bar(left: float, width: float, tall: float, floor: float, said: str) -> Markup:
    tall = max(tall, 0.7) if tall > 0 else 0.0  # a few rows among millions are still seen
    bar = Markup('<rect class="now" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    return bar.format(_at(left), _at(floor - tall), _at(max(width, 0.2)), _at(tall), said)


def _steps(bins: Sequence[Bin], across: Callable[[float], float], top: float) -> str:
    """The path along the tops of the bins, from the floor to the floor."""
    tops = "".join(f"V{_at(HEIGHT - HEIGHT * one.share / top)}H{_at(across(one.high))}" for one in bins)
    return f"M{_at(across(bins[0].low))} {HEIGHT}{tops}V{HEIGHT}"


def _at(value: float) -> str:
    """A coordinate in as few characters as will do: there are ten thousand of them on a page."""
    return f"{value:.1f}".removesuffix(".0")
