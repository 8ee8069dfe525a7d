/**
 * A Server-Sent Events client that loses nothing: it follows a stream over `fetch`, and when the connection is cut it
 * resumes from the last event it delivered, until the server says that the stream is complete.
 *
 *   import { follow, GaplessClient } from "./stream.js";
 *
 *   const client = new GaplessClient({ baseUrl: "https://example.org/" });
 *   const run = await client.start({ message: "Explain SSE" });
 *   for await (const { event } of client.follow(run.id)) {
 *     if (event.type === "TEXT_MESSAGE_CONTENT") show(event.delta);
 *   }
 *
 * Why not `EventSource`: it cannot send an `Authorization` header, takes a cut for the end as easily as the end for a
 * cut, and hides HTTP errors. Runs in browsers and in Node 20 or newer, and has no dependencies.
 */

/** Bounds of a follower. Each can be replaced through the `limits` option of `follow` and `GaplessClient`. */
export const LIMITS = Object.freeze({
  /** The first retry waits up to this long; each further one up to twice as long. */
  retryDelayMsMin: 250,
  /** No retry waits longer than this, whatever `Retry-After` says. */
  retryDelayMsMax: 10_000,
  /** Connections in a row that brought no new event before the follower gives up. */
  attemptsMax: 60,
  /** A connection without a byte for this long is taken for dead (the server sends a keep-alive more often). */
  idleTimeoutMs: 45_000,
  /** A single frame larger than this many characters is refused. */
  frameCharsMax: 16 * 1024 * 1024,
  /** Ids remembered in order to recognise a server that sends an event again. */
  seenIdsMax: 10_000,
  /** Attempts to post a request that is safe to repeat. */
  postAttemptsMax: 6,
  /** An answer that is no stream is read up to here. */
  answerBytesMax: 256 * 1024 * 1024,
});

const ID_CHARS_MAX = 1024;
/** An id that can be sent back: a header carries no control characters, and servers take no long ones. */
const ID = new RegExp(`^[^\\x00-\\x1f\\x7f]{1,${ID_CHARS_MAX}}$`);
/** An id of a stream of events as they are in the journal: the event's position. */
const POSITION = /^[0-9]{1,15}$/;
/** An id of a session's stream: a run and a position in it, and perhaps what tells it from another at that place. */
const PLACE = /^(?:(.+):)?([0-9]{1,15})(?:~[0-9a-f]+)?$/;
/** The id of what the server says in a session's stream: no event of a run has it, whatever its agent calls that. */
const NEWS = /~[0-9a-f]+$/;
/** The name of the event that says how a session stands. */
export const SESSION = "gapless.session";
/** The name of the event in a session's stream that says what the feed says. */
export const FEED = "gapless.feed";

/** HTTP statuses that say "later", not "no". */
export const RETRYABLE_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504]);
/** HTTP statuses of an address at which there is nothing. */
const NOWHERE = new Set([404, 405]);
/** What a Gapless server calls an address that it does not have. */
const NOWHERE_CODES = new Set([undefined, "not_found", "method_not_allowed"]);

/**
 * A request or a stream that failed for good: trying again the same way would not help.
 * `status` is the HTTP status (0 when there was no usable answer), `code` the server's or one of `connection_lost`,
 * `frame_too_long`, `cursor_ignored`, `bad_event`, `bad_answer`, `bad_location`; `runId` is the run concerned, where
 * known.
 */
export class StreamError extends Error {
  constructor(message, { status = 0, code = "error", runId, cause } = {}) {
    super(message, { cause });
    this.name = "StreamError";
    this.status = status;
    this.code = code;
    this.runId = runId;
  }
}

/**
 * Parses `text/event-stream` (WHATWG HTML, section 9.2.6) from text in pieces of any size.
 *
 * Differs from the standard in one point: a frame without data is not dropped if it names an event, because Gapless
 * marks the end of a stream with such a frame; its `data` is null. `id` is the frame's own id, or null if it has none;
 * with the option `raw` a frame has its own text too, comments left out and line ends as LF.
 * A frame that is cut off before its blank line is never reported, and neither is its id.
 */
export class EventStreamParser {
  #line = "";
  #skipLf = false;
  #data = null;
  #event = "";
  #id = null;
  #raw = null;
  #frameChars = 0;
  #frameCharsMax;

  /** The last id of a complete frame, as the standard keeps it. */
  lastEventId = "";
  /** The reconnection time that the server asked for, in milliseconds, or null. */
  retryMs = null;

  constructor({ frameCharsMax = LIMITS.frameCharsMax, raw = false } = {}) {
    this.#frameCharsMax = frameCharsMax;
    if (raw) this.#raw = "";
  }

  /** Takes the next piece of text and returns the frames that it completes, in order. */
  push(text) {
    const frames = [];
    let start = 0;
    if (this.#skipLf && text.length > 0) {
      if (text[0] === "\n") start = 1;
      this.#skipLf = false;
    }
    // Only the new piece is searched for line ends, so that a long line in many pieces costs no more than its length.
    let lf = text.indexOf("\n", start);
    let cr = text.indexOf("\r", start);
    while (lf !== -1 || cr !== -1) {
      const end = lf === -1 ? cr : cr === -1 ? lf : Math.min(lf, cr);
      this.#count(end - start);
      this.#takeLine(this.#line + text.slice(start, end), frames);
      this.#line = "";
      start = end + 1;
      if (end === cr) {
        if (start === text.length) this.#skipLf = true;
        else if (text[start] === "\n") start += 1;
        cr = text.indexOf("\r", start);
      }
      if (lf !== -1 && lf < start) lf = text.indexOf("\n", start);
    }
    this.#count(text.length - start);
    this.#line += text.slice(start);
    return frames;
  }

  #count(chars) {
    this.#frameChars += chars;
    if (this.#frameChars > this.#frameCharsMax) {
      throw new StreamError(`A frame of the stream is larger than ${this.#frameCharsMax} characters.`, {
        code: "frame_too_long",
      });
    }
  }

  #takeLine(line, frames) {
    if (line === "") {
      if (this.#id !== null) this.lastEventId = this.#id;
      if (this.#data !== null || this.#event !== "") {
        frames.push({
          id: this.#id,
          event: this.#event || "message",
          data: this.#data === null ? null : this.#data.join("\n"),
          ...(this.#raw === null ? {} : { raw: `${this.#raw}\n` }),
        });
      }
      this.#data = null;
      this.#event = "";
      this.#id = null;
      if (this.#raw !== null) this.#raw = "";
      this.#frameChars = 0;
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) {
      this.#frameChars -= line.length; // Comments are dropped at once: keep-alives must not add up to a large frame.
      return;
    }
    if (this.#raw !== null) this.#raw += `${line}\n`;
    const field = colon === -1 ? line : line.slice(0, colon);
    let value = colon === -1 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") (this.#data ??= []).push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id") {
      if (!value.includes("\0")) this.#id = value;
    } else if (field === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
  }
}

/**
 * Reads the frames of one response body, without reconnecting. UTF-8 sequences may be split between chunks; a byte
 * order mark is dropped. `onBytes` is called for each chunk, keep-alives included.
 */
export async function* readFrames(body, { parser = new EventStreamParser(), onBytes } = {}) {
  const decoder = new TextDecoder();
  for await (const chunk of chunksOf(body)) {
    onBytes?.();
    yield* parser.push(decoder.decode(chunk, { stream: true }));
  }
}

async function* chunksOf(body) {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // Not awaited: cancelling a broken body may reject, and nobody is left to care.
    reader.cancel().catch(() => {});
  }
}

/**
 * Follows the stream at `url` to its end and yields each frame once, in order, as `{ id, event, data }`; it returns the
 * end frame, if there was one.
 *
 * The stream is complete only when the server sends a frame named `end`, or answers 204. Everything else is a cut: a
 * broken connection, a silent one, and a clean end of file without that frame. After a cut it reconnects with
 * `Last-Event-ID`, after a random part of a delay that doubles while nothing new comes; at once on a frame named
 * `reconnect` (the server is leaving) and as soon as the browser is online or visible again.
 *
 * `url` may be a function, called for each attempt. Options: `after` (the id to resume after), `headers` (an object, or a function that returns one per attempt),
 * `signal`, `fetch`, `onStateChange(state, detail)` with the states `connecting`, `open`, `reconnecting`, `closed`,
 * `raw` (each frame with its text, see EventStreamParser), and `limits` (see LIMITS).
 *
 * Throws a StreamError when the server refuses (4xx), repeats events out of place, or brought nothing new for
 * `attemptsMax` connections; throws the signal's reason when aborted. Returning normally means: complete.
 */
export async function* follow(url, options = {}) {
  const { after, headers, signal, fetch: doFetch = globalThis.fetch, onStateChange, raw } = options;
  const limits = { ...LIMITS, ...options.limits };
  const seen = new SeenIds(limits.seenIdsMax);
  let lastId = after ?? "";
  let attempts = 0; // connections since the last new event
  let everOpen = false;
  if (lastId !== "") seen.add(lastId);

  try {
    for (;;) {
      signal?.throwIfAborted();
      let reason = null;
      let retryAtOnce = false;
      let retryAfterMs = null;
      if (!everOpen && attempts === 0) onStateChange?.("connecting", {});
      const connection = new Connection(signal, limits.idleTimeoutMs);
      try {
        const response = await doFetch(typeof url === "function" ? url() : url, {
          headers: {
            Accept: "text/event-stream",
            ...(typeof headers === "function" ? headers() : headers),
            ...(lastId === "" ? {} : { "Last-Event-ID": headerValue(lastId) }),
          },
          cache: "no-store",
          signal: connection.signal,
        });
        if (response.status === 204) return;
        if (!response.ok && !RETRYABLE_STATUSES.has(response.status)) throw await errorOf(response, limits);
        retryAfterMs = retryAfterOf(response);
        if (!response.ok || !isEventStream(response)) {
          reason = await errorOf(response, limits);
        } else {
          everOpen = true;
          onStateChange?.("open", {});
          let repeated = null; // the last id on this connection that had been delivered before
          const parser = new EventStreamParser({ ...limits, raw });
          for await (const frame of readFrames(response.body, { parser, onBytes: () => connection.alive() })) {
            if (frame.event === "end" && frame.data === null) return frame;
            if (frame.event === "reconnect") {
              retryAtOnce = attempts === 0;
              break;
            }
            if (frame.id !== null || frame.data !== null) {
              if (!ID.test(frame.id ?? "")) {
                // On no wire of ours: it would come again with every connection, for ever.
                throw new StreamError("A frame without an id that can be sent back: no stream of Gapless.", {
                  code: "cursor_ignored",
                });
              }
              if (seen.has(frame.id)) {
                repeated = frame.id;
                continue;
              }
              if (repeated !== null && repeated !== lastId) {
                // The server started over and its frames no longer line up with what was delivered: going on would
                // repeat text or leave a hole, and either would be silent.
                throw new StreamError(`The server did not resume after event ${lastId}.`, { code: "cursor_ignored" });
              }
              repeated = null;
              seen.add(frame.id);
              lastId = frame.id;
              attempts = 0;
            }
            // A consumer may take its time: only the wait for bytes is timed, not the wait for the consumer.
            connection.pause();
            yield frame;
            connection.alive();
          }
          if (parser.retryMs !== null) retryAfterMs ??= parser.retryMs;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof StreamError) throw error;
        reason = error;
      } finally {
        connection.close();
      }
      attempts += 1;
      if (attempts > limits.attemptsMax) {
        throw new StreamError(`The connection was lost and ${limits.attemptsMax} attempts brought nothing new.`, {
          code: "connection_lost",
          cause: reason,
        });
      }
      const delayMs = retryAtOnce ? 0 : retryDelayMs(attempts, retryAfterMs, limits);
      onStateChange?.("reconnecting", { attempt: attempts, delayMs, error: reason });
      await wait(delayMs, signal);
    }
  } finally {
    onStateChange?.("closed", {});
  }
}

/** The most recent ids and the very first one, by which a stream that starts over is recognised. */
class SeenIds {
  #first = null;
  #recent = new Set();
  #max;

  constructor(max) {
    this.#max = max;
  }

  has(id) {
    return id === this.#first || this.#recent.has(id);
  }

  add(id) {
    this.#first ??= id;
    this.#recent.add(id);
    if (this.#recent.size > this.#max) this.#recent.delete(this.#recent.values().next().value);
  }
}

/** One connection's abort signal: fires with the caller's signal, and when no byte came for too long. */
class Connection {
  #controller = new AbortController();
  #parent;
  #idleTimeoutMs;
  #timer;
  #onAbort = () => this.#controller.abort(this.#parent.reason);

  constructor(parent, idleTimeoutMs) {
    this.#parent = parent;
    this.#idleTimeoutMs = idleTimeoutMs;
    parent?.addEventListener("abort", this.#onAbort);
    this.alive();
  }

  get signal() {
    return this.#controller.signal;
  }

  alive() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => this.#controller.abort(new Error(`No byte came for ${this.#idleTimeoutMs} ms.`)),
      this.#idleTimeoutMs,
    );
  }

  pause() {
    clearTimeout(this.#timer);
  }

  close() {
    this.pause();
    this.#parent?.removeEventListener("abort", this.#onAbort);
    this.#controller.abort();
  }
}

function isEventStream(response) {
  return (response.headers.get("content-type") ?? "").toLowerCase().startsWith("text/event-stream");
}

/** A header value is bytes: an id outside ASCII travels as its UTF-8 bytes, as `EventSource` sends it. */
function headerValue(id) {
  return String.fromCharCode(...new TextEncoder().encode(id));
}

/** How long the server says to wait, in milliseconds, or null. */
export function retryAfterOf(response) {
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null;
}

/** Exponential backoff with full jitter, so that the clients of a restarted server do not all return at once. */
export function retryDelayMs(attempts, serverMs, { retryDelayMsMin, retryDelayMsMax }) {
  const ceilingMs = Math.min(retryDelayMsMax, retryDelayMsMin * 2 ** Math.min(attempts - 1, 30));
  return Math.min(retryDelayMsMax, Math.max(serverMs ?? 0, Math.random() * ceilingMs));
}

/** Waits, but no longer than until the browser is online or visible again. Rejects when aborted. */
export function wait(delayMs, signal) {
  return new Promise((resolve, reject) => {
    // React Native has a window, and nothing to listen to on it.
    const heard = (one) => (typeof one?.addEventListener === "function" ? one : null);
    const hub = heard(globalThis.window);
    const page = heard(globalThis.document);
    const timer = setTimeout(finish, delayMs);
    function onVisible() {
      if (!page.hidden) finish();
    }
    function finish() {
      clearTimeout(timer);
      hub?.removeEventListener("online", finish);
      page?.removeEventListener("visibilitychange", onVisible);
      signal?.removeEventListener("abort", finish);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    }
    hub?.addEventListener("online", finish);
    page?.addEventListener("visibilitychange", onVisible);
    signal?.addEventListener("abort", finish);
    if (signal?.aborted) finish();
  });
}

/** The JSON object that an answer is. Rejects with a StreamError for any other, and for one over `answerBytesMax`. */
async function objectOf(response, { answerBytesMax }) {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const chunk of response.body === null ? [] : chunksOf(response.body)) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) throw badAnswer(response, `more than answerBytesMax=${answerBytesMax} bytes`);
    text += decoder.decode(chunk, { stream: true });
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    // Said below.
  }
  if (typeof value !== "object" || value === null) throw badAnswer(response, "what is no JSON object");
  return value;
}

function badAnswer({ url, status }, what) {
  return new StreamError(`${url} answered ${what}: is it a Gapless server?`, { status, code: "bad_answer" });
}

async function errorOf(response, limits) {
  let error = {};
  try {
    error = (await objectOf(response, limits)).error ?? {};
  } catch {
    // Not the server's own answer (a proxy's page, say): the status alone must do.
  }
  const text = (value, otherwise) => (typeof value === "string" ? value : otherwise);
  const { status, statusText, url } = response;
  if (NOWHERE.has(status) && NOWHERE_CODES.has(text(error.code))) {
    const message = `No Gapless server at ${url} (HTTP ${status}); is it mounted under a path?`;
    return new StreamError(message, { status, code: "bad_answer" });
  }
  return new StreamError(text(error.message, `The server answered ${status || "a redirect"} ${statusText}`.trim()), {
    status,
    code: text(error.code, `http_${status}`),
    runId: text(error.run_id),
  });
}

/**
 * The Gapless HTTP API. Records are as the server sends them (snake_case, times in milliseconds since the epoch).
 * `headers` may be a function, called for each request: an API key can change while the client lives.
 */
export class GaplessClient {
  #base;
  #headers;
  #fetch;
  #limits;

  constructor({ baseUrl, headers, fetch, limits } = {}) {
    this.#base = new URL(baseUrl ?? "./", globalThis.location?.href).href.replace(/\/*$/, "/");
    this.#headers = headers;
    this.#fetch = fetch ?? ((...args) => globalThis.fetch(...args));
    this.#limits = { ...LIMITS, ...limits };
  }

  /**
   * Starts a run and returns its record. The run's id is chosen here, so the request is repeated after a lost
   * connection without a risk of a second run. `message` is text or AG-UI's parts. `afterRunId` asks it after that run of
   * the session ("": as its first) and not after the newest, in the place of what followed. `notify` is a webhook that
   * is told when the run waits and has ended. `onRetry` is told of each failed attempt.
   */
  start({ message, sessionId, runId = newId(), agent, config, afterRunId, notify, signal, onRetry }) {
    const body = { message, run_id: runId, session_id: sessionId, agent, config, after_run_id: afterRunId, notify };
    return this.#repeat("POST", "runs", { body, signal, onRetry });
  }

  /** Yields `{ id, event }` for each AG-UI event of a run, to its end. Options and errors as for `follow`. */
  async *follow(runId, options = {}) {
    const { after } = options;
    const frames = this.#frames(`runs/${encodeURIComponent(runId)}/events`, options);
    let last = Number.parseInt(after ?? "0", 10);
    for await (const { id, data } of frames) {
      if (data === null) continue;
      const event = eventIn(data);
      if (event === undefined || !POSITION.test(id) || Number(id) <= last) {
        throw new StreamError(`Run ${runId}: what came as event ${id} after ${last} is none.`, { code: "bad_event", runId });
      }
      last = Number(id);
      yield { id, event };
    }
  }

  /**
   * Yields `{ id, runId, event }` for each AG-UI event of all runs of a session, run after run, and then live, until the
   * session is deleted. An event of the type CUSTOM named `gapless.session` says how the session stands, without
   * `runId`: it comes first and whenever that has changed. `after` is an id as it came, or `latest`: the beginning of
   * the run that has not ended, or what comes next. With `feed` (true, or the cursor of the last one) what `followFeed`
   * yields comes on the same connection, as CUSTOM events named `gapless.feed`, without `runId`: the value is the change
   * with its `cursor`; `everyone` is that of `followFeed`. Options and errors as for `follow`.
   */
  async *followSession(sessionId, { after, feed, everyone = false, ...options } = {}) {
    let cursor = feed === true ? "1" : feed;
    const path = () => {
      // An id can be sent back in a header, "latest" is none.
      const fed = cursor ? `feed=${encodeURIComponent(cursor)}${everyone ? "&everyone=1" : ""}` : "";
      const query = [after === "latest" ? "after=latest" : "", fed];
      return `sessions/${encodeURIComponent(sessionId)}/events?${query.filter((one) => one !== "").join("&")}`.replace(/\?$/, "");
    };
    const latest = after === "latest";
    const frames = this.#frames(path, { ...options, after: latest ? undefined : after });
    let last = placeIn(latest ? "0" : (after ?? "0"));
    for await (const { id, data } of frames) {
      if (data === null) continue;
      const event = eventIn(data);
      const place = placeIn(id);
      const isNews = NEWS.test(id) && event?.type === "CUSTOM" && (event.name === SESSION || event.name === FEED);
      if (event === undefined || place === null || (!isNews && isRepeated(place, last))) {
        throw new StreamError(`Session ${sessionId}: what came as event ${id} is none.`, { code: "bad_event" });
      }
      last = place;
      if (isNews && event.name === FEED) cursor = event.value.cursor;
      yield isNews ? { id, event } : { id, runId: place.runId, event };
    }
  }

  /**
   * Yields `{ id, change }` for what becomes of the caller's sessions, live: `{ type: "session", session }` for one that
   * is created, used or renamed, or of which a run begins, waits, goes on or ends, as `sessions` lists it and with
   * `newest_run_id` and `newest_run_status`; `{ type: "deleted", session_id }`; and `{ type: "reset" }` where what came
   * before is not known (any more): read the list anew. `after` is an id as it came. With `everyone`, for operators, it
   * says which of all users' sessions have changed: `{ type: "changed", session_id }`. Options and errors as for `follow`.
   */
  async *followFeed({ everyone = false, ...options } = {}) {
    for await (const { id, data } of this.#frames(everyone ? "feed?everyone=1" : "feed", options)) {
      if (data === null) continue;
      const change = eventIn(data);
      if (change === undefined) throw new StreamError(`The feed: what came as ${id} is none.`, { code: "bad_event" });
      yield { id, change };
    }
  }

  #frames(path, { after, signal, onStateChange }) {
    return follow(() => this.#base + (typeof path === "function" ? path() : path), {
      after,
      signal,
      onStateChange,
      headers: this.#headers,
      fetch: this.#fetch,
      limits: this.#limits,
    });
  }

  /** The run's record. */
  run(runId, { signal } = {}) {
    return this.#request("GET", `runs/${encodeURIComponent(runId)}`, { signal });
  }

  /**
   * The records of the caller's runs, or of one session's, newest first, long messages cut. Where there are more, the
   * array's `next` is the `after` of the next page.
   */
  runs({ sessionId, limit, after, signal } = {}) {
    return this.#list("runs", { session_id: sessionId, limit, after }, signal);
  }

  async #list(name, params, signal) {
    const given = Object.entries(params).filter(([, value]) => value !== undefined);
    const query = given.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
    const page = await this.#request("GET", query ? `${name}?${query}` : name, { signal });
    return Object.assign(page[name], { next: page.next });
  }

  /** Asks for a run's end. Repeating it does nothing. */
  cancel(runId, { signal, onRetry } = {}) {
    return this.#repeat("POST", `runs/${encodeURIComponent(runId)}/cancel`, { body: {}, signal, onRetry });
  }

  /** Answers a run's interrupts: `resume` is a list of `{ interruptId, status, payload }`. */
  answer(runId, resume, { signal } = {}) {
    return this.#request("POST", `runs/${encodeURIComponent(runId)}/input`, { body: { resume }, signal });
  }

  /**
   * Says something to a live run: a message, or another of its requests, such as `{ close: true }`. A message has an id,
   * and counts once however often it is sent.
   */
  send(runId, said, { signal, onRetry } = {}) {
    const live = typeof said === "string" ? { content: said } : said;
    const path = `runs/${encodeURIComponent(runId)}/input`;
    if (live.content === undefined && !live.close) return this.#request("POST", path, { body: { live }, signal });
    const body = { live: live.close ? live : { id: newId(), ...live } };
    return this.#repeat("POST", path, { body, signal, onRetry });
  }

  /**
   * The caller's sessions, latest used first, without their states; in pages as `runs` is. With `q` those that have this
   * text in their title or in what was said, with `agent` that agent's: a page of what was found in half a second, which
   * may be empty and have a `next`.
   */
  sessions({ limit, after, q, agent, signal } = {}) {
    return this.#list("sessions", { limit, after, q, agent }, signal);
  }

  /** Makes a session and returns its record, or that of the session which has the id already. `state` is its state. */
  createSession({ sessionId = newId(), state, signal, onRetry } = {}) {
    return this.#repeat("POST", "sessions", { body: { id: sessionId, state }, signal, onRetry });
  }

  /** A session's record. */
  session(sessionId, { signal } = {}) {
    return this.#request("GET", `sessions/${encodeURIComponent(sessionId)}`, { signal });
  }

  /** The messages of a session's ended runs, as AG-UI messages. */
  async messages(sessionId, { signal } = {}) {
    return (await this.#request("GET", `sessions/${encodeURIComponent(sessionId)}/messages`, { signal })).messages;
  }

  /** Gives a session another title and returns its record. With "" it has the title of its first message again. */
  renameSession(sessionId, title, { signal, onRetry } = {}) {
    return this.#repeat("PATCH", `sessions/${encodeURIComponent(sessionId)}`, { body: { title }, signal, onRetry });
  }

  /** Deletes a session with its runs. */
  deleteSession(sessionId, { signal } = {}) {
    return this.#request("DELETE", `sessions/${encodeURIComponent(sessionId)}`, { signal });
  }

  async #request(method, path, { body, signal }) {
    const response = await this.#fetch(this.#base + path, {
      method,
      headers: {
        Accept: "application/json",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(typeof this.#headers === "function" ? this.#headers() : this.#headers),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal,
    });
    if (!response.ok) {
      const error = await errorOf(response, this.#limits);
      signal?.throwIfAborted();
      throw error;
    }
    return method === "DELETE" ? undefined : objectOf(response, this.#limits);
  }

  /** For requests that are safe to repeat: a network failure or a "later" is tried again, up to `postAttemptsMax`. */
  async #repeat(method, path, { onRetry, ...options }) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#request(method, path, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        const retryable = !(error instanceof StreamError) || RETRYABLE_STATUSES.has(error.status);
        if (!retryable || attempt >= this.#limits.postAttemptsMax) throw error;
        onRetry?.({ attempt, error });
        await wait(retryDelayMs(attempt, null, this.#limits), options.signal);
      }
    }
  }
}

/** The AG-UI event that a frame's data is; undefined where it is none. */
function eventIn(data) {
  try {
    const event = JSON.parse(data);
    return typeof event?.type === "string" ? event : undefined;
  } catch {
    return undefined;
  }
}

/** The place in a session that an id names; null where it names none. */
function placeIn(id) {
  const [, runId = "", seq] = PLACE.exec(id) ?? [];
  return seq === undefined ? null : { runId, seq: Number(seq) };
}

function isRepeated(place, last) {
  return last !== null && place.runId === last.runId && place.seq <= last.seq;
}

/** A random UUID, also on plain-HTTP pages, where `crypto.randomUUID` is missing. */
export function newId() {
  if (globalThis.crypto.randomUUID) return globalThis.crypto.randomUUID();
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
