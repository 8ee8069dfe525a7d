/**
 * A Gapless server in miniature, in memory: enough of the HTTP contract for the page and its client, and ways to make
 * it misbehave. Answers are scripted: a script is a list of events, and of `{ pause: "name" }` at which a run waits
 * until the test calls `go("name")`.
 */
import http from "node:http";
import { staticFile } from "./browser.mjs";

export const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export class MockServer {
  sessions = new Map();
  runs = new Map();
  /** The browsers that are told of runs: the endpoint of each with its keys. */
  subscriptions = new Map();
  /** Called with (message, run): the script of a run. */
  script = () => textScript("Hello.");
  /** The names of the agents; the first answers by default. */
  agents = ["mock"];
  /** Makes MathML of a formula, `{ tex, display }`. */
  formula = ({ tex, display }) => ["math", display ? { display: "block" } : {}, [["mi", {}, [tex]]]];
  /** Attributes of the page's root, as the server gives it addresses to log in and out. */
  attributes = "";
  /** An API key, or null for none. */
  key = null;
  /** Called with (request, response, url): returns true if it has answered in the server's place. */
  intercept = null;
  /** Each request as `METHOD /path`. */
  log = [];
  base = "/";
  #clock = 1_700_000_000_000;
  #serial = 0;
  #frames = 0;
  #server;
  #passed = new Set();
  #sockets = new Set();
  #followers = new Set(); // of sessions and of the feed: called when anything has changed
  #feed = []; // what it has said

  async start() {
    this.#server = http.createServer((request, response) => {
      this.#serve(request, response).catch((error) => {
        response.destroy(error);
      });
    });
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.port = this.#server.address().port;
    return this;
  }

  get url() {
    return `http://127.0.0.1:${this.port}${this.base}`;
  }

  async stop() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Breaks every connection. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Lets the runs that wait at a pause go on, now and later. */
  go(name) {
    this.#passed.add(name);
    for (const run of this.runs.values()) this.#advance(run);
  }

  /** Lets the feed say that what came before is not known any more. */
  resetFeed() {
    this.#feed.push({ type: "reset" });
    for (const wake of this.#followers) wake();
  }

  /** How many connections follow a session or the feed. */
  get lines() {
    return this.#followers.size;
  }

  /** Notes what has become of a session, and tells all who follow one, or the feed. */
  #changed(sessionId) {
    const session = this.sessions.get(sessionId);
    this.#feed.push(session ? { type: "session", session: this.#listed(session) } : { type: "deleted", session_id: sessionId });
    for (const wake of this.#followers) wake();
  }

  /** Makes a session. */
  session() {
    const id = `s${(this.#serial += 1)}`;
    const now = (this.#clock += 1000);
    this.sessions.set(id, { id, title: "", created_at: now, updated_at: now });
    this.#changed(id);
    return this.sessions.get(id);
  }

  /** Starts a run as a POST would. */
  begin({ run_id, session_id, message, agent = this.agents[0], after_run_id }) {
    const session = this.sessions.get(session_id);
    const now = (this.#clock += 1000);
    const record = { id: run_id, session_id, user_id: "u", agent, status: "running", created_at: now, started_at: now, last_seq: 0, message: textIn(message), after_run_id };
    const run = { record, content: message, events: [], followers: new Set(), rest: [] };
    this.runs.set(run_id, run);
    session.active_run_id = run_id;
    session.agent ??= agent;
    session.title ||= record.message.slice(0, 60);
    session.updated_at = now;
    this.#changed(session_id);
    run.rest = [{ type: "RUN_STARTED", threadId: session_id, runId: run_id }, ...this.script(record.message, run)];
    this.#advance(run);
    return run;
  }

  /** Ends a run in the middle: `last` is its final event. */
  end(run, last) {
    run.rest = [];
    this.#append(run, last);
  }

  #advance(run) {
    while (run.rest.length > 0) {
      const step = run.rest[0];
      if (step.pause !== undefined && !this.#passed.has(step.pause)) return;
      run.rest.shift();
      if (step.pause === undefined) this.#append(run, step);
    }
  }

  #append(run, event) {
    run.events.push(event);
    const { record } = run;
    record.last_seq = run.events.length;
    if (event.type === "RUN_STARTED") record.status = "running";
    if (event.type === "RUN_FINISHED") {
      record.status = { interrupt: "waiting", cancelled: "cancelled" }[event.outcome?.type] ?? "finished";
    }
    if (event.type === "RUN_ERROR") {
      record.status = "failed";
      record.error = { code: event.code, message: event.message };
    }
    const session = this.sessions.get(record.session_id);
    if (session && ended(record)) {
      record.ended_at = session.updated_at = this.#clock += 1000;
      delete session.active_run_id;
    }
    for (const wake of run.followers) wake();
    if (["RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"].includes(event.type)) this.#changed(record.session_id);
    else for (const wake of this.#followers) wake();
  }

  async #serve(request, response) {
    const url = new URL(request.url, "http://mock");
    this.log.push(`${request.method} ${url.pathname}`);
    if (await this.intercept?.(request, response, url)) return;
    if (!url.pathname.startsWith(this.base)) return fail(response, 404, "not_found");
    const path = url.pathname.slice(this.base.length);
    const file = request.method === "GET" ? await staticFile(path) : null;
    if (file) {
      response.writeHead(200, { "content-type": file.type, "content-security-policy": CSP, "cache-control": "no-store" });
      return response.end(path === "" ? file.body.toString().replace("<html ", `<html ${this.attributes} `) : file.body);
    }
    if (this.key !== null && request.headers.authorization !== `Bearer ${this.key}`) {
      return fail(response, 401, "unauthorized");
    }
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
    const [kind, id, part] = path.split("/").map(decodeURIComponent);
    const route = `${request.method} ${kind}${id ? "/id" : ""}${part ? `/${part}` : ""}`;
    if (kind === "runs" && id && !this.runs.has(id)) return fail(response, 404, "run_not_found");
    if (kind === "sessions" && id && !this.sessions.has(id)) return fail(response, 404, "session_not_found");
    const run = this.runs.get(id);
    switch (route) {
      case "POST runs": {
        const known = this.runs.get(body.run_id);
        if (known) return send(response, 202, known.record);
        const session = this.sessions.get(body.session_id);
        if (session.active_run_id) return fail(response, 409, "session_busy");
        return send(response, 202, this.begin(body).record);
      }
      case "GET v1/id":
        return send(response, 200, { object: "list", data: this.agents.map((name) => ({ id: name, object: "model" })) });
      case "POST formulas":
        return send(response, 200, { formulas: body.formulas.map(this.formula) });
      case "GET runs": {
        const sessionId = url.searchParams.get("session_id");
        const records = [...this.runs.values()].map((it) => it.record);
        return send(response, 200, { runs: records.filter((it) => sessionId === null || it.session_id === sessionId) });
      }
      case "GET runs/id":
        return send(response, 200, run.record);
      case "GET runs/id/events":
        return this.#follow(run, request, response, url);
      case "POST runs/id/cancel":
        if (!ended(run.record)) {
          this.end(run, { type: "RUN_FINISHED", threadId: run.record.session_id, runId: id, outcome: { type: "cancelled" } });
        }
        return send(response, 202, run.record);
      case "POST runs/id/input":
        run.answers = body.resume;
        run.rest = this.resume(run, body.resume);
        this.#advance(run);
        return send(response, 202, run.record);
      case "GET sessions":
        return send(response, 200, this.#page(url.searchParams));
      case "POST sessions":
        return send(response, 201, this.session());
      case "GET sessions/id":
        return send(response, 200, this.sessions.get(id));
      case "GET sessions/id/messages":
        return send(response, 200, { messages: this.#messages(id) });
      case "GET sessions/id/events":
        return this.#followSession(id, request, response, url);
      case "GET feed":
        return this.#followFeed(request, response, url);
      case "PATCH sessions/id":
        this.sessions.get(id).title = body.title;
        this.#changed(id);
        return send(response, 200, this.sessions.get(id));
      case "PUT push/id":
        this.subscriptions.set(body.endpoint, body.keys);
        response.writeHead(204);
        return response.end();
      case "DELETE push/id":
        this.subscriptions.delete(body.endpoint);
        response.writeHead(204);
        return response.end();
      case "DELETE sessions/id":
        this.sessions.delete(id);
        for (const [runId, it] of this.runs) if (it.record.session_id === id) this.runs.delete(runId);
        this.#changed(id);
        response.writeHead(204);
        return response.end();
      default:
        return fail(response, 404, "not_found");
    }
  }

  #page(params) {
    const [limit, from] = [Number(params.get("limit") ?? 100), Number(params.get("after") ?? 0)];
    const [q, agent] = [params.get("q")?.toLowerCase(), params.get("agent")];
    const has = ({ id, title }) => q === undefined || title.toLowerCase().includes(q) || this.#said(id).some((it) => it.toLowerCase().includes(q));
    const all = [...this.sessions.values()].filter((it) => (agent === null || it.agent === agent) && has(it)).sort((a, b) => b.updated_at - a.updated_at);
    const sessions = all.slice(from, from + limit).map((it) => {
      const found = q === undefined || it.title.toLowerCase().includes(q) ? {} : { found: this.#said(it.id).find((one) => one.toLowerCase().includes(q)) };
      return { ...this.#listed(it), ...found };
    });
    return { sessions, ...(from + limit < all.length ? { next: String(from + limit) } : {}) };
  }

  #listed(session) {
    const run = this.runs.get(session.active_run_id);
    return run ? { ...session, active_run_status: run.record.status } : { ...session };
  }

  #said(sessionId) {
    return this.#messages(sessionId).flatMap(({ content }) => (typeof content === "string" ? [content] : []));
  }

  /** The events after an interrupt was answered. */
  resume = (run) => [{ type: "RUN_STARTED", threadId: "t", runId: run.record.id }, ...textScript("Done.")];

  #follow(run, request, response, url) {
    let next = Number.parseInt(request.headers["last-event-id"] ?? url.searchParams.get("after") ?? "0", 10);
    const complete = () => ended(run.record) || run.record.status === "waiting";
    if (complete() && next >= run.events.length) {
      response.writeHead(204);
      return response.end();
    }
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    response.write(": ping\n");
    const wake = () => {
      for (; next < run.events.length; next += 1) {
        if (response.writableEnded || response.destroyed) return;
        response.write(`id: ${next + 1}\ndata: ${JSON.stringify(run.events[next])}\n\n`);
      }
      if (complete()) response.end(`event: end\nid: ${next}.9\n\n`);
    };
    run.followers.add(wake);
    response.on("close", () => run.followers.delete(wake));
    wake();
  }

  /** Begins a stream whose `write(id, data)` is a frame; `wake` is called now and whenever something has changed. */
  #stream(response, wake) {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    response.write(": ping\n");
    const write = (id, data) => response.writableEnded || response.destroyed || response.write(`id: ${id}\ndata: ${JSON.stringify(data)}\n\n`);
    const follower = () => wake(write);
    this.#followers.add(follower);
    response.on("close", () => this.#followers.delete(follower));
    follower();
  }

  #followFeed(request, response, url) {
    let next = this.#feedPlace(request.headers["last-event-id"] ?? url.searchParams.get("after"));
    this.#stream(response, (write) => (next = this.#sayFeed(next, write)));
  }

  #feedPlace(cursor) {
    return cursor?.startsWith("f-") ? Number(cursor.slice(2)) : -1;
  }

  #sayFeed(next, write) {
    if (next === -1) {
      write(`f-${this.#feed.length}`, { type: "reset" });
      return this.#feed.length;
    }
    for (; next < this.#feed.length; next += 1) write(`f-${next + 1}`, this.#feed[next]);
    return next;
  }

  #followSession(id, request, response, url) {
    const runs = () => [...this.runs.values()].filter(({ record }) => record.session_id === id);
    const place = request.headers["last-event-id"] ?? url.searchParams.get("after") ?? "0";
    const [, runId = "", seq = 0] = /^(?:(.+):)?([0-9]+)(?:~.*)?$/.exec(place);
    let [at, next, told, fed] = [Math.max(0, runs().findIndex(({ record }) => record.id === runId)), Number(seq), "", this.#feedPlace(url.searchParams.get("feed"))];
    let before = runId === "" ? "0" : `${runId}:${seq}`;
    this.#stream(response, (write) => {
      const session = this.sessions.get(id);
      if (!session) return response.end(`event: end\nid: ${before}.end\n\n`);
      const own = (value, name) => write(`${before}~${(this.#frames += 1).toString(16)}`, { type: "CUSTOM", name, value });
      const active = runs().filter(({ record }) => !ended(record));
      const stands = { session, runs: active.map(({ record }) => ({ id: record.id, status: record.status })) };
      if (JSON.stringify(stands) !== told) own(stands, "gapless.session");
      told = JSON.stringify(stands);
      for (let run = runs()[at]; run; run = runs()[at]) {
        for (; next < run.events.length; next += 1) {
          before = `${run.record.id}:${next + 1}`;
          write(before, run.events[next]);
        }
        if (!ended(run.record)) break;
        [at, next] = [at + 1, 0];
      }
      if (url.searchParams.has("feed")) fed = this.#sayFeed(fed, (cursor, change) => own({ cursor, ...change }, "gapless.feed"));
      return undefined;
    });
  }

  #messages(sessionId) {
    return [...this.runs.values()]
      .filter(({ record }) => record.session_id === sessionId && ended(record))
      .flatMap(({ record, content, events }) => messagesOf(record, content, events));
  }
}

/** The events of a plain answer: one delta per word. */
export function textScript(text, id = "m1") {
  return [
    { type: "TEXT_MESSAGE_START", messageId: id, role: "assistant" },
    ...words(text).map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId: id, delta })),
    { type: "TEXT_MESSAGE_END", messageId: id },
    { type: "RUN_FINISHED", threadId: "t", runId: "r", outcome: { type: "success" } },
  ];
}

export function words(text) {
  return text.match(/\s*\S+\s*?(?=\s|$)|\s+/g) ?? [];
}

function ended({ status }) {
  return status === "finished" || status === "failed" || status === "cancelled";
}

function textIn(message) {
  return typeof message === "string" ? message : message.filter((part) => part.type === "text").map((part) => part.text).join("\n");
}

function messagesOf(record, content, events) {
  const metadata = { run_id: record.id };
  const place = record.after_run_id === undefined ? {} : { "gapless.after": record.after_run_id };
  const messages = [{ id: `${record.id}-user`, role: "user", content, metadata: { ...metadata, ...place } }];
  const texts = new Map();
  for (const event of events) {
    if (event.type === "TEXT_MESSAGE_START") {
      texts.set(event.messageId, { id: event.messageId, role: "assistant", content: "", metadata });
      messages.push(texts.get(event.messageId));
    } else if (event.type === "TEXT_MESSAGE_CONTENT") texts.get(event.messageId).content += event.delta;
    else if (event.type === "CUSTOM" && event.name === "gapless.artifact") messages.push({ role: "activity", activityType: event.name, content: event.value, metadata });
    else if (event.type === "REASONING_MESSAGE_CONTENT") {
      messages.push({ id: event.messageId, role: "reasoning", content: event.delta, metadata });
    } else if (event.type === "TOOL_CALL_START") {
      const call = { id: event.toolCallId, type: "function", function: { name: event.toolCallName, arguments: "" } };
      texts.set(call.id, call);
      messages.push({ id: `${event.toolCallId}-call`, role: "assistant", toolCalls: [call], metadata });
    } else if (event.type === "TOOL_CALL_ARGS") texts.get(event.toolCallId).function.arguments += event.delta;
    else if (event.type === "TOOL_CALL_RESULT") {
      const own = event.denied ? { ...metadata, denied: true } : metadata;
      messages.push({ id: event.messageId, role: "tool", toolCallId: event.toolCallId, content: event.content, metadata: own });
    }
  }
  if (record.status !== "finished") {
    const last = messages.findLast((message) => message.role === "assistant");
    if (last) last.metadata = { ...metadata, interrupted: true, ...(record.error ? { error: record.error } : {}) };
  }
  return messages;
}

function send(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

function fail(response, status, code) {
  send(response, status, { error: { code, message: `The mock says ${code}.` } });
}
