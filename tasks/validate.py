"""Stage validate: holds the table against its contract; writes the rows that keep it, the rows that do not, and a report."""

import html
import json
import logging
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera as pa_rules
import pyarrow as pa

from tasks import stage, statistics
from tasks.core import columns, contract, report
from tasks.core.contract import Violation
from tasks.core.errors import DataError
from tasks.core.timeline import Period
from tasks.frozen import load_schema
from tasks.params import Rule, Table, Validate
from tasks.shards import read_shards, write_shards

log = logging.getLogger("tasks.validate")


def validate_table(
    table: Table,
    validate: Validate,
    *,
    raw: Path,
    schema: Path,
    valid: Path,
    quarantine: Path,
    reference: Path,
    data_report: Path,
    summary: Path,
) -> None:
    """`valid` holds the rows that keep every rule, `quarantine` the others with the rule; or nothing, and a DataError."""
    frozen = load_schema(schema)
    rows = pa.concat_tables(read_shards(raw))
    refuse(
        "has the wrong kind of values",
        contract.check_kinds(rows, time=table.time, target=table.target, numbers=table.numbers, categories=table.categories),
    )
    frame = rows.to_pandas()
    broken = break_rules(frame, validate.rules, table.numbers)
    bad = np.any([mask for _, mask in broken], axis=0)
    check_budget(frame, broken, bad, validate)

    good = rows.filter(pa.array(~bad))
    described = statistics.describe(statistics.to_frame(good, time=table.time, numbers=table.numbers))
    kept = frame[~bad]
    refuse("breaks its contract", [*target_violations(kept, table.target), *schema_violations(kept, described, frozen)])

    rate = float(kept[table.target].mean())
    counts = {"rows": len(frame), "valid": len(kept), "quarantined": int(bad.sum()), "target_rate": rate}
    by_rule = [contract.violation(rule.column, words(rule), frame[rule.column].to_numpy(), mask) for rule, mask in broken]
    page = report.render(
        report.Report(
            title=f"Data report: {table.target}",
            target=table.target,
            task=table.task,
            counts=report.Counts(len(frame), len(kept), int(bad.sum()), validate.max_quarantined),
            columns=columns.columns_from_statistics(
                described, None, roles=column_roles(table), drift={}, privacy={}, notes={}, days=rows_by_day(kept, table)
            ),
            classes=tuple(report.ClassRows(str(label), int((kept[table.target] == label).sum())) for label in table.classes),
            periods=target_by_week(kept, table),
            rules=tuple(report.Rule(found.column, found.rule, found.rows, None, found.examples) for found in by_rule),
        )
    )
    with (
        stage.replacing(valid) as valid_aside,
        stage.replacing(quarantine) as quarantine_aside,
        stage.replacing(reference) as reference_aside,
        stage.replacing(data_report) as report_aside,
        stage.replacing(summary) as summary_aside,
    ):
        write_shards((shard.filter(pa.array(~bad[start:end])) for shard, start, end in spans(raw)), valid_aside, rows.schema)
        write_quarantine(rows, broken, bad, quarantine_aside)
        reference_aside.write_bytes(described.SerializeToString(deterministic=True))
        report_aside.write_text(page, encoding="utf-8")
        summary_aside.write_text(json.dumps(counts, indent=2))
    log.info("%s rows valid, %s in quarantine; %.1f%% positive", f"{len(kept):,}", f"{int(bad.sum()):,}", 100 * rate)


def spans(folder: Path) -> Iterable[tuple[pa.Table, int, int]]:
    """Each shard with the numbers of its first row and of the row after its last."""
    start = 0
    for shard in read_shards(folder):
        yield shard, start, start + len(shard)
        start += len(shard)


def refuse(what: str, violations: list[Violation]) -> None:
    """DataError with every violation, when there is one."""
    if violations:
        listing = "\n  ".join(map(str, violations))
        raise DataError(
            f"the table {what}; nothing after this was run and the last release stands\n  {listing}\n"
            "  Correct the source; if the data is right, change the query, the rules in params.yaml, or data/schema.pbtxt"
        )


def break_rules(frame: pd.DataFrame, rules: Iterable[Rule], numbers: Iterable[str]) -> list[tuple[Rule, np.ndarray[Any, Any]]]:
    """For each rule, and for infinite numbers, the rows that break it."""
    demands = [*rules, *(Rule(column=column, min=-1.7e308, max=1.7e308) for column in numbers)]
    if absent := [rule.column for rule in demands if rule.column not in frame]:
        raise DataError(f"validate.rules name columns {absent} that the table lacks; it has {list(frame.columns)}")
    return [(rule, rows_breaking(frame[rule.column], rule)) for rule in demands]


def rows_breaking(values: pd.Series, rule: Rule) -> np.ndarray[Any, Any]:
    """True where pandera finds the value to break the rule."""
    column = pa_rules.SeriesSchema(None, checks=as_checks(rule), nullable=not rule.not_null)
    broken = np.zeros(len(values), bool)
    try:
        column.validate(values.reset_index(drop=True), lazy=True)
    except pa_rules.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            raise DataError(
                f"column {rule.column!r}: rule {words(rule)!r} cannot be applied to {values.dtype}: {cases['failure_case'].iloc[0]}"
            ) from errors
        broken[cases["index"].astype(int).unique()] = True
    return broken


def as_checks(rule: Rule) -> list[pa_rules.Check]:
    checks = []
    if rule.min is not None:
        checks.append(pa_rules.Check.ge(rule.min))
    if rule.max is not None:
        checks.append(pa_rules.Check.le(rule.max))
    if rule.one_of is not None:
        checks.append(pa_rules.Check.isin(list(rule.one_of)))
    if rule.matches is not None:
        checks.append(pa_rules.Check.str_matches(f"^(?:{rule.matches})$"))
    return checks


def words(rule: Rule) -> str:
    """The rule as a person reads it."""
    if rule.max == 1.7e308:
        return "finite"
    parts = [
        f"at least {rule.min:g}" if rule.min is not None else "",
        f"at most {rule.max:g}" if rule.max is not None else "",
        f"one of {list(rule.one_of)}" if rule.one_of is not None else "",
        f"matches {rule.matches}" if rule.matches is not None else "",
        "not missing" if rule.not_null else "",
    ]
    return ", ".join(part for part in parts if part)


def check_budget(
    frame: pd.DataFrame, broken: list[tuple[Rule, np.ndarray[Any, Any]]], bad: np.ndarray[Any, Any], validate: Validate
) -> None:
    """DataError when more rows break rules than the budget allows, or too few are left."""
    budget = validate.max_quarantined * len(frame)
    if bad.sum() > budget:
        found = [contract.violation(rule.column, words(rule), frame[rule.column].to_numpy(), mask) for rule, mask in broken]
        refuse(
            f"has {int(bad.sum()):,} of {len(frame):,} rows that break a rule, over the budget of "
            f"{validate.max_quarantined:.1%} (validate.max_quarantined)",
            sorted((one for one in found if one.rows), key=lambda one: -one.rows),
        )
    if len(frame) - bad.sum() < validate.min_rows:
        left = len(frame) - int(bad.sum())
        raise DataError(f"the table has {left:,} valid rows; expected at least {validate.min_rows:,} (validate.min_rows)")


def schema_violations(frame: pd.DataFrame, described: Any, frozen: Any) -> Iterable[Violation]:
    """TFDV's anomalies, with the rows behind each."""
    for column, anomaly in statistics.find_anomalies(described, frozen).items():
        rule = html.unescape(anomaly.short_description + ": " + anomaly.description)
        if column in frame:
            yield contract.violation(column, rule, frame[column].to_numpy(), contract.offenders(frame, column, frozen))
        else:
            yield Violation(column, rule, len(frame), ())


def target_violations(frame: pd.DataFrame, target: str) -> Iterable[Violation]:
    """A violation unless the target holds 0 and 1, both, and nothing else."""
    values = frame[target]
    strange = ~values.isin([0, 1]).to_numpy()
    if strange.any():
        yield contract.violation(target, "the target is neither 0 nor 1", values.to_numpy(), strange)
    elif values.nunique() < 2:
        everywhere = np.ones(len(values), bool)
        yield contract.violation(target, "the target has one class; expected both 0 and 1", values.to_numpy(), everywhere)


def write_quarantine(
    rows: pa.Table, broken: list[tuple[Rule, np.ndarray[Any, Any]]], bad: np.ndarray[Any, Any], folder: Path
) -> None:
    """The bad rows with a column `rule` that names every rule they broke; an empty shard when there are none."""
    places = np.flatnonzero(bad)
    names = ["; ".join(f"{rule.column}: {words(rule)}" for rule, mask in broken if mask[place]) for place in places]
    rejected = rows.filter(pa.array(bad)).append_column("rule", pa.array(names, pa.string()))
    write_shards([rejected], folder, rejected.schema)


def column_roles(table: Table) -> dict[str, str]:
    """What each column is for, in one word."""
    named = {
        table.target: "target",
        **({table.time: "time"} if table.time else {}),
        **dict.fromkeys(table.numbers, "number"),
        **dict.fromkeys(table.categories, "category"),
    }
    return {**named, **{column: "slice" for column in table.slices if column not in named}}


def target_by_week(frame: pd.DataFrame, table: Table) -> tuple[Period, ...]:
    """For each week its first day, the share of positive rows, and how many rows it has."""
    if table.time is None:
        return ()
    weeks = frame.groupby(frame[table.time].dt.to_period("W").dt.start_time)[table.target].agg(["mean", "size"])
    return tuple(Period(week.date(), int(row["size"]), (float(row["mean"]),)) for week, row in weeks.iterrows())


def rows_by_day(frame: pd.DataFrame, table: Table) -> dict[str, dict[date, int]]:
    """How many rows each day of the time has."""
    return {table.time: dict(frame[table.time].dt.date.value_counts())} if table.time else {}


if __name__ == "__main__":
    stage.main(validate_table)
