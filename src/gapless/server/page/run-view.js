/** One run of the window: what it is, what happened in it and when, its events, and what can be done with it. */

import { authorised, client, getJson } from "./api.js";
import { copyFrom } from "./clipboard.js";
import { el, pretty, says } from "./dom.js";
import { Questions } from "./questions.js";
import { announce, describe, showAlert } from "./say.js";

/** A run of which something is said all the time is looked at so often, */
const LOOK_MS = 250;
/** and where a look takes long, so many times as long later: it costs its server no more than a fifth, */
const RESTS = 5;
/** but not later than this. */
const REST_MS_MAX = 2_000;
/** Nothing happened for so long: that is said between two entries. */
const GAP_MS = 1_000;
/** A longer text is folded. */
const FOLDED_CHARS = 600;
/** JSON of so many characters is one line. */
const LINE_CHARS = 100;
const EVENTS_PAGE = 200;
/** Sub-agents in sub-agents are shown one in the other so far. */
const DEPTH_MAX = 4;
const FACTS = ["Run", "Agent", "User", "Conversation", "Made", "Waited for its turn", "First token after", "Took", "Worker", "Taken over", "Events", "Cost", "Error"];
const SPEEDS = [1, 2, 5, 20, 100];
/** Why a run comes from worker to worker. */
const WHY = {
  "taken over": "its worker was lost",
  "handed over": "its worker was stopped",
  "passed on": "its worker does not have the agent",
  parked: "no worker has it while it waits",
};

const ended = ({ status }) => status === "finished" || status === "failed" || status === "cancelled";
const seconds = (ms) => (ms < 60_000 ? `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`);

export class RunView {
  runId = "";
  #node;
  #given;
  #run = null;
  #timeline = { last_seq: 0 };
  #parts = null;
  #rows = new Map(); // of the timeline, in order, by their places in the journal
  #newest; // of the rows
  #from; // when the first entry came, in ms
  #until = 0; // and the last
  #shown = 0; // counts what was shown: an answer about what was shown before is dropped
  #timer = null; // the end of a rest
  #rests = false; // it is looked at, or was a moment ago
  #heard = false; // something has happened since
  #replaying = 0;

  /** `onChanged()` is told of what was done with a run here; `onLooked()` that it is known how the shown one stands. */
  constructor(node, given) {
    this.#node = node;
    this.#given = given;
  }

  /** The run that is shown and has not ended, as far as is known; null for none. */
  get going() {
    return this.#run === null || ended(this.#run) ? null : this.#run;
  }

  /** Shows a run, or none for "". */
  async show(id) {
    clearTimeout(this.#timer);
    const shown = (this.#shown += 1);
    this.#replaying += 1;
    if (id !== this.runId) showAlert("");
    this.runId = id;
    this.#node.hidden = id === "";
    this.#run = this.#parts = null;
    this.#timeline = { last_seq: 0 };
    this.#rows = new Map();
    this.#newest = this.#from = undefined;
    this.#until = 0;
    this.#node.replaceChildren();
    if (id === "") return this.#given.onLooked();
    await this.#look();
    if (shown === this.#shown && this.#parts) this.#node.querySelector("h2")?.focus();
  }

  /** Something may have become of it: it is looked at, and once more behind the last time that this is said. */
  hear() {
    if (this.going === null || document.hidden) return; // what is hidden is looked at when it is seen
    this.#heard = true;
    if (!this.#rests) this.#look();
  }

  async #look() {
    const shown = this.#shown;
    this.#rests = true;
    this.#heard = false;
    let took = 0;
    try {
      took = await this.#read(shown);
    } catch (error) {
      if (shown !== this.#shown) return;
      if (error?.status === 404 || error?.status === 410) {
        this.#run = null;
        this.#node.replaceChildren(el("p", { role: "alert" }, describe(error)), this.#back());
      } else {
        this.#heard = true;
        took = REST_MS_MAX;
        if (error?.status === undefined) showAlert(describe(error), true);
      }
    }
    if (shown !== this.#shown) return;
    this.#timer = setTimeout(() => {
      this.#rests = false;
      if (this.#heard) this.#look();
    }, Math.min(REST_MS_MAX, Math.max(LOOK_MS, RESTS * took)));
    this.#given.onLooked();
  }

  /** Reads what is new of it, and returns how long that took of the server, in ms. */
  async #read(shown) {
    const path = `runs/${encodeURIComponent(this.runId)}`;
    const run = await authorised(() => getJson(path));
    if (shown !== this.#shown) return 0;
    const began = performance.now();
    const timeline = await authorised(() => getJson(`${path}/timeline?after=${this.#timeline.last_seq}`));
    if (shown !== this.#shown) return 0;
    if (this.#run === null) this.#build(run);
    if (ended(run) && this.going) announce(`The run is ${run.status}`), this.#given.onChanged();
    this.#run = run;
    this.#timeline = timeline;
    this.#update();
    return performance.now() - began;
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
      values: new Map(),
      usage: el("div", { class: "scroll" }),
      answer: el("div", { id: "answer", "data-testid": "answer", hidden: true }),
      leftOut: el("p", { class: "left-out", "data-testid": "left-out" }),
      timeline: el("ol", { id: "timeline", "data-testid": "timeline", "aria-label": "What happened" }),
      cancel: button("cancel", "Cancel", () => this.#post("cancel", {}).catch(() => {})),
      again: button("again", "Ask again", () => this.#again()),
      link: button("link", "Copy a link", () => copyFrom(parts.link, location.href)),
      replay: button("replay", "Replay", () => this.#replay()),
      speed: el("select", { "aria-label": "Speed of the replay", "data-testid": "speed" }, ...SPEEDS.map((it) => el("option", { value: String(it) }, `${it}×`))),
      journal: el("details", { id: "journal", "data-testid": "journal" }, el("summary", {}, "Its journal, event by event")),
    };
    parts.journal.addEventListener("toggle", () => parts.journal.open && this.#events(run.id, parts.journal), { once: true });
    const title = el("h2", { tabindex: "-1", dir: "auto" }, run.message || "(no text)");
    this.#node.replaceChildren(
      this.#back(),
      el("header", {}, title, parts.status),
      el("div", { class: "tools" }, parts.replay, parts.speed, parts.cancel, parts.again, parts.link),
      parts.answer,
      parts.facts,
      parts.usage,
      parts.leftOut,
      parts.timeline,
      parts.journal,
    );
    if (title.scrollHeight > title.clientHeight) title.tabIndex = 0; // so that keys scroll it
    for (const name of FACTS) {
      const value = name === "Conversation" ? el("a", { href: `./#${encodeURIComponent(run.session_id)}` }) : el("span", {});
      parts.values.set(name, value);
      parts.facts.append(el("div", { class: name === "Error" ? "wide" : null, hidden: true }, el("dt", {}, name), el("dd", {}, value)));
    }
    this.#parts = parts;
  }

  #update() {
    const [run, parts, { first_token_at: first, waited_ms: waited }] = [this.#run, this.#parts, this.#timeline];
    parts.status.dataset.status = run.status;
    says(parts.status, run.status);
    parts.cancel.hidden = ended(run);
    parts.again.hidden = !ended(run);
    const values = [
      run.id,
      run.agent,
      run.user_id,
      run.session_id,
      new Date(run.created_at).toLocaleString(),
      run.started_at ? seconds(run.started_at - run.created_at) : "",
      first && run.started_at ? seconds(Math.max(0, first - run.started_at - waited)) : "",
      run.started_at && run.ended_at ? seconds(run.ended_at - run.started_at) : "",
      run.worker ?? "",
      run.takeovers ? `${run.takeovers} times` : "",
      String(run.last_seq),
      run.cost_usd === undefined ? "" : `$${run.cost_usd.toFixed(4)}`,
      run.error ? `${run.error.code}: ${run.error.message}` : "",
    ];
    FACTS.forEach((name, place) => {
      const node = parts.values.get(name);
      says(node, values[place]);
      node.closest("div").hidden = values[place] === "";
    });
    const usage = JSON.stringify(run.usage ?? []);
    if (parts.usage.dataset.usage !== usage) parts.usage.replaceChildren(...(run.usage?.length ? [usageTable(run.usage)] : []));
    parts.usage.dataset.usage = usage;
    this.#ask(run);
    this.#draw(inOrder(this.#timeline));
    parts.replay.disabled = this.#from === undefined;
  }

  /** Draws what has come since the last time: a row that grows stays, with what is selected, open or in view of it. */
  #draw(entries) {
    const list = this.#parts.timeline;
    if (entries.some(({ move }) => !move)) this.#endReplay();
    for (const entry of entries) {
      this.#from ??= entry.at;
      this.#until = Math.max(this.#until, entry.ended_at ?? 0);
      const call = this.#rows.get(entry.of)?.entry;
      const key = entry.move ?? entry.seq;
      let row = this.#rows.get(key);
      if (row === undefined) {
        row = new Row(entry, this.#from, this.#rows.get(entry.within));
        if (entry.what !== "parked") this.#follow(row, call === undefined); // a wait is said whole, with what it waits for
        this.#rows.set(key, row);
        list.append(row.node);
      }
      row.draw(call?.ended_at && entry.at ? { ...entry, since: call.ended_at } : entry);
      row.showGap();
      row.next?.showGap();
    }
    list.style.setProperty("--span", String(Math.max(1, this.#until - this.#from)));
    const leftOut = this.#timeline.moves_left_out;
    says(this.#parts.leftOut, leftOut ? `It came from worker to worker ${leftOut} times more, before what is shown of that.` : "");
    if (this.#timeline.cut && !list.dataset.cut) {
      list.dataset.cut = "true";
      list.append(el("li", {}, el("span", { class: "when" }), el("div", { class: "body gap" }, "There is more; the journal has it.")));
    }
  }

  #follow(row, waits) {
    row.before = waits ? this.#newest : undefined; // a result is waited for; that is said with it
    if (this.#newest) this.#newest.next = row;
    this.#newest = row;
  }

  /** Plays what happened, as it came, so many times as fast. */
  #replay() {
    const mine = (this.#replaying += 1);
    const speed = Number(this.#parts.speed.value);
    const began = performance.now();
    const rows = [...this.#rows.values()];
    const [from, until] = [this.#from, this.#until];
    this.#parts.timeline.dataset.replaying = "true";
    const step = () => {
      if (mine !== this.#replaying) return;
      const now = from + (performance.now() - began) * speed;
      for (const row of rows) row.until(now, from);
      if (now < until) requestAnimationFrame(step);
      else this.#endReplay();
    };
    step();
  }

  #endReplay() {
    if (!this.#parts.timeline.dataset.replaying) return;
    this.#replaying += 1;
    delete this.#parts.timeline.dataset.replaying;
    for (const row of this.#rows.values()) row.until(Infinity, 0);
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
    const path = `runs/${encodeURIComponent(this.runId)}/${what}`;
    try {
      await authorised(() => getJson(path, body));
      showAlert("");
    } catch (error) {
      showAlert(describe(error));
      throw error;
    } finally {
      this.hear();
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

/** Entries of a timeline, and moves from worker to worker as such, each behind what began before it. */
function inOrder({ entries, moves, worker }) {
  const said = entries.map((it) => (it.what === "starts" && worker ? { ...it, text: `at worker ${worker}` } : it));
  const moved = moves.map((it) => ({
    ...it,
    move: `${it.what} ${it.seq} ${it.at}`,
    text: it.from_worker ? `from ${it.from_worker} to ${it.to_worker ?? "nobody"}: ${WHY[it.what]}` : WHY[it.what],
    ended_at: it.ended_at ?? it.at,
  }));
  return [...said, ...moved].sort((a, b) => a.seq - b.seq);
}

/** One entry of the timeline as a row, which is drawn again where it grows. */
class Row {
  node = el("li", { "data-testid": "entry" });
  entry;
  before; // the row after which nothing may have happened for long
  next;
  #from;
  #within; // the row of the sub-agent whose work it is
  #depth;
  #shown = "";
  #gap = null;
  #bar = null;
  #when = el("span", { class: "when" });
  #name = el("strong", {});
  #what = el("span", { class: "what" });
  #pre = el("pre", { tabindex: "0" });
  #body = el("div", { class: "body" }, el("div", {}, this.#name, " ", this.#what));

  constructor(entry, from, within) {
    this.#from = from;
    this.#within = within;
    this.#depth = within ? within.#depth + 1 : 0;
    this.node.style.setProperty("--depth", String(Math.min(this.#depth, DEPTH_MAX)));
    this.node.dataset.depth = String(this.#depth);
    this.node.append(this.#when, this.#body);
    this.draw(entry);
    if (this.#shown.length > FOLDED_CHARS) {
      this.#body.append(el("details", {}, el("summary", {}, `${this.#shown.slice(0, 120)}…`), this.#pre));
    }
  }

  draw(entry) {
    this.entry = entry;
    const { seq, what, name = "", text = "", at, since = at, ended_at: end } = entry; // a result is there since it was called for
    this.#shown = text.length > LINE_CHARS && (what === "calls" || what === "result") ? pretty(text) : text;
    const took = at && end > since ? seconds(end - since) : "";
    this.node.dataset.what = what;
    says(this.#when, at ? `+${seconds(Math.max(0, at - this.#from))}` : `#${seq}`);
    says(this.#name, name || what);
    says(this.#what, [name ? what : "", this.#within ? `in ${this.#within.entry.name}` : "", took].filter(Boolean).join(" · "));
    if (took) {
      this.#bar ??= this.#body.insertBefore(el("div", { class: "bar", "aria-hidden": "true" }, el("span", {})), this.#body.children[1] ?? null);
      this.#bar.firstChild.style.setProperty("--since", String(Math.max(0, since - this.#from)));
      this.#bar.firstChild.style.setProperty("--took", String(end - since));
    }
    says(this.#pre, this.#shown);
    if (this.#shown && !this.#pre.parentNode) this.#body.append(this.#pre);
  }

  /** Says before it that nothing has happened for long, where that is so. */
  showGap() {
    const gap = this.before?.entry.ended_at && this.entry.at ? this.entry.at - this.before.entry.ended_at : 0;
    if (gap < GAP_MS) {
      this.#gap?.remove();
      this.#gap = null;
      return;
    }
    const text = this.before.entry.what === "waits" ? `waited ${seconds(gap)} for a person` : `${seconds(gap)} without an event`;
    if (this.#gap === null) {
      this.#gap = el("li", { "data-what": "gap", "data-testid": "gap" }, el("span", { class: "when" }), el("div", { class: "body gap" }));
      this.node.before(this.#gap);
    }
    says(this.#gap.lastChild, text);
  }

  /** Shows it as it was at a time. */
  until(now, from) {
    const { at: began = from, ended_at: done = began } = this.entry;
    this.node.hidden = now < began;
    const part = done > began ? Math.min(1, (now - began) / (done - began)) : 1;
    says(this.#pre, this.#shown.slice(0, Math.ceil(part * this.#shown.length)));
  }
}

function usageTable(usage) {
  const fields = [["Calls", "requests"], ["In", "input_tokens"], ["Cached", "cached_input_tokens"], ["Out", "output_tokens"], ["Thought", "reasoning_tokens"]];
  const head = el("tr", {}, el("th", { scope: "col" }, "Model"), ...fields.map(([name]) => el("th", { scope: "col" }, name)));
  const rows = usage.map((one) => el("tr", {}, el("td", {}, one.model ?? "unknown"), ...fields.map(([, field]) => el("td", {}, (one[field] ?? 0).toLocaleString()))));
  return el("table", { "data-testid": "usage" }, el("caption", { class: "unseen" }, "Tokens"), el("thead", {}, head), el("tbody", {}, ...rows));
}
