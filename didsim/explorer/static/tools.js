// The buttons at the top of the page: copies, downloads, large type, light and dark.

import { logs } from "./bars.js";
import { Dropped } from "./ask.js";
import { copy, saveCsv, savePng } from "./download.js";
import { queryOf } from "./link.js";

const get = (id) => document.getElementById(id);

export class Tools {
  constructor(page) {
    this.page = page;
    get("message").querySelector("button").addEventListener("click", () => this.page.say(""));
    get("projector").addEventListener("click", () => this.page.change({ projector: !this.page.state.projector }));
    get("copy-link").addEventListener("click", () => this.copyLink());
    get("copy-python").addEventListener("click", () => this.copyPython());
    get("save-png").addEventListener("click", () => savePng(get(this.page.state.tab), `didsim-${this.page.state.tab}.png`));
    get("save-csv").addEventListener("click", () => saveCsv(this.table(), `didsim-${this.page.state.tab}.csv`));
    const theme = (dark) => {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
      get("theme").setAttribute("aria-pressed", dark);
    };
    const wished = matchMedia("(prefers-color-scheme: dark)");
    theme(wished.matches);
    wished.addEventListener("change", () => theme(wished.matches));
    get("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
  }

  async copyLink() {
    const link = new URL(`?${queryOf(this.page.state, this.page.settings)}`, location.href).href;
    this.flash("copy-link", (await copy(link)) ? "Copied" : "In the address bar");
    history.replaceState(null, "", link);
  }

  async copyPython() {
    try {
      const text = await this.page.library.ask("program", this.page.state);
      if (await copy(text)) this.flash("copy-python", "Copied");
      else this.page.say(`This browser keeps its clipboard closed. The program:\n${text}`);
    } catch (error) {
      if (!(error instanceof Dropped)) this.page.say(error.message);
    }
  }

  /** A word on a button that tells that it worked. */
  flash(id, word) {
    const button = get(id);
    button.dataset.word ??= button.textContent;
    button.textContent = word;
    get("told").textContent = word;
    setTimeout(() => (button.textContent = button.dataset.word), 1500);
  }

  table() {
    if (this.page.state.tab === "sequences") return this.page.sequences.table();
    const { state } = this.page;
    const { learned } = this.page.limit();
    const rows = ["reference", "chosen", "rejected"];
    const shares = rows.map((row) => logs(state[row]).map(Math.exp));
    return [
      ["response", ...rows, "learned"],
      ...state.names.map((name, i) => [name, ...shares.map((row) => row[i]), learned?.[i] ?? ""]),
    ];
  }
}
