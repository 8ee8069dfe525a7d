/** OpenAI's client, chat completions.   node openai_chat.mjs [server] */
import { createDurableFetch } from "gapless-client";
import OpenAI from "openai";

const server = process.argv[2] ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "none", fetch: createDurableFetch() });
const [model] = (await client.models.list()).data; // an agent is a model

const stream = await client.chat.completions.create({
  model: model.id,
  messages: [{ role: "user", content: "Explain SSE" }],
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "");
console.log();
