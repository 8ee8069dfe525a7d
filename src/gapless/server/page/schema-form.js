/**
 * Fields for a value that a JSON Schema describes: text, numbers, yes or no, choices, lists, objects in objects, and a
 * field for JSON where a schema leaves more open than fields can say. What is entered is checked against the schema, and
 * what is wrong is said beside the field.
 *
 * A field is `{ node, empty(), read(problems) }`: `read` returns the value, or undefined for none, and adds to `problems`
 * the element to put the focus on where there is something wrong.
 */

import { el, freshId, onEnter } from "./dom.js";

/** So many choices are shown side by side; more are a list to open. */
const RADIOS_MAX = 4;
/** Deeper objects, and those that hold themselves, are written as JSON. */
const DEPTH_MAX = 5;
const ITEMS_MAX = 100;
/** A text that may be longer has a field of several lines. */
const LINE_CHARS_MAX = 200;

export class SchemaForm {
  #field;

  /** `value` is what the fields begin with; without it, the schema's defaults. `name` is said where the schema has no title. */
  constructor(schema, { value, name = "Your answer" } = {}) {
    this.#field = fieldOf({ schema, root: schema, name, value, required: true, depth: 0 });
    this.node = this.#field.node;
  }

  /** The value as `{ value }`; null where something is wrong, which is then said, with the focus on the first such field. */
  read() {
    const problems = [];
    const value = this.#field.read(problems);
    problems[0]?.focus();
    return problems.length > 0 ? null : { value };
  }
}

/** A schema for values like this one. */
export function schemaLike(value) {
  if (Array.isArray(value)) {
    const types = new Set(value.map((one) => schemaLike(one).type));
    const flat = types.size === 1 && ["string", "number", "boolean"].includes([...types][0]);
    return flat ? { type: "array", items: { type: [...types][0] } } : { type: "array" };
  }
  if (value !== null && typeof value === "object") {
    const properties = Object.fromEntries(Object.entries(value).map(([name, one]) => [name, schemaLike(one)]));
    return Object.keys(properties).length > 0 ? { type: "object", properties } : { type: "object" };
  }
  return value === null ? {} : { type: typeof value };
}

function fieldOf(given) {
  const { schema, nullable } = plain(given.schema, given.root);
  const ctx = { ...given, schema, nullable, value: given.value === undefined ? schema.default : given.value };
  const choices = choicesOf(schema);
  if (choices) return choiceField(ctx, choices);
  const type = schema.type ?? (schema.properties ? "object" : undefined);
  if (type === "boolean") return booleanField(ctx);
  if (type === "string") return textField(ctx);
  if (type === "number" || type === "integer") return numberField(ctx);
  if (type === "array" && schema.items && ctx.depth < DEPTH_MAX) {
    const items = plain(schema.items, ctx.root).schema;
    const chosen = choicesOf(items);
    return chosen ? choicesField(ctx, chosen) : listField(ctx);
  }
  if (type === "object" && schema.properties && ctx.depth < DEPTH_MAX) return objectField(ctx);
  return jsonField(ctx, type);
}

/** The schema without references, without a null beside it, and with one type. */
function plain(schema, root) {
  let nullable = false;
  let found = schema !== null && typeof schema === "object" ? schema : {};
  for (let step = 0; step < 20; step += 1) {
    const { $ref, allOf, anyOf, oneOf, ...rest } = found;
    const some = anyOf ?? oneOf;
    const left = some?.filter((one) => one.type !== "null");
    if (typeof $ref === "string") found = { ...pointed(root, $ref), ...rest };
    else if (allOf?.length === 1) found = { ...allOf[0], ...rest };
    else if (left?.length === 1) {
      nullable ||= left.length < some.length;
      found = { ...left[0], ...rest };
    } else break;
  }
  if (Array.isArray(found.type)) {
    const types = found.type.filter((type) => type !== "null");
    nullable ||= types.length < found.type.length;
    found = { ...found, type: types.length === 1 ? types[0] : undefined };
  }
  return { schema: found, nullable };
}

function pointed(root, ref) {
  let at = root;
  for (const part of ref.replace(/^#\/?/, "").split("/")) {
    at = at?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
  }
  return at !== null && typeof at === "object" ? at : {};
}

/** What may be chosen, as `{ value, label }`; null where the schema is no choice. */
function choicesOf(schema) {
  if (schema.const !== undefined) return [{ value: schema.const, label: String(schema.title ?? schema.const) }];
  if (Array.isArray(schema.enum)) return schema.enum.map((value) => ({ value, label: String(value) }));
  const some = schema.oneOf ?? schema.anyOf;
  if (!some?.length || some.some((one) => one.const === undefined)) return null;
  return some.map((one) => ({ value: one.const, label: String(one.title ?? one.const) }));
}

function titleOf({ schema, name }) {
  return schema.title ?? name.replace(/([a-z])([A-Z])/g, "$1 $2").replaceAll("_", " ");
}

/** What belongs to every field: its name, what the schema says of it, and what is wrong with it. */
class Frame {
  #problem;
  #controls;

  constructor(ctx, controls, { group = false, inline = false } = {}) {
    const { schema, required } = ctx;
    const [labelId, hintId, problemId] = ["label", "hint", "problem"].map(freshId);
    this.#controls = controls;
    this.#problem = el("p", { class: "problem", id: problemId, hidden: true });
    const title = [titleOf(ctx), required || inline ? null : el("span", { class: "optional" }, " (optional)")];
    const hint = schema.description ? el("p", { class: "hint", id: hintId, dir: "auto" }, schema.description) : null;
    const told = hint ? `${hintId} ${problemId}` : problemId;
    if (group) {
      this.node = el("fieldset", { class: "field", "aria-describedby": told }, el("legend", { dir: "auto" }, ...title), hint);
    } else {
      const id = freshId("field");
      controls[0].id = id;
      controls[0].setAttribute("aria-describedby", told);
      if (required && !inline) controls[0].setAttribute("aria-required", "true");
      const label = el("label", { for: id, id: labelId, dir: "auto" }, ...title);
      this.node = el("div", { class: inline ? "field inline" : "field" }, ...(inline ? [controls[0], label] : [label]), hint);
    }
    this.node.dataset.field = ctx.name;
    this.node.addEventListener("input", () => this.say(""));
  }

  /** Adds what the field is made of, and the place for what is wrong behind it. */
  with(...nodes) {
    this.node.append(...nodes, this.#problem);
    return this.node;
  }

  /** Says what is wrong, or "" for nothing. Returns the element to put the focus on. */
  say(text) {
    this.#problem.textContent = text;
    this.#problem.hidden = text === "";
    for (const control of this.#controls) {
      if (text) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    }
    return this.#controls[0];
  }
}

/** A field of one control whose text means a value: `parse(text)` returns `{ value }` or `{ problem }`. */
function parsed(ctx, control, parse) {
  const frame = new Frame(ctx, [control]);
  return {
    node: frame.with(control),
    empty: () => control.value.trim() === "",
    read(problems) {
      if (control.value.trim() === "" && !(ctx.required && ctx.schema.default === "")) {
        if (!ctx.required) return undefined;
        if (ctx.nullable) return null;
        problems.push(frame.say("Fill this in."));
        return undefined;
      }
      const { value, problem = "" } = parse(control.value);
      const target = frame.say(problem);
      if (problem) problems.push(target);
      return value;
    },
  };
}

const INPUT_TYPES = { email: "email", uri: "url", date: "date", time: "time", "date-time": "datetime-local", password: "password" };

function textField(ctx) {
  const { schema, value } = ctx;
  const { format, minLength = 0, maxLength = Infinity, pattern } = schema;
  const type = INPUT_TYPES[format] ?? "text";
  const text = value === undefined || value === null ? "" : String(value);
  const long = type === "text" && ((maxLength !== Infinity && maxLength > LINE_CHARS_MAX) || text.includes("\n") || text.length > LINE_CHARS_MAX / 2);
  const control = long ? el("textarea", { rows: "3", dir: "auto" }) : el("input", { type, dir: type === "text" ? "auto" : null, autocomplete: "off" });
  if (long) onEnter(control, () => control.form?.requestSubmit());
  control.value = format === "date-time" && text ? localTime(text) : text;
  return parsed(ctx, control, (entered) => {
    const chars = Array.from(entered).length;
    if (chars < minLength) return { problem: `At least ${count(minLength, "character")}.` };
    if (chars > maxLength) return { problem: `At most ${count(maxLength, "character")}, these are ${chars}.` };
    if (pattern && !matches(pattern, entered)) return { problem: `It has to be of the form ${pattern}.` };
    if (control.validity.typeMismatch) return { problem: format === "email" ? "An e-mail address, as name@example.org." : "An address, as https://example.org/." };
    if (format === "date-time") return { value: new Date(entered).toISOString() };
    if (format === "time") return { value: /^\d\d:\d\d$/.test(entered) ? `${entered}:00` : entered };
    return { value: entered };
  });
}

function localTime(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function matches(pattern, text) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true; // another dialect's: the agent checks it
  }
}

function numberField(ctx) {
  const { schema, value } = ctx;
  const whole = schema.type === "integer";
  const control = el("input", { type: "text", inputmode: whole ? "numeric" : "decimal", autocomplete: "off" });
  control.value = value === undefined || value === null ? "" : String(value);
  return parsed(ctx, control, (entered) => {
    const number = Number(entered.trim().replace(",", "."));
    const { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below, multipleOf } = schema;
    if (!Number.isFinite(number)) return { problem: "A number." };
    if (whole && !Number.isInteger(number)) return { problem: "A whole number." };
    if (number < minimum) return { problem: `At least ${minimum}.` };
    if (number > maximum) return { problem: `At most ${maximum}.` };
    if (number <= above) return { problem: `More than ${above}.` };
    if (number >= below) return { problem: `Less than ${below}.` };
    if (multipleOf && Math.abs(number / multipleOf - Math.round(number / multipleOf)) > 1e-9) return { problem: `A multiple of ${multipleOf}.` };
    return { value: number };
  });
}

/** A box where there is a default; else nothing is chosen for anybody. */
function booleanField(ctx) {
  if (typeof ctx.value !== "boolean") {
    return choiceField(ctx, [{ value: true, label: "Yes" }, { value: false, label: "No" }]);
  }
  const control = el("input", { type: "checkbox" });
  control.checked = ctx.value;
  const frame = new Frame(ctx, [control], { inline: true });
  return { node: frame.with(), empty: () => control.checked === ctx.value, read: () => control.checked };
}

function choiceField(ctx, choices) {
  const chosen = choices.findIndex(({ value }) => value === ctx.value);
  return ctx.required && choices.length <= RADIOS_MAX ? radioField(ctx, choices, chosen) : selectField(ctx, choices, chosen);
}

function selectField(ctx, choices, chosen) {
  const none = ctx.required ? "Choose…" : "No answer";
  const options = choices.map(({ label }, index) => el("option", { value: index }, label));
  const control = el("select", {}, el("option", { value: "" }, none), ...options);
  control.value = chosen === -1 ? "" : String(chosen);
  return parsed(ctx, control, (index) => ({ value: choices[index].value }));
}

function radioField(ctx, choices, chosen) {
  const name = freshId("choice");
  const radios = choices.map((_, index) => el("input", { type: "radio", name, value: index, checked: index === chosen }));
  const frame = new Frame(ctx, radios, { group: true });
  const labels = choices.map(({ label }, index) => el("label", { class: "option", dir: "auto" }, radios[index], label));
  return {
    node: frame.with(el("div", { class: "options" }, ...labels)),
    empty: () => !radios.some((radio) => radio.checked),
    read(problems) {
      const index = radios.findIndex((radio) => radio.checked);
      if (index === -1) {
        if (ctx.nullable) return null;
        problems.push(frame.say("Choose one."));
      }
      return choices[index]?.value;
    },
  };
}

/** Any number of choices: a list of what may be chosen. */
function choicesField(ctx, choices) {
  const before = Array.isArray(ctx.value) ? ctx.value : [];
  const boxes = choices.map(({ value }) => el("input", { type: "checkbox", checked: before.includes(value) }));
  const frame = new Frame(ctx, boxes, { group: true });
  const labels = choices.map(({ label }, index) => el("label", { class: "option", dir: "auto" }, boxes[index], label));
  const taken = () => choices.filter((_, index) => boxes[index].checked).map(({ value }) => value);
  return {
    node: frame.with(el("div", { class: "options" }, ...labels)),
    empty: () => taken().length === 0,
    read(problems) {
      const value = taken();
      if (value.length === 0 && !ctx.required) return undefined;
      const problem = lengthProblem(value.length, ctx.schema, "one");
      if (problem) problems.push(frame.say(problem));
      return value;
    },
  };
}

function lengthProblem(length, { minItems = 0, maxItems = Infinity }) {
  if (length < minItems) return minItems === 1 ? "Choose at least one." : `At least ${minItems}.`;
  return length > maxItems ? `At most ${maxItems}.` : "";
}

/** A list that grows by a button. */
function listField(ctx) {
  const items = [];
  const add = el("button", { type: "button", class: "small" }, "Add one");
  const frame = new Frame(ctx, [add], { group: true });
  const list = el("div", { class: "list" });
  const grow = (value) => {
    const name = `${titleOf(ctx)} ${items.length + 1}`;
    const item = fieldOf({ ...ctx, schema: ctx.schema.items, name, value, required: true, depth: ctx.depth + 1 });
    const away = el("button", { type: "button", class: "small", "aria-label": `Remove ${name}` }, "Remove");
    const row = el("div", { class: "row" }, item.node, away);
    away.addEventListener("click", () => {
      items.splice(items.indexOf(item), 1);
      row.remove();
      add.disabled = false;
      add.focus();
    });
    items.push(item);
    list.append(row);
    add.disabled = items.length >= Math.min(ctx.schema.maxItems ?? ITEMS_MAX, ITEMS_MAX);
    return item;
  };
  add.addEventListener("click", () => {
    frame.say("");
    grow().node.querySelector("input, select, textarea, button")?.focus();
  });
  for (const value of Array.isArray(ctx.value) ? ctx.value.slice(0, ITEMS_MAX) : []) grow(value);
  return {
    node: frame.with(list, add),
    empty: () => items.length === 0,
    read(problems) {
      if (items.length === 0 && !ctx.required) return undefined;
      const value = items.map((item) => item.read(problems));
      const problem = lengthProblem(items.length, ctx.schema);
      if (problem) problems.push(frame.say(problem));
      return value;
    },
  };
}

function objectField(ctx) {
  const { schema, value, root, depth } = ctx;
  const wanted = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties).map(([name, one]) => [
    name,
    fieldOf({ schema: one, root, name, value: value?.[name], required: wanted.has(name), depth: depth + 1 }),
  ]);
  const nodes = fields.map(([, field]) => field.node);
  const node = depth === 0 ? el("div", { class: "fields" }, ...nodes) : new Frame(ctx, [], { group: true }).with(...nodes);
  const empty = () => fields.every(([, field]) => field.empty());
  return {
    node,
    empty,
    read(problems) {
      if (!ctx.required && value === undefined && empty()) return undefined;
      const read = fields.map(([name, field]) => [name, field.read(problems)]);
      return Object.fromEntries(read.filter(([, one]) => one !== undefined));
    },
  };
}

/** Anything that is no field: as JSON, and where the schema allows a text, as that. */
function jsonField(ctx, type) {
  const control = el("textarea", { rows: "3", class: "json", spellcheck: "false" });
  control.value = ctx.value === undefined ? "" : typeof ctx.value === "string" ? ctx.value : JSON.stringify(ctx.value, null, 2);
  return parsed(ctx, control, (text) => {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      return type === undefined ? { value: text } : { problem: "This is no JSON." };
    }
    const is = Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
    if (type !== undefined && is !== type) return { problem: type === "array" ? "A JSON list, as [1, 2]." : 'A JSON object, as {"a": 1}.' };
    return { value };
  });
}

function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
