// The state of the page in its link: only what differs from a preset is written.

const APART = new Set(["version", "preset"]);

const kindOf = (field) => field.type ?? (typeof field.enum?.[0] === "number" ? "integer" : "string");

const written = (value) => (Array.isArray(value) ? value.join(",") : String(value));

/** The query of a link that holds a state. */
export function queryOf(state, settings) {
  const base = baseOf(state.preset, settings);
  const query = new URLSearchParams({ v: settings.version });
  if (state.preset) query.set("preset", state.preset);
  for (const [name, value] of Object.entries(state))
    if (!APART.has(name) && written(value) !== written(base[name])) query.set(name, written(value));
  return query.toString();
}

/** The state that a query holds. Throws an Error that says what is wrong with it. */
export function stateOf(text, settings) {
  const query = new URLSearchParams(text);
  const version = query.get("v") ?? String(settings.version);
  if (version !== String(settings.version))
    throw new Error(`it is of version ${version}, and this page reads version ${settings.version}`);
  const preset = query.get("preset") ?? "";
  if (preset && !(preset in settings.presets))
    throw new Error(`preset must be one of ${Object.keys(settings.presets).join(", ")}; got ${preset}`);
  const state = { ...baseOf(preset, settings), preset: preset || (query.size ? "" : first(settings)) };
  for (const [name, value] of query) {
    if (name === "v" || name === "preset") continue;
    if (!(name in settings.schema) || APART.has(name)) throw new Error(`it has an unknown field, ${name}`);
    state[name] = parsed(name, value, settings.schema[name]);
  }
  checkTogether(state);
  return state;
}

const first = (settings) => Object.keys(settings.presets)[0];

const baseOf = (preset, settings) => settings.presets[preset || first(settings)].state;

/** A value of a field, checked by the field's JSON Schema. */
function parsed(name, text, field) {
  if (field.type !== "array") return one(name, text, field);
  const items = text === "" ? [] : text.split(",");
  const [least, most] = [field.minItems ?? 0, field.maxItems ?? Infinity];
  if (items.length < least || items.length > most)
    throw new Error(`${name} must have ${least} to ${most} entries; got ${items.length}`);
  return items.map((item) => one(name, item, field.items));
}

function one(name, text, field) {
  const refuse = (expected) => {
    throw new Error(`${name} must be ${expected}; got ${text}`);
  };
  const kind = kindOf(field);
  let value = text;
  if (kind === "boolean") {
    if (text !== "true" && text !== "false") refuse("true or false");
    value = text === "true";
  }
  if (kind === "number" || kind === "integer") {
    value = text.trim() === "" ? NaN : Number(text);
    if (!Number.isFinite(value)) refuse("a number");
    if (kind === "integer" && !Number.isInteger(value)) refuse("a whole number");
    const [least, most] = [field.minimum ?? -Infinity, field.maximum ?? Infinity];
    if (value < least || value > most) refuse(`from ${least} to ${most}`);
  }
  if (field.enum && !field.enum.includes(value)) refuse(`one of ${field.enum.join(", ")}`);
  if (field.pattern && !new RegExp(field.pattern, "u").test(value)) refuse(field.description);
  return value;
}

/** What no single field can say. */
export function checkTogether(state) {
  const size = state.names.length;
  if (new Set(state.names).size < size) throw new Error("names must be different from each other");
  for (const name of ["reference", "chosen", "rejected", "target"]) {
    const given = state[name].length;
    if (given !== size && !(name === "target" && given === 0))
      throw new Error(`${name} must have an entry for each of ${size} names; got ${given}`);
  }
  if (state.vocabulary ** state.length > 256)
    throw new Error(`vocabulary and length must make at most 256 sequences; got ${state.vocabulary ** state.length}`);
}
