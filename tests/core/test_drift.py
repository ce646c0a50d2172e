"""Effects and odds: that chance is told from change at the rate that is promised, and that sums say what rows would."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.core import drift, metrics
from tasks.core.drift import Floors
from tasks.core.encoder import Words
from tasks.core.quality import Quality, curve, gap, observe
from tasks.core.quality import metrics as of_sums
from tasks.core.reference import Reference, fit_reference, told_columns
from tasks.core.tally import MOST_NEW, Cells, Count, Tally, Teller, fit_number, fit_words
from tasks.core.target import Target
from tasks.core.verdict import Finding

BINARY = Target("binary", "late", (0, 1))
NONE = Floors(0, 0, 0, 0, 0, 0, 0)
USUAL = Floors(shape=0.1, missing=0.02, new=0.02, truth=0.05, loss=0.05, ranking=0.02, calibration=0.03)
KINDS = {"size": "number", "word": "category", "sparse": "number"}


def sample(rows: int, chance: np.random.Generator) -> tuple[dict[str, np.ndarray | Words], np.ndarray, np.ndarray]:
    """A skewed number, words of which many are rare, a number that is mostly missing; truth and answers."""
    words = np.minimum(chance.geometric(0.02, rows), 400)
    distinct, places = np.unique(words, return_inverse=True)
    sparse = np.where(chance.random(rows) < 0.9, np.nan, chance.normal(size=rows))
    told = chance.beta(2, 5, rows)
    truth = (chance.random(rows) < told).astype(int)
    columns = {"size": chance.lognormal(0, 1, rows), "word": Words([f"w{one}" for one in distinct], places), "sparse": sparse}
    return columns, truth, told


def reference(rows: int, chance: np.random.Generator) -> Reference:
    columns, truth, told = sample(rows, chance)
    return fit_reference(BINARY, KINDS, columns, truth, told, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(("tested", "rows"), [(2000, 600), (2000, 20_000), (10_000, 1000)])
def test_fresh_rows_of_a_fresh_reference_raise_no_more_often_than_promised(tested: int, rows: int) -> None:
    """Without any floor, so that chance alone decides: rows that the reference was not made of, words that it never saw."""
    chance, alpha, raised, rounds = np.random.default_rng(1), 0.05, 0, 80
    for _ in range(rounds):
        own = reference(tested, chance)
        columns, truth, told = sample(rows, chance)
        window = own.teller().count(rows, columns, told_columns(BINARY, told))
        found = drift.judge(drift.look_at(own, own.tally, window, dict.fromkeys(KINDS, NONE), 0.0, alpha), alpha)
        counts = np.bincount(truth, minlength=2).astype(np.int64)
        tests = [
            *drift.test_truth(own, own.truth, counts, 0, alpha),
            *drift.test_quality(own, {"": observe(BINARY, truth, told)}, NONE, alpha),
        ]
        raised += bool(found) + bool(drift.judge(tests, alpha))
    assert raised <= 2 * alpha * rounds + 3 * np.sqrt(2 * alpha * rounds)
    assert raised  # the bound is not so wide that nothing is ever beyond it


def test_distance_of_a_shift_is_what_the_floor_is_said_to_be() -> None:
    """A quarter of a standard deviation is about 0.1, as params.yaml has it."""
    chance = np.random.default_rng(0)
    cells, values = fit_number(chance.normal(size=200_000)), chance.normal(size=200_000)
    teller = Teller({"x": cells}, {})
    was, now = (teller.count(len(values), {"x": values + by}, {}).columns["x"] for by in (0.0, 0.24))
    test = next(t for t in drift.test_features({"x": was}, {"x": now}, {"x": cells}, {"x": USUAL}, 1e-5) if t.kind == "shape")
    assert test.effect == pytest.approx(0.1, abs=0.005)
    assert "mean 0.24 sd higher" in test.what


def test_jensen_shannon_is_none_of_equals_and_one_bit_of_strangers() -> None:
    assert drift.divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert drift.divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(np.log(2))


def test_cells_are_joined_until_chance_can_be_told() -> None:
    was, now = np.array([1000, 3, 2, 1000, 1, 1000]), np.array([10, 0, 0, 10, 0, 10])
    joined = drift.join_cells(was, now, ordered=True)
    assert joined is not None
    assert (joined[0].sum(), joined[1].sum()) == (was.sum(), now.sum())
    assert joined[0].min() * now.sum() / was.sum() >= 8
    assert drift.join_cells(was, np.zeros(6, np.int64), ordered=True) is None
    assert drift.join_cells(np.array([5, 5]), np.array([5, 5]), ordered=True) is None


def test_causes_stand_before_effects_and_the_farther_before_the_nearer() -> None:
    tests = [
        drift.Test("calibration", "", "calibration", "", 0.9, 0.03, 1e-9, 0.0),
        drift.Test("feature", "a", "shape", "", 0.2, 0.1, 1e-9, 0.0),
        drift.Test("feature", "b", "shape", "", 0.4, 0.1, 1e-9, 0.0),
        drift.Test("feature", "small", "shape", "", 0.09, 0.1, 1e-9, 0.0),
        drift.Test("feature", "chance", "shape", "", 0.9, 0.1, 0.01, 0.0),
    ]
    assert [one.name for one in drift.judge(tests, 0.005)] == ["b", "a", ""]


def test_words_that_are_new_are_counted_and_rare_ones_are_not_remembered() -> None:
    words = Words(["a", "b", "rare", None], np.repeat([0, 1, 2, 3], [100, 50, 2, 8]))
    cells, strange = fit_words(words)
    assert (cells.words, strange) == (("a", "b"), 2)
    count = Teller({"x": cells}, {}).count(6, {"x": Words(["a", "ZZ", "", "rare"], np.array([0, 1, 1, 2, 3, 0]))}, {}).columns["x"]
    assert (count.missing, count.strange, count.cells.tolist()) == (1, 3, [2, 0])
    assert count.new.most_common(1) == [("ZZ", 2)]
    flood = Words([f"n{i}" for i in range(3 * MOST_NEW)], np.arange(3 * MOST_NEW))
    assert len(Teller({"x": cells}, {}).count(1, {"x": flood}, {}).columns["x"].new) <= MOST_NEW


def test_numbers_beyond_the_ends_infinite_ones_and_missing_ones_are_counted() -> None:
    cells = fit_number(np.array([0.0, 1.0, 2.0, np.nan]))
    count = Teller({"x": cells}, {}).count(5, {"x": np.array([-1.0, 1.0, 3.0, np.inf, np.nan])}, {}).columns["x"]
    assert (count.missing, count.strange, count.present) == (1, 3, 4)
    assert np.isfinite(count.total)
    assert fit_number(np.array([np.nan])) == Cells("number")


def test_reference_survives_json_and_another_format_is_refused() -> None:
    own = reference(2000, np.random.default_rng(0))
    document = json.loads(json.dumps(own.to_json()))
    again = Reference.from_json(document)
    assert again.to_json() == own.to_json()
    assert again.cells == own.cells
    with pytest.raises(ValueError, match="format 9"):
        Reference.from_json({**document, "format": 9})
    with pytest.raises(KeyError):
        Reference.from_json({key: value for key, value in document.items() if key != "quality"})


def test_counts_in_parts_are_counts_of_the_whole() -> None:
    chance = np.random.default_rng(0)
    own = reference(2000, chance)
    parts = [sample(rows, chance) for rows in (300, 500)]
    tallies = [own.teller().count(len(truth), columns, told_columns(BINARY, told)) for columns, truth, told in parts]
    sums = [observe(BINARY, truth, told) for _, truth, told in parts]
    tallies[0].add(tallies[1])
    sums[0].add(sums[1])
    assert tallies[0].rows == 800
    assert Tally.from_json(json.loads(json.dumps(tallies[0].to_json()))).columns["size"].present == 800
    truth, told = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    assert of_sums("binary", sums[0])["log_loss"].value == pytest.approx(metrics.log_loss(truth, told))


def test_metrics_by_sums_are_those_of_the_rows_with_their_spread() -> None:
    chance = np.random.default_rng(0)
    told = chance.beta(2, 5, 4000)
    truth = (chance.random(4000) < told).astype(int)
    found = of_sums("binary", observe(BINARY, truth, told))
    assert found["auc"].value == pytest.approx(roc_auc_score(truth, told), abs=2e-4)
    assert found["log_loss"].value == pytest.approx(metrics.log_loss(truth, told))
    intervals = metrics.bootstrap(BINARY, truth, [told], resamples=300, confidence=0.95, seed=0)[0]
    for name in ("auc", "log_loss"):
        half = (intervals[name].high - intervals[name].low) / 2
        assert 1.96 * found[name].error == pytest.approx(half, rel=0.15)
    assert abs(gap(observe(BINARY, truth, told)).value) < 0.02
    assert all(abs(said - came) < 0.1 for said, came, _ in curve(observe(BINARY, truth, told)))


def test_several_classes_and_numbers_are_measured_too() -> None:
    several = Target("multiclass", "kind", ("a", "b", "c"))
    told = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]] * 50)
    truth = np.array([0, 1, 0] * 50)
    found = of_sums("multiclass", observe(several, truth, told))
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["log_loss"].value == pytest.approx(metrics.log_loss(truth, told))
    number = Target("regression", "price", (), 100.0, 10.0)
    came, said = np.array([100.0, 110.0] * 80), np.array([105.0, 110.0] * 80)
    quality = observe(number, came, said)
    assert of_sums("regression", quality)["rmse"].value == pytest.approx(np.sqrt(12.5))
    assert of_sums("regression", quality)["mae"].value == pytest.approx(2.5)
    assert gap(quality).value == pytest.approx(-0.25)  # standard deviations of training
    assert Quality.from_json(json.loads(json.dumps(quality.to_json())), number).to_json() == quality.to_json()


def test_worse_quality_of_one_slice_is_found_in_it() -> None:
    chance = np.random.default_rng(0)
    own = reference(5000, chance)
    _, truth, told = sample(5000, chance)
    bad = observe(BINARY, 1 - truth[:2000], told[:2000])
    own = replace(own, quality={**own.quality, "word=w1": observe(BINARY, truth[:2000], told[:2000])})
    found = drift.judge(drift.test_quality(own, {"": observe(BINARY, truth, told), "word=w1": bad}, USUAL, 0.001), 0.005)
    assert [(one.of, one.name) for one in found] == [("quality", "word=w1")]


def test_share_that_is_large_is_tested_as_well_as_a_small_one() -> None:
    was, now = Count(np.array([10, 0]), missing=990), Count(np.array([300, 0]), missing=700)
    tests = drift.test_features({"x": was}, {"x": now}, {"x": Cells("number", (1.0,))}, {"x": USUAL}, 1e-4)
    found = drift.judge(tests, 0.005)
    assert [(one.name, one.what) for one in found] == [("x", "70% missing, was 99%")]


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"a": 19_990, "b": 10}, {"a": 500, "b": 500}),  # a value that was rare is frequent
        ({"a": 12_000, "b": 7990, "c": 10}, {"a": 600, "b": 50, "c": 350}),  # and takes the rows of the one that it was joined to
    ],
)
@pytest.mark.parametrize("kind", ["category", "number"])
def test_value_that_was_rare_and_is_frequent_is_found(kind: str, was: dict[str, int], now: dict[str, int]) -> None:
    def column(rows: dict[str, int]) -> np.ndarray | Words:
        places = np.repeat(np.arange(len(rows)), list(rows.values()))
        return Words(list(rows), places) if kind == "category" else places.astype(float)

    assert [one.name for one in found_in(column(was), column(now), kind)] == ["x"]


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (Words([f"w{i}" for i in range(1000)], np.arange(1000)), Words(["w1", "z"], np.arange(1000) % 2), "category"),  # all rare
        (Words([None], np.zeros(1000, int)), Words(["a"], np.zeros(1000, int)), "category"),
        (np.append(np.full(999, np.nan), 1.0), np.append(np.full(998, np.nan), [2.0, 3.0]), "number"),  # of one value
    ],
)
def test_column_with_hardly_a_value_is_judged(was: np.ndarray | Words, now: np.ndarray | Words, kind: str) -> None:
    was_empty = isinstance(was, Words) and was.distinct == [None]
    assert [one.what for one in found_in(was, now, kind)] == (["0% missing, was 100%"] if was_empty else [])


def found_in(was: np.ndarray | Words, now: np.ndarray | Words, kind: str) -> list[Finding]:
    """What is found in a column x of now, beside a reference of was."""
    rows = [len(one.places) if isinstance(one, Words) else len(one) for one in (was, now)]
    truth = np.arange(rows[0]) % 2
    own = fit_reference(BINARY, {"x": kind}, {"x": was}, truth, np.full(rows[0], 0.5), {})  # type: ignore[dict-item]
    window = own.teller().count(rows[1], {"x": now}, {})
    return drift.judge(drift.look_at(own, own.tally, window, {"x": USUAL}, 0.1, 0.0025), 0.0025)


def test_rows_drawn_from_the_reference_itself_raise_no_more_often_than_promised() -> None:
    """Of many words that are about as rare: cells joined by what the window has of them would tell chance for change."""
    chance, tested, rows, alpha, rounds = np.random.default_rng(3), 6000, 1000, 0.01, 300
    places = chance.integers(0, 500, tested)
    distinct = [f"w{i}" for i in range(500)]
    truth = np.arange(tested) % 2
    column = {"word": Words(distinct, places)}
    own = fit_reference(BINARY, {"word": "category"}, column, truth, np.full(tested, 0.5), {})
    raised = 0
    for _ in range(rounds):
        window = own.teller().count(rows, {"word": Words(distinct, chance.choice(places, rows))}, {})
        raised += bool(drift.judge(drift.look_at(own, own.tally, window, {"word": NONE}, 0.0, alpha), alpha))
    assert raised <= alpha * rounds + 3 * np.sqrt(alpha * rounds)
