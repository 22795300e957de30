// The numbers and names that the sentence of a preset can speak of.

import { logs } from "./bars.js";

const INFINITE = 0;

/** The facts of a state, its limit, the library's answer about it, and a run; the last two may be missing. */
export function factsOf(state, limit, answer, run) {
  const [reference, target] = [logs(state.reference).map(Math.exp), state.target];
  const learned = limit.learned ?? [];
  const changes = learned.map((share, i) => Math.abs(share - reference[i]));
  const change = Math.max(0, ...changes);
  const apart = target.length ? learned.reduce((sum, share, i) => sum + Math.abs(share - target[i]), 0) / 2 : NaN;
  const known = (run?.displacement ?? []).filter((one) => one !== null);
  return {
    ...state,
    ...limit,
    name: state.names,
    loss: limit.displacement === undefined ? null : -limit.displacement,
    factor: learned.map((share, i) => share / reference[i]),
    change: learned.length ? change : NaN,
    change_share: change,
    distance: learned.length ? apart : NaN,
    without_reference: state.objective === "simpo" ? 1 : 0,
    unidentified_count: answer && run ? answer.unidentified.length : NaN,
    unidentified: answer?.unidentified.join(" and "),
    are: answer?.unidentified.length > 1 ? "are" : "is",
    pairs: state.pairs === INFINITE ? "infinitely many" : state.pairs,
    peak: Math.max(...known),
    last: known.at(-1),
    steps: run?.steps.at(-1),
  };
}
