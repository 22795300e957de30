// The second tab: a space of token sequences and where its rejected sequences come from.

import { Chart } from "./chart.js";
import { nats, percent } from "./bars.js";

const LARGEST = 256;
const get = (id) => document.getElementById(id);

export class Sequences {
  constructor(page) {
    this.page = page;
    this.answer = null;
    const { settings } = page;
    for (const name of ["family", "update", "sampler"]) {
      get(name).replaceChildren(...settings.schema[name].enum.map((one) => new Option(one.replaceAll("_", " "), one)));
      get(name).addEventListener("change", () => page.change({ [name]: get(name).value }));
    }
    get("vocabulary").addEventListener("input", () => this.resize("vocabulary", "length"));
    get("length").addEventListener("input", () => this.resize("length", "vocabulary"));
    get("space-beta").addEventListener("input", () => page.change({ beta: page.betaOf(get("space-beta").value) }));
    get("space-again").addEventListener("click", () => page.change({ seed: (page.state.seed + 1) % 10000 }));
    this.charts = {
      law: new Chart(get("law"), 16),
      mass: new Chart(get("mass"), 16),
      displacement: new Chart(get("space-displacement"), 11),
      entropy: new Chart(get("space-entropy"), 11),
    };
  }

  /** One of the two sizes as asked; the other gets smaller if the space would become too large. */
  resize(own, other) {
    const sizes = { [own]: Number(get(own).value), [other]: this.page.state[other] };
    const least = own === "vocabulary" ? 1 : 2;
    const size = () => sizes.vocabulary ** sizes.length;
    while (size() > LARGEST && sizes[other] > least) sizes[other] -= 1;
    this.page.change(sizes);
  }

  /** The controls as the state has them. */
  draw() {
    const { state } = this.page;
    for (const name of ["vocabulary", "length", "family", "update", "sampler"]) get(name).value = state[name];
    get("vocabulary-value").textContent = state.vocabulary;
    get("length-value").textContent = state.length;
    get("space-beta").value = Math.log10(state.beta);
    get("space-beta-value").textContent = state.beta;
  }

  ask() {
    return this.page.panel("sequences", "space-card", (answer) => {
      this.answer = answer;
      this.shown();
    });
  }

  shown() {
    const { answer } = this;
    const { state } = this.page;
    get("space-words").textContent = this.words();
    const facts = {
      "sequences": `${state.vocabulary}^${state.length} = ${answer.size}`,
      "pairs in log-margin order": percent(answer.ordered),
      "worst violation": `${nats(answer.worst_violation)} nats`,
      "exponent, fitted": `${nats(answer.exponent, 3)} (beta is ${state.beta})`,
      "exponent of a pair, 5% · 50% · 95%": answer.spread.map((one) => nats(one, 2)).join(" · "),
      "residual of the power law": `${nats(answer.residual, 3)} nats`,
      "JS of the limit to the target": `${nats(answer.limits.js_to_target, 4)} nats`,
      "chosen log-likelihood, at the limit": `${nats(answer.limits.chosen_displacement)} nats`,
      "rejected log-likelihood, at the limit": `${nats(answer.rejected_displacement)} nats`,
    };
    get("space-facts").replaceChildren(
      ...Object.entries(facts).flatMap(([name, value]) =>
        [["dt", name], ["dd", value]].map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })),
      ),
    );
    this.drawLaw();
    this.drawMass();
    this.drawCurves();
  }

  words() {
    const { answer } = this;
    const { sampler, beta } = this.page.state;
    const from = `Rejected sequences from "${sampler.replaceAll("_", " ")}"`;
    if (answer.holds && Math.abs(answer.exponent - beta) < 1e-3)
      return `${from} obey the power law with exponent beta: DPO ends at the target.`;
    if (answer.holds)
      return `${from} obey the power law with exponent ${nats(answer.exponent)}, but beta is ${beta}: DPO ends ${answer.exponent > beta ? "past" : "before"} the target.`;
    return `${from} break the power law: DPO ends ${nats(answer.limits.js_to_target, 3)} nats (JS) from the target.`;
  }

  drawLaw() {
    const { answer } = this;
    const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;
    const [mx, my] = [mean(answer.step_up), mean(answer.step_down)];
    const ends = [Math.min(...answer.step_up), Math.max(...answer.step_up)];
    const line = answer.exponent === null ? [] : ends.map((x) => my + answer.exponent * (x - mx));
    this.charts.law.show({
      label: "Log-ratios of reference to rejected, against those of target to reference",
      x: "log target/reference (nats)",
      y: "log reference/rejected",
      series: [
        { name: "sequence", kind: "dots", color: "gain", x: answer.step_up, y: answer.step_down, radius: 0.16 },
        { name: "fitted", kind: "dashed", color: "ink", x: line.length ? ends : [], y: line },
      ],
    });
  }

  drawMass() {
    const { shares } = this.answer;
    const order = shares.reference.map((share, i) => [share, i]).sort((a, b) => b[0] - a[0]).map(([, i]) => i);
    const series = Object.entries({ reference: "reference", rejected: "rejected", target: "ink", learned: "gain" }).map(
      ([name, color]) => ({
        name,
        color,
        kind: name === "target" ? "dashed" : "line",
        x: order.map((_, k) => k + 1),
        y: order.map((i) => Math.log10(shares[name][i])),
      }),
    );
    this.charts.mass.show({
      label: "Share of every sequence under four policies",
      x: "rank of the sequence under the reference",
      y: "log10 of its share",
      series: [series[0], series[1], series[3], series[2]],
    });
  }

  drawCurves() {
    const { steps, curves, limits } = this.answer;
    const range = [0, steps.at(-1)];
    const grown = (name, words, color) => ({ name: words, color, kind: "line", x: steps, y: curves[name] });
    const level = (name, color) => ({ name: "", color, kind: "dashed", x: range, y: [limits[name], limits[name]] });
    const key = { name: "limits", color: "ink", kind: "dashed", x: [], y: [] };
    this.charts.displacement.show({
      label: "Displacement and divergence along training",
      x: "step",
      y: "nats",
      range,
      series: [
        grown("chosen_displacement", "chosen log-likelihood", "chosen"),
        level("chosen_displacement", "chosen"),
        grown("js_to_target", "JS to the target", "gain"),
        level("js_to_target", "gain"),
        key,
      ],
    });
    this.charts.entropy.show({
      label: "Entropies along training",
      x: "step",
      y: "entropy (nats)",
      range,
      series: [
        grown("policy_entropy", "of the policy", "gain"),
        level("policy_entropy", "gain"),
        grown("did_entropy", "of the DID", "loss"),
        level("did_entropy", "loss"),
        key,
      ],
    });
  }

  /** The table that a download holds. */
  table() {
    const { sequences, shares } = this.answer ?? { sequences: [], shares: {} };
    const names = Object.keys(shares);
    return [["sequence", ...names], ...sequences.map((one, i) => [one, ...names.map((name) => shares[name][i])])];
  }
}
