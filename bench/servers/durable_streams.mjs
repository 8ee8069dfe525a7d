// The reference server of Durable Streams, in memory, and the scripted agent of bench/agents.py, which appends to it over
// HTTP by the client that its makers recommend for that. Who makes the stream `/v1/stream/KEY/SCRIPT` starts a run.

import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { DurableStream, IdempotentProducer } from "@durable-streams/client";
import { DurableStreamTestServer } from "@durable-streams/server";

const contentType = "application/json";

// A monotonic time in units of 10 µs, modulo 2**24, as 4 characters of base64.
function stamp(atMs) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(Math.floor(atMs * 100) % (1 << 24));
  return bytes.subarray(1).toString("base64");
}

const now = () => Number(process.hrtime.bigint()) / 1e6;

async function* agent({ n, hz = 0, phase = 0 }) {
  const start = now() + (hz && (phase * 1000) / hz);
  for (let i = 0; i < n; i++) {
    if (hz) {
      const due = start + (i * 1000) / hz;
      await sleep(Math.max(0, due - now()));
      yield stamp(due);
    } else {
      await turn();
      yield stamp(now());
    }
  }
}

async function run(path) {
  const stream = new DurableStream({ url: `${server.url}${path}`, contentType });
  const producer = new IdempotentProducer(stream, "agent", { onError: (error) => console.error(error) });
  for await (const delta of agent(JSON.parse(decodeURIComponent(path.split("/").pop())))) {
    producer.append(JSON.stringify({ type: "TEXT_MESSAGE_CONTENT", messageId: "m1", delta }));
  }
  await producer.close();
}

const server = new DurableStreamTestServer({ port: 0, onStreamCreated: ({ path }) => void run(path) });
await server.start();
console.log(new URL(server.url).port);
process.stdin.resume().on("end", () => process.exit());
