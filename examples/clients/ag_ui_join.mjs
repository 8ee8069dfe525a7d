/** A page that comes to a thread in the middle of an answer.   node ag_ui_join.mjs server thread */
import { HttpAgent } from "@ag-ui/client";
import { createDurableFetch } from "gapless-client";

const [server, threadId] = process.argv.slice(2);
const durable = createDurableFetch();

const { active_run_id: runId } = await (await fetch(`${server}/sessions/${threadId}`)).json();
const joining = new HttpAgent({
  url: `${server}/ag-ui?runId=${runId}&join=snapshot`,
  threadId,
  fetch: (url, { headers, signal }) => durable(url, { headers, signal }), // a GET joins, and starts nothing
});

const said = (messages) => messages.flatMap(({ role, content }) => (role === "assistant" && content ? [content] : []));
await joining.runAgent({}, {
  onMessagesSnapshotEvent: ({ event }) => void process.stdout.write(said(event.messages).join("")),
  onTextMessageContentEvent: ({ event }) => void process.stdout.write(event.delta),
});
console.log();

// What follows is an agent as any other, which knows what was said.
const agent = new HttpAgent({ url: `${server}/ag-ui`, threadId, initialMessages: joining.messages, fetch: durable });
agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "And why?" });
await agent.runAgent({}, { onTextMessageContentEvent: ({ event }) => void process.stdout.write(event.delta) });
console.log();
