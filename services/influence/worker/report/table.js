// A list of rows that sorts, filters and pages; drawn as a table or as cards. Only the rows of a page are in the document.

const LISTINGS = new Map();
const COLLATOR = new Intl.Collator("en", { numeric: true });

class Listing {
  /**
   * @param {string} name
   * @param {object} spec `rows`; `text(row)` to filter by; `columns` of { title, value(row), cell(row), right, lead, text } or
   *   `card(row)` with `orders` of { title, value(row), text }; `chips` of { title, keep(row) }; `size` of a page.
   */
  constructor(name, spec) {
    Object.assign(this, { name, spec, query: "", chip: 0, order: null, page: 0, texts: new Map() });
    this.orders = spec.columns ? spec.columns.filter((column) => column.value) : spec.orders || [];
    this.host = document.querySelector(`[data-listing="${name}"]`);
    this.title = this.host.closest("section").querySelector("h2").textContent;
    this.body = make("div");
    this.pager = make("div", { class: "pager" });
    this.tally = make("p", { class: "tally", "aria-live": "polite" });
    this.host.append(this.toolbar(), this.body, this.pager);
    this.refresh();
  }

  toolbar() {
    this.filter = make("input", { type: "search", placeholder: "Filter", "aria-label": `Filter: ${this.title}`, spellcheck: "false", oninput: () => this.set({ query: this.filter.value.trim().toLowerCase() }) });
    return make("div", { class: "bar" }, this.filter, this.chipBar(), this.sorter(), this.tally);
  }

  chipBar() {
    const chips = (this.spec.chips || []).filter((chip) => this.spec.rows.some(chip.keep));
    this.chips = [{ title: "All", keep: () => true }, ...chips];
    this.chipButtons = this.chips.map((chip, place) => make("button", { class: "chip", type: "button", onclick: () => this.set({ chip: place }) }, chip.title));
    return chips.length ? make("div", { class: "chips", role: "group", "aria-label": `Kinds: ${this.title}` }, this.chipButtons) : null;
  }

  sorter() {
    const pick = () => {
      const [place, direction] = this.select.value.split(" ").map(Number);
      this.set({ order: direction ? { place, direction } : null });
    };
    const choices = this.orders.flatMap((order, place) => [make("option", { value: `${place} -1` }, `${order.title} ↓`), make("option", { value: `${place} 1` }, `${order.title} ↑`)]);
    this.select = make("select", { class: this.spec.columns ? "sorter" : null, "aria-label": `Sort: ${this.title}`, onchange: pick }, make("option", { value: "0 0" }, "Sort: as found"), choices);
    return this.select;
  }

  set(change) {
    Object.assign(this, { page: 0 }, change);
    this.refresh();
  }

  sortBy(order) {
    const place = this.orders.indexOf(order);
    const first = order.text ? 1 : -1;
    const same = this.order && this.order.place === place;
    this.set({ order: { place, direction: same ? -this.order.direction : first } });
    this.body.querySelectorAll("thead button")[place].focus();
  }

  textOf(row) {
    let text = this.texts.get(row);
    if (text === undefined) this.texts.set(row, (text = this.spec.text(row).join("\n").toLowerCase()));
    return text;
  }

  chosen() {
    const { keep } = this.chips[this.chip];
    const rows = this.spec.rows.filter((row) => keep(row) && (!this.query || this.textOf(row).includes(this.query)));
    if (!this.order) return rows;
    const { value, text } = this.orders[this.order.place];
    const compare = text ? (a, b) => COLLATOR.compare(a, b) : (a, b) => a - b;
    const keyed = rows.map((row) => [value(row), row]);
    const known = keyed.filter(([key]) => key !== null).sort(([a], [b]) => this.order.direction * compare(a, b));
    return [...known, ...keyed.filter(([key]) => key === null)].map(([, row]) => row);
  }

  refresh() {
    const rows = this.chosen();
    const { size = 25, nouns = ["row", "rows"] } = this.spec;
    const pages = Math.max(1, Math.ceil(rows.length / size));
    this.page = Math.min(this.page, pages - 1);
    this.shown = rows.slice(this.page * size, (this.page + 1) * size);
    const noun = nouns[this.spec.rows.length === 1 ? 0 : 1];
    this.tally.textContent = rows.length === this.spec.rows.length ? `${count(rows.length)} ${noun}` : `${count(rows.length)} of ${count(this.spec.rows.length)} ${noun}`;
    this.chipButtons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === this.chip)));
    this.select.value = this.order ? `${this.order.place} ${this.order.direction}` : "0 0";
    this.body.replaceChildren(this.shown.length ? this.draw() : make("p", { class: "empty" }, "Nothing matches the filter."));
    this.drawPager(pages);
  }

  draw() {
    if (!this.spec.columns) return make("div", { class: "stack" }, this.shown.map((row) => this.spec.card(row)));
    const body = make("tbody", { onkeydown: (event) => this.move(event) }, this.shown.map((row, place) => this.drawRow(row, place)));
    const table = make("table", { class: "grid-table" }, make("caption", { class: "unseen" }, this.title), make("thead", null, make("tr", null, this.spec.columns.map((column) => this.drawHead(column)))), body);
    return make("div", { class: "sheet" }, table);
  }

  drawHead(column) {
    const side = column.right ? "right" : null;
    if (!column.value) return make("th", { scope: "col", class: side }, make("span", null, column.title));
    const sorted = this.order && this.orders[this.order.place] === column;
    const state = sorted ? (this.order.direction > 0 ? "ascending" : "descending") : null;
    return make("th", { scope: "col", class: side, "aria-sort": state }, make("button", { type: "button", onclick: () => this.sortBy(column) }, column.title));
  }

  drawRow(row, place) {
    const cells = this.spec.columns.map((column) => make("td", { class: `${column.right ? "right" : ""} ${column.lead ? "lead-cell" : ""}`.trim() || null, "data-title": column.title }, column.cell(row)));
    return make("tr", { tabindex: place ? "-1" : "0" }, cells);
  }

  /** Arrow keys between rows, Enter to open. */
  move(event) {
    const row = event.target;
    if (row.tagName !== "TR") return;
    if (event.key === "Enter") return row.querySelector(".open")?.click();
    const rows = [...row.parentNode.children];
    const place = { ArrowDown: rows.indexOf(row) + 1, ArrowUp: rows.indexOf(row) - 1, Home: 0, End: rows.length - 1 }[event.key];
    const next = rows[place];
    if (!next) return;
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  drawPager(pages) {
    const turn = (page) => () => {
      this.page = page;
      this.refresh();
      this.host.scrollIntoView({ block: "start" });
      this.pager.querySelector("button:not(:disabled)")?.focus({ preventScroll: true });
    };
    const step = (title, sign, page) => make("button", { type: "button", "aria-label": `${title}: ${this.title}`, disabled: page < 0 || page >= pages || page === this.page, onclick: turn(page) }, sign);
    const steps = [step("First page", "«", 0), step("Previous page", "‹", this.page - 1), make("span", null, `Page ${this.page + 1} of ${pages}`), step("Next page", "›", this.page + 1), step("Last page", "»", pages - 1)];
    this.pager.replaceChildren(...(pages > 1 ? steps : []));
  }

  /** Show a row, whatever the filter. */
  reveal(row) {
    Object.assign(this, { query: "", chip: 0 });
    this.filter.value = "";
    this.page = Math.floor(this.chosen().indexOf(row) / (this.spec.size || 25));
    this.refresh();
    const place = this.shown.indexOf(row);
    const element = this.spec.columns ? this.body.querySelectorAll("tbody tr")[place] : this.body.firstChild.children[place];
    element.classList.add("target");
    element.scrollIntoView({ block: "center" });
    element.tabIndex = 0;
    element.focus({ preventScroll: true });
  }
}

function list(name, spec) {
  if (SECTIONS[name].rows.length) LISTINGS.set(name, new Listing(name, { rows: SECTIONS[name].rows, ...spec }));
}
