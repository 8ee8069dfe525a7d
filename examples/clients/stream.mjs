/** Our own client, in Node or a bundler: every event of a run, typed and once.   node stream.mjs [server] */
import { GaplessClient } from "gapless-client";

const client = new GaplessClient({ baseUrl: process.argv[2] ?? "http://127.0.0.1:8000" });

const run = await client.start({ message: "Explain SSE" }); // repeats itself safely: one run, whatever gets lost
let last; // with run.id in localStorage, a page that is loaded anew goes on from here
for await (const { id, event } of client.follow(run.id, { after: last })) {
  last = id;
  if (event.type === "TEXT_MESSAGE_CONTENT") process.stdout.write(event.delta);
  if (event.type === "RUN_ERROR") throw new Error(`${event.code}: ${event.message}`);
}
console.log();
