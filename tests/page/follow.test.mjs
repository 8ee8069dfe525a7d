import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { follow, GaplessClient, StreamError } from "../../src/gapless/server/gapless-client/stream.js";

const FAST = { retryDelayMsMin: 1, retryDelayMsMax: 5, attemptsMax: 8, idleTimeoutMs: 120_000 };

/** Serves each connection with the next of `handlers`, and the last one from then on. */
async function serve(t, ...handlers) {
  const requests = [];
  const server = http.createServer((request, response) => {
    requests.push(request);
    handlers[Math.min(requests.length, handlers.length) - 1](response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}/`, requests };
}

const frame = (id, data = `d${id}`) => `id: ${id}\ndata: ${data}\n\n`;
const END = "event: end\nid: z\n\n";

/** A response that sends `text` and then ends cleanly, or breaks. */
function sse(text, { broken = false } = {}) {
  return (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(text, () => (broken ? response.destroy() : response.end()));
  };
}

function status(code, body, headers = {}) {
  return (response) => {
    response.writeHead(code, { "content-type": "application/json", ...headers });
    response.end(body === undefined ? "" : JSON.stringify(body));
  };
}

async function ids(url, options) {
  const all = [];
  for await (const { id } of follow(url, { limits: FAST, ...options })) all.push(id);
  return all;
}

test("follow: reads to the end marker", async (t) => {
  const { url, requests } = await serve(t, sse(`: ping\n${frame(1)}${frame(2)}${END}`));
  const frames = [];
  for await (const it of follow(url, { limits: FAST })) frames.push(it);
  assert.deepEqual(frames, [
    { id: "1", event: "message", data: "d1" },
    { id: "2", event: "message", data: "d2" },
  ]);
  assert.equal(requests.length, 1);
  assert.equal(requests[0].headers.accept, "text/event-stream");
  assert.equal(requests[0].headers["last-event-id"], undefined);
});

test("follow: a clean end of file without the marker is a cut", async (t) => {
  const { url, requests } = await serve(t, sse(frame(1) + frame(2)), sse(frame(3) + END));
  assert.deepEqual(await ids(url), ["1", "2", "3"]);
  assert.equal(requests[1].headers["last-event-id"], "2");
});

test("follow: a broken connection in mid-frame resumes after the last whole frame", async (t) => {
  const { url, requests } = await serve(t, sse(`${frame(1)}id: 2\ndata: d`, { broken: true }), sse(frame(2) + END));
  assert.deepEqual(await ids(url), ["1", "2"]);
  assert.equal(requests[1].headers["last-event-id"], "1");
});

test("follow: any schedule of cuts gives the whole stream once", async (t) => {
  const text = Array.from({ length: 60 }, (_, i) => `wörd${i} `);
  for (let seed = 1; seed <= 60; seed += 1) {
    let state = seed;
    const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
    const { url } = await serve(t, (response, request) => {
      // Some servers send again what was already delivered: the overlap must not show.
      const last = Number(request.headers["last-event-id"] ?? 0);
      const from = random() < 0.3 ? Math.max(0, last - Math.floor(random() * 5)) : last;
      const bytes = Buffer.from(text.slice(from).map((it, i) => frame(from + i + 1, it)).join("") + END);
      const cut = random() < 0.15 ? bytes.length : Math.floor(random() * Math.min(bytes.length, 900));
      sse(bytes.subarray(0, cut), { broken: random() < 0.5 })(response);
    });
    let got = "";
    for await (const { data } of follow(url, { limits: { ...FAST, attemptsMax: 40 } })) got += data;
    assert.equal(got, text.map((it) => it.replace(/^ /, "")).join(""), `seed ${seed}`);
  }
});

test("follow: starts after a given id", async (t) => {
  const { url, requests } = await serve(t, sse(frame("12.2") + END));
  assert.deepEqual(await ids(url, { after: "12.1", headers: { Authorization: "Bearer k" } }), ["12.2"]);
  assert.equal(requests[0].headers["last-event-id"], "12.1");
  assert.equal(requests[0].headers.authorization, "Bearer k");
});

test("follow: 204 is the end", async (t) => {
  const { url } = await serve(t, sse(frame(1)), status(204));
  assert.deepEqual(await ids(url), ["1"]);
});

test("follow: a repeated event is dropped, on the same connection and after a resume", async (t) => {
  const { url } = await serve(t, sse(frame(1) + frame(2) + frame(2)), sse(frame(1) + frame(2) + frame(3) + END));
  assert.deepEqual(await ids(url), ["1", "2", "3"]);
});

test("follow: a server that starts over with other frames is refused, not repeated", async (t) => {
  const { url } = await serve(t, sse(frame(1) + frame(2) + frame(4)), sse(frame(1) + frame(5) + END));
  const got = [];
  await assert.rejects(
    async () => {
      for await (const { id } of follow(url, { limits: FAST })) got.push(id);
    },
    (error) => error instanceof StreamError && error.code === "cursor_ignored",
  );
  assert.deepEqual(got, ["1", "2", "4"]);
});

test("follow: an empty id is none to go on from", async (t) => {
  const { url, requests } = await serve(t, sse(`${frame(1)}id:\ndata: x\n\n`), sse(frame(2) + END));
  await assert.rejects(ids(url), { code: "cursor_ignored" });
  assert.equal(requests.length, 1);
});

test("follow: an id beyond ASCII travels as UTF-8", async (t) => {
  const { url, requests } = await serve(t, sse(frame("é漢")), sse(frame(2) + END));
  assert.deepEqual(await ids(url), ["é漢", "2"]);
  assert.equal(Buffer.from(requests[1].headers["last-event-id"], "latin1").toString(), "é漢");
});

for (const [code, name] of [[400, "bad_cursor"], [401, "unauthorized"], [404, "run_not_found"], [410, "cursor_expired"]]) {
  test(`follow: ${code} stops and says why`, async (t) => {
    const { url, requests } = await serve(t, status(code, { error: { code: name, message: "No.", run_id: "r1" } }));
    await assert.rejects(ids(url), { name: "StreamError", status: code, code: name, message: "No.", runId: "r1" });
    assert.equal(requests.length, 1);
  });
}

test("follow: 503, another content type and a refused connection are tried again", async (t) => {
  const { url, requests } = await serve(
    t,
    status(503, { error: { code: "draining", message: "Later." } }, { "retry-after": "0" }),
    (response) => response.writeHead(200, { "content-type": "text/html" }).end("<p>portal</p>"),
    (response) => response.destroy(),
    sse(frame(1) + END),
  );
  assert.deepEqual(await ids(url), ["1"]);
  assert.equal(requests.length, 4);
});

test("follow: gives up after a bounded number of connections without progress", async (t) => {
  const { url, requests } = await serve(t, sse(frame(1)), sse(": ping\n"));
  const got = [];
  await assert.rejects(
    async () => {
      for await (const { id } of follow(url, { limits: FAST })) got.push(id);
    },
    { code: "connection_lost" },
  );
  assert.deepEqual(got, ["1"]);
  // The first connection made progress; from it on attemptsMax further ones are allowed.
  assert.equal(requests.length, FAST.attemptsMax + 1);
});

test("follow: progress renews the attempts", async (t) => {
  const { url } = await serve(t, (response, request) => {
    const last = Number(request.headers["last-event-id"] ?? 0);
    sse(last < 30 ? frame(last + 1) : END)(response);
  });
  assert.equal((await ids(url)).length, 30);
});

test("follow: a leaving server is left without delay", async (t) => {
  const { url } = await serve(t, sse(`${frame(1)}event: reconnect\nid: 1.1\n\n`), sse(frame(2) + END));
  const delays = [];
  const onStateChange = (state, { delayMs }) => state === "reconnecting" && delays.push(delayMs);
  const limits = { ...FAST, retryDelayMsMin: 1e6, retryDelayMsMax: 1e6 };
  assert.deepEqual(await ids(url, { onStateChange, limits }), ["1", "2"]);
  assert.deepEqual(delays, [0]);
});

test("follow: a server that only says reconnect is not called without end", async (t) => {
  const { url, requests } = await serve(t, sse("event: reconnect\n\n"));
  await assert.rejects(ids(url), { code: "connection_lost" });
  assert.equal(requests.length, FAST.attemptsMax + 1);
});

test("follow: a silent connection is taken for dead", async (t) => {
  const { url } = await serve(t, (response, request) => {
    if (request.headers["last-event-id"]) return sse(frame(2) + END)(response);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(frame(1)); // and never a byte more
  });
  assert.deepEqual(await ids(url, { limits: { ...FAST, attemptsMax: 1000, idleTimeoutMs: 50 } }), ["1", "2"]);
});

test("follow: tells the state of the connection", async (t) => {
  const { url } = await serve(t, sse(frame(1)), sse(frame(2) + END));
  const states = [];
  await ids(url, { onStateChange: (state) => states.push(state) });
  assert.deepEqual(states, ["connecting", "open", "reconnecting", "open", "closed"]);
});

test("follow: an abort rejects, also while it waits to reconnect", async (t) => {
  const { url } = await serve(t, sse(frame(1)));
  const controller = new AbortController();
  const limits = { ...FAST, retryDelayMsMin: 1e6, retryDelayMsMax: 1e6 };
  const onStateChange = (state) => state === "reconnecting" && controller.abort(new Error("enough"));
  await assert.rejects(ids(url, { signal: controller.signal, onStateChange, limits }), { message: "enough" });
});

test("follow: leaving the loop closes the connection", async (t) => {
  let closed;
  const gone = new Promise((resolve) => (closed = resolve));
  const { url } = await serve(t, (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.on("close", closed);
    response.write(frame(1));
  });
  for await (const { id } of follow(url, { limits: FAST })) {
    assert.equal(id, "1");
    break;
  }
  await gone;
});

test("client: a start whose answer was lost is posted again under the same run id", async (t) => {
  const bodies = [];
  const { url } = await serve(t, (response, request) => {
    let text = "";
    request.on("data", (chunk) => (text += chunk));
    request.on("end", () => {
      bodies.push(JSON.parse(text));
      if (bodies.length === 1) response.destroy();
      else status(202, { id: bodies[1].run_id, status: "queued" })(response);
    });
  });
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  const run = await client.start({ message: "hi", sessionId: "s" });
  assert.equal(bodies.length, 2);
  assert.equal(bodies[0].run_id, bodies[1].run_id);
  assert.equal(run.id, bodies[0].run_id);
});

test("client: what is said to a live run is sent again under the same id, and sound is not", async (t) => {
  const bodies = [];
  const { url } = await serve(t, (response, request) => {
    let text = "";
    request.on("data", (chunk) => (text += chunk));
    request.on("end", () => {
      bodies.push(JSON.parse(text).live);
      if (bodies.length === 1 || bodies.at(-1).blob) response.destroy();
      else status(202, { id: "r", status: "running" })(response);
    });
  });
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  await client.send("r", "hi");
  await client.send("r", { content: "there", id: "m2" });
  await client.send("r", { close: true });
  await assert.rejects(client.send("r", { blob: { data: "AAEC" } }));
  assert.deepEqual(bodies[0], { id: bodies[1].id, content: "hi" });
  assert.deepEqual(bodies.slice(1), [
    bodies[0],
    { id: "m2", content: "there" },
    { close: true },
    { blob: { data: "AAEC" } },
  ]);
  assert.ok(bodies[0].id);
});

test("client: a refused start is not repeated", async (t) => {
  const { url, requests } = await serve(t, status(409, { error: { code: "session_busy", message: "Busy." } }));
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  await assert.rejects(client.start({ message: "hi" }), { code: "session_busy", status: 409 });
  assert.equal(requests.length, 1);
});

test("client: a session is made once, with its id and state, however often its answer is lost", async (t) => {
  const bodies = [];
  const { url } = await serve(t, (response, request) => {
    let text = "";
    request.on("data", (chunk) => (text += chunk));
    request.on("end", () => {
      bodies.push(JSON.parse(text));
      if (bodies.length % 2) response.destroy();
      else status(201, { id: bodies.at(-1).id })(response);
    });
  });
  const client = new GaplessClient({ baseUrl: new URL(url), limits: FAST });
  const lost = [];
  const onRetry = ({ attempt }) => lost.push(attempt);
  assert.equal((await client.createSession({ sessionId: "s", state: { turns: 1 }, onRetry })).id, "s");
  const { id } = await client.createSession();
  assert.deepEqual(lost, [1]);
  assert.deepEqual(bodies.slice(0, 2), Array(2).fill({ id: "s", state: { turns: 1 } }));
  assert.deepEqual(bodies.slice(2), Array(2).fill({ id }));
  assert.notEqual(id, undefined);
});

for (const [code, body] of [
  [404, { detail: "Not Found" }],
  [405, undefined],
  [404, { error: { code: "not_found", message: "GET /: Not Found" } }],
]) {
  test(`client: ${code} of what is no server of ours says so: ${JSON.stringify(body)}`, async (t) => {
    const { url, requests } = await serve(t, status(code, body));
    const client = new GaplessClient({ baseUrl: url, limits: FAST });
    const said = (path) => ({
      name: "StreamError",
      status: code,
      code: "bad_answer",
      message: `No Gapless server at ${url}${path} (HTTP ${code}); is it mounted under a path?`,
    });
    await assert.rejects(client.start({ message: "hi" }), said("runs"));
    await assert.rejects(client.follow("r").next(), said("runs/r/events"));
    assert.equal(requests.length, 2);
  });
}

test("client: an event that is not JSON is an error with its id", async (t) => {
  const { url } = await serve(t, sse(frame(1, "{")));
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  await assert.rejects(client.follow("r").next(), { code: "bad_event" });
});

test("follow: another server's stream without ids is an error, and is not read again and again", async (t) => {
  const { url, requests } = await serve(t, sse("data: one\n\n"), sse("data: one\n\n"), status(204));
  await assert.rejects(ids(url), (error) => error instanceof StreamError && error.code === "cursor_ignored");
  assert.equal(requests.length, 1);
});

const event = (id, text) => frame(id, JSON.stringify({ type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: text }));
const news = (id, title) =>
  frame(id, JSON.stringify({ type: "CUSTOM", name: "gapless.session", value: { session: { title }, runs: [] } }));

async function session(url, options) {
  const told = [];
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  for await (const { id, runId, event } of client.followSession("s/1", options)) {
    told.push([id, runId, event.delta ?? event.value.session.title]);
  }
  return told;
}

test("GaplessClient.followSession: run after run, over cuts, and how it stands with each connection", async (t) => {
  const { url, requests } = await serve(
    t,
    sse(news("0~1", "one") + event("a:1:1", "x") + event("a:1:2", "y")),
    sse(news("a:1:2~2", "two") + event("a:1:3", "z") + event("b:1", "x"), { broken: true }),
    sse(news("b:1~3", "two") + event("b:2", "y") + "event: end\nid: b:2.end\n\n"),
  );
  assert.deepEqual(await session(url), [
    ["0~1", undefined, "one"],
    ["a:1:1", "a:1", "x"],
    ["a:1:2", "a:1", "y"],
    ["a:1:2~2", undefined, "two"],
    ["a:1:3", "a:1", "z"],
    ["b:1", "b", "x"],
    ["b:1~3", undefined, "two"],
    ["b:2", "b", "y"],
  ]);
  assert.deepEqual(
    requests.map(({ url, headers }) => [url, headers["last-event-id"]]),
    [
      ["/sessions/s%2F1/events", undefined],
      ["/sessions/s%2F1/events", "a:1:2"],
      ["/sessions/s%2F1/events", "b:1"],
    ],
  );
});

test("GaplessClient.followSession: latest is asked for until there is a place", async (t) => {
  const { url, requests } = await serve(
    t,
    status(503, {}),
    sse(news("r:0~1", "t")),
    sse(event("r:1", "x") + "event: end\nid: r:1.end\n\n"),
  );
  const told = await session(url, { after: "latest" });
  assert.deepEqual(told.at(-1), ["r:1", "r", "x"]);
  assert.deepEqual(
    requests.map(({ url, headers }) => [url, headers["last-event-id"]]),
    [undefined, undefined, "r:0~1"].map((id) => ["/sessions/s%2F1/events?after=latest", id]),
  );
});

test("GaplessClient.followSession: what is no event of a session is refused", async (t) => {
  for (const [bad, after] of [
    [event("x", "y")],
    [frame("r:1", "no JSON")],
    [frame("r:1", "{}")],
    [event("r:2", "y"), "r:2~1"],
    [event("r:1", "y"), "r:2"],
  ]) {
    const { url } = await serve(t, sse(bad));
    await assert.rejects(session(url, { after }), (error) => error instanceof StreamError && error.code === "bad_event");
  }
});

test("GaplessClient.followSession: the feed goes on behind what it said, over cuts of the session's stream", async (t) => {
  const fed = (id, cursor, type) => frame(id, JSON.stringify({ type: "CUSTOM", name: "gapless.feed", value: { cursor, type } }));
  const { url, requests } = await serve(
    t,
    sse(fed("r:0~1", "e-0", "reset") + event("r:1", "x") + fed("r:1~2", "e/4", "session"), { broken: true }),
    sse(fed("r:1~3", "e-5", "deleted") + "event: end\nid: r:1.end\n\n"),
  );
  const told = [];
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  for await (const { id, runId, event } of client.followSession("s", { after: "latest", feed: true })) {
    told.push([id, runId, event.delta ?? event.value.type]);
  }
  assert.deepEqual(told, [
    ["r:0~1", undefined, "reset"],
    ["r:1", "r", "x"],
    ["r:1~2", undefined, "session"],
    ["r:1~3", undefined, "deleted"],
  ]);
  assert.deepEqual(
    requests.map(({ url, headers }) => [url, headers["last-event-id"]]),
    [
      ["/sessions/s/events?after=latest&feed=1", undefined],
      ["/sessions/s/events?after=latest&feed=e%2F4", "r:1~2"],
    ],
  );
});

test("GaplessClient.followSession: the feed of all users is asked for as long as there is one to carry", async (t) => {
  const end = sse("event: end\nid: 0.end\n\n");
  const { url, requests } = await serve(t, end, end);
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  for (const feed of ["e-1", undefined]) for await (const _ of client.followSession("s", { feed, everyone: true }));
  assert.deepEqual(requests.map(({ url }) => url), ["/sessions/s/events?feed=e-1&everyone=1", "/sessions/s/events"]);
});

test("GaplessClient.followSession: what an agent says under the server's names is the agent's", async (t) => {
  const said = (id, name) => frame(id, JSON.stringify({ type: "CUSTOM", name, value: null }));
  const { url } = await serve(
    t,
    sse(news("r:0~1", "S") + said("r:1", "gapless.feed") + said("r:2", "gapless.session") + "event: end\nid: r:2.end\n\n"),
  );
  const told = [];
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  for await (const { id, runId } of client.followSession("s", { feed: true })) told.push([id, runId]);
  assert.deepEqual(told, [
    ["r:0~1", undefined],
    ["r:1", "r"],
    ["r:2", "r"],
  ]);
});

test("GaplessClient.followFeed: what becomes of the sessions, over cuts", async (t) => {
  const { url, requests } = await serve(
    t,
    sse(frame("e-1", '{"type":"reset"}') + frame("e-2", '{"type":"deleted","session_id":"s"}'), { broken: true }),
    sse(frame("e-3", '{"type":"session","session":{"id":"t"}}') + frame("e-4", "no JSON")),
  );
  const told = [];
  const client = new GaplessClient({ baseUrl: url, limits: FAST });
  await assert.rejects(
    async () => {
      for await (const { id, change } of client.followFeed({ after: "e-0" })) told.push([id, change.type]);
    },
    (error) => error instanceof StreamError && error.code === "bad_event",
  );
  assert.deepEqual(told, [["e-1", "reset"], ["e-2", "deleted"], ["e-3", "session"]]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), ["e-0", "e-2"]);
});
