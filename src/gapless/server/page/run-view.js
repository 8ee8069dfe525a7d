/** One run of the window: what it is, what happened in it and when, its events, and what can be done with it. */

import { authorised, client, getJson } from "./api.js";
import { copyFrom } from "./clipboard.js";
import { el, pretty } from "./dom.js";
import { Questions } from "./questions.js";
import { announce, describe, showAlert } from "./say.js";

/** So often a run that goes on is looked at. */
const LOOK_MS = 700;
/** Nothing happened for so long: that is said between two entries. */
const GAP_MS = 1_000;
/** A longer text is folded. */
const FOLDED_CHARS = 600;
/** JSON of so many characters is one line. */
const LINE_CHARS = 100;
const EVENTS_PAGE = 200;
const SPEEDS = [1, 2, 5, 20, 100];

const ended = ({ status }) => status === "finished" || status === "failed" || status === "cancelled";
const seconds = (ms) => (ms < 60_000 ? `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`);

export class RunView {
  runId = "";
  #node;
  #given;
  #run = null;
  #timeline = { entries: [] };
  #parts = null;
  #rows = []; // of the timeline, in order
  #timer = null;
  #replaying = 0;

  /** `onChanged()` is told of what was done with a run here. */
  constructor(node, given) {
    this.#node = node;
    this.#given = given;
  }

  /** Shows a run, or none for "". */
  async show(id) {
    clearTimeout(this.#timer);
    this.#replaying += 1;
    if (id !== this.runId) showAlert("");
    this.runId = id;
    this.#node.hidden = id === "";
    this.#run = null;
    this.#rows = [];
    this.#node.replaceChildren();
    if (id === "") return;
    await this.#look(id);
    if (id === this.runId && this.#parts) this.#node.querySelector("h2")?.focus();
  }

  async #look(id) {
    let again = LOOK_MS;
    try {
      const run = await authorised(() => getJson(`runs/${encodeURIComponent(id)}`));
      if (id !== this.runId) return;
      if (run.last_seq !== this.#run?.last_seq || run.status !== this.#run?.status) {
        const began = performance.now();
        const timeline = await authorised(() => getJson(`runs/${encodeURIComponent(id)}/timeline`));
        if (id !== this.runId) return;
        again = Math.max(LOOK_MS, 5 * (performance.now() - began)); // a long run costs its server no more than a fifth
        if (this.#run === null) this.#build(run);
        if (ended(run) && this.#run && !ended(this.#run)) announce(`The run is ${run.status}`), this.#given.onChanged();
        this.#run = run;
        this.#timeline = timeline;
        this.#update();
      }
      if (!ended(run)) this.#timer = setTimeout(() => this.#look(id), again);
    } catch (error) {
      if (id !== this.runId) return;
      if (error?.status === 404 || error?.status === 410) this.#node.replaceChildren(el("p", { role: "alert" }, describe(error)), this.#back());
      else this.#timer = setTimeout(() => this.#look(id), LOOK_MS);
      if (error?.status === undefined) showAlert(describe(error), true);
    }
  }

  #back() {
    return el("a", { href: "#", class: "back", "data-testid": "back" }, "All runs");
  }

  #build(run) {
    const button = (name, text, act) => {
      const node = el("button", { type: "button", "data-testid": name }, text);
      node.addEventListener("click", act);
      return node;
    };
    const parts = {
      status: el("span", { class: "status" }),
      facts: el("dl", {}),
      usage: el("div", { class: "scroll" }),
      answer: el("div", { id: "answer", "data-testid": "answer", hidden: true }),
      timeline: el("ol", { id: "timeline", "data-testid": "timeline", "aria-label": "What happened" }),
      cancel: button("cancel", "Cancel", () => this.#post("cancel", {}).catch(() => {})),
      again: button("again", "Ask again", () => this.#again()),
      link: button("link", "Copy a link", () => copyFrom(parts.link, location.href)),
      replay: button("replay", "Replay", () => this.#replay()),
      speed: el("select", { "aria-label": "Speed of the replay", "data-testid": "speed" }, ...SPEEDS.map((it) => el("option", { value: String(it) }, `${it}×`))),
      journal: el("details", { id: "journal", "data-testid": "journal" }, el("summary", {}, "Its journal, event by event")),
    };
    parts.journal.addEventListener("toggle", () => parts.journal.open && this.#events(run.id, parts.journal), { once: true });
    const title = el("h2", { tabindex: "-1" }, run.message || "(no text)");
    this.#node.replaceChildren(
      this.#back(),
      el("header", {}, title, parts.status),
      el("div", { class: "tools" }, parts.replay, parts.speed, parts.cancel, parts.again, parts.link),
      parts.answer,
      parts.facts,
      parts.usage,
      parts.timeline,
      parts.journal,
    );
    if (title.scrollHeight > title.clientHeight) title.tabIndex = 0; // so that keys scroll it
    this.#parts = parts;
  }

  #update() {
    const [run, parts, { entries, first_token_at: first }] = [this.#run, this.#parts, this.#timeline];
    parts.status.dataset.status = parts.status.textContent = run.status;
    parts.cancel.hidden = ended(run);
    parts.again.hidden = !ended(run);
    parts.replay.disabled = !entries.some(({ at }) => at);
    const facts = [
      ["Run", run.id],
      ["Agent", run.agent],
      ["User", run.user_id],
      ["Conversation", el("a", { href: `./#${encodeURIComponent(run.session_id)}` }, run.session_id)],
      ["Made", new Date(run.created_at).toLocaleString()],
      ["Waited for its turn", run.started_at ? seconds(run.started_at - run.created_at) : ""],
      ["First token after", first && run.started_at ? seconds(Math.max(0, first - run.started_at)) : ""],
      ["Took", run.started_at && run.ended_at ? seconds(run.ended_at - run.started_at) : ""],
      ["Worker", run.worker ?? ""],
      ["Taken over", run.takeovers ? `${run.takeovers} times` : ""],
      ["Events", String(run.last_seq)],
      ["Cost", run.cost_usd === undefined ? "" : `$${run.cost_usd.toFixed(4)}`],
      ["Error", run.error ? `${run.error.code}: ${run.error.message}` : ""],
    ];
    parts.facts.replaceChildren(...facts.filter(([, value]) => value !== "").map(([name, value]) => el("div", { class: name === "Error" ? "wide" : null }, el("dt", {}, name), el("dd", {}, value))));
    parts.usage.replaceChildren(...(run.usage?.length ? [usageTable(run.usage)] : []));
    this.#ask(run);
    this.#draw(entries);
  }

  #draw(entries) {
    const [from, until] = spanOf(entries);
    this.#rows = [];
    const nodes = [];
    entries.forEach((entry, place) => {
      const before = entries[place - 1];
      const gap = before?.ended_at && entry.at ? entry.at - before.ended_at : 0;
      const call = entries.find(({ seq }) => seq === entry.of);
      if (gap >= GAP_MS && call === undefined) {
        const said = before.what === "waits" ? `waited ${seconds(gap)} for a person` : `${seconds(gap)} without an event`;
        nodes.push(el("li", { "data-what": "gap" }, el("span", { class: "when" }), el("div", { class: "body gap" }, said)));
      }
      const row = rowOf(call?.ended_at && entry.at ? { ...entry, since: call.ended_at } : entry, from, until);
      this.#rows.push(row);
      nodes.push(row.node);
    });
    if (this.#timeline.cut) nodes.push(el("li", {}, el("span", { class: "when" }), el("div", { class: "body gap" }, "There is more; the journal has it.")));
    const open = new Set([...this.#parts.timeline.querySelectorAll("details[open]")].map((it) => it.dataset.seq));
    this.#parts.timeline.replaceChildren(...nodes);
    for (const it of this.#parts.timeline.querySelectorAll("details")) it.open = open.has(it.dataset.seq);
  }

  /** Plays what happened, as it came, so many times as fast. */
  #replay() {
    const mine = (this.#replaying += 1);
    const { entries } = this.#timeline;
    const [from, until] = spanOf(entries);
    const speed = Number(this.#parts.speed.value);
    const began = performance.now();
    const rows = this.#rows;
    this.#parts.timeline.dataset.replaying = "true";
    const step = () => {
      if (mine !== this.#replaying || rows !== this.#rows) return;
      const now = from + (performance.now() - began) * speed;
      entries.forEach((entry, place) => rows[place].until(now, entry));
      if (now < until) requestAnimationFrame(step);
      else delete this.#parts.timeline.dataset.replaying;
    };
    step();
  }

  /** Asks as the chat page does: what the run waits for is one form each, and what is typed in stays while it waits. */
  #ask(run) {
    const [place, asked] = [this.#parts.answer, run.status === "waiting" ? (run.interrupts ?? []) : []];
    const ids = asked.map(({ id }) => id).join();
    place.hidden = asked.length === 0;
    if (place.dataset.asked === ids) return;
    place.dataset.asked = ids;
    const questions = new Questions(asked, { toolOf: () => undefined, onAnswer: (entries) => this.#post("input", { resume: entries }) });
    place.replaceChildren(...questions.nodes);
  }

  async #post(what, body) {
    const id = this.runId;
    try {
      await authorised(() => getJson(`runs/${encodeURIComponent(id)}/${what}`, body));
      showAlert("");
    } catch (error) {
      showAlert(describe(error));
      throw error;
    } finally {
      clearTimeout(this.#timer);
      if (id === this.runId) await this.#look(id);
      this.#given.onChanged();
    }
  }

  async #again() {
    try {
      const { message, session_id: sessionId, agent } = this.#run;
      const run = await authorised(() => client.start({ message, sessionId, agent }));
      this.#given.onChanged();
      location.hash = `#${encodeURIComponent(run.id)}`;
    } catch (error) {
      showAlert(describe(error));
    }
  }

  async #events(id, holder) {
    const listed = el("ol", {});
    const more = el("button", { type: "button", "data-testid": "more-events" }, "More events");
    holder.append(listed, more);
    let after = 0;
    const read = async () => {
      const page = await authorised(() => getJson(`runs/${encodeURIComponent(id)}/events?after=${after}&limit=${EVENTS_PAGE}`));
      for (const event of page.events) listed.append(el("li", {}, el("span", { class: "when" }, String((after += 1))), el("pre", { tabindex: "0" }, JSON.stringify(event))));
      more.hidden = page.events.length === 0 || after >= page.last_seq;
    };
    more.addEventListener("click", () => read().catch((error) => showAlert(describe(error))));
    await read().catch((error) => showAlert(describe(error)));
  }
}

/** From when to when entries are, in ms. */
function spanOf(entries) {
  const times = entries.flatMap(({ at, ended_at: end }) => [at, end]).filter(Boolean);
  return times.length ? [Math.min(...times), Math.max(...times)] : [0, 0];
}

function rowOf(entry, from, until) {
  const { seq, what, name = "", text = "", at, since = at, ended_at: end } = entry; // a result is there since it was called for
  const shown = text.length > LINE_CHARS && (what === "calls" || what === "result") ? pretty(text) : text;
  const took = at && end > since ? seconds(end - since) : "";
  const line = el("div", {}, el("strong", {}, name || what), " ", el("span", { class: "what" }, [name ? what : "", took].filter(Boolean).join(" · ")));
  const body = el("div", { class: "body" }, line);
  if (took && until > from) {
    const bar = el("span", {});
    bar.style.marginLeft = `${(100 * (since - from)) / (until - from)}%`;
    bar.style.width = `${Math.max(0.5, (100 * (end - since)) / (until - from))}%`;
    body.append(el("div", { class: "bar", "aria-hidden": "true" }, bar));
  }
  const pre = el("pre", { tabindex: "0" }, shown);
  if (shown.length > FOLDED_CHARS) body.append(el("details", { "data-seq": String(seq) }, el("summary", {}, `${shown.slice(0, 120)}…`), pre));
  else if (shown) body.append(pre);
  const when = el("span", { class: "when" }, at ? `+${seconds(at - from)}` : `#${seq}`);
  const node = el("li", { "data-what": what, "data-testid": "entry" }, when, body);
  return {
    node,
    /** Shows it as it was at a time. */
    until(now, { at: began = from, ended_at: done = began }) {
      node.hidden = now < began;
      const part = done > began ? Math.min(1, (now - began) / (done - began)) : 1;
      pre.textContent = shown.slice(0, Math.ceil(part * shown.length));
    },
  };
}

function usageTable(usage) {
  const fields = [["Calls", "requests"], ["In", "input_tokens"], ["Cached", "cached_input_tokens"], ["Out", "output_tokens"], ["Thought", "reasoning_tokens"]];
  const head = el("tr", {}, el("th", { scope: "col" }, "Model"), ...fields.map(([name]) => el("th", { scope: "col" }, name)));
  const rows = usage.map((one) => el("tr", {}, el("td", {}, one.model ?? "unknown"), ...fields.map(([, field]) => el("td", {}, (one[field] ?? 0).toLocaleString()))));
  return el("table", { "data-testid": "usage" }, el("caption", { class: "unseen" }, "Tokens"), el("thead", {}, head), el("tbody", {}, ...rows));
}
