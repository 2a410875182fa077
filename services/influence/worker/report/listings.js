// What each table shows.

const idOf = (place) => (place < 0 ? "" : sampleAt(place).id);
const labelOf = (place) => (place < 0 ? "" : sampleAt(place).label);

function sampleColumn(title, at, note) {
  return { title, lead: true, text: true, value: (row) => idOf(at(row)), cell: (row) => (at(row) < 0 ? "" : who(at(row), note && note(row))) };
}

function labelColumn(title, at, note) {
  return { title, text: true, value: (row) => labelAt(at(row)), cell: (row) => labelCell(labelAt(at(row)), note && note(row)) };
}

function numberColumn(title, at, write = count) {
  return { title, right: true, value: (row) => row[at], cell: (row) => write(row[at]) };
}

function meterColumn(title, at, doubtful) {
  return { title, value: (row) => row[at], cell: (row) => meter(row[at], percent(row[at]), doubtful) };
}

/** The suggested label, or that none is better, and the next best one where it is another. */
function suggestion(row) {
  const keep = labelAt(row[4]) === labelOf(row[0]);
  const other = row[6] >= 0 && row[6] !== row[4] ? make("small", { class: "or" }, "or ", userText(labelAt(row[6])), ` ${percent(row[7], 0)}`) : null;
  return make("div", null, labelCell(keep ? "" : labelAt(row[4]), keep ? `keep it, ${percent(row[5], 0)}` : percent(row[5], 0)), other);
}

function listIssues() {
  list("issues", {
    text: (row) => [idOf(row[0]), labelOf(row[0]), labelAt(row[4]), labelAt(row[6])],
    chips: [
      { title: "Flagged", keep: (row) => row[2] === 1 },
      { title: "Not flagged", keep: (row) => row[2] === 0 },
      { title: "Reviewed, fine", keep: (row) => row[2] === 2 },
    ],
    columns: [
      sampleColumn("Training sample", (row) => row[0], (row) => (row[2] === 2 ? "reviewed, found right" : "")),
      { title: "Label wrong", value: (row) => row[1], cell: (row) => meter(row[1], percent(row[1]), true) },
      { title: "Label", text: true, value: (row) => labelOf(row[0]), cell: (row) => labelCell(labelOf(row[0])) },
      { title: "Suggested", text: true, value: (row) => labelAt(row[4]), cell: suggestion },
      { title: "Nearest of the suggested label", cell: (row) => strip(row[8], "neighbour") },
      { title: "Evidence: among the top", cell: (row) => parts(row[9]) },
    ],
  });
}

function listTestLabels() {
  list("test_issues", {
    text: (row) => [idOf(row[0]), labelOf(row[0]), labelAt(row[2])],
    columns: [
      sampleColumn("Test sample", (row) => row[0]),
      meterColumn("Label wrong", 1, true),
      { title: "Label", text: true, value: (row) => labelOf(row[0]), cell: (row) => labelCell(labelOf(row[0])) },
      labelColumn("Suggested", (row) => row[2], (row) => percent(row[3], 0)),
    ],
  });
  list("set_aside", {
    text: (row) => [idOf(row[0]), idOf(row[1]), labelOf(row[0]), labelOf(row[1])],
    columns: [
      sampleColumn("Test sample", (row) => row[0], (row) => labelOf(row[0])),
      sampleColumn("Nearest other", (row) => row[1], (row) => labelOf(row[1])),
      numberColumn("Distance", 2, decimal),
      { title: "Whose label looks wrong", text: true, value: (row) => idOf(row[3]), cell: (row) => make("span", { class: "tag" }, row[3] === row[0] ? "the first" : "the second") },
      meterColumn("Label wrong", 4, true),
      labelColumn("Suggested", (row) => row[5]),
    ],
  });
}

function listClasses() {
  list("class_pairs", {
    text: (row) => [labelAt(row[0]), labelAt(row[1])],
    size: 15,
    columns: [labelColumn("Class", (row) => row[0]), labelColumn("Confused with", (row) => row[1]), numberColumn("Confusions", 2), numberColumn("Mean distance", 3, decimal)],
  });
  list("advice", {
    text: (row) => [labelAt(row[0]), labelAt(row[4]), labelAt(row[7]), row[9]],
    size: 15,
    chips: ["CENTRALIZED", "DIVERSIFIED", "INDIVIDUAL", "OTHER", "NONE"]
      .map((advice) => ({ title: advice[0] + advice.slice(1).toLowerCase(), keep: (row) => row[2] === advice }))
      .concat([{ title: "Same identity", keep: (row) => row[7] >= 0 }]),
    columns: [
      labelColumn("Class", (row) => row[0], (row) => `${count(row[1])} samples`),
      { title: "Advice", text: true, value: (row) => row[2], cell: (row) => badge(row[2].toLowerCase(), ADVICE_MOODS[row[2]]) },
      { title: "What to do", cell: (row) => userText(row[9], { class: "sentence" }) },
      meterColumn("Belongs elsewhere", 3, true),
      labelColumn("Mostly to", (row) => row[4], (row) => (row[4] < 0 ? "" : percent(row[5], 0))),
      labelColumn("Same as", (row) => row[7], (row) => (row[7] < 0 ? "" : `overlap ${decimal(row[8], 2)}`)),
    ],
  });
}

function listSamples() {
  list("harm", {
    text: (row) => [idOf(row[0]), labelOf(row[0])],
    size: 10,
    chips: [{ title: "▲ Harmful", keep: (row) => row[4] > 0 }, { title: "▼ Helpful", keep: (row) => row[4] < 0 }],
    columns: [
      sampleColumn("Training sample", (row) => row[0]),
      { title: "Label", text: true, value: (row) => labelOf(row[0]), cell: (row) => labelCell(labelOf(row[0])) },
      { title: "Rank (interval)", right: true, value: (row) => row[1], cell: (row) => interval(row.slice(1, 4)) },
      numberColumn("Harm, signed", 4, signed),
      numberColumn("Harm alone", 5, signed),
      { title: "Label wrong", value: (row) => (doubtOf(row[0]) || [null])[0], cell: (row) => (doubtOf(row[0]) ? meter(doubtOf(row[0])[0], percent(doubtOf(row[0])[0]), true) : "–") },
    ],
  });
  list("outliers", {
    text: (row) => [idOf(row[0]), labelOf(row[0]), row[3]],
    size: 10,
    chips: ["train", "test"].map((split) => ({ title: split, keep: (row) => row[3] === split })),
    columns: [
      sampleColumn("Sample", (row) => row[0]),
      { title: "Label", text: true, value: (row) => labelOf(row[0]), cell: (row) => labelCell(labelOf(row[0])) },
      { title: "Split", text: true, value: (row) => row[3], cell: (row) => row[3] },
      numberColumn("Times the usual distance", 2, (value) => decimal(value, 2)),
    ],
  });
}

function listDuplicates() {
  const kinds = [["leak", 1, "hot"], ["label conflict", 2, "odd"]];
  list("duplicates", {
    text: (row) => row[4].flatMap(([place]) => [idOf(place), labelOf(place)]),
    size: 10,
    chips: [...kinds.map(([title, at]) => ({ title, keep: (row) => row[at] === 1 })), { title: "exact", keep: (row) => row[3] === 1 }, { title: "near", keep: (row) => row[3] === 0 }],
    columns: [
      { title: "Group", value: (row) => row[0], cell: (row) => count(row[0]) },
      { title: "What", cell: (row) => make("div", null, kinds.filter(([, at]) => row[at]).map(([title, , mood]) => badge(title, mood)), badge(row[3] ? "exact" : "near", "")) },
      { title: "Images", value: (row) => row[5], cell: (row) => count(row[5]) },
      { title: "The images", cell: (row) => make("div", { class: "faces" }, row[4].map(([place, similarity, exact], at) => face(place, at === 0 ? "first" : exact ? "same bytes" : `cosine ${decimal(similarity, 4)}`, sampleAt(place).split))) },
    ],
  });
}

function listGroups() {
  list("rollups", {
    text: (row) => [row[0], row[1]],
    size: 15,
    chips: [...new Set(SECTIONS.rollups.rows.map((row) => row[0]))].slice(0, 16).map((column) => ({ title: brief(column, 30), keep: (row) => row[0] === column })),
    columns: [
      { title: "Column", text: true, value: (row) => row[0], cell: (row) => labelCell(row[0]) },
      { title: "Value", text: true, value: (row) => row[1], cell: (row) => labelCell(row[1]) },
      numberColumn("Samples", 2),
      numberColumn("Flagged", 3),
      meterColumn("Of its samples", 4, true),
      meterColumn("Of all harm", 5, true),
      numberColumn("Lift", 6, (value) => decimal(value, 2)),
    ],
  });
  list("quality", {
    text: (row) => [row[0], row[1]],
    size: 10,
    chips: [...new Set(SECTIONS.quality.rows.map((row) => row[0]))].slice(0, 17).map((scope) => ({ title: brief(scope, 30), keep: (row) => row[0] === scope })),
    columns: [
      { title: "By", text: true, value: (row) => row[0], cell: (row) => labelCell(row[0]) },
      { title: "Value", text: true, value: (row) => row[1], cell: (row) => labelCell(row[1]) },
      numberColumn("Samples", 2),
      ...DATA.metrics.map((metric, place) => numberColumn(metric.replace("recall_at_", "Recall@").replace("map_at_r", "MAP@R"), 3 + place, percent)),
    ],
  });
}

function listFindings() {
  const rows = SECTIONS.findings.rows;
  const kinds = [...new Set(rows.map((row) => row[0]))];
  list("findings", {
    text: (row) => [idOf(row[3]), idOf(row[4]), labelAt(row[5]), labelAt(row[6]), row[7], wordOf(row[0])],
    chips: [
      ...kinds.map((kind) => ({ title: wordOf(kind), keep: (row) => row[0] === kind })),
      ...["new", "fixed", "persisting"].map((change) => ({ title: change, keep: (row) => row[1] === change })),
    ],
    columns: [
      { title: "Kind", text: true, value: (row) => wordOf(row[0]), cell: (row) => badge(wordOf(row[0])) },
      ...(rows.some((row) => row[1]) ? [{ title: "Since", text: true, value: (row) => row[1], cell: (row) => (row[1] ? badge(row[1], CHANGE_MOODS[row[1]]) : "") }] : []),
      { title: "Samples", text: true, value: (row) => idOf(row[3]), cell: (row) => (row[3] < 0 ? make("span", { class: "tag" }, "–") : couple(row[3], row[4])) },
      labelColumn("Label", (row) => row[5]),
      labelColumn("Other label", (row) => row[6]),
      { title: "What was found", cell: (row) => userText(row[7], { class: "sentence clamp" }) },
      meterColumn("Severity", 2, true),
    ],
  });
}
