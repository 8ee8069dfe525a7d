/** The durable fetch itself: every byte, whatever is cut; and what it leaves alone. */

import { createDurableFetch, StreamError } from "../../src/gapless/server/gapless-client/client.js";
import { ALL, define, durable, post, runAll, until, urls } from "./cases.mjs";

const text = async (response) => new TextDecoder("utf-8", { fatal: true }).decode(await response.arrayBuffer());

for (const cut of ALL) {
  for (const wire of ["ag-ui", "vercel", "text"]) {
    define(`durable.${wire}.${cut}.bytes`, async (name) => {
      const runId = `${name}-run`;
      const path = `/runs/${runId}/events?wire=${wire}&merge=0`;
      await post(`${urls.none}/runs`, { message: "rich", session_id: name, run_id: runId });
      // To its end: it is all in the journal now.
      const whole = await text(await fetch(urls.none + path));
      const stitched = await text(await durable()(urls[cut] + path));
      return { same: stitched === whole, bytes: whole.length, stitched: stitched.length };
    });
  }
  define(`durable.abort.${cut}.read`, async (name) => {
    const { id } = await post(`${urls.none}/runs`, { message: "endless 1", session_id: name, run_id: `${name}-run` });
    const abort = new AbortController();
    const response = await durable()(`${urls[cut]}/runs/${id}/events`, { signal: abort.signal });
    const reader = response.body.getReader();
    for (let bytes = 0; bytes < 5000; ) bytes += (await reader.read()).value.length;
    abort.abort(new Error("enough"));
    let error;
    try {
      while (!(await reader.read()).done);
    } catch (raised) {
      error = raised.message;
    }
    await post(`${urls.none}/runs/${id}/cancel`);
    return { error };
  });
}
define("durable.none.none.passes-errors-on", async () => {
  const response = await durable()(`${urls.none}/runs/nothing/events`);
  return { status: response.status, body: await response.json() };
});
define("durable.none.none.passes-json-on", async () => (await durable()(`${urls.none}/health`)).json());
define("durable.none.none.aborted-before", async () => {
  try {
    await durable()(`${urls.none}/health`, { signal: AbortSignal.abort(new Error("no")) });
  } catch (error) {
    return { error: error.message };
  }
  return {};
});
define("durable.none.none.gives-up", async (name) => {
  // The first answer is cut and no other comes.
  const { id } = await post(`${urls.none}/runs`, { message: "rich 1", session_id: name, run_id: `${name}-run` });
  let calls = 0;
  const fails = async (url, init) => {
    calls += 1;
    if (calls > 1) throw new TypeError("fetch failed");
    const response = await fetch(url, init);
    const [piece] = await Promise.all([response.body.getReader().read()]);
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(piece.value.slice(0, 300)); // also where all of it was there
        controller.close();
      },
    });
    return Object.defineProperty(new Response(body, response), "url", { value: response.url });
  };
  const limits = { retryDelayMsMin: 1, retryDelayMsMax: 2, attemptsMax: 4 };
  const response = await createDurableFetch({ fetch: fails, limits })(`${urls.none}/runs/${id}/events`);
  try {
    await response.text();
  } catch (error) {
    return { name: error.name, message: error.message, cause: error.cause?.code, calls };
  }
  return {};
});
/** A server that is away twice, and then is there; what was asked of it. */
async function away(lost, limits, input, init) {
  const calls = [];
  const flaky = async (url, options) => {
    calls.push(`${options.method} ${url} ${options.body}`);
    if (calls.length > 2) return fetch(url, options);
    if (lost === "network") throw new TypeError("fetch failed");
    return new Response("later", { status: 503, headers: { "retry-after": "0", ...lost } });
  };
  const doFetch = createDurableFetch({ fetch: flaky, limits: { retryDelayMsMin: 1, retryDelayMsMax: 2, ...limits } });
  const headers = { "content-type": "application/json", accept: "text/event-stream", ...init.headers };
  try {
    const response = await doFetch(input, { method: "POST", ...init, headers });
    const ended = (await response.text()).includes("event: end");
    return { calls: calls.length, same: new Set(calls).size === 1, status: response.status, ended };
  } catch (error) {
    return { calls: calls.length, error: error.name };
  }
}
for (const lost of ["network", "status"]) {
  define(`durable.start.${lost}.named`, async (name) => {
    const json = (body) => JSON.stringify({ message: "hi", session_id: name, ...body });
    const runs = `${urls.none}/runs`;
    const chat = { model: "rich", stream: true, messages: [{ role: "user", content: "hi" }] };
    const agui = { threadId: `${name}-agui`, state: {}, messages: [{ id: "1", role: "user", content: "hi" }], tools: [], context: [] };
    return Promise.all([
      away(lost, {}, runs, { body: json({ run_id: `${lost}-body` }) }),
      away(lost, {}, `${urls.none}/ag-ui`, { body: JSON.stringify({ ...agui, runId: `${lost}-agui` }) }),
      away(lost, {}, `${urls.none}/chat/stream?run_id=${lost}-query`, { body: JSON.stringify({ query: "hi", run_id: `${lost}-query` }) }),
      away(lost, {}, `${urls.none}/v1/chat/completions`, { body: JSON.stringify(chat), headers: { "X-Run-Id": `${lost}-header` } }),
      away(lost, {}, `${urls.none}/v1/chat/completions`, { body: JSON.stringify(chat), headers: { "Idempotency-Key": lost } }),
    ]);
  });
  define(`durable.start.${lost}.unnamed`, async (name) =>
    Promise.all([
      away(lost, {}, `${urls.none}/runs`, { body: JSON.stringify({ message: "hi", session_id: name }) }),
      away(lost, {}, `${urls.none}/runs`, { body: "no JSON" }),
      away(lost, {}, `${urls.none}/runs`, { body: new TextEncoder().encode('{"run_id":"r"}') }),
      away(lost, { postAttemptsMax: 2 }, `${urls.none}/runs`, { body: '{"run_id":"r"}' }),
      away(lost === "status" ? { "x-should-retry": "false" } : lost, { postAttemptsMax: 1 }, `${urls.none}/runs`, { body: '{"run_id":"r"}' }),
    ]),
  );
}
define("durable.start.aborted", async () => {
  const limits = { retryDelayMsMin: 60_000, retryDelayMsMax: 60_000 };
  const gone = async () => {
    setTimeout(() => abort.abort(new Error("enough")), 5);
    throw new TypeError("fetch failed");
  };
  const abort = new AbortController();
  try {
    await createDurableFetch({ fetch: gone, limits })(`${urls.none}/runs`, { body: '{"run_id":"r"}', signal: abort.signal });
  } catch (error) {
    return { error: error.message };
  }
  return {};
});
define("durable.none.none.elsewhere", async () => {
  // What another server's stream is said to be does not get this one's headers.
  const calls = [];
  const names = async (url) => {
    calls.push(url);
    const headers = { "content-type": "text/event-stream", "content-location": "http://elsewhere.invalid/stream" };
    return Object.defineProperty(new Response("data: 1\n\n", { headers }), "url", { value: `${urls.none}/x` });
  };
  return { text: await text(await createDurableFetch({ fetch: names })(`${urls.none}/x`)), calls: calls.length };
});
define("durable.none.none.stalls", async (name) => {
  // The first connection goes silent and is never closed.
  const { id } = await post(`${urls.none}/runs`, { message: "rich", session_id: name, run_id: `${name}-run` });
  const url = `${urls.none}/runs/${id}/events`;
  let hung = 0;
  const stalls = async (target, init) => {
    const response = await fetch(target, init);
    if (hung) return response;
    hung += 1;
    const { value } = await response.body.getReader().read();
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(value.slice(0, 300));
        init.signal.addEventListener("abort", () => controller.error(init.signal.reason));
      },
    });
    return Object.defineProperty(new Response(body, response), "url", { value: response.url });
  };
  const limits = { retryDelayMsMax: 2, idleTimeoutMs: 500, attemptsMax: 10_000 }; // a busy server may be heard late, too
  const frames = (await text(await createDurableFetch({ fetch: stalls, limits })(url))).split("\n\n");
  const lines = frames.flatMap((frame) => frame.split("\n")).filter((line) => line.startsWith("data: "));
  const events = lines.map((line) => JSON.parse(line.slice("data: ".length)));
  const said = events.filter((event) => event.type === "TEXT_MESSAGE_CONTENT").map((event) => event.delta);
  return { text: said.join(""), hung };
});
define("durable.none.none.refused-later", async (name) => {
  const { id } = await post(`${urls.none}/runs`, { message: "rich 1", session_id: name, run_id: `${name}-run` });
  const url = `${urls.none}/runs/${id}/events`;
  const broken = async (target, init) => {
    const response = await fetch(target, init);
    if (init.headers) return fetch(`${urls.none}/runs/gone/events`);
    const reader = response.body.getReader();
    const { value } = await reader.read();
    return Object.defineProperty(new Response(value.slice(0, 300), response), "url", { value: response.url });
  };
  const response = await createDurableFetch({ fetch: broken, limits: { retryDelayMsMax: 2 } })(url);
  try {
    await response.text();
  } catch (error) {
    return { typed: error instanceof StreamError, status: error.status, code: error.code };
  }
  return {};
});
define("durable.none.none.cancel", async (name) => {
  const { id } = await post(`${urls.none}/runs`, {
    message: "endless 1",
    session_id: name,
    run_id: `${name}-run`,
    config: { on_disconnect: "cancel" },
  });
  const response = await durable()(`${urls.none}/runs/${id}/events`);
  const reader = response.body.getReader();
  await reader.read();
  await reader.cancel();
  let status;
  for (;;) {
    status = (await (await fetch(`${urls.none}/runs/${id}`)).json()).status;
    if (status === "cancelled") return { status };
    await until(() => true);
  }
});

await runAll();
