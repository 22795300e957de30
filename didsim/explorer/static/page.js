// The page: one state, the controls that change it, and the panels that show it.

import { Bars, counted, limitOf, logs, nats, percent } from "./bars.js";
import { Chart } from "./chart.js";
import { Dropped, Library } from "./ask.js";
import { checkTogether, queryOf, stateOf } from "./link.js";
import { factsOf } from "./facts.js";
import { drawGraph, graphWords } from "./graph.js";
import { noticed } from "./notice.js";
import { OwnLog } from "./own.js";
import { Sequences } from "./sequences.js";
import { Tools } from "./tools.js";
import { Training } from "./training.js";

const INFINITE = 0;
const WAIT = 40; // milliseconds without a change before the library is asked
const SLOW = 700;
const COMPILES = "Computing … The first time of a kind takes seconds, while the library compiles its program.";
const ASKED = { responses: ["pairs-card", "training-card", "map-card"], sequences: ["space-card"] };
const SHOWN = ["names", "reference", "chosen", "rejected", "target"];
const get = (id) => document.getElementById(id);

class Page {
  constructor(settings) {
    this.settings = settings;
    this.library = new Library(settings);
    this.guessed = null;
    this.answer = null;
    this.policy = null;
    this.state = this.opened();
    this.bars = new Bars(get("bars"), (row, shares) => this.change({ [row]: shares }));
    this.training = new Training((policy) => {
      this.policy = policy;
      if (this.bars.shown) this.drawBars();
    });
    this.map = new Chart(get("map"), 16);
    this.own = new OwnLog(this);
    this.sequences = new Sequences(this);
    this.controls();
    this.tools = new Tools(this);
    this.change({});
    document.documentElement.dataset.ready = "true";
  }

  /** The state of the link, or the first preset with a message on what is wrong with the link. */
  opened() {
    try {
      return stateOf(location.search, this.settings);
    } catch (error) {
      this.say(`This link cannot be read: ${error.message}. The first preset is shown instead.`);
      return stateOf("", this.settings);
    }
  }

  // --- The state ---

  /** Change fields of the state. What follows a finger is drawn at once; the library is asked soon after. */
  change(fields) {
    const next = { ...this.state, ...fields };
    try {
      checkTogether(next);
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.state = next;
    this.answer = null;
    this.library.drop();
    this.wait();
    this.draw();
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.ask(), WAIT);
  }

  /** Every card of the open tab waits for an answer from now on, not only once the library is asked. */
  wait() {
    for (const [tab, cards] of Object.entries(ASKED))
      for (const card of cards) get(card).classList.toggle("waiting", tab === this.state.tab);
    this.training.wait();
  }

  preset(name) {
    const { tab, projector, predict } = this.state;
    this.guessed = null;
    this.say("");
    this.change({ ...this.settings.presets[name].state, preset: name, tab, projector, predict });
  }

  betaOf(position) {
    return Number((10 ** position).toPrecision(2));
  }

  get followsFinger() {
    return this.state.pairs === INFINITE && ["dpo", "simpo"].includes(this.state.objective);
  }

  /** The run of this state, once it is there. */
  get currentRun() {
    return this.training.isWaiting ? null : this.run;
  }

  get isHidden() {
    return this.state.predict && this.guessed === null;
  }

  /** The limit and its counter: by the closed form where there is one, else as the library answered. */
  limit() {
    const { state } = this;
    const [reference, chosen, rejected] = [state.reference, state.chosen, state.rejected].map(logs);
    if (!this.followsFinger) return this.answer?.learned ? this.answer : { learned: null };
    // Without a reference in the loss, a uniform one takes its place.
    const start = state.objective === "simpo" ? logs(reference.map(() => 1)) : reference;
    const learned = limitOf(start, chosen, rejected, state.beta);
    return { learned: learned.map(Math.exp), ...counted(reference, chosen, learned) };
  }

  // --- Asking the library ---

  async ask() {
    history.replaceState(null, "", `?${queryOf(this.state, this.settings)}`);
    if (this.state.tab === "sequences") return this.sequences.ask();
    await Promise.all([
      this.panel("limit", "pairs-card", (answer) => this.answered(answer)),
      this.panel("training", "training-card", (run) => this.trained(run)),
      this.panel("map", "map-card", (answer) => this.drawMap(answer)),
    ]);
    this.tellSoon();
  }

  /** Ask for what a card shows, and show it, or say on the card why it cannot be shown. */
  async panel(question, card, show) {
    const element = get(card);
    const needs = element.querySelector(".needs");
    const say = (text) => {
      if (!needs) return;
      needs.textContent = text;
      needs.hidden = !text;
    };
    const slow = setTimeout(() => say(COMPILES), SLOW);
    let isDropped = false;
    try {
      show(await this.library.ask(question, this.state));
      say("");
    } catch (error) {
      isDropped = error instanceof Dropped;
      if (isDropped) return;
      if (question === "training") this.trained(null);
      if (question === "map") this.map.show({ label: "", x: "", y: "", series: [] });
      if (question === "limit") this.refused(error);
      say(error.message);
    } finally {
      clearTimeout(slow);
      // A card whose question was dropped goes on waiting for the next answer.
      if (!isDropped) element.classList.remove("waiting");
    }
  }

  answered(answer) {
    this.answer = answer;
    this.drawBars();
    this.drawGraph();
  }

  refused(error) {
    this.missing = error.message;
    this.drawBars();
    this.drawGraph();
  }

  trained(run) {
    this.run = run;
    if (run && !this.isHidden) this.training.show(run, this.limit(), this.state.pairs !== INFINITE);
    else this.training.clear();
    this.own.draw();
    this.drawNotice();
    if (this.answer) this.drawGraph();
  }

  // --- Drawing ---

  draw() {
    const { state } = this;
    document.documentElement.toggleAttribute("data-projector", state.projector);
    get("projector").setAttribute("aria-pressed", state.projector);
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const isOpen = tab.dataset.tab === state.tab;
      tab.setAttribute("aria-selected", isOpen);
      tab.tabIndex = isOpen ? 0 : -1;
      get(tab.dataset.tab).hidden = !isOpen;
    }
    for (const button of get("presets").children)
      button.setAttribute("aria-pressed", button.dataset.preset === state.preset);
    get("beta").value = Math.log10(state.beta);
    get("beta-value").textContent = state.beta;
    get("objective").value = state.objective;
    get("objective-help").textContent = `${state.objective}: ${this.settings.objectives[state.objective]}`;
    get("pairs").value = this.settings.counts.indexOf(state.pairs);
    get("pairs-value").textContent = state.pairs === INFINITE ? "∞" : state.pairs;
    get("pairs").setAttribute("aria-valuetext", state.pairs === INFINITE ? "infinitely many" : state.pairs);
    get("optimizer").value = state.optimizer;
    get("rate").value = Math.log10(state.rate);
    get("rate-value").textContent = state.rate;
    get("predict").checked = state.predict;
    if (document.activeElement !== get("names")) get("names").value = state.names.join(", ");
    get("fewer").disabled = state.names.length <= 4;
    get("more").disabled = state.names.length >= 8;
    get("draw-again").disabled = state.pairs === INFINITE;
    this.sequences.draw();
    this.drawBars();
  }

  drawBars() {
    const { state } = this;
    const limit = this.limit();
    const title = state.objective === "dpo" ? "Learned: DPO’s exact limit" : `Learned: the exact limit of ${state.objective}`;
    const { verdict } = this.answer ?? {};
    const noLimit = verdict === "NOT_IDENTIFIED" ? "Learned: where descent tends to" : title;
    this.bars.show({
      ...Object.fromEntries(SHOWN.map((name) => [name, state[name]])),
      learned: limit.learned,
      policy: this.isHidden ? null : this.policy,
      title: this.policy ? `Policy at ${get("at").textContent}` : this.followsFinger ? title : noLimit,
      hidden: this.isHidden,
      missing: this.answer ? "No limit is known" : (this.missing ?? "Computing …"),
    });
    this.missing = undefined;
    this.drawCounter(limit);
    this.drawNotice();
  }

  drawCounter(limit) {
    const { counter, formula } = { counter: get("counter"), formula: get("formula") };
    const isKnown = limit.learned && !this.isHidden;
    get("guess").hidden = !this.isHidden;
    counter.className = "counter";
    formula.textContent = "";
    counter.textContent = "";
    if (isKnown) {
      const { displacement: change, kl_chosen_reference: near, kl_chosen_learned: far } = limit;
      const fall = change ?? -Infinity; // no finite number: a chosen response has no probability left
      counter.textContent = `chosen log-likelihood ${nats(fall)} nats${this.policy ? " at the limit" : ""}`;
      counter.classList.add(fall > 0.005 ? "gain" : fall < -0.005 ? "loss" : "same");
      formula.textContent =
        `= KL(chosen‖reference) − KL(chosen‖learned) = ${nats(near)} − ${nats(far ?? Infinity)}`;
    }
    get("verdict").textContent = this.isHidden ? "" : this.verdict();
    const key = get("bars-key");
    key.querySelector(".of-target").hidden = !this.state.target.length;
    key.querySelector(".of-training").hidden = !this.policy;
    this.drawGuessed(limit);
  }

  verdict() {
    const { answer } = this;
    if (!answer || answer.verdict === "MINIMISER") return "";
    return `${answer.objection[0].toUpperCase()}${answer.objection.slice(1)}.`;
  }

  drawGuessed(limit) {
    const words = { 1: "rises", 0: "stays", "-1": "falls" };
    if (this.guessed === null || !limit.learned) {
      get("guessed").textContent = "";
      return;
    }
    const change = limit.displacement ?? -Infinity;
    const truth = change > 0.005 ? 1 : change < -0.005 ? -1 : 0;
    const verdict = truth === this.guessed ? "Right" : "Not so";
    get("guessed").textContent = `You said that it ${words[this.guessed]}. ${verdict}: it ${words[truth]}.`;
  }

  drawNotice() {
    const preset = this.settings.presets[this.state.preset];
    get("notice").hidden = !preset || this.isHidden;
    if (!preset) return;
    const words = get("notice").querySelector("span");
    const { number } = preset.notice;
    // A sentence of the library's numbers waits for them.
    const waits = (!this.followsFinger && !this.answer && !this.missing) || (number === "unidentified_count" && !this.currentRun);
    if (waits && this.library.isLive && words.textContent) return;
    words.textContent = noticed(preset.notice, factsOf(this.state, this.limit(), this.answer, this.currentRun));
  }

  drawGraph() {
    const { state, answer } = this;
    const counts = answer?.counts ?? null;
    const open = answer?.unidentified ?? [];
    get("pairs-words").textContent = graphWords(state, answer, this.currentRun);
    if (state.pairs === INFINITE || counts) drawGraph(get("graph"), state.names, counts, open);
    else get("graph").replaceChildren();
  }

  drawMap(answer) {
    const { state } = this;
    this.map.show({
      label: `Log-ratio that ${state.objective} learns, against that of the data`,
      x: "log chosen/rejected in the data (nats)",
      y: "learned log-ratio",
      includes: answer.learned,
      series: [
        { name: "41 responses in even steps", kind: "line", color: "gain", x: answer.x, y: answer.y },
        { name: "your responses", kind: "dots", color: "loss", x: answer.data, y: answer.learned, labels: state.names },
      ],
    });
  }

  // --- Words ---

  say(text) {
    get("message").hidden = !text;
    get("message").querySelector("p").textContent = text;
  }

  /** Tell screen readers what changed, once nothing changes any more. */
  tellSoon() {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => {
      const { learned } = this.limit();
      if (!learned || this.isHidden || this.state.tab !== "responses") return;
      const shares = this.state.names.map((name, i) => `${name} ${percent(learned[i])}`).join(", ");
      get("told").textContent = `Learned: ${shares}; ${get("counter").textContent}.`;
    }, 600);
  }

  // --- Controls ---

  controls() {
    const { settings } = this;
    get("presets").replaceChildren(
      ...Object.entries(settings.presets).map(([name, { title }]) => {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: title });
        button.dataset.preset = name;
        button.addEventListener("click", () => this.preset(name));
        return button;
      }),
    );
    get("objective").replaceChildren(...settings.schema.objective.enum.map((name) => new Option(name)));
    get("optimizer").replaceChildren(...settings.schema.optimizer.enum.map((name) => new Option(name)));
    get("pairs").max = settings.counts.length - 1;
    get("library").textContent = `didsim ${settings.library}.`;
    const on = (id, event, fields) => get(id).addEventListener(event, () => this.change(fields(get(id))));
    on("beta", "input", ({ value }) => ({ beta: this.betaOf(value) }));
    on("rate", "input", ({ value }) => ({ rate: this.betaOf(value) }));
    on("objective", "change", ({ value }) => ({ objective: value }));
    on("optimizer", "change", ({ value }) => ({ optimizer: value }));
    on("pairs", "input", ({ value }) => ({ pairs: settings.counts[value] }));
    get("predict").addEventListener("change", () => {
      this.guessed = null;
      this.change({ predict: get("predict").checked });
    });
    get("draw-again").addEventListener("click", () => this.change({ seed: (this.state.seed + 1) % 10000 }));
    get("names").addEventListener("change", () => this.rename(get("names").value));
    get("fewer").addEventListener("click", () => this.resize(this.state.names.slice(0, -1)));
    get("more").addEventListener("click", () => this.resize([...this.state.names, this.fresh()]));
    for (const button of get("guess").querySelectorAll("button"))
      button.addEventListener("click", () => {
        this.guessed = Number(button.dataset.guess);
        this.draw();
        if (!this.training.isWaiting) this.trained(this.run ?? null);
        get("play").focus();
      });
    this.tabs();
  }

  tabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    for (const [i, tab] of tabs.entries()) {
      tab.addEventListener("click", () => this.change({ tab: tab.dataset.tab }));
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
        const other = tabs[(i + 1) % tabs.length];
        this.change({ tab: other.dataset.tab });
        other.focus();
      });
    }
  }

  fresh() {
    const letters = "ABCDEFGH".split("");
    return letters.find((one, i) => i >= this.state.names.length && !this.state.names.includes(one)) ?? "New";
  }

  rename(text) {
    const names = text.split(",").map((name) => name.trim());
    const { minItems, maxItems } = this.settings.schema.names;
    if (names.length < minItems || names.length > maxItems || names.some((name) => !name || [...name].length > 16)) {
      this.say(`Responses: ${minItems} to ${maxItems} names with commas between them, each of 1 to 16 characters.`);
      return;
    }
    this.say("");
    this.resize(names);
  }

  /** Other names; a response that is new gets an even share, and the others keep their proportions. */
  resize(names) {
    const even = 1 / names.length;
    const fitted = (shares) => {
      const kept = names.map((_, i) => shares[i] ?? null);
      const room = 1 - even * kept.filter((share) => share === null).length;
      const total = kept.reduce((sum, share) => sum + (share ?? 0), 0);
      return kept.map((share) => Number((share === null ? even : (share * room) / total).toFixed(6)));
    };
    const rows = Object.fromEntries(["reference", "chosen", "rejected"].map((row) => [row, fitted(this.state[row])]));
    const target = names.length === this.state.names.length ? this.state.target : [];
    this.change({ names, ...rows, target });
  }
}

const settings = await (await fetch("settings.json")).json();
new Page(settings);
