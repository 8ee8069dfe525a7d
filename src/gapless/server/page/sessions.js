/**
 * The list of conversations: all of them by scrolling, searched, renamed, each with what its run does. There are rows only
 * for those that are in sight, or near it: thousands of rows would cost a phone a second at each click.
 */

import { $, el, onEnter, onEscape, when } from "./dom.js";

/** So long nothing more is typed before it is searched for. */
const TYPED_MS = 250;

/** Rows beyond the edges of what is in sight, so that Tab and a finger find the next one there. */
const BEYOND = 12;
/** The heights of a row, and of one with the text that was found, as style.css has them. */
const ROW_REM = matchMedia("(pointer: coarse)").matches ? 2.75 : 2.2;
const FOUND_ROW_REM = 4.5;
/** So near to its end the list asks for more. */
const MORE_PX = 300;

const STATUS_TEXTS = { running: "Answering", queued: "Answering", waiting: "Asks you" };

export class SessionList {
  #records = new Map(); // session id → record
  #entries = new Map(); // session id → entry
  #next; // the cursor behind the last page that was read; undefined at the end
  #wanted = { q: undefined, agent: undefined }; // what they are to be found by
  #list = 1; // which list that is: another search is another list
  #read = 0; // the one that is shown
  #reading = null; // the one that a further page is read of
  #typing = null;
  #asked = 0; // how often the newest page was asked for
  #shown = 0; // which of these answers is shown; one to an earlier question knows less
  #told = new Map(); // session id → what the feed said of it, and how often the newest page had been asked for by then
  #renaming = null; // the entry whose title is being typed: nothing is moved until that is done
  #given;
  #rows = []; // the records, in their order
  #tops = [0]; // where each row begins, and the last one ends, in CSS pixels
  #drawing = false;

  /**
   * `read(options)` gives a page of records as `GaplessClient.sessions` does, `{ after, q, agent }`, `remove(id)` deletes one and is false where
   * it cannot be, `rename(id, title)` gives the record with another title, or nothing where it cannot be, `current()` is the
   * id of the one that is shown, `onRemoved(id)` is told of one that is gone.
   */
  constructor(given) {
    this.#given = given;
    $("search").addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#want({ q: $("search").value.trim() || undefined }), TYPED_MS);
    });
    onEscape($("search"), (event) => {
      if ($("search").value === "") return;
      event.stopPropagation();
      $("search").value = "";
      clearTimeout(this.#typing);
      this.#want({ q: undefined });
    });
    const soon = () => {
      if (this.#drawing) return;
      this.#drawing = true;
      requestAnimationFrame(() => ((this.#drawing = false), this.#draw()));
    };
    $("sessions").addEventListener("scroll", soon, { passive: true });
    $("sessions").addEventListener("focusin", soon);
    new ResizeObserver(soon).observe($("sessions"));
  }

  /** Lists only the conversations with this agent; undefined for those with any. */
  ofAgent(agent) {
    this.#want({ agent });
  }

  #want(change) {
    const wanted = { ...this.#wanted, ...change };
    if (wanted.q === this.#wanted.q && wanted.agent === this.#wanted.agent) return;
    this.#wanted = wanted;
    this.#list += 1;
    this.#told.clear(); // what is told from here on is of this list
    $("search-status").textContent = wanted.q === undefined ? "" : "Searching…";
    this.refresh();
  }

  /** Reads the newest page again. What is older stays as it was read. Does nothing where the server is away. */
  async refresh() {
    const list = this.#list;
    if (this.#wanted.q !== undefined && this.#read === list) return; // what was found stays
    const asked = (this.#asked += 1);
    let page;
    try {
      page = await this.#given.read(this.#wanted);
    } catch {
      return; // the list is as it was; the connection line tells the rest
    }
    if (asked < this.#shown || list !== this.#list) return;
    this.#shown = asked;
    for (const [id, told] of this.#told) if (told.asked < asked) this.#told.delete(id); // the page knows of that
    const oldest = page.next === undefined ? -Infinity : (page.at(-1)?.updated_at ?? Infinity);
    const there = new Set(page.map(({ id }) => id));
    for (const [id, { updated_at: used }] of this.#records) {
      if (used > oldest && !there.has(id) && !this.#told.has(id)) this.#records.delete(id);
    }
    if (this.#read !== list || !page.some(({ id }) => this.#records.has(id))) {
      for (const id of [...this.#records.keys()]) {
        if (!this.#told.has(id)) this.#records.delete(id); // what was read is no longer next to this page
      }
      this.#next = page.next;
      this.#read = list;
    }
    for (const record of page) if (!this.#told.has(record.id)) this.#records.set(record.id, record);
    this.#show();
  }

  /** Takes what has become of one, as the feed says it; answers that are on their way do not know of it. */
  take(change) {
    if (change.type === "reset") {
      this.refresh();
      return;
    }
    const id = change.type === "deleted" ? change.session_id : change.session.id;
    this.#told.set(id, { asked: this.#asked });
    if (change.type === "deleted") this.#records.delete(id);
    else if (this.#belongs(change.session)) this.#records.set(id, { ...change.session, found: this.#records.get(id)?.found });
    else this.#told.delete(id);
    if (this.#read === this.#list) this.#show();
  }

  /** Whether it is among those that are listed, as far as they were read. */
  #belongs({ id, agent, updated_at: used }) {
    if (this.#records.has(id)) return true;
    if (this.#wanted.q !== undefined || (this.#wanted.agent !== undefined && this.#wanted.agent !== agent)) return false;
    return this.#next === undefined || [...this.#records.values()].some((known) => known.updated_at < used);
  }

  async #more() {
    const [after, shown, list] = [this.#next, this.#shown, this.#list];
    if (after === undefined || this.#reading === list || this.#read !== list) return;
    this.#reading = list;
    try {
      const page = await this.#given.read({ ...this.#wanted, after });
      if (list !== this.#list) return;
      if (shown === this.#shown) { // else it may not be the next one any more: looked at again, it is asked for anew
        this.#next = page.next;
        for (const record of page) if (!this.#records.has(record.id)) this.#records.set(record.id, record);
      }
    } catch {
      return; // scrolling on tries again
    } finally {
      if (this.#reading === list) this.#reading = null;
    }
    this.#show();
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
    if (this.#renaming) return;
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    const shown = (this.#rows = [...this.#records.values()].sort((a, b) => b.updated_at - a.updated_at));
    this.#tops = [0];
    for (const { found } of shown) this.#tops.push(this.#tops.at(-1) + (found ? FOUND_ROW_REM : ROW_REM) * rem);
    this.#draw();
    const { q, agent } = this.#wanted;
    const done = this.#next === undefined;
    $("search-status").textContent = q === undefined ? "" : !done ? "Searching…" : shown.length === 0 ? "Nothing has that in it" : "";
    if (q === undefined && agent === undefined) $("search").hidden = shown.length < 2;
  }

  /** Makes the rows that are in sight, with that of the focus, and space in the place of the others. */
  #draw() {
    const [holder, rows, tops] = [$("sessions"), this.#rows, this.#tops];
    const wanted = this.#inSight(holder);
    const nodes = [];
    let end = 0; // behind the last row that has a node
    for (const place of wanted) {
      if (place > end) nodes.push(space(tops[place] - tops[end]));
      const record = rows[place];
      const entry = this.#entries.get(record.id) ?? new Entry(record.id, (one) => this.#remove(one), (one) => this.#rename(one));
      this.#entries.set(record.id, entry);
      entry.update(record);
      entry.node.setAttribute("aria-posinset", place + 1);
      entry.node.setAttribute("aria-setsize", this.#next === undefined ? rows.length : -1);
      nodes.push(entry.node);
      end = place + 1;
    }
    if (end < rows.length) nodes.push(space(tops[rows.length] - tops[end]));
    holder.dataset.count = rows.length;
    const kept = new Set(nodes);
    for (const node of [...holder.children]) if (!kept.has(node)) node.remove();
    // What is in its place is left alone, with the focus that it may have.
    nodes.forEach((node, place) => holder.children[place] !== node && holder.insertBefore(node, holder.children[place] ?? null));
    const ids = new Set(wanted.map((place) => rows[place].id));
    for (const id of this.#entries.keys()) if (!ids.has(id)) this.#entries.delete(id);
    this.markCurrent();
    if (this.#next !== undefined && tops[rows.length] - holder.scrollTop - holder.clientHeight < MORE_PX) this.#more();
  }

  /** The places of the rows in sight and near it, and of the one that has the focus with those beside it. */
  #inSight(holder) {
    const [rows, tops] = [this.#rows, this.#tops];
    const [top, bottom] = [holder.scrollTop, holder.scrollTop + holder.clientHeight];
    const first = Math.max(0, placeOf(tops, top) - BEYOND);
    const last = Math.min(rows.length, placeOf(tops, bottom) + 1 + BEYOND);
    const places = new Set(Array.from({ length: Math.max(0, last - first) }, (_, index) => first + index));
    const focused = document.activeElement?.closest("#sessions li")?.dataset.sessionId;
    const place = focused === undefined ? -1 : rows.findIndex(({ id }) => id === focused);
    if (place !== -1) for (const near of [place - 1, place, place + 1]) if (near in rows) places.add(near);
    return [...places].sort((a, b) => a - b);
  }

  async #remove(entry) {
    const after = entry.node.nextElementSibling?.querySelector("a") ?? entry.node.previousElementSibling?.querySelector("a");
    if (!(await this.#given.remove(entry.id))) return;
    this.forget(entry.id);
    (after ?? $("new")).focus();
  }

  async #rename(entry) {
    if (this.#renaming) return;
    this.#renaming = entry;
    const { title, moved } = await entry.typed(this.#records.get(entry.id)?.title ?? "");
    this.#renaming = null;
    this.#show();
    if (!moved) entry.link.focus();
    if (title === null) return;
    const record = await this.#given.rename(entry.id, title);
    const known = this.#records.get(entry.id);
    if (!record || !known) return;
    this.#records.set(entry.id, { ...known, title: record.title });
    this.#show();
    this.#askAnew();
  }

  /** Takes one out that is gone. */
  forget(sessionId) {
    this.#records.delete(sessionId);
    this.#show();
    this.#given.onRemoved(sessionId);
    this.#askAnew();
  }

  /** Reads the newest page again, after a change here that answers on their way do not know of. */
  #askAnew() {
    this.#shown = this.#asked + 1;
    this.refresh();
  }
}

class Entry {
  #name = el("span", { class: "name", dir: "auto" });
  #time = el("time");
  #button;
  #pencil = el("button", { type: "button", class: "icon rename", "data-testid": "rename-session" }, "✎");
  #title = "";
  #found = el("span", { class: "found", dir: "auto", hidden: true });
  #record = null; // what is shown

  constructor(id, onRemove, onRename) {
    this.id = id;
    this.link = el("a", { href: `#${encodeURIComponent(id)}`, "data-testid": "session" }, this.#name, this.#time, this.#found);
    this.#button = el("button", { type: "button", class: "icon delete", "data-testid": "delete-session" });
    this.#button.addEventListener("click", () => {
      // The first click asks, the second one deletes.
      if (this.#button.classList.contains("sure")) onRemove(this);
      else this.#ask(true);
    });
    this.#button.addEventListener("blur", () => this.#ask(false));
    this.#pencil.addEventListener("click", () => onRename(this));
    this.link.addEventListener("dblclick", () => onRename(this));
    this.node = el("li", { "data-session-id": id }, this.link, this.#pencil, this.#button);
    this.#ask(false);
  }

  /**
   * Lets another title be typed in the place of this one: the new `title`, null for none, and whether the focus has
   * `moved` elsewhere. Enter and going elsewhere keep what was typed, Escape does not.
   */
  typed(title) {
    const field = el("input", { class: "title", dir: "auto", "aria-label": `Title of ${this.#title}`, maxlength: "200", autocomplete: "off", enterkeyhint: "done", "data-testid": "title-field" });
    field.value = title;
    const parts = [...this.node.children];
    this.node.replaceChildren(field);
    field.focus();
    field.select();
    return new Promise((resolve) => {
      const end = (kept, moved = false) => {
        field.removeEventListener("blur", onBlur); // taking it out is one, too
        this.node.replaceChildren(...parts);
        const wanted = field.value.trim();
        resolve({ title: kept && wanted !== title ? wanted : null, moved });
      };
      const onBlur = () => document.hasFocus() && end(true, true); // not when the window is left: one comes back
      field.addEventListener("blur", onBlur);
      onEnter(field, () => end(true));
      onEscape(field, (event) => {
        event.stopPropagation();
        end(false);
      });
    });
  }

  #ask(sure) {
    this.#button.classList.toggle("sure", sure);
    this.#button.textContent = sure ? "Delete?" : "×";
    this.#button.setAttribute("aria-label", sure ? `Really delete ${this.#title}?` : `Delete ${this.#title}`);
  }

  update(record) {
    if (record === this.#record) return; // to write the times of thousands takes a quarter of a second
    this.#record = record;
    const { title, updated_at: used, active_run_id: run, active_run_status: status = "running", found = "" } = record;
    const doing = run === undefined ? "" : status;
    if (doing) this.node.dataset.doing = doing;
    else delete this.node.dataset.doing;
    this.#title = titleOf(title);
    this.#pencil.setAttribute("aria-label", `Rename ${this.#title}`);
    setText(this.#name, this.#title);
    this.#time.dateTime = new Date(used).toISOString();
    setText(this.#time, STATUS_TEXTS[doing] ?? when(used));
    setText(this.#found, found);
    this.#found.hidden = found === "";
    this.link.classList.toggle("with-text", found !== "");
    if (!this.#button.classList.contains("sure")) this.#ask(false);
  }
}

/** The place of the row at this height. */
function placeOf(tops, px) {
  let [low, high] = [0, tops.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= px) low = middle;
    else high = middle - 1;
  }
  return low;
}

function space(px) {
  const node = el("li", { "aria-hidden": "true", class: "space" });
  node.style.height = `${px}px`;
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function titleOf(title) {
  return title || "Untitled";
}
