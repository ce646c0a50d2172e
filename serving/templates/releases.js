// Which version each channel serves, how trials go, what was refused, and the latest moves.
(() => {
  const section = document.getElementById("releases"), path = "/v1/models/" + encodeURIComponent(section.dataset.model) + "/history";
  const at = (id) => document.getElementById(id);
  const code = (text) => make("code", {}, text);
  const facts = (one, tried) => {
    if (!tried) return "";
    const some = [`${percent(one.share)} of the requests`, `${digits(tried.requests, 9)} so far, ${digits(tried.errors, 9)} errors`];
    if (one.latency !== undefined) some.push(`p95 ${digits(one.latency)} times production's`);
    if (one.shift !== undefined) some.push(`answers ${digits(one.shift)} apart`);
    return (one.on ? "" : "ended by its rule; ") + some.join("; ");
  };
  const draw = (told) => {
    const lines = Object.entries(told.channels).map(([channel, one]) => make("tr", {}, make("th", {scope: "row"}, channel), make("td", {}, code(one.version), " " + one.candidate, make("div", {class: "facts"}, facts(one, told.trials[channel])))));
    for (const [channel, {version, why}] of Object.entries(told.refused || {})) lines.push(make("tr", {}, make("th", {scope: "row"}, channel), make("td", {}, code(version), make("div", {class: "problem"}, "refused: " + why))));
    at("channels").replaceChildren(make("table", {}, make("tbody", {}, ...lines)));
    at("silent").textContent = told.error ? "The release store does not answer; what is served goes on. " + told.error : "";
    const when = (iso) => new Date(iso).toLocaleString([], {day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hour12: false});
    at("moves").replaceChildren(...told.moves.map((move) => make("li", {},
      make("b", {}, move.channel), ...(move.version ? [" serves ", code(move.version)] : [" closed"]),
      make("div", {}, make("time", {datetime: move.since, title: move.since}, when(move.since)), " by " + (move.by || "nobody named") + (move.why ? ": " + move.why : "")))));
    if (!told.moves.length) at("moves").append(make("li", {class: "said"}, !told.followed ? "This bundle was given by name; it follows no release store." : told.error ? "Unknown while the store does not answer." : "None."));
  };
  repeat(async () => {
    try {
      draw(await ask(path));
    } catch (error) {
      at("silent").textContent = "No release history: " + error.message;
    }
  }, 10);
})();
