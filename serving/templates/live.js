// The charts of the last hour, drawn anew for each sample.
(() => {
  const section = document.getElementById("live"), path = "/v1/models/" + encodeURIComponent(section.dataset.model) + "/live";
  const at = (id) => document.getElementById(id);
  const figures = Object.fromEntries([...section.querySelectorAll("figure")].map((one) => [one.dataset.chart, one]));
  const HEIGHT = 150, TOP = 8, BOTTOM = 20, LEFT = 40, RIGHT = 8, SHOWN = 6;
  const SERIES = {
    requests: {unit: "/s", lines: [["requests", "requests", "one"]], said: "Requests per second"},
    errors: {unit: "/s", lines: [["failed", "failed (5xx)", "one"], ["refused", "refused (4xx)", "two"]], said: "Errors per second"},
    latency: {unit: " ms", scale: 1000, lines: [["p50", "p50", "one"], ["p95", "p95", "two"], ["p99", "p99", "three"]], said: "Time to answer in milliseconds", none: "nothing was answered"},
    drift: {unit: "", lines: [["distance", "distance", "one"], ["chance", "chance, 1 in 100", "chance"]], said: "Distance of the scores of five minutes from the expected ones, 0 to 1", none: "fewer than 30 answers in 5 min"},
  };
  let told = null, paused = false, all = false;
  const places = {};  // of each chart the point that somebody looks at, by its time or bucket

  const swatch = (kind) => make("svg", {viewBox: "0 0 18 10", "aria-hidden": "true"}, kind === "bar" ? make("rect", {class: "bar", x: 2, y: 0, width: 14, height: 10}) : kind === "wanted" ? make("path", {class: "wanted", d: "M1 5h16"}) : make("path", {class: "line " + kind, d: "M1 5h16"}));
  const legend = (figure, entries) => figure.querySelector(".legend").replaceChildren(...entries.map(([kind, label, value]) => make("span", {}, swatch(kind), label + " ", make("b", {}, value))));

  // The picture in the figure, which keeps its focus; pointer and arrow keys choose a place in it.
  const plotOf = (figure, key, count, placeAt, draw) => {
    let plot = figure.querySelector(".plot");
    if (!plot) {
      plot = make("svg", {class: "plot", role: "img", tabindex: 0});
      figure.append(plot);
      const choose = (place) => { places[key] = place; plot.draw(); };
      plot.addEventListener("pointermove", (event) => choose(plot.placeAt(event.clientX - plot.getBoundingClientRect().left)));
      plot.addEventListener("pointerleave", () => choose(undefined));
      plot.addEventListener("blur", () => choose(undefined));
      plot.addEventListener("keydown", (event) => {
        const step = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9, PageUp: 6, PageDown: -6}[event.key];
        if (event.key === "Escape") choose(undefined);
        if (!step || !plot.count) return;
        event.preventDefault();
        choose(Math.max(0, Math.min(plot.count - 1, (places[key] ?? (step < 0 ? plot.count : -1)) + step)));
      });
    }
    Object.assign(plot, {count, placeAt, draw});
    return plot;
  };
  const frame = (plot, width, ticks, most, unit) => {
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const shown = (tick) => unit === "%" ? digits(100 * tick) + "%" : digits(tick);
    plot.replaceChildren(...ticks.flatMap((tick) => [
      make("line", {class: tick ? "grid" : "axis", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick)}),
      make("text", {x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end"}, shown(tick)),
    ]));
    return y;
  };
  const width = (figure) => Math.max(220, figure.clientWidth);

  const drawSeries = (key) => {
    const figure = figures[key], {unit, lines, said, scale = 1, none} = SERIES[key], {time} = told.series;
    const values = lines.map(([name]) => told.series[name].map((value) => value === null ? null : value * scale));
    const wide = width(figure), from = told.since, to = Math.max(told.until, from + 60);
    const x = (seconds) => LEFT + (wide - LEFT - RIGHT) * (seconds - from) / (to - from);
    const nearest = (left) => time.length ? time.reduce((best, one, i) => Math.abs(x(one) - left) < Math.abs(x(time[best]) - left) ? i : best, 0) : undefined;
    const plot = plotOf(figure, key, time.length, nearest, () => {
      const highest = Math.max(0, ...values.flat().filter((one) => one !== null));
      const ticks = ticksTo(highest || 1, 4), y = frame(plot, wide, ticks, ticks.at(-1), unit);
      const step = [60, 120, 300, 600, 900, 1800].find((one) => (to - from) / one <= (wide - LEFT) / 62) || 3600;
      for (let one = Math.ceil(from / step) * step; one <= to; one += step) {
        if (x(one) > wide - 22) continue;
        plot.append(make("text", {x: x(one), y: HEIGHT - 5, "text-anchor": "middle"}, clock(one)), make("line", {class: "axis", x1: x(one), x2: x(one), y1: y(0), y2: y(0) + 4}));
      }
      lines.forEach(([, , kind], i) => plot.append(make("path", {class: "line " + kind, d: pathOf(values[i].map((one, j) => one === null ? null : [x(time[j]), y(one)]))})));
      const empty = values.every((some) => some.every((one) => one === null));
      if (empty && none) plot.append(make("text", {class: "empty", x: (wide + LEFT) / 2, y: HEIGHT / 2, "text-anchor": "middle"}, key === "drift" && !told.scores.expected ? "no expectation recorded" : none));
      const chosen = places[key] !== undefined && places[key] < time.length, place = chosen ? places[key] : time.length - 1;
      if (chosen) {
        plot.append(make("line", {class: "cursor", x1: x(time[place]), x2: x(time[place]), y1: TOP, y2: y(0)}));
        lines.forEach(([, , kind], i) => values[i][place] !== null && plot.append(make("circle", {class: kind, cx: x(time[place]), cy: y(values[i][place]), r: 3.5})));
      }
      const written = lines.map(([, label, kind], i) => [kind, label, digits(values[i][place])]);
      legend(figure, written);
      figure.querySelector(".at").textContent = time.length ? (chosen ? "at " : "") + clock(time[place], true) : "";
      plot.setAttribute("aria-label", `${said}${time.length ? (chosen ? " at " : ", latest at ") + clock(time[place], true) + ": " + written.map(([, label, value]) => label + " " + value + (value === "none" ? "" : unit)).join(", ") : ": no sample yet"}. Arrow keys go through the last ${lasting(to - from)}; highest ${digits(highest)}${unit}.`);
    });
    plot.draw();
  };

  const bucket = (i) => {
    const {edges, unit} = told.scores, told_edge = (edge) => unit === "probability" ? digits(100 * edge) + "%" : digits(edge);
    return i === 0 ? "up to " + told_edge(edges[0]) : i === edges.length ? "above " + told_edge(edges.at(-1)) : told_edge(edges[i - 1]) + " to " + told_edge(edges[i]);
  };
  const drawScores = () => {
    const figure = figures.scores, {edges, live, expected, unit, rows} = told.scores, choice = at("class");
    const classes = Object.keys(live || expected || {"": 0});
    if (classes.length > 1 && choice.options.length !== classes.length) {
      choice.replaceChildren(...classes.map((one) => make("option", {}, one)));
      choice.hidden = false;
    }
    const label = choice.hidden ? classes[0] : choice.value, count = edges.length + 1;
    const mine = live?.[label], wanted = expected?.[label], wide = width(figure);
    const each = (wide - LEFT - RIGHT) / count, x = (i) => LEFT + each * i;
    const plot = plotOf(figure, "scores", mine || wanted ? count : 0, (left) => Math.max(0, Math.min(count - 1, Math.floor((left - LEFT) / each))), () => {
      const ticks = ticksTo(Math.max(0.1, ...(mine || []), ...(wanted || [])), 4), y = frame(plot, wide, ticks, ticks.at(-1), "%"), place = places.scores;
      edges.forEach((edge, i) => plot.append(make("text", {x: x(i + 1), y: HEIGHT - 5, "text-anchor": "middle"}, unit === "probability" ? digits(100 * edge) + "%" : digits(edge))));
      (mine || []).forEach((share, i) => plot.append(make("rect", {class: "bar" + (place === i ? " on" : ""), x: x(i) + each * 0.12, width: each * 0.76, y: y(share), height: Math.max(0, y(0) - y(share))})));
      (wanted || []).forEach((share, i) => plot.append(make("path", {class: "wanted", d: `M${(x(i) + each * 0.04).toFixed(1)} ${y(share).toFixed(1)}h${(each * 0.92).toFixed(1)}`})));
      if (!mine) plot.append(make("text", {class: "empty", x: (wide + LEFT) / 2, y: 20, "text-anchor": "middle"}, "no answers yet"));
      const entries = [["bar", place === undefined ? "live, rows:" : "live", place === undefined ? digits(rows, 9) : percent(mine?.[place])]];
      if (wanted) entries.push(["wanted", place === undefined ? "expected, test rows:" : "expected", place === undefined ? digits(told.scores.expected_rows, 9) : percent(wanted[place])]);
      legend(figure, entries);
      figure.querySelector(".at").textContent = place === undefined ? (unit === "probability" ? "answers by probability" : "answers by standard deviations from training's mean") : bucket(place);
      plot.setAttribute("aria-label", `Share of answers by ${unit}${place === undefined ? "" : ", " + bucket(place)}: ` + entries.map(([, name, value]) => name + " " + value).join(", ") + ". Arrow keys go through the buckets.");
    });
    plot.draw();
  };

  // Whether the share is so far from that of training that it is no accident, and large enough to matter.
  const changed = ({live, expected}, rows) => {
    if (live === null || expected === null) return false;
    const usual = Math.min(1 - 1 / rows, Math.max(expected, 1 / rows));
    return Math.abs(live - expected) > Math.max(0.01, 3.3 * Math.sqrt(usual * (1 - usual) / rows));
  };
  const row = (kind, cells) => make("tr", {}, ...cells.map((cell, i) => make(i && kind === "td" ? "td" : "th", {scope: kind === "th" ? "col" : "row", ...(i && {class: "number"})}, cell)));
  const drawColumns = () => {
    const {columns, scores: {rows, expected}} = told, box = at("columns"), button = at("every");
    const gap = (one) => Math.max(...[one.missing, one.unknown].map((share) => !share || share.live === null || share.expected === null ? 0 : Math.abs(share.live - share.expected)));
    const ranked = [...columns].sort((a, b) => gap(b) - gap(a)), shown = all ? ranked : ranked.slice(0, SHOWN);
    const body = make("tbody", {}, ...shown.map((one) => {
      const cells = [one.missing, one.unknown].flatMap((share) => share ? [share.live, share.expected].map((one) => one === null ? "" : percent(one)) : ["", ""]);
      const line = row("td", [one.column, ...cells]);
      [one.missing, one.unknown].forEach((share, i) => {
        if (!share || !changed(share, rows)) return;
        const cell = line.children[1 + 2 * i];
        cell.classList.add("grown");
        cell.prepend(share.live > share.expected ? "\u25b2 " : "\u25bc ");
        cell.title = share.live > share.expected ? "more than in training" : "less than in training";
      });
      return line;
    }));
    const caption = !columns.length ? "No column of this model can be missing or unknown" : `Rows without a value, and with a word not known${rows ? "" : ": no rows yet"}`;
    box.replaceChildren(make("table", {}, make("caption", {}, caption), ...(columns.length ? [make("thead", {}, row("th", ["column", "missing", expected ? "in training" : "", "unknown", expected ? "in training" : ""])), body] : [])));
    button.hidden = columns.length <= SHOWN;
    button.textContent = all ? "Fewer columns" : `All ${columns.length} columns`;
    button.setAttribute("aria-expanded", all);
  };

  const drawNumbers = () => {
    const {series, scores} = told, box = at("numbers"), top = box.scrollTop;
    const keys = [["requests", "requests/s"], ["refused", "refused/s"], ["failed", "failed/s"], ["p50", "p50 ms"], ["p95", "p95 ms"], ["p99", "p99 ms"], ["distance", "distance"]];
    const last = series.time.map((one, i) => i).filter((i) => i === series.time.length - 1 || Math.floor(series.time[i] / 60) !== Math.floor(series.time[i + 1] / 60)).reverse();
    const value = (key, i) => series[key][i] === null ? "" : digits(series[key][i] * (key.startsWith("p") ? 1000 : 1));
    const over = make("table", {}, make("caption", {}, "The last ten seconds of each minute"), make("thead", {}, row("th", ["time", ...keys.map(([, label]) => label)])), make("tbody", {}, ...last.map((i) => row("td", [clock(series.time[i], true), ...keys.map(([key]) => value(key, i))]))));
    const label = at("class").hidden ? Object.keys(scores.live || scores.expected || {"": 0})[0] : at("class").value;
    const lie = make("table", {}, make("caption", {}, "Scores"), make("thead", {}, row("th", ["answer", "live", "expected"])), make("tbody", {}, ...Array.from({length: scores.edges.length + 1}, (_, i) => row("td", [bucket(i), percent(scores.live?.[label]?.[i]), percent(scores.expected?.[label]?.[i])]))));
    box.replaceChildren(over, make("br"), lie);
    box.scrollTop = top;
  };

  const draw = () => {
    if (!told) return;
    const {totals, since, until, scores} = told, span = lasting(until - since);
    at("span").textContent = `last ${span}, to ${clock(until, true)}`;
    const errors = totals.refused + totals.failed;
    const drift = !scores.expected ? "No expectation recorded: this release was made before there was one." : scores.distance === null ? "" : `Scores of this time are ${digits(scores.distance, 2)} from expected (largest gap of the cumulative shares); chance alone reaches ${digits(scores.chance, 2)} once in 100 times.`;
    at("told").textContent = (totals.requests ? `${digits(totals.requests, 9)} ${totals.requests === 1 ? "request" : "requests"}${"shared" in section.dataset ? " to all models of this service" : ""}, ${digits(errors, 9)} errors (${percent(errors / totals.requests)}), p95 ${digits(1000 * totals.p95)} ms${"shared" in section.dataset ? `; ${digits(totals.rows, 9)} rows answered by this one` : ""}. ` : `No request for predictions in the last ${span}. `) + drift;
    for (const key of Object.keys(SERIES)) drawSeries(key);
    drawScores();
    drawColumns();
    if (!at("numbers").hidden) drawNumbers();
  };
  at("tables").addEventListener("click", (event) => {
    const on = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", on);
    at("charts").hidden = on;
    at("numbers").hidden = !on;
    draw();
  });
  at("pause").addEventListener("click", (event) => {
    paused = !paused;
    event.target.setAttribute("aria-pressed", paused);
    if (!paused) look();
  });
  at("every").addEventListener("click", () => { all = !all; draw(); });
  at("class").addEventListener("change", draw);
  new ResizeObserver(draw).observe(at("charts"));
  const look = async () => {
    try {
      told = await ask(path);
      at("trouble").textContent = "";
      draw();
    } catch (error) {
      at("trouble").textContent = "No live figures: " + error.message + (told ? "; these are of " + clock(told.until, true) : "");
    }
  };
  repeat(look, 5, () => paused);
})();
