// The sentence of a preset: one of three, chosen by a number, with the numbers of the moment filled in.

import { nats, percent } from "./bars.js";

const SHARES = new Set(["reference", "chosen", "rejected", "learned", "target"]);
const EQUAL = 0.005;

const looked = (facts, path) => path.split(".").reduce((found, key) => found?.[key], facts);

function filled(template, facts) {
  return template.replace(/\{([\w.]+)\}/g, (_, path) => {
    const value = looked(facts, path);
    const [name] = path.split(".");
    if (value === undefined || value === null) return "–";
    if (typeof value === "string") return value;
    if (SHARES.has(name) || name === "distance" || name === "change_share") return percent(value);
    if (name === "factor") return value.toPrecision(2);
    if (name === "beta") return String(value);
    return Number.isInteger(value) ? String(value) : nats(value);
  });
}

/** The sentence that fits the facts. */
export function noticed(notice, facts) {
  const number = looked(facts, notice.number);
  if (typeof number !== "number" || Number.isNaN(number)) return notice.otherwise;
  const over = number - notice.threshold;
  const sentence = Math.abs(over) < EQUAL ? notice.at : over < 0 ? notice.below : notice.above;
  return filled(sentence || notice.otherwise, facts);
}
