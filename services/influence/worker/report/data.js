// The data of the page, and how numbers are written.

const DATA = JSON.parse(document.getElementById("data").textContent);
const { samples: PICTURES, pairs: EXPLAINED } = JSON.parse(document.getElementById("pictures").textContent);
const SECTIONS = DATA.sections;

function sampleAt(place) {
  const [id, test, label] = DATA.samples[place];
  return { place, id, split: test ? "test" : "train", label: labelAt(label) };
}

function labelAt(place) {
  return place < 0 ? "" : DATA.labels[place];
}

/** [rank, low, high, signed harm] of a training sample, or undefined. */
function harmOf(place) {
  return DATA.harm[place];
}

/** [probability that its label is wrong, place of the suggested label] of a training sample, or undefined. */
function doubtOf(place) {
  return DATA.doubt[place];
}

const EXPLANATIONS = new Map(EXPLAINED.map(([first, second, png]) => [`${first} ${second}`, png]));

const THOUSANDS = new Intl.NumberFormat("en-US");

function count(value) {
  return value === null ? "–" : THOUSANDS.format(value);
}

function percent(value, digits = 1) {
  if (value === null) return "–";
  const shown = (100 * value).toFixed(digits);
  const least = 10 ** -digits;
  if (value < 1 && Number(shown) === 100) return `>${(100 - least).toFixed(digits)} %`;
  if (value > 0 && Number(shown) === 0) return `<${least.toFixed(digits)} %`;
  return `${shown} %`;
}

function decimal(value, digits = 3) {
  return value === null ? "–" : value.toFixed(digits);
}

function signed(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${size >= 1000 ? count(Math.round(size)) : size.toPrecision(3)}`;
}

function interval([rank, low, high]) {
  return low === high ? count(rank) : `${count(rank)} (${count(low)}–${count(high)})`;
}

const WORDS = {
  confusion: "confusion",
  label_issue: "label issue",
  test_label_issue: "test label issue",
  label_conflict: "label conflict",
  leak: "leak",
  duplicate: "duplicate",
  outlier: "outlier",
  class: "class",
};

function wordOf(kind) {
  return WORDS[kind] || kind.replaceAll("_", " ");
}
