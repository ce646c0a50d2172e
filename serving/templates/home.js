// What each model did in the last hour.
(() => {
  const drawTrend = (box, {time, rows}, from, to) => {
    const highest = Math.max(...rows, 0), most = highest || 1, x = (one) => 2 + 216 * (one - from) / Math.max(60, to - from), y = (one) => 52 - 48 * one / most;
    box.replaceChildren(
      make("svg", {class: "plot", viewBox: "0 0 220 56", preserveAspectRatio: "none", role: "img", "aria-label": `Rows per second, last ${lasting(to - from)}: highest ${digits(highest)}`},
        make("line", {class: "axis", x1: 0, x2: 220, y1: 54, y2: 54}), make("path", {class: "line", d: pathOf(rows.map((one, i) => [x(time[i]), y(one)]))})),
      make("span", {class: "said"}, `rows/s, last ${lasting(to - from)}, highest ${digits(highest)}`));
  };
  const drawModel = (item, live, history) => {
    const {totals, series, scores, since, until} = live;
    const facts = [["rows/s", digits(series.rows.at(-1))], ["rows", digits(totals.rows, 9)], ["drift", scores.expected ? digits(scores.distance) : "no expectation recorded"]];
    for (const [channel, one] of Object.entries(history.channels)) if (channel !== "production") facts.push([channel, one.version + ", " + percent(one.share)]);
    item.querySelector("dl").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    item.querySelector(".problem").textContent = Object.entries(history.refused || {}).map(([channel, {version, why}]) => `${channel} ${version} was refused: ${why}`).join("; ");
    drawTrend(item.querySelector(".trend"), series, since, until);
    const errors = totals.refused + totals.failed;
    document.getElementById("service").textContent = totals.requests ? `${digits(totals.requests, 9)} requests in ${lasting(until - since)}, ${digits(errors, 9)} errors, p95 ${digits(1000 * totals.p95)} ms` : `no request for predictions in the last ${lasting(until - since)}`;
  };
  repeat(() => document.querySelectorAll("[data-model]").forEach(async (item) => {
    const path = "/v1/models/" + encodeURIComponent(item.dataset.model);
    try {
      drawModel(item, await ask(path + "/live"), await ask(path + "/history"));
    } catch (error) {
      item.querySelector(".problem").textContent = "No live figures: " + error.message;
    }
  }), 10);
})();
