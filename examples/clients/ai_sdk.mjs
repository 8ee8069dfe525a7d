/** The AI SDK without React.   node ai_sdk.mjs [server] */
import { DefaultChatTransport, readUIMessageStream } from "ai";
import { createDurableFetch } from "gapless-client";

const server = process.argv[2] ?? "http://127.0.0.1:8000";
const transport = new DefaultChatTransport({ api: `${server}/vercel/chat`, fetch: createDurableFetch() });

const stream = await transport.sendMessages({
  chatId: crypto.randomUUID(),
  messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "Explain SSE" }] }],
  trigger: "submit-message",
});
let answer;
for await (const message of readUIMessageStream({ stream, terminateOnError: true })) answer = message; // as it grows
console.log(answer.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join(""));
