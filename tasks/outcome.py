"""What a validation came to: its figures, its words, and its report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.core import report
from tasks.core.contract import Violation
from tasks.core.target import as_text
from tasks.params import Table
from tasks.rules import Demand
from tasks.scan import Scan
from tasks.statistics import Distance
from tasks.trend import Period


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
        "seconds": {"work": round(found.seconds, 2), "tfdv": round(found.sketch.seconds, 2)},
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


def render(outcome: Outcome, table: Table) -> str:
    """The data report, from all that is known; the one place that calls it."""
    rate = [(str(period.start), period.values[0], period.rows) for period in outcome.course]
    counts = {
        "rows": outcome.found.rows,
        "valid": outcome.found.valid,
        "quarantined": outcome.found.rows - outcome.found.valid,
        "target_rate": target_figures(outcome, table).get(as_text(table.classes[1]) if table.classes else "", 0.0),
    }
    return report.render(
        title=f"Data report: {table.target}",
        counts=counts,
        statistics=outcome.described,
        roles=column_roles(table),
        violations=[one for one in outcome.rules if one.rows],
        rate=rate,
        target=table.target,
    )


def column_roles(table: Table) -> dict[str, str]:
    """What each column is for, in one word."""
    return {
        **dict.fromkeys(table.slices, "slice"),
        **dict.fromkeys((*table.numbers, *table.dates), "number"),
        **dict.fromkeys((*table.categories, *table.texts), "category"),
        table.target: "target",
    }
