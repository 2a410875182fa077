// Find a sample by its id, or a class by its label.

const SEARCH = document.getElementById("search");
const HITS = document.getElementById("search-hits");
const MOST_HITS = 12;
let lowered = null;
let active = -1;

function searchIndex() {
  lowered ||= [
    ...DATA.samples.map(([id], place) => ({ key: id.toLowerCase(), go: () => goToSample(id), view: () => sampleHit(place) })),
    ...DATA.labels.map((label) => ({ key: label.toLowerCase(), go: () => (location.hash = `#class=${encodeURIComponent(label)}`), view: () => [make("span", null, userText(label), make("small", null, "class"))] })),
  ];
  return lowered;
}

function sampleHit(place) {
  const { id, split, label } = sampleAt(place);
  const small = picture(place);
  small.style.setProperty("--size", "34px");
  return [small, make("span", null, userText(id, { class: "id clamp" }), make("small", null, `${split}, `, make("bdi", null, brief(label, 60))))];
}

/** Equal first, then what begins with the query, then what holds it. */
function findHits(query) {
  const ranked = searchIndex().map((entry) => [entry.key === query ? 0 : entry.key.startsWith(query) ? 1 : entry.key.includes(query) ? 2 : 3, entry]);
  return ranked.filter(([rank]) => rank < 3).sort(([a], [b]) => a - b).slice(0, MOST_HITS).map(([, entry]) => entry);
}

let hits = [];
function showHits() {
  const query = SEARCH.value.trim().toLowerCase();
  hits = query ? findHits(query) : [];
  active = hits.length ? 0 : -1;
  const nothing = query && !hits.length ? [make("li", null, make("span", { class: "tag" }, "Nothing on this page is called that."))] : [];
  HITS.replaceChildren(...hits.map((hit, place) => make("li", { role: "option", id: `hit-${place}`, onmousedown: (event) => event.preventDefault(), onclick: () => take(place) }, hit.view())), ...nothing);
  HITS.hidden = !query;
  SEARCH.setAttribute("aria-expanded", String(!HITS.hidden));
  markActive();
}

function markActive() {
  [...HITS.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === active)));
  if (active < 0) return SEARCH.removeAttribute("aria-activedescendant");
  SEARCH.setAttribute("aria-activedescendant", `hit-${active}`);
  HITS.children[active].scrollIntoView({ block: "nearest" });
}

function hideHits() {
  HITS.hidden = true;
  SEARCH.setAttribute("aria-expanded", "false");
}

function take(place) {
  const hit = hits[place];
  if (!hit) return;
  SEARCH.value = "";
  hideHits();
  SEARCH.blur();
  hit.go();
}

function searchKey(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps && hits.length) {
    event.preventDefault();
    active = (active + steps[event.key] + hits.length) % hits.length;
    markActive();
  } else if (event.key === "Enter") take(active);
  else if (event.key === "Escape") {
    SEARCH.value = "";
    hideHits();
  }
}

function prepareSearch() {
  SEARCH.addEventListener("input", showHits);
  SEARCH.addEventListener("focus", () => SEARCH.value && showHits());
  SEARCH.addEventListener("blur", hideHits);
  SEARCH.addEventListener("keydown", searchKey);
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    SEARCH.focus();
  });
}
