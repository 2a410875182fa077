// Elements. Text is only ever set as text: nothing that comes from the data is parsed as HTML.

/** An element with attributes (`class`, `on...` listeners, anything else) and children (nodes or text; null is left out). */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Text of users: isolated, so that marks of direction in it change nothing around it; cut to two lines, whole in its tip. */
function userText(text, attributes) {
  const long = text.length > 40;
  return make("bdi", { class: long ? "clamp" : null, title: long ? text : null, ...attributes }, breakable(text));
}

/** Text that may break after the marks that ids and labels are full of; what is copied from it is the text. */
function breakable(text) {
  return text.split(/(?<=[/_.:-])/).flatMap((part, place) => (place ? [document.createElement("wbr"), part] : [part]));
}

/** A short form for names that assistive tools read out. */
function brief(text, length = 80) {
  const characters = Array.from(text);
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

let quietTimer = 0;
function announce(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(quietTimer);
  quietTimer = setTimeout(() => status.classList.remove("shown"), 1800);
}

async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  announce(`${what} copied`);
}

function copyBySelection(text) {
  const field = make("textarea", { class: "unseen" });
  field.value = text;
  (document.querySelector("dialog[open]") || document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
