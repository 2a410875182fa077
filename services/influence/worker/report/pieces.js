// Pieces that tables and cards are made of.

function picture(place, what = "") {
  const { id, split, label } = sampleAt(place);
  const alt = `${what || `${split} image`} ${brief(id)}, labelled ${brief(label) || "nothing"}`;
  const data = PICTURES[place];
  if (!data) return make("span", { class: "picture none", role: "img", "aria-label": `${alt} (no picture)` }, "no picture");
  return make("img", { class: "picture", src: `data:image/jpeg;base64,${data}`, alt, loading: "lazy", decoding: "async" });
}

/** A picture that opens everything about its sample. */
function pictureButton(place, caption, what) {
  const { id } = sampleAt(place);
  const open = () => goToSample(id);
  return make("button", { class: "open", type: "button", title: brief(id, 200), onclick: open }, picture(place, what), caption);
}

function copyButton(text, what) {
  return make("button", { class: "copy", type: "button", "aria-label": `Copy ${what} ${brief(text)}`, title: `Copy ${what}`, onclick: () => copyText(text, what) }, icon("copy"));
}

/** Picture, id and copy button. */
function who(place, note) {
  const { id } = sampleAt(place);
  const opener = make("button", { class: "open", type: "button", onclick: () => goToSample(id) }, userText(id, { class: "id clamp four" }));
  return make("div", { class: "who" }, picture(place), make("span", null, opener, copyButton(id, "sample id"), note ? make("div", { class: "tag" }, note) : null));
}

function labelCell(label, note) {
  return make("div", { class: "label" }, label ? userText(label) : make("span", { class: "tag" }, "–"), note ? make("small", null, ` ${note}`) : null);
}

function meter(value, text, doubtful) {
  const fill = make("b");
  fill.style.width = `${Math.max(0, Math.min(1, value || 0)) * 100}%`;
  return make("div", { class: `meter${doubtful ? " doubt" : ""}` }, make("i", { "aria-hidden": "true" }, fill), text);
}

/** Small pictures with their labels. */
function strip(places, what) {
  if (!places.length) return make("span", { class: "tag" }, "none");
  return make("div", { class: "strip" }, places.map((place) => pictureButton(place, make("bdi", { class: "tag" }, sampleAt(place).label), what)));
}

/** Evidence: how far up the sample stands among all, from the top 100 % (no bar) to the top 0.1 % (a full one). */
function parts(entries) {
  return make("div", { class: "parts" }, entries.map(([name, , share]) => {
    const strength = Math.min(1, -Math.log10(Math.max(share, 1e-3)) / 3);
    const fill = make("b", { class: strength >= 0.5 ? "strong" : null });
    fill.style.width = `${strength * 100}%`;
    return [make("span", null, name.replaceAll("_", " ")), make("i", { "aria-hidden": "true" }, fill), make("span", null, `${share >= 0.1 ? Math.round(100 * share) : (100 * share).toPrecision(2)} %`)];
  }));
}

function badge(text, mood) {
  return make("span", { class: `badge ${mood || ""}` }, text);
}

const ADVICE_MOODS = { CENTRALIZED: "hot", DIVERSIFIED: "odd", INDIVIDUAL: "cool" };
const CHANGE_MOODS = { new: "hot", fixed: "cool", persisting: "odd" };

function couple(first, second) {
  return make("div", { class: "couple" }, pictureButton(first), second >= 0 ? pictureButton(second) : null);
}
