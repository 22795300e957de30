// Bars that can be dragged, and DPO's exact limit beside them. This file stands alone, since a notebook loads
// it as a widget (`didsim.explorer.Bars`).

// --- The closed form that follows the finger. A test compares it with the library. ---

export const logs = (shares) => {
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map((share) => Math.log(share / total));
};

const normalised = (logits) => {
  const top = Math.max(...logits);
  const level = top + Math.log(logits.reduce((sum, one) => sum + Math.exp(one - top), 0));
  return logits.map((one) => one - level);
};

/** Log-probabilities of the limit, `reference · (chosen/rejected)^(1/beta)`, from log-probabilities. */
export const limitOf = (reference, chosen, rejected, beta) =>
  normalised(reference.map((one, i) => one + (chosen[i] - rejected[i]) / beta));

/** KL(p‖q) in nats, from log-probabilities. */
export const kl = (p, q) =>
  p.reduce((sum, one, i) => sum + (one === -Infinity ? 0 : Math.exp(one) * (one - q[i])), 0);

/** The numbers of the counter: the chosen log-likelihood and the two divergences it is the difference of. */
export const counted = (reference, chosen, learned) => {
  const near = kl(chosen, reference);
  const far = kl(chosen, learned);
  return { displacement: near - far, kl_chosen_reference: near, kl_chosen_learned: far };
};

// --- Words ---

const MINUS = "\u2212";

export const nats = (value, digits = 2) => {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
};

export const percent = (share) => {
  if (share === null || Number.isNaN(share)) return "–";
  if (share > 0 && share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(1)}%`;
};

export const times = (factor) => {
  if (!Number.isFinite(factor)) return "–";
  if (factor > 999) return "×999+";
  return `×${factor < 1 ? factor.toFixed(2) : factor.toPrecision(3)}`;
};

export const counterText = ({ displacement, kl_chosen_reference: near, kl_chosen_learned: far }) =>
  `chosen log-likelihood ${nats(displacement)} nats = KL(chosen‖reference) ${MINUS} KL(chosen‖learned)` +
  ` = ${nats(near)} ${MINUS} ${nats(far)}`;

// --- Shares that sum to one ---

const SMALLEST = 0.001;
const DIGITS = 1e6;

/** The shares after one was moved: the others keep their proportions. Six digits, as a link holds them. */
export const moved = (shares, place, value) => {
  const largest = 1 - SMALLEST * (shares.length - 1);
  const own = Math.min(Math.max(value, SMALLEST), largest);
  const rest = shares.reduce((sum, share, i) => sum + (i === place ? 0 : share), 0);
  const scaled = shares.map((share, i) =>
    i === place ? own : Math.max(SMALLEST, ((1 - own) * share) / rest),
  );
  const total = scaled.reduce((sum, share) => sum + share, 0);
  return scaled.map((share) => Math.round((DIGITS * share) / total) / DIGITS);
};

// --- Drawing ---

const SVG = "http://www.w3.org/2000/svg";
const ROWS = ["reference", "chosen", "rejected"];
const TOPS = [0.3, 0.5, 0.75, 1];

const made = (name, attributes = {}, text = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
};

const place = (element, attributes) => {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
};

/** Four rows of bars. `changed(row, shares)` is called for every move of a bar. */
export class Bars {
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    this.dragged = null;
    this.svg = made("svg", { class: "bars", role: "group", "aria-label": "Bars of every response" });
    element.append(this.svg);
    // A finger on a handle moves the bar and not the page.
    this.svg.addEventListener(
      "touchstart",
      (event) => event.target.classList.contains("handle") && event.preventDefault(),
      { passive: false },
    );
    this.watcher = new ResizeObserver(() => this.shown && this.draw());
    this.watcher.observe(element);
  }

  /**
   * Show what is known.
   *
   * shown.names, .reference, .chosen, .rejected: of every response
   * shown.learned: shares of the limit, or null if it is not known
   * shown.title: what the last row is called
   * shown.policy: shares of a policy in training, or null
   * shown.target: shares of the target; empty for none
   * shown.hidden: whether the limit is kept from the reader
   */
  show(shown) {
    this.shown = shown;
    if (this.size !== shown.names.length) this.build();
    this.draw();
  }

  build() {
    const { names } = this.shown;
    this.size = names.length;
    this.svg.replaceChildren();
    this.titles = {};
    this.cells = {};
    this.names = names.map(() => this.svg.appendChild(made("text", { class: "name" })));
    for (const row of [...ROWS, "learned"]) {
      this.titles[row] = this.svg.appendChild(made("text", { class: `title ${row}` }));
      this.cells[row] = names.map((_, i) => this.cell(row, i));
    }
    this.question = this.svg.appendChild(made("text", { class: "question" }));
  }

  cell(row, i) {
    const isInput = row !== "learned";
    const group = made("g", { class: `cell ${row}`, role: isInput ? "slider" : "img" });
    const parts = { group };
    const add = (key, name, css) => {
      parts[key] = group.appendChild(made(name, { class: css }));
    };
    add("area", "rect", "area");
    add("bar", "rect", "bar");
    if (isInput) {
      add("grip", "rect", "grip");
      add("handle", "rect", "handle");
      place(group, { tabindex: 0, "aria-valuemin": 0.1, "aria-orientation": "vertical" });
      group.addEventListener("pointerdown", (event) => this.start(event, row, i));
      group.addEventListener("pointermove", (event) => this.move(event));
      for (const end of ["pointerup", "pointercancel"])
        group.addEventListener(end, () => this.release());
      group.addEventListener("keydown", (event) => this.key(event, row, i));
    } else {
      add("before", "rect", "before");
      add("target", "path", "target");
      add("limit", "path", "limit");
      add("factor", "text", "factor");
    }
    add("base", "path", "base");
    add("value", "text", "value");
    this.svg.append(group);
    return parts;
  }

  start(event, row, i) {
    if (event.button !== 0) return;
    // A finger beside the handle scrolls the page; a mouse may take the bar anywhere.
    if (event.pointerType === "touch" && event.target !== this.cells[row][i].handle) return;
    event.preventDefault();
    this.cells[row][i].group.focus({ preventScroll: true });
    this.cells[row][i].group.setPointerCapture(event.pointerId);
    // A bar that was not taken by its end jumps to the mouse first. Then it moves as far as the pointer does,
    // by the scale of this moment: the drawing may take another as shares grow.
    if (event.target !== this.cells[row][i].handle) this.set(row, i, this.shareAt(event, row));
    this.dragged = { row, i, y: event.clientY, share: this.shown[row][i], top: this.layout.top };
  }

  move(event) {
    if (!this.dragged) return;
    const { row, i, y, share, top } = this.dragged;
    this.set(row, i, share + ((y - event.clientY) / this.layout.height) * top);
  }

  release() {
    if (!this.dragged) return;
    this.dragged = null;
    this.draw();
  }

  shareAt(event, row) {
    const y = event.clientY - this.svg.getBoundingClientRect().top;
    return ((this.layout.base[row] - y) / this.layout.height) * this.layout.top;
  }

  key(event, row, i) {
    const now = this.shown[row][i];
    const step = { ArrowUp: 0.01, ArrowRight: 0.01, ArrowDown: -0.01, ArrowLeft: -0.01, PageUp: 0.1, PageDown: -0.1 };
    const to = { Home: 0, End: 1 };
    if (event.key in step) this.set(row, i, now + step[event.key]);
    else if (event.key in to) this.set(row, i, to[event.key]);
    else return;
    event.preventDefault();
  }

  set(row, i, value) {
    this.changed(row, moved(this.shown[row], i, value));
  }

  /** The scale: a round number above all shares. While a bar is dragged it only grows. */
  scale() {
    const { shown } = this;
    const all = [...ROWS, "learned", "policy", "target"].flatMap((row) =>
      row === "learned" && shown.hidden ? [] : (shown[row] ?? []),
    );
    const top = TOPS.find((one) => one >= 1.02 * Math.max(...all)) ?? 1;
    return this.dragged ? Math.max(top, this.layout.top) : top;
  }

  draw() {
    const em = parseFloat(getComputedStyle(this.element).fontSize);
    const width = this.element.clientWidth;
    if (!width) return;
    const head = 1.5 * em;
    const height = 5.2 * em;
    const pitch = height + 3.1 * em;
    const rows = [...ROWS, "learned"];
    const base = Object.fromEntries(rows.map((row, k) => [row, head + k * pitch + 2.5 * em + height]));
    this.layout = { em, height, base, top: this.scale(), column: width / this.size };
    const total = base.learned + 1.6 * em;
    place(this.svg, { width, height: total, viewBox: `0 0 ${width} ${total}` });
    this.names.forEach((text, i) => {
      place(text, { x: (i + 0.5) * this.layout.column, y: em });
      text.textContent = this.fitted(this.shown.names[i]);
    });
    const titles = {
      reference: "Reference",
      chosen: "Chosen",
      rejected: "Rejected",
      learned: this.shown.title ?? "Learned: DPO\u2019s exact limit",
    };
    for (const row of rows) {
      place(this.titles[row], { x: 0, y: base[row] - height - 1.45 * em });
      this.titles[row].textContent = titles[row];
      this.shown.names.forEach((_, i) => (row === "learned" ? this.drawLearned(i) : this.drawInput(row, i)));
    }
    const { hidden, learned } = this.shown;
    place(this.question, { x: width / 2, y: base.learned - height / 2 });
    this.question.textContent = hidden ? "Guess first" : learned ? "" : (this.shown.missing ?? "");
  }

  fitted(name) {
    const fits = Math.max(3, Math.floor(this.layout.column / (0.58 * this.layout.em)));
    return name.length > fits ? `${name.slice(0, fits - 1)}…` : name;
  }

  box(i, share, row) {
    const { em, height, base, top, column } = this.layout;
    const wide = Math.min(0.62 * column, 4.2 * em);
    const tall = Math.max(0, (share / top) * height);
    return { x: (i + 0.5) * column - wide / 2, y: base[row] - tall, width: wide, height: tall };
  }

  drawCell(row, i, share) {
    const { em, height, base, column } = this.layout;
    const cell = this.cells[row][i];
    const box = this.box(i, share, row);
    place(cell.area, { x: i * column, y: base[row] - height, width: column, height });
    place(cell.bar, box);
    place(cell.base, { d: `M${i * column + 0.06 * column} ${base[row]}h${0.88 * column}` });
    place(cell.value, { x: (i + 0.5) * column, y: box.y - 0.35 * em });
    cell.value.textContent = percent(share);
    return { cell, box };
  }

  drawInput(row, i) {
    const { em, column } = this.layout;
    const share = this.shown[row][i];
    const { cell, box } = this.drawCell(row, i, share);
    place(cell.grip, { x: box.x + box.width / 2 - 0.5 * em, y: box.y + 0.15 * em, width: em, height: 0.16 * em });
    cell.grip.style.opacity = box.height > 0.5 * em ? 1 : 0;
    place(cell.handle, { x: i * column, y: box.y - 1.4 * em, width: column, height: 2.8 * em });
    place(cell.group, {
      "aria-label": `${row}, ${this.shown.names[i]}`,
      "aria-valuemax": (100 * (1 - SMALLEST * (this.size - 1))).toFixed(1),
      "aria-valuenow": (100 * share).toFixed(1),
      "aria-valuetext": percent(share),
    });
  }

  drawLearned(i) {
    const { shown } = this;
    const { em, base, column } = this.layout;
    const now = shown.hidden ? null : (shown.policy ?? shown.learned);
    const share = now ? now[i] : 0;
    const { cell, box } = this.drawCell("learned", i, share);
    const before = shown.reference[i];
    const factor = share / before;
    const change = factor > 1.005 ? "gain" : factor < 0.995 ? "loss" : "same";
    cell.group.setAttribute("class", `cell learned ${now ? change : "unknown"}`);
    place(cell.before, this.box(i, before, "learned"));
    const above = Math.min(box.y, this.box(i, before, "learned").y);
    let label = above - 0.35 * em;
    const tick = (path, value, reach) => {
      const { y, x, width } = this.box(i, value ?? 0, "learned");
      place(path, { d: value === null ? "" : `M${x - reach} ${y}h${width + 2 * reach}` });
      // A label that a line would cross stands above it.
      if (value !== null && y < label + 0.2 * em && y > label - em) label = y - 0.35 * em;
    };
    tick(cell.target, !shown.hidden && shown.target?.length ? shown.target[i] : null, 0.45 * em);
    tick(cell.limit, !shown.hidden && shown.policy && shown.learned ? shown.learned[i] : null, 0.2 * em);
    cell.value.textContent = now ? percent(share) : "";
    place(cell.value, { x: (i + 0.5) * column, y: label });
    const sign = { gain: "▲", loss: "▼", same: "" }[change];
    place(cell.factor, { x: (i + 0.5) * column, y: base.learned + 1.15 * em });
    const isNarrow = column < 4.2 * em;
    cell.factor.textContent = now ? `${sign}${isNarrow ? times(factor).slice(1) : times(factor)}` : "";
    const words = now ? `${percent(share)}, ${times(factor).slice(1)} times the reference` : "not shown";
    cell.group.setAttribute("aria-label", `learned, ${shown.names[i]}: ${words}`);
  }
}

// --- The widget of notebooks ---

function render({ model, el }) {
  el.classList.add("didsim-explorer");
  const frame = el.appendChild(document.createElement("div"));
  const label = el.appendChild(document.createElement("label"));
  label.textContent = "beta ";
  const slider = label.appendChild(document.createElement("input"));
  Object.assign(slider, { type: "range", min: -2, max: 1, step: 0.01 });
  const written = label.appendChild(document.createElement("output"));
  const counter = el.appendChild(document.createElement("p"));
  counter.className = "counter";
  const bars = new Bars(frame, (row, shares) => {
    model.set(row, shares);
    model.save_changes();
  });
  const draw = () => {
    const [reference, chosen, rejected] = ROWS.map((row) => logs(model.get(row)));
    const learned = limitOf(reference, chosen, rejected, model.get("beta"));
    const shares = Object.fromEntries(ROWS.map((row) => [row, model.get(row)]));
    bars.show({ names: model.get("names"), ...shares, learned: learned.map(Math.exp), target: [] });
    counter.textContent = counterText(counted(reference, chosen, learned));
    slider.value = Math.log10(model.get("beta"));
    written.textContent = model.get("beta").toPrecision(2);
  };
  slider.addEventListener("input", () => {
    model.set("beta", Number((10 ** slider.value).toPrecision(2)));
    model.save_changes();
  });
  const watched = ["names", ...ROWS, "beta"].map((name) => `change:${name}`);
  for (const change of watched) model.on(change, draw);
  draw();
  return () => {
    bars.watcher.disconnect();
    for (const change of watched) model.off(change, draw);
  };
}

export default { render };
