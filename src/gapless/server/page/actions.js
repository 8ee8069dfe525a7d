/** What can be done with a turn: copy its answer, ask again, ask something else in its place, look at other versions. */

import { copyFrom } from "./clipboard.js";
import { el, onEnter, onEscape, when } from "./dom.js";
import { isSettled, textOf } from "./fold.js";

export class TurnActions {
  #view = null;
  #copy;
  #again;
  #versions = el("span", { class: "versions", role: "group", "aria-label": "Versions", "data-testid": "versions", hidden: true });

  /** `onAgain()` asks the message again, `onEdit()` lets it be changed, `onVersion(step)` goes to the version before or behind. */
  constructor({ askedAt, onAgain, onEdit, onVersion }) {
    const button = (name, testid, onClick, quiet = "needs-idle") => {
      const node = el("button", { type: "button", class: `act ${quiet}`, "data-testid": testid }, name);
      node.addEventListener("click", () => onClick(node));
      return node;
    };
    this.#copy = button("Copy", "copy-answer", (node) => copyFrom(node, answerText(this.#view)), "");
    this.#again = button("Ask again", "ask-again", onAgain);
    const step = (sign, name, by) => {
      const node = button(sign, name.toLowerCase().replaceAll(" ", "-"), () => onVersion(by), "");
      node.setAttribute("aria-label", name);
      return node;
    };
    this.#versions.append(step("‹", "Older version", -1), el("span", {}), step("›", "Newer version", 1));
    this.node = el("div", { class: "actions", role: "group", "aria-label": "What to do with this answer", hidden: true },
      this.#copy, this.#again, button("Edit", "edit-message", onEdit), this.#versions, askedAt === undefined ? null : timeOf(askedAt));
  }

  update(view) {
    this.#view = view;
    const ended = isSettled(view.status) && view.status !== "waiting";
    this.node.hidden = !ended;
    this.#copy.hidden = answerText(view) === "";
    this.#again.textContent = view.status === "finished" ? "Ask again" : "Try again";
    this.#again.classList.toggle("wanted", view.status === "failed");
  }

  /** Shows that this is version `at` (from 0) of `of`. */
  showVersions(at, of) {
    const [older, place, newer] = this.#versions.children;
    this.#versions.hidden = of < 2;
    place.textContent = `${at + 1} of ${of}`;
    older.disabled = at === 0;
    newer.disabled = at === of - 1;
  }
}

function timeOf(ms) {
  const date = new Date(ms);
  return el("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-testid": "asked-at" }, when(ms));
}

/** The answer as the Markdown that it was said in. */
export function answerText({ items }) {
  return items.filter((item) => item.kind === "text" && !item.user).map(textOf).filter((text) => text !== "").join("\n\n");
}

/** A field in the place of a message. `onSend(text)` and `onLeave()` end it. */
export function editor(text, { onSend, onLeave }) {
  const field = el("textarea", { rows: "1", dir: "auto", "aria-label": "Change the message", "data-testid": "edit-field" });
  field.value = text;
  const leave = el("button", { type: "button", "data-testid": "edit-leave" }, "Leave it");
  const form = el("form", { class: "editing" }, field,
    el("div", { class: "buttons" }, leave, el("button", { type: "submit", class: "primary", "data-testid": "edit-send" }, "Ask")));
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
  };
  field.addEventListener("input", fit);
  onEnter(field, () => form.requestSubmit());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) onSend(field.value.trim());
    else field.focus();
  });
  onEscape(form, (event) => {
    event.stopPropagation();
    onLeave();
  });
  leave.addEventListener("click", onLeave);
  return {
    node: form,
    begin() {
      fit();
      field.focus();
      field.setSelectionRange(field.value.length, field.value.length);
    },
  };
}
