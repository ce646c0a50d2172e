"""Stage validate: holds the table against its contract; writes the rows that keep it, the rows that do not, and a report."""

import html
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks import stage, statistics
from tasks.core import contract
from tasks.core.contract import Kind, Violation
from tasks.core.errors import DataError
from tasks.core.target import as_text
from tasks.frozen import load_schema
from tasks.outcome import Outcome, render, summarise, tell
from tasks.params import Privacy, Split, Table, Validate
from tasks.parts import assign_parts
from tasks.protection import in_words
from tasks.repeats import find_repeats
from tasks.rules import Demand, check_expressions, demands, of_rows
from tasks.scan import Scan, scan
from tasks.shards import read_shards, shard_paths, table_schema
from tasks.statistics import Distance
from tasks.trend import rows_by_day, split_sizes, target_over_time

log = logging.getLogger("tasks.validate")

SAME = "equals an earlier row"
REMEDY = "if the data is right, change the query or the rules in params.yaml, or see what the schema says: python -m flows.schema"
CAST = (
    "if the data is right, cast the column in the query, TRY_CAST(x AS DOUBLE), or give it another role under table in params.yaml"
)
IMAGES = (
    "image files are a source of their own, {kind: file, file: photos/*.jpg, format: bytes}, whose column content the query joins "
    "by its column path; bytes of Parquet or a database land as hexadecimal text: unhex(x) AS x"
)
REFUSED = Path("reports/refused.html")  # the data report of a table that the stage refused, until it takes one


def validate_table(
    seed: int,
    privacy: Privacy,
    table: Table,
    validate: Validate,
    split: Split,
    *,
    raw: Path,
    sets: Path,
    snapshot: Path,
    schema: Path,
    released: Path,
    valid: Path,
    quarantine: Path,
    reference: Path,
    data_report: Path,
    summary: Path,
) -> None:
    """`valid` holds the rows that keep every rule, `quarantine` the others with the rule; or nothing, and a DataError.

    `released` holds the statistics that the last release learned on, or nothing, and tells how far this table is from them.
    A table that is refused leaves its report at REFUSED.
    """
    frozen, before = load_schema(schema), statistics.parse_statistics(released.read_bytes(), str(released))
    with stage.replacing(valid) as valid_aside, stage.replacing(quarantine) as quarantine_aside:
        demanded, same = prepare(table, validate, raw, sets)
        limits = {feature.name: contract.allowed(feature, frozen) for feature in frozen.feature}
        found = scan(raw, table, demanded, limits, valid=valid_aside, quarantine=quarantine_aside)
        wrong_target = list(target_violations(found, table)) if found.valid else []
        if wrong_target or not found.valid:  # of which no report can be made
            check_budget(demanded, found, validate)
            refuse("breaks its contract", wrong_target)

        described = statistics.describe(found.sketch, table_schema(raw).names)
        stops, warns = hold_against_schema(found, described, frozen, table)
        distances = drift(described, before, frozen, table, validate) if before else []
        outcome = Outcome(
            found,
            demanded,
            len(same),
            described,
            before,
            distances,
            [*stops, *warns],
            target_over_time(valid_aside, table),
            rows_by_day(valid_aside, dates_of(table, table_schema(valid_aside))),
            split_sizes(valid_aside, table, assign_parts(valid_aside, table, split, seed)),
        )
        page = render(outcome, table, validate, in_words(privacy), json.loads(snapshot.read_text()))
        try:
            check_duplicates(same, validate)
            check_budget(demanded, found, validate)
            refuse("breaks its contract", stops)
            check_drift(distances, validate)
        except DataError as error:
            with stage.replacing(REFUSED) as aside:
                aside.write_text(page, encoding="utf-8")
            raise DataError(f"{error}\n  The whole table as it was refused: {REFUSED}") from error
        stage.discard(REFUSED)
        for warning in warns:
            log.warning("%s (no role in params.yaml, so the run goes on)", warning)
        with (
            stage.replacing(reference) as reference_aside,
            stage.replacing(data_report) as report_aside,
            stage.replacing(summary) as summary_aside,
        ):
            reference_aside.write_bytes(described.SerializeToString(deterministic=True))
            report_aside.write_text(page, encoding="utf-8")
            summary_aside.write_text(json.dumps(summarise(outcome, table), indent=2))
    log.info("%s", tell(outcome, table))
    log.info("%.1f s of work over all processes, %.1f s of it TFDV's", found.seconds, found.sketch.seconds)


def dates_of(table: Table, columns: pa.Schema) -> list[str]:
    """The columns of the table that hold dates or times, as a feature or as its time."""
    return [
        name for name in dict.fromkeys((*([table.time] if table.time else []), *table.dates)) if _is_date(columns.field(name).type)
    ]


def _is_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def prepare(table: Table, validate: Validate, raw: Path, sets: Path) -> tuple[list[Demand], NDArray[np.int64]]:
    """What is demanded of the rows, and the numbers of rows that equal an earlier one; DataError for a wrong kind of values."""
    columns = table_schema(raw)
    kinds = column_kinds(table)
    if absent := sorted(kinds.keys() - set(columns.names)):
        raise DataError(f"the table lacks the columns {absent}, which params.yaml names; it has {columns.names}. Run ingest again")
    wrong = contract.check_kinds(read_shards(raw, list(kinds)), kinds)
    refuse("has the wrong kind of values", wrong, IMAGES if any(one.column in table.images for one in wrong) else CAST)
    for name in table.categories:
        if not pa.types.is_string(kind := columns.field(name).type) and not pa.types.is_dictionary(kind):
            log.info("column %r is taken as text, as a category, though its values are %s", name, kind)

    check_expressions(validate.rules, shard_paths(raw)[0])
    repeats = find_repeats(raw, [(), *(rule.unique for rule in validate.rules if rule.unique)], columns.names)
    floats = [*table.numbers, *([table.target] if table.task == "regression" else [])]
    found = demands(
        validate.rules,
        table,
        columns=columns.names,
        floats=[name for name in floats if pa.types.is_floating(columns.field(name).type)],
        sets=sets,
        repeats=repeats,
    )
    same = repeats[()]
    if validate.duplicates == "quarantine":
        found.append(Demand("", SAME, (), of_rows(same)))
    return found, same


def column_kinds(table: Table) -> dict[str, Kind]:
    """What the values of each column with a role must be."""
    target: Kind = "a number" if table.task == "regression" else "a number or text"
    time: dict[str, Kind] = {table.time: "a timestamp"} if table.time else {}
    return {
        **time,
        table.target: target,
        **dict.fromkeys(table.numbers, "a number"),
        **dict.fromkeys(table.categories, "text or whole numbers"),
        **dict.fromkeys(table.dates, "a timestamp"),
        **dict.fromkeys(table.texts, "text"),
        **dict.fromkeys(table.images, "the bytes of image files"),
    }


def refuse(what: str, violations: Sequence[Violation], remedy: str = REMEDY) -> None:
    """DataError with every violation, when there is one."""
    if violations:
        listing = "\n  ".join(map(str, violations))
        raise DataError(
            f"the table {what}; nothing after this was run and the last release stands\n  {listing}\n  Correct the source; {remedy}"
        )


def check_duplicates(same: NDArray[np.int64], validate: Validate) -> None:
    """DataError when there are rows that equal an earlier one and validate.duplicates is stop."""
    if validate.duplicates == "stop" and len(same):
        examples = tuple(f"row {row}" for row in same[:3])
        refuse("has duplicates (validate.duplicates is stop)", [Violation("", SAME, len(same), examples)])


def check_budget(demanded: Sequence[Demand], found: Scan, validate: Validate) -> None:
    """DataError when more rows break rules, or one rule, than the budgets allow, or too few are left."""
    worst = sorted(found.broken.values(), key=lambda one: -(one.rows or 0))
    bad = found.rows - found.valid
    if bad > validate.max_quarantined * found.rows:
        refuse(
            f"has {bad:,} of {found.rows:,} rows that break a rule, over the budget of "
            f"{validate.max_quarantined:.1%} (validate.max_quarantined)",
            worst,
        )
    over = [one for one in worst if one.budget is not None and (one.rows or 0) > one.budget * found.rows]
    refuse("has more rows that break a rule than the rule's own budget", [_with_budget(one, found.rows) for one in over])
    if found.valid < validate.min_rows:
        raise DataError(
            f"the table has {found.valid:,} valid rows; expected at least {validate.min_rows:,} (validate.min_rows)"
        )  # fmt: skip


def _with_budget(one: Violation, rows: int) -> Violation:
    return replace(one, rule=f"{one.rule}: {(one.rows or 0) / rows:.2%} of the rows, budget {one.budget:.2%}")


def target_violations(found: Scan, table: Table) -> Iterable[Violation]:
    """A violation unless the target holds every class, and nothing else; or, of a regression, more than one value."""
    names = [as_text(label) for label in table.classes]
    if found.no_class:
        expected = f"neither {names[0]} nor {names[1]}" if table.task == "binary" else f"none of {', '.join(names)}"
        yield replace(found.no_class, rule=f"the target is {expected}")
    elif table.task == "regression" and len(found.classes) < 2:
        (only,) = found.classes
        yield Violation(table.target, f"the target is always {only}; expected different numbers", found.valid, ())
    elif table.task == "binary" and len(found.classes) < 2:
        (only,) = found.classes
        both = f"expected both {names[0]} and {names[1]}"
        yield Violation(table.target, f"the target has one class, {only}; {both}", found.valid, ())
    elif absent := [name for name in names if name not in found.classes]:
        yield Violation(table.target, f"the target never is {', '.join(absent)}; expected every one of table.classes", None, ())


def hold_against_schema(found: Scan, described: Any, frozen: Any, table: Table) -> tuple[list[Violation], list[Violation]]:
    """What TFDV finds that the schema forbids: of columns that params.yaml gives a role, and of others."""
    used = {table.target, *table.features, *table.slices}
    stops: list[Violation] = []
    warns: list[Violation] = []
    for column, anomaly in statistics.find_anomalies(described, frozen).items():
        if column == table.time:
            continue
        rule = html.unescape(f"{anomaly.short_description}: {anomaly.description}")
        one = _behind(found, column, rule)
        (stops if column in used else warns).append(one)
    return stops, warns


def _behind(found: Scan, column: str, rule: str) -> Violation:
    """The anomaly with the rows that it is about; all of them where it is not about single ones."""
    offence = found.offences.get(column)
    return replace(offence, rule=rule) if offence else Violation(column, rule, found.valid, ())


def drift(described: Any, before: Any, frozen: Any, table: Table, validate: Validate) -> list[Distance]:
    """How far each column is from what the last release learned on."""
    kinds = {feature.path.step[0]: feature.WhichOneof("stats") for feature in described.datasets[0].features}
    used = [column for column in (table.target, *table.features, *table.slices) if column not in table.texts]
    return statistics.find_drift(
        described,
        before,
        frozen,
        categories={name: validate.drift.categories for name in used if kinds.get(name) == "string_stats"},
        numbers={name: validate.drift.numbers for name in used if kinds.get(name) == "num_stats"},
    )


def check_drift(distances: Sequence[Distance], validate: Validate) -> None:
    """Tell of every distance beyond its threshold; DataError where that stops."""
    said = "{0.measure} distance {0.value:.3f} from the last release's data, over {0.threshold:g}"
    far = [Violation(one.column, said.format(one), None, ()) for one in distances if one.beyond]
    if validate.drift.beyond == "stop":
        refuse("has drifted from what the last release learned on (validate.drift.beyond is stop)", far)
    for one in far:
        log.warning("%s", one)


if __name__ == "__main__":
    stage.main(validate_table)
