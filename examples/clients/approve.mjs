/** A run that asks a person before it goes on.   node approve.mjs [server] */
import { GaplessClient } from "gapless-client";

const client = new GaplessClient({ baseUrl: process.argv[2] ?? "http://127.0.0.1:8000" });

const run = await client.start({ message: "Refund order 7" });
let last;
let questions;
do {
  questions = [];
  for await (const { id, event } of client.follow(run.id, { after: last })) {
    last = id;
    if (event.type === "TEXT_MESSAGE_CONTENT") process.stdout.write(event.delta);
    if (event.type === "RUN_FINISHED") questions = event.outcome?.interrupts ?? [];
  }
  const answers = questions.map(({ id }) => ({ interruptId: id, status: "resolved", payload: { approved: true } }));
  if (answers.length > 0) await client.answer(run.id, answers);
} while (questions.length > 0);
console.log();
