/**
 * What a run asks a person, and the answer: yes or no to a call, perhaps with other arguments or a reason; a form, where
 * the question comes with a JSON Schema; a text; the result of a call that is executed elsewhere. The run goes on when
 * all its questions are answered, so the answers go out together.
 */

import { el, freshId, onEnter, pretty } from "./dom.js";
import { askedIn, kindOf } from "./fold.js";
import { SchemaForm, schemaLike } from "./schema-form.js";

/** Characters of a call's arguments that are shown. */
const ARGUMENTS_CHARS_MAX = 20_000;
/** Fields of an approval's schema that the form has a place of its own for. */
const KNOWN = new Set(["approved", "editedArgs", "reason", "payload"]);

/** The forms of so many runs are kept as they were filled in while other conversations are looked at. */
const KEPT_MAX = 20;

const kept = new Map(); // run id and what it asks → its Questions, those shown last at the end

/** Makes the questions of a run that waits, or takes those that were shown before, where it still asks the same. */
export function questionsOf(runId, interrupts, given) {
  const key = JSON.stringify([runId, interrupts]);
  const questions = kept.get(key) ?? new Questions(interrupts, given);
  questions.onAnswer = given.onAnswer;
  kept.delete(key);
  kept.set(key, questions);
  if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value);
  return questions;
}

/** Forgets what was filled in, where the run does not wait for that any more. */
export function forgetQuestions(questions) {
  for (const [key, known] of kept) if (known === questions) kept.delete(key);
}

export class Questions {
  #forms;
  #entries = new Map(); // interrupt id → its entry

  /** `toolOf(id)` is the call of this id as `{ name, text }`, or undefined. `onAnswer(entries)` may throw: then all can be answered again. */
  constructor(interrupts, { toolOf, onAnswer }) {
    this.onAnswer = onAnswer;
    const several = interrupts.length > 1;
    this.#forms = interrupts.map((it, index) => {
      const place = several ? `Question ${index + 1} of ${interrupts.length}` : "";
      return new QuestionForm(it, { tool: toolOf(it.toolCallId), place, onEntry: (entry) => this.#take(entry) });
    });
    this.nodes = this.#forms.map((form) => form.node);
  }

  /** What a typed message can be here: `{ label, send(text) }`, or null where it is no answer. */
  get typed() {
    const open = this.#forms.filter((form) => !this.#entries.has(form.id));
    return open.length === 1 ? open[0].typed : null;
  }

  async #take(entry) {
    this.#entries.set(entry.interruptId, entry);
    const open = this.#forms.filter((form) => !this.#entries.has(form.id));
    if (open.length > 0) {
      open[0].focus();
      return;
    }
    try {
      await this.onAnswer([...this.#entries.values()]);
      forgetQuestions(this);
    } catch {
      this.#entries.clear();
      for (const form of this.#forms) form.reopen();
    }
  }
}

class QuestionForm {
  #interrupt;
  #onEntry;
  #pressed = null;
  #typed = null;

  static #MAKE = {
    approval: (form, tool) => form.#approval(tool),
    form: (form) => form.#form(),
    text: (form) => form.#text(),
    result: (form, tool) => form.#result(tool),
    credential: (form) => form.#credential(),
  };

  constructor(interrupt, { tool, place, onEntry }) {
    this.#interrupt = interrupt;
    this.#onEntry = onEntry;
    const askedId = freshId("asked");
    const asked = askedIn(interrupt);
    this.node = el("form", {
      class: "approval", tabindex: "-1", novalidate: true, "aria-labelledby": askedId, "data-testid": "approval",
      "data-kind": kindOf(interrupt), "data-interrupt-id": interrupt.id,
    });
    if (place) this.node.append(el("span", { class: "place" }, place));
    this.node.append(el("p", { id: askedId, dir: "auto" }, asked));
    if (interrupt.expiresAt && !Number.isNaN(Date.parse(interrupt.expiresAt))) {
      this.node.append(el("p", { class: "hint" }, `To be answered until ${new Date(interrupt.expiresAt).toLocaleString()}.`));
    }
    QuestionForm.#MAKE[kindOf(interrupt)](this, tool);
    this.node.addEventListener("submit", (event) => event.preventDefault());
  }

  get id() {
    return this.#interrupt.id;
  }

  get typed() {
    return this.#typed;
  }

  focus() {
    this.node.querySelector("input:not([disabled]), textarea, select, button.primary, button")?.focus();
  }

  /** Lets it be answered again. */
  reopen() {
    for (const control of this.node.elements) control.disabled = false;
    this.#pressed?.removeAttribute("aria-pressed");
    this.#pressed = null;
  }

  #answer(button, status, payload) {
    if (this.#pressed) return;
    this.#pressed = button;
    button.setAttribute("aria-pressed", "true");
    if (this.node.contains(document.activeElement)) this.node.focus(); // what is disabled loses it
    for (const control of this.node.elements) if (control.localName !== "fieldset") control.disabled = true;
    this.#onEntry({ interruptId: this.id, status, payload });
  }

  #button(name, testid, onClick, primary = false) {
    const type = primary ? "submit" : "button";
    const button = el("button", { type, class: primary ? "primary" : null, "data-testid": testid }, name);
    if (primary) this.node.addEventListener("submit", () => onClick(button));
    else button.addEventListener("click", () => onClick(button));
    return button;
  }

  #approval(tool) {
    const { responseSchema, metadata } = this.#interrupt;
    const properties = responseSchema?.properties ?? {};
    const call = tool ?? (metadata?.toolName ? { name: metadata.toolName, text: JSON.stringify(metadata.arguments ?? {}) } : null);
    const shown = call ? el("pre", { tabindex: "0", "aria-label": "Arguments", "data-testid": "approval-call" }, callText(call)) : null;
    if (shown) this.node.append(shown);
    const edited = properties.editedArgs ? this.#editor(metadata?.arguments ?? parsedObject(call?.text), shown) : () => ({});
    const details = this.#details(properties, metadata);
    const reason = properties.reason
      ? el("input", { type: "text", class: "why", dir: "auto", "aria-label": "Reason for a denial (optional)", placeholder: "Why not? (optional)", autocomplete: "off", "data-testid": "deny-reason" })
      : null;
    const approve = (button) => {
      const [args, more] = [edited(), details()];
      if (args && more) this.#answer(button, "resolved", { approved: true, ...args, ...more });
    };
    const deny = (button) => this.#deny(button, reason?.value.trim() ?? "");
    const denying = this.#button("Deny", "deny", deny);
    if (reason) onEnter(reason, () => deny(denying));
    this.node.append(el("div", { class: "buttons" }, this.#button("Approve", "approve", approve, true), denying, reason));
    if (reason) this.#typed = { label: "Deny, with this as the reason", send: (text) => this.#deny(denying, text) };
  }

  /** A reason is an answer; without one, the call is just not made. */
  #deny(button, reason) {
    if (reason) this.#answer(button, "resolved", { approved: false, reason });
    else this.#answer(button, "cancelled", { approved: false });
  }

  /** Offers other arguments. Returns what reads them: `{}` unchanged, null where something is wrong. */
  #editor(args, shown) {
    if (args === null || typeof args !== "object" || Object.keys(args).length === 0) return () => ({});
    const before = JSON.stringify(args);
    let form = null;
    const toggle = el("button", { type: "button", class: "small", "data-testid": "edit-arguments" }, "Edit the arguments");
    toggle.addEventListener("click", () => {
      if (form) form.node.remove();
      form = form ? null : new SchemaForm(schemaLike(args), { value: args });
      toggle.textContent = form ? "Leave them as they are" : "Edit the arguments";
      if (shown) shown.hidden = form !== null;
      if (!form) return;
      toggle.before(form.node);
      form.node.querySelector("input, textarea, select")?.focus();
    });
    this.node.append(toggle);
    return () => {
      if (!form) return {};
      const read = form.read();
      return read && (JSON.stringify(read.value) === before ? {} : { editedArgs: read.value });
    };
  }

  /** What else an approval may say: ADK's payload as it was proposed, and fields of the schema's own. */
  #details(properties, metadata) {
    const proposed = metadata?.adk?.args?.toolConfirmation?.payload;
    const own = Object.entries(properties).filter(([name]) => !KNOWN.has(name));
    const forms = [];
    if (properties.payload && proposed !== undefined && proposed !== null) {
      const form = new SchemaForm(schemaLike(proposed), { value: proposed, name: "Details" });
      forms.push([form, (payload) => ({ payload })]);
    }
    if (own.length > 0) {
      const { responseSchema } = this.#interrupt;
      const form = new SchemaForm({ ...responseSchema, properties: Object.fromEntries(own) });
      forms.push([form, (fields) => fields]);
    }
    this.node.append(...forms.map(([form]) => form.node));
    return () => {
      const read = forms.map(([form, as]) => [form.read(), as]);
      if (read.some(([one]) => one === null)) return null;
      return Object.assign({}, ...read.map(([{ value }, as]) => as(value)));
    };
  }

  #form() {
    const schema = this.#interrupt.responseSchema;
    const form = new SchemaForm(schema);
    const send = (button) => {
      const read = form.read();
      if (read) this.#answer(button, "resolved", read.value);
    };
    const sending = this.#button("Send", "answer", send, true);
    this.node.append(form.node, el("div", { class: "buttons" }, sending, this.#declining()));
    const [only, ...others] = Object.entries(schema.properties ?? {});
    const text = (one) => one?.type === "string" && !one.enum && !one.format;
    const as = text(schema) ? (typed) => typed : only && others.length === 0 && text(only[1]) ? (typed) => ({ [only[0]]: typed }) : null;
    if (!as) return;
    this.#typed = {
      label: "Answer with this",
      send: (typed) => {
        form.node.querySelector("input, textarea").value = typed;
        const read = form.read();
        if (read) this.#answer(sending, "resolved", as(typed));
        return read !== null;
      },
    };
  }

  #text() {
    const field = el("textarea", { rows: "2", dir: "auto", "aria-label": "Your answer", "data-testid": "answer-text" });
    const send = (button) => {
      const text = field.value.trim();
      if (text) this.#answer(button, "resolved", text);
      else field.focus();
    };
    const sending = this.#button("Send", "answer", send, true);
    onEnter(field, () => this.node.requestSubmit());
    this.node.append(field, el("div", { class: "buttons" }, sending, this.#declining()));
    this.#typed = { label: "Answer with this", send: (text) => this.#answer(sending, "resolved", text) };
  }

  /** A call that is executed elsewhere, as a long-running tool: its result as text or JSON, or that it failed. */
  #result(tool) {
    const { metadata } = this.#interrupt;
    const call = tool ?? { name: metadata?.toolName ?? "", text: JSON.stringify(metadata?.arguments ?? {}) };
    const field = el("textarea", { rows: "2", dir: "auto", "aria-label": "The result, as text or JSON", placeholder: "The result, as text or JSON", "data-testid": "answer-text" });
    const send = (button) => {
      const text = field.value.trim();
      if (text) this.#answer(button, "resolved", parsedObject(text) ?? text);
      else field.focus();
    };
    const failed = (button) => this.#answer(button, "cancelled", { error: field.value.trim() || "It failed." });
    onEnter(field, () => this.node.requestSubmit());
    const first = metadata?.adk?.response;
    this.node.append(
      el("pre", { tabindex: "0", "aria-label": "Arguments", "data-testid": "approval-call" }, callText(call)),
      ...(first ? [el("p", { class: "hint" }, `So far: ${typeof first === "string" ? first : JSON.stringify(first)}`)] : []),
      field,
      el("div", { class: "buttons" }, this.#button("Send the result", "answer", send, true), this.#button("It failed", "decline", failed)),
    );
  }

  /** A log-in takes place elsewhere: this page can only go on without. */
  #credential() {
    const without = this.#button("Go on without", "decline", (button) => this.#answer(button, "cancelled", { error: "The user did not sign in." }));
    this.node.append(el("p", { class: "hint" }, "This page cannot sign in for you."), el("div", { class: "buttons" }, without));
  }

  #declining() {
    return this.#button("Decline", "decline", (button) => this.#answer(button, "cancelled", null));
  }
}

/** What the text says as JSON, if it is a list or an object; null for any other. */
function parsedObject(text) {
  try {
    const value = JSON.parse(text ?? "");
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function callText({ name, text }) {
  const args = pretty(text);
  if (args === "") return name;
  return args.length <= ARGUMENTS_CHARS_MAX ? `${name} ${args}` : `${name} ${args.slice(0, ARGUMENTS_CHARS_MAX)}\n… ${args.length - ARGUMENTS_CHARS_MAX} characters more`;
}
