"""The page of a look at a window: one HTML file that opens offline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tasks.core.drift import Test, short_figure
from tasks.core.metrics import METRICS, WORDS
from tasks.core.quality import Measured, Quality, curve, gap, metrics
from tasks.core.report import ENVIRONMENT
from tasks.core.svg import percent
from tasks.core.tally import Cells, Count, Tally, shares
from tasks.core.target import Target
from tasks.core.verdict import DriftReport, Finding

HEIGHT = 40  # of a chart, whose width is 100
WORDS_SHOWN = 8  # of a category, those that moved most
OTHERS_SHOWN = 6  # columns without a finding that have a chart too
WIDE = 1.96  # standard errors on either side: an interval of 95 %
SUBJECTS = {"feature": "column", "prediction": "answers", "truth": "what came", "quality": "quality", "calibration": "calibration"}


@dataclass(frozen=True)
class Page:
    """All that the page says: what was counted of the window, and what it was `held` against; `scores`, `truth` and `quality` are
    those of the test part first."""

    title: str
    report: DriftReport
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    tests: tuple[Test, ...]
    alpha: float
    strip: tuple[DriftReport, ...]
    cells: Mapping[str, Cells]
    score_cells: Mapping[str, Cells]
    held: Tally | None
    scores: Mapping[str, Count]
    tally: Tally | None
    target: Target | None
    quality: tuple[Mapping[str, Quality], Mapping[str, Quality]]
    truth: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]
    against: str


@dataclass(frozen=True)
class Card:
    """A column beside what it is held against."""

    name: str
    role: str
    findings: tuple[str, ...]
    chart: Markup
    facts: tuple[tuple[str, str, str], ...]  # what, was, now


@dataclass(frozen=True)
class Line:
    """A metric of all rows or of a slice, with the bounds of 95 %, as text; `worse` marks a finding."""

    name: str
    metric: str
    was: str
    now: str
    rows: int
    worse: bool


def render(page: Page) -> str:
    """The page as text."""
    return ENVIRONMENT.get_template("drift.html").render(
        page=page,
        report=page.report,
        subjects=SUBJECTS,
        cards=cards(page),
        lines=lines(page),
        curve=_curve(page),
        odds=odds,
        strip=page.strip,
        tests=sorted(page.tests, key=lambda test: -test.effect / max(test.bound, 1e-12)),
        figure=short_figure,
    )


def cards(page: Page) -> list[Card]:
    """The columns with a finding, then those that are nearest to one."""
    if page.tally is None or page.held is None:
        return []
    nearest: dict[str, float] = {}
    for test in page.tests:
        if test.of == "feature":
            nearest[test.name] = max(nearest.get(test.name, 0.0), test.effect / max(test.bound, 1e-12))
    found = [finding.name for finding in page.report.findings if finding.of == "feature"]
    first = list(dict.fromkeys(found))
    rest = [name for name in sorted(nearest, key=lambda name: -nearest[name]) if name not in first][:OTHERS_SHOWN]
    made = [
        _card(
            page.cells[name],
            name,
            page.cells[name].kind,
            page.held.columns[name],
            page.tally.columns[name],
            _about(page, "feature", name),
        )
        for name in [*first, *rest]
    ]
    answers = [
        _card(
            page.score_cells[label], label or "answer", "prediction", page.scores[label], count, _about(page, "prediction", label)
        )
        for label, count in page.tally.scores.items()
        if label in page.scores
    ]
    return [*made[: len(first)], *answers, *made[len(first) :]]


def _about(page: Page, of: str, name: str) -> tuple[Finding, ...]:
    return tuple(finding for finding in page.report.findings if (finding.of, finding.name) == (of, name))


def _card(cells: Cells, name: str, role: str, was: Count, now: Count, findings: tuple[Finding, ...]) -> Card:
    words = cells.kind == "category"
    rows = [max(cells.rows(one), 1) for one in (was, now)]
    facts = [("missing", percent(was.missing / rows[0]), percent(now.missing / rows[1]))]
    if words:
        facts.append(("never seen", percent(was.strange / rows[0]), percent(now.strange / rows[1])))
    elif cells.kind != "date":
        facts += [
            ("mean", short_figure(was.mean()), short_figure(now.mean())),
            ("spread", short_figure(was.spread()), short_figure(now.spread())),
        ]
    chart = paired_words(cells, was, now) if words else paired_bars(cells, was, now) if cells.count > 1 else Markup("")
    return Card(name, role, tuple(finding.what for finding in findings), chart, tuple(facts))


def paired_bars(cells: Cells, was: Count, now: Count) -> Markup:
    """Two bars for each cell, the reference's and the window's, side by side; cells are drawn equally wide."""
    before, here = shares(was.cells), shares(now.cells)
    top = max(*before, *here) or 1.0
    wide, bars = 100 / len(before), []
    for place, (one, other, name) in enumerate(zip(before, here, cells.names, strict=True)):
        said = f"{name}: {percent(other)}, was {percent(one)}"
        for offset, share, kind in ((0.06, one, "was"), (0.5, other, "now")):
            tall = max(HEIGHT * share / top, 0.6 if share else 0.0)
            bar = Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}</title></rect>')
            bars.append(bar.format(kind, (place + offset) * wide, HEIGHT - tall, 0.44 * wide, tall, said))
    ends = [f"{cells.low:.4g}", f"{cells.edges[len(cells.edges) // 2]:.4g}", f"{cells.high:.4g}"]
    labels = Markup("").join(Markup("<span>{}</span>").format(end) for end in ends)
    return Markup(
        '<figure class="chart"><svg style="--tall:76px" viewBox="0 0 100 {}" preserveAspectRatio="none" role="img" '
        'aria-label="distribution">{}</svg><div class="ends">{}</div></figure>'
    ).format(HEIGHT, Markup("").join(bars), labels)


def paired_words(cells: Cells, was: Count, now: Count) -> Markup:
    """Two bars for each of the words that moved most, and new ones."""
    before, here = shares(was.cells), shares(now.cells)
    rows = max(now.present + now.strange, 1)
    listed = [(name, one, other) for name, one, other in zip(cells.names, before, here, strict=True)]
    listed = sorted(listed, key=lambda word: -abs(word[2] - word[1]))[:WORDS_SHOWN]
    listed += [(f"rare or new: {word}", 0.0, count / rows) for word, count in now.new.most_common(3)]
    top = max((max(one, other) for _, one, other in listed), default=1.0) or 1.0
    line = Markup(
        '<li><span title="{0}">{0}</span><svg viewBox="0 0 100 11" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="was" width="{1:.1f}" height="5"/><rect class="now" y="6" width="{2:.1f}" height="5"/></svg><b>{3}</b></li>'
    )
    lines_ = [
        line.format(
            name,
            100 * one / top,
            100 * other / top,
            percent(other) + ("" if name.startswith("rare or new") else f", was {percent(one)}"),
        )
        for name, one, other in listed
    ]
    return Markup('<figure class="words"><ol>{}</ol></figure>').format(Markup("").join(lines_))


def lines(page: Page) -> list[Line]:
    """Quality beside the test part's: of all rows, then of the slices, those with a finding first."""
    was, now = page.quality
    if page.target is None or not now:
        return []
    task, made = page.target.task, []
    for name in now:
        if name not in was:
            continue
        worse = {
            test.kind
            for test in page.tests
            if test.of in ("quality", "calibration")
            and test.name == name
            and any(f.name == name and f.what == test.what for f in page.report.findings)
        }
        before, here = metrics(task, was[name]), metrics(task, now[name])
        for metric in (metric for metric in METRICS[task] if metric in before and metric in here):
            made.append(
                Line(
                    name or "all rows",
                    WORDS[metric],
                    _within(before[metric]),
                    _within(here[metric]),
                    now[name].rows,
                    metric in worse,
                )
            )
        if not name:
            made.append(
                Line(
                    "all rows",
                    "came less said",
                    _within(gap(was[name])),
                    _within(gap(now[name])),
                    now[name].rows,
                    "calibration" in worse,
                )
            )
    return sorted(made, key=lambda line: (line.name != "all rows", not line.worse, -line.rows))


def _within(one: Measured) -> str:
    return f"{one.value:.4f} ({one.value - WIDE * one.error:.4f} to {one.value + WIDE * one.error:.4f})"


def _curve(page: Page) -> Markup:
    """What came against what was said, of test part and window; empty but for two classes."""
    was, now = (curve(one[""]) if "" in one else [] for one in page.quality)
    if not now:
        return Markup("")
    top = max(value for points in (was, now) for point in points for value in point[:2]) * 1.08 or 1.0

    def path(points: Sequence[tuple[float, float, int]]) -> str:
        return " ".join(f"{1000 * said / top:.1f},{240 - 240 * came / top:.1f}" for said, came, _ in points)

    dots = [
        Markup('<path class="dot" d="M{:.1f} {:.1f}h.01"><title>{}</title></path>').format(
            1000 * said / top, 240 - 240 * came / top, f"said {percent(said)}, came {percent(came)}, {rows:,} rows"
        )
        for said, came, rows in now
    ]
    down = Markup("").join(Markup('<span style="top:{}%">{}</span>').format(100 - 50 * i, percent(top * i / 2)) for i in (0, 1, 2))
    along = Markup("").join(Markup('<span style="left:{}%">{}</span>').format(40 * i, percent(top * 0.4 * i)) for i in (1, 2))
    return Markup(
        '<div class="plot"><div class="y" aria-hidden="true">{}</div><svg viewBox="0 0 1000 240" preserveAspectRatio="none" '
        'role="img" aria-label="calibration"><path class="grid" d="M0 240L1000 0"/><polyline class="was" points="{}"/>'
        '<polyline points="{}"/>{}</svg>'
        '<div class="x" aria-hidden="true">{}</div></div>'
    ).format(down, path(was), path(now), Markup("").join(dots), along)


def odds(p: float) -> str:
    """Odds for people."""
    if p >= 0.01 or math.isnan(p):
        return f"{p:.2f}"
    return f"1 in {1 / p:,.0f}" if p > 1e-6 else "less than 1 in a million"
