// The graph of wins: an arrow from every response to those that it was chosen over.

import { percent } from "./bars.js";
import { NeedsPython } from "./ask.js";
import { made } from "./chart.js";

const INFINITE = 0;

/** Draw the graph of wins. `counts[i][j]` says how often response i was chosen over j; null for a population. */
export function drawGraph(element, names, counts, unidentified) {
  const em = parseFloat(getComputedStyle(element).fontSize);
  const width = Math.max(12 * em, Math.min(element.clientWidth || 18 * em, 24 * em));
  const height = 15 * em;
  const radius = { x: width / 2 - 4.2 * em, y: height / 2 - 2.1 * em };
  const node = 0.75 * em;
  const at = (i) => {
    const angle = (2 * Math.PI * i) / names.length - Math.PI / 2;
    return [width / 2 + radius.x * Math.cos(angle), height / 2 + radius.y * Math.sin(angle)];
  };
  const svg = made("svg", { class: "graph", role: "img", width, height, viewBox: `0 0 ${width} ${height}` });
  svg.setAttribute("aria-label", described(names, counts, unidentified));
  const defs = svg.appendChild(made("defs"));
  const marker = made("marker", { id: "head", viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 7, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" });
  marker.append(made("path", { class: "arrow", d: "M0 0L6 3L0 6z" }));
  defs.append(marker);
  const most = Math.max(1, ...(counts ?? []).flat());
  const labels = [];
  names.forEach((_, i) =>
    names.forEach((_, j) => {
      const count = counts ? counts[i][j] : most;
      if (i === j || !count) return;
      const [[x1, y1], [x2, y2]] = [at(i), at(j)];
      const long = Math.hypot(x2 - x1, y2 - y1);
      const [ux, uy] = [(x2 - x1) / long, (y2 - y1) / long];
      const bend = 0.12 * long;
      const [mx, my] = [(x1 + x2) / 2 - uy * bend, (y1 + y2) / 2 + ux * bend];
      const shift = (x, y, sign) => [x + sign * ux * node * 1.25 - uy * 0.2 * em, y + sign * uy * node * 1.25 + ux * 0.2 * em];
      const [[sx, sy], [ex, ey]] = [shift(x1, y1, 1), shift(x2, y2, -1)];
      svg.append(
        made("path", {
          class: "edge",
          d: `M${sx} ${sy}Q${mx} ${my} ${ex} ${ey}`,
          "stroke-width": (counts ? 0.06 + (0.2 * count) / most : 0.07) * em,
          "marker-end": "url(#head)",
        }),
      );
      if (counts && names.length < 6)
        labels.push(made("text", { class: "count", x: 0.3 * sx + 0.4 * mx + 0.3 * ex, y: 0.3 * sy + 0.4 * my + 0.3 * ey + 0.25 * em }, count));
    }),
  );
  svg.append(...labels);
  names.forEach((name, i) => {
    const [x, y] = at(i);
    const open = unidentified.includes(name);
    svg.append(made("circle", { class: `node ${open ? "open" : ""}`, cx: x, cy: y, r: node }));
    const side = Math.cos((2 * Math.PI * i) / names.length - Math.PI / 2);
    const isBeside = Math.abs(side) > 0.3;
    const shift = isBeside ? [1.1 * em * Math.sign(side), 0.28 * em] : [0, (y > height / 2 ? 1.7 : -1.05) * em];
    const anchor = isBeside ? (side > 0 ? "start" : "end") : "middle";
    svg.append(made("text", { x: x + shift[0], y: y + shift[1], style: `text-anchor: ${anchor}` }, name));
  });
  element.replaceChildren(svg);
}

function described(names, counts, unidentified) {
  if (!counts) return "Every response is chosen over every other one.";
  const wins = names.map((name, i) => {
    const over = names.map((other, j) => (i !== j && counts[i][j] ? `${other} ${counts[i][j]} times` : ""));
    return `${name} was chosen over ${over.filter(Boolean).join(", ") || "none"}`;
  });
  const open = unidentified.length ? `Not tied to the others by wins and losses both: ${unidentified.join(", ")}.` : "";
  return `${wins.join("; ")}. ${open}`;
}

/** What the pairs of a state leave open, and what was learned of new pairs. */
export function graphWords(state, answer, run) {
  const counts = answer?.counts ?? null;
  const open = answer?.unidentified ?? [];
  if (state.pairs === INFINITE)
    return "Infinitely many pairs compare every two responses both ways. Choose a finite number to see what is lost.";
  if (!counts) return new NeedsPython().message;
  const accuracy = answer.accuracy ?? run?.accuracy.at(-1);
  const held = accuracy === undefined || accuracy === null ? "" : ` Of new pairs, ${percent(accuracy)} are ordered rightly.`;
  if (!open.length)
    return `In ${state.pairs} pairs every response is tied to the others by wins and losses both, so that a limit exists.${held}`;
  return `In ${state.pairs} pairs, ${open.join(" and ")} ${open.length > 1 ? "are" : "is"} not tied to the others by wins and losses both. No minimiser exists: training never ends.${held}`;
}
