/**
 * Shows one run: the user's message, and the items of its view (see fold.js) as they grow. It knows the DOM but no
 * network; `TurnView.update` is called once per frame with what changed.
 */

import { editor, TurnActions } from "./actions.js";
import { copyFrom } from "./clipboard.js";
import { el, pretty } from "./dom.js";
import { isEmpty, isSettled, textOf } from "./fold.js";
import { setFormula } from "./formulas.js";
import { MarkdownStream } from "./markdown.js";
import { messageNode, textIn, withText } from "./message.js";
import { forgetQuestions, questionsOf } from "./questions.js";

/** How long a frame may read Markdown: what is left of it is for layout. A long text goes on in the next one. */
const SLICE_MS = 8;
/** More lines, or characters, of a tool's arguments or result are folded, */
const FOLD_LINES = 15;
const FOLD_CHARS = 1500;
/** and more are only copied: the browser would lay them out for seconds. */
const SHOWN_CHARS_MAX = 200_000;

const STATUS_TEXTS = {
  queued: "Waiting to start",
  running: "Answering",
  waiting: "Waiting for your answer",
  finished: "",
  failed: "Failed",
  cancelled: "Stopped",
};

export const EMPTY_TEXT = "The answer is empty";

export class TurnView {
  #items = new Map(); // key → the object that shows the item
  #body;
  #foot;
  #actions;
  #message;
  #asked = null;
  #onAsk;
  #status = null;
  #interrupts = null;
  /** What the run asks while it waits, or null. */
  questions = null;

  /**
   * `onAnswer(entries)`, the answers as AG-UI has them, is called when the user has answered all that is asked, and
   * `onAnswered()` once the form that had the focus is gone. `onAsk(message)` asks this message in the place of the turn's,
   * `onVersion(step)` shows the version before or behind. `fetchFile(item)` gives a `Blob` of a file's bytes. `askedAt` is
   * when it was asked, in milliseconds, undefined where nobody knows.
   */
  constructor({ runId, message, agent, askedAt, onAnswer, onAnswered, onAsk, onVersion, fetchFile }) {
    this.onAnswer = onAnswer;
    this.onAnswered = onAnswered;
    this.fetchFile = fetchFile;
    this.#body = el("div", { class: "answer", "data-testid": "answer" });
    this.#foot = el("footer", { class: "foot", "data-testid": "run-status" });
    this.node = el("article", { class: "turn", "data-testid": "turn", "data-run-id": runId });
    this.#message = message;
    this.#onAsk = onAsk;
    this.#actions = new TurnActions({ askedAt, onAgain: () => onAsk(message), onEdit: () => this.#edit(), onVersion });
    if (message?.length) {
      this.#asked = messageNode(message);
      this.node.append(this.#asked);
    }
    if (agent) this.node.append(el("p", { class: "by", "data-testid": "by" }, agent)); // shown where there are several
    this.node.append(this.#body, this.#foot, this.#actions.node);
  }

  showVersions(at, of) {
    this.#actions.showVersions(at, of);
  }

  /** Lets the message be changed; what is sent is asked in the place of this turn. */
  #edit() {
    if (!this.#asked) return;
    const leave = () => {
      form.node.replaceWith(this.#asked);
      this.#actions.node.querySelector("[data-testid=edit-message]").focus();
    };
    const form = editor(textIn(this.#message), {
      onSend: (text) => {
        form.node.replaceWith(this.#asked);
        this.#onAsk(withText(this.#message, text));
      },
      onLeave: leave,
    });
    this.#asked.replaceWith(form.node);
    form.begin();
  }

  /**
   * Brings the DOM up to date with a view. `changed` are the items that changed since the last call. Returns those of which
   * there is more to show than one frame can take.
   */
  update(view, changed) {
    for (const key of view.takenBack) this.#takeBack(key, view.byKey.get(key));
    view.takenBack.clear();
    for (const item of changed) {
      if (view.byKey.get(item.key) !== item) continue; // it was taken back
      let shown = this.#items.get(item.key);
      if (!shown) {
        shown = new SHOW[item.kind](item, this);
        this.#items.set(item.key, shown);
        (this.#items.get(item.parent)?.inside ?? this.#body).append(shown.node);
      }
      shown.update(item);
    }
    // A run that asks again at once may be seen waiting both times, and not in between.
    if (view.status !== this.#status || view.interrupts !== this.#interrupts) {
      this.#status = view.status;
      this.#interrupts = view.interrupts;
      this.node.dataset.status = view.status;
      this.#showFoot(view);
      this.#actions.update(view);
      // The end of a run closes items without a word about each, and an answer changes what it is about.
      for (const item of view.items) this.#items.get(item.key)?.update(item);
    }
    const waiting = view.status === "queued" || (view.status === "running" && !view.items.some((item) => item.open));
    this.node.classList.toggle("thinking", waiting);
    return view.items.filter((item) => this.#items.get(item.key)?.behind);
  }

  /** Removes what shows an item, or shows in its place the one that took it. */
  #takeBack(key, item) {
    const shown = this.#items.get(key);
    if (!shown) return;
    this.#items.delete(key);
    if (!item) {
      shown.node.remove();
      return;
    }
    const instead = new SHOW[item.kind](item);
    this.#items.set(key, instead);
    shown.node.replaceWith(instead.node);
    instead.update(item);
  }

  #showFoot(view) {
    const parts = [];
    const text = STATUS_TEXTS[view.status];
    if (isSettled(view.status) && text) parts.push(el("span", { class: `badge ${view.status}` }, text));
    if (view.error) {
      parts.push(
        el("p", { class: "error", dir: "auto", "data-testid": "run-error", "data-code": view.error.code },
          el("code", {}, view.error.code), " ", view.error.message ?? ""),
      );
    }
    if (isEmpty(view)) {
      parts.push(el("span", { class: "badge", "data-testid": "empty" }, EMPTY_TEXT));
    }
    forgetQuestions(this.questions);
    this.questions = view.status === "waiting" ? this.#ask(view) : null;
    if (this.questions) parts.push(...this.questions.nodes);
    const focused = this.#foot.contains(document.activeElement);
    this.#foot.replaceChildren(...parts);
    if (focused) this.onAnswered();
  }

  #ask({ interrupts, byKey }) {
    const toolOf = (id) => {
      const item = byKey.get(`tool:${id}`);
      return item && { name: item.name, text: textOf(item) };
    };
    return questionsOf(this.node.dataset.runId, interrupts, { toolOf, onAnswer: (entries) => this.onAnswer(entries) });
  }
}

/** Collects an item's new chunks since the last look. */
class Chunks {
  #taken = 0;

  take(item) {
    const text = item.chunks.slice(this.#taken).join("");
    this.#taken = item.chunks.length;
    return text;
  }
}

class ShowText {
  #chunks = new Chunks();
  #markdown;
  #done = false;

  constructor() {
    this.node = el("div", { class: "text md", "data-testid": "text" });
    this.#markdown = new MarkdownStream(this.node, { onFormula: setFormula, sliceMs: SLICE_MS });
  }

  get behind() {
    return this.#markdown.behind;
  }

  update(item) {
    const text = this.#chunks.take(item);
    if (text !== "" && !this.#done) this.#markdown.append(text);
    else if (this.behind) this.#markdown.goOn();
    if (!item.open && !this.#done) {
      this.#done = true;
      this.#markdown.end();
    }
    this.node.classList.toggle("open", item.open && !item.user);
    this.node.classList.toggle("user", item.user === true);
    this.node.toggleAttribute("data-interrupted", item.interrupted);
  }
}

class ShowReasoning {
  #chunks = new Chunks();
  #text = document.createTextNode("");
  #label = el("span", {}, "Thinking");

  constructor() {
    this.node = el("details", { class: "card reasoning", "data-testid": "reasoning" },
      el("summary", {}, this.#label), el("div", { class: "plain" }, this.#text));
  }

  update(item) {
    this.#text.appendData(this.#chunks.take(item));
    this.node.classList.toggle("open", item.open);
    this.#label.textContent = item.open ? "Thinking" : item.interrupted ? "Thought (interrupted)" : "Thought";
  }
}

/** A text of any length: its beginning, and a button for all of it. */
class Folded {
  #text = "";
  #whole = false;
  #more = el("button", { type: "button", class: "more", "data-testid": "show-all", hidden: true });
  #copy = el("button", { type: "button", class: "more", "data-testid": "copy-all", hidden: true }, "Copy all");

  constructor(testid) {
    this.pre = el("pre", { tabindex: "0", "data-testid": testid });
    this.nodes = [this.pre, this.#more, this.#copy];
    this.#more.addEventListener("click", () => {
      this.#whole = !this.#whole;
      this.#draw();
    });
    this.#copy.addEventListener("click", () => copyFrom(this.#copy, this.#text));
  }

  show(text) {
    this.#text = text;
    this.#draw();
  }

  #draw() {
    const shown = this.#whole ? this.#text.slice(0, SHOWN_CHARS_MAX) : beginningOf(this.#text);
    const left = this.#text.length - shown.length;
    const long = left > 0 || this.#whole;
    this.pre.textContent = left > 0 ? `${shown}\n…` : shown;
    this.#more.hidden = this.#copy.hidden = !long;
    if (long) this.#more.textContent = this.#whole ? "Show less" : `Show all, ${this.#text.length.toLocaleString("en")} characters`;
    this.#more.setAttribute("aria-expanded", String(this.#whole));
  }
}

function beginningOf(text) {
  let end = Math.min(text.length, FOLD_CHARS);
  for (let line = 0, at = -1; line < FOLD_LINES; line += 1) {
    at = text.indexOf("\n", at + 1);
    if (at === -1 || at > end) return text.slice(0, end);
    if (line === FOLD_LINES - 1) end = at;
  }
  return text.slice(0, end);
}

class ShowTool {
  #chunks = new Chunks();
  #args = "";
  #shownArgs = new Folded("tool-arguments");
  #state = el("span", { class: "state" });
  #preview = el("span", { class: "preview" });
  #result = null;

  constructor(item) {
    this.node = el("details", { class: "card tool", "data-testid": "tool", "data-tool": item.name },
      el("summary", {}, el("code", {}, item.name), this.#preview, this.#state),
      el("p", { class: "label" }, "Arguments"), ...this.#shownArgs.nodes);
  }

  update(item) {
    const delta = this.#chunks.take(item);
    if (delta !== "") {
      this.#args += delta;
      this.#shownArgs.show(item.open ? this.#args : pretty(this.#args));
      this.#preview.textContent = this.#args.slice(0, 200);
    }
    if (item.result !== null && this.#result === null) {
      this.#result = new Folded("tool-result");
      this.#result.show(pretty(item.result));
      this.#shownArgs.show(pretty(this.#args));
      this.node.append(el("p", { class: "label" }, "Result"), ...this.#result.nodes);
    }
    const state = stateOf(item);
    this.node.dataset.state = state;
    this.node.classList.toggle("open", item.open);
    this.#state.textContent = state;
  }
}

function stateOf({ open, interrupted, waits, denied, result, failed }) {
  if (open) return "running";
  if (waits) return "waiting";
  if (denied) return "denied";
  if (interrupted) return "interrupted";
  return result === null ? "called" : failed ? "failed" : "done";
}

class ShowStep {
  constructor(item) {
    this.node = el("p", { class: "step", dir: "auto", "data-testid": "step" }, el("span", { class: "tick", "aria-hidden": "true" }), item.name);
  }

  update(item) {
    this.node.classList.toggle("open", item.open);
    this.node.dataset.state = item.open ? "running" : item.interrupted ? "interrupted" : "done";
  }
}

class ShowSubagent {
  #error = null;

  constructor(item) {
    this.inside = el("div", { class: "inside" });
    this.node = el("section", { class: "subagent", "data-testid": "subagent", "aria-label": `Subagent ${item.name}` },
      el("p", { class: "who", dir: "auto" }, el("span", { class: "tick", "aria-hidden": "true" }), el("strong", {}, item.name),
        item.description ? ` ${item.description}` : ""),
      this.inside);
  }

  update(item) {
    this.node.classList.toggle("open", item.open);
    this.node.dataset.state = item.open ? "running" : item.error ? "failed" : item.interrupted ? "interrupted" : "done";
    if (item.error && !this.#error) {
      this.#error = el("p", { class: "error" }, el("code", {}, item.error.code), " ", item.error.message);
      this.node.append(this.#error);
    }
  }
}

class ShowNotice {
  constructor(item) {
    this.node = el("p", { class: "notice", dir: "auto", "data-testid": "notice", "data-code": item.code }, item.message || item.code);
  }

  update() {}
}

/** Images are shown; any file can be saved. What the server keeps is fetched with the page's key, which an `<img>` lacks. */
class ShowFile {
  constructor(item, turn) {
    const name = item.name || item.mimeType;
    const link = el("a", { href: "#", "data-testid": "file-save" }, `Save ${name}`);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.#fetched ??= this.#fetch(item, turn);
      this.#fetched.then((url) => url && el("a", { href: url, download: fileName(item) }).click());
    });
    this.node = el("figure", { class: "file", "data-testid": "file" }, el("figcaption", {}, link, this.#problem));
    if (IMAGE.test(item.mimeType)) {
      this.#fetched = this.#fetch(item, turn);
      this.#fetched.then((url) => url && this.node.prepend(el("img", { src: url, alt: name })));
    }
  }

  #fetched = null;
  #problem = el("span", { class: "error", hidden: true });

  /** Says what is wrong, or "" for nothing. */
  #say(text) {
    this.#problem.textContent = text;
    this.#problem.hidden = text === "";
  }

  async #fetch(item, turn) {
    try {
      this.#say("");
      return URL.createObjectURL(await turn.fetchFile(item));
    } catch (error) {
      this.#say(` cannot be fetched: ${error.message}`);
      this.#fetched = null;
      return null;
    }
  }

  update() {}
}

const IMAGE = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;

function fileName({ name, mimeType }) {
  return name.replace(/^user:/, "").split("/").at(-1) || `file.${mimeType.split("/")[1]?.replace(/[^\w].*/, "") || "bin"}`;
}

const SHOW = {
  text: ShowText,
  reasoning: ShowReasoning,
  tool: ShowTool,
  step: ShowStep,
  subagent: ShowSubagent,
  notice: ShowNotice,
  file: ShowFile,
};
