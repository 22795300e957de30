// Training as a film: a run that the library computed, played record by record.

import { Chart } from "./chart.js";

const SECONDS = 8;

export class Training {
  /** `moved(policy)` is called with the policy at the step that is shown, or null before the first step. */
  constructor(moved) {
    this.moved = moved;
    this.at = 0;
    this.run = null;
    this.isWaiting = true;
    const get = (id) => document.getElementById(id);
    this.buttons = { play: get("play"), step: get("step"), restart: get("restart") };
    this.scrub = get("scrub");
    this.written = get("at");
    this.charts = {
      displacement: new Chart(get("curve-displacement"), 11),
      entropy: new Chart(get("curve-entropy"), 10),
      js: new Chart(get("curve-js"), 10),
      accuracy: new Chart(get("curve-accuracy"), 10),
    };
    this.buttons.play.addEventListener("click", () => (this.frame ? this.pause() : this.play()));
    this.buttons.step.addEventListener("click", () => {
      this.pause();
      this.go(this.at + 1);
    });
    this.buttons.restart.addEventListener("click", () => {
      this.pause();
      this.go(0);
    });
    this.scrub.addEventListener("input", () => {
      this.pause();
      this.go(Number(this.scrub.value));
    });
  }

  get last() {
    return this.run ? this.run.steps.length - 1 : 0;
  }

  /** The state has changed: what is shown is no longer its run, and cannot be played until the next one is there. */
  wait() {
    this.pause();
    this.isWaiting = true;
    if (this.at) this.go(0);
    else this.allow();
  }

  /** Another run, shown from its start. `limit` has the numbers that its curves should end at. */
  show(run, limit, finite) {
    this.pause();
    Object.assign(this, { run, limit, finite, isWaiting: false });
    this.scrub.max = this.last;
    this.go(0);
  }

  /** No run, or none that may be seen yet. */
  clear() {
    this.pause();
    this.run = null;
    this.isWaiting = false;
    this.go(0);
  }

  play() {
    if (this.at >= this.last) this.go(0);
    const started = performance.now() - (1000 * SECONDS * this.at) / this.last;
    const tick = (now) => {
      const at = Math.floor(((now - started) / (1000 * SECONDS)) * this.last);
      if (at > this.at) this.go(at);
      if (this.at >= this.last) this.pause();
      else this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
    this.buttons.play.textContent = "Pause";
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.buttons.play.textContent = "Play";
  }

  /** The buttons work while a run is there. */
  allow() {
    for (const button of [...Object.values(this.buttons), this.scrub]) button.disabled = !this.run || this.isWaiting;
  }

  go(at) {
    this.at = Math.min(Math.max(at, 0), this.last);
    this.allow();
    this.scrub.value = this.at;
    this.written.textContent = this.run ? `step ${this.run.steps[this.at]}` : "";
    this.scrub.setAttribute("aria-valuetext", this.written.textContent);
    this.moved(this.at && this.run ? this.run.policies[this.at] : null);
    this.draw();
  }

  draw() {
    const { run } = this;
    const range = [0, run ? run.steps[this.last] : 1];
    const grown = (name, words, color) => ({
      name: words,
      color,
      kind: "line",
      x: run ? run.steps.slice(0, this.at + 1) : [],
      y: run ? run[name].slice(0, this.at + 1) : [],
    });
    const level = (value) => ({
      name: value === undefined || value === null ? "" : "limit",
      color: "ink",
      kind: "dashed",
      x: range,
      y: value === undefined || value === null ? [] : [value, value],
    });
    const limit = run ? (this.limit ?? {}) : {};
    const shown = (chart, label, y, series, whole, hidden = false) => {
      this.charts[chart].element.hidden = hidden;
      // The whole run is drawn faintly, which also keeps the axis where it is while curves grow.
      const ghosts = whole
        .filter((name) => run?.[name])
        .map((name, i) => ({ name: "", kind: "ghost", color: series[i].color, x: run.steps, y: run[name] }));
      const includes = chart === "accuracy" ? [0.5] : []; // what guessing gives
      if (!hidden) this.charts[chart].show({ label, x: "step", y, range, includes, series: [...ghosts, ...series] });
    };
    const displaced = this.finite
      ? [
          grown("displacement", "on these pairs", "chosen"),
          grown("held_out_displacement", "on new pairs", "rejected"),
        ]
      : [grown("displacement", "", "chosen")];
    const wholes = this.finite ? ["displacement", "held_out_displacement"] : ["displacement"];
    shown("displacement", "Chosen log-likelihood along training", "chosen log-lik. (nats)", [...displaced, level(limit.displacement)], wholes);
    shown("entropy", "Entropy along training", "entropy (nats)", [grown("entropy", "", "gain"), level(limit.entropy_learned)], ["entropy"]);
    const far = run?.js ? [grown("js", "", "gain")] : [];
    shown("js", "Jensen–Shannon divergence from the limit", "JS to limit (nats)", far, ["js"], run !== null && !run.js);
    shown("accuracy", "Share of new pairs that are ordered rightly", "held-out accuracy", [grown("accuracy", "", "gain")], ["accuracy"]);
  }
}
