// Lines and dots in SVG, drawn anew whenever their place changes its width.

import { nats } from "./bars.js";

const SVG = "http://www.w3.org/2000/svg";

export const made = (name, attributes = {}, text = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== "") element.textContent = text;
  return element;
};

const finite = (values) => values.filter((one) => one !== null && Number.isFinite(one));

/** Round numbers, about `count` of them, that lie in an interval. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * size >= raw) * size;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((at) => ({ at, text: nats(at, digits) }));
}

function domain(values, includes = []) {
  const all = finite([...values, ...includes]);
  if (!all.length) return [0, 1];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = high > low ? 0.06 * (high - low) : Math.max(0.1, 0.1 * Math.abs(high));
  return [low - room, high + room];
}

/**
 * A chart.
 *
 * spec.label: what it shows, for screen readers
 * spec.x, spec.y, spec.right: words of the axes; `right` is that of series with `axis: "right"`
 * spec.series: each with name, color (a CSS variable), x, y, and kind: "line", "dashed", "ghost" or "dots"
 * spec.includes: numbers that the vertical axis has to show
 * spec.range: the horizontal axis; by default that of the data
 */
export class Chart {
  constructor(element, height = 10) {
    this.element = element;
    this.height = height;
    this.svg = made("svg", { class: "chart", role: "img", height: 0, "aria-label": "nothing yet" });
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    element.append(this.legend, this.svg);
    new ResizeObserver(() => this.spec && this.draw()).observe(element);
  }

  show(spec) {
    this.spec = spec;
    this.draw();
  }

  draw() {
    const { spec } = this;
    const width = this.element.clientWidth;
    if (!width) return;
    const em = parseFloat(getComputedStyle(this.element).fontSize);
    const height = this.height * em;
    const left = spec.series.filter((one) => one.axis !== "right");
    const other = spec.series.filter((one) => one.axis === "right");
    const written = (series, includes = []) => {
      const found = ticks(...domain(series.flatMap((one) => one.y), includes), 4);
      return Math.max(...found.map(({ text }) => text.length), 1) * 0.45 * em;
    };
    const edge = {
      left: 1.9 * em + written(left, spec.includes),
      right: other.length ? 1.9 * em + written(other) : 0.8 * em,
      top: 0.7 * em,
      bottom: 2.9 * em,
    };
    const scaled = (values, low, high, includes, fixed) => {
      const [from, to] = fixed ?? domain(values, includes);
      const scale = (value) => low + ((value - from) / (to - from)) * (high - low);
      return Object.assign(scale, { from, to });
    };
    const floor = height - edge.bottom;
    const x = scaled(spec.series.flatMap((one) => one.x), edge.left, width - edge.right, [], spec.range);
    const y = scaled(left.flatMap((one) => one.y), floor, edge.top, spec.includes ?? []);
    const y2 = other.length ? scaled(other.flatMap((one) => one.y), floor, edge.top) : null;
    this.svg.replaceChildren();
    const add = (name, attributes, text) => this.svg.appendChild(made(name, attributes, text));
    for (const { at, text } of ticks(y.from, y.to, 4)) {
      add("path", { class: at === 0 ? "zero" : "grid", d: `M${edge.left} ${y(at)}H${width - edge.right}` });
      add("text", { class: "tick y", x: edge.left - 0.4 * em, y: y(at) + 0.28 * em }, text);
    }
    for (const { at, text } of ticks(x.from, x.to, Math.max(3, Math.floor(width / (6 * em)))))
      add("text", { class: "tick x", x: x(at), y: floor + 1.1 * em }, text);
    if (y2)
      for (const { at, text } of ticks(y2.from, y2.to, 4))
        add("text", { class: "tick right", x: width - edge.right + 0.4 * em, y: y2(at) + 0.28 * em }, text);
    add("text", { class: "axis", x: (edge.left + width - edge.right) / 2, y: height - 0.5 * em }, spec.x);
    const turned = (text, at) =>
      add("text", { class: "axis", transform: `translate(${at} ${(edge.top + floor) / 2}) rotate(-90)` }, text);
    turned(spec.y, 0.8 * em);
    if (y2) turned(spec.right, width - 0.5 * em);
    for (const one of spec.series) this.drawSeries(one, x, one.axis === "right" ? y2 : y, em);
    this.describe(width, height);
  }

  drawSeries(one, x, y, em) {
    const points = one.x
      .map((at, k) => [at, one.y[k]])
      .filter(([at, value]) => value !== null && Number.isFinite(value) && Number.isFinite(at));
    if (one.kind === "dots") {
      const radius = (one.radius ?? 0.22) * em;
      for (const [at, value] of points)
        this.svg.append(made("circle", { cx: x(at), cy: y(value), r: radius, style: `fill: var(--${one.color})` }));
      if (one.labels) this.label(one, x, y, em);
      return;
    }
    const d = points.map(([at, value], k) => `${k ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
    this.svg.append(made("path", { class: one.kind, d: d.join(""), style: `stroke: var(--${one.color})` }));
  }

  /** Labels of dots, above or below them; a dot beside labelled ones goes without. */
  label(one, x, y, em) {
    const taken = [];
    for (const [k, name] of one.labels.entries()) {
      if (one.y[k] === null) continue;
      const half = 0.26 * em * name.length;
      const places = [-0.55, 1.05, -1.5, 2].map((shift) => ({ x: x(one.x[k]), y: y(one.y[k]) + shift * em, half }));
      const free = places.find((spot) =>
        taken.every((other) => Math.abs(other.x - spot.x) > other.half + half || Math.abs(other.y - spot.y) > 0.9 * em),
      );
      if (!free) continue;
      taken.push(free);
      this.svg.append(made("text", { class: "dot", x: free.x, y: free.y }, name));
    }
  }

  describe(width, height) {
    const { spec } = this;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const ends = spec.series
      .filter((one) => one.name && one.kind !== "dots" && finite(one.y).length)
      .map((one) => `${one.name} ends at ${nats(finite(one.y).at(-1), 3)}`);
    this.svg.setAttribute("aria-label", [spec.label, ...ends].join("; "));
    this.legend.replaceChildren();
    for (const one of spec.series.filter((one) => one.name)) {
      const item = this.legend.appendChild(document.createElement("span"));
      const swatch = item.appendChild(document.createElement("i"));
      swatch.className = one.kind;
      swatch.style.color = `var(--${one.color})`;
      item.append(one.name);
    }
    this.legend.hidden = !this.legend.children.length;
  }
}
