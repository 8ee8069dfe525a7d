/** The window on what runs: the list of runs, filtered, page by page, live; `run-view.js` shows one of them. */

import { authorised, getJson, serversAgents, showAccess } from "./api.js";
import { $, el } from "./dom.js";
import { RunView } from "./run-view.js";
import { announce, awayIs, describe, reached, showAlert, showConnection } from "./say.js";

const PAGE = 50;
/** So often the newest runs are read again, while the page is seen. */
const LOOK_MS = 2_000;
/** So long nothing more is typed before it is looked for. */
const TYPED_MS = 250;

const filters = $("filters");
const rows = new Map(); // run id → its row
let next; // the cursor behind the oldest run that was read
let list = 0; // which list that is: another filter is another one
let typing = null;

const view = new RunView($("run"), { onChanged: () => look() });

function wanted() {
  const params = new URLSearchParams({ limit: String(PAGE) });
  for (const [name, value] of new FormData(filters)) {
    if (value === "") continue;
    params.set(name, name === "since" ? String(Date.now() - Number(value) * 60_000) : value.trim());
  }
  return params;
}

async function read(after) {
  const params = wanted();
  if (after !== undefined) params.set("after", after);
  const page = await authorised(() => getJson(`runs?${params}`));
  $("user").hidden = !page.operator;
  return page;
}

/** Begins the list anew, after another filter. */
async function begin() {
  const mine = (list += 1);
  try {
    const page = await read();
    if (mine !== list) return;
    rows.clear();
    $("runs").replaceChildren();
    for (const run of page.runs) put(run, null);
    await fill(page.next, mine);
    said(null);
  } catch (error) {
    if (mine === list) said(error);
  }
}

/** A page may have found nothing in the time that one may take: it is looked on until there is something to see. */
async function fill(cursor, mine) {
  next = cursor;
  while (rows.size < PAGE / 2 && next !== undefined) {
    $("runs-end").textContent = "Looking…";
    const page = await read(next);
    if (mine !== list) return;
    for (const run of page.runs) put(run, null);
    next = page.next;
  }
  showEnd();
}

const filtered = () => [...new FormData(filters).values()].some((value) => value !== "");

function showEnd() {
  $("older").hidden = next === undefined;
  const text = rows.size > 0 ? "" : filtered() ? "No runs are like that." : "No runs yet. What is asked is here as soon as it is.";
  if ($("runs-end").textContent !== text) $("runs-end").textContent = text; // it is read out when it changes
}

/** Reads the newest again: those that are there change in their place, new ones come before them. */
async function look() {
  if (document.hidden) return;
  const mine = list;
  try {
    const page = await read();
    if (mine !== list) return;
    let before = $("runs").firstElementChild;
    for (const run of page.runs) {
      if (rows.has(run.id)) before = put(run).nextElementSibling;
      else put(run, before);
    }
    drop(page);
    if (rows.size > 0 || next === undefined) showEnd();
    said(null);
  } catch (error) {
    if (mine === list) said(error);
  }
}

/** Takes away what is no longer in the part of the list that a page is of: another status, say, or deleted. */
function drop({ runs, next: further }) {
  const there = new Set(runs.map(({ id }) => id));
  const last = further === undefined ? null : rows.get(runs.at(-1)?.id)?.node;
  if (last === undefined) return;
  for (const [id, { node }] of rows) {
    const within = last === null || last.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_PRECEDING;
    if (within && !there.has(id)) node.remove(), rows.delete(id);
  }
}

function said(error) {
  if (error === null) reached(); // what was refused stays, to be read
  else showAlert(describe(error), true);
  showConnection(error === null ? "open" : awayIs(error) ? "lost" : "open");
}

/** Shows a run: in its place, or before another row (null: at the end). */
function put(run, before) {
  let row = rows.get(run.id);
  if (row === undefined) {
    const status = el("span", { class: "status" });
    const message = el("span", { class: "message" });
    const time = el("time");
    const about = el("span", { class: "about" });
    const link = el("a", { href: `#${encodeURIComponent(run.id)}`, "data-testid": "row" }, status, message, time, about);
    row = { node: el("li", {}, link), link, status, message, time, about };
    rows.set(run.id, row);
    $("runs").insertBefore(row.node, before ?? null);
  }
  row.status.dataset.status = row.status.textContent = run.status;
  row.message.textContent = run.message || "(no text)";
  const made = new Date(run.created_at);
  row.time.dateTime = made.toISOString();
  row.time.textContent = whenOf(made);
  row.time.title = made.toLocaleString();
  const tokens = (run.usage ?? []).reduce((sum, it) => sum + (it.input_tokens ?? 0) + (it.output_tokens ?? 0), 0);
  const parts = [run.agent, run.user_id, tookOf(run), tokens > 0 ? `${tokens.toLocaleString()} tokens` : "", run.status === "failed" ? (run.error?.message ?? "") : ""];
  row.about.textContent = parts.filter(Boolean).join(" · ");
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
$("older").addEventListener("click", async () => {
  const mine = list;
  try {
    const page = await read(next);
    if (mine !== list) return;
    for (const run of page.runs) if (!rows.has(run.id)) put(run, null);
    next = page.next;
    showEnd();
    announce(`${rows.size} runs`);
  } catch (error) {
    said(error);
  }
});
addEventListener("hashchange", open);

open();
await begin();
showAccess();
setInterval(look, LOOK_MS);
try {
  for (const { name } of await serversAgents()) $("agents").append(el("option", { value: name }));
} catch {
  // names are typed then
}
