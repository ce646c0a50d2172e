"""Writes params.yaml from a plan: every value with its comment, every column name exactly as it is."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.core.guess import Decision
from tasks.core.guess_target import Cast
from tasks.core.metrics import METRICS
from tasks.engine import literal, quoted
from tasks.params import Source
from tasks.plan import NAME, SEED, Plan

WIDTH = 120
# Words that some reader of YAML takes for something else than text.
YAML_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def draft(plan: Plan) -> str:
    """The text of params.yaml."""
    text = ENVIRONMENT.get_template("params.yaml").render(
        plan=plan,
        sizes=plan.sizes,
        seed=SEED,
        source_name=NAME,
        source=_said(plan.source),
        dropped=plan.dropped,
        kept=plan.kept,
        time_why=_time_why(plan),
        query=_query(plan),
        rules=_rules(plan),
        split=_split(plan),
        split_why=_split_why(plan),
        metrics=" and ".join(METRICS[plan.target.task]),
        scalar=scalar,
        flow=flow,
        listing=listing,
        comment=comment,
        decisions=decisions,
    )
    # Comments behind plain values stand below each other, however long the values came out.
    return re.sub(r"^( *\w+: [\w.:-]+) +(#.*)$", lambda line: f"{line[1]:<22} {line[2]}", text, flags=re.MULTILINE)


def scalar(value: Any) -> str:
    """The value on one line of YAML, read back as the same one."""
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and value.lower() not in YAML_WORDS:
        return value
    whole = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in whole)


def flow(value: Any) -> str:
    """Mappings and sequences between brackets, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def listing(reasons: Mapping[str, str], indent: int) -> str:
    """A line for each name, with the reason behind it; an empty list where there is none."""
    if not reasons:
        return " []"
    names = [scalar(name) for name in reasons]
    width = min(max(map(len, names)), 30)
    lines = [f"- {name:{width}}   # {comment(why)}" for name, why in zip(names, reasons.values(), strict=True)]
    return "\n" + "\n".join(" " * indent + line for line in lines)


def decisions(of: Iterable[Decision]) -> dict[str, str]:
    return {one.name: one.why for one in of}


def comment(text: str) -> str:
    """The text as one line that holds nothing a reader of YAML would stumble on."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))


def _said(source: Source) -> dict[str, Any]:
    return source.model_dump(exclude_defaults=True, mode="json")


def _query(plan: Plan) -> str:
    """The SELECT as a block of YAML, or between quotes when a column's name holds what no block can."""
    decided = {one.name: one for one in plan.having("target", "number", "category", "date", "text")}
    columns = [_expression(one.name, one.cast) for one in decided.values()]
    if plan.time and plan.time not in decided:
        columns.append(_expression(plan.time, "time"))
    lines = ["SELECT", *(f"  {line}" for line in _wrapped(columns)), f"FROM {NAME}", *_conditions(plan)]
    text = "\n".join(lines) + "\n"
    names = "".join(decided) + (plan.time or "")
    return "|\n" + textwrap.indent(text.rstrip("\n"), "    ") if names.isprintable() else scalar(text)


def _wrapped(columns: list[str]) -> list[str]:
    """The columns with commas between them, as many to a line as go in."""
    lines = [""]
    for i, column in enumerate(columns):
        word = column + ("," if i + 1 < len(columns) else "")
        if lines[-1] and len(lines[-1]) + len(word) > WIDTH:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def _expression(name: str, cast: Cast) -> str:
    column = quoted(name)
    match cast:
        case "":
            return column
        case "text":
            return f"CAST({column} AS VARCHAR) AS {column}"
        case "number":
            number = f"CAST({column} AS DOUBLE)"  # which "inf" and "nan" are too
            return f"CASE WHEN isfinite({number}) THEN {number} END AS {column}"
        case "whole":
            return f"CAST({column} AS BIGINT) AS {column}"
        case "flag":
            return f"CAST({column} AS TINYINT) AS {column}"
        case "time":
            return f"TRY_CAST({column} AS TIMESTAMP) AS {column}"
        case "finite":
            return f"CASE WHEN isfinite({column}) THEN {column} END AS {column}"
        case _:
            raise AssertionError(cast)


def _conditions(plan: Plan) -> list[str]:
    """WHERE, with how many rows each condition leaves out."""
    target = plan.facts.column(plan.target.name)
    column = quoted(target.name)
    conditions = []
    if missing := target.missing - target.nan:
        conditions.append(f"{column} IS NOT NULL  -- {missing:,} of {target.rows:,} rows lack the target")
    if unreal := target.nan + target.infinite:
        conditions.append(f"isfinite({column})  -- {unreal:,} rows have no finite target")
    if plan.target.rare:
        rare = ", ".join(literal(str(label)) for label in plan.target.rare)
        conditions.append(f"CAST({column} AS VARCHAR) NOT IN ({rare})  -- classes of too few rows to be learned")
    if plan.time and (lacking := plan.facts.column(plan.time).missing):
        conditions.append(f"{quoted(plan.time)} IS NOT NULL  -- {lacking:,} rows lack the time")
    return [f"{'  AND' if i else 'WHERE'} {condition}" for i, condition in enumerate(conditions)]


def _rules(plan: Plan) -> list[dict[str, Any]]:
    target: dict[str, Any] = {"column": plan.target.name, "not_null": True}
    if plan.target.classes and not any(isinstance(label, bool) for label in plan.target.classes):
        target["one_of"] = plan.target.classes
    return [target, *([{"column": plan.time, "not_null": True}] if plan.time and plan.time != plan.target.name else [])]


def _split(plan: Plan) -> dict[str, Any]:
    if cut := plan.cut:
        begins = {"test_last_days": cut.test_last_days} if cut.test_last_days else {"test_from": cut.test_from}
        return {"by": "time", **begins, "validation_every_days": cut.validation_every_days}
    return {"by": "random", "test": plan.sizes.test, "validation": plan.sizes.validation}


def _split_why(plan: Plan) -> str:
    if plan.cut:
        where = (
            f"The last {plan.cut.test_last_days} days test, now from {plan.cut.test_from} on, and move on with the data"
            if plan.cut.test_last_days
            else "Training rows come before `test_from`, as in life"
        )
        return f"{where}; {plan.cut.train:,} rows train, {plan.cut.validation:,} validate, {plan.cut.test:,} test."
    return "No time to split by was found, so chance divides the rows, each class alike."


def _time_why(plan: Plan) -> str:
    if plan.cut:
        return "when the row became predictable; the split follows it"
    if plan.time:
        return "when the row became predictable; no split by it leaves each part rows of every class"
    return "no column says when a row happened over enough days; name one if there is"
