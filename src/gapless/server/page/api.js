/** The server, as this page calls it: with the key that it asks for. */

import { $ } from "./dom.js";
import { reached } from "./say.js";
import { GaplessClient, StreamError } from "./stream.js"; // of the npm package: `/static` serves both folders

const KEY_ITEM = "gapless.key";
/** What is done before somebody leaves holds them up no longer. */
const LEAVE_MS = 3000;

export const baseUrl = new URL("../", import.meta.url); // this file is <base>/static/api.js
export const client = new GaplessClient({ baseUrl: baseUrl.href, headers: keyHeader });

let asking = null;

function keyHeader() {
  const key = sessionStorage.getItem(KEY_ITEM);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Calls, and asks for a key as often as the server wants one. */
export async function authorised(call) {
  for (;;) {
    const key = sessionStorage.getItem(KEY_ITEM);
    try {
      const answer = await call();
      reached();
      return answer;
    } catch (error) {
      if (error?.status !== 401) throw error;
      if (sessionStorage.getItem(KEY_ITEM) !== key) continue; // another call has asked meanwhile
      asking ??= askForKey(Boolean(key)).finally(() => (asking = null));
      await asking;
    }
  }
}

/** Where people log in and out, as the server has it; undefined where they have a key, or need nothing. */
const { login, logout } = document.documentElement.dataset;

/** Goes to where people log in, and back from there where that place can. */
function goToLogIn() {
  location.href = login.replaceAll("{next}", encodeURIComponent(location.href));
}

const leaving = [];

/** Has `done()` done before the user logs out, or the key is forgotten. */
export function beforeLeaving(done) {
  leaving.push(done);
}

async function leave() {
  await Promise.race([Promise.allSettled(leaving.map(async (done) => done())), new Promise((resolve) => setTimeout(resolve, LEAVE_MS))]);
}

/** A browser's WebSocket carries no key. */
export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY_ITEM));
}

/** Shows what of logging in and out there is: a way out, or a key to forget. */
export function showAccess() {
  $("log-out").hidden = logout === undefined;
  $("forget-key").hidden = !sessionStorage.getItem(KEY_ITEM);
}

$("log-in").addEventListener("click", goToLogIn);
$("login-dialog").addEventListener("cancel", (event) => event.preventDefault());
$("log-out").addEventListener("click", async () => {
  await leave();
  location.href = logout;
});
$("forget-key").addEventListener("click", async () => {
  await leave();
  sessionStorage.removeItem(KEY_ITEM);
  location.reload();
});

function askForKey(refused) {
  if (login !== undefined) {
    if (!$("login-dialog").open) $("login-dialog").showModal();
    return new Promise(() => {}); // the page is left for it
  }
  const dialog = $("key-dialog");
  $("key-refused").hidden = !refused;
  $("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        sessionStorage.setItem(KEY_ITEM, $("key").value.trim());
        resolve();
      },
      { once: true },
    );
  });
}

/** The bytes of a file in an answer, as a `Blob`. */
export async function fetchFile(runId, { data, blob, url, mimeType, name, version }) {
  if (data !== null) return blobOf(data, mimeType);
  if (version !== undefined) return fetchArtifact(runId, name, version);
  const own = blob !== null; // only the server itself is told the key
  const address = own ? new URL(`runs/${encodeURIComponent(runId)}/blobs/${blob}`, baseUrl) : new URL(url, baseUrl);
  return authorised(async () => {
    const response = await fetch(address, { headers: own ? keyHeader() : {} });
    if (!response.ok) throw Object.assign(new Error(`${response.status}`), { status: response.status });
    return response.blob();
  });
}

function blobOf(data, type) {
  const bytes = Uint8Array.from(atob(data.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** One version of an artifact of the run's session, which comes as a part of ADK's. */
async function fetchArtifact(runId, name, version) {
  const run = await authorised(() => getJson(`runs/${encodeURIComponent(runId)}`));
  const [app, user, session] = [run.agent, run.user_id, run.session_id].map(encodeURIComponent);
  const path = name.split("/").map(encodeURIComponent).join("/");
  const part = await authorised(() => getJson(`apps/${app}/users/${user}/sessions/${session}/artifacts/${path}/versions/${version}`));
  if (part.inlineData) return blobOf(part.inlineData.data, part.inlineData.mimeType);
  if (part.text === undefined) throw new Error(part.fileData ? `it is at ${part.fileData.fileUri}` : "it has no bytes");
  return new Blob([part.text], { type: "text/plain" });
}

/** MathML for formulas, `{ tex, display }`, each as `[name, attributes, children]`; null for one that is none. */
export async function setFormulas(formulas) {
  const made = await authorised(async () => {
    const headers = { ...keyHeader(), "content-type": "application/json" };
    const response = await fetch(new URL("formulas", baseUrl), { method: "POST", headers, body: JSON.stringify({ formulas }) });
    if (!response.ok) throw Object.assign(new Error(response.statusText), { status: response.status });
    return response.json();
  });
  return made.formulas;
}

/** The server's agents, `{ name, live }`, the default one first. */
export async function serversAgents() {
  const models = await authorised(async () => {
    const response = await fetch(new URL("v1/models", baseUrl), { headers: keyHeader(), cache: "no-store" });
    if (!response.ok) throw Object.assign(new Error(response.statusText), { status: response.status });
    return response.json();
  });
  return models.data.map(({ id, live = false }) => ({ name: id, live }));
}

/** What the server answers at a path of its own, called with the key; `body` is posted, or sent otherwise. Throws a `StreamError`. */
export async function getJson(path, body, method = "POST") {
  const post = body === undefined ? {} : { method, body: JSON.stringify(body) };
  const headers = { ...keyHeader(), accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }) };
  const response = await fetch(new URL(path, baseUrl), { ...post, headers, cache: "no-store" });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const { message = response.statusText, code = String(response.status) } = answer.error ?? {};
    throw new StreamError(message, { code, status: response.status });
  }
  return answer;
}
