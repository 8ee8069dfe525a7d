/** TanStack AI's client. It resumes by itself.   node tanstack.mjs [server] */
import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";

const server = process.argv[2] ?? "http://127.0.0.1:8000";
const client = new ChatClient({
  connection: fetchServerSentEvents(`${server}/ag-ui`, { reconnect: { delayMs: 250, maxAttempts: 60 } }),
  threadId: crypto.randomUUID(),
});
client.attach();

await client.sendMessage("Explain SSE");
if (client.getError()) throw client.getError();
const answer = client.getMessages().at(-1);
console.log(answer.parts.flatMap((part) => (part.type === "text" ? [part.content] : [])).join(""));
