"""What is guessed of columns and targets from counted facts alone, leaks and sizes too."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.core import guess, leaks
from tasks.core.errors import DataError
from tasks.core.facts import ColumnFacts, TableFacts, TargetFacts, TextFacts
from tasks.core.guess import (
    Decision,
    decide_columns,
    find_doubts,
    find_entity,
    find_missing_words,
    find_slices,
    set_apart,
    time_candidates,
)
from tasks.core.guess_target import TargetGuess, find_column, guess_target
from tasks.core.sizes import choose_sizes
from tasks.core.target import Task

ROWS = 1000
WORDS = TextFacts(words=1, length=6, numeric=0, padded=0, dated=0, pictures=0, nested=0, odd=())
TARGET = TargetGuess("y", "binary", ("no", "yes"), (), "", ROWS, 300, "two classes")


def text(name: str, distinct: int, of: TextFacts = WORDS, missing: int = 0) -> ColumnFacts:
    return ColumnFacts(name, "text", ROWS, missing, distinct, ROWS - missing if distinct < ROWS / 2 else 0, 100, "a", "z", text=of)


def number(name: str, distinct: int, *, whole: bool = True, rising: bool = False, last: str = "900000") -> ColumnFacts:
    repeating = ROWS if distinct < ROWS / 2 else 0
    return ColumnFacts(name, "number", ROWS, 0, distinct, repeating, 3, "0", last, whole=whole, rising=rising)


def date(name: str, days: int, first: str = "2020-01-01") -> ColumnFacts:
    return ColumnFacts(name, "date", ROWS, 0, days, ROWS, 5, first, "2022-01-01", days=days)


def decided(column: ColumnFacts) -> Decision:
    return decide_columns(TableFacts(ROWS, 0, (column,)), TARGET, outcomes=(), features=())[0]


def target_of(values: dict[object, int], asked: Task | None = None, **facts: object) -> TargetGuess:
    rows = sum(values.values())
    column = ColumnFacts("y", "number", rows, 0, len(values), rows, max(values.values()), "0", "9")
    if any(isinstance(value, str) for value in values):
        column = replace(column, kind="text", text=WORDS)
    column = replace(column, **facts)  # type: ignore[arg-type]
    return guess_target(column, TargetFacts("y", tuple(sorted(values.items(), key=lambda pair: -pair[1]))), asked)


@pytest.mark.parametrize(
    ("column", "role", "cast"),
    [
        (number("age", 60), "number", ""),
        (number("customer_id", 300), "category", "text"),
        (number("customerId", 300), "category", "text"),
        (number("order_id", ROWS), "left out", ""),
        (number("n", ROWS, rising=True), "left out", ""),
        (number("n", ROWS, last="999"), "left out", ""),
        (number("people", ROWS), "number", ""),
        (number("price", ROWS, whole=False, rising=True), "number", ""),
        (replace(number("x", 50, whole=False), infinite=2), "number", "finite"),
        (replace(number("x", 50, whole=False), nan=2, missing=2), "number", "finite"),
        (text("city", 40), "category", ""),
        (text("code", ROWS), "left out", ""),
        (text("code", 700), "category", ""),
        (text("note", ROWS, replace(WORDS, words=8, length=50)), "text", ""),
        (text("slogan", 12, replace(WORDS, words=8, length=50)), "category", ""),
        (text("when", ROWS, replace(WORDS, dated=1)), "date", "time"),
        (text("amount", ROWS, replace(WORDS, numeric=1)), "number", "number"),
        (text("postal", 300, replace(WORDS, numeric=1, padded=0.2)), "category", ""),
        (text("photo", ROWS, replace(WORDS, pictures=1)), "left out", ""),
        (text("tags", 50, replace(WORDS, nested=1)), "left out", ""),
        (text("empty", 0, missing=ROWS), "left out", ""),
        (text("rarely", 2, missing=ROWS - 2), "left out", ""),
        (text("flag", 1, missing=400), "category", ""),
        (replace(text("same", 1), top=ROWS), "left out", ""),
        (ColumnFacts("paid", "boolean", ROWS, 0, 2, ROWS, 600, "false", "true"), "number", "flag"),
        (date("day", 700), "date", ""),
    ],
)
def test_role_follows_the_facts(column: ColumnFacts, role: str, cast: str) -> None:
    found = decided(column)
    assert (found.role, found.cast) == (role, cast), found.why
    assert found.why


def test_named_columns_are_what_they_were_named() -> None:
    facts = TableFacts(ROWS, 0, (text("code", ROWS), text("late", 9), text("y", 2)))
    roles = {one.name: one.role for one in decide_columns(facts, TARGET, outcomes=["late"], features=["code"])}
    assert roles == {"code": "category", "late": "outcome", "y": "target"}


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ({"yes": 70, "no": 30}, ("no", "yes")),
        ({"True": 70, "False": 30}, ("False", "True")),
        ({"alive": 70, "dead": 30}, ("alive", "dead")),
        ({"dead": 70, "alive": 30}, ("dead", "alive")),
        ({1: 70, 0: 30}, (0, 1)),
        ({1: 70, 2: 30}, (1, 2)),
        ({1: 30, 2: 70}, (2, 1)),
    ],
)
def test_second_class_says_yes_or_is_the_rarer(values: dict[object, int], classes: tuple[object, ...]) -> None:
    found = target_of(values, whole=True)
    assert (found.task, found.classes) == ("binary", classes)


def test_classes_of_several_stand_in_order() -> None:
    assert target_of({10: 20, 9: 50, 2: 30}, whole=True).classes == (2, 9, 10)
    assert target_of({"c": 20, "a": 50, "b": 30}).task == "multiclass"


def test_many_whole_numbers_are_a_quantity_and_eleven_are_enough() -> None:
    assert target_of(dict.fromkeys(range(11), 20), whole=True).task == "regression"
    assert target_of(dict.fromkeys(range(10), 20), whole=True).task == "multiclass"
    assert target_of(dict.fromkeys(range(11), 20), "multiclass", whole=True).task == "multiclass"


@pytest.mark.parametrize(
    ("values", "asked", "words"),
    [
        ({"a": 49}, None, "49 rows with target"),
        ({"a": 60}, None, "is 'a' in every row"),
        ({f"c{i}": 6 for i in range(201)}, None, "has 201 classes in 1,206 rows"),
        ({"a": 56, "b": 4}, None, "1 classes of 5 rows or more, and 1 of fewer: ['b']"),
        ({"a": 60, "b": 40}, "regression", "is no number"),
        ({"a": 60, "b": 40}, "multiclass", "which is binary, not multiclass"),
    ],
)
def test_target_that_cannot_be_learned_is_refused(values: dict[object, int], asked: Task | None, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("[", r"\[").replace("]", r"\]")):
        target_of(values, asked)


def test_misspelt_column_is_told_its_neighbour() -> None:
    facts = TableFacts(ROWS, 0, (text("Price", 9), text("city", 9)))
    with pytest.raises(DataError, match="did you mean 'Price'"):
        find_column("price", facts, "--target")


def test_words_for_missing_are_those_among_numbers_only() -> None:
    known = text("a", 50, replace(WORDS, numeric=0.9, odd=("N/A", "?")))
    strange = text("b", 50, replace(WORDS, numeric=0.9, odd=("N/A", "seven")))
    assert find_missing_words(TableFacts(ROWS, 0, (known, text("c", 5)))) == ("N/A", "?")
    assert find_missing_words(TableFacts(ROWS, 0, (strange, text("c", 5)))) == ()


def test_event_time_is_preferred_and_birth_dates_are_none() -> None:
    columns = (date("birth_date", 900), date("seen", 700), date("created_at", 700), date("old", 700, "1899-12-31"), date("few", 5))
    facts = TableFacts(ROWS, 0, columns)
    roles = [Decision(column.name, "date", "") for column in columns]
    assert time_candidates(facts, roles) == ["created_at", "seen"]


def test_entity_and_slices_are_categories_that_fit() -> None:
    columns = (text("user_id", 200), text("colour", 5), text("mostly", 3), text("many", 500))
    facts = TableFacts(ROWS, 0, (*columns[:2], replace(columns[2], top=950), columns[3]))
    roles = [Decision(column.name, "category", "") for column in columns]
    assert find_entity(facts, roles) == "user_id"
    assert find_slices(facts, roles) == ("colour",)


def test_leak_and_copies_are_set_apart_unless_named() -> None:
    roles = [Decision(name, "number", "") for name in ("leak", "copy", "again", "mine")]
    found = set_apart(
        roles, leaks={"leak": 0.999, "mine": 1.0}, copies={"y": "copy", "again": "leak"}, target=TARGET, features=["mine"]
    )
    assert [one.role for one in found] == ["outcome", "outcome", "left out", "number"]
    assert "AUC 0.999 (bound 0.98)" in found[0].why
    with pytest.raises(DataError, match="no column is left to predict with"):
        guess.require_features(found[:3])


def sample(rows: int = 2000) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=rows)
    return pd.DataFrame(
        {
            "noise": draw.normal(size=rows),
            "good": truth + draw.normal(size=rows) * 0.7,
            "leak": truth * 3 + 1 + draw.normal(size=rows) * 0.01,
            "band": np.floor(truth * 8).astype(int).astype(str),
            "row": [f"r{i}" for i in range(rows)],
            "value": truth,
            "two": (truth > 1).astype(int),
            "three": np.digitize(truth, [-1, 1]),
        }
    )


@pytest.mark.parametrize(("target", "task"), [("value", "regression"), ("two", "binary"), ("three", "multiclass")])
def test_only_what_tells_the_target_alone_is_a_leak(target: str, task: Task) -> None:
    table = sample()[["noise", "good", "leak", "row", target]]
    assert set(leaks.find_leaks(table, target, task)) == {"leak"}


def test_words_that_stand_for_the_target_are_a_leak() -> None:
    assert set(leaks.find_leaks(sample()[["noise", "band", "two"]], "two", "binary")) == {"band"}


def test_missing_values_that_tell_the_target_are_a_leak() -> None:
    table = sample()
    table["paid_on"] = pd.to_datetime("2020-01-01")
    table.loc[table["two"] == 0, "paid_on"] = pd.NaT
    assert "paid_on" in leaks.find_leaks(table[["paid_on", "noise", "two"]], "two", "binary")


def test_few_rows_accuse_nobody() -> None:
    assert leaks.find_leaks(sample(90)[["leak", "value"]], "value", "regression") == {}


def test_copies_name_the_first() -> None:
    table = sample(50)
    table["again"] = table["noise"]
    assert leaks.find_copies(table[["noise", "good", "again"]]) == {"again": "noise"}


@pytest.mark.parametrize("rows", [50, 80, 1000, 50_000, 1_000_000])
@pytest.mark.parametrize("columns", [1, 30, 300])
def test_sizes_suit_the_table(rows: int, columns: int) -> None:
    sizes = choose_sizes(rows, columns, "binary", 12)
    train = rows * (1 - sizes.test - sizes.validation)
    assert sizes.batch <= max(16, train / 20)
    assert train * sizes.epochs <= 5_000_000
    assert sizes.golden_rows <= rows * sizes.test
    assert sizes.calibration_rows <= train
    assert sizes.min_rows < rows
    assert (sizes.tokens, sizes.pieces) == (36, {"slots": 192, "most": 30_000})
    assert choose_sizes(rows, columns, "binary", 0).pieces is None


def test_what_may_mean_something_else_is_told() -> None:
    target = guess_target(text("y", 4), TargetFacts("y", (("Yes", 400), ("No", 300), ("NA", 200), ("no ", 100))), None)
    doubts = find_doubts(TableFacts(ROWS, ROWS // 2, (text("y", 4),)), target, by_chance=True)
    assert "['NA'] as a class; if that means no value, start again with --missing 'NA'" in doubts[0]
    assert "['No', 'no ']" in doubts[1]
    assert "500 of 1,000 rows equal an earlier one" in doubts[2]


def test_clear_target_of_rows_that_differ_leaves_no_doubt() -> None:
    target = guess_target(text("y", 2), TargetFacts("y", (("yes", 700), ("no", 300))), None)
    assert find_doubts(TableFacts(ROWS, 0, (text("y", 2),)), target, by_chance=True) == []
    assert find_doubts(TableFacts(ROWS, ROWS // 2, (text("y", 2),)), target, by_chance=False) == []
