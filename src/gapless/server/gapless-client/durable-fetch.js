/**
 * A `fetch` for clients that know nothing of resuming: an event stream of Gapless that is cut goes on, in the same
 * response, from the event after the last one that arrived whole.
 *
 *   import { createDurableFetch } from "gapless-client";
 *   const fetch = createDurableFetch();
 *
 *   new DefaultChatTransport({ api: "/vercel/chat", fetch });      // AI SDK
 *   new HttpAgent({ url: "/ag-ui", fetch });                       // AG-UI
 *   new OpenAI({ baseURL: "/v1", apiKey, fetch });                 // OpenAI
 *
 * It acts on answers that are event streams and name the stream in `Content-Location`, as all of Gapless's do, and
 * passes every other answer on as it came. The client sees what an uncut connection would have sent, frame by frame:
 * none twice, none by halves, keep-alives left out.
 *
 * The request that starts a run is made again, `limits.postAttemptsMax` times at most, if it names its run: by the header
 * X-Run-Id or Idempotency-Key, or by `run_id` or `runId` in its query or its JSON text. Then it is one run, however often
 * it arrives. Any other is made once; if it fails, it fails.
 */

import { LIMITS, RETRYABLE_STATUSES, StreamError, follow, retryAfterOf, retryDelayMs, wait } from "./stream.js";

/** Headers that speak of the first request alone: the one to resume has no body and wants an event stream. */
const FIRST_HEADERS = ["accept", "content-encoding", "content-length", "content-type"];
/** Headers that speak of one connection's bytes, which the stitched response has not. */
const LENGTH_HEADERS = ["content-encoding", "content-length", "transfer-encoding"];

/**
 * Makes a durable `fetch`. Options: `fetch` (the one to build on), `limits` (see LIMITS in stream.js) and
 * `onStateChange` (see `follow` there).
 *
 * The response's body fails with the signal's reason when the caller aborts; with a StreamError when the server refuses
 * to resume or sends what is no stream of Gapless; and with a TypeError, as a lost network is reported by `fetch`
 * itself, when `limits.attemptsMax` connections in a row brought nothing new. A Content-Location that is no URL is a
 * StreamError before there is a response.
 */
export function createDurableFetch({ fetch: doFetch = (...args) => globalThis.fetch(...args), limits, onStateChange } = {}) {
  return async function durableFetch(input, init) {
    const request = input instanceof Request ? input : undefined;
    const abort = new AbortController(); // ends everything
    const first = new AbortController(); // ends the first connection
    abort.signal.addEventListener("abort", () => first.abort(abort.signal.reason));
    const signal = init?.signal ?? request?.signal;
    const onAbort = () => abort.abort(signal.reason);
    const release = () => signal?.removeEventListener("abort", onAbort);
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort();
    let response;
    try {
      response = await started(() => doFetch(input, { ...init, signal: first.signal }), input, init, abort.signal, {
        ...LIMITS,
        ...limits,
      });
    } catch (error) {
      release();
      throw error;
    }
    const location = response.headers.get("content-location");
    const isStream = (response.headers.get("content-type") ?? "").toLowerCase().startsWith("text/event-stream");
    if (!response.ok || !isStream || location === null || response.body === null) return response;

    const asked = askedUrl(input);
    const answering = new URL(response.url || asked);
    let url;
    try {
      url = new URL(location, answering);
    } catch {
      release();
      first.abort();
      throw new StreamError(`${answering}: the Content-Location of the answer is no URL: ${location}`, {
        status: response.status,
        code: "bad_location",
      });
    }
    // The headers are for the server that was asked, and for no other.
    if (url.origin !== answering.origin || (response.redirected && url.origin !== asked.origin)) return response;

    const headers = new Headers(init?.headers ?? request?.headers);
    for (const name of FIRST_HEADERS) headers.delete(name);
    let answered = response; // the answer that is there already is the first connection
    const frames = follow(url, {
      headers: Object.fromEntries(headers),
      signal: abort.signal,
      limits,
      onStateChange,
      raw: true,
      fetch: (url, options) => {
        const credentials = init?.credentials ?? request?.credentials;
        if (answered === null) return doFetch(url, { credentials, redirect: "manual", ...options }); // nor here
        options.signal.addEventListener("abort", () => first.abort(options.signal.reason));
        const connection = answered;
        answered = null;
        return connection;
      },
    });
    return stitched(response, frames, abort, release);
  };
}

/** The answer to the first request: to its last attempt, where more than one cannot make more than one run. */
async function started(request, input, init, signal, limits) {
  const attemptsMax = namesItsRun(input, init) ? limits.postAttemptsMax : 1;
  for (let attempt = 1; ; attempt += 1) {
    let retryAfterMs = null;
    try {
      const response = await request();
      const isFinal = !RETRYABLE_STATUSES.has(response.status) || response.headers.get("x-should-retry") === "false";
      if (isFinal || attempt >= attemptsMax) return response;
      retryAfterMs = retryAfterOf(response);
      await response.body?.cancel();
    } catch (error) {
      signal.throwIfAborted();
      if (attempt >= attemptsMax) throw error;
    }
    await wait(retryDelayMs(attempt, retryAfterMs, limits), signal);
  }
}

function askedUrl(input) {
  return new URL(input instanceof Request ? input.url : input, globalThis.location?.href ?? "http://localhost");
}

/** What can be sent only once is not looked into: the body of a `Request`, and a stream, with which `duplex` must be. */
function namesItsRun(input, init) {
  if (input instanceof Request || init?.duplex) return false;
  const headers = new Headers(init?.headers);
  if (headers.has("x-run-id") || headers.has("idempotency-key")) return true;
  const query = askedUrl(input).searchParams;
  if (query.has("run_id") || query.has("runId")) return true;
  if (typeof init?.body !== "string") return false;
  try {
    const body = JSON.parse(init.body);
    return Boolean(body?.run_id ?? body?.runId);
  } catch {
    return false;
  }
}

/** The response with the frames as its body. */
function stitched(response, frames, abort, release) {
  const encoder = new TextEncoder();
  const body = new ReadableStream(
    {
      async pull(controller) {
        try {
          const { done, value } = await frames.next();
          if (value !== undefined) controller.enqueue(encoder.encode(value.raw));
          if (done) {
            release();
            controller.close();
          }
        } catch (error) {
          release();
          controller.error(
            error instanceof StreamError && error.code === "connection_lost"
              ? new TypeError(`network error: ${error.message}`, { cause: error })
              : error,
          );
        }
      },
      cancel(reason) {
        release();
        abort.abort(reason);
        frames.return().catch(() => {}); // not awaited: it may wait for what does not heed the signal
      },
    },
    { highWaterMark: 0 },
  );
  const headers = new Headers(response.headers);
  for (const name of LENGTH_HEADERS) headers.delete(name);
  const { status, statusText, url } = response;
  return Object.defineProperty(new Response(body, { status, statusText, headers }), "url", { value: url });
}
