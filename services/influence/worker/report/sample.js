// Everything about one sample, in a dialog that a link can open: #sample=<id>. Classes have links too: #class=<label>.

const DIALOG = document.getElementById("sample");
let mentions = null;
let openedBy = "";

function goToSample(id) {
  const hash = `#sample=${encodeURIComponent(id)}`;
  if (location.hash === hash) openSample(id);
  else location.hash = hash;
}

/** Where each sample is spoken of: by its place, a list of [section, row, words]. */
function findMentions() {
  const found = new Map();
  const add = (place, section, row, words) => {
    if (place < 0) return;
    if (!found.has(place)) found.set(place, []);
    found.get(place).push([section, row, words]);
  };
  SECTIONS.issues.rows.forEach((row) => add(row[0], "issues", row, `Label issues: place ${count(row[3])} of ${count(SECTIONS.issues.total)}`));
  SECTIONS.test_issues.rows.forEach((row) => add(row[0], "test_issues", row, "Test labels that look wrong"));
  SECTIONS.harm.rows.forEach((row) => add(row[0], "harm", row, `Harm by training sample: rank ${count(row[1])}`));
  SECTIONS.outliers.rows.forEach((row) => add(row[0], "outliers", row, "Outliers"));
  SECTIONS.set_aside.rows.forEach((row) => row.slice(0, 2).forEach((place) => add(place, "set_aside", row, "Confusions set aside")));
  SECTIONS.duplicates.rows.forEach((row) => row[4].forEach(([place]) => add(place, "duplicates", row, `Duplicates: group ${count(row[0])}`)));
  SECTIONS.confusions.rows.forEach((row) => {
    const name = brief(labelAt(row[0]), 60);
    row[8].forEach((pair) => pair.slice(0, 2).forEach((place) => add(place, "confusions", row, `Confusion of ${name}: one of the pair`)));
    row[10].forEach(([place, , score]) => add(place, "confusions", row, `Confusion of ${name}: harmful, ${signed(score)}`));
    row[11].forEach(([place, , score]) => add(place, "confusions", row, `Confusion of ${name}: helpful, ${signed(score)}`));
  });
  SECTIONS.findings.rows.forEach((row) => new Set([row[3], row[4]]).forEach((place) => add(place, "findings", row, row[7])));
  return found;
}

function placesOf(id) {
  return DATA.samples.flatMap(([each], place) => (each === id ? [place] : []));
}

function openSample(id) {
  const places = placesOf(id);
  DIALOG.replaceChildren(...(places.length ? places.flatMap(sampleView) : unknownSample(id)));
  openedBy = location.hash;
  DIALOG.classList.remove("wide");
  if (!DIALOG.open) DIALOG.showModal();
  DIALOG.scrollTop = 0;
}

function closeButton() {
  return make("button", { class: "quiet", type: "button", autofocus: true, "aria-label": "Close", onclick: () => DIALOG.close() }, icon("close"));
}

function unknownSample(id) {
  return [
    make("div", { class: "sample-head" }, make("div", null, make("h2", { id: "sample-title" }, make("bdi", null, id))), closeButton()),
    make("div", { class: "sample-body" }, make("p", { class: "empty" }, "This page shows nothing about a sample of this id. The Parquet files hold every sample.")),
  ];
}

/** The picture of an explained pair: the parts of two images that make them look alike. */
function openExplanation(first, second, png) {
  const names = `${brief(idOf(first))} and ${brief(idOf(second))}`;
  const image = make("img", { src: `data:image/png;base64,${png}`, alt: `Parts of ${names} that make the two look alike` });
  DIALOG.replaceChildren(
    make("div", { class: "sample-head" }, make("div", null, make("h2", { id: "sample-title" }, "Why they look alike"), make("p", { class: "tag" }, make("bdi", null, names))), closeButton()),
    make("div", { class: "sample-body" }, image));
  DIALOG.classList.add("wide");
  DIALOG.showModal();
}

function sampleView(place, at) {
  const { id, split, label } = sampleAt(place);
  const link = `${location.href.split("#")[0]}#sample=${encodeURIComponent(id)}`;
  return [
    make("div", { class: "sample-head" }, picture(place),
      make("div", null,
        make("h2", { id: at ? null : "sample-title" }, make("bdi", null, id)),
        make("p", { class: "tag" }, `${split} sample, labelled `, make("bdi", null, brief(label, 200) || "nothing")),
        make("button", { class: "quiet", type: "button", onclick: () => copyText(id, "sample id") }, icon("copy"), "Copy id"),
        make("button", { class: "quiet", type: "button", onclick: () => copyText(link, "link") }, icon("copy"), "Copy link")),
      at ? null : closeButton()),
    make("div", { class: "sample-body" }, sampleFacts(place), mentionList(place)),
  ];
}

function sampleFacts(place) {
  const harm = harmOf(place);
  const doubt = doubtOf(place);
  const facts = [];
  if (doubt) facts.push(["Probability that the label is wrong", percent(doubt[0])], ["Most probable label", make("bdi", null, brief(labelAt(doubt[1]), 200))]);
  if (harm) facts.push(["Rank by harm over all confusions (interval)", interval(harm)], ["Harm, signed", signed(harm[3])]);
  return facts.length ? make("dl", { class: "sample-facts" }, facts.flatMap(([name, value]) => [make("dt", null, name), make("dd", null, value)])) : null;
}

function mentionList(place) {
  mentions ||= findMentions();
  const found = mentions.get(place) || [];
  if (!found.length) return make("p", { class: "tag" }, "It is shown as a neighbour of others only.");
  const items = found.map(([section, row, words]) => {
    const kind = section === "findings" ? badge(wordOf(row[0])) : null;
    const change = section === "findings" && row[1] ? badge(row[1], CHANGE_MOODS[row[1]]) : null;
    const jump = () => {
      DIALOG.close();
      LISTINGS.get(section).reveal(row);
    };
    return make("li", null, kind, change, make("button", { class: "link", type: "button", onclick: jump }, make("bdi", null, brief(words, 240))));
  });
  return [make("h3", null, "Where it is found"), make("ul", null, items)].reduce((box, child) => (box.append(child), box), make("div"));
}

function openClass(label) {
  const place = DATA.labels.indexOf(label);
  const target = [["confusions", 0], ["advice", 0], ["findings", 5]]
    .map(([name, at]) => [name, SECTIONS[name].rows.find((row) => row[at] === place)])
    .find(([, row]) => place >= 0 && row);
  if (target) LISTINGS.get(target[0]).reveal(target[1]);
  else announce("This page shows nothing about that class");
}

function followHash() {
  const [kind, ...rest] = location.hash.slice(1).split("=");
  const text = safelyDecoded(rest.join("="));
  if (kind === "sample") openSample(text);
  else if (DIALOG.open) DIALOG.close();
  if (kind === "class") openClass(text);
}

function safelyDecoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function prepareDialog() {
  DIALOG.addEventListener("close", () => {
    const stillThere = openedBy && location.hash === openedBy; // else another link has been followed meanwhile
    openedBy = "";
    if (stillThere) history.replaceState(null, "", location.href.split("#")[0]);
  });
  DIALOG.addEventListener("click", (event) => event.target === DIALOG && DIALOG.close());
  addEventListener("hashchange", followHash);
}
