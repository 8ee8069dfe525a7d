/** The durable fetch and the client, against servers that are broken or mean harm: a typed error, or the whole stream. */

import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";

import { createDurableFetch, GaplessClient, StreamError } from "../../src/gapless/server/gapless-client/client.js";

const QUICK = { retryDelayMsMin: 1, retryDelayMsMax: 2, attemptsMax: 3, postAttemptsMax: 2, idleTimeoutMs: 120_000 };
const head = (status, ...lines) => [`HTTP/1.1 ${status} X`, ...lines, "connection: close", "", ""].join("\r\n");
const STREAM = head(200, "content-type: text/event-stream", "content-location: /stream");
const JSON_HEAD = head(200, "content-type: application/json");
const frame = (id) => `id: ${id}\ndata: ${id}\n\n`;
const END = "event: end\nid: 3.end\n\n";
const WHOLE = frame(1) + frame(2) + END;
const HOLD = Symbol("the connection stays open");
const FLOOD = Symbol("bytes without an end");

/** Sends the next of `answers` to each request, and the last one from then on: text, then perhaps HOLD or FLOOD. */
async function serve(t, ...answers) {
  const requests = [];
  const sockets = new Set();
  let onLeft;
  const left = new Promise((resolve) => (onLeft = resolve));
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", onLeft);
    let text = "";
    socket.on("data", (data) => {
      const begun = text.includes("\r\n\r\n");
      text += data.toString("latin1");
      if (begun || !text.includes("\r\n\r\n")) return;
      requests.push(text);
      const [answer, then] = [answers[Math.min(requests.length, answers.length) - 1]].flat();
      socket.write(answer);
      if (then === undefined) socket.end();
      if (then === FLOOD) flood(socket);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address();
  return { url: `http://127.0.0.1:${port}/stream`, origin: `http://127.0.0.1:${port}`, requests, left };
}

function flood(socket) {
  const piece = Buffer.alloc(65536, 0x78);
  const more = () => {
    while (!socket.destroyed && socket.write(piece));
  };
  socket.on("drain", more);
  more();
}

async function until(condition) {
  while (!condition()) await new Promise(setImmediate);
}

const durable = (limits) => createDurableFetch({ limits: { ...QUICK, ...limits } });
const read = async (url, { limits, ...init } = {}) => (await durable(limits)(url, init)).text();
const failsWith = (code) => (error) => error instanceof StreamError && error.code === code;
const lost = (error) => error instanceof TypeError && error.cause?.code === "connection_lost";

for (const retry of ["9".repeat(400), "9".repeat(5000), "0", "-5", "1e9", "٣"]) {
  test(`durable: retry: ${retry.slice(0, 5)} (${retry.length}) is waited for within the limit or ignored`, async (t) => {
    const { url, requests } = await serve(t, `${STREAM}id: 1\nretry: ${retry}\ndata: 1\n\n`, STREAM + frame(2) + END);
    assert.match(await read(url), /^id: 1\n[^]*id: 2\n[^]*end\n\n$/);
    assert.equal(requests.length, 2);
  });
}

for (const after of ["9".repeat(400), "-1", "soon", "Wed, 21 Oct 2099 07:28:00 GMT", "", "1e400", "0x10"]) {
  test(`durable: 429 with retry-after ${JSON.stringify(after.slice(0, 9))} is asked again`, async (t) => {
    const later = head(429, `retry-after: ${after}`, "content-length: 0");
    const { url } = await serve(t, STREAM + frame(1), later, STREAM + frame(2) + END);
    assert.equal(await read(url), WHOLE);
  });
}

test("durable: a server that always closes at once is given up", async (t) => {
  const { url, requests } = await serve(t, STREAM);
  await assert.rejects(read(url), lost);
  assert.equal(requests.length, 1 + QUICK.attemptsMax);
});

for (const [name, empty] of [
  ["comments", ": ping\n".repeat(1000)],
  ["frames that only name an event", "event: nothing\n\n"],
  ["frames that it has sent before", frame(1)],
]) {
  test(`durable: ${name} are no progress`, async (t) => {
    const { url, requests } = await serve(t, STREAM + frame(1), STREAM + empty);
    await assert.rejects(read(url), lost);
    assert.equal(requests.length, 1 + QUICK.attemptsMax);
  });
}

test("durable: a comment without an end is refused at the limit", async (t) => {
  const { url } = await serve(t, [`${STREAM}:`, FLOOD]);
  await assert.rejects(read(url, { limits: { frameCharsMax: 1e6 } }), failsWith("frame_too_long"));
});

for (const [name, id] of [
  ["an empty id", "id:"],
  ["no id", "event: message"],
  ["an id without a colon", "id"],
  ["an id that no header carries", "id: 1\x01"],
  ["an id beyond any header", `id: ${"1".repeat(200_000)}`],
]) {
  test(`durable: data with ${name} is refused and not read again and again`, async (t) => {
    const { url, requests } = await serve(t, `${STREAM}${id}\ndata: x\n\n`);
    await assert.rejects(read(url), failsWith("cursor_ignored"));
    assert.equal(requests.length, 1);
  });
}

test("durable: a server that goes on elsewhere than it was asked to is refused", async (t) => {
  const { url } = await serve(t, STREAM + frame(1) + frame(2), STREAM + frame(1) + frame(7) + END);
  await assert.rejects(read(url), failsWith("cursor_ignored"));
});

test("durable: a stream that goes on is not looked for at another origin", async (t) => {
  const other = await serve(t, STREAM + frame(2) + END);
  for (const status of [301, 302, 307, 308]) {
    const { url } = await serve(t, STREAM + frame(1), head(status, `location: ${other.url}`, "content-length: 0"));
    await assert.rejects(read(url, { headers: { "x-key": "secret" } }), (error) => error instanceof StreamError);
  }
  assert.deepEqual(other.requests, []);
});

test("durable: a key does not follow the first request to another origin", async (t) => {
  const other = await serve(t, STREAM + frame(1), STREAM + frame(2) + END);
  const { url } = await serve(t, head(307, `location: ${other.url}`, "content-length: 0"));
  assert.equal(await read(url, { headers: { authorization: "Bearer secret" } }), frame(1)); // as it came
  assert.ok(!other.requests.some((request) => request.includes("secret")));
});

for (const location of ["http://[", "http://a:99999/", "//"]) {
  test(`durable: the Content-Location ${location} is said to be no URL`, async (t) => {
    const { url, left } = await serve(t, [STREAM.replace("/stream", location), HOLD]);
    await assert.rejects(read(url), (error) => failsWith("bad_location")(error) && error.message.includes(location));
    await left;
  });
}

for (const location of ["http://elsewhere.invalid/", "data:,x", "//elsewhere.invalid/x"]) {
  test(`durable: the stream at ${location} is not this server's`, async (t) => {
    const { url, requests } = await serve(t, STREAM.replace("/stream", location) + frame(1));
    assert.equal(await read(url), frame(1));
    assert.equal(requests.length, 1);
  });
}

test("durable: without a URL of the answer the asked one counts", async (t) => {
  const { url, requests } = await serve(t, STREAM.replace("/stream", "http://elsewhere.invalid/") + frame(1));
  const plain = async (...args) => {
    const { body, headers } = await fetch(...args);
    return new Response(body, { headers });
  };
  const doFetch = createDurableFetch({ fetch: plain, limits: QUICK });
  assert.equal(await (await doFetch(url)).text(), frame(1));
  assert.equal(requests.length, 1);
});

test("durable: another content type in mid-stream is no part of the stream", async (t) => {
  const page = `${head(200, "content-type: text/html")}<p>log in</p>`;
  const { url } = await serve(t, STREAM + frame(1), page, STREAM + frame(2) + END);
  assert.equal(await read(url), WHOLE);
});

for (const status of [200, 403, 503]) {
  test(`durable: an answer ${status} without an end is read to a limit only`, async (t) => {
    const { url } = await serve(t, STREAM + frame(1), [`${head(status, "content-type: application/json")}"`, FLOOD]);
    await assert.rejects(read(url, { limits: { answerBytesMax: 1e6 } }), (error) => lost(error) || error.status === 403);
  });
}

test("durable: 204 in mid-stream is the end", async (t) => {
  const { url } = await serve(t, STREAM + frame(1), head(204));
  assert.equal(await read(url), frame(1));
});

test("durable: HEAD and 204 have no body to go on with", async (t) => {
  const { url, requests } = await serve(t, STREAM, head(204, "content-type: text/event-stream", "content-location: /stream"));
  assert.equal(await read(url, { method: "HEAD" }), "");
  assert.equal(await read(url), "");
  assert.equal(requests.length, 2);
});

test("durable: a body that can be sent only once is sent once", async (t) => {
  const { url, requests } = await serve(t, head(503, "content-length: 0"));
  const stream = () => new Blob(["{}"]).stream();
  const options = { method: "POST", duplex: "half", headers: { "x-run-id": "r" } };
  const doFetch = durable();
  assert.equal((await doFetch(url, { ...options, body: stream() })).status, 503);
  assert.equal((await doFetch(new Request(url, { ...options, body: stream() }))).status, 503);
  assert.equal(requests.length, 2);
});

test("durable: a Request goes on with its own headers and without its body", async (t) => {
  const { url, requests } = await serve(t, STREAM + frame(1), STREAM + frame(2) + END);
  const body = new Blob(["{}"]).stream();
  const headers = { "x-key": "k", "content-type": "application/json" };
  const request = new Request(url, { method: "POST", duplex: "half", body, headers });
  assert.equal(await (await durable()(request)).text(), WHOLE);
  assert.match(requests[1], /^GET \/stream [^]*\r\nx-key: k\r\n/);
  assert.doesNotMatch(requests[1], /content-type|transfer-encoding/);
});

test("durable: an abort while it waits for the answer ends it with its reason and leaves the server", async (t) => {
  const { url, requests, left } = await serve(t, ["", HOLD]);
  const controller = new AbortController();
  const asked = assert.rejects(durable()(url, { signal: controller.signal }), { message: "enough" });
  await until(() => requests.length === 1);
  controller.abort(new Error("enough"));
  await asked;
  await left;
});

const REFUSAL = [`${head(403, "content-type: application/json")}{`, HOLD];
/** The states of a response: the answers that lead there, and how it shows; a read is under way in all but the first. */
const STATES = {
  "before anything is read": { answers: [[STREAM, HOLD]] },
  "while it reads": { answers: [[STREAM + frame(1), HOLD]], shows: () => true },
  "while it waits to come back": {
    answers: [STREAM + frame(1)],
    shows: ({ states }) => states.includes("reconnecting"),
    limits: { retryDelayMsMin: 1e9, retryDelayMsMax: 1e9 },
  },
  "while it comes back": { answers: [STREAM + frame(1), ["", HOLD]], shows: ({ requests }) => requests.length === 2 },
  "while it reads a refusal": { answers: [STREAM + frame(1), REFUSAL], shows: ({ requests }) => requests.length === 2 },
};

async function enter(t, { answers, shows, limits }, signal) {
  const server = await serve(t, ...answers);
  const states = [];
  const doFetch = createDurableFetch({ limits: { ...QUICK, ...limits }, onStateChange: (state) => states.push(state) });
  const reader = (await doFetch(server.url, { signal })).body.getReader();
  if (!shows) return { reader, states, left: server.left };
  await reader.read();
  const pending = reader.read();
  pending.catch(() => {}); // looked at later
  await until(() => shows({ states, ...server }));
  return { reader, pending, states, left: server.left };
}

for (const [name, state] of Object.entries(STATES)) {
  test(`durable: an abort ${name} ends it with its reason and leaves the server`, async (t) => {
    const controller = new AbortController();
    const { reader, pending, left } = await enter(t, state, controller.signal);
    controller.abort(new Error("enough"));
    await assert.rejects(pending ?? reader.read(), { message: "enough" });
    await left;
  });
  test(`durable: a body that is cancelled ${name} leaves the server, and says that it is closed`, async (t) => {
    const { reader, pending, states, left } = await enter(t, state);
    await reader.cancel();
    assert.equal((await pending)?.done ?? true, true);
    await left;
    if (pending) await until(() => states.at(-1) === "closed");
    assert.equal(states.filter((it) => it === "closed").length, pending ? 1 : 0);
  });
}

const client = (origin, limits) => new GaplessClient({ baseUrl: origin, limits: { ...QUICK, ...limits } });

for (const [name, answer] of [
  ["HTML", `${head(200, "content-type: text/html")}<p>`],
  ["no object", `${JSON_HEAD}7`],
  ["null", `${JSON_HEAD}null`],
  ["nothing", head(204)],
  ["bad UTF-8", Buffer.from(`${JSON_HEAD}"\xff`, "latin1")],
  ["deep JSON without an end", JSON_HEAD + "[".repeat(200_000)],
  ["bytes without an end", [`${JSON_HEAD}"`, FLOOD]],
]) {
  test(`client: ${name} is no answer of Gapless, and is not asked for again`, async (t) => {
    const { origin, requests } = await serve(t, answer);
    const limits = { answerBytesMax: 1e6 };
    await assert.rejects(client(origin, limits).start({ message: "hi" }), failsWith("bad_answer"));
    await assert.rejects(client(origin, limits).runs(), failsWith("bad_answer"));
    assert.equal(requests.length, 2);
  });
}

test("client: a refusal of any shape is a StreamError with its status", async (t) => {
  for (const body of ["null", "7", '{"error":7}', '{"error":{"code":{},"message":[1]}}', "[".repeat(200_000), "\xff"]) {
    const { origin } = await serve(t, head(403, "content-type: application/json") + body);
    await assert.rejects(client(origin).run("r"), { name: "StreamError", status: 403, code: "http_403" });
  }
});

for (const [name, sent] of [
  ["an id that goes back", frame(7).replace(": 7\n\n", ': {"type":"X"}\n\n') + 'id: 3\ndata: {"type":"X"}\n\n'],
  ["an id that is no position", 'id: 1_0\ndata: {"type":"X"}\n\n'],
  ["an event that is none", "id: 8\ndata: null\n\n"],
]) {
  test(`client: ${name} is refused`, async (t) => {
    const { origin } = await serve(t, STREAM + sent);
    await assert.rejects(async () => {
      for await (const { id } of client(origin).follow("r", { after: "5" })) assert.equal(id, "7");
    }, failsWith("bad_event"));
  });
}
