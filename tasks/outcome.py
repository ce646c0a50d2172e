"""What a validation came to: its figures, its words, and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.core import report
from tasks.core.columns import Drift, columns_from_statistics
from tasks.core.contract import Violation
from tasks.core.looks import Days
from tasks.core.target import as_text
from tasks.core.timeline import Period
from tasks.params import Table, Validate
from tasks.rules import Demand
from tasks.scan import Scan
from tasks.statistics import Distance


@dataclass(frozen=True)
class Outcome:
    """All that the report and the summary tell of."""

    found: Scan
    demands: Sequence[Demand]
    duplicates: int
    described: Any  # TFDV's statistics of the valid rows
    released: Any  # those that the last release learned on, or None
    distances: Sequence[Distance]
    warnings: Sequence[Violation]  # what the schema forbids of columns without a role
    course: Sequence[Period]
    days: Mapping[str, Days]  # rows of each day of the columns that hold dates
    splits: Sequence[report.Part]

    @property
    def rules(self) -> list[Violation]:
        """Every rule with the rows that broke it, none included, and its budget."""
        return [
            self.found.broken.get(one.told, Violation(one.name, one.words, 0, (), one.budget)) for one in self.demands
        ]  # fmt: skip


def summarise(outcome: Outcome, table: Table) -> dict[str, Any]:
    """The figures of the run: plain, nested by what they are of."""
    found = outcome.found
    return {
        "rows": found.rows,
        "valid": found.valid,
        "quarantined": found.rows - found.valid,
        "duplicates": outcome.duplicates,
        "rules": {one.told: found.broken[one.told].rows for one in outcome.demands if one.told in found.broken},
        "target": target_figures(outcome, table),
        "drift": {one.column: asdict(one) | {"beyond": one.beyond} for one in outcome.distances},
        "schema_warnings": [str(one) for one in outcome.warnings],
    }


def target_figures(outcome: Outcome, table: Table) -> dict[str, float]:
    """The mean of a number, or the share of each class."""
    if table.task == "regression":
        rows = sum(period.rows for period in outcome.course)
        return {"mean": sum(period.rows * period.values[0] for period in outcome.course) / rows}
    return {as_text(label): outcome.found.classes[as_text(label)] / outcome.found.valid for label in table.classes}


def tell(outcome: Outcome, table: Table) -> str:
    """The run in one line."""
    found, figures = outcome.found, target_figures(outcome, table)
    said = f"{found.valid:,} rows valid, {found.rows - found.valid:,} in quarantine"
    said += f", {outcome.duplicates:,} duplicates" if outcome.duplicates else ""
    if table.task == "regression":
        return f"{said}; mean {table.target} {figures['mean']:,.6g}"
    if table.task == "binary":
        return f"{said}; {100 * figures[as_text(table.classes[1])]:.1f}% positive"
    return f"{said}; {', '.join(f'{100 * share:.1f}% {name}' for name, share in figures.items())}"


def render(outcome: Outcome, table: Table, validate: Validate, done: Mapping[str, str], snapshot: Mapping[str, Any]) -> str:
    """The data report, from all that is known; `done` says what privacy made of each column."""
    found = outcome.found
    notes: dict[str, list[str]] = {}
    for one in outcome.warnings:
        notes.setdefault(one.column, []).append(one.rule)
    return report.render(
        report.Report(
            title=f"Data report: {table.target}",
            target=table.target,
            task=table.task,
            counts=report.Counts(found.rows, found.valid, found.rows - found.valid, validate.max_quarantined, outcome.duplicates),
            columns=columns_from_statistics(
                outcome.described,
                outcome.released,
                roles=column_roles(table),
                drift={one.column: Drift(one.value, one.threshold, one.measure) for one in outcome.distances},
                privacy=done,
                notes=notes,
                days=outcome.days,
            ),
            classes=tuple(report.ClassRows(as_text(label), found.classes[as_text(label)]) for label in table.classes),
            periods=tuple(outcome.course) if table.time else (),
            splits=tuple(outcome.splits),
            rules=tuple(report.Rule(one.column, one.rule, one.rows or 0, one.budget, one.examples) for one in outcome.rules),
            sources=tuple(report.Source(name, rows) for name, rows in snapshot["source_rows"].items()),
            time_range=(snapshot["first"], snapshot["last"]) if snapshot["first"] else None,
            content=snapshot["content"],
            schema_notes=tuple(str(one) for one in outcome.warnings),
        )
    )


def column_roles(table: Table) -> dict[str, str]:
    """What each column is for, in one word, in the order of the report."""
    roles = {table.target: "target"} | ({table.time: "time"} if table.time else {})
    named = {"number": table.numbers, "category": table.categories, "date": table.dates, "text": table.texts, "slice": table.slices}
    for role, columns in named.items():
        for column in columns:
            roles.setdefault(column, role)
    return roles
