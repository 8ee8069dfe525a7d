/** With stream.js: every typed event, a safe start, keys in headers, errors that say what happened. */
import { GaplessClient } from "/agents/static/stream.js";

const client = new GaplessClient({ baseUrl: new URL("/agents/", location.href) });

export async function ask(message, show) {
  const run = await client.start({ message });
  for await (const { event } of client.follow(run.id)) {
    if (event.type === "TEXT_MESSAGE_CONTENT") show(event.delta);
    if (event.type === "RUN_ERROR") throw new Error(event.message);
  }
}
