// A training log of the reader's own, over the simulated curve.

import { Chart } from "./chart.js";

const get = (id) => document.getElementById(id);

export class OwnLog {
  constructor(page) {
    this.page = page;
    this.log = null;
    this.chart = new Chart(get("own"), 14);
    this.chart.element.hidden = true;
    get("log-file").addEventListener("change", (event) => this.take(event.target.files[0]));
    get("log-text").addEventListener("paste", () => setTimeout(() => this.takeText()));
    get("log-text").addEventListener("change", () => this.takeText());
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.take(event.dataTransfer.files[0]);
    });
  }

  takeText() {
    const text = get("log-text").value;
    if (text.trim()) this.read(text, "pasted text");
  }

  take(file) {
    if (file) this.read(file, file.name);
  }

  async read(data, name) {
    get("log-words").textContent = `Reading ${name} …`;
    try {
      this.log = await this.page.library.read(data, name);
      const { format, unit, at, label } = this.log;
      get("log-words").textContent = `${name} (${format}): ${label}, ${at.length} points, ${unit} ${at[0]} to ${at.at(-1)}.`;
      this.page.say("");
    } catch (error) {
      this.log = null;
      get("log-words").textContent = "";
      this.page.say(`No curve in that file. ${error.message}`);
    }
    this.draw();
  }

  draw() {
    const { log } = this;
    const { run } = this.page;
    this.chart.element.hidden = !log;
    if (!log) return;
    const share = (places) => places.map((at) => (at - places[0]) / (places.at(-1) - places[0] || 1));
    const simulated = run ? { x: share(run.steps), y: run.displacement } : { x: [], y: [] };
    this.chart.show({
      label: "Your curve over the simulated one",
      x: "share of training",
      y: "simulated (nats)",
      right: `${log.name.slice(0, 24)} (${log.measure})`,
      range: [0, 1],
      series: [
        { name: "simulated chosen log-likelihood", color: "gain", kind: "line", ...simulated },
        { name: `${log.label} of ${log.name}`, color: "loss", kind: "line", axis: "right", x: share(log.at), y: log.values },
      ],
    });
  }
}
