/** The durable fetch itself: every byte, whatever is cut; and what it leaves alone. */

import { createDurableFetch, StreamError } from "../../src/gapless/server/static/client.js";
import { ALL, define, durable, post, runAll, until, urls } from "./cases.mjs";

const text = async (response) => new TextDecoder("utf-8", { fatal: true }).decode(await response.arrayBuffer());

for (const cut of ALL) {
  for (const wire of ["ag-ui", "vercel", "text"]) {
    define(`durable.${wire}.${cut}.bytes`, async (name) => {
      const runId = `${name}-run`;
      const path = `/runs/${runId}/events?wire=${wire}&merge=0`;
      await post(`${urls.none}/runs`, { message: "rich", session_id: name, run_id: runId });
      // To its end: it is all in the journal now. (`text` begins with an id without data; no frame, nothing to keep.)
      const whole = (await text(await fetch(urls.none + path))).replace(/^id: \S+\nretry: \d+\n\n/, "");
      // A server names the stream in Content-Location as it would serve it by itself; these want it unmerged.
      const unmerged = async (url, init) => {
        const response = await fetch(url, init);
        const headers = new Headers(response.headers);
        headers.set("content-location", path);
        return Object.defineProperty(new Response(response.body, { status: response.status, headers }), "url", {
          value: response.url,
        });
      };
      const limits = { retryDelayMsMin: 1, retryDelayMsMax: 5 };
      const stitched = await text(await createDurableFetch({ fetch: unmerged, limits })(urls[cut] + path));
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
        controller.enqueue(piece.value);
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
  const limits = { retryDelayMsMax: 2, idleTimeoutMs: 200 };
  const frames = (await text(await createDurableFetch({ fetch: stalls, limits })(url))).split("\n\n");
  const events = frames.filter((frame) => frame.includes("data: ")).map((frame) => JSON.parse(frame.slice(frame.indexOf("data: ") + 6)));
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
    return Object.defineProperty(new Response(value, response), "url", { value: response.url });
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
