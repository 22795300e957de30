// Questions to the library: over HTTP, or among the answers that an export holds for its presets.

const LOOKS = ["tab", "predict", "projector"];

/** The question was dropped, since the state has changed. */
export class Dropped extends Error {}

/** Nobody can answer here: the page is an export, and its state is none of the presets. */
export class NeedsPython extends Error {
  constructor() {
    super("This needs Python: pip install 'didsim[explorer]', then didsim explore");
  }
}

export class Library {
  constructor(settings) {
    this.settings = settings;
    this.asked = {};
  }

  get isLive() {
    return this.settings.answers === null;
  }

  /** The answer to a question about a state. */
  async ask(question, state) {
    if (!this.isLive) return this.stored(question, state);
    const control = (this.asked[question] = new AbortController());
    try {
      return await posted(`ask/${question}`, JSON.stringify(state), control.signal);
    } catch (error) {
      throw control.signal.aborted ? new Dropped() : error;
    }
  }

  /** Drop all questions that are not answered yet, since the state has changed. */
  drop() {
    for (const control of Object.values(this.asked)) control.abort();
  }

  /** A training log, read by the library. */
  async read(data, name) {
    if (!this.isLive) throw new NeedsPython();
    return posted(`log?name=${encodeURIComponent(name)}`, data);
  }

  stored(question, state) {
    const preset = this.settings.presets[state.preset];
    const looks = Object.fromEntries(LOOKS.map((name) => [name, state[name]]));
    const same = preset && JSON.stringify({ ...preset.state, ...looks, preset: "" }) === JSON.stringify({ ...state, preset: "" });
    const answer = same ? this.settings.answers[state.preset][question] : undefined;
    if (answer === undefined) throw new NeedsPython();
    return answer;
  }
}

async function posted(url, body, signal) {
  let response;
  try {
    response = await fetch(url, { method: "POST", body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server does not answer. Is didsim explore still running?");
  }
  if (response.ok) return response.json();
  const refused = await response.json().catch(() => ({}));
  throw new Error(refused.error ?? `The server failed (${response.status}).`);
}
