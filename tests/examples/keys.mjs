/** Asks through every client of examples/clients/keys.mjs.   node keys.mjs server key */

import { ChatClient } from "@tanstack/ai-client";

import { agUi, aiSdk, openai, own, tanstack } from "../../examples/clients/keys.mjs";

const text = async (chunks, of) => {
  let text = "";
  for await (const chunk of chunks) text += of(chunk) || "";
  return text;
};
const id = () => crypto.randomUUID();
const message = (content) => ({ id: "1", role: "user", ...content });
const parts = [{ type: "text", text: "Explain SSE" }];

const run = await own.start({ message: "Explain SSE" });
const said = { own: await text(own.follow(run.id), ({ event }) => event.type === "TEXT_MESSAGE_CONTENT" && event.delta) };
const chunks = await aiSdk.sendMessages({ chatId: id(), messages: [message({ parts })], trigger: "submit-message" });
said.aiSdk = await text(chunks, (chunk) => chunk.type === "text-delta" && chunk.delta);
agUi.addMessage(message({ content: "Explain SSE" }));
await agUi.runAgent();
said.agUi = agUi.messages.filter(({ role }) => role === "assistant").map(({ content }) => content ?? "").join("");
const client = new ChatClient({ connection: tanstack, threadId: id() });
client.attach();
await client.sendMessage("Explain SSE");
said.tanstack = client.getMessages().at(-1).parts.filter(({ type }) => type === "text").map(({ content }) => content).join("");
const [model] = (await openai.models.list()).data;
const messages = [{ role: "user", content: "Explain SSE" }];
const completion = await openai.chat.completions.create({ model: model.id, messages, stream: true });
said.openai = await text(completion, (chunk) => chunk.choices[0]?.delta.content);
console.log(JSON.stringify(said));
process.exit(0);
