"""Whether a window of rows differs from what it is held against: by more than chance explains, and by enough to matter.

Each test has an effect, the least of it that matters (its floor), and the odds of as much by chance, given the rows of the window
and those of the reference. A finding has both: an effect of its floor at least, and odds below the rate of false alarms that is
allowed of the whole window, divided by the number of its tests (Bonferroni). Few rows are ruled by chance, many by the floor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasks.core.metrics import LOWER_IS_BETTER, METRICS, WORDS, Metric
from tasks.core.quality import Measured, Quality, gap, metrics
from tasks.core.reference import Reference
from tasks.core.svg import percent, short
from tasks.core.tally import Cells, Count, Tally, shares
from tasks.core.target import as_text
from tasks.core.verdict import Finding, Subject

LEAST_EXPECTED = 8  # rows of a cell, in window and reference, below which it is joined to its neighbour
LEAST_LABELLED = 100  # rows with a truth, for their quality to be judged
LETTERS = 60  # of a word that are told
MANY = ("category",)
CAUSES: tuple[Subject, ...] = ("feature", "truth")  # what came, before what the model makes of it


@dataclass(frozen=True)
class Floors:
    """The least that matters. shape: Jensen-Shannon distance, base 2, 0 to 1; missing, new: a share of the rows; truth: a share,
    or of a number that distance; loss: growth of log loss or error, as a share; ranking: of AUC or accuracy; calibration: between
    what was said and what came, a probability, or of a number standard deviations."""

    shape: float
    missing: float
    new: float
    truth: float
    loss: float
    ranking: float
    calibration: float


@dataclass(frozen=True)
class Test:
    """One test: what it looks at, its effect, floor and odds; `bound` is the effect that it takes to be found."""

    of: Subject
    name: str
    kind: str  # shape, rare, missing, new, truth, or a metric
    what: str
    effect: float
    floor: float
    p: float
    chance: float  # the effect whose odds are just the rate that is allowed a test, where it is easily told

    @property
    def bound(self) -> float:
        return max(self.floor, self.chance)


def judge(tests: Sequence[Test], alpha: float) -> list[Finding]:
    """What is beyond its bound, so that of all windows without change at most a share `alpha` has anything: first what differs
    in the rows and what came of them, then what the model makes of it, each the farthest beyond its bound first."""
    each = alpha / max(len(tests), 1)
    found = [test for test in tests if test.effect >= test.floor and test.p <= each]
    found.sort(key=lambda test: (test.of not in CAUSES, -test.effect / max(test.bound, 1e-12)))
    return [
        Finding(test.of, test.name, test.what, _short(test.effect), _short(test.bound), _short(min(1.0, test.p * len(tests))))
        for test in found
    ]


def test_features(
    reference: Mapping[str, Count],
    window: Mapping[str, Count],
    cells: Mapping[str, Cells],
    floors: Mapping[str, Floors],
    each: float,
) -> list[Test]:
    """Of every column that both have: its values' distribution, rows with a rare value, without one, with one never seen before.

    `each` is the odds that one test is allowed, for its bound to be told.
    """
    tests = []
    for name, count in window.items():
        tests += list(_of_column("feature", name, cells[name], reference[name], count, floors[name], each))
    return tests


def test_scores(
    reference: Mapping[str, Count], window: Mapping[str, Count], cells: Mapping[str, Cells], floor: float, each: float
) -> list[Test]:
    """Of the answers by class: their distribution."""
    found = []
    for label, count in window.items():
        what = _moved(cells[label], reference[label], count)
        one = _shape("prediction", label, cells[label], reference[label].cells, count.cells, floor, each, what)
        other = _grown("prediction", label, cells[label], reference[label], count, floor, each)
        found += [test for test in (one, other) if test]
    return found


def _of_column(of: Subject, name: str, cells: Cells, was: Count, now: Count, floors: Floors, each: float) -> Iterator[Test]:
    before, rows = cells.rows(was), cells.rows(now)
    share, then = now.missing / max(rows, 1), was.missing / max(before, 1)
    said = f"{percent(share)} missing, was {percent(then)}"
    yield _rate(of, name, "missing", said, (now.missing, rows), (was.missing, before), floors.missing, each)
    if cells.kind == "date":
        return
    yield from (
        one
        for one in (
            _shape(of, name, cells, was.cells, now.cells, floors.shape, each, _moved(cells, was, now)),
            _grown(of, name, cells, was, now, floors.shape, each),
        )
        if one
    )
    present, known = rows - now.missing, before - was.missing
    share = now.strange / max(present, 1)
    if cells.kind == "category":
        top = now.new.most_common(1)
        whole = bool(top) and top[0][1] >= 0.9 * now.strange
        said = (
            f"new category {_quoted(top[0][0])} in {percent(share)} of the rows"
            if whole
            else f"words never seen before in {percent(share)} of the rows"
        )
        said += f", such as {_quoted(top[0][0])}" if top and not whole else ""
    else:
        said = f"{percent(share)} beyond the range {short(cells.low)} to {short(cells.high)}"
    yield _rate(of, name, "new", said, (now.strange, present), (was.strange, known), floors.new, each, upward=True)


def _shape(
    of: Subject, name: str, cells: Cells, was: NDArray[np.int64], now: NDArray[np.int64], floor: float, each: float, what: str
) -> Test | None:
    """The Jensen-Shannon distance of two counted distributions; None when there is nothing to compare.

    For equal distributions of n and m rows 8 of its square, in nats, are (1/n + 1/m) times a chi-square of one degree less than
    there are cells (its second-order expansion; Menendez et al. 1997, J. Franklin Inst. 334B).
    """
    joined = join_cells(was, now, ordered=cells.kind not in MANY)
    if joined is None:
        return None
    then, here = joined
    m, n, freedom = int(then.sum()), int(here.sum()), len(then) - 1
    scale = (1 / n + 1 / m) / 8
    nats = divergence(then / m, here / n)
    p = float(special.chdtrc(freedom, nats / scale))
    chance = math.sqrt(float(special.chdtri(freedom, each)) * scale / math.log(2))
    return Test(of, name, "shape", what, math.sqrt(nats / math.log(2)), floor, p, min(chance, 1.0))


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Jensen and Shannon's, in nats."""
    middle = (p + q) / 2
    return max(0.0, float(special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()) / 2)


def join_cells(
    was: NDArray[np.int64], now: NDArray[np.int64], *, ordered: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Both counts with cells joined until each has rows enough by the reference's shares; None when fewer than two are left."""
    m, n = int(was.sum()), int(now.sum())
    if not m or not n:
        return None
    least = _least(m, n)
    order = np.arange(len(was)) if ordered else np.argsort(-was, kind="stable")
    ends, held = [], 0
    for place, cell in enumerate(order):
        held += int(was[cell])
        if held >= least:
            ends.append(place + 1)
            held = 0
    if ends:
        ends[-1] = len(order)  # what is left over joins the last one
    if len(ends) < 2:
        return None
    starts = [0, *ends[:-1]]
    return np.add.reduceat(was[order], starts), np.add.reduceat(now[order], starts)


def _least(m: int, n: int) -> float:
    """Rows of a cell in a reference of m, from which on a window of n expects enough in it."""
    return LEAST_EXPECTED * max(m / n, 1.0)


def _grown(of: Subject, name: str, cells: Cells, was: Count, now: Count, floor: float, each: float) -> Test | None:
    """Rows in cells that are too rare to be compared each, all such together: joined to a large one, what grew there is not seen.

    The effect is the Jensen-Shannon distance that these rows make. None where there is no such cell.
    """
    m, n = was.present, now.present
    if not m or not n or not (rare := np.flatnonzero(was.cells < _least(m, n))).size:
        return None
    top = int(rare[now.cells[rare].argmax()])
    before, here = int(was.cells[rare].sum()), int(now.cells[rare].sum())
    said = (
        f"{_quoted(cells.names[top])} is {percent(now.cells[top] / n)} of the rows, was {percent(was.cells[top] / m)}"
        if cells.kind == "category"
        else _moved(cells, was, now)
    )
    found = _rate(of, name, "rare", said, (here, n), (before, m), floor, each, upward=True)

    def distance(moved: float) -> float:
        share = np.array([before / m, 1 - before / m])
        other = np.clip([share[0] + moved, share[1] - moved], 0.0, 1.0)
        return math.sqrt(divergence(share, other) / math.log(2)) if moved > 0 else 0.0

    return replace(found, effect=distance(found.effect), chance=min(distance(found.chance), 1.0))


def _rate(
    of: Subject,
    name: str,
    kind: str,
    what: str,
    now: tuple[int, int],
    was: tuple[int, int],
    floor: float,
    each: float,
    *,
    upward: bool = False,
) -> Test:
    """The difference of two shares, (rows that have it, rows), with odds of one as large, in either direction unless `upward`.

    Given the rows of both that have it, those of the window follow a binomial distribution (Przyborowski and Wilenski 1940,
    Biometrika 31: two Poisson rates), which for shares that are not small errs towards no finding. Of large shares those that
    lack it are counted.
    """
    (k, n), (j, m) = now, (min(was[0], was[1]), was[1])  # RANGE_ROWS may be more than a column has
    if not n or not m:
        return Test(of, name, kind, what, 0.0, floor, 1.0, 1.0)
    moved = k / n - j / m
    if k + j > (n + m) / 2:
        k, j = n - k, m - j
    p = _binomial(k, k + j, n / (n + m), above=k * m > j * n)
    p = (p if moved > 0 else 1.0) if upward else min(1.0, 2 * p)
    pooled = (k + j) / (n + m)
    chance = -float(special.ndtri(each if upward else each / 2)) * math.sqrt(pooled * (1 / n + 1 / m))
    return Test(of, name, kind, what, moved if upward else abs(moved), floor, p, min(chance, 1.0))


def _binomial(k: int, total: int, share: float, *, above: bool) -> float:
    """The odds of k or more of the total, or of k or fewer."""
    if above:
        return float(special.betainc(k, total - k + 1, share)) if k else 1.0
    return float(special.betaincc(k + 1, total - k, share)) if k < total else 1.0


def _moved(cells: Cells, was: Count, now: Count) -> str:
    """How a distribution moved, in words."""
    if not cells.count:
        return ""  # no word stood in enough rows to have a cell
    if cells.kind == "category":
        before, here = shares(was.cells), shares(now.cells)
        place = max(range(len(here)), key=lambda i: abs(here[i] - before[i]))
        return f"{_quoted(cells.names[place])} is {percent(here[place])} of the rows, was {percent(before[place])}"
    told = "characters: " if cells.kind == "text" else ""
    spread = was.spread()
    moved = (now.mean() - was.mean()) / spread if spread else 0.0
    if abs(moved) >= 0.05:
        where = "higher" if moved > 0 else "lower"
        return f"{told}mean {abs(moved):.2f} sd {where}: {short_figure(now.mean())}, was {short_figure(was.mean())}"
    if spread and abs(now.spread() / spread - 1) >= 0.05:
        return f"{told}spread {short_figure(now.spread())}, was {short_figure(spread)}"
    return f"{told}another shape about the same mean, {short_figure(now.mean())}"


def _quoted(word: str) -> str:
    """The word, and not too much of it."""
    return repr(word if len(word) <= LETTERS else f"{word[: LETTERS - 1]}…")


def short_figure(value: float) -> str:
    return short(float(f"{value:.4g}"))


def test_truth(reference: Reference, was: NDArray[np.int64], now: NDArray[np.int64], floor: float, each: float) -> list[Test]:
    """Of what came: the share of each class, or the distribution of a number."""
    if reference.truth_cells is not None:
        one = _shape(
            "truth", reference.target.name, reference.truth_cells, was, now, floor, each, "another distribution of what came"
        )
        return [one] if one else []
    labels = [as_text(label) for label in reference.target.classes]
    m, n = int(was.sum()), int(now.sum())
    watched = [1] if len(labels) == 2 else range(len(labels))
    return [
        _rate(
            "truth",
            reference.target.name,
            "truth",
            f"{reference.target.name} = {labels[i]} in {percent(now[i] / max(n, 1))}, was {percent(was[i] / max(m, 1))}",
            (int(now[i]), n),
            (int(was[i]), m),
            floor,
            each,
        )
        for i in watched
    ]


def test_quality(reference: Reference, window: Mapping[str, Quality], floors: Floors, each: float) -> list[Test]:
    """Of all labelled rows and of each slice with enough of them: metrics that became worse, and calibration that moved.

    Differences are held against the standard errors of both sides. Of a slice the loss alone is judged.
    """
    tests = []
    task = reference.target.task
    for name, now in window.items():
        was = reference.quality.get(name)
        if was is None or min(now.rows, was.rows) < LEAST_LABELLED:
            continue
        before, here = metrics(task, was), metrics(task, now)
        for metric in (metric for metric in METRICS[task] if metric in before and metric in here):
            if not name or metric == _loss(here):
                tests.append(_worse(name, metric, before[metric], here[metric], floors, each))
        if not name:
            tests.append(_calibration(reference, gap(was), gap(now), floors.calibration, each))
    return tests


def _loss(found: Mapping[Metric, Measured]) -> Metric:
    return next(metric for metric in found if metric in LOWER_IS_BETTER)


def _worse(name: str, metric: Metric, was: Measured, now: Measured, floors: Floors, each: float) -> Test:
    relative = metric in LOWER_IS_BETTER
    scale = abs(was.value) or 1.0
    effect = (now.value - was.value) / scale if relative else was.value - now.value
    # Of a ratio the error of the denominator counts as often as the ratio is large.
    error = math.hypot(now.error, was.error * (now.value / scale)) / scale if relative else math.hypot(now.error, was.error)
    what = f"{WORDS[metric]} {now.value:.4g}, was {was.value:.4g}"
    p = float(special.ndtr(-effect / error)) if error else float(effect <= 0)
    return Test(
        "quality", name, metric, what, effect, floors.loss if relative else floors.ranking, p, -float(special.ndtri(each)) * error
    )


def _calibration(reference: Reference, was: Measured, now: Measured, floor: float, each: float) -> Test:
    moved, error = now.value - was.value, math.hypot(now.error, was.error)
    more, higher = ("more", "higher") if moved > 0 else ("less", "lower")
    match reference.target.task:
        case "binary":
            what = f"comes {abs(moved) * 100:.1f} points {more} often than said, beside the test part"
        case "multiclass":
            what = f"the likeliest class comes {abs(moved) * 100:.1f} points {more} often than said, beside the test part"
        case "regression":
            what = f"comes {short_figure(abs(moved) * reference.target.scale)} {higher} than said, beside the test part"
    p = 2 * float(special.ndtr(-abs(moved) / error)) if error else float(moved == 0)
    return Test("calibration", "", "calibration", what, abs(moved), floor, p, -float(special.ndtri(each / 2)) * error)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def look_at(
    reference: Reference, held: Tally, window: Tally, floors: Mapping[str, Floors], shape: float, alpha: float
) -> list[Test]:
    """All tests of a window's columns and answers against those `held`, of the reference or of other windows."""
    each = alpha / max(4 * len(window.columns) + 2 * len(window.scores), 1)
    return [
        *test_features(held.columns, window.columns, reference.cells, floors, each),
        *test_scores(held.scores, window.scores, reference.score_cells, shape, each),
    ]
