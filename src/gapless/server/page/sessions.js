/** The list of conversations: all of them by scrolling, searched by title, each with what its run does. */

import { $, el } from "./dom.js";

const STATUS_TEXTS = { running: "Answering", queued: "Answering", waiting: "Asks you" };

export class SessionList {
  #records = new Map(); // session id → record
  #entries = new Map(); // session id → entry
  #next; // the cursor behind the last page that was read; undefined at the end
  #reading = null;
  #given;
  #observer;
  #sentinel = el("li", { class: "sentinel", "aria-hidden": "true" });

  /**
   * `read(options)` gives a page of records as `GaplessClient.sessions` does, `remove(id)` deletes one and throws where it
   * cannot be, `current()` is the id of the one that is shown, `onRemoved(id)` is told of one that is gone.
   */
  constructor(given) {
    this.#given = given;
    $("search").addEventListener("input", () => this.#show());
    $("search").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || $("search").value === "") return;
      event.stopPropagation();
      $("search").value = "";
      this.#show();
    });
    this.#observer = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && this.#more(), { root: $("sessions"), rootMargin: "300px" });
  }

  /** Reads the newest page again. What is older stays as it was read. Does nothing where the server is away. */
  async refresh() {
    let page;
    try {
      page = await this.#given.read({});
    } catch {
      return; // the list is as it was; the connection line tells the rest
    }
    const oldest = page.next === undefined ? -Infinity : page.at(-1).updated_at;
    const there = new Set(page.map(({ id }) => id));
    for (const [id, { updated_at: used }] of this.#records) if (used > oldest && !there.has(id)) this.#records.delete(id);
    if (!page.some(({ id }) => this.#records.has(id))) {
      this.#records.clear(); // what was read is no longer next to this page
      this.#next = page.next;
    }
    for (const record of page) this.#records.set(record.id, record);
    this.#show();
  }

  async #more() {
    if (this.#next === undefined || this.#reading) return;
    const after = this.#next;
    this.#reading = this.#given.read({ after }).finally(() => (this.#reading = null));
    try {
      const page = await this.#reading;
      this.#next = page.next;
      for (const record of page) if (!this.#records.has(record.id)) this.#records.set(record.id, record);
      this.#show();
    } catch {
      return; // scrolling on tries again
    }
  }

  get(sessionId) {
    return this.#records.get(sessionId);
  }

  markCurrent() {
    for (const [id, { link }] of this.#entries) {
      if (id === this.#given.current()) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #show() {
    const wanted = $("search").value.trim().toLowerCase();
    const records = [...this.#records.values()].sort((a, b) => b.updated_at - a.updated_at);
    const shown = records.filter(({ title }) => wanted === "" || titleOf(title).toLowerCase().includes(wanted));
    const holder = $("sessions");
    const ids = new Set(shown.map(({ id }) => id));
    for (const [id, { node }] of this.#entries) {
      if (ids.has(id)) continue;
      node.remove();
      this.#entries.delete(id);
    }
    shown.forEach((record, place) => {
      const entry = this.#entries.get(record.id) ?? new Entry(record.id, (one) => this.#remove(one));
      this.#entries.set(record.id, entry);
      entry.update(record);
      // What is in its place is left alone, with the focus that it may have.
      if (holder.children[place] !== entry.node) holder.insertBefore(entry.node, holder.children[place] ?? null);
    });
    this.#observer.unobserve(this.#sentinel);
    if (this.#next === undefined) {
      this.#sentinel.remove();
    } else {
      holder.append(this.#sentinel);
      this.#observer.observe(this.#sentinel); // says anew whether it is in sight, and asks for the next page if so
    }
    const none = wanted !== "" && shown.length === 0 && this.#next === undefined;
    $("search-status").textContent = none ? "No conversation has that in its title" : "";
    $("search").hidden = records.length < 2 && wanted === "";
    this.markCurrent();
  }

  async #remove(entry) {
    const after = entry.node.nextElementSibling?.querySelector("a") ?? entry.node.previousElementSibling?.querySelector("a");
    if (!(await this.#given.remove(entry.id))) return;
    this.forget(entry.id);
    (after ?? $("new")).focus();
  }

  /** Takes one out that is gone. */
  forget(sessionId) {
    this.#records.delete(sessionId);
    this.#show();
    this.#given.onRemoved(sessionId);
  }
}

class Entry {
  #name = el("span", { class: "name" });
  #time = el("time");
  #button;
  #title = "";

  constructor(id, onRemove) {
    this.id = id;
    this.link = el("a", { href: `#${encodeURIComponent(id)}`, "data-testid": "session" }, this.#name, this.#time);
    this.#button = el("button", { type: "button", class: "icon delete", "data-testid": "delete-session" });
    this.#button.addEventListener("click", () => {
      // The first click asks, the second one deletes.
      if (this.#button.classList.contains("sure")) onRemove(this);
      else this.#ask(true);
    });
    this.#button.addEventListener("blur", () => this.#ask(false));
    this.node = el("li", { "data-session-id": id }, this.link, this.#button);
    this.#ask(false);
  }

  #ask(sure) {
    this.#button.classList.toggle("sure", sure);
    this.#button.textContent = sure ? "Delete?" : "×";
    this.#button.setAttribute("aria-label", sure ? `Really delete ${this.#title}?` : `Delete ${this.#title}`);
  }

  update({ title, updated_at: used, active_run_id: run, active_run_status: status = "running" }) {
    const doing = run === undefined ? "" : status;
    if (doing) this.node.dataset.doing = doing;
    else delete this.node.dataset.doing;
    this.#title = titleOf(title);
    setText(this.#name, this.#title);
    this.#time.dateTime = new Date(used).toISOString();
    setText(this.#time, STATUS_TEXTS[doing] ?? when(used));
    if (!this.#button.classList.contains("sure")) this.#ask(false);
  }
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function titleOf(title) {
  return title || "Untitled";
}

function when(ms) {
  const date = new Date(ms);
  const today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
}
