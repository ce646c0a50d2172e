"""The data report in a real browser without a network: on a phone, at a desk, by night, printed, and under attack."""

import random
import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tasks.core.columns import Drift, columns_from_statistics
from tasks.core.report import ClassRows, Counts, Part, Report, Rule, Source, render
from tasks.core.timeline import Period
from tests.core.described import described, number, text

pytestmark = pytest.mark.slow
ATTACK = "<script>alert(1)</script>"
LONG = "a_column_whose_name_does_not_end_" * 12


def wide_table(columns: int) -> str:
    """The page of a table of so many columns of every kind, each of them drifted a little, some with awkward names."""
    draw = random.Random(7)
    features, before = [], []
    for place in range(columns - 5):
        name = f"column_{place}"
        if place % 3:
            values = [draw.gauss(place, 5) for _ in range(200)]
            features.append(number(name, values, missing=place))
            before.append(number(name, [value + 1 for value in values]))
        else:
            counts = {f"word {word} of {place}": draw.randrange(1, 60) for word in range(30)}
            features.append(text(name, counts, missing=place))
            before.append(text(name, {word: rows + 3 for word, rows in counts.items()}))
    features += [text(ATTACK, {ATTACK: 5, '"><img src=x onerror=alert(2)>': 3}), text(LONG, {LONG * 30: 1, "b": 9})]
    features += [number("空的列", [], missing=200), number("constant", [3.0] * 200)]
    names = [feature.path.step[0] for feature in features]
    start = date(2013, 1, 1)
    report = Report(
        title="Data report: wide",
        target="column_1",
        task="binary",
        counts=Counts(20_000, 19_850, 150, 0.01, 12),
        columns=columns_from_statistics(
            described(*features),
            described(*before),
            roles={name: "number" if place % 3 else "category" for place, name in enumerate(names)} | {"when": "time"},
            drift={name: Drift(place / 1000, 0.1, "distance") for place, name in enumerate(names)},
            privacy={names[0]: "pseudonymised"},
            notes={names[1]: ["it was whole numbers, now it has fractions"]},
            days={"when": {start + timedelta(days=day): 5 + day % 7 for day in range(365)}},
        ),
        classes=(ClassRows("0", 15_000), ClassRows("1", 4_850)),
        periods=tuple(Period(start + timedelta(weeks=week), 380, (0.2 + week % 5 / 50,)) for week in range(52)),
        splits=(Part("train", 14_000, 0.24), Part("validation", 2_000, 0.25), Part("test", 3_850, 0.26)),
        rules=(
            Rule(LONG, "at least 1, at most 12000", 150, 0.01, ("row 3: -5", "row 9: " + "7" * 300)),
            Rule("a", "finite", 0, None, ()),
        ),
        sources=(Source("flights", 20_000), Source(LONG, 3)),
        time_range=("2013-01-01", "2013-12-31"),
        content="9f86d081884c7d659a2feaa0c55ad015",
        schema_notes=(f"new column {LONG}",),
    )
    return render(report)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "data.html"
    path.write_text(wide_table(60), encoding="utf-8")
    return path


@pytest.fixture(params=[(375, "light"), (1280, "light"), (1280, "dark")], ids=["phone", "desk", "night"])
def page(browser: Browser, file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report from its file, without a network; at the end nothing was asked of one, and nothing went wrong."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith("file:") else None)
    page.goto(file.as_uri())
    yield page
    assert not wrong
    context.close()


def shown(page: Page) -> list[str]:
    return page.locator("article.column:visible h3").all_text_contents()


def test_page_opens_with_every_column_and_no_sideways_scrolling(page: Page) -> None:
    assert len(shown(page)) == 60
    assert ATTACK in shown(page)
    # The cards out of sight are laid out too.
    page.add_style_tag(content=".column { content-visibility: visible !important }")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = """() => [...document.querySelectorAll("body *")].filter((one) => {
      const box = one.getBoundingClientRect();
      return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1);
    }).map((one) => one.outerHTML.slice(0, 200))"""
    assert page.evaluate(outside) == []


def test_labels_of_the_axis_do_not_overlap(page: Page) -> None:
    boxes = page.locator(".plot .x span:visible").evaluate_all(
        "all => all.map(one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right])"
    )
    assert len(boxes) >= 3
    assert all(before[1] < after[0] for before, after in pairwise(boxes))


def test_filter_finds_by_name_role_kind_and_finding(page: Page) -> None:
    page.fill("#find", "CONST")
    assert shown(page) == ["constant"]
    assert page.inner_text("#count") == "1 of 60 columns"
    page.fill("#find", "no such column")
    assert shown(page) == []
    assert page.is_visible("#nothing")
    page.fill("#find", "")
    page.select_option("#kind", "date")
    assert shown(page) == ["when"]
    page.select_option("#kind", "")
    page.uncheck("input[value=number]")
    assert "空的列" in shown(page)
    assert "constant" not in shown(page)
    page.uncheck("input[value=category]")
    assert shown(page) == ["when"]
    page.check("input[value=number]")
    page.check("#found")
    assert "constant" in shown(page)
    assert "when" not in shown(page)


def test_order_is_by_missing_drift_name_or_params(page: Page) -> None:
    first = shown(page)
    page.select_option("#order", "missing")
    assert shown(page)[0] == "空的列"
    page.select_option("#order", "drift")
    assert shown(page)[0] == "constant"
    page.select_option("#order", "name")
    assert shown(page) != first
    page.select_option("#order", "place")
    assert shown(page) == first


def test_link_at_the_top_leads_to_its_card_though_the_filter_hides_it(page: Page) -> None:
    page.fill("#find", "column_5")
    page.click(".look a:has-text('constant')")
    page.wait_for_function("document.querySelector('article:target h3')?.innerText === 'constant'")
    assert "constant" in shown(page)
    assert page.locator("article:target").bounding_box()["y"] < 800  # type: ignore[index]


def test_text_stands_out_from_what_is_behind_it(page: Page) -> None:
    """WCAG 2.1, contrast (minimum): 4.5 to 1."""
    faint = """() => {
      const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
      const light = (colour) => numbers(colour).slice(0, 3).map((part) => part / 255)
        .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
      const behind = (one) => {
        for (let at = one; at; at = at.parentElement) {
          const colour = getComputedStyle(at).backgroundColor;
          if (numbers(colour).length === 3) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      const found = new Set();
      for (const one of document.querySelectorAll("body *")) {
        const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || one.closest("svg, script")) continue;
        const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => b - a);
        if ((a + 0.05) / (b + 0.05) < 4.5) found.add(`${one.tagName}.${one.className}: ${(a + 0.05) / (b + 0.05)}`);
      }
      return [...found];
    }"""
    page.add_style_tag(content=".column { content-visibility: visible !important }")
    assert page.evaluate(faint) == []


def test_page_is_whole_without_scripts(browser: Browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    assert len(shown(page)) == 60
    assert not page.is_visible("#filter")
    context.close()


def test_print_holds_every_column_whatever_the_filter_hides(browser: Browser, file: Path) -> None:
    context = browser.new_context(color_scheme="dark", offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.fill("#find", "no such column")
    printed = page.pdf(format="A4", tagged=True, outline=True, print_background=True)
    titles = re.findall(rb"/Title \((column_\d+|constant|when)\)", printed)
    assert len(set(titles)) == 57
    page.emulate_media(media="print")
    assert len(shown(page)) == 60
    assert not page.is_visible("#filter")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(22, 32, 42)"  # by night too, paper is white
    context.close()


@pytest.mark.parametrize(("columns", "megabytes"), [(200, 3), (300, 3)])
def test_wide_table_is_a_small_page_that_opens_and_filters_soon(
    browser: Browser, tmp_path: Path, columns: int, megabytes: float
) -> None:
    page_text = wide_table(columns)
    assert len(page_text.encode()) < megabytes * 1e6
    (tmp_path / "wide.html").write_text(page_text, encoding="utf-8")
    context = browser.new_context(viewport={"width": 375, "height": 800}, offline=True)
    page = context.new_page()
    page.goto((tmp_path / "wide.html").as_uri(), timeout=10_000)
    assert page.locator("article.column").count() == columns
    took = page.evaluate("""() => {
      const begun = performance.now();
      document.getElementById("find").value = "column_7";
      document.getElementById("find").dispatchEvent(new Event("input", {bubbles: true}));
      document.body.offsetHeight;
      return performance.now() - begun;
    }""")
    assert took < 1000
    context.close()
