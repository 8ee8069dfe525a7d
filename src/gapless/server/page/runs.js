/** The window on what runs: the list of runs, filtered, page by page, live; `run-view.js` shows one of them. */

import { authorised, getJson, serversAgents, showAccess } from "./api.js";
import { $, el, says } from "./dom.js";
import { Line } from "./line.js";
import { RunView } from "./run-view.js";
import { announce, describe, reached, showAlert, showConnection } from "./say.js";

const PAGE = 50;
/** Rows that are read again in one request. */
const AGAIN_MAX = 200;
/** What changes at once is looked at once. */
const SOON_MS = 100;
/** Of the time that its looks take, a page of a busy server rests so many times as long. */
const RESTS = 5;
/** So many conversations that have changed are looked at one by one; of more the list is read again. */
const EACH_MAX = 4;
/** So often is looked at what no stream tells: the list, or the shown run. */
const LOOK_MS = 2_000;
/** So often the shown run is looked at while its stream is there: that says nothing of its coming to another worker. */
const MOVED_MS = 5_000;
/** So long nothing more is typed before it is looked for. */
const TYPED_MS = 100;

const filters = $("filters");
const rows = new Map(); // run id → its row
const changed = new Set(); // conversations of which something has changed since they were looked at
let whole = false; // any may have
let due = null; // the timer of the next look
let took = 0; // the last one, in ms
let isAway = true; // the stream that says what changes
let followed; // the run whose events that carries, and whether it is an operator's
let isUntold = false; // the shown run's events are on no stream
let polling; // the timer of looks at what is not told,
let pollingMs; // and how often that is
let next; // the cursor behind the oldest run that was read
let sought = new FormData(filters); // what the list is of, while more may be typed
let list = 0; // which list that is: another filter is another one
let filling = false; // it is being read, or looked on for runs; looks wait for that
let looking; // the look that is under way, or was the last
let operator = false;
let isReady = false; // the list was read: it is known whose it is
let typing = null;

const view = new RunView($("run"), { onChanged: () => lookSoon(true), onLooked: follow });
const line = new Line({ everyone: () => operator, onFeed: hear, onState: isNow });

async function read(asked) {
  const params = new URLSearchParams();
  for (const [name, value] of sought) {
    if (value === "") continue;
    params.set(name, name === "since" ? String(Date.now() - Number(value) * 60_000) : value.trim());
  }
  for (const [name, value] of Object.entries({ limit: PAGE, ...asked })) if (value !== undefined) params.set(name, value);
  const page = await authorised(() => getJson(`runs?${params}`));
  if (operator !== (page.operator === true)) {
    operator = !operator;
    $("user").hidden = !operator;
    follow();
  }
  return page;
}

/** Begins the list anew, after another filter. */
async function begin() {
  const mine = (list += 1);
  filling = true;
  sought = new FormData(filters);
  try {
    const page = await read();
    if (mine !== list) return;
    rows.clear();
    $("runs").replaceChildren();
    await fill(page, mine, PAGE / 2);
    said(null);
  } catch (error) {
    if (mine === list) said(error);
  } finally {
    if (mine === list) filling = false;
  }
}

/** Goes on with it. A look that is under way ends first: it drops what it has not found. */
async function goOn() {
  if (filling) return;
  const mine = list;
  filling = true;
  try {
    await looking;
    if (mine === list) await fill(await read({ after: next }), mine, rows.size + PAGE / 2);
    if (mine === list) announce(`${rows.size} runs`);
  } catch (error) {
    said(error);
  } finally {
    if (mine === list) filling = false;
  }
}

/** A page may have found nothing in the time that one may take: it is looked on until there is something to see. */
async function fill(page, mine, wanted) {
  for (let looked = 0; ; page = await read({ after: next })) {
    if (mine !== list) return;
    for (const run of page.runs) if (!rows.has(run.id)) put(run, null);
    next = page.next;
    if (rows.size >= wanted || next === undefined) break;
    looked += page.looked;
    $("runs-end").textContent = `Looked at ${looked.toLocaleString()} of ${(looked + page.left).toLocaleString()} runs, and looking on…`;
  }
  showEnd();
}

const filtered = () => [...sought.values()].some((value) => value !== "");

function showEnd() {
  $("older").hidden = next === undefined;
  const text = rows.size > 0 ? "" : filtered() ? "No runs are like that." : "No runs yet. What is asked is here as soon as it is.";
  if ($("runs-end").textContent !== text) $("runs-end").textContent = text; // it is read out when it changes
}

/**
 * Follows on the tab's one connection what becomes of all conversations, and the events of the run that is shown while
 * it goes on. That there is one is all that is taken of them: the run's timeline is looked at then.
 */
function follow() {
  const run = view.going;
  const wanted = `${run?.id ?? ""} ${operator}`;
  if (!isReady || wanted === followed) return;
  followed = wanted;
  isUntold = false;
  const alone = { after: () => undefined, onEvent: () => {}, onGone: () => {}, onRefused: (error) => (said(error), isNow("lost")) };
  if (run === null) return void line.follow(null, alone);
  let place = `${run.id}:${run.last_seq}`;
  const onEvent = ({ id, runId = run.id }) => {
    place = id;
    if (runId === run.id) view.hear();
  };
  const onGone = () => {
    isUntold = true;
    watch();
    view.hear();
    line.follow(null, alone);
  };
  line.follow(run.session_id, { after: () => place, onEvent, onGone, onRefused: onGone });
}

function isNow(state) {
  showConnection(state);
  isAway = state !== "open";
  watch();
}

/** Looks now and then at what is not told. */
function watch() {
  const wanted = isAway || isUntold ? LOOK_MS : MOVED_MS;
  if (wanted === pollingMs) return;
  pollingMs = wanted;
  clearInterval(polling);
  polling = setInterval(() => (isAway && lookSoon(true), view.hear()), wanted);
}

/** Hears from the stream which conversation has changed, or that any may have. */
function hear({ type, session, session_id: id = session?.id }) {
  if (type !== "reset") changed.add(id);
  lookSoon(type === "reset");
}

function lookSoon(all) {
  whole ||= all;
  if (due === null) lookIn(Math.max(SOON_MS, RESTS * took));
}

function lookIn(ms) {
  due = setTimeout(() => (looking = look()), ms);
}

/** Looks at what has changed of what is shown. */
async function look() {
  if (document.hidden) return void (due = null); // it is seen later
  if (filling) return lookIn(SOON_MS);
  const [mine, began, ids, all] = [list, performance.now(), [...changed], whole || changed.size > EACH_MAX];
  changed.clear();
  whole = false;
  try {
    if (all) await lookAtAll(mine);
    else for (const id of ids) await lookAt(id, mine);
    if (mine === list) showEnd();
    said(null);
  } catch (error) {
    if (mine === list) said(error);
    whole = true;
  }
  took = performance.now() - began;
  due = null;
  if (whole || changed.size > 0) lookIn(Math.max(whole ? LOOK_MS / 4 : SOON_MS, RESTS * took));
}

/** Looks at the runs of one conversation: changes those that are shown, and puts others where they belong. */
async function lookAt(id, mine) {
  const { runs, next: further } = await read({ session_id: id, limit: AGAIN_MAX });
  if (mine !== list) return;
  const there = new Set(runs.map((run) => run.id));
  const oldest = further === undefined ? -Infinity : (runs.at(-1)?.created_at ?? Infinity);
  for (const row of rows.values()) {
    if (row.run.session_id === id && row.run.created_at >= oldest && !there.has(row.run.id)) drop(row);
  }
  for (const run of runs) {
    if (rows.has(run.id)) put(run);
    else if (next === undefined || run.created_at >= (oldestShown()?.created_at ?? 0)) put(run, firstBehind(run));
  }
}

/** Reads again all that is shown: those that are there change in their place, new ones come where they belong. */
async function lookAtAll(mine) {
  const [last, there] = [oldestShown(), new Set()];
  let before = $("runs").firstElementChild;
  let after;
  for (let isPast = false; !isPast; ) {
    const page = await read({ after, limit: Math.min(AGAIN_MAX, Math.max(PAGE, rows.size)) });
    if (mine !== list) return;
    for (const run of page.runs) {
      there.add(run.id);
      if (rows.has(run.id)) before = put(run).nextElementSibling;
      else put(run, before);
    }
    after = page.next;
    isPast = after === undefined || last === undefined || there.has(last.id) || page.runs.at(-1)?.created_at < last.created_at;
  }
  for (const row of rows.values()) if (!there.has(row.run.id)) drop(row);
  next = after;
}

const oldestShown = () => rows.get($("runs").lastElementChild?.dataset.id)?.run;

/** The row before which a run is listed: the newest that is not newer than it. */
function firstBehind(run) {
  return [...$("runs").children].find(({ dataset }) => rows.get(dataset.id).run.created_at <= run.created_at) ?? null;
}

function drop({ node, run }) {
  node.remove();
  rows.delete(run.id);
}

function said(error) {
  if (error === null) reached(); // what was refused stays, to be read
  else showAlert(describe(error), true);
}

/** Shows a run: in its place, or before another row (null: at the end). */
function put(run, before) {
  let row = rows.get(run.id);
  if (row === undefined) {
    const status = el("span", { class: "status" });
    const message = el("span", { class: "message", dir: "auto" });
    const time = el("time");
    const about = el("span", { class: "about" });
    const link = el("a", { href: `#${encodeURIComponent(run.id)}`, "data-testid": "row" }, status, message, time, about);
    row = { node: el("li", { "data-id": run.id }, link), link, status, message, time, about };
    rows.set(run.id, row);
    $("runs").insertBefore(row.node, before ?? null);
  }
  row.run = run;
  row.status.dataset.status = run.status;
  says(row.status, run.status);
  says(row.message, run.message || "(no text)");
  const made = new Date(run.created_at);
  row.time.dateTime = made.toISOString();
  says(row.time, whenOf(made));
  row.time.title = made.toLocaleString();
  const tokens = (run.usage ?? []).reduce((sum, it) => sum + (it.input_tokens ?? 0) + (it.output_tokens ?? 0), 0);
  const parts = [run.agent, run.user_id, tookOf(run), tokens > 0 ? `${tokens.toLocaleString()} tokens` : "", run.status === "failed" ? (run.error?.message ?? "") : ""];
  says(row.about, parts.filter(Boolean).join(" · "));
  row.link.toggleAttribute("aria-current", run.id === view.runId);
  return row.node;
}

/** The time of what is of today, else the day with it. */
function whenOf(made) {
  const time = { hour: "2-digit", minute: "2-digit" };
  if (made.toDateString() === new Date().toDateString()) return made.toLocaleTimeString([], { ...time, second: "2-digit" });
  const year = made.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return made.toLocaleString([], { ...year, month: "short", day: "numeric", ...time });
}

function tookOf({ started_at: started, ended_at: ended }) {
  return started && ended ? `${((ended - started) / 1000).toFixed(1)} s` : "";
}

function open() {
  let id = location.hash.slice(1);
  try {
    id = decodeURIComponent(id);
  } catch {
    // A link that was cut within a character: no run has this id, and the list is there.
  }
  view.show(id);
  for (const [runId, { link }] of rows) link.toggleAttribute("aria-current", runId === id);
  document.title = id ? `Run ${id} · Gapless` : "Runs · Gapless";
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(begin, target.tagName === "SELECT" ? 0 : TYPED_MS);
});
$("older").addEventListener("click", goOn);
addEventListener("hashchange", open);
document.addEventListener("visibilitychange", () => (lookSoon(false), view.hear()));

open();
await begin();
showAccess();
isNow("connecting");
isReady = true;
follow();
try {
  for (const { name } of await serversAgents()) $("agents").append(el("option", { value: name }));
} catch {
  // names are typed then
}
