"""The data report: what it says of a table, of an odd one, and that nothing in a table becomes part of the page."""

import html
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import pytest
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList, FeatureNameStatistics

from tasks.core.columns import Column, Drift, columns_from_statistics
from tasks.core.report import ClassRows, Counts, Part, Report, Rule, Source, look_at, render
from tasks.core.svg import percent, short
from tasks.core.timeline import Period, nice_ticks, time_ticks
from tests.core.described import described, number, text

BELL = [-2.0, -1.2, -1.1, -0.5, -0.4, 0.1, 0.2, 0.3, 0.6, 0.7, 1.3, 1.4, 2.5] * 10


def columns(
    *features: FeatureNameStatistics,
    released: DatasetFeatureStatisticsList | None = None,
    roles: Mapping[str, str] | None = None,
    drift: Mapping[str, Drift] | None = None,
    privacy: Mapping[str, str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    days: Mapping[str, Mapping[date, int]] | None = None,
) -> tuple[Column, ...]:
    """The columns, each a number or a category by its kind unless `roles` says otherwise."""
    kinds = {one.path.step[0]: "number" if one.HasField("num_stats") else "category" for one in features}
    return columns_from_statistics(
        described(*features),
        released,
        roles=kinds if roles is None else roles,
        drift=drift or {},
        privacy=privacy or {},
        notes=notes or {},
        days=days,
    )


def findings(column: Column) -> list[str]:
    return [finding.about for finding in column.findings]


def report(*shown: Column) -> Report:
    return Report(title="Data report: t", target="y", task="regression", counts=Counts(1000, 1000, 0, 0.01, 0), columns=shown)


def lines(shown: Report) -> list[str]:
    return [" ".join([line.words, *(name for _, name, _ in line.columns)]) for line in look_at(shown)]


def well_formed(picture: str) -> None:
    """The pictures are XML, and no coordinate is nan or endless."""
    ElementTree.fromstring(f"<div>{picture}</div>")
    assert not re.search(r'="[^"]*\b(nan|inf)\b', re.sub(r"<title>.*?</title>", "", picture))


def test_sane_table_has_nothing_that_stands_out() -> None:
    shown = report(*columns(number("n", BELL), text("w", {"a": 700, "b": 300})))
    assert lines(shown) == []
    assert "Nothing stands out." in render(shown)


def test_page_asks_nothing_of_the_network() -> None:
    page = render(report(*columns(number("n", BELL), text("w", {"a": 7}))))
    assert not re.search(r"https?:|//[a-z]|<link|<img|@import|url\(", page)


def test_column_tells_its_facts() -> None:
    (column,) = columns(number("n", [0.0, 0.0, 1.25, 3.0, 10.0, *[2.0] * 5], missing=10))
    facts = dict(column.facts)
    assert column.missing == 0.5
    assert (facts["min"], facts["max"], facts["median"], facts["zeros"]) == ("0", "10", "2", "20%")
    assert facts["mean"] == "2.425"


def test_distinct_values_of_a_number_are_told_where_the_statistics_carry_them() -> None:
    feature = number("n", BELL)
    feature.custom_stats.add(name="distinct", num=13)
    assert dict(columns(feature)[0].facts)["distinct"] == "13"
    assert "distinct" not in dict(columns(number("n", BELL))[0].facts)


def test_columns_stand_in_the_order_of_their_roles_then_the_unused_then_the_dropped() -> None:
    found = columns(
        number("b", BELL),
        number("a", BELL),
        number("c", BELL),
        roles={"c": "target", "a": "number"},
        privacy={"people.name": "dropped"},
    )
    assert [(one.name, one.role) for one in found] == [("c", "target"), ("a", "number"), ("b", "unused"), ("people.name", "unused")]
    assert found[-1].kind == "not described"
    assert "Dropped: not in the table under this name" in render(report(*found))


def test_privacy_of_a_source_s_column_stands_on_that_column() -> None:
    found = columns(text("mail", {"9f": 2, "c3": 1}), privacy={"people.mail": "pseudonymised"})
    assert [(one.name, one.privacy) for one in found] == [("mail", "pseudonymised")]


def test_unused_column_is_marked_and_its_oddities_are_nobody_s_concern() -> None:
    (column,) = columns(number("n", [3.0] * 9, missing=900), roles={}, notes={"n": ["new column"]})
    assert column.role == "unused"
    assert findings(column) == ["schema"]


@pytest.mark.parametrize(
    ("feature", "about"),
    [
        (number("c", [3.0] * 50), "constant"),
        (text("c", {"same": 50}), "constant"),
        (number("c", BELL, missing=1000), "missing"),
        (number("c", [], missing=50), "empty"),
        (text("c", {}, missing=50), "empty"),
        (text("c", {f"id {i}": 1 for i in range(50)}), "identifier"),
    ],
)
def test_odd_column_is_found(feature: FeatureNameStatistics, about: str) -> None:
    (column,) = columns(feature)
    assert findings(column) == [about]
    (line,) = look_at(report(column))
    assert [name for _, name, _ in line.columns] == ["c"]
    well_formed(column.chart)


def test_column_missing_much_more_often_than_in_the_last_release_is_found() -> None:
    (column,) = columns(number("n", BELL, missing=50), released=described(number("n", BELL, missing=1)))
    assert [finding.words for finding in column.findings] == ["missing in 27.8% of the rows, 0.8% in the last release"]
    assert findings(columns(number("n", BELL, missing=50), released=described(number("n", BELL, missing=40)))[0]) == []


@pytest.mark.parametrize(
    ("distance", "verdict"), [(0.3, "drifted"), (0.1, "steady"), (0.0, "steady"), (math.nan, "unknown"), (None, "unknown")]
)
def test_drift_is_judged_by_its_threshold(distance: float | None, verdict: str) -> None:
    drift = Drift(distance, 0.1, "L-infinity")
    (column,) = columns(text("w", {"a": 5, "b": 5}), drift={"w": drift})
    assert drift.verdict == verdict
    assert ("drift" in findings(column)) == (verdict == "drifted")
    assert f'<span class="chip verdict">{verdict}</span>' in render(report(column))


def test_drifted_category_names_the_word_that_changed_most() -> None:
    (column,) = columns(
        text("w", {"a": 50, "b": 30, "c": 20}),
        released=described(text("w", {"a": 50, "b": 10, "d": 40})),
        drift={"w": Drift(0.4, 0.1, "L-infinity")},
    )
    assert column.findings[0].words == "drifted from the last release: most of all d: 0%, was 40%"
    assert 'class="was"' in column.chart


def test_both_distributions_are_laid_on_one_axis() -> None:
    (column,) = columns(number("n", BELL), released=described(number("n", [value * 3 + 20 for value in BELL])))
    well_formed(column.chart)
    assert 'path class="was"' in column.chart
    assert re.findall(r"<span>(-?[\d.]+)</span>", column.chart)[-3::2] == ["-2", "27.5"]
    shares = [float(share) for share in re.findall(r"<title>[^<]*?: ([\d.]+)%[^<]* rows; was", column.chart)]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_few_whole_numbers_have_a_bar_each() -> None:
    (column,) = columns(number("day", [1.0, 2, 3, 4, 5, 6, 7] * 20))
    assert [int(day) for day in re.findall(r"<title>(\d): 14\.3%, 20 rows", column.chart)] == [1, 2, 3, 4, 5, 6, 7]
    fine = number("day", [1.0, 31.0])
    del fine.num_stats.histograms[0].buckets[:]
    for place in range(40):
        fine.num_stats.histograms[0].buckets.add(
            low_value=1 + 0.75 * place, high_value=1.75 + 0.75 * place, sample_count=place % 4 != 3
        )
    assert len(re.findall(r"<title>\d+: ", columns(fine)[0].chart)) == 31
    (flag,) = columns(number("flag", [0.0] * 75 + [1.0] * 25))
    assert re.findall(r"<b>([\d.]+%)</b>", flag.chart) == ["75%", "25%"]


def test_long_tail_does_not_crowd_the_picture() -> None:
    (column,) = columns(number("n", [float(i) for i in range(1, 95)] + [1e6] * 6))
    assert "a tenth of the rows lies above" in column.chart
    assert dict(column.facts)["max"] == "1,000,000"
    assert column.chart.count('class="now"') > 15
    well_formed(column.chart)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_statistics_that_are_no_numbers_are_shown_and_found(value: float) -> None:
    feature = number("n", BELL)
    feature.num_stats.mean = feature.num_stats.std_dev = feature.num_stats.median = math.nan
    feature.num_stats.max = value
    feature.num_stats.histograms[0].buckets[9].high_value = value
    (column,) = columns(feature, released=described(feature))
    assert findings(column) == ["infinite"]
    well_formed(column.chart)
    render(report(column))


def test_ends_too_far_apart_to_subtract_have_no_picture() -> None:
    feature = number("n", [1.0, 2.0])
    feature.num_stats.histograms[0].buckets[0].low_value, feature.num_stats.histograms[0].buckets[9].high_value = -1.7e308, 1.7e308
    assert columns(feature)[0].chart == ""


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_table_of_a_few_rows_is_described(rows: int) -> None:
    found = columns(number("n", BELL[:rows]), text("w", {"a": rows}), days={"d": {date(2020, 2, 29): rows}})
    for column in found:
        well_formed(column.chart)
    render(
        replace(report(*found), counts=Counts(rows, rows, 0, 0.0, 0), periods=(Period(date(2020, 2, 29), rows, (1.0, 0.5, 2.0)),))
    )


def test_table_without_rows_or_columns_is_a_page() -> None:
    assert "Data report: t" in render(replace(report(), counts=Counts(0, 0, 0, 0.0, None)))


def test_a_million_words_take_no_more_room_than_eight() -> None:
    (column,) = columns(text("w", {f"word {i}": 2000 - i for i in range(1000)}, distinct=1_000_000))
    assert dict(column.facts)["distinct"] == "1,000,000"
    assert "999,992 others" in column.chart
    assert len(column.chart) < 6000


def test_words_are_cut_and_blanks_made_visible() -> None:
    (column,) = columns(text("w", {"x" * 10_000: 3, "": 2, " a": 1}))
    assert "x" * 121 not in column.chart
    assert "x" * 120 + "… (10,000 characters)" in column.chart
    assert ">“”<" in column.chart
    assert ">“ a”<" in column.chart


NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1) //",
    "</title></svg><b>",
    "{{ 7 * 7 }}",
    "列名 & more",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_in_a_table_becomes_part_of_the_page(nasty: str) -> None:
    found = columns(
        text(nasty, {nasty: 3, nasty * 2: 1}),
        released=described(text(nasty, {nasty: 1})),
        roles={nasty: nasty},
        drift={nasty: Drift(1.0, 0.1, nasty)},
        privacy={nasty: nasty},
        notes={nasty: [nasty]},
    )
    shown = Report(
        title=nasty,
        target=nasty,
        task="multiclass",
        counts=Counts(10, 9, 1, 0.2, 1),
        columns=found,
        classes=tuple(ClassRows(f"{nasty}{i}", 3) for i in range(3)),
        periods=tuple(Period(date(2020, 1, day), 3, (0.2, 0.3, 0.5)) for day in (1, 2)),
        splits=(Part(nasty, 4, None),),
        rules=(Rule(nasty, nasty, 1, 0.1, (nasty,)), Rule(nasty, nasty, 0, None, ())),
        sources=(Source(nasty, 3),),
        time_range=(nasty, nasty),
        content=nasty,
        schema_notes=(nasty,),
        warnings=(nasty,),
    )
    page = render(shown)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "49" not in re.sub(r"<style>.*?</style>|<script>.*?</script>|sha256-[^']*|[\d.]*\.\d+|\d+%", "", page, flags=re.DOTALL)
    body = html.unescape(re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL))
    assert body.count(nasty) > 20
    assert f"<h3>{html.escape(nasty, quote=True).replace('&quot;', '&#34;').replace('&#x27;', '&#39;')}</h3>" in page


def test_columns_of_like_names_have_anchors_of_their_own() -> None:
    found = columns(*(number(name, BELL) for name in ("a b", "a-b", "a_b", "!", "?", "名", "x" * 500)))
    anchors = re.findall(r'<article [^>]*id="([^"]+)"', render(report(*found)))
    assert anchors[:5] == ["column-a-b", "column-a-b--2", "column-a_b", "column-column", "column-column--2"]
    assert len(set(anchors)) == 7
    assert max(map(len, anchors)) < 80


def test_quarantine_near_its_budget_stands_out_and_far_from_it_does_not() -> None:
    near = replace(report(), counts=Counts(1000, 992, 8, 0.01, 0))
    assert lines(near) == ["8 rows (0.8%) are in quarantine; the budget is 1%"]
    assert lines(replace(near, counts=Counts(1000, 996, 4, 0.01, 0))) == []


def test_rule_near_its_own_budget_stands_out() -> None:
    rules = (Rule("a", "at least 1", 9, 0.01, ("row 3: 0",)), Rule("", "a < b", 9, 0.01, ()), Rule("b", "at least 1", 1, 0.01, ()))
    shown = replace(report(), rules=rules)
    assert lines(shown) == [
        "9 rows (0.9%) break “a: at least 1”; its budget is 1%",
        "9 rows (0.9%) break “a < b”; its budget is 1%",
    ]
    page = render(shown)
    assert "row 3: 0" in page
    assert "Every row keeps every rule" not in page


def test_duplicates_and_the_caller_s_warnings_stand_out() -> None:
    shown = replace(report(), counts=Counts(1000, 1000, 0, 0.01, 30), warnings=("column 'ip' looks personal",))
    assert lines(shown) == ["30 rows (3%) equal another one in every column", "column 'ip' looks personal"]


def test_list_at_the_top_names_the_worst_and_counts_the_others() -> None:
    found = columns(
        *(number(f"n{i}", BELL) for i in range(30)), drift={f"n{i}": Drift(0.2 + i / 100, 0.1, "distance") for i in range(30)}
    )
    (line,) = look_at(report(*found))
    assert line.words == "30 columns drifted from the last release"
    assert [name for _, name, _ in line.columns] == [f"n{i}" for i in range(29, 19, -1)]
    assert line.more == 20


def weeks(count: int, *values: float) -> tuple[Period, ...]:
    return tuple(Period(date(2013, 1, 7) + timedelta(weeks=week), 100 + week, values) for week in range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 52, 1200])
@pytest.mark.parametrize(
    ("task", "values"), [("binary", (0.25,)), ("regression", (1.0, 0.5, 2.0)), ("multiclass", (0.2, 0.3, 0.5))]
)
def test_target_is_drawn_over_time(task: str, values: tuple[float, ...], count: int) -> None:
    classes = tuple(ClassRows(name, 10) for name in "abc"[: {"binary": 2, "regression": 0, "multiclass": 3}[task]])
    shown = replace(report(), task=task, classes=classes, periods=weeks(count, *values))
    (plot,) = re.findall(r'(<div class="plot">.*?</svg>)', render(shown), flags=re.DOTALL)
    well_formed(re.search(r"<svg.*", plot, flags=re.DOTALL)[0])  # type: ignore[index]
    assert plot.count('class="rows"') == count
    assert f"2013-01-07: {'25% y = b' if task == 'binary' else ''}" in plot


def test_period_without_a_target_leaves_a_gap_in_the_line() -> None:
    periods = (*weeks(3, 0.25), Period(date(2013, 3, 4), 0, (math.nan,)))
    page = render(replace(report(), task="binary", classes=(ClassRows("0", 3), ClassRows("1", 1)), periods=periods))
    assert "2013-03-04: unknown y = 1; 0 rows" in page
    assert len(re.search(r'polyline points="([^"]+)"', page)[1].split()) == 3  # type: ignore[index]


def test_many_classes_are_drawn_as_the_largest_and_the_others() -> None:
    classes = tuple(ClassRows(f"class {i}", 10) for i in range(30))
    values = tuple((i + 1) / 465 for i in range(30))
    page = render(replace(report(), task="multiclass", classes=classes, periods=weeks(3, *values)))
    assert re.findall(r"</i>([^<]+)</span>", page) == [*(f"class {i}" for i in range(22, 30)), "22 others"]
    assert "18 others" in page  # of the distribution, which names twelve


def test_without_a_time_only_the_distribution_is_drawn() -> None:
    page = render(replace(report(), task="binary", classes=(ClassRows("no", 30), ClassRows("yes", 10))))
    assert 'class="plot"' not in page
    assert re.findall(r"<b>([\d.]+%)</b>", page) == ["75%", "25%"]


def test_split_shows_each_part_with_its_share_and_rate() -> None:
    shown = replace(report(), task="binary", classes=(ClassRows("0", 3), ClassRows("1", 1)))
    page = render(replace(shown, splits=(Part("train", 750, 0.2), Part("test", 250, 0.3))))
    assert "train 75%, test 25%" in page
    assert "y = 1" in page


def test_dates_have_their_shape_over_time_and_over_the_week() -> None:
    days = {date(2024, 1, 1) + timedelta(days=day): 5 for day in range(364) if day % 7 < 5}
    (column,) = columns(days={"d": days}, roles={"d": "date"})
    assert dict(column.facts) == {"first": "2024-01-01", "last": "2024-12-27", "days": "260"}
    assert "Sun: 0 rows" in column.chart
    assert "Fri: 260 rows" in column.chart
    well_formed(column.chart)


def test_dates_that_are_seconds_are_read_as_days() -> None:
    seconds = [1.6e9 + 86_400 * day for day in range(100)]
    (column,) = columns(number("d", seconds), roles={"d": "date"})
    assert dict(column.facts)["min"] == "2020-09-13"
    assert "mean" not in dict(column.facts)
    assert "2020-12-21" in column.chart
    (far,) = columns(number("d", [1e17, 2e17]), roles={"d": "date"})
    assert dict(far.facts)["min"] == "1e+17"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 0.31, [0, 0.1, 0.2, 0.3, 0.4]),
        (-3, 7, [-5, -2.5, 0, 2.5, 5, 7.5]),
        (5, 5, [4.5, 4.75, 5, 5.25, 5.5]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_axis_has_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (date(2013, 1, 30), date(2013, 2, 2), ["30 Jan 2013", "31 Jan", "1 Feb", "2 Feb"]),
        (date(2012, 11, 15), date(2013, 4, 20), ["Dec 2012", "Jan 2013", "Feb", "Mar", "Apr"]),
        (date(2010, 3, 1), date(2014, 2, 1), ["Jul 2010", "Jan 2011", "Jul", "Jan 2012", "Jul", "Jan 2013", "Jul", "Jan 2014"]),
        (date(1970, 3, 1), date(2020, 2, 1), [str(year) for year in range(1975, 2021, 5)]),
        (date(2020, 2, 29), date(2020, 2, 29), ["29 Feb 2020"]),
    ],
)
def test_dates_on_the_axis_begin_days_months_or_years(first: date, last: date, labels: list[str]) -> None:
    assert [label for _, label in time_ticks(first, last)] == labels


@pytest.mark.parametrize(
    ("value", "words"),
    [(2013, "2013"), (2001.93, "2002"), (12_345.6, "12,346"), (1_000_000, "1,000,000"), (0.12345, "0.1235"), (3e-9, "3e-09"),
     (1.5e20, "1.5e+20"), (-0.0, "0"), (math.nan, "NaN"), (-math.inf, "-∞"), (99.999, "100")],
)  # fmt: skip
def test_numbers_are_short(value: float, words: str) -> None:
    assert short(value) == words


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0%"), (1e-9, "<0.1%"), (0.5, "50%"), (0.1234, "12.3%"), (0.99999, ">99.9%"), (1, "100%"), (math.nan, "unknown")],
)
def test_shares_are_never_rounded_to_none_or_all(share: float, words: str) -> None:
    assert percent(share) == words


def test_same_table_gives_the_same_page() -> None:
    shown = report(*columns(number("n", BELL), text("w", {"a": 7, "b": 7})))
    assert render(shown) == render(shown)
