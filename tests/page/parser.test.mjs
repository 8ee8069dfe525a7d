import assert from "node:assert/strict";
import test from "node:test";
import { EventStreamParser, readFrames, StreamError } from "../../src/gapless/server/gapless-client/stream.js";

const message = (id, data) => ({ id, event: "message", data });

function parse(text) {
  return new EventStreamParser().push(text);
}

async function parseBytes(chunks) {
  const body = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  return Array.fromAsync ? await Array.fromAsync(readFrames(body)) : await collect(readFrames(body));
}

async function collect(iterable) {
  const all = [];
  for await (const item of iterable) all.push(item);
  return all;
}

const CASES = {
  "a frame": ["id: 1\ndata: a\n\n", [message("1", "a")]],
  "several data lines are joined": ["data: a\ndata:b\ndata:\ndata:  c\n\n", [message(null, "a\nb\n\n c")]],
  "CRLF": ["id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [message("1", "a"), message(null, "b")]],
  "CR alone": ["id: 1\rdata: a\r\rdata: b\r\r", [message("1", "a"), message(null, "b")]],
  "line ends mixed": ["data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\n", [message(null, "a\nb\nc"), message(null, "d")]],
  "a byte order mark is dropped": ["\ufeffdata: a\n\n", [message(null, "a")]],
  "comments are dropped": [": ping\ndata: a\n:\n: b\n\n", [message(null, "a")]],
  "an event's name": ["event: tick\ndata: a\n\n", [{ id: null, event: "tick", data: "a" }]],
  "an empty name is the default": ["event\ndata: a\n\n", [message(null, "a")]],
  "a frame with a name and no data": ["event: end\nid: 9\n\n", [{ id: "9", event: "end", data: null }]],
  "an empty data line is data": ["data\n\n", [message(null, "")]],
  "an id alone is no frame": ["id: 5\n\ndata: a\n\n", [message(null, "a")]],
  "an id with NUL is ignored": ["id: 1\nid: 2\0\ndata: a\n\n", [message("1", "a")]],
  "unknown fields are ignored": ["foo: 1\n data: x\nDATA: y\ndata: a\n\n", [message(null, "a")]],
  "only one space is dropped": ["data:   a\n\n", [message(null, "  a")]],
  "colons in the value stay": ['data: {"a": 1}\n\n', [message(null, '{"a": 1}')]],
  "a cut frame is no frame": ["data: a\n\nid: 2\ndata: b\n", [message(null, "a")]],
  "text beyond ASCII": ["id: é\ndata: 漢字 🙂 \u2028 \u0085 end\n\n", [message("é", "漢字 🙂 \u2028 \u0085 end")]],
  "blank lines alone": ["\n\n\r\n\r\r\n\ndata: a\n\n\n\n", [message(null, "a")]],
};

for (const [name, [text, frames]] of Object.entries(CASES)) {
  test(`parser: ${name}, cut at every byte and into single bytes`, async () => {
    const bytes = new TextEncoder().encode(text);
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(await parseBytes([bytes.slice(0, cut), bytes.slice(cut)]), frames, `cut at byte ${cut}`);
    }
    assert.deepEqual(await parseBytes(Array.from(bytes, (byte) => Uint8Array.of(byte))), frames);
  });
}

test("parser: the last id stays until another comes, and a cut frame's id does not count", () => {
  const parser = new EventStreamParser();
  parser.push("id: 7\ndata: a\n\ndata: b\n\n");
  assert.equal(parser.lastEventId, "7");
  parser.push("id: 8\ndata: c\n");
  assert.equal(parser.lastEventId, "7");
  parser.push("\nid\n\n");
  assert.equal(parser.lastEventId, "");
});

test("parser: retry is a number of milliseconds or nothing", () => {
  const parser = new EventStreamParser();
  parser.push("retry: 1500\nretry: 2x\nretry: -1\ndata: a\n\n");
  assert.equal(parser.retryMs, 1500);
});

test("parser: a frame over the limit is refused, keep-alives do not add up to one", () => {
  const parser = new EventStreamParser({ frameCharsMax: 100 });
  for (let i = 0; i < 100; i += 1) assert.deepEqual(parser.push(": ping\n"), []);
  for (let i = 0; i < 100; i += 1) assert.equal(parser.push(`data: ${"x".repeat(50)}\n\n`).length, 1);
  assert.throws(
    () => {
      for (let i = 0; i < 100; i += 1) parser.push("data: xx\n");
    },
    (error) => error instanceof StreamError && error.code === "frame_too_long",
  );
});

test("parser: the same text gives the same frames however it is split", () => {
  const text = Object.values(CASES).map(([it]) => it.replace("\ufeff", "")).join("\n\n");
  const whole = parse(text);
  for (let seed = 1; seed <= 50; seed += 1) {
    const random = generator(seed);
    const parser = new EventStreamParser();
    const frames = [];
    for (let pos = 0; pos < text.length; ) {
      const length = 1 + Math.floor(random() * 9);
      frames.push(...parser.push(text.slice(pos, pos + length)));
      pos += length;
    }
    assert.deepEqual(frames, whole, `seed ${seed}`);
  }
});

function generator(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
