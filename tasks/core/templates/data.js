"use strict";
// The page is whole without this: it only hides and sorts cards.
const cards = [...document.querySelectorAll("article.column")];
const home = document.getElementById("cards");
const [form, find, order, kind, found, count, nothing] =
  ["filter", "find", "order", "kind", "found", "count", "nothing"].map((id) => document.getElementById(id));
const roles = [...form.querySelectorAll("input[name=role]")];
cards.forEach((card, place) => { card.dataset.place = place; });

function show() {
  const words = find.value.trim().toLowerCase();
  const wanted = new Set(roles.filter((role) => role.checked).map((role) => role.value));
  let shown = 0;
  for (const card of cards) {
    const { name, role, findings } = card.dataset;
    card.hidden = !name.toLowerCase().includes(words) || !wanted.has(role) || (found.checked && findings === "0")
      || (kind !== null && kind.value !== "" && kind.value !== card.dataset.kind);
    shown += card.hidden ? 0 : 1;
  }
  count.textContent = shown === cards.length ? `${shown} columns` : `${shown} of ${cards.length} columns`;
  nothing.hidden = shown > 0;
}

function sort() {
  const by = order.value;
  const before = {
    place: (a, b) => a.dataset.place - b.dataset.place,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
    missing: (a, b) => b.dataset.missing - a.dataset.missing,
    drift: (a, b) => b.dataset.drift - a.dataset.drift,
  }[by];
  home.append(...[...cards].sort((a, b) => before(a, b) || a.dataset.place - b.dataset.place));
}

function reveal() {
  const card = document.querySelector("article:target");
  if (card && card.hidden) {
    form.reset();
    show();
    sort();
    card.scrollIntoView();
  }
}

form.hidden = false;
form.addEventListener("input", show);
order.addEventListener("change", sort);
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", reveal);
show();
sort();
