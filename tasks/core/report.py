"""The data report: one HTML page that opens offline, on which a person decides whether a table is sane."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.core import svg, timeline
from tasks.core.columns import Column
from tasks.core.looks import About, Finding
from tasks.core.svg import Word, percent, short
from tasks.core.timeline import Period

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(percent=percent, short=short)

NEAR = 0.5  # of a budget: from here on it stands out
CLASSES = 12  # of the target that are shown apart
NAMED = 10  # columns that a line of the list at the top names
# How a line of the list at the top begins, the gravest first.
HEADINGS: dict[About, tuple[str, str]] = {
    "schema": ("does not fit the schema", "do not fit the schema"),
    "drift": ("drifted from the last release", "drifted from the last release"),
    "empty": ("has no value at all", "have no value at all"),
    "missing": ("is missing in many rows", "are missing in many rows"),
    "infinite": ("holds infinite values or NaN", "hold infinite values or NaN"),
    "constant": ("has the same value in every row", "have the same value in every row"),
    "identifier": ("has another value in every row", "have another value in every row"),
}


@dataclass(frozen=True)
class Counts:
    """Rows of the whole table; `budget` is the share of them that may go to quarantine, `duplicates` None when not counted."""

    rows: int
    valid: int
    quarantined: int
    budget: float
    duplicates: int | None = None


@dataclass(frozen=True)
class Source:
    name: str
    rows: int


@dataclass(frozen=True)
class ClassRows:
    """A class of the target and the valid rows of it."""

    label: str
    rows: int


@dataclass(frozen=True)
class Part:
    """A side of the split; `rate` is its target's mean, of a binary one the share of the positive class, None of several."""

    name: str
    rows: int
    rate: float | None


@dataclass(frozen=True)
class Rule:
    """A row rule with the rows that break it, none or more; `column` may name several, or none for an expression."""

    column: str
    words: str
    rows: int
    budget: float | None
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All that the page says; what is empty is left out of it.

    classes: in the order of params.yaml, none of a regression; content: the hash of the table; schema_notes: differences from
    the schema, and warnings: whatever else is to be looked at, each one sentence.
    """

    title: str
    target: str
    task: Literal["binary", "multiclass", "regression"]
    counts: Counts
    columns: tuple[Column, ...]
    classes: tuple[ClassRows, ...] = ()
    periods: tuple[Period, ...] = ()
    splits: tuple[Part, ...] = ()
    rules: tuple[Rule, ...] = ()
    sources: tuple[Source, ...] = ()
    time_range: tuple[str, str] | None = None
    content: str = ""
    schema_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of the list at the top: a sentence, then columns as (anchor, name, brief), and how many more there are."""

    words: str
    columns: tuple[tuple[str, str, str], ...] = ()
    more: int = 0


def render(report: Report) -> str:
    """The page as text."""
    anchors = _anchors(report.columns)
    # What is not on the page when it is written cannot run: the page's policy allows the one script with this hash.
    script = ENVIRONMENT.get_template("data.js").render()
    return ENVIRONMENT.get_template("data.html").render(
        report=report,
        cards=list(zip(anchors, map(partial(_card, report), report.columns), strict=True)),
        lines=list(look_at(report)),
        roles=list(dict.fromkeys(column.role for column in report.columns)),
        kinds=list(dict.fromkeys(column.kind for column in report.columns)),
        target=next((column for column in report.columns if column.name == report.target), None),
        distribution=_distribution(report.classes),
        over_time=_over_time(report),
        split_bar=svg.stacked([(part.name, part.rows / max(sum(p.rows for p in report.splits), 1)) for part in report.splits]),
        what=_measured(report),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _card(report: Report, column: Column) -> Column:
    """The column as its card shows it: a target of classes by their rows, counted, where statistics only estimate them."""
    if column.name != report.target or not report.classes:
        return column
    return replace(column, chart=_distribution(report.classes), facts=())


def look_at(report: Report) -> Iterator[Line]:
    """What stands out, the gravest first; nothing when the table is as it should be."""
    counts = report.counts
    if counts.quarantined > NEAR * counts.budget * counts.rows:
        share = percent(counts.quarantined / max(counts.rows, 1))
        yield Line(f"{counts.quarantined:,} rows ({share}) are in quarantine; the budget is {percent(counts.budget)}")
    for rule in report.rules:
        if rule.budget is not None and rule.rows > NEAR * rule.budget * counts.rows:
            share = percent(rule.rows / max(counts.rows, 1))
            yield Line(f"{rule.rows:,} rows ({share}) break “{_named(rule)}”; its budget is {percent(rule.budget)}")
    anchors = _anchors(report.columns)
    for about, (one, several) in HEADINGS.items():
        found = [
            (finding.weight, (anchor, column.name, finding.brief))
            for anchor, column in zip(anchors, report.columns, strict=True)
            for finding in _first(column, about)
        ]
        if found:
            words = f"1 column {one}" if len(found) == 1 else f"{len(found)} columns {several}"
            named = [column for _, column in sorted(found, key=lambda pair: -pair[0])[:NAMED]]
            yield Line(words, tuple(named), len(found) - len(named))
    if counts.duplicates:
        yield Line(f"{counts.duplicates:,} rows ({percent(counts.duplicates / counts.rows)}) equal another one in every column")
    yield from map(Line, report.warnings)


def _named(rule: Rule) -> str:
    named = f"{rule.column}: {rule.words}" if rule.column else rule.words
    return named if len(named) <= 100 else f"{named[:100]}…"


def _first(column: Column, about: About) -> list[Finding]:
    """The column's finding about that, in a list of one, or none."""
    return [finding for finding in column.findings if finding.about == about][:1]


def _anchors(columns: Sequence[Column]) -> list[str]:
    """A name for each card that can stand in an address, the same from run to run."""
    taken: dict[str, int] = {}
    anchors = []
    for column in columns:
        plain = re.sub(r"\W+", "-", column.name)[:60].strip("-") or "column"
        taken[plain] = taken.get(plain, 0) + 1
        anchors.append(f"column-{plain}" + (f"--{taken[plain]}" if taken[plain] > 1 else ""))
    return anchors


def _distribution(classes: Sequence[ClassRows]) -> Markup:
    """The classes' shares, the fewest rows of many as one."""
    total = sum(one.rows for one in classes) or 1
    large = classes if len(classes) <= CLASSES else sorted(classes, key=lambda one: -one.rows)[:CLASSES]
    rest = total - sum(one.rows for one in large)
    others = Word(f"{len(classes) - len(large)} others", rest, rest / total) if len(large) < len(classes) else None
    return svg.word_bars([Word(one.label, one.rows, one.rows / total) for one in large], others) if classes else Markup("")


def _measured(report: Report) -> str:
    """What is measured of the target, in words."""
    if report.task == "binary" and len(report.classes) == 2:
        return f"{report.target} = {report.classes[1].label}"
    return report.target


def _over_time(report: Report) -> Markup:
    if not report.periods:
        return Markup("")
    match report.task:
        case "binary":
            return timeline.rate_over_time(report.periods, _measured(report))
        case "regression":
            return timeline.mean_over_time(report.periods, _measured(report))
        case "multiclass":
            return timeline.shares_over_time(report.periods, [one.label for one in report.classes])
