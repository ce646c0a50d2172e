// What every chart is made of: elements, figures in words, ticks, and a fetch that says what went wrong.
const NS = "http://www.w3.org/2000/svg";
const make = (tag, given = {}, ...inside) => {
  const node = ["svg", "path", "line", "rect", "circle", "text", "g"].includes(tag) ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
};
const digits = (value, most = 3) => value === null || value === undefined ? "none" : value.toLocaleString("en", {maximumSignificantDigits: most});
const percent = (share) => share === null || share === undefined ? "none" : (share > 0 && share < 0.0005 ? "<0.1" : (100 * share).toLocaleString("en", {maximumFractionDigits: 1})) + "%";
const clock = (seconds, exact) => new Date(1000 * seconds).toLocaleTimeString([], {hour: "2-digit", minute: "2-digit", ...(exact && {second: "2-digit"}), hour12: false});
const lasting = (seconds) => seconds < 90 ? Math.round(seconds) + " s" : Math.round(seconds / 60) + " min";
const ask = async (path) => {
  let answer;
  try {
    answer = await fetch(path, {signal: AbortSignal.timeout(8000)});
  } catch {
    throw new Error("the service does not answer");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail || "the service answers " + answer.status);
  return body;
};
// Does the work now and after so many seconds again, while somebody looks and nothing is paused.
const repeat = (work, seconds, paused = () => false) => {
  const turn = () => document.hidden || paused() ? null : work();
  turn();
  setInterval(turn, 1000 * seconds);
  document.addEventListener("visibilitychange", turn);
};
const ticksTo = (most, count) => {
  const rough = most / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough * 0.999);
  return Array.from({length: Math.ceil(most / step - 0.001) + 1}, (_, i) => i * step);
};
// A path through the points; where one is null the line has a gap, and a point alone is a dot.
const pathOf = (points) => points.map((point, i) => !point ? "" : (i && points[i - 1] ? "L" : "M") + point[0].toFixed(1) + " " + point[1].toFixed(1) + (i && points[i - 1] || points[i + 1] ? "" : "h.01")).join("");
