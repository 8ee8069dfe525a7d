/** What the client scripts share: the cases that they run, and how they report them. */

import { writeFileSync } from "node:fs";

import { createDurableFetch } from "../../src/gapless/server/gapless-client/client.js";

/** `urls`: the server by kind of cut (`none`, `abrupt`, `mid-frame`, `clean`); `report`: the file for what came of it;
 * `reconnect`: by wire, what a server says that is about to stop; `cuts`: how often each answer is cut. */
export const { urls, report, reconnect, cuts } = JSON.parse(process.env.GAPLESS_TEST);
export const CUTS = ["abrupt", "mid-frame", "clean"];
export const ALL = ["none", ...CUTS];

/** Quick to come back: the waits between attempts are not what is tested. */
export const durable = (fetch) =>
  createDurableFetch({ fetch, limits: { retryDelayMsMin: 1, retryDelayMsMax: 5, attemptsMax: 30 } });

/** How long a case that hangs is waited for; what is right is never as slow. */
const CASE_MS_MAX = 120_000;
/** So many run at once: all of them would be heard so late by one server on a busy machine that clients give up. */
const CASES_AT_ONCE = 8;
const cases = [];

/** Adds a case; `run` returns what is reported of it. The name is also its session, so that its runs can be found. */
export function define(name, run) {
  cases.push({ name, run });
}

/** What a case returned, or its error. */
async function told(name, run) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the case takes too long")), CASE_MS_MAX);
  });
  try {
    return await Promise.race([run(name), late]);
  } catch (error) {
    return { failed: [error?.stack ?? error, error?.cause?.stack].filter(Boolean).join("\n") };
  } finally {
    clearTimeout(timer);
  }
}

/** Runs all cases and reports, by name, what became of each. */
export async function runAll() {
  const warned = [];
  console.error = console.warn = (...args) => warned.push(args.map(String).join(" ").slice(0, 300));
  // Some clients leave the rejections of readers that they cancel unhandled.
  process.on("unhandledRejection", (error) => warned.push(`unhandled: ${error}`));
  // undici 7, Node's own fetch, ends the process where a connection ends while some of its body waits to be read. Left
  // alone, the body comes whole.
  process.on("uncaughtException", (error) => {
    if (!error.message.includes("assert(!this.paused)")) throw error;
    warned.push(`uncaught: ${error}`);
  });
  const results = {};
  const next = cases.values();
  const turns = async () => {
    for (const { name, run } of next) results[name] = await told(name, run);
  };
  await Promise.all(Array.from({ length: CASES_AT_ONCE }, turns));
  // A file, because what is written to a pipe is lost when the process exits.
  writeFileSync(report, JSON.stringify({ results, warned }));
  process.exit(0);
}

/** A `fetch` whose first stream ends as a server ends it that is about to stop: with a frame that says so. */
export function leaving(reconnect) {
  let left = false;
  return async (url, init) => {
    const response = await fetch(url, init);
    if (left || !response.ok || response.body === null) return response;
    left = true;
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let seen = "";
    while (seen.length < 2000) seen += decoder.decode((await reader.read()).value, { stream: true });
    reader.cancel();
    const whole = seen.slice(0, seen.lastIndexOf("\n\n", 2000) + 2); // also where all of it was there
    const place = [...whole.matchAll(/^id: ?(.*)$/gm)].at(-1)?.[1] ?? "0";
    const body = whole + reconnect.replace("PLACE", place);
    return Object.defineProperty(new Response(body, response), "url", { value: response.url });
  };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `condition()` holds. */
export async function until(condition) {
  while (!condition()) await sleep(2);
}

/** Lets the runs of a session go on that are `held`. */
export const go = (session) => post(`${urls.none}/runs`, { message: `go ${session}` });

export async function post(url, body) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  return response.status === 204 ? undefined : response.json();
}
