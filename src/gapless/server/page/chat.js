/**
 * The chat page. The server's journal is the only truth: a page holds no answer that it could not fold again, so a
 * reload and a second tab need nothing but the session's id, which is in the address.
 */

import { answerText } from "./actions.js";
import { canTalk, chosenAgent, loadAgents, several, showAgent, whenListed } from "./agents.js";
import { authorised, beforeLeaving, client, fetchFile, showAccess } from "./api.js";
import { Attachments } from "./attach.js";
import "./bell.js";
import { lineOf, parentsOf, pathTo } from "./branches.js";
import { copyFrom } from "./clipboard.js";
import { Drafts } from "./drafts.js";
import { $, onEnter, onEscape } from "./dom.js";
import { markdownOf, save } from "./export.js";
import { applyEvent, askedIn, isEmpty, isSettled, newView, viewOfMessages } from "./fold.js";
import { Line } from "./line.js";
import { filesIn, textIn, withText } from "./message.js";
import { offer, withdraw } from "./offer.js";
import { announce, awayIs, describe, reached, showAlert, showConnection } from "./say.js";
import { SessionList } from "./sessions.js";
import { newId, SESSION, StreamError } from "./stream.js"; // of the npm package: `/static` serves both folders
import { Talk } from "./talk.js";
import { EMPTY_TEXT, TurnView } from "./view.js";

/** A hidden page draws no frames: it catches up this often instead. */
const HIDDEN_RENDER_MS = 250;
/** A conversation that could not be read is tried again after this. */
const AGAIN_MS = 5000;
/** Closer to the end than this, the page follows the answer. */
const STICK_PX = 48;
/** A longer answer is announced as complete, not read out. */
const ANNOUNCED_CHARS_MAX = 600;
const TITLE_CHARS_MAX = 60;

const ENDED = new Set(["finished", "failed", "cancelled"]);
/** The events after which nothing more comes by itself. */
const LAST = new Set(["RUN_FINISHED", "RUN_ERROR"]);

/** Where a saved message says after which run it was asked. */
const AFTER = "gapless.after";

const LAST_SESSION_ITEM = "gapless.session";
const UNSENT_ITEM = "gapless.unsent";

const root = document.documentElement;
const finePointer = matchMedia("(pointer: fine)");
const narrow = matchMedia("(max-width: 760px)");

// Drawing: once per frame, whatever came since the last one.

const dirty = new Set();
let drawing = false;
let sticking = true;

function draw(turn) {
  dirty.add(turn);
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(drawNow, HIDDEN_RENDER_MS);
  else requestAnimationFrame(drawNow);
}

function drawNow() {
  drawing = false;
  const turns = [...dirty];
  dirty.clear();
  for (const turn of turns) {
    const behind = turn.shown.update(turn.view, turn.changed);
    turn.changed = new Set(behind);
    if (behind.length > 0) draw(turn);
  }
  if (sticking) scrollToEnd();
  showBusy();
}

function scrollToEnd() {
  sticking = true;
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("to-end").hidden = true;
}

function showBusy() {
  const active = conversation.active();
  if (active?.view.status !== "waiting") withdraw();
  const busy = active !== null;
  const taken = busy && active.view.status !== "waiting"; // a message instead of an answer is one too
  root.dataset.busy = String(busy);
  const focused = document.activeElement;
  $("stop").hidden = !busy;
  $("send").hidden = taken;
  if (taken && focused === $("send")) $("stop").focus();
  if (!busy) {
    $("stop").disabled = false;
    if (focused === $("stop")) $("message").focus();
  }
  $("welcome").hidden = conversation.turns.size > 0 || conversation.loading;
  showLine(taken);
}

let lineState = "connecting";

/** That the connection stands is said while something is to come over it. */
function showLine(taken) {
  if (lineState === "lost" || lineState === "reconnecting") showConnection(lineState);
  else showConnection(taken ? lineState : "idle");
}

// A conversation: the turns of one session.

class Conversation {
  turns = new Map(); // run id → turn
  #order = []; // run ids, oldest first
  #parents = new Map(); // run id → the run that it was asked after
  #chosen = new Set(); // runs whose version the reader wants to see
  loading = false;
  unread = false; // it is to be read again: the server was away
  refused = false; // the server does not go on from where it was read to
  #abort = new AbortController();
  #opened = false;
  #place = "0"; // behind which the session's stream is to begin
  #streamed = null; // the run whose events came last
  #syncing = null;
  #again = false;

  constructor(sessionId) {
    this.id = sessionId;
  }

  get signal() {
    return this.#abort.signal;
  }

  close() {
    this.#abort.abort();
  }

  /** The turn whose run has not ended, or null: one that waits for a person only where no other goes on. */
  active() {
    const turns = [...this.turns.values()];
    return turns.find((turn) => !isSettled(turn.view.status)) ?? turns.find((turn) => turn.view.status === "waiting") ?? null;
  }

  /** Adds a turn. `after` is the run that it is asked after, undefined for the newest. */
  add(runId, message, agent, { after, messageId, askedAt } = {}) {
    const turn = { runId, message, agent, after, messageId, view: newView(), changed: new Set(), seq: 0, whole: false, refused: false, cancelled: false };
    turn.shown = new TurnView({
      runId,
      message,
      agent,
      askedAt,
      onAnswer: (entries) => this.answer(turn, entries),
      onAnswered: focusMessage,
      onAsk: (instead) => askInstead(turn, instead),
      onVersion: (step) => this.#showVersion(turn, step),
      fetchFile: (file) => fetchFile(runId, file),
    });
    this.turns.set(runId, turn);
    this.#order.push(runId);
    this.#chosen.clear(); // a new turn is what everybody wants to see
    draw(turn);
    return turn;
  }

  /** The turns that are shown, in order. */
  shown() {
    return lineOf(this.#parents, this.#chosen).map(({ runId }) => this.turns.get(runId));
  }

  remove(turn) {
    this.turns.delete(turn.runId);
    this.#order = this.#order.filter((id) => id !== turn.runId);
    this.arrange();
    showBusy();
  }

  /** Shows the turns of the line that is wanted, each in its place. */
  arrange() {
    this.#parents = parentsOf(this.#order.map((id) => this.turns.get(id)));
    const line = lineOf(this.#parents, this.#chosen);
    const wanted = new Set(line.map(({ runId }) => runId));
    const holder = $("messages");
    for (const node of [...holder.children]) if (!wanted.has(node.dataset.runId)) node.remove();
    line.forEach(({ runId, at, versions }, place) => {
      const { shown } = this.turns.get(runId);
      shown.showVersions(at, versions.length);
      if (holder.children[place] !== shown.node) holder.insertBefore(shown.node, holder.children[place] ?? null);
    });
  }

  #showVersion(turn, step) {
    const { at, versions } = lineOf(this.#parents, this.#chosen).find(({ runId }) => runId === turn.runId);
    for (const id of versions) this.#chosen.delete(id);
    const wanted = this.turns.get(versions[at + step]);
    this.#chosen.add(wanted.runId);
    sticking = false;
    this.arrange();
    const steps = wanted.shown.node.querySelectorAll(".versions button:not([disabled])");
    (steps.length === 2 && step > 0 ? steps[1] : steps[0])?.focus();
    announce(`Version ${at + step + 1} of ${versions.length}`);
  }

  /** The run that a turn is asked after, as the server knows it, "" for none: one that never began is left out. */
  placeOf(turn) {
    const path = pathTo(this.#parents, this.#parents.get(turn.runId) ?? "");
    return path.findLast((id) => !this.turns.get(id).empty) ?? "";
  }

  /** The run to go on from where an older version is shown; undefined on the newest line. */
  placeOfNext() {
    const line = lineOf(this.#parents, this.#chosen);
    const newest = pathTo(this.#parents, this.#order.at(-1) ?? "");
    if (line.at(-1)?.runId === newest.at(-1)) return undefined;
    return line.findLast(({ runId }) => !this.turns.get(runId).empty)?.runId ?? "";
  }

  /** Brings the turns in line with the server. Calls that come meanwhile are served by one more round. */
  async sync() {
    if (this.#syncing) {
      this.#again = true;
      return this.#syncing;
    }
    this.#syncing = (async () => {
      do {
        this.#again = false;
        await this.#read();
      } while (this.#again);
    })().finally(() => (this.#syncing = null));
    return this.#syncing;
  }

  async #read() {
    const { signal } = this;
    // The runs before the messages: a run that is over by then has its messages.
    const [record, runs] = await authorised(() =>
      Promise.all([client.session(this.id, { signal }), client.runs({ sessionId: this.id, signal })]),
    );
    const messages = await authorised(() => client.messages(this.id, { signal }));
    signal.throwIfAborted();
    this.loading = false;

    const messagesOf = groupBy(messages, (message) => message.metadata?.run_id);
    const recordOf = new Map(runs.sort((a, b) => a.created_at - b.created_at).map((run) => [run.id, run]));
    const saved = [...messagesOf.keys()].filter((id) => id !== undefined && !recordOf.has(id));
    const order = [...saved, ...recordOf.keys()];
    for (const runId of order) {
      const run = recordOf.get(runId);
      const own = messagesOf.get(runId) ?? [];
      const ended = !run || ENDED.has(run.status);
      let turn = this.turns.get(runId);
      if (!turn) {
        const asked = own[0]?.role === "user" ? own[0] : undefined; // a live run may begin with a greeting
        const whole = asked || !run ? run : await authorised(() => client.run(runId, { signal })); // lists cut what is long
        signal.throwIfAborted();
        const place = { after: asked ? asked.metadata?.[AFTER] : whole?.after_run_id, messageId: asked?.id, askedAt: run?.created_at };
        turn = this.add(runId, asked?.content ?? whole?.message ?? "", run?.agent, place);
        if (ended) this.#showMessages(turn, run, own);
      } else if (ended && turn.refused) {
        this.#showMessages(turn, run, own);
      }
      turn.empty = ended && own.length === 0;
    }
    this.#order = [...order, ...this.#order.filter((id) => !order.includes(id))];
    this.arrange();
    this.#place = this.#placeBehind(runs);
    if (!this.#opened) showAgent(runs.at(-1)?.agent ?? null);
    this.#opened = true;
    showTitle(record.title || titleOf(recordOf.values().next().value?.message ?? ""));
    showBusy();
  }

  #showMessages(turn, run, messages) {
    turn.view = viewOfMessages(run, messages);
    turn.view.items.forEach((item) => turn.changed.add(item));
    [turn.whole, turn.refused] = [true, false];
    draw(turn);
  }

  /** Where the session's stream is to go on: behind what is shown of the first run that has not ended, or all of them. */
  #placeBehind(runs) {
    const next = runs.findIndex(({ status }) => !ENDED.has(status));
    const shown = next === -1 ? 0 : this.turns.get(runs[next].id).seq;
    if (shown > 0) return `${runs[next].id}:${shown}`;
    const before = runs.at(next === -1 ? -1 : next - 1);
    return before === undefined || next === 0 ? "0" : `${before.id}:${before.last_seq}`;
  }

  /** Follows the session from where it was read to, on the tab's one connection. */
  connect() {
    line.follow(this.id, {
      after: () => this.#place,
      onEvent: (one) => this.#take(one),
      onGone: () => gone(this),
      onRefused: (error) => this.#refuse(error),
    });
  }

  /** Takes an event of one of the session's runs, or how the session stands. */
  async #take({ id, runId, event }) {
    if (runId === undefined) {
      if (event.name === SESSION) await this.#stands(event.value);
      return;
    }
    const turn = this.turns.get(runId) ?? (await this.#meet(runId));
    if (runId !== this.#streamed) this.#putBehind(runId);
    const seq = Number(id.slice(runId.length + 1));
    if (turn.whole || seq <= turn.seq) return; // it is shown as it was read
    const item = applyEvent(turn.view, event);
    if (item) turn.changed.add(item);
    turn.seq = seq;
    this.#place = id;
    draw(turn);
    if (!LAST.has(event.type)) return;
    if (turn.view.status === "waiting") announce(questionOf(turn.view));
    else this.#announceEnd(turn);
    if (turn.view.items.length === 0 && turn.view.status !== "waiting") await this.sync(); // perhaps it never began
  }

  /** Shows a run that was begun elsewhere. */
  async #meet(runId) {
    const run = await authorised(() => client.run(runId, { signal: this.signal }));
    const known = this.turns.get(runId); // by a look at the session meanwhile
    if (known) return known;
    const turn = this.add(runId, run.message ?? "", run.agent, { after: run.after_run_id, askedAt: run.created_at });
    this.arrange();
    if (sticking) scrollToEnd();
    return turn;
  }

  /** Runs come in their order: one of which events come is behind all of which some came before. */
  #putBehind(runId) {
    const before = this.#order.indexOf(this.#streamed);
    this.#streamed = runId;
    if (before < this.#order.indexOf(runId)) return;
    this.#order = this.#order.filter((id) => id !== runId);
    this.#order.splice(before, 0, runId); // before is one less now
    this.arrange();
  }

  async #stands({ session, runs }) {
    for (const { id } of runs) if (!this.turns.has(id)) await this.#meet(id);
    const first = this.turns.get(this.#order[0]);
    showTitle(session.title || titleOf(first === undefined ? "" : textIn(first.message)));
    showBusy();
  }

  /** The server does not go on from where this was: what was being answered ends here, as far as this page can say. */
  #refuse({ code, message }) {
    this.refused = true;
    connectToNone();
    const turn = this.active();
    if (!turn) return showAlert(`${message} (${code})`);
    turn.view.status = "failed";
    turn.view.error = { code, message };
    turn.refused = true;
    for (const item of turn.view.items) item.open = false;
    draw(turn);
  }

  #announceEnd(turn) {
    const { status, error, items } = turn.view;
    if (status === "failed") announce(`The answer was interrupted: ${error?.message ?? ""}`);
    else if (status === "cancelled") announce("Stopped");
    else if (isEmpty(turn.view)) announce(EMPTY_TEXT);
    else {
      const text = answerText({ items });
      const isSaid = text !== "" && text.length <= ANNOUNCED_CHARS_MAX; // it may be of calls or files alone
      announce(isSaid ? text : "The answer is complete");
    }
  }

  async answer(turn, entries) {
    try {
      showAlert("");
      await authorised(() => client.answer(turn.runId, entries, { signal: this.signal }));
    } catch (error) {
      if (!this.signal.aborted) showAlert(describe(error), awayIs(error));
      throw error;
    }
  }

  async stop() {
    const turn = this.active();
    if (!turn) return;
    $("stop").disabled = true;
    turn.cancelled = true;
    if (turn.starting) return; // send() cancels it as soon as the server knows the run
    try {
      await authorised(() => client.cancel(turn.runId, { signal: this.signal }));
    } catch (error) {
      $("stop").disabled = false;
      if (!this.signal.aborted) showAlert(describe(error), awayIs(error));
    }
  }

  /** Sends a message, or asks it after that run instead of the newest. Throws if the server did not take it. */
  async send(message, runId, agent, after = this.placeOfNext()) {
    const turn = this.add(runId, message, agent, { after, askedAt: Date.now() });
    this.arrange();
    turn.starting = true;
    scrollToEnd();
    showBusy();
    announce("Sent");
    try {
      if (this.id === null) {
        await this.#create();
        showTitle(titleOf(textIn(message)));
      }
      // Kept until the server has it, so that a reload now does not lose the question.
      keepUnsent({ sessionId: this.id, runId, message, agent, after });
      await authorised(() =>
        client.start({
          message,
          runId,
          agent,
          sessionId: this.id,
          afterRunId: after,
          signal: this.signal,
          onRetry: () => showConnection("reconnecting"),
        }),
      );
    } catch (error) {
      if (this.signal.aborted) {
        if (this.id === null) giveBack(message); // else it is sent when the conversation is looked at again
        return;
      }
      this.remove(turn);
      if (error instanceof StreamError) sessionStorage.removeItem(UNSENT_ITEM);
      throw error;
    } finally {
      turn.starting = false;
    }
    sessionStorage.removeItem(UNSENT_ITEM);
    if (turn.cancelled) this.stop();
    if (this.refused) await begin(this);
  }

  async #create() {
    this.id = (await authorised(() => client.createSession({ signal: this.signal }))).id;
    attachments.begun(this.id);
    noteDraft(); // what is typed by now is this conversation's
    drafts.forget(null);
    remember(this.id);
    this.connect();
  }

  /** Begins a live run: a turn whose messages are all said in it. The caller speaks to it. */
  async call(runId, agent) {
    if (this.id === null) await this.#create();
    const turn = this.add(runId, "", agent);
    this.arrange();
    scrollToEnd();
    return turn;
  }
}

function questionOf({ interrupts }) {
  return `A question for you: ${interrupts.map(askedIn).join(" ")}`;
}

function groupBy(values, keyOf) {
  const groups = new Map();
  for (const value of values) {
    const key = keyOf(value);
    if (groups.has(key)) groups.get(key).push(value);
    else groups.set(key, [value]);
  }
  return groups;
}

function titleOf(message) {
  const line = message.trim().split("\n", 1)[0];
  return line.length > TITLE_CHARS_MAX ? `${line.slice(0, TITLE_CHARS_MAX - 1)}…` : line;
}

function showTitle(title) {
  $("title").textContent = title || "New conversation";
  document.title = title ? `${title} · Gapless` : "Gapless";
}

// The tab's one connection.

const line = new Line({
  onFeed: (change) => {
    if (change.type === "deleted") forget(change.session_id);
    list.take(change);
  },
  onState: (state) => {
    lineState = state;
    if (state === "open") reached();
    showBusy();
  },
});

/** Follows what becomes of all conversations while none is shown. */
function connectToNone() {
  line.follow(null, { after: () => undefined, onEvent: () => {}, onGone: () => {}, onRefused: (error) => showAlert(describe(error)) });
}

/** The conversation that is shown was deleted. */
async function gone(which) {
  forget(which.id);
  if (which !== conversation) return;
  await open(null);
  if (!deleting.has(which.id)) showAlert("That conversation no longer exists.");
}

// The session that the page shows.

let conversation = new Conversation(null);

function remember(sessionId) {
  root.dataset.session = sessionId ?? "";
  if (sessionId) localStorage.setItem(LAST_SESSION_ITEM, sessionId);
  else localStorage.removeItem(LAST_SESSION_ITEM);
  const hash = sessionId ? `#${encodeURIComponent(sessionId)}` : "";
  if (location.hash !== hash) {
    // The page as it was first opened is no place to go back to: it would open the same session again.
    const change = history.state === null && location.hash === "" ? "replaceState" : "pushState";
    history[change]({}, "", hash || location.pathname + location.search);
  }
  list.markCurrent();
  showMenu();
}

async function open(sessionId) {
  endCall();
  noteDraft();
  conversation.close();
  conversation = new Conversation(sessionId);
  attachments.show(sessionId);
  $("message").value = drafts.of(sessionId);
  fitMessage();
  const opened = conversation;
  dirty.clear();
  $("messages").replaceChildren();
  showAlert("");
  showConnection("idle");
  showTitle("");
  remember(sessionId);
  opened.loading = sessionId !== null;
  sticking = true;
  withdraw();
  showBusy();
  if (finePointer.matches && !document.querySelector("dialog[open]")) $("message").focus();
  if (sessionId === null) return connectToNone();
  await begin(opened);
}

/** Reads a conversation and follows it; one that cannot be read is tried again when somebody looks. */
async function begin(opened) {
  [opened.unread, opened.refused] = [false, false];
  try {
    await opened.sync();
    opened.connect();
    await resend(opened);
  } catch (error) {
    if (opened.signal.aborted) return;
    opened.loading = false;
    opened.unread = true;
    if (error?.status === 404) {
      await gone(opened);
    } else if (error instanceof StreamError) {
      showAlert(describe(error));
    } else {
      lineState = "lost";
      showBusy();
    }
  }
}

/** Sends what a reload caught between the click and the server's answer. The run's id makes it safe. */
async function resend(opened) {
  const unsent = JSON.parse(sessionStorage.getItem(UNSENT_ITEM) ?? "null");
  if (unsent?.sessionId !== opened.id) return;
  if (opened.turns.has(unsent.runId)) sessionStorage.removeItem(UNSENT_ITEM);
  else await submit(unsent.message, unsent.runId, unsent.agent, unsent.after);
}

async function submit(message, runId, agent, after) {
  showAlert("");
  try {
    await conversation.send(message, runId, agent, after);
  } catch (error) {
    showAlert(`Not sent. ${describe(error)}`, awayIs(error));
    if ($("message").value === "") $("message").value = textIn(message);
    if (attachments.parts.length === 0) attachments.restore(conversation.id, filesIn(message));
    fitMessage();
    noteDraft();
  }
}

/** Asks this in the place of a turn, which stays as an older version. */
function askInstead(turn, message) {
  if (conversation.active()) return;
  submit(message, newId(), several() ? turn.agent : undefined, conversation.placeOf(turn));
  focusMessage();
}

/** On a phone, the field would open the keyboard. */
function focusMessage() {
  (finePointer.matches ? $("message") : $("scroll")).focus();
}

function keepUnsent(unsent) {
  try {
    sessionStorage.setItem(UNSENT_ITEM, JSON.stringify(unsent));
  } catch {
    sessionStorage.removeItem(UNSENT_ITEM); // its files are more than the browser keeps
  }
}

/** The id to send a message under: the same again for a message whose fate is unknown. */
function runIdFor(message, agent) {
  const unsent = JSON.parse(sessionStorage.getItem(UNSENT_ITEM) ?? "null");
  const same = unsent?.sessionId === conversation.id && JSON.stringify(unsent.message) === JSON.stringify(message) && unsent.agent === agent;
  return same ? unsent.runId : newId();
}

// What is typed and not sent: it stays with its conversation.

const drafts = new Drafts();

function noteDraft() {
  drafts.keep(conversation.id, $("message").value);
}

/** Gives back what was to begin a conversation that was left before the server had it, unless something else is typed by now. */
function giveBack(message) {
  if (drafts.of(null) !== "") return;
  drafts.keep(null, textIn(message));
  attachments.restore(null, filesIn(message));
  if (conversation.id !== null) return;
  $("message").value = drafts.of(null);
  fitMessage();
}

/** Forgets what was to be sent to a conversation that is gone. */
function forget(sessionId) {
  if (sessionId === conversation.id) clearMessage();
  drafts.forget(sessionId);
  attachments.forget(sessionId);
}

$("message").value = drafts.of(null); // as for any other, open() keeps what is in the field
$("message").addEventListener("input", noteDraft);
beforeLeaving(() => {
  drafts.clear();
  sessionStorage.removeItem(UNSENT_ITEM);
});

// The list of sessions.

const list = new SessionList({
  read: (options) => authorised(() => client.sessions(options)),
  remove: removeSession,
  rename: renameSession,
  current: () => conversation.id,
  onRemoved: (id) => id === conversation.id && open(null),
});

whenListed((name) => {
  list.ofAgent(name);
  if (name !== undefined && conversation.id === null) showAgent(name); // who looks at its conversations begins one with it
});

const deleting = new Set();

/** Deletes a conversation; false where the server does not. */
async function removeSession(id) {
  deleting.add(id);
  try {
    await authorised(() => client.deleteSession(id));
  } catch (error) {
    if (error?.status !== 404) {
      deleting.delete(id);
      const asks = list.get(id)?.active_run_status === "waiting";
      const busy = asks ? "Its question still waits: answer it, or stop it first." : "Its answer is still coming: stop it first.";
      showAlert(error?.code === "session_busy" ? `Not deleted. ${busy}` : describe(error), awayIs(error));
      return false;
    }
  }
  forget(id);
  announce("Deleted");
  return true;
}

/** Gives a conversation another title: its record; nothing where the server does not. */
async function renameSession(id, title) {
  try {
    const record = await authorised(() => client.renameSession(id, title));
    if (id === conversation.id) showTitle(record.title);
    announce("Renamed");
    return record;
  } catch (error) {
    showAlert(`Not renamed. ${describe(error)}`, awayIs(error));
    return undefined;
  }
}

function exportMarkdown() {
  const turns = conversation.shown().map(({ message, view, agent }) => ({ message, view, agent: several() ? agent : "" }));
  save($("title").textContent, "md", "text/markdown", markdownOf($("title").textContent, turns));
}

/** All that the server has: also older versions, and what was thought and called. */
async function exportJson() {
  const { id, signal } = conversation;
  try {
    const [session, messages] = await authorised(() => Promise.all([client.session(id, { signal }), client.messages(id, { signal })]));
    save(session.title ?? "", "json", "application/json", JSON.stringify({ session, messages }, null, 2));
  } catch (error) {
    if (!signal.aborted) showAlert(describe(error), awayIs(error));
  }
}

// The world coming back.

function comeBack() {
  if (document.hidden) return;
  loadAgents();
  list.refresh();
  if (conversation.unread || conversation.refused) begin(conversation);
}

addEventListener("focus", comeBack);
addEventListener("online", comeBack);
document.addEventListener("visibilitychange", comeBack);
setInterval(() => conversation.unread && comeBack(), AGAIN_MS);
addEventListener("offline", () => {
  lineState = "lost";
  showBusy();
});

addEventListener("hashchange", () => {
  const id = addressed();
  if (id === conversation.id) return;
  showSidebar(false);
  open(id);
});

/** The session that the address names, or null. */
function addressed() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null;
  }
}

// Hands on the page.

function fitMessage() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

$("message").addEventListener("input", fitMessage);
onEnter($("message"), () => $("composer").requestSubmit());
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  const active = conversation.active();
  const files = attachments.parts.length > 0;
  if (talk && text !== "") {
    clearMessage();
    talk.say(text);
    return;
  }
  if ((text === "" && !files) || (active !== null && active.view.status !== "waiting")) return;
  if (active === null) send(text);
  else offer(text, files ? null : (active.shown.questions?.typed ?? null), { onAnswered: clearMessage, onLeave: () => send(text) });
});

const attachments = new Attachments({
  onProblem: showAlert,
  onChange: () => sticking && scrollToEnd(),
});

function clearMessage() {
  $("message").value = "";
  fitMessage();
  noteDraft();
}

function send(text) {
  clearMessage();
  const message = withText(attachments.take(), text);
  submit(message, runIdFor(message, chosenAgent()), chosenAgent());
}

// Talking: a live run of the shown conversation, until it is hung up.

let talk = null;

async function beginCall() {
  closeMenu();
  if (talk || conversation.active()) return;
  showAlert("");
  const [runId, agent, called] = [newId(), chosenAgent(), conversation];
  const turn = await called.call(runId, agent);
  const mine = new Talk({
    runId,
    agent,
    sessionId: called.id,
    onError: (text) => showAlert(text),
    onSpeaking: (speaking) => ($("talking").dataset.speaking = String(speaking)),
    onEnd: () => talk === mine && endCall(),
  });
  talk = mine;
  $("talking-text").textContent = "Calling…";
  $("talking").hidden = false;
  try {
    await mine.begin();
    $("talking-text").textContent = "Speak, or type";
  } catch (error) {
    endCall();
    called.remove(turn);
    showAlert(error.name === "NotAllowedError" ? "The browser does not allow the microphone here." : `There is no microphone: ${error.message}`);
  }
}

function endCall() {
  talk?.leave();
  talk = null;
  $("talking").hidden = true;
  $("talking").dataset.speaking = "false";
  $("mute").setAttribute("aria-pressed", "false");
  if (document.activeElement === document.body) focusMessage();
}

$("talk").addEventListener("click", beginCall);
$("hang-up").addEventListener("click", () => talk?.hangUp());
$("mute").addEventListener("click", () => {
  const muted = $("mute").getAttribute("aria-pressed") !== "true";
  $("mute").setAttribute("aria-pressed", String(muted));
  talk.muted = muted;
});

$("message").addEventListener("input", withdraw);
$("stop").addEventListener("click", () => conversation.stop());
onEscape(document, () => {
  if (document.querySelector("dialog[open]")) return;
  if (!$("offer").hidden) withdraw();
  else if ($("more").open) closeMenu();
  else if (root.hasAttribute("data-sidebar")) showSidebar(false);
  else conversation.stop();
});
function showMenu() {
  $("talk").hidden = !canTalk();
  for (const name of ["export-markdown", "export-json"]) $(name).disabled = conversation.id === null;
}

$("more").addEventListener("toggle", () => {
  showAccess();
  showMenu();
});

function closeMenu() {
  $("more").open = false;
  $("more").querySelector("summary").focus();
}

$("export-markdown").addEventListener("click", () => (exportMarkdown(), closeMenu()));
$("export-json").addEventListener("click", () => (exportJson(), closeMenu()));
document.addEventListener("click", ({ target }) => {
  if (!$("more").contains(target)) $("more").open = false;
});
$("new").addEventListener("click", () => {
  showSidebar(false);
  open(null);
  $("message").focus();
});
// Without a key there is nothing to close the dialog for.
$("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
$("to-end").addEventListener("click", scrollToEnd);
$("scroll").addEventListener("scroll", () => {
  const node = $("scroll");
  sticking = node.scrollHeight - node.scrollTop - node.clientHeight < STICK_PX;
  $("to-end").hidden = sticking;
});
new ResizeObserver(() => {
  if (sticking) scrollToEnd();
}).observe($("scroll"));
$("messages").addEventListener("click", ({ target }) => {
  if (target.matches("button.copy")) copyFrom(target, target.closest("figure").querySelector("code").textContent);
});

function showSidebar(shown) {
  const holder = document.activeElement;
  root.toggleAttribute("data-sidebar", shown);
  $("menu").setAttribute("aria-expanded", String(shown));
  $("shade").hidden = !shown;
  $("sidebar").inert = narrow.matches && !shown;
  if (shown) $("new").focus();
  else if (narrow.matches && (holder === document.body || $("sidebar").contains(holder))) $("menu").focus();
}

$("menu").addEventListener("click", () => showSidebar(!root.hasAttribute("data-sidebar")));
$("shade").addEventListener("click", () => showSidebar(false));
narrow.addEventListener("change", () => showSidebar(false));

showSidebar(false);
loadAgents();
list.refresh();
open(addressed() ?? localStorage.getItem(LAST_SESSION_ITEM));
