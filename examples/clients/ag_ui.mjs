/** AG-UI's HttpAgent.   node ag_ui.mjs [server] */
import { HttpAgent } from "@ag-ui/client";
import { createDurableFetch } from "gapless-client";

const server = process.argv[2] ?? "http://127.0.0.1:8000";
const agent = new HttpAgent({ url: `${server}/ag-ui`, threadId: crypto.randomUUID(), fetch: createDurableFetch() });

agent.addMessage({ id: "1", role: "user", content: "Explain SSE" });
await agent.runAgent({}, { onTextMessageContentEvent: ({ event }) => void process.stdout.write(event.delta) });
console.log();
