// Confusion classes: the pairs, and who is behind them.

const FIRST_PAIRS = 3;
const FIRST_FACES = 6;

function face(place, score, note, what) {
  const { label } = sampleAt(place);
  const doubt = doubtOf(place);
  return make("div", { class: "face" },
    pictureButton(place, null, what),
    userText(label, { class: "name clamp", title: label }),
    make("span", { class: "score" }, score),
    note ? make("small", null, note) : null,
    doubt && doubt[0] >= 0.5 ? make("small", { class: "doubtful" }, `wrong? ${percent(doubt[0], 0)}`) : null);
}

function rankNote([rank, low, high]) {
  return [`rank ${count(rank)} `, low === high ? "" : make("span", { class: "whole" }, `(${count(low)}–${count(high)})`)];
}

function rankedFace([place, , score], what) {
  const harm = harmOf(place);
  return face(place, signed(score), harm ? rankNote(harm) : "", what);
}

function pairFace(place) {
  return pictureButton(place, userText(sampleAt(place).label, { class: "tag clamp" }), "test image");
}

function pairView([first, second, distance]) {
  const png = EXPLANATIONS.get(`${first} ${second}`) || EXPLANATIONS.get(`${second} ${first}`);
  return make("div", { class: "pair" }, pairFace(first), make("span", { class: "gap" }, decimal(distance)), pairFace(second),
    png ? make("button", { class: "all why", type: "button", onclick: () => openExplanation(first, second, png) }, "Why they look alike") : null);
}

/** The first few, and a button that shows the rest. */
function some(items, first, draw, className, rest) {
  const box = make("div", { class: className }, items.slice(0, first).map(draw));
  if (items.length <= first) return [box];
  const more = make("button", { class: "all", type: "button", onclick: () => {
    box.append(...items.slice(first).map(draw));
    box.children[first].querySelector("button")?.focus();
    more.remove();
  } }, `Show ${items.length - first} more`);
  return [box, more, rest];
}

function side(className, sign, title, entries, nothing) {
  const what = `${title.toLowerCase()} training image`;
  const content = entries.length ? some(entries, FIRST_FACES, (entry) => rankedFace(entry, what), "faces") : [make("p", { class: "none-here" }, nothing)];
  return make("div", { class: className }, make("h4", null, `${sign} ${title}`), content);
}

function confusionCard(row) {
  const [label, samples, confusions, share, top, topCount, distance, harmful, pairs, pairCount] = row;
  const mostly = topCount === confusions ? "all" : `${count(topCount)} of them`;
  const shown = pairs.length < pairCount ? make("p", { class: "tag" }, `The ${count(pairs.length)} closest of ${count(pairCount)} pairs.`) : null;
  return make("article", { class: "case" },
    make("div", { class: "card-head" },
      make("h3", null, userText(labelAt(label)), copyButton(labelAt(label), "label")),
      make("p", null, `${count(confusions)} of ${count(samples)} confused (${percent(share, 0)}), ${mostly} with `, userText(labelAt(top), { class: null })),
      make("p", null, `mean distance ${decimal(distance)}`),
      make("p", null, `${count(harmful)} training samples do half of the harm`)),
    make("div", { class: "sides" },
      make("div", null, make("h4", null, "Confused test images"), some(pairs, FIRST_PAIRS, pairView, "pairs"), shown),
      side("harmful", "▲", "Most harmful", row[10], "No training sample holds this confusion in place."),
      side("helpful", "▼", "Most helpful", row[11], "No training sample works against this confusion.")));
}

function listConfusions() {
  list("confusions", {
    text: (row) => [labelAt(row[0]), labelAt(row[4]), ...row[8].flatMap((pair) => [idOf(pair[0]), idOf(pair[1])]), ...[...row[10], ...row[11]].map(([place]) => idOf(place))],
    size: 5,
    nouns: ["class", "classes"],
    card: confusionCard,
    orders: [
      { title: "Confusions", value: (row) => row[2] },
      { title: "Share confused", value: (row) => row[3] },
      { title: "Mean distance", value: (row) => row[6] },
      { title: "Samples behind half of the harm", value: (row) => row[7] },
      { title: "Class", text: true, value: (row) => labelAt(row[0]) },
    ],
  });
}
